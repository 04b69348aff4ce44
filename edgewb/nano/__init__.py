"""nano: the small Gemma 4 that edgewb trains itself, with its tasks and its trainer."""

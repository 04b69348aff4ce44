"""Does the reply parser hold what it promises, and how fast? 10,000 fuzzed replies and the malformed ones that trackers report.

A parser sits between every token and every view of it, so it must never raise, never lose a character, never depend on how the
reply was cut into pieces, and cost nothing beside a token. It is pure Python, where a step costs about 50 ns whatever it does. What
limits it is therefore the number of *steps*, not of characters: regular expressions jump from fence to fence in C, so prose runs at
hundreds of MB/s, text full of short tool calls at a few (each call is read into values), and the same text in token-sized pieces at
little more than one: each piece is a call of `feed`, which takes 0.3 µs where the piece changes nothing and 2 to 5 where it does. A model that decodes 1,000 tokens a second makes 4 kB/s.

- fuzzed: malformed outputs with pieces taken out, doubled, swapped or put in, and heaps of fences; seeded, so that a failure can be
  made again. Each is read whole and in pieces; events joined must be the text, and the two readings equal.
- reported: tests/malformed.json; thought, answer and calls must be those that the file says.
- bar: over 1 MB/s on one core, in processor time, over all of both sets, whole and in pieces of four characters.

Seed and number are arguments: `python benchmarks/bench_parser.py 7 100000`. The last line is one JSON object.
"""
import json, random, sys
from pathlib import Path
from time import process_time

from edgewb.reply import REPAIRS, Parser, joined, parse
from edgewb.speed import Samples, busy

TESTS = Path(__file__).parents[1]/'tests'
sys.path.insert(0, str(TESTS))


def read(text: str, piece: int|None, **kw) -> tuple[list, float]:
    "The events of a text, whole or in pieces, and the processor time they took."
    t = process_time()
    p, out = Parser(**kw), []
    for i in range(0, len(text), piece or len(text) or 1): out += p.feed(text[i:i + (piece or len(text))])
    out += p.close()
    return (out, p.repairs), process_time() - t


def failures(texts: list[str], **kw) -> tuple[int, int, int, set]:
    "Exceptions, texts with a lost character, texts that read otherwise in pieces, names of repairs."
    raised = lost = differ = 0
    names = set()
    for text in texts:
        try: (whole, repairs), (parts, again) = read(text, None, **kw)[0], read(text, 3, **kw)[0]
        except Exception as e:
            raised += 1
            print(f'raised {e!r} on {text!r}')
            continue
        names |= set(repairs)
        lost += ''.join(e.text for e in whole) != text
        differ += (joined(whole), repairs) != (joined(parts), again)
    return raised, lost, differ, names


def speed(texts: list[str], piece: int|None) -> float:
    "MB/s over all texts, one parser each."
    return sum(len(t.encode()) for t in texts)/sum(read(t, piece)[1] for t in texts)/1e6


def main(seed: int = 1, n: int = 10_000, rounds: int = 5):
    from test_chat import MALFORMED, TOOLS, mutated
    rng = random.Random(seed)
    fuzzed, reported = [mutated(rng) for _ in range(n)], [c['text'] for c in MALFORMED]
    meant = sum(([[x['name'], x['arguments']] for x in r['tool_calls']], r['content'], r['thinking']) == (c['calls'], c['content'], c['thinking'])
                for c in MALFORMED for r in [parse(c['text'], c.get('tools'), c.get('opened', False), c.get('ended', False))])
    found = [failures(fuzzed), failures(fuzzed, tools=TOOLS), failures(reported), failures(reported, tools=TOOLS)]
    raised, lost, differ = (sum(f[i] for f in found) for i in range(3))
    unknown = set().union(*(f[3] for f in found)) - set(REPAIRS)
    print(f'{n:,} fuzzed, {len(reported)} reported or derived, each with and without tools: {raised} exceptions, {lost} with lost text, {differ} that depend on the pieces')
    print(f'{meant} of {len(reported)} as meant; repairs without a name: {len(unknown)}')
    sets = {'fuzzed, whole': (fuzzed, None), 'reported, whole': (reported*20, None), 'fuzzed, 4 characters a piece': (fuzzed, 4), 'reported, 4 characters a piece': (reported*20, 4),
            'prose, whole': (['The quick brown fox, a < b, and <p>.\n'*20_000], None), 'prose, 4 characters a piece': (['The quick brown fox, a < b, and <p>.\n'*20_000], 4),
            'one long call, whole': (['<|tool_call>call:write{text:<|"|>' + 'def f(x): return {"a": [x, (x + 1)]}\n'*20_000 + '<|"|>}<tool_call|>'], None)}
    rates = {k: Samples() for k in sets}
    for r in range(rounds + 1):  # the first round warms up
        for k in (list(sets) if r % 2 else reversed(sets)):
            if r: rates[k].values.append(speed(*sets[k]))
    print(f'\n{"":34} MB/s, median of {rounds} (range)')
    for k, v in rates.items(): print(f'{k:34} {v.median:8.2f} ({min(v.values):.2f} to {max(v.values):.2f})')
    if note := busy(): print(note)
    bar = min(v.median for v in rates.values())
    print(json.dumps(dict(bench='parser', seed=seed, fuzzed=n, reported=len(reported), as_meant=meant, exceptions=raised, lost=lost, differ=differ,
                          mb_s={k: v.values for k, v in rates.items()}, met=bool(bar > 1 and not (raised or lost or differ or unknown) and meant == len(reported)), note=busy())))


if __name__ == '__main__': main(*map(int, sys.argv[1:]))

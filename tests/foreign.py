"Machines that are not here: tests/machines/*.txt hold files of /proc and /sys as `tail -n +1 FILE...` prints them, m2.txt what `sysctl -a` says."
import re
from pathlib import Path

MACHINES = Path(__file__).parent/'machines'


def unpack(name, to):
    "A folder that `detect` takes for the machine; a Mac's file as it is."
    text = (MACHINES/f'{name}.txt').read_text(encoding='utf8')
    if not text.startswith('==> '): return MACHINES/f'{name}.txt'
    for path, content in re.findall(r'^==> (.+?) <==\n(.*?)\n(?=\n==> |\s*\Z)', text, re.M | re.S):
        (to/path).parent.mkdir(parents=True, exist_ok=True)
        (to/path).write_text(content + '\n')
    return to

"""All benchmarks, one after the other, on an otherwise idle machine: what `make bench` runs.

Each script prints a table for people and ends with one JSON object; its figures are ratios out of one interleaved run, or bounds.
`--record` keeps the objects, with the machine they came from, in benchmarks/results.json, which the documentation shows.
Names as arguments run only those: `make bench ARGS="startup parity"`.
"""
import json, subprocess, sys
from datetime import date
from pathlib import Path

from edgewb.hardware import detect
from edgewb.session import usable_cores

HERE = Path(__file__).parent
RESULTS = HERE/'results.json'


def run(script: Path) -> dict:
    "Run one script, showing its output; its last line is the result."
    print(f'== {script.stem.removeprefix("bench_")}', flush=True)
    lines = []
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as p:
        for line in p.stdout:
            if not line.startswith('{'): print(line, end='', flush=True)
            lines.append(line)
    if p.returncode: raise SystemExit(f'{script.name} failed with exit status {p.returncode}')
    return json.loads(lines[-1])


def main(args: list[str]):
    record, names = '--record' in args, [a for a in args if not a.startswith('-')]
    scripts = sorted(HERE.glob('bench_*.py'))
    known = {s.stem.removeprefix('bench_'): s for s in scripts}
    if wrong := [n for n in names if n not in known]: raise SystemExit(f'no benchmark {wrong[0]!r}; there are: {", ".join(known)}')
    kept = json.loads(RESULTS.read_text())['results'] if RESULTS.exists() else {}
    for name in names or known:
        result = run(known[name])
        here = detect()
        kept[name] = dict(result, date=str(date.today()), machine=here.fingerprint, cpu=here.cpu, cores=usable_cores())
        print(json.dumps(result), flush=True)
    if record: RESULTS.write_text(json.dumps(dict(results=kept), indent=1) + '\n')


if __name__ == '__main__': main(sys.argv[1:])

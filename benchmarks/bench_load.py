"""How much longer than the library itself does edgewb take to load a model?

What limits it. llama.cpp maps the file and touches what it needs; where this CPU has kernels for re-ordered weights it copies those (910 MB of E2B's 3.2 GB in Q4_K_M on x86 with AVX2), and that
copy is the time. A session adds a Python process with its imports, a look at the file's header (so that damage is an error and not an abort), an estimate of the memory, and a message.

What is compared. The C program of `bench_llamacpp.py` from its start until it says that model and context are ready, and `edgewb.load(...)` from the call until it returns, its build found in the cache. Same library, same
file, same threads, context and batch; the file is read once before each load, so that both find it in the page cache. They take turns, one at a time, the order changing each round; a ratio is taken within a round.
Where other work competes for the cores the wall clock says as much about that work, so the ratio of the processor time that both have used stands beside it.

Bar: 1.2 at E2B's full size with random weights. nano is shown as well: there is next to nothing to load, and what remains is the price of a process of its own. Prints a table for people and, as its last line, one JSON object.
"""
import argparse, json, os, tempfile, time
from pathlib import Path
from statistics import median

import edgewb
from bench_llamacpp import Bare, bare_loop, cpu_s, interval
from edgewb.session import OMP
from edgewb.speed import Samples, busy


def warm(path: Path):
    "Bring a file into the page cache."
    with open(path, 'rb', buffering=0) as f:
        while f.read(1 << 24): pass


def through_edgewb(model: str, settings: dict) -> tuple[float, float, edgewb.Session]:
    "Wall and processor seconds of one load, and the open session."
    t0, mine = time.perf_counter(), cpu_s(os.getpid())
    s = edgewb.load(model, 'llama.cpp', 'Q4_K_M', n_ctx=1024, **settings)
    t = time.perf_counter() - t0
    return t, cpu_s(os.getpid()) - mine + cpu_s(s.pid), s


def bare(cmd: list[str], path: Path, info: dict, env: dict) -> tuple[float, float]:
    "The same of the bare program."
    t0 = time.perf_counter()
    b = Bare(cmd, path, info, env)
    t, cpu = time.perf_counter() - t0, cpu_s(b.p.pid)
    b.close()
    return t, cpu


def compare(model: str, rounds: int, cmd: list[str], settings: dict) -> dict:
    env, rows, noisy = {k: os.environ.get(k, v) for k, v in OMP.items()}, [], 0
    with through_edgewb(model, settings)[2] as s: info, path = s.info, s.build.path  # makes the build, and warms what is not the file
    for r in range(rounds + 1):
        row = {}
        for who in ('bare', 'edgewb')[::1 if r % 2 else -1]:
            warm(path)
            noisy += bool(busy(.2))
            if who == 'bare': row[who] = bare(cmd, path, info, env)
            else:
                *row[who], s = through_edgewb(model, settings)
                s.close()
        if r: rows.append(row)  # the first round warms up
    wall, total = [x['edgewb'][0]/x['bare'][0] for x in rows], {who: sum(x[who][1] for x in rows) for who in ('bare', 'edgewb')}
    return dict(threads=info['threads'], bare=[x['bare'][0] for x in rows], edgewb=[x['edgewb'][0] for x in rows], bare_cpu=[x['bare'][1] for x in rows],
                edgewb_cpu=[x['edgewb'][1] for x in rows], ratio=wall, cpu_ratio=total['edgewb']/max(total['bare'], .01),
                busy_loads=noisy, median=median(wall), interval=interval(wall))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--threads', type=int, default=0, help='0: as a session does by default')
    ap.add_argument('--rounds', type=int, default=9, help='that count')
    ap.add_argument('--only', choices=['nano', 'E2B'], help='one of the two sizes')
    a = ap.parse_args()
    sizes = {'nano': ('nano', None), 'E2B': ('gemma-4-E2B-random', 1.2)}
    settings = dict(threads=a.threads) if a.threads else {}
    out = {}
    with tempfile.TemporaryDirectory() as tmp:
        cmd, kind = bare_loop(Path(tmp))
        print(f'bare loader: {kind}\n{"":32} {"bare s":>20} {"edgewb.load s":>20} {"ratio (95% of median)":>26} {"CPU time":>9} {"bar":>5}')
        for label in [a.only] if a.only else sizes:
            model, bar = sizes[label]
            r = compare(model, a.rounds, cmd, settings)
            name = f'{label}, {r["threads"]} threads' + (', random weights' if label == 'E2B' else '')
            cells = f'{Samples(r["bare"]):.2f}', f'{Samples(r["edgewb"]):.2f}'
            print(f'{name:32}', *(f'{c:>20}' for c in cells), f'{r["median"]:>10.2f} ({r["interval"][0]:.2f} to {r["interval"][1]:.2f})', f'{r["cpu_ratio"]:>9.2f} {bar or "":>5}')
            if r['busy_loads']: print(f'  other work was running at {r["busy_loads"]} of {2*a.rounds + 2} loads')
            out[label] = r | dict(bar=bar, met=bar is None or r['median'] <= bar)
    print(json.dumps(dict(bench='load', bare=kind, sizes=out, met=all(o['met'] for o in out.values()))))


if __name__ == '__main__': main()

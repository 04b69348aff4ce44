"""Does a session cost anything? llama.cpp decoding through edgewb against the same library's bare C loop.

What limits decode. One token reads every weight that takes part in it once, and does two operations with it: far too few to keep a core
busy, so the memory sets the pace. E2B in Q4_K_M streams 1.3 GB a token (the per-layer embedding table is only looked up), so a machine with
20 GB/s can't pass 15 tokens a second, whatever the code around it does. Beside some 70 ms a token a few microseconds of Python vanish. nano is the
other end: it streams 6 MB, a token takes less than a millisecond, and most of that is overhead of the graph. There a session has to be
careful: no allocation, no copy of the logits, no message per token.

What is compared. `bare_loop.c`, compiled here against the installed library with llama.cpp's own headers: decode, largest logit, again. And a
session: a worker process, records with text and times, batches to this process, a stop flag asked at every token. Same file, same threads, same
context, same prompt; the token ids must come out equal. Time runs from the first token to the last, on the worker's clock, as a reply's
decode speed does; the last column is the same by the clock of the process that receives the tokens.

How. Both stay loaded and take turns, the order changing each round; the ratio is taken within a round, so that a machine that slows down slows
both. Where a process's memory comes to lie moves its speed by some percent for as long as it lives, so there are several pairs of processes, started
in alternating order. Warm-up rounds are run and not counted. Where other work competes for the cores, time on the wall says more about that work than about
the loops, so the ratio of the processor time that both have used over all rounds stands beside it.

Bars: 0.98 at E2B size with random weights, 0.90 on nano. Prints a table for people and, as its last line, one JSON object.
"""
import argparse, json, os, shutil, subprocess, sys, tempfile, time
from pathlib import Path
from statistics import median

import psutil

sys.path.insert(0, str(Path(__file__).parent))

from edgewb.core import EdgewbError
from edgewb.convert import sdist_tree
from edgewb.session import OMP, Session, Target
from edgewb.speed import Samples, busy

# What the C program does, for machines without a compiler: the same calls from Python, through nothing but ctypes.
PYTHON_LOOP = '''
import ctypes, sys, time
from edgewb.engine_llamacpp import Engine
path, n_ctx, threads, n_batch, outputs, no_amx = sys.argv[1:]
e = Engine(path, int(n_ctx), int(threads), n_batch=int(n_batch), outputs=int(outputs), amx='off' if no_amx == '1' else 'on')
C = e._C
print('ready', flush=True)
for line in sys.stdin:
    want, *ids = map(int, line.split())
    e.trim(0)
    out = [int(e.eval(ids).argmax())]
    e._batch.logits, e._batch.n_tokens = None, 1
    t0 = time.perf_counter()
    for _ in range(want - 1):
        e._ids[0] = out[-1]
        C.llama_decode(e._ctx, e._batch)
        out.append(int(e._rows(-1, 1).argmax()))
    t = time.perf_counter() - t0
    e.pos = len(ids) + want - 1
    print(t, *out, flush=True)
'''


def bare_loop(folder: Path) -> tuple[list[str], str]:
    "The command of the bare loop, and what it is."
    import llama_cpp
    lib, tree = Path(llama_cpp.__file__).parent/'lib', sdist_tree()
    cc = shutil.which('cc') or shutil.which('gcc') or shutil.which('clang')
    if cc:
        out = folder/'bare_loop'
        cmd = [cc, '-O2', str(Path(__file__).with_name('bare_loop.c')), '-o', str(out), f'-I{tree}/include', f'-I{tree}/ggml/include', f'-L{lib}',
               '-lllama', '-lggml', '-lggml-base', f'-Wl,-rpath,{lib}', f'-Wl,-rpath-link,{lib}']
        done = subprocess.run(cmd, capture_output=True, text=True)
        if done.returncode == 0: return [str(out)], 'C'
        print(f'no C loop ({done.stderr.strip().splitlines()[-1]})', file=sys.stderr)
    return [sys.executable, '-c', PYTHON_LOOP], 'ctypes (no C compiler here)'


class Bare:
    "The bare loop as a process that answers requests."
    def __init__(self, cmd: list[str], path: Path, info: dict, env: dict):
        args = [path, info['n_ctx'], info['threads'], info['n_batch'], info['outputs'], int(not info['amx'])]
        self.p = subprocess.Popen(cmd + [str(a) for a in args], env=os.environ | env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        if self.p.stdout.readline() != 'ready\n': raise EdgewbError(f'the bare loop did not start (exit {self.p.wait()})')

    def run(self, ids: list[int], n: int) -> tuple[float, list[int]]:
        self.p.stdin.write(f"{n} {' '.join(map(str, ids))}\n"); self.p.stdin.flush()
        t, *out = self.p.stdout.readline().split()
        return float(t), [int(i) for i in out]

    def close(self):
        self.p.stdin.close()
        self.p.wait(10)


def through_session(s: Session, ids: list[int], n: int) -> tuple[float, float, list[int]]:
    "Seconds from first to last token on the worker's clock and on ours, and the ids."
    first, stream = None, s.stream(ids, n, ignore_eog=True)
    for t in stream: first = first or (time.perf_counter() - t.t)
    return stream.reply.decode_s, time.perf_counter() - first - stream.reply.ttft, stream.reply.ids


def compare(model: str, n: int, rounds: int, pairs: int, warm: int, cmd: list[str], threads: int) -> dict:
    "Several pairs of a fresh bare loop and a fresh session, started in alternating order; `rounds` of each pair count."
    target = Target('llama.cpp', 'Q4_K_M', model, dict(threads=threads) if threads else {})
    env = {k: os.environ.get(k, v) for k, v in OMP.items()}
    rows, cpu, info, path = [], [0., 0.], None, None
    for k in range(pairs):
        early = Bare(cmd, path, info, env) if k % 2 else None
        with Session(target, n_ctx=1024) as s:
            info, path = s.info, s.build.path
            bare = early or Bare(cmd, path, info, env)
            ids = s.chat_ids('Sort these words: tulip, cedar, acorn, maple.', raw=True)
            for r in range(warm + rounds):
                note = busy(.2)
                if r == warm: before = [cpu_s(p) for p in (bare.p.pid, s.pid)]
                if r % 2: a, (b, ours, got) = bare.run(ids, n), through_session(s, ids, n)
                else: (b, ours, got), a = through_session(s, ids, n), bare.run(ids, n)
                if got != a[1]: raise EdgewbError(f'the loops departed at token {[x == y for x, y in zip(got, a[1])].index(False)}: a ratio would mean nothing')
                if r >= warm: rows.append(((n - 1)/a[0], (n - 1)/b, a[0]/b, a[0]/ours, bool(note)))
            for i, p in enumerate((bare.p.pid, s.pid)): cpu[i] += cpu_s(p) - before[i]
            bare.close()
    return dict(info=info, threads=info['threads'], bare=[x[0] for x in rows], session=[x[1] for x in rows], ratio=[x[2] for x in rows],
                ratio_received=[x[3] for x in rows], cpu_ratio=cpu[0]/cpu[1], busy_rounds=sum(x[4] for x in rows))


def cpu_s(pid: int) -> float:
    "Processor seconds that a process has used."
    t = psutil.Process(pid).cpu_times()
    return t.user + t.system


def interval(values: list[float]) -> tuple[float, float]:
    "A 95% interval of the median, from the order of the values alone (binomial)."
    from math import comb
    v, n = sorted(values), len(values)
    k, p = 0, 0.
    while k < n//2 and p + comb(n, k)/2**n <= .025: p += comb(n, k)/2**n; k += 1
    return v[max(k - 1, 0)], v[n - max(k, 1)]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--threads', type=int, default=0, help='0: as a session does by default')
    ap.add_argument('--rounds', type=int, default=6, help='that count, of each pair of processes')
    ap.add_argument('--only', choices=['nano', 'E2B'], help='one of the two sizes')
    a = ap.parse_args()
    sizes = [('nano', 'nano', 400, a.rounds, 6, 2, .90)]
    if a.only != 'nano': sizes.append(('E2B', 'gemma-4-E2B-random', 24, a.rounds, 4, 1, .98))
    if a.only: sizes = [s for s in sizes if s[0] == a.only]
    out = {}
    with tempfile.TemporaryDirectory() as tmp:
        cmd, kind = bare_loop(Path(tmp))
        print(f'bare loop: {kind}\n{"":32} {"bare tok/s":>24} {"session tok/s":>24} {"ratio (95% of median)":>24} {"bar":>5} {"received":>9} {"CPU time":>9}')
        for label, model, n, rounds, pairs, warm, bar in sizes:
            r = compare(model, n, rounds, pairs, warm, cmd, a.threads)
            (low, high), mid = interval(r['ratio']), median(r['ratio'])
            name = f'{label}, {r["threads"]} threads' + (', random weights' if label == 'E2B' else '')
            cells = f'{Samples(r["bare"]):.1f}', f'{Samples(r["session"]):.1f}', f'{mid:.3f} ({low:.3f} to {high:.3f})'
            print(f'{name:32}', *(f'{c:>24}' for c in cells), f'{bar:>5} {median(r["ratio_received"]):>9.3f} {r["cpu_ratio"]:>9.3f}')
            if r['busy_rounds']: print(f'  other work was running in {r["busy_rounds"]} of {rounds*pairs} rounds')
            out[label] = r | dict(median=mid, interval=[low, high], bar=bar, met=mid >= bar)
    print(json.dumps(dict(bench='llamacpp', bare=kind, sizes=out, met=all(o['met'] for o in out.values()))))


if __name__ == '__main__': main()

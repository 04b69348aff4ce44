"""Are the speeds that edgewb reports those that llama.cpp's own tool reports?

What limits them. Prefill multiplies matrices and is bound by arithmetic; decode reads every weight once a token and is bound by memory. Both happen inside the
same library, so a tool around it can only add: a copy of the logits, a message, a lock, a clock read too late. `edgewb bench` times the engine's loops in the worker,
so it should add next to nothing, and 2% is the bar.

What is compared. llama-bench from the source archive of the installed llama-cpp-python, linked against the very library that a session loads (so compiler, flags
and kernels are the same by construction), with its defaults: pp512 and tg128, random token ids after a BOS, batches of 2048 in micro-batches of 512, an F16 cache, flash
attention as the library chooses, an empty context. Against it the plan of that name in edgewb: same file, same number of threads, ids of the same kind. AMX is
denied to both where edgewb denies it to a session. Neither looks at logits or picks a token: both feed
ids that are there already.

How. In turns, a process of llama-bench (it loads, warms up and times each test some times) and a session that does the same; of each the median is taken, the order changes every round, the ratio is taken within a round. Where a
process's memory comes to lie moves its speed by some percent for as long as it lives, so both are new in every round. Neither is open while the other runs: a session of 2.8 GB that lies idle meanwhile may lose
memory to the system. Rounds while other work ran are counted and said.

Prints a table for people and, as its last line, one JSON object. `--only nano` takes under a minute, `--only E2B` under ten. The first call compiles llama-bench (four files).
"""
import argparse, hashlib, json, os, shutil, subprocess, sys, tarfile, tempfile
from importlib.metadata import version
from math import exp, log
from pathlib import Path
from statistics import median

from edgewb import convert
from edgewb.core import EdgewbError, cache_dir, file_sha256
from edgewb.protocol import Watch, median_interval, order, others
from edgewb.session import Session, Target
from edgewb.speed import Samples, Test, _bos, _vocab, random_ids, reading

PARTS = Path(__file__).with_name('llama_bench_parts.cpp')
WANTED = 'common/', 'tools/llama-bench/', 'include/', 'ggml/include/', 'vendor/nlohmann/', 'vendor/sheredom/', 'src/llama-ext.h'
SOURCES = 'tools/llama-bench/main.cpp', 'tools/llama-bench/llama-bench.cpp', 'common/common.cpp'


def sources(to: Path) -> Path:
    "Unpack what llama-bench is made of; the archive is checked against the hash that edgewb knows."
    want = version('llama-cpp-python')
    with tempfile.TemporaryDirectory() as tmp:
        local = cache_dir('llama.cpp', want)/f'llama_cpp_python-{want}.tar.gz'
        archive = local if local.is_file() else convert._fetch(want, Path(tmp))
        if file_sha256(archive) != convert.SDIST_SHA256.get(want): raise EdgewbError(f'{archive.name} is not the file that edgewb expects: delete it.')
        with tarfile.open(archive) as tar:
            for m in tar:
                name = m.name.partition('/vendor/llama.cpp/')[2]
                if not m.isfile() or not name.startswith(WANTED): continue
                (to/name).parent.mkdir(parents=True, exist_ok=True)
                (to/name).write_bytes(tar.extractfile(m).read())
    return to


def build() -> Path:
    "The llama-bench of the installed library: from the cache, else compiled."
    import llama_cpp
    lib = Path(llama_cpp.__file__).parent/'lib'
    key = hashlib.sha256(PARTS.read_bytes() + b''.join(file_sha256(f.resolve()).encode() for f in sorted(lib.glob('lib*.so')))).hexdigest()[:12]
    home = cache_dir('llama.cpp', version('llama-cpp-python'), f'llama-bench-{key}')
    done = home/'llama-bench'
    if done.exists(): return done
    if not (cxx := shutil.which('c++') or shutil.which('g++') or shutil.which('clang++')): raise EdgewbError('llama-bench has to be compiled, and there is no C++ compiler: install g++.')
    print('compiling llama-bench (once)', file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=home) as tmp:
        tree = sources(Path(tmp))
        flags = ['-O2', '-std=c++17', '-DNDEBUG', '-w', '-ffunction-sections', '-fdata-sections', *(f'-I{tree/d}' for d in ('include', 'ggml/include', 'common', 'vendor', 'tools/llama-bench'))]
        link = ['-Wl,--gc-sections', f'-L{lib}', '-lllama', '-lggml', '-lggml-base', '-lggml-cpu', f'-Wl,-rpath,{lib}', f'-Wl,-rpath-link,{lib}', '-pthread']
        ran = subprocess.run([cxx, *flags, *(str(tree/s) for s in SOURCES), str(PARTS), '-o', str(Path(tmp)/'out'), *link], capture_output=True, text=True)
        if ran.returncode: raise EdgewbError(f'llama-bench does not compile: {ran.stderr.strip().splitlines()[-1]}')
        os.replace(Path(tmp)/'out', done)
    return done


def theirs(tool: Path, tests: list[Test], facts: dict, times: int) -> dict[str, float]:
    "Tokens a second of each test, the median of some times, by a fresh llama-bench."
    pp, tg = (next(t.n for t in tests if t.kind == k) for k in ('pp', 'tg'))
    cmd = [str(tool), '-m', facts['path'], '-t', str(facts['threads']), '-p', str(pp), '-n', str(tg), '-r', str(times), '-o', 'json']
    ran = subprocess.run(cmd, env=os.environ | ({} if facts['amx'] or sys.platform != 'linux' else {'EDGEWB_NO_AMX': '1'}), capture_output=True, text=True)
    if ran.returncode: raise EdgewbError(f'llama-bench failed: {(ran.stderr.strip().splitlines() or ["it said nothing"])[-1]}')
    return {('pp%d' % r['n_prompt'] if r['n_prompt'] else 'tg%d' % r['n_gen']): median(r['samples_ts']) for r in json.loads(ran.stdout)}


def ours(target: Target, tests: list[Test], facts: dict, times: int) -> dict[str, float]:
    "The same by a fresh session, which warms up as llama-bench does: with a prompt of that length, or with a token."
    out = {}
    with Session(target, n_ctx=1024) as s:
        facts |= dict(path=str(s.build.path), threads=s.info['threads'], amx=s.info['amx'])
        for t in tests:
            ids = random_ids(t.n, _bos(s), _vocab(s)) # the same each time, as llama-bench's are: other rows of the per-layer table might not be in the page cache
            reading(s, t if t.kind == 'pp' else Test('tg', 1), ids)
            found = [reading(s, t, ids) for _ in range(times)]
            if void := next((r.void for r in found if r.void), ''): raise EdgewbError(f'{t}: {void}')
            out[str(t)] = median(r.value for r in found)
    return out


def compare(model: str, rounds: int, times: int, threads: int, tests: list[Test], tool: Path) -> dict:
    "Rounds of both in turn, each in a process of its own that ends before the other begins."
    target, watch, rows, facts = Target('llama.cpp', 'Q4_K_M', model, dict(threads=threads) if threads else {}), Watch(), [], {}
    ours(target, tests, facts, times) # makes the build, and brings the file into the page cache
    for r in range(rounds):
        before, got = watch.counters(), {}
        for i in order(2, r): got[i] = ours(target, tests, facts, times) if i else theirs(tool, tests, facts, times)
        rows.append(dict(llama_bench=got[0], edgewb=got[1], others=others(before, watch.counters())[0]))
    return dict(threads=facts['threads'], file=Path(facts['path']).name, amx=facts['amx'], rows=rows)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--threads', type=int, default=0, help='0: as a session does by default')
    ap.add_argument('--only', choices=['nano', 'E2B'], help='one of the two sizes')
    ap.add_argument('--rounds', type=int, default=0, help='0: 24 on nano, 8 at E2B size')
    ap.add_argument('--tests', default='pp512,tg128', help='a prefill and a decode (default: %(default)s)')
    a = ap.parse_args()
    tests, tool, out, bar = [Test.parse(t) for t in a.tests.split(',')], build(), {}, .02
    print(f'{"":32} {"llama-bench tok/s":>26} {"edgewb tok/s":>26} {"ratio (95% of median)":>24}  within {bar:.0%}')
    for label, model, rounds, times in (('nano', 'nano', 24, 5), ('E2B', 'gemma-4-E2B-random', 8, 1)): # 5 is llama-bench's own default; where a step takes half a millisecond anything shows
        if a.only not in (None, label): continue
        r = compare(model, a.rounds or rounds, times, a.threads, tests, tool)
        for t in map(str, tests):
            x, y = ([row[k][t] for row in r['rows']] for k in ('llama_bench', 'edgewb'))
            logs = [log(b/c) for b, c in zip(y, x)]
            low, high, level = median_interval(logs)
            mid = exp(Samples(logs).median)
            name = f'{label} {t}, {r["threads"]} threads' + (', random weights' if label == 'E2B' else '')
            print(f'{name:32} {f"{Samples(x):.1f}":>26} {f"{Samples(y):.1f}":>26} {f"{mid:.3f} ({exp(low):.3f} to {exp(high):.3f})":>24}  {"yes" if abs(mid - 1) <= bar else "NO"}', flush=True)
            out[f'{label} {t}'] = dict(ratio=mid, interval=[exp(low), exp(high)], level=level, met=abs(mid - 1) <= bar, llama_bench=x, edgewb=y)
        busy = [row['others'] for row in r['rows']]
        if max(busy) > .15: print(f'  other work took up to {max(busy):.0%} of the machine, over 15% in {sum(b > .15 for b in busy)} of {len(busy)} rounds')
        out[label] = dict(threads=r['threads'], file=r['file'], amx=r['amx'], others=busy)
    print(json.dumps(dict(bench='llama_bench', bar=bar, sizes=out, met=all(v['met'] for k, v in out.items() if ' ' in k))))


if __name__ == '__main__': main()

"""How long until something happens?

Two waits decide whether a tool is used in a notebook: the import and the first token. `import edgewb` must pull in no engine, so it is
held against a bare Python start, interleaved with it. Opening three engines is bounded by the slowest (torch: importing it and
transformers is most of that time), since they open side by side; on two cores they share what there is.

Bars: `import edgewb` at most 0.3 s; three nano sessions open and streaming within 10 s of the call, builds already made.
Prints a table for people and, as its last line, one JSON object.
"""
import json, subprocess, sys, threading, time
from statistics import median

from edgewb.session import Session, open_all
from edgewb.speed import Samples, busy

TARGETS = ['torch:f32', 'llama.cpp:Q4_K_M', 'openvino:int8']


def start(code: str) -> float:
    t0 = time.perf_counter()
    subprocess.run([sys.executable, '-c', code], check=True)
    return time.perf_counter() - t0


def first_tokens() -> tuple[float, dict[str, float]]:
    "Seconds from the call until every session has given a token, and the part until each was open."
    t0 = time.perf_counter()
    sessions = open_all(TARGETS)
    def first(s):
        for _ in s.stream('What is 32+6?', 16): break
    threads = [threading.Thread(target=first, args=(s,)) for s in sessions]
    for t in threads: t.start()
    for t in threads: t.join()
    total, loads = time.perf_counter() - t0, {str(s.target): s.load_s for s in sessions}
    for s in sessions: s.close()
    return total, loads


def main(rounds: int = 7):
    start('import edgewb')  # compiled bytecode and a warm disk for both
    bare, ours = Samples(), Samples()
    for r in range(rounds):
        for code, out in ((('pass', bare), ('import edgewb', ours)) if r % 2 else (('import edgewb', ours), ('pass', bare))): out.values.append(start(code))
    cost = median(a - b for a, b in zip(ours.values, bare.values))
    first_tokens()
    opened = [first_tokens() for _ in range(3)]
    total = Samples([t for t, _ in opened])
    loads = {k: Samples([l[k] for _, l in opened]) for k in TARGETS}
    print(f'{"bare python":28} {bare:.3f} s\n{"python -c import edgewb":28} {ours:.3f} s\n{"import edgewb alone":28} {cost:.3f} s   (bar 0.3)')
    for k, v in loads.items(): print(f'{"open " + k:28} {v:.2f} s')
    print(f'{"three open and streaming":28} {total:.2f} s   (bar 10)')
    if note := busy(): print(note)
    print(json.dumps(dict(bench='startup', import_s=cost, import_ratio=ours.median/bare.median, three_streaming_s=total.values,
                          open_s={k: v.values for k, v in loads.items()}, met=cost <= .3 and total.median <= 10, note=busy())))


if __name__ == '__main__': main()

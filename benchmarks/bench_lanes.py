"""What does it bring that lanes which write together share the cores?

The compare widget lets several sessions write at once. Each engine divides its work over threads and lets them meet at barriers, many times a token. With as many threads as cores in each of
three sessions, a thread that waits at a barrier often waits for one that isn't running. So the widget gives each lane its share of the cores, at least one thread.

Compared: three sessions of nano, the same prompt at the same time, on all cores each and on their share each; the order changes every round, ratios within a round. OpenVINO's threads are
fixed when it loads, so its lane only gains from what the others leave.

Prints a table for people and, as its last line, one JSON object. Takes under a minute.
"""
import json, threading
from math import exp, log

from edgewb.protocol import median_interval, order
from edgewb.session import Session, open_all, usable_cores
from edgewb.speed import Samples, busy

TARGETS = ['torch:f32', 'llama.cpp:Q4_K_M', 'openvino:int8']
PROMPT = 'Locker of each: Modife, Faleze, Defadu, Latumi, Kadile, Nadete, Fodibo, Tozibi'


def together(sessions: list[Session], threads: int) -> dict[str, float]:
    "Decode speed of each, tokens a second, with all of them writing."
    out, start = {}, threading.Barrier(len(sessions))
    def lane(s):
        start.wait()
        out[str(s.target)] = s.generate(PROMPT, max_tokens=64, top=5, threads=threads).decode_tps
    lanes = [threading.Thread(target=lane, args=(s,)) for s in sessions]
    for t in lanes: t.start()
    for t in lanes: t.join()
    return out


def main(rounds: int = 12):
    sessions, note = open_all(TARGETS), busy()
    share = max(1, usable_cores()//len(sessions))
    rows = {0: [], share: []}
    try:
        for n in rows: together(sessions, n)
        for r in range(rounds):
            for i in order(2, r): rows[(0, share)[i]].append(together(sessions, (0, share)[i]))
    finally:
        for s in sessions: s.close()
    out = {}
    print(f'{"nano, three lanes at once":28} {"all cores each, tok/s":>24} {f"{share} thread(s) each, tok/s":>24} {"ratio (95% of median)":>26}')
    for k in TARGETS:
        x, y = ([row[k] for row in rows[n]] for n in (0, share))
        logs = [log(b/a) for a, b in zip(x, y)]
        low, high, level = median_interval(logs)
        mid = exp(Samples(logs).median)
        print(f'{k:28} {f"{Samples(x):.0f}":>24} {f"{Samples(y):.0f}":>24} {f"{mid:.2f} ({exp(low):.2f} to {exp(high):.2f})":>26}')
        out[k] = dict(ratio=mid, interval=[exp(low), exp(high)], level=level, all=x, share=y)
    if note: print(note)
    print(json.dumps(dict(bench='lanes', cores=usable_cores(), threads=share, targets=out, note=note)))


if __name__ == '__main__': main()

"""How long does it take to add a million records, to find some of them, and to make a plot of all?

What limits it. A record is a row of six numbers and five raw samples, and SQLite makes about two million such rows a second on a core; everything around that (Python objects, hashing cards, encoding samples, the write-ahead
log and copying it into the file) has to be done a column, a statement or a chunk at a time to disappear beside it. Reading is bounded by the objects that Python makes of a row's values.

What is compared. The same million of measurements of 5,000 cards: `records.add` of a DataFrame, against Python's own sqlite3 with one executemany of the same columns and the samples as a blob in each row, the columns
ready as lists. They take turns, each into a new file. Then, in edgewb's file: the records of one engine at small depths as a DataFrame (a fiftieth of all), and the points of a plot of all of them by depth, engine and format,
medians with the range of the samples.

Bar: one second each, on two cores. The wall clock counts; where other work competes for the cores it says as much about that work, so processor time (of this process, which uses one core) stands beside it, and the ratio to
plain sqlite3. Prints a table for people and, as its last line, one JSON object.
"""
import argparse, json, os, sqlite3, tempfile, time
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd

from edgewb import records
from edgewb.speed import Samples, busy


def a_million(n: int) -> tuple[pd.DataFrame, np.ndarray]:
    "Measurements as a study would hand them over, and their samples."
    rng = np.random.default_rng(0)
    pick = lambda *names: np.array(names, object)[rng.integers(0, len(names), n)]
    df = pd.DataFrame(dict(engine=pick('torch', 'llama.cpp', 'openvino'), format=pick('F16', 'Q8_0', 'Q4_K_M', 'Q2_K'), n_depth=rng.integers(0, 417, n)*64,
                           time=1.79e9 + np.arange(n)*.01, load_before=rng.random(n), load_after=rng.random(n)))
    return df, rng.lognormal(3, .1, (n, 5))


def plain(path: Path, df: pd.DataFrame, samples: np.ndarray) -> tuple[float, float]:
    "Python's sqlite3: the rows are ready, and only executemany and commit are timed."
    data, wide = samples.tobytes(), samples.shape[1]*8
    rows = list(zip(df.n_depth.tolist(), df.time.tolist(), np.median(samples, 1).tolist(), df.load_before.tolist(), df.load_after.tolist(), (data[i:i + wide] for i in range(0, len(data), wide))))
    with sqlite3.connect(path, isolation_level=None) as c:
        c.execute('PRAGMA journal_mode=WAL')
        c.execute('PRAGMA synchronous=NORMAL')
        c.execute('CREATE TABLE record(id INTEGER PRIMARY KEY, card INTEGER, time REAL, value REAL, load_before REAL, load_after REAL, samples BLOB)')
        start, cpu = time.perf_counter(), time.process_time()
        c.execute('BEGIN')
        c.executemany('INSERT INTO record(card, time, value, load_before, load_after, samples) VALUES(?, ?, ?, ?, ?, ?)', rows)
        c.execute('COMMIT')
    c.close()
    return time.perf_counter() - start, time.process_time() - cpu


def timed(f) -> tuple[float, float, object]:
    start, cpu = time.perf_counter(), time.process_time()
    out = f()
    return time.perf_counter() - start, time.process_time() - cpu, out


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--records', type=int, default=1_000_000)
    ap.add_argument('--rounds', type=int, default=5, help='that count')
    a = ap.parse_args()
    df, samples = a_million(a.records)
    steps, noisy = {k: [] for k in ('add', 'sqlite3', 'find', 'points')}, 0
    for r in range(a.rounds + 1):
        with tempfile.TemporaryDirectory() as tmp:
            noisy += bool(busy())
            took = {}
            for who in ('add', 'sqlite3')[::1 if r % 2 else -1]:
                if who == 'add': *took['add'], kept = timed(lambda: records.add(df, samples, path=Path(tmp)/'records.sqlite', metric='decode_tps', unit='tok/s', model='nano', hardware='here'))
                else: took['sqlite3'] = plain(Path(tmp)/'plain.sqlite', df, samples)
            *took['find'], few = timed(lambda: kept.find(engine='torch', n_depth=slice(0, 1664)).frame())
            *took['points'], points = timed(lambda: kept.points('n_depth'))
            size = (Path(tmp)/'records.sqlite').stat().st_size
            assert len(kept) == points.records.sum() == a.records
        if r: # the first round warms up
            for k, v in took.items(): steps[k].append(v)
    says = dict(add=f'add {a.records:,} records, {size/1e6:.0f} MB', sqlite3="the same by sqlite3's executemany", find=f'find {len(few):,}, as a frame', points=f'{len(points):,} points of all')
    print(f'{"":36} {"wall s":>22} {"processor s":>22}')
    for k, rows in steps.items(): print(f'{says[k]:36}', *(f'{f"{Samples([x[i] for x in rows]):.2f}":>22}' for i in (0, 1)))
    if noisy: print(f'  other work was running in {noisy} of {a.rounds + 1} rounds')
    ratio = [x[1]/y[1] for x, y in zip(steps['add'], steps['sqlite3'])]
    print(f'add against executemany, processor time: {Samples(ratio):.2f}')
    mid = {k: dict(wall=median(x[0] for x in v), cpu=median(x[1] for x in v)) for k, v in steps.items()}
    print(json.dumps(dict(bench='records', records=a.records, steps={k: dict(wall=[x[0] for x in v], cpu=[x[1] for x in v]) for k, v in steps.items()}, median=mid, add_to_sqlite3_cpu=median(ratio),
                          busy_rounds=noisy, rounds=a.rounds, bar=1., met=all(mid[k]['wall'] <= 1 for k in ('add', 'find', 'points')), met_cpu=all(mid[k]['cpu'] <= 1 for k in ('add', 'find', 'points')))))


if __name__ == '__main__': main()

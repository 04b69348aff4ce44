"""Does the compare widget keep up? Four lanes at 200 tokens a second for 30 s, in a real Chromium under a real JupyterLab.

A token's way is long: engine thread, queue, the pump's batch, ZeroMQ, Jupyter's server (which silently drops what exceeds
1000 messages a second), WebSocket, the page's event loop, the layout of a text that grows to 6000 elements a lane. What
limits it is the slowest of these, and a stage that cannot keep up shows as tokens that are late, lost or swapped. So the
bench asks four things:

- complete: is the text in the page, lane by lane, letter for letter what was produced?
- timely: how far behind the producer is the page? (sampled while all lanes stream)
- stop: from the click in the page to the lane's last produced token, and to the press's arrival in the kernel. At 200
  tokens a second the granularity is 5 ms. Bar: 100 ms.
- offline: does any request leave the machine?

The producers are scripted sessions (tests/browser/fakes.py), so that no engine competes for the cores with what is measured.
The last line is one JSON object.
"""
import argparse, json, sys, tempfile, time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1] / 'tests' / 'browser'))
from lab import Lab, launch

SETUP = '''
import time
from edgewb.widgets import CompareWidget
from fakes import FakeSession
sessions = [FakeSession(f'lane{i}', f'R{%(rate)d}', rate=%(rate)d, departs=i * 1000 or None) for i in range(%(lanes)d)]
presses, counts = [], []

class Counted(CompareWidget):
    def _asked(self, message):
        presses.append((time.time(), message))
        super()._asked(message)
    def send(self, content, buffers=None):
        counts.append(time.time())
        super().send(content, buffers)
'''
RUN = 'w = Counted("Tell me of rivers", sessions, max_tokens=%(tokens)d, top=5)\nw'
LOGS = '() => [...document.querySelectorAll(".ewb-log")].map(e => e.textContent)'
# the time of the click as the page has it; both clocks are this machine's
CLICK = '''(i) => { const b = document.querySelectorAll(".ewb-lane")[i].querySelector("button");
    const t = performance.timeOrigin + performance.now(); b.click(); return t / 1000; }'''


def await_state(lab, page, wanted, timeout):
    end = time.time() + timeout
    while lab.value(page, 'w.state') != wanted:
        if time.time() > end: raise TimeoutError(f'the widget is not {wanted} after {timeout} s')
        time.sleep(.2)


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('--lanes', type=int, default=4)
    ap.add_argument('--rate', type=int, default=200, help='tokens a second a lane')
    ap.add_argument('--seconds', type=float, default=30)
    ap.add_argument('--stops', type=int, default=8, help='how many presses of Stop to time')
    args = ap.parse_args()
    from playwright.sync_api import sync_playwright
    n = int(args.rate * args.seconds)
    fill = dict(lanes=args.lanes, rate=args.rate, tokens=n)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        lab = Lab(Path(folder))
        try:
            lab.notebook('bench.ipynb', SETUP % fill, RUN % fill)
            page = lab.open(launch(playwright), 'bench.ipynb')
            lab.run(page)
            page.wait_for_selector('.ewb-t', state='attached', timeout=60_000)

            print(f'{args.lanes} lanes x {args.rate} tok/s for {args.seconds:g} s ...', flush=True)
            behind, end = [], time.time() + args.seconds - 1
            while time.time() < end:
                time.sleep(1)
                seen = page.evaluate('() => [Date.now() / 1000, document.querySelectorAll(".ewb-log")[0].childElementCount]')
                made = lab.value(page, f'sum(t <= {seen[0]} for t, _ in sessions[0].produced)')
                behind.append(1000 * (made - seen[1]) / args.rate)
            await_state(lab, page, 'done', args.seconds + 60)
            page.wait_for_function(f'() => [...document.querySelectorAll(".ewb-log")].every(e => e.childElementCount === {n})', timeout=20_000)
            made = lab.value(page, '["".join(t for _, t in s.produced) for s in sessions]')
            shown = page.evaluate(LOGS)
            whole = [a == b for a, b in zip(made, shown)]
            sent, took = lab.value(page, '[len(counts), counts[-1] - counts[0]]')

            stops = {'last token': [], 'kernel': []}
            for k in range(args.stops):
                lane = k % args.lanes
                lab.value(page, '[s.produced.clear() for s in sessions] and presses.clear() or bool(w.run())')
                page.wait_for_function(f'(i) => document.querySelectorAll(".ewb-log")[i].childElementCount > {args.rate}', arg=lane)
                clicked = page.evaluate(CLICK, lane)
                time.sleep(.5)
                last, heard = lab.value(page, f'[sessions[{lane}].produced[-1][0], presses[-1][0]]')
                stops['last token'].append(1000 * (last - clicked))
                stops['kernel'].append(1000 * (heard - clicked))
                lab.value(page, 'w.stop() or bool(w.result(20))')
            foreign = lab.foreign(page)
        finally:
            lab.close()

    figures = dict(lanes=args.lanes, rate=args.rate, seconds=args.seconds, tokens=args.lanes * n, whole=all(whole), messages_per_s=round(sent / took, 1),
                   behind_ms=dict(median=round(median(behind)), max=round(max(behind))),
                   stop_last_token_ms=dict(median=round(median(stops['last token']), 1), max=round(max(stops['last token']), 1)),
                   stop_heard_ms=dict(median=round(median(stops['kernel']), 1), max=round(max(stops['kernel']), 1)),
                   stops=args.stops, foreign_requests=len(foreign))
    figures['ok'] = figures['whole'] and figures['stop_last_token_ms']['max'] <= 100 and not foreign
    two = lambda d: f'{d["median"]} (max {d["max"]})'
    for name, value in [('tokens', f'{figures["tokens"]}, ' + ('all in the page, in order' if all(whole) else f'LOST OR SWAPPED in lanes {[i for i, ok in enumerate(whole) if not ok]}')),
                        ('messages/s', figures['messages_per_s']), ('page behind producer, ms', two(figures['behind_ms'])),
                        (f'Stop: click to last token, ms ({args.stops} presses)', two(figures['stop_last_token_ms'])),
                        ('Stop: click to kernel, ms', two(figures['stop_heard_ms'])), ('requests that left the machine', len(foreign))]:
        print(f'{name:<48}{value}')
    print(json.dumps(figures))
    return 0 if figures['whole'] and not foreign else 1  # a slow Stop on a busy machine is a figure, a lost token is a fault


if __name__ == '__main__': raise SystemExit(main())

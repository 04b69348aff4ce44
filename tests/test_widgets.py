"""The Python half of the compare widget, with scripted sessions: threads, states, messages. The page's half is tests/browser."""
import asyncio, json, sys, threading, time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / 'browser'))
from fakes import FakeSession
from edgewb.core import EdgewbError, PromptMismatch
from edgewb.widgets import CompareWidget

HOSTILE = '<img src=x onerror="alert(1)">'


@pytest.fixture
def make():
    made = []

    def widget(sessions, prompt='Hi', **kw):
        class Logged(CompareWidget):
            log = []

            def send(self, content, buffers=None): self.log.append((time.time(), json.loads(json.dumps(content))))
        made.append(Logged(prompt, sessions, **kw))
        return made[-1]

    yield widget
    for w in made: w.close()
    end = time.time() + 5
    while left := [t.name for t in threading.enumerate() if t.name.startswith(('lane ', 'compare widget', 'undisturbed'))]:
        assert time.time() < end, f'threads left behind: {left}'
        time.sleep(.02)


def until(true, timeout=5):
    end = time.time() + timeout
    while not true():
        assert time.time() < end, 'it did not come to pass'
        time.sleep(.005)


def replay(log, lanes):
    "What a page would have, from the messages alone."
    rows = [[] for _ in range(lanes)]
    for _, m in log:
        for d in m['lanes']:
            assert d['at'] <= len(rows[d['i']]), 'a gap'
            rows[d['i']] += d['toks'][len(rows[d['i']]) - d['at']:]
    return [''.join(r[1] for r in lane) for lane in rows]


def test_messages_carry_every_token_at_a_modest_rate(make):
    sessions = [FakeSession(rate=400, departs=i * 50 or None) for i in range(4)]
    w = make(sessions, max_tokens=600)
    w.result(10)
    assert replay(w.log, 4) == [''.join(t for _, t in s.produced) for s in sessions]
    assert len(w.log) / (w.log[-1][0] - w.log[0][0]) < 30
    assert [lane['dep'] for lane in w.snapshot['lanes']] == [None, 50, 100, 150]
    assert [len(lane['toks']) for lane in w.snapshot['lanes']] == [600] * 4


def test_the_cell_gets_control_back_at_once(make):
    t = time.perf_counter()
    w = make([FakeSession(rate=10, ttft=5)], max_tokens=1000)
    assert time.perf_counter() - t < .5 and w.state == 'running'


def test_stop_is_quick_for_one_and_for_all_and_may_be_repeated(make):
    w = make([FakeSession(), FakeSession(), FakeSession()], max_tokens=100_000)
    until(lambda: all(lane.state == 'running' for lane in w._lanes))
    for _ in range(3): w._asked(dict(t='stop', i=1))
    until(lambda: w._lanes[1].state == 'stopped', .1)
    assert [w._lanes[0].state, w._lanes[2].state] == ['running'] * 2
    w.stop(); w.stop()
    assert [r.finish for r in w.result(1)] == ['stopped'] * 3
    w.stop()
    assert w.state == 'done'


def test_stop_before_the_first_token(make):
    w = make([FakeSession(ttft=60)])
    until(lambda: w._lanes[0].stream is not None)
    w.stop()
    w.result(1)
    assert w._lanes[0].state == 'stopped'


def test_run_again_while_streaming(make):
    sessions = [FakeSession(), FakeSession()]
    w = make(sessions, max_tokens=100_000)
    for _ in range(5): w._asked(dict(t='run', prompt='again'))
    assert w.prompt == 'again'
    until(lambda: all(lane.state == 'running' for lane in w._lanes))
    assert sum(t.name.startswith('lane ') for t in threading.enumerate()) == 2
    assert sum(t.name == 'compare widget' for t in threading.enumerate()) == 1
    assert w.log[-1][1]['run'] == 6


def test_a_failure_stays_in_its_lane(make):
    w = make([FakeSession(), FakeSession(dies_at=5), FakeSession()], max_tokens=20)
    w.result(5)
    assert [lane.state for lane in w._lanes] == ['done', 'error', 'done']
    assert w._lanes[1].note == 'RuntimeError: the engine ended' and w.replies[1] is None
    assert isinstance(w.errors[1], RuntimeError)


def test_no_comparison_before_identity(make):
    w = make([FakeSession(), FakeSession(ids=(2, 5, 9)), FakeSession()], max_tokens=20)
    w.result(5)
    assert [lane.state for lane in w._lanes] == ['done', 'error', 'done']
    assert isinstance(w.errors[1], PromptMismatch) and 'from token 2 on' in w._lanes[1].note


def test_a_lost_batch_is_sent_again(make):
    w = make([FakeSession(rate=1000), FakeSession(rate=1000)], max_tokens=900)
    w.result(5)
    w.log.clear()
    w._asked(dict(t='resync', run=1, have=[100, 900]))
    until(lambda: w.log and w._pump is None)
    assert [m['lanes'][0]['at'] for _, m in w.log] == [100, 500]
    assert all(len(d['toks']) <= 400 for _, m in w.log for d in m['lanes'])


def test_targets_are_loaded_once_and_closed_with_the_widget(make):
    from edgewb.session import Target
    loaded = []

    def load(target, progress):
        progress('making it')
        loaded.append(FakeSession())
        return loaded[-1]
    w = make([Target('torch', 'f32'), FakeSession()], max_tokens=5, load=load)
    w.result(5)
    w.run().result(5)
    given = w._lanes[1].session
    assert len(loaded) == 1 and w._lanes[0].note == ''
    w.close(); w.close()
    assert loaded[0].closed and not given.closed
    with pytest.raises(EdgewbError, match='closed'): w.run()


def test_a_target_that_died_is_loaded_anew(make):
    from edgewb.session import Target
    loaded = []

    def load(target, progress):
        loaded.append(FakeSession(dies_at=None if loaded else 2))
        return loaded[-1]
    w = make([Target('torch', 'f32')], max_tokens=5, load=load)
    w.result(5)
    assert w._lanes[0].state == 'error' and loaded[0].closed
    w.run().result(5)
    assert w._lanes[0].state == 'done' and len(loaded) == 2


def test_wrong_names_raise_before_anything_starts(make):
    with pytest.raises(EdgewbError, match='Q4_K_M'): make(['llama.cpp:Q4_KM'])


def test_an_interrupted_wait_stops_the_lanes(make):
    w = make([FakeSession()], max_tokens=100_000)

    async def cell():
        task = asyncio.ensure_future(w.done())
        await asyncio.sleep(.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError): await task
    asyncio.run(cell())
    w.result(1)
    assert w._lanes[0].state == 'stopped'


def test_done_waits_for_the_end(make):
    w = make([FakeSession()], max_tokens=10)
    assert asyncio.run(w.done()) is w and w.state == 'done' and len(w.replies[0].tokens) == 10


def test_the_static_table_is_text_too(make):
    w = make([FakeSession(texts=[HOSTILE]), FakeSession(texts=[HOSTILE], departs=3)], prompt=HOSTILE, max_tokens=6)
    w.result(5)
    page = w._repr_mimebundle_()['text/html']
    assert '<img' not in page and page.count('&lt;img') >= 12
    assert '<sup>◆3</sup><u>' in page


def test_the_undisturbed_pass(make):
    from edgewb.compare import Comparison, Row
    asked = []

    def tabulate(sessions, prompt, max_tokens, rounds, stopped, progress, replies, **kw):
        asked.append((len(sessions), prompt, replies is not None))
        progress('round 1')
        return Comparison(prompt, [Row(s.target, bytes=1, bpw=4.) for s in sessions], [1, 2], 0)
    w = make([FakeSession('a'), FakeSession('b', dies_at=2), FakeSession('c')], max_tokens=5, measure=tabulate)
    w.result(5)
    w._asked(dict(t='measure', prompt='Hi'))
    w.result(5)
    assert asked == [(2, 'Hi', True)] and w.state == 'done'
    assert [row[0] for row in w.figures['rows']] == ['a:F32', 'b:F32', 'c:F32']
    assert w.comparison[1].error == 'RuntimeError: the engine ended'
    w._asked(dict(t='measure', prompt='another'))
    w.result(5)
    assert asked[1] == (2, 'another', False)  # other prompt: the old replies do not count


def test_a_failed_measurement_is_said(make):
    def broken(*a, **k): raise EdgewbError('no room.')
    w = make([FakeSession()], max_tokens=5, measure=broken)
    w.result(5)
    w.measure()
    w.result(5)
    assert w.status == 'Not measured: no room.' and w.state == 'done'

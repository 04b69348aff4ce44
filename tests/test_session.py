"What a session promises when things go wrong: stops, interrupts, deaths, and nobody left behind."
import os, signal, subprocess, sys, threading, time
from pathlib import Path

import numpy as np
import pytest

from edgewb import core, weights
from edgewb.session import Session, Target, load, open_all

ENGINES = ['torch:f32', 'llama.cpp:Q8_0', 'openvino:f32']
QUESTION = 'Sort: 58 25 31 41'


def alive(pid: int) -> bool:
    "True unless the process is gone or a zombie."
    try: return Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0] not in 'ZX'
    except OSError: return False


def gone(pid: int, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < end: time.sleep(0.02)
    return not alive(pid)


@pytest.fixture(scope='module')
def sessions():
    opened = open_all(ENGINES)
    yield opened
    for s in opened: s.close()


@pytest.fixture(params=range(len(ENGINES)), ids=ENGINES)
def session(request, sessions): return sessions[request.param]


def test_same_ids_in_every_engine(sessions):
    assert len({tuple(s.chat_ids(QUESTION)) for s in sessions}) == 1


def test_bos_exactly_once(session):
    bos = session.tokenize('<bos>')
    assert len(bos) == 1
    for ids in (session.chat_ids(QUESTION), session.chat_ids('hello', raw=True), session.chat_ids('<bos>hello', raw=True)):
        assert ids[0] == bos[0] and ids.count(bos[0]) == 1


def test_pieces_give_the_text_back(session):
    text = 'naïve 🌱\n\n\ttabs  and spaces'
    assert b''.join(session.pieces(session.tokenize(text))).decode() == text


def test_streamed_text_is_the_reply(session):
    s = session.stream(QUESTION, 40, ignore_eog=True)
    text = ''.join(t.text for t in s)
    assert text + s.reply.tail == s.reply.text
    assert [t.i for t in s.reply.tokens] == list(range(40))
    assert all(a.t <= b.t for a, b in zip(s.reply.tokens, s.reply.tokens[1:]))


def test_fast_path_equals_plain_path(session):
    fast = session.generate(QUESTION, 150, ignore_eog=True)
    plain = session.generate(QUESTION, 150, fast=False, ignore_eog=True)
    assert fast.ids == plain.ids


def test_a_reply_on_fewer_threads_is_the_same(session):
    want = session.generate(QUESTION, 40).ids
    assert session.generate(QUESTION, 40, threads=1).ids == want == session.generate(QUESTION, 40).ids


def test_probabilities(session):
    r = session.generate(QUESTION, 20, top=5)
    for t in r.tokens:
        assert t.top[0][0] == t.id and t.p == pytest.approx(t.top[0][2])
        assert [p for *_, p in t.top] == sorted((p for *_, p in t.top), reverse=True)
        assert sum(p for *_, p in t.top) <= 1 + 1e-5


def test_eval_and_trim(session):
    ids = session.chat_ids(QUESTION)
    session.trim(0)
    whole = session.eval(ids, all=True)
    assert session.pos == len(ids)
    session.trim(5)
    again = session.eval(ids[5:])
    assert np.abs(again - whole[-1]).max() < 2e-2 * max(1, np.abs(whole[-1]).max())
    assert again.argmax() == whole[-1].argmax()


def test_stop_takes_effect_and_leaves_the_session_usable(session):
    before = session.generate(QUESTION).text
    s = session.stream('hello', 1500, raw=True, ignore_eog=True)
    next(s)
    session.stop()
    n = sum(1 for _ in s)
    assert s.reply.finish == 'stopped' and n < 1400
    session.stop()  # idle: nothing to stop, and the next request is not hit
    assert session.generate(QUESTION).text == before


def test_two_threads_take_turns(session):
    expected, got = session.generate(QUESTION).text, []
    ts = [threading.Thread(target=lambda: got.append(session.generate(QUESTION).text)) for _ in range(3)]
    for t in ts: t.start()
    for t in ts: t.join(60)
    assert got == [expected]*3


@pytest.fixture
def interruptible():
    "A process started in the background of a shell ignores SIGINT; these tests need Python's own handler."
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


INTERRUPTIBLE = 'import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n'


def test_interrupt_in_a_loop_stops_the_engine(session, interruptible):
    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    end = time.monotonic() + 30
    with pytest.raises(KeyboardInterrupt):
        while time.monotonic() < end:
            for _ in session.stream('hello', 1500, raw=True, ignore_eog=True): pass
    assert session.generate(QUESTION, 4).tokens


def test_interrupts_at_any_moment_leave_the_session_right(session, interruptible):
    "Between question and answer, or with half a message read: what is asked afterwards is answered, and rightly."
    import random
    rng, text = random.Random(0), 'a b c '*8
    ids, said = session.tokenize(text), session.generate(QUESTION, 6).ids
    def streams():
        for _ in session.stream('hello', 300, raw=True, ignore_eog=True): pass
    def evaluates(): session.trim(0); session.eval(ids*4)
    def asks(): session.tokenize(text); session.pieces(ids)
    for i in range(45):
        timer = threading.Timer(rng.uniform(0, .03), lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            timer.start()
            while True: (streams, evaluates, asks)[i % 3]()
        timer.join()
        assert session.tokenize(text) == ids and session.generate(QUESTION, 6).ids == said, i


def test_too_long(session):
    with pytest.raises(core.PromptTooLong, match='n_ctx='): session.generate('many words '*3000)
    with pytest.raises(core.PromptTooLong): session.eval([2]*2049)


def test_full_context_ends_the_reply(session):
    ids = [2] + session.tokenize('a b c ')*700
    r = session.generate(ids[:2040], 100, ignore_eog=True)
    assert r.finish == 'context' and len(r.tokens) == 8


@pytest.mark.parametrize('target', ENGINES)
def test_killed_worker_is_an_exception(target):
    with Session(target) as s:
        st = s.stream('hello', 1500, raw=True, ignore_eog=True)
        next(st)
        os.kill(s.pid, signal.SIGKILL)
        with pytest.raises(core.EngineDied, match='killed'): list(st)
        assert gone(s.pid)
        with pytest.raises(core.EngineDied): s.tokenize('x')


def test_no_orphan_when_the_parent_is_killed():
    code = ("import os\nfrom edgewb.session import Session\ns = Session('llama.cpp:Q8_0')\nst = s.stream('hello', 1500, raw=True, ignore_eog=True)\n"
            "next(st)\nprint(s.pid, flush=True)\nos.kill(os.getpid(), 9)")
    pid = int(subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120).stdout)
    assert gone(pid)


def test_ctrl_c_in_a_terminal_leaves_no_orphan():
    code = INTERRUPTIBLE + ("from edgewb.session import Session\ns = Session('llama.cpp:Q8_0')\nprint(s.pid, flush=True)\n"
            "while True:\n    for _ in s.stream('hello', 1500, raw=True, ignore_eog=True): pass")
    p = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    pid = int(p.stdout.readline())
    time.sleep(0.5)
    os.killpg(p.pid, signal.SIGINT)
    _, err = p.communicate(timeout=30)
    assert 'KeyboardInterrupt' in err and gone(pid)


def test_interrupt_while_loading_leaves_no_orphan():
    code = INTERRUPTIBLE + ("import os, sys, threading, time\nfrom edgewb import worker\nfrom edgewb.session import Session\n"
            "def hit():\n    while not worker._open: time.sleep(.01)\n    time.sleep(.3)\n"
            "    print(*[w.proc.pid for w in worker._open], flush=True)\n    os.kill(os.getpid(), 2)\n"
            "threading.Thread(target=hit, daemon=True).start()\nSession('torch:f32')")
    p = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120)
    assert 'KeyboardInterrupt' in p.stderr
    for pid in p.stdout.split(): assert gone(int(pid))


def test_not_enough_memory_is_said_before_the_load(monkeypatch):
    import psutil
    monkeypatch.setattr(psutil, 'virtual_memory', lambda: type('M', (), {'available': 1_000_000, 'total': 10**9})())
    for t in ENGINES:
        with pytest.raises(core.NotEnoughMemory, match='smaller format'): Session(t)


@pytest.mark.parametrize('wrong,error,near', [
    (dict(model='nanoo'), core.UnknownModel, 'nano'), (dict(engine='lama.cpp'), core.UnknownEngine, 'llama.cpp'),
    (dict(format='Q4_KM'), core.UnknownFormat, 'Q4_K_M'), (dict(engine='openvino', format='int3'), core.UnknownFormat, 'int4'),
    (dict(thread=2), core.Unsupported, 'threads')])
def test_wrong_names_get_the_nearest(wrong, error, near):
    with pytest.raises(error, match=f'Nearest: .*{near}'): load(**wrong)


def test_sessions_stream_side_by_side(sessions):
    first, texts = {}, {}
    def run(s):
        out = []
        for t in s.stream(QUESTION, 60, ignore_eog=True):
            first.setdefault(str(s.target), time.perf_counter())
            out.append(t.id)
        texts[str(s.target)] = (out, time.perf_counter())
    ts = [threading.Thread(target=run, args=(s,)) for s in sessions]
    for t in ts: t.start()
    for t in ts: t.join(120)
    assert all(len(ids) == 60 for ids, _ in texts.values())
    assert max(first.values()) < max(end for _, end in texts.values())

@pytest.mark.parametrize('target', ENGINES[:2])
def test_suppressed_tokens_are_never_drawn(tmp_path, target):
    "generation_config's suppress_tokens holds in every engine (the rule is the session's); a greedy reply takes the next best instead."
    import json, shutil
    for f in weights.resolve('nano').iterdir():
        if f.suffix in weights.PARTS: shutil.copy(f, tmp_path)
    engine, format = target.split(':')
    with load('nano', engine, format) as s: usual = s.generate(QUESTION, 8)
    file = tmp_path/'generation_config.json'
    file.write_text(json.dumps(json.loads(file.read_text()) | {'suppress_tokens': usual.ids[:1]}))
    with load(str(tmp_path), engine, format) as s:
        assert s.suppressed == usual.ids[:1]
        for how in (dict(), dict(top=2), dict(temperature=1.)): assert usual.ids[0] not in s.generate(QUESTION, 8, ignore_eog=True, **how).ids

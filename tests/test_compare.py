"compare: identity before comparison, departures, rows that fail, and model text that stays text."
import json

import pytest

from edgewb import core
from edgewb.compare import Comparison, Row, check_prompts, compare, departure, tabulate
from edgewb.session import Reply, Target, Token, open_all

QUESTION = 'Sort: 58 25 31 41'


def reply(ids, text=str): return Reply(Target(), [2], [Token(i, t, text(t), 0.1*i, .5) for i, t in enumerate(ids)])


@pytest.fixture(scope='module')
def sessions():
    opened = open_all(['torch:f32', 'llama.cpp:F32', 'llama.cpp:Q2_K'])
    yield opened
    for s in opened: s.close()


def test_departure_is_the_first_difference():
    assert departure(reply([1, 2, 3]), reply([1, 2, 3])) is None
    d = departure(reply([1, 2, 3]), reply([1, 5, 3]))
    assert (d.i, d.ref, d.other) == (1, '2', '5')
    assert departure(reply([1, 2]), reply([1])).other == '(end)'
    assert departure(reply([1]), reply([1, 2])).ref == '(end)'


def test_table(sessions):
    c = tabulate(sessions, QUESTION, rounds=2)
    assert len(c) == 3 and c.rounds == 2
    for r in c.rows:
        assert len(r.speed.decode_tps) == 2 and r.speed.n_decode == 48
        assert r.bytes > 0 and 2 < r.bpw < 33 and r.load_s > 0 and r.peak > 10_000_000
    assert c[0].departure is None and c.frame().shape[0] == 3
    assert json.loads(json.dumps(c.to_list()))[0]['target'] == 'torch:f32'
    assert all(str(r.target) in repr(c) and str(r.target) in c._repr_html_() for r in c.rows)


def test_refuses_prompts_that_differ(sessions):
    ids = sessions[0].chat_ids(QUESTION)
    other = ids[:7] + [ids[7] + 1] + ids[8:]
    with pytest.raises(core.PromptMismatch, match=r'token 7 is .*id \d+.*id \d+'): check_prompts(sessions[:2], [ids, other])
    with pytest.raises(core.PromptMismatch, match='nothing'): check_prompts(sessions[:2], [ids, ids[:-1]])
    check_prompts(sessions[:2], [ids, ids])


def test_a_target_that_fails_keeps_its_row(sessions, tmp_path):
    bad = tmp_path/'cut.gguf'
    bad.write_bytes(sessions[1].build.path.read_bytes()[:200_000])
    c = compare(QUESTION, [sessions[0], Target('llama.cpp', 'F32', str(bad))], rounds=0)
    assert not c[0].error and c[0].reply.text
    assert 'cut short' in c[1].error and len(c[1].error.splitlines()) == 1
    assert c[1].error in repr(c)


def test_wrong_names_raise_at_once():
    with pytest.raises(core.UnknownFormat): compare(QUESTION, ['torch:f32', 'llama.cpp:Q4_KM'])


def test_model_text_stays_text():
    evil = '<img src=x onerror=alert(1)>'
    c = Comparison('x', [Row(Target(), reply([1], lambda _: evil), bytes=1, bpw=1., load_s=1., peak=1)])
    assert '<img' not in c._repr_html_() and '&lt;img' in c._repr_html_() and evil in repr(c)


def test_two_threads_may_hash_the_same_new_file(tmp_path, monkeypatch):
    "Targets open side by side, also the very first time, when nothing is remembered yet."
    from concurrent.futures import ThreadPoolExecutor
    from edgewb.weights import content_hash
    monkeypatch.setenv('EDGEWB_CACHE', str(tmp_path/'cache'))
    for i in range(40):
        f = tmp_path/f'{i}.bin'
        f.write_bytes(bytes([i])*1000)
        with ThreadPoolExecutor(8) as pool: assert len(set(pool.map(content_hash, [f]*8))) == 1


def test_the_cell_magic_takes_a_picture(tmp_path):
    from PIL import Image
    from edgewb.nano.media import Picture, Thing, paint
    from edgewb.widgets import compare_magic
    spots = ((82, 62), (43, 21), (52, 53), (14, 64))
    Image.fromarray(paint(Picture(96, 96, 96, 0, tuple(Thing('square', 'orange', x, y, 10) for x, y in spots)))).save(tmp_path/'four squares.png')
    (tmp_path/'text.png').write_text('no picture')
    line = "llama.cpp:Q8_0 --model nano-dense --max-tokens 8 --media '{}'"
    for name, said in (('four squares.png', '4'), ('text.png', ''), ('gone.png', '')):
        w = compare_magic(line.format(tmp_path/name), 'How many shapes?\n')
        try:
            w.result(120)
            lane = w._lanes[0]
            if said: assert lane.phase == 'done' and w.replies[0].text.strip() == said
            else: assert lane.phase == 'error' and isinstance(lane.error, core.BadMedia) and name in lane.note, lane.note
        finally: w.close()

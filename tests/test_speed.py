"Benches on real engines: what is timed, what is kept, what is refused. Nothing here asks how fast."
import json
import numpy as np
import pytest
from edgewb import speed
from edgewb.core import EdgewbError, PromptMismatch, PromptTooLong
from edgewb.protocol import Rules
from edgewb.session import Session, Target, open_all
from edgewb.speed import PLANS, TEXT, Test as Timing, bench, random_ids, reading, text_ids

ANY = Rules(rounds=2, looks=1, retries=1, busy=1., drift=99., warm=0)


@pytest.fixture(scope='module')
def sessions():
    opened = open_all(['llama.cpp:Q4_K_M,threads=1', 'torch:f32,threads=1', 'openvino:int8,threads=1'], n_ctx=512)
    yield opened
    for s in opened: s.close()


@pytest.mark.parametrize('i', range(3), ids=['llama.cpp', 'torch', 'openvino'])
def test_loops_time_what_they_say(sessions, i):
    s = sessions[i]
    ids = text_ids(s, 200)
    r = s.timed(ids[:100], ids[100:160], ids[160:])
    assert r['n'] == 100 and r['prefill_s'] > 0 and len(r['step_s']) == 40 and min(r['step_s']) > 0 and s.pos == 200
    assert s.timed((), (), ids[:3])['prefill_s'] is None and s.timed((), ids[:3])['step_s'] == []
    with pytest.raises(PromptTooLong, match='n_ctx=513'): s.timed(ids, ids, [2]*113)
    assert s.generate('Sort: 58 25 31 41', 8).text == s.generate('Sort: 58 25 31 41', 8).text


def test_clocked_steps_leave_the_cache_as_eval_does(sessions):
    s = sessions[0]
    ids = text_ids(s, 90)
    s.timed(ids[:50], (), ids[50:])
    a = s.eval([7])
    s.trim(0); s.eval(ids)
    b = s.eval([7])
    assert a.argmax() == b.argmax() and np.abs(a - b).max() < .2
    s.timed(ids[:50], (), ids[50:])
    s.trim(60); s.eval(ids[60:])
    assert np.abs(s.eval([7]) - b).max() < .2


def test_ids_outside_the_vocabulary_are_refused(sessions):
    with pytest.raises(EdgewbError, match='token ids'): sessions[0].timed((), (), [2, 10**6])
    assert len(sessions[0].timed((), (), [2, 3])['step_s']) == 2


@pytest.mark.parametrize('text', ['pp512', 'tg128', 'tg32@512', 'pp64@64', 'ttft128'])
def test_names_of_tests(text): assert str(Timing.parse(text)) == text


@pytest.mark.parametrize('text', ['', 'pp', 'pp0', 'tg-1', 'ttft8@9', 'pg512', 'tg12 ', 'usuall'])
def test_names_that_are_none(text):
    with pytest.raises(EdgewbError, match='is no test'): Timing.parse(text)
    with pytest.raises(EdgewbError, match='is no test'): bench(['llama.cpp:Q4_K_M'], text)


def test_plans_are_made_of_tests():
    for plan in PLANS.values(): assert [str(Timing.parse(t)) for t in plan] == list(plan)
    assert PLANS['llama-bench'] == ('pp512', 'tg128')


def test_bench_of_three_engines(sessions):
    b = bench(sessions, ['pp32', 'tg4@16', 'ttft16'], rules=ANY)
    assert b.text == 'English text' and len(b.rows()) == 9 and {r['unit'] for r in b.rows()} == {'tok/s', 'ms'}
    steps = [s.parts['step_s'] for s in b['tg4@16'].samples if s.role == 'run']
    assert len(steps) == 6 and all(len(x) == 4 for x in steps)
    back = json.loads(json.dumps(b.to_dict(), allow_nan=False))
    assert len(back['results']['pp32']['samples']) == len(b['pp32'].samples) and back['ids_sha256'] == b.ids_sha256
    assert 'tg4@16' in repr(b) and '<table>' in b._repr_html_() and len(b.frame()) == 9
    llama, torch, _ = b.costs
    assert llama.memory['repacked'] > 0 and torch.memory['repacked'] is None and llama.memory['anonymous'] > llama.memory['repacked']
    assert all(c.joules_token is None or c.meter for c in b.costs)
    assert sessions[0].generate('hi', 1).tokens, 'open sessions stay open'


def test_random_ids_are_called_so(sessions):
    b = bench(sessions[:1], 'pp16', rules=ANY, random_tokens=True)
    assert 'random ids' in b.caption() and {r['text'] for r in b.rows()} == {'random ids'}
    ids = random_ids(100, 2, 50)
    assert ids[0] == 2 and len(ids) == 100 and max(ids) < 50 and ids == random_ids(100, 2, 50) != random_ids(100, 2, 50, seed=1)
    assert random_ids(0, 2, 50) == []


def test_prompts_that_differ_are_refused(sessions, monkeypatch):
    a, b = sessions[:2]
    own = b.tokenize
    monkeypatch.setattr(b, 'tokenize', lambda text: [*own(text)[:5], 9, *own(text)[6:]])
    with pytest.raises(PromptMismatch, match='token 5'): bench([a, b], 'pp16', rules=ANY)


def test_a_text_that_is_too_short_repeats_and_an_empty_one_is_refused(sessions):
    assert len(text_ids(sessions[0], 500, 'cat ')) == 500
    with pytest.raises(EdgewbError, match='give a longer one'): bench(sessions[:1], 'pp16', rules=ANY, text='')


def test_early_ends_and_cache_hits_are_void(sessions, monkeypatch):
    s = sessions[0]
    ids = text_ids(s, 32)
    real = s.timed
    monkeypatch.setattr(s, 'timed', lambda before=(), ids=(), steps=(): real(before, ids, steps[:2]))
    assert reading(s, Timing('tg', 8), ids).void == 'early end of sequence: 2 of 8 tokens'
    monkeypatch.setattr(s, 'timed', lambda before=(), ids=(), steps=(): real(before, ids, steps) | dict(n=3))
    assert reading(s, Timing('pp', 8), ids).void == 'cache hit: 3 of 8 prompt tokens were evaluated'
    b = bench([s], 'pp8', rules=ANY)
    assert b.rows()[0]['void'] and 'cache hit' in b.rows()[0]['reason'] and 'opacity:.5' in b._repr_html_()


def test_stopping(sessions):
    n = iter(range(10**6))
    b = bench(sessions[:2], ['pp8', 'tg2'], rules=ANY, stopped=lambda: next(n) > 2)
    assert b.note == 'stopped' and len(b.costs) == 2
    repr(b); b.to_dict()


def test_a_cold_start_is_cold_or_says_why():
    b = bench(['llama.cpp:Q8_0,threads=1'], 'pp8', rules=ANY, cold=True)
    cold = b.costs[0].cold
    assert cold.get('why', '').startswith('not cold') and cold['why'] in b.note or cold['load_s'] > 0 and cold['first_ms'] > 0


def test_an_open_session_can_not_start_cold(sessions):
    assert 'open already' in bench(sessions[:1], 'pp8', rules=ANY, cold=True).costs[0].cold['why']


def test_targets_that_look_alike_get_names(sessions):
    b = bench([sessions[0], sessions[0]], 'pp8', rules=ANY)
    assert [c.target for c in b.costs] == ['llama.cpp:Q4_K_M,threads=1 #1', 'llama.cpp:Q4_K_M,threads=1 #2']


def test_what_others_import_is_still_there():
    from edgewb.speed import Samples, Speed, busy, measure, order
    assert callable(measure) and callable(busy) and order(2, 1) == [1, 0] and f'{Samples([1., 2., 3.]):.0f}' == '2 (1 to 3)' and Speed()


def test_command(capsys):
    from edgewb.cli import main
    assert main(['bench', 'llama.cpp:Q4_K_M,threads=1', '--plan', 'pp8', 'tg2', '--rounds', '2', '--busy', '100', '--drift', '9900', '--json']) == 0
    said = json.loads(capsys.readouterr().out)
    assert said['machine'] and [r['test'] for r in said['rows']] == ['pp8', 'tg2'] and said['results']['tg2']['samples']
    assert main(['bench', '--plan', 'pp8x']) == 2 and 'is no test' in capsys.readouterr().err

"What predictions may and may not do, whatever was learned; and that the page says what the code finds."
import json, math, re, subprocess, sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgewb import inventory, pooling, profiles, roofline, speeds
from edgewb.core import EdgewbError, NotEnoughMemory, UnknownFormat, UnknownHardware, UnknownModel, Unsupported
from edgewb.cost import traffic
from edgewb.roofline import Place, Probe, predict
from edgewb.speeds import Speed, Work

ROOT = Path(__file__).parents[1]
PLACES = [Place('nobody has it', kind, 1e11, 1e13) for kind in speeds.KINDS]


@pytest.fixture(scope='module')
def pool(): return pooling.pool()

@pytest.fixture(scope='module')
def checks(): return roofline.leave_one_out()


@pytest.mark.parametrize('at', PLACES, ids=lambda at: at.kind)
def test_more_bandwidth_is_never_slower(at):
    for model in ('E2B-it', '26B-A4B-it'):
        runs = [predict(replace(at, bandwidth=b), model).decode for b in (5e9, 2e10, 1e11, 5e11, 2e12)]
        for end in ('low', 'mid', 'high'): assert all(np.diff([getattr(r, end) for r in runs]) > 0)


@pytest.mark.parametrize('at', PLACES, ids=lambda at: at.kind)
def test_longer_context_is_never_faster(at):
    for model in ('E2B-it', '31B-it'):
        runs = [predict(at, model, depth=n, prompt=256) for n in (0, 100, 1000, 10_000, 100_000)]
        assert all(np.diff([r.decode.mid for r in runs]) <= 0) and all(np.diff([r.prefill.mid for r in runs]) <= 0)
        assert all(np.diff([r.first.mid for r in runs]) >= 0)


@pytest.mark.parametrize('at', PLACES, ids=lambda at: at.kind)
def test_smaller_format_is_never_slower_to_decode(at):
    for model in ('E2B-it', '12B-it', '26B-A4B-it'):
        runs = [predict(at, model, f) for f in ('BF16', 'Q8_0', 'Q6_K', 'Q5_K_M', 'Q4_K_M')]
        assert all(np.diff([r.read for r in runs]) < 0) and all(np.diff([r.decode.mid for r in runs]) > 0)


def test_infinite_bandwidth_leaves_the_launches():
    fast = predict(replace(PLACES[0], bandwidth=1e22), 'E2B-it')
    assert fast.decode.mid < 1/(fast.launch.low*fast.launches) and fast.decode.mid > 1/(fast.launch.high*fast.launches)
    slow = predict(replace(PLACES[0], bandwidth=1e6), 'E2B-it') # and a slow memory leaves the bytes: launches don't matter
    assert slow.decode.mid*slow.read == pytest.approx(1e6*slow.share.mid, rel=.1)


def test_the_table_of_per_layer_embeddings_is_not_streamed():
    p = predict('pi5', 'E2B-it', 'Q4_K_M')
    table = sum(t.bytes for t in inventory('E2B-it', 'Q4_K_M').tensors if 'per_layer_token_embd' in t.name or 'embed_tokens_per_layer' in t.name)
    assert table > .3*p.file and p.read + table < p.file*1.05
    assert p.parts == traffic(inventory('E2B-it', 'Q4_K_M'), speeds.MIDDLE)


def test_experts_that_are_not_active_are_not_read():
    at = PLACES[1]
    mixture, dense = predict(at, '26B-A4B-it'), predict(at, '31B-it')
    assert mixture.read < .25*mixture.file and dense.read > .9*dense.file
    assert mixture.decode.low > dense.decode.high


@pytest.mark.parametrize('at', PLACES, ids=lambda at: at.kind)
def test_probes_narrow_the_range(at):
    none = predict(at, 'E4B-it')
    wide = [none.decode.high/none.decode.low]
    probes = [Probe(m, 'Q4_K_M', decode=predict(at, m).decode.mid, prefill=predict(at, m).prefill.mid) for m in ('E2B-it', '12B-it')]
    for n in (1, 2):
        p = predict(at, 'E4B-it', probes=probes[:n])
        assert p.probes == n and p.prefill.high/p.prefill.low < none.prefill.high/none.prefill.low
        wide.append(p.decode.high/p.decode.low)
    assert wide[0] > wide[1] > wide[2]*.999


def test_a_probe_pulls_towards_itself():
    at = PLACES[1]
    plain = predict(at, 'E4B-it').decode.mid
    for factor in (.6, 1.5):
        pulled = predict(at, 'E4B-it', probes=[Probe('E2B-it', decode=factor*predict(at, 'E2B-it').decode.mid)]).decode.mid
        assert (pulled > plain) == (factor > 1) and abs(math.log(pulled/plain)) < abs(math.log(factor))


def test_ranges_hold_what_they_promise_on_machines_drawn_from_the_model(pool):
    rng, m, inside, all_ = np.random.default_rng(14), pool.decode, 0, 0
    works = [Work(w, k, n, 0, 0, 0) for w, k, n in ((1.5e9, 1e7, 900), (3e9, 5e7, 1100), (7e9, 2e8, 1400), (1.8e10, 1e8, 1700))]
    for kind in m.kinds:
        i = m.kinds.index(kind)
        for _ in range(20):
            share, launch = np.exp(m.mu[i] + np.sqrt(m.var[i])*rng.standard_t(3, 2))
            rows = [Speed('drawn', 'drawn', kind, 1e11, None, '', '', w) for w in works]
            found = pool.machine(kind).decode(rows)
            for w, r in zip(works, found):
                t = (w.weights + m.c['rho']*w.kv)/1e11/np.clip(share, .15, 1) + np.clip(launch, 3e-7, 1.5e-4)*w.launches
                speed = 1/(t*math.exp(m.scatter[i]*rng.standard_t(4)))
                inside, all_ = inside + (r.low <= speed <= r.high), all_ + 1
    assert .88 < inside/all_ <= 1


def test_pooling_finds_a_kind_that_was_drawn():
    rng, rows = np.random.default_rng(4), []
    for chip in range(12):
        share, launch = .8*math.exp(.05*rng.normal()), 5e-6*math.exp(.2*rng.normal())
        for w, n in ((1e9, 700), (4e9, 900), (1.5e10, 1200)):
            t = w/1e11/share + launch*n
            rows.append(Speed(f'm{chip}', f'm{chip}', 'nvidia', 1e11, None, '', '', Work(w, 0, n, 0, 0, 0), date='2026-01', decode=1/t/math.exp(.02*rng.normal())))
    f = pooling._fit_decode(rows)
    assert math.exp(f.mu[0, 0]) == pytest.approx(.8, rel=.06) and math.exp(f.mu[0, 1]) == pytest.approx(5e-6, rel=.35)


def test_an_unseen_chip_is_predicted_without_its_own_lines(checks):
    assert {c.line.chip for c in checks} == {r.chip for r in speeds.published() if r.decode or r.prefill}
    chip = 'Raspberry Pi 5'
    rest = pooling.pool([r for r in speeds.published() if r.chip != chip])
    for c in [c for c in checks if c.line.chip == chip and c.what == 'decode' and not c.probes]:
        again = rest.machine(c.line.kind).decode([replace(c.line, decode=1e-3)])[0] # what it says of its speed isn't looked at
        assert again.mid == pytest.approx(c.predicted.mid)


def test_bars(checks):
    t = roofline.score(checks).xs('all', level='kind')
    assert t.error['decode', 0] <= .20 and t.error['decode', 2] <= .10
    assert t.error['prefill', 0] <= .20 and t.error['prefill', 2] <= .10
    assert t.inside.min() >= .9
    t = roofline.score(roofline.leave_one_out(known=True)).xs('all', level='kind') # of a chip that others have measured
    assert t.error['decode', 0] <= .10 and t.error['decode', 2] <= .10 and t.error['prefill', 0] <= .20 and t.error['prefill', 2] <= .10
    assert t.inside.min() >= .9


def test_the_page_says_what_the_code_finds(checks):
    cells = json.loads((ROOT/'nbs/14_roofline.ipynb').read_text(encoding='utf8'))['cells']
    shown = next(''.join(o['data']['text/plain']) for c in cells if c['cell_type'] == 'code' and 'table = score(checks)' in ''.join(c['source']) for o in c['outputs'] if 'data' in o)
    t = roofline.score(checks).xs('all', level='kind').round(3)
    for what in ('decode', 'prefill'):
        for probes in (0, 2):
            row = t.loc[what, probes]
            start = shown.index(what)
            line = next(l for l in shown[start:].splitlines() if re.match(rf'(?:{what})?\s+{probes}\s', l))
            assert f'{int(row.lines)}' in line.split() and f'{row.error:g}' in [f'{float(x):g}' for x in re.findall(r'[\d.]+', line)]


def test_who_is_this():
    with pytest.raises(UnknownHardware, match='Nearest'): predict('pi55')
    with pytest.raises(UnknownModel, match='Nearest'): predict('pi5', 'E3B-it')
    with pytest.raises(UnknownFormat, match='Q4_K_M'): predict('pi5', 'E2B-it', 'Q4_KM')
    with pytest.raises(NotEnoughMemory, match='does not fit'): predict('pi5', '31B-it')
    assert not predict('pi5', '31B-it', check=False).fit
    with pytest.raises(Unsupported, match='memory.bandwidth'): predict(replace(profiles.load('pi5'), memory=profiles.Memory()))
    assert predict(replace(profiles.load('pi5'), memory=profiles.Memory()), bandwidth=1.71e10).fit is None
    for bad in (dict(depth=-1), dict(prompt=0), dict(on='npu'), dict(on='gpu')):
        with pytest.raises(EdgewbError): predict('pi5', **bad)


def test_every_shipped_machine_is_predicted_or_says_why_not():
    for n in profiles.names():
        try: p = predict(n, 'E2B-it', 'Q4_0', check=False)
        except Unsupported as e: assert re.search('nobody has published|no published speed|memory.bandwidth', str(e)) and '\n' not in str(e), n
        else: assert 0 < p.decode.low < p.decode.mid < p.decode.high < p.place.bandwidth/1e9 and 0 < p.prefill.low < p.prefill.high < 1e6, n


def test_published_speeds_of_this_very_chip_count():
    own = {n: predict(n, 'E2B-it', 'Q4_0', check=False).lines for n in ('pi4', 'pi400', 'pi5', 'rtx 4090', 'm1', 'Intel N150')}
    assert all(own.values()) and own['pi400'] == own['pi4']
    assert predict('pi5', known=False).lines == 0
    assert not roofline._same(replace(speeds.published()[0], machine='RTX 3080', chip='RTX 3080', kind='nvidia'), Place('NVIDIA GeForce RTX 3080 Ti', 'nvidia', 9e11))


@pytest.mark.parametrize('chip', ['Apple M2 Ultra', 'RTX 5090', 'Raspberry Pi 5', 'Strix Halo'])
def test_what_somebody_else_found_counts_once(pool, chip):
    "Ten lines of one person are no ten probes; one's own come before them."
    people = {}
    for r in speeds.published():
        if r.chip == chip and r.decode and r.prefill: people.setdefault((r.machine, r.kind, r.source, r.engine), []).append(r)
    one = max(people.values(), key=len)
    ask = lambda probes, others: (m := pool.machine(one[0].kind, probes, others)) and (m.decode([one[0]])[0], m.prefill(one[0]))
    once, often, plain = ask([], one), ask([], 20*one), ask([], [])
    assert often[0].mid == pytest.approx(once[0].mid, rel=1e-6) and often[0].low == pytest.approx(once[0].low, rel=1e-6)
    wide = lambda r: math.log(r.high/r.low)
    assert wide(once[1]) < wide(plain[1]) and wide(often[1]) > .8*wide(once[1])
    slow = [replace(r, decode=r.decode/1.5, prefill=r.prefill/1.5) for r in one]
    for what in (0, 1):
        low, both, alone = ask([], slow)[what].mid, ask(one, slow)[what].mid, ask(one, [])[what].mid
        assert low < both and abs(math.log(both/alone)) < abs(math.log(both/low))


def test_a_gguf_file_says_what_it_is():
    from edgewb import weights
    path = str(weights.build('nano', 'llama.cpp', 'Q8_0').path)
    p = predict('pi5', path)
    assert p.format and p.file == inventory(path).file_bytes and 0 < p.read <= 1.1*p.file


def test_a_prediction_is_never_called_measured():
    p = predict('pi5', 'gemma-4-E2B-it', 'Q4_K_M')
    assert p.place.note == ''
    for text in (repr(p), p._repr_html_(), json.dumps(p.to_dict()), p.frame().to_csv()):
        assert 'predicted' in text and 'measured' not in text.lower()
    assert '<caption>' in p._repr_html_() and list(p.frame().columns).count('predicted') == 1
    assert 'predicted' in {t.name for t in p.plot().data} and {'published'} <= {t.name for t in p.plot().data}


def edgewb(*args): return subprocess.run([sys.executable, '-m', 'edgewb.cli', 'predict', *args], capture_output=True, text=True, timeout=120)

def test_command():
    args = '--hardware', 'pi5', '--model', 'gemma-4-E2B-it', '--format', 'Q4_K_M'
    table, found = edgewb(*args), edgewb(*args, '--json')
    assert table.returncode == 0 and 'decode' in table.stdout and 'measured' not in table.stdout
    d, p = json.loads(found.stdout), predict('pi5', 'E2B-it', 'Q4_K_M')
    assert d == json.loads(json.dumps(p.to_dict())) and d['interval'] == .9
    narrow = json.loads(edgewb(*args, '--probe', 'E4B-it', 'Q4_0', '2.79', '--json').stdout)
    assert narrow['probes'] == 1
    both = json.loads(edgewb(*args, '--probe', 'E4B-it', 'Q4_0', '2.79', '18.86', '--json').stdout)['prefill_tokens_per_second']
    assert both['high']/both['low'] < narrow['prefill_tokens_per_second']['high']/narrow['prefill_tokens_per_second']['low']
    for bad, word in ((('--hardware', 'pi55'), 'Nearest'), (('--hardware', 'pi5', '--model', '31B-it'), 'does not fit'), (('--hardware', 'pi5', '--probe', 'E2B-it', 'Q4_0', 'fast'), 'those of a prompt'), (('--hardware', 'pi5', '--probe', 'E2B-it', 'Q4_0'), 'those of a prompt'),
                      (('--hardware', 'pi5', '--probe', 'E2B-it', 'Q4_0', '0'), 'those of a prompt')):
        r = edgewb(*bad)
        assert r.returncode == 2 and word in r.stderr and r.stderr.count('\n') == 1

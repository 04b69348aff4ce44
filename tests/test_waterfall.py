"Bare kernels and the waterfall over them: that each layer runs the same tokens, and that the parts are the gap. Times are never asserted."
import json, math, os, signal
from types import SimpleNamespace

import numpy as np
import pytest

from edgewb import load, recipes, waterfall as w
from edgewb.bare_kernels import BareKernels, KernelWorker
from edgewb.core import BadBuild, EdgewbError, EngineDied
from edgewb.protocol import Measured, Rules, Sample, Window
from edgewb.weights import build

FEW = Rules(rounds=2, looks=1, retries=0, drift=9., busy=9.)


# Bare kernels

@pytest.mark.parametrize('model', ['nano', 'nano-dense', 'nano-moe', 'nano-unified', 'nano-draft'])
def test_the_matrices_are_those_that_a_step_reads(model):
    path = build(model, 'llama.cpp', 'Q4_K_M').path
    k, inv = BareKernels(path, threads=1), recipes.inventory(str(path))
    small = sum(t.bytes for t in inv if t.part in ('body', 'experts') and len(t.shape) < 2)
    assert k.bytes == sum(t.bytes for t in inv if t.part in ('body', 'experts', 'head')) - small == sum(k.homes.values())
    assert k.seconds(2) > 0
    k.close()

@pytest.mark.parametrize('repack', [True, False])
def test_repacked_or_not_the_products_agree(repack):
    path = build('nano', 'llama.cpp', 'Q4_0').path
    k, plain = BareKernels(path, 1, repack), BareKernels(path, 1, False)
    assert repack or set(k.homes) == {'CPU'}
    for t in k.tensors[:20]:
        a, b = k.product(t.name), plain.product(t.name)
        assert np.abs(a - b).max() <= 1e-2*np.abs(b).max()
    k.close(); plain.close()

def test_threads_do_not_change_a_product():
    path = build('nano', 'llama.cpp', 'Q8_0').path
    one, two = BareKernels(path, 1), BareKernels(path, 2)
    assert all((one.product(t.name) == two.product(t.name)).all() for t in one.tensors[:10])
    one.close(); two.close()

def test_a_file_that_is_none(tmp_path):
    (tmp_path/'x.gguf').write_bytes(b'GGUF')
    with pytest.raises(BadBuild): KernelWorker(tmp_path/'x.gguf')

def test_kernels_that_die_are_an_exception():
    k = KernelWorker(build('nano', 'llama.cpp', 'Q4_K_M').path, 1)
    os.kill(k.worker.proc.pid, signal.SIGKILL)
    with pytest.raises(EngineDied): k.seconds(10**6)
    k.close()


# The waterfall

@pytest.fixture(scope='module')
def fall(): return w.waterfall('llama.cpp:Q4_K_M,threads=1', tokens=12, rules=FEW)

def test_the_parts_are_the_gap(fall):
    rows = fall.rows()
    assert [r['rung'] for r in rows] == list(w.RUNGS) and all(r['n'] == 2 for r in rows), rows
    assert math.isclose(rows[0]['ms'] + sum(r['added'] for r in rows[1:]), rows[-1]['ms'])
    assert math.isclose(sum(r['share'] for r in rows), 1) and math.isclose(fall.gap, rows[-1]['ms'] - rows[0]['ms'])

def test_it_can_be_kept_and_shown(fall, tmp_path):
    from edgewb.records import Store
    back = json.loads(json.dumps(fall.to_dict(), allow_nan=False))
    assert len(back['rungs']) == 6 and back['steps'] == 12 and len(back['measured']['samples']) > 12
    db = Store(tmp_path/'r.db')
    db.add(fall)
    assert len(db.find(metric='token_s')) == 6
    assert len(fall.figure().data[0].x) == 7 and 'kernels' in repr(fall) and '<table' in fall._repr_html_() and len(fall.frame()) == 6

@pytest.mark.parametrize('target', ['torch:f32', 'openvino:int8'])
def test_other_engines_start_with_their_loop(target):
    f = w.waterfall(target, tokens=6, rules=FEW)
    assert [r['rung'] for r in f.rows()] == list(w.RUNGS)[1:] and not f.kernels and all(r['n'] for r in f.rows()), f.rows()

def test_an_open_session_stays_open():
    with load('nano') as s:
        w.waterfall(s, tokens=4, rules=FEW)
        assert s.generate('What is 2 plus 3?', 4).tokens

def test_other_tokens_in_a_layer_are_void():
    with load('nano') as s:
        class Liar: # a client whose tokens are not those of the engine
            def send(self, parse, body): self.parse = parse
            def recv(self): return 'read', (1., [1]*13) if self.parse else {'edgewb': dict(sent_s=1.)}
        rungs = w._rungs(s, s.tokenize('<bos>The'), 12, None, 'http://x', Liar())
        assert rungs['client']().void == 'other tokens, from 0 on' and not rungs['session']().void and not rungs['binding']().void

def test_noise_is_called_noise():
    rng = np.random.default_rng(0)
    m = Measured(['engine loop', 'binding', 'session'], 'ms')
    for i in range(12):
        m.windows.append(Window(i))
        base = 1 + rng.normal(0, .1)
        for name, v in (('engine loop', base), ('binding', base + rng.normal(0, .01)), ('session', base + .5)): m.samples.append(Sample(name, 'run', i, v, 0., v))
    f = w.Waterfall('x', 'nano', m, 1, 1, 1)
    _, binding, session = f.rows()
    assert binding['added_low'] < 0 < binding['added_high'] and 'noise' in w._span(binding)
    assert abs(session['added_low'] - .5) < .05 and 'noise' not in w._span(session)

def test_no_tokens_at_all():
    with pytest.raises(EdgewbError, match='at least one'): w.waterfall(tokens=0)

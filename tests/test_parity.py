"""The engines against each other, on nano: the bars of the workbench.

The reference is transformers in float32. Ids are running text, longer than four of nano's sliding windows; three quarters go in as a prefill in blocks,
the rest one by one.
"""
import inspect, textwrap

import pytest

from edgewb.engine_torch import Engine as Torch
from edgewb.quality import NoiseFloor, verdict, noise_floor, parity, with_table_gelu
from edgewb.session import load
from edgewb.weights import resolve

EXACT = dict(cache_type='f32', flash_attn='off')
PROMPTS = ['What is 17 plus 25?', 'Sort these numbers: 9, 2, 14, 7.', 'Reverse the word lantern.', 'Tell me of rivers.']


@pytest.fixture(scope='module')
def ref():
    with load('nano', 'torch', 'f32', threads=1) as s: yield s

@pytest.fixture(scope='module')
def ids(ref):
    ids = ref.tokenize('<bos>' + inspect.getsource(textwrap))[:288]
    assert len(ids) == 288
    return ids

@pytest.fixture(scope='module')
def floor(ids) -> NoiseFloor: return noise_floor(lambda t: load('nano', 'torch', 'f32', threads=t), ids[:192])

@pytest.fixture(scope='module')
def llama():
    with load('nano', 'llama.cpp', 'F32', threads=1, **EXACT) as s: yield s

@pytest.fixture(scope='module')
def openvino():
    with load('nano', 'openvino', 'f32', threads=1) as s: yield s

@pytest.fixture(scope='module')
def gap(ref, llama, ids): return parity(ref, llama, ids)


def test_the_reference_agrees_with_itself(floor):
    assert floor.kld < 1e-10 and floor.diff < 1e-3, floor

def test_openvino_f32(ref, openvino, ids):
    p = parity(ref, openvino, ids)
    assert p.max_diff <= 1e-3, p
    assert p.prefill.same_top == p.decode.same_top == 1, p

def test_llamacpp_f32(gap):
    assert gap.prefill.mean <= 1e-5 and gap.decode.mean <= 1e-5, gap

def test_what_remains_of_llamacpp_f32_is_the_table(ref, llama, ids, gap):
    halved = Torch(resolve('nano'), threads=1)
    with_table_gelu(halved.model)
    table = parity(halved, llama, ids)
    assert table.mean < gap.mean/4, (gap, table)

def test_llamacpp_f16(ref, ids):
    with load('nano', 'llama.cpp', 'F16', threads=1) as s: p = parity(ref, s, ids)
    assert p.prefill.mean <= 5e-4 and p.decode.mean <= 5e-4, p

@pytest.mark.parametrize('engine', ['openvino', 'llama'])
@pytest.mark.parametrize('prompt', PROMPTS)
def test_greedy_text_is_the_same_or_a_tie(ref, engine, prompt, floor, request):
    s = request.getfixturevalue(engine)
    v = verdict(ref, s, ref.chat_ids(prompt), 48, floor, eog=ref._call('eog'))
    assert v is None or v.verdict == 'tie', v

def test_fewer_bits_cost_more(ref, openvino, ids):
    costs = [parity(ref, openvino, ids).mean]
    for format in ('int8', 'int4'):
        with load('nano', 'openvino', format, threads=1) as s: costs.append(parity(ref, s, ids).mean)
    assert costs[0] < 1e-8 and costs[0] < costs[1] < costs[2], costs

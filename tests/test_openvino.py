"OpenVINO: the export against transformers for every shape of Gemma 4, the cache, the formats, and what can be wrong with a build."
import json, os, shutil, subprocess, sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from edgewb import engine_openvino as eo
from edgewb.core import BadBuild, EdgewbError, UnknownFormat, Unsupported
from edgewb.engine_openvino import FORMATS, Engine, make
from edgewb.openvino_export import shared_core
from edgewb.weights import build, resolve

NOISE = 1e-4  # largest difference of a float32 logit between one order of computing and another; a wrong cache is off by 0.1 and more
PARITY = 1e-3  # and of one runtime and another


@pytest.fixture(scope='module')
def f32(): return build('nano', 'openvino', 'f32').path

@pytest.fixture(scope='module')
def int8(): return build('nano', 'openvino', 'int8').path

@pytest.fixture(scope='module')
def engine(f32):
    e = Engine(f32, threads=1)
    yield e
    e.close()

@pytest.fixture(scope='module')
def ids(engine): return [2, *np.random.default_rng(0).integers(300, engine.vocab_size, 299).tolist()]

@pytest.fixture(scope='module')
def rows(engine, ids):
    engine.trim(0)
    return engine.eval(ids, all=True)


# The cache

@pytest.mark.parametrize('step', [1, 7, 64, 300])
def test_steps_do_not_matter(engine, ids, rows, step):
    engine.trim(0)
    last = [engine.eval(ids[i:i+step]).copy() for i in range(0, len(ids), step)]
    want = rows[[min(i + step, len(ids)) - 1 for i in range(0, len(ids), step)]]
    assert np.abs(np.array(last) - want).max() < NOISE
    assert engine.pos == len(ids)

def test_chunks_do_not_matter(f32, ids, rows):
    e = Engine(f32, threads=1, chunk=33)
    assert np.abs(e.eval(ids, all=True) - rows).max() < NOISE
    e.close()

@pytest.mark.parametrize('keep', [0, 1, 20, 63, 64, 65, 128, 200, 299, 300])
def test_a_roll_back_leaves_no_trace(engine, ids, keep):
    "The bits must be those of a cache that never held what was cut, also when it was more than two windows."
    engine.trim(0)
    if keep: engine.eval(ids[:keep])
    fresh = [engine.eval([t]).copy() for t in (500, 501, 502)]
    engine.trim(0)
    if keep: engine.eval(ids[:keep])
    engine.eval(ids[keep:] + [7]*150)
    engine.trim(keep)
    assert engine.pos == keep
    again = [engine.eval([t]).copy() for t in (500, 501, 502)]
    assert np.array_equal(fresh, again)

def test_roll_back_of_a_roll_back(engine, ids, rows):
    engine.trim(0)
    engine.eval(ids)
    for n in (250, 140, 139, 10): engine.trim(n)
    assert np.abs(engine.eval(ids[10:], all=True) - rows[10:]).max() < NOISE

def test_stop_falls_between_chunks(f32, ids, rows):
    e = Engine(f32, threads=1, chunk=64)
    asked = []
    def stop():
        asked.append(e.pos)
        return len(asked) > 2
    assert e.eval(ids, stop=stop).shape == (0, e.vocab_size)
    assert asked == [0, 64, 128] and e.pos == 128
    assert np.abs(e.eval(ids[128:]) - rows[-1]).max() < NOISE
    e.close()

def test_only_the_asked_rows_are_computed(engine, ids):
    engine.trim(0)
    assert engine._infer(np.array(ids), np.array([299])).shape == (1, engine.vocab_size)
    engine.trim(0)
    assert engine._infer(np.array(ids), np.array([3, 70, 299])).shape == (3, engine.vocab_size)


# Text

def test_text_as_transformers_reads_it(engine):
    from transformers import AutoTokenizer
    tok = AutoTokenizer.from_pretrained(resolve('nano'))
    for text in ('', ' ', 'Ännie   went\n\n\nto 3 cafés. 🙂', '<bos><|turn>user\nhi<turn|>\n<|turn>model\n', '\t\x00\u2581'):
        ids = engine.tokenize(text)
        assert ids == tok.encode(text, add_special_tokens=False)
        assert b''.join(engine.pieces(ids)).decode() == text.replace('\u2581', ' ')

def test_ends_of_generation(engine):
    names = {engine.tokenizer.hf.id_to_token(i) for i in engine.eog}
    assert {'<eos>', '<turn|>'} <= names


# Formats

def stored(path: Path) -> dict[str, int]:
    "How many linear layers of an IR have weights of which type."
    kinds = Counter()
    for op in shared_core().read_model(path/'openvino_model.xml').get_ordered_ops():
        if op.get_type_name() != 'MatMul': continue
        node = op.input_value(1).get_node()
        while node.get_type_name() in ('Convert', 'Multiply', 'Subtract', 'Reshape'): node = node.input_value(0).get_node()
        if node.get_type_name() == 'Constant': kinds[node.get_element_type().get_type_name()] += 1
    return dict(kinds)

@pytest.mark.parametrize('format, kinds', [('f32', {'f32': 82}), ('bf16', {'bf16': 82}), ('f16', {'f16': 82}), ('int8', {'u8': 82}),
                                           ('int4', {'u4': 60, 'u8': 22})])  # 22: the head, the PLE projection of the model, two of each layer
def test_weights_are_stored_as_the_format_says(format, kinds):
    assert stored(build('nano', 'openvino', format).path) == kinds

def test_every_weight_is_stored_once():
    "The tied head and the embedding share one constant, and no table is stored twice."
    from edgewb.weights import n_params
    n = n_params(resolve('nano'))
    for format, bits in (('f32', 32), ('bf16', 16), ('f16', 16), ('int8', 8.3), ('int4', 6.9)):
        assert build('nano', 'openvino', format).bytes < n*bits/8*1.01, format

def test_groups_that_do_not_fill_a_row(tmp_path):
    "Widths of 64 and of 96 are cut into groups of 64 and of 32; 40 can't be, and the router stays as it is; so do the words of E2B's tables."
    (tmp_path/'out').mkdir()
    experts = random_model(**SHAPES['as 26B-A4B'] | dict(moe_intermediate_size=40))
    make(checkpoint(experts, tmp_path/'hf'), 'int4', tmp_path/'out')
    assert stored(tmp_path/'out') == {'u4': 5*(4 + 2 + 3) - 1, 'u8': 5 + 1, 'f32': 5}  # per layer: q, k, o and v but on the full one, gate and up of 16 experts, the MLP; down of the experts; the router

def test_memory_of_the_export_is_the_builds():
    "A tensor is quantised in pieces: the largest temporary is megabytes, whatever the tensor."
    import tracemalloc
    from edgewb import openvino_quantise as quantise
    x = np.random.default_rng(0).standard_normal((1 << 13, 1 << 12), np.float32)  # 134 MB
    tracemalloc.start()
    q, z, s = quantise.levels(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak - q.nbytes < 8*4*quantise.STEP
    err = (q[:9].astype(np.float32) - z[:9])*s[:9].astype(np.float32) - x[:9]
    assert np.abs(err).max() < 1.02*s[:9].max()/2 + .01

def test_making_a_build_needs_no_nncf_starts_nothing_and_tells_nobody(tmp_path):
    "NNCF isn't among the requirements, and OpenVINO's telemetry would send a request from a forked process."
    code = ("import sys; sys.modules['nncf'] = None\nfrom edgewb.engine_openvino import make\nfrom pathlib import Path\nfrom edgewb.weights import resolve\n"
            "made = make(resolve('nano'), 'int4', Path(sys.argv[1])).name\nimport psutil, json\n"
            "print(json.dumps([made, len(psutil.Process().children(recursive=True)), sys.modules.get('openvino_telemetry') is None]))")
    (tmp_path/'out').mkdir()
    said = subprocess.run([sys.executable, '-c', code, str(tmp_path/'out')], capture_output=True, text=True)
    assert json.loads((said.stdout.splitlines() or ['null'])[-1]) == ['out', 0, True], said.stderr[-2000:]
    assert stored(tmp_path/'out') == {'u4': 60, 'u8': 22}
    assert json.loads((tmp_path/'out'/'edgewb.json').read_text())['ple'] == 10*256*1024  # a byte each; looked up in the file, so no memory is asked for it
    assert eo.memory_needed(tmp_path/'out', 'int4', 0) < 300_000_000 + 2.2*(sum(f.stat().st_size for f in (tmp_path/'out').glob('*.bin')) - 10*256*1024) + 1

def test_precision_is_a_setting(int8, ids):
    kernels = shared_core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
    for precision in ('f32', 'bf16'): # a CPU without bfloat16 kernels computes in float32, and says so
        e = Engine(int8, threads=1, precision=precision)
        assert e.describe()['precision'] == (precision if precision == 'f32' or 'BF16' in kernels else 'f32')
        assert np.isfinite(e.eval(ids)).all()
        e.close()

def test_describe(engine):
    d = engine.describe()
    assert d['engine'] == 'openvino' and d['precision'] == 'f32' and d['threads'] == 1 and d['format'] == 'f32'
    assert sum(d['kernels'].values()) == 82  # every linear layer of nano


# Every shape of Gemma 4, tiny and random, against transformers

BASE = dict(vocab_size=300, vocab_size_per_layer_input=300, hidden_size=64, intermediate_size=96, num_hidden_layers=5, num_attention_heads=4, num_key_value_heads=1,
            head_dim=16, global_head_dim=32, sliding_window=8, hidden_size_per_layer_input=16, layer_types=['sliding_attention']*4 + ['full_attention'],
            num_kv_shared_layers=0, final_logit_softcapping=30., tie_word_embeddings=True, pad_token_id=0, eos_token_id=1, bos_token_id=2)
SHAPES = {
    'as E2B': dict(num_hidden_layers=10, layer_types=BASE['layer_types']*2, num_kv_shared_layers=5, use_double_wide_mlp=True),
    'no sharing': {},
    'two key heads': dict(num_key_value_heads=2),
    'no PLE': dict(hidden_size_per_layer_input=0),
    'V is K on full layers': dict(attention_k_eq_v=True, num_global_key_value_heads=1, num_key_value_heads=2, hidden_size_per_layer_input=0),
    'as 31B': dict(attention_k_eq_v=True, num_global_key_value_heads=2, num_key_value_heads=4, hidden_size_per_layer_input=0, num_hidden_layers=6,
                   layer_types=['sliding_attention']*5 + ['full_attention']),
    'as 26B-A4B': dict(attention_k_eq_v=True, num_global_key_value_heads=1, num_key_value_heads=2, hidden_size_per_layer_input=0,
                       enable_moe_block=True, num_experts=16, top_k_experts=4, moe_intermediate_size=44),
    'no softcap': dict(final_logit_softcapping=None),
    'a head of its own': dict(tie_word_embeddings=False)}

def random_model(**shape):
    import torch
    from transformers import Gemma4ForCausalLM, Gemma4TextConfig
    torch.manual_seed(0)
    return randomise(Gemma4ForCausalLM(Gemma4TextConfig(**BASE | shape)).eval())

def randomise(model):
    "Weights that a mistake would show in: nothing is one or zero, and the bounds of clipped layers do clip. Attention is kept from saturating, or float32 itself is off by 1e-3."
    import torch
    with torch.no_grad():
        for name, p in model.named_parameters():
            if 'norm' in name or name.endswith('scale'): p.copy_((torch.randn_like(p)*.2 + 1)*(.5 if 'q_norm' in name or 'k_norm' in name else 1))
            else: p.copy_(torch.randn_like(p)*(.1 if p.ndim < 2 or p.shape[-1] > 20 else .3))
        for name, b in model.named_buffers():
            if 'layer_scalar' in name: b.fill_(.8)
            if name.endswith('_max'): b.fill_(1.)
            if name.endswith('_min'): b.fill_(-.7)
            if name.endswith(('std_bias', 'std_scale')): b.copy_(torch.randn_like(b)*.2 + 1)
    return model

def checkpoint(lm, folder: Path) -> Path:
    lm.save_pretrained(folder)
    shutil.copyfile(resolve('nano')/'tokenizer.json', folder/'tokenizer.json')
    return folder

@pytest.mark.parametrize('name', SHAPES)
def test_export_of(name, tmp_path):
    import torch
    lm = random_model(**SHAPES[name])
    (tmp_path/'out').mkdir()
    e = Engine(make(checkpoint(lm, tmp_path/'hf'), 'f32', tmp_path/'out'), threads=1)
    ids = np.random.default_rng(1).integers(0, 300, 40)
    with torch.no_grad(): want = lm(torch.tensor(ids)[None]).logits[0].numpy()
    got = np.concatenate([e.eval(ids[:30], all=True)] + [e.eval([t], all=True) for t in ids[30:]])
    assert want.std() > .1 and np.abs(got - want).max() < PARITY
    e.trim(5)
    assert np.abs(e.eval(ids[5:], all=True) - want[5:]).max() < PARITY
    e.close()

def test_a_decoder_is_traced_once(tmp_path, monkeypatch):
    "OpenVINO's own way would have torch trace it again, which takes longer than all the rest."
    import torch
    def twice(*args, **kw): raise AssertionError('a second trace')
    monkeypatch.setattr(torch.export.ExportedProgram, 'run_decompositions', twice)
    lm = random_model(**SHAPES['as 26B-A4B'])
    (tmp_path/'out').mkdir()
    make(checkpoint(lm, tmp_path/'hf'), 'f32', tmp_path/'out')

def test_text_part_of_a_checkpoint_with_towers(tmp_path):
    import torch
    from transformers import Gemma4Config, Gemma4ForConditionalGeneration, Gemma4TextConfig, Gemma4VisionConfig
    torch.manual_seed(0)
    vision = Gemma4VisionConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, head_dim=16)
    whole = Gemma4ForConditionalGeneration(Gemma4Config(text_config=Gemma4TextConfig(**BASE), vision_config=vision, audio_config=None)).eval()
    (tmp_path/'out').mkdir()
    e = Engine(make(checkpoint(whole, tmp_path/'hf'), 'f32', tmp_path/'out'), threads=1)
    ids = np.random.default_rng(1).integers(5, 250, 30)
    with torch.no_grad(): want = whole(input_ids=torch.tensor(ids)[None]).logits[0].numpy()
    assert np.abs(e.eval(ids, all=True) - want).max() < PARITY
    e.close()

def test_what_the_export_refuses(tmp_path):
    (tmp_path/'x.gguf').write_bytes(b'GGUF')
    with pytest.raises(BadBuild, match='llama.cpp engine'): make(tmp_path/'x.gguf', 'f32', tmp_path)
    with pytest.raises(UnknownFormat, match='Nearest: int4'): make(tmp_path, 'int-4', tmp_path)
    both = checkpoint(random_model(use_bidirectional_attention='all'), tmp_path/'both')
    with pytest.raises(Unsupported, match='both directions'): make(both, 'f32', tmp_path)

def test_weights_that_are_not_those_of_the_config(tmp_path):
    "transformers would put random numbers where it finds none."
    from safetensors.numpy import load_file, save_file
    hf = checkpoint(random_model(), tmp_path/'hf')
    config = json.loads((hf/'config.json').read_text())
    (hf/'config.json').write_text(json.dumps(config | dict(intermediate_size=128)))
    with pytest.raises(BadBuild, match="don't fit.*of another shape"): make(hf, 'f32', tmp_path)
    (hf/'config.json').write_text(json.dumps(config))
    weights = load_file(hf/'model.safetensors')
    del weights['model.layers.2.mlp.up_proj.weight']
    save_file(weights, hf/'model.safetensors', {'format': 'pt'})
    with pytest.raises(BadBuild, match='1 missing .* first model.layers.2.mlp.up_proj.weight'): make(hf, 'f32', tmp_path)

def test_truncated_safetensors(tmp_path):
    hf = checkpoint(random_model(), tmp_path/'hf')
    os.truncate(hf/'model.safetensors', 20_000)
    with pytest.raises(BadBuild, match='again'): make(hf, 'f32', tmp_path)


# Bad builds, bad calls

def spoilt(build: Path, tmp_path: Path, change) -> Path:
    bad = tmp_path/'bad'
    shutil.copytree(build, bad)
    change(bad)
    return bad

@pytest.mark.parametrize('change, match', [
    (lambda p: os.truncate(p/'openvino_model.bin', 5000), '5,000 of'),
    (lambda p: (p/'openvino_model.bin').unlink(), 'has 0 of'),
    (lambda p: (p/'openvino_model.xml').unlink(), 'no OpenVINO build'),
    (lambda p: (p/'edgewb.json').unlink(), 'no OpenVINO build'),
    (lambda p: (p/'edgewb.json').write_text('{'), 'damaged'),
    (lambda p: (p/'edgewb.json').write_text('{"bytes": 5}'), 'damaged'),
    (lambda p: (p/'openvino_model.xml').write_text('<net name="x" version="11"></net>'), 'again'),
    (lambda p: os.truncate(p/'openvino_model.xml', 50_000), 'can not read'),
    (lambda p: (p/'tokenizer.json').write_text('[]'), 'tokenizer'),
    (lambda p: (p/'tokenizer.json').unlink(), 'tokenizer')])
def test_bad_builds(int8, tmp_path, change, match):
    with pytest.raises(BadBuild, match=match): Engine(spoilt(int8, tmp_path, change))

def test_a_graph_from_elsewhere(int8, tmp_path):
    import openvino as ov
    from openvino import opset13 as op
    x = op.parameter([1, 4], np.float32, name='x')
    def change(p):
        ov.save_model(ov.Model([op.result(op.relu(x))], [x]), p/'openvino_model.xml')
        note = json.loads((p/'edgewb.json').read_text())
        (p/'edgewb.json').write_text(json.dumps(note | dict(bytes={f.name: f.stat().st_size for f in p.glob('*.bin')})))
    with pytest.raises(BadBuild, match='not a graph that edgewb made'): Engine(spoilt(int8, tmp_path, change))

@pytest.mark.parametrize('settings, match', [(dict(precision='fp16'), 'Nearest: f16'), (dict(device='NPU9'), 'device'), (dict(device='GPU.7'), 'device')])
def test_settings_that_do_not_exist(int8, settings, match):
    with pytest.raises(Unsupported, match=match): Engine(int8, **settings)

def test_one_thread_in_bfloat16_is_refused_where_it_would_crash():
    "Found as a dead process: the fused MLP of the CPU plugin splits its work over threads//2."
    import subprocess, sys
    from edgewb.hardware import detect
    code = "import sys; from edgewb.engine_openvino import Engine; from edgewb.weights import build\n" \
           "Engine(build('nano', 'openvino', 'bf16').path, threads=int(sys.argv[1]), precision='bf16').eval([5]*100); print('ran')"
    one, two = (subprocess.run([sys.executable, '-c', code, str(n)], capture_output=True, text=True) for n in (1, 2))
    assert two.stdout == 'ran\n' or detect().usable < 2 and 'Unsupported' in two.stderr, two.stderr[-500:]
    assert one.returncode >= 0 and ('Unsupported' in one.stderr if 'AMX-BF16' in detect().isa else one.stdout == 'ran\n')

@pytest.mark.parametrize('tokens', [[-1], [1 << 20], [5, 1024]])
def test_ids_outside_the_vocabulary(engine, tokens):
    before = engine.pos
    with pytest.raises(EdgewbError, match='token ids must be from 0 to 1023|no soft token'): engine.eval(tokens)
    assert engine.pos == before

def test_nothing_to_evaluate(engine):
    with pytest.raises(EdgewbError, match='no tokens'): engine.eval([])

@pytest.mark.parametrize('n', [-1, 10_000])
def test_roll_back_to_nowhere(engine, n):
    with pytest.raises(EdgewbError, match='can not be rolled back'): engine.trim(n)

def test_memory_is_asked_for_before_the_load(int8):
    small, large = (eo.memory_needed(int8, 'int8', n) for n in (256, 4096))
    assert large - small == 2*(4096 - 256)*4*2*(4*64 + 128)  # float32 keys and values of the five layers that own some, twice

def test_through_a_session(ids):
    from edgewb.session import load
    with load('nano', 'openvino', 'int8', threads=1) as s:
        full = s.generate(ids[:50], 20, ignore_eog=True)
        s.trim(0)
        y, own = s.eval(ids[:50]), []
        for _ in range(20):
            own.append(int(y.argmax()))
            y = s.eval(own[-1:])
        assert full.ids == own and len(own) == 20


def test_ctrl_c_after_two_engines(f32):
    "Each core brings a stack for signals on a CPU with AMX; the one named last must not have been freed."
    code = ("import os, signal, sys, time\nfrom edgewb.engine_openvino import Engine\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "a, b = (Engine(sys.argv[1], threads=1) for _ in 'ab')\nfor e in (a, b): e.eval([2]); e.close()\ndel a, b, e\n"
            "try: os.kill(os.getpid(), signal.SIGINT); time.sleep(10)\nexcept KeyboardInterrupt: print('interrupted')")
    said = subprocess.run([sys.executable, '-c', code, str(f32)], capture_output=True, text=True)
    assert said.stdout == 'interrupted\n', (said.returncode, said.stderr[-2000:])

"The catalogue: shapes against transformers' own modules, types against llama.cpp's own quantiser, sums against the engines' own."
import copy, ctypes, json, os, random, re, shutil, struct, subprocess, sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import edgewb
from edgewb import convert, core, cost, engine_llamacpp as lc, gguf
from edgewb.core import BadBuild, UnknownFormat, UnknownModel, Unsupported
from edgewb.gemma4 import CONFIGS, _drafter_config, catalogue, from_config, model, shapes
from edgewb.recipes import FORMATS, RECIPES, _plain, gguf_tensors, inventory
from edgewb.tensors import active_parameters, parameters, tensors
from edgewb.weights import build

NANO = Path(core.__file__).parent/'nano'
MODELS = [*CONFIGS, *(f'{s}-it-assistant' for s in CONFIGS)]


def config(name):
    "The config of a published model."
    size = name.removesuffix('-it-assistant')
    return copy.deepcopy(CONFIGS[size] if name == size else _drafter_config(size))


# --- shapes: transformers' own modules, on the meta device

@pytest.fixture
def transformers(monkeypatch):
    """transformers, able to build drafters. In 5.23.0 a text config whose layers all read the keys and values of another model raises ValueError
    ('The set of layer types producing a cache ...') when a model is made from it: here such layers are said to reuse, as its own modules expect."""
    import transformers
    from transformers.models.gemma4.configuration_gemma4 import Gemma4TextConfig
    from transformers.models.gemma4_unified.configuration_gemma4_unified import Gemma4UnifiedTextConfig
    for cls in (Gemma4TextConfig, Gemma4UnifiedTextConfig):
        own = cls.kv_sharing_modes
        modes = lambda c, own=own: ['reuse']*c.num_hidden_layers if c.num_kv_shared_layers == c.num_hidden_layers else own.fget(c)
        monkeypatch.setattr(cls, 'kv_sharing_modes', property(modes))
    return transformers


def meta_model(transformers, cfg):
    import torch
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    cls = {'gemma4': 'Gemma4ForConditionalGeneration', 'gemma4_unified': 'Gemma4UnifiedForConditionalGeneration', 'gemma4_text': 'Gemma4ForCausalLM',
           'gemma4_assistant': 'Gemma4AssistantForCausalLM', 'gemma4_unified_assistant': 'Gemma4UnifiedAssistantForCausalLM'}[cfg['model_type']]
    cfg = {k: v for k, v in cfg.items() if k != 'model_type'}
    kind = next(k for k, v in CONFIG_MAPPING.items() if v.__name__ == getattr(transformers, cls).config_class.__name__)
    with torch.device('meta'): return getattr(transformers, cls)(CONFIG_MAPPING[kind](**cfg))


def compare_with_modules(transformers, cfg):
    lm, s = meta_model(transformers, copy.deepcopy(cfg)), from_config(cfg)
    theirs = {k: tuple(v.shape) for k, v in lm.state_dict().items() if not (s.tied and k == 'lm_head.weight')}
    mine = {t.name: t.shape for t in tensors(s)}
    assert mine == theirs
    buffers = {k for k, _ in lm.named_buffers()}
    assert sum(t.elements for t in tensors(s) if t.name not in buffers) == sum(p.numel() for p in lm.parameters())


@pytest.mark.parametrize('name', MODELS)
def test_every_tensor_is_transformers_own(transformers, name):
    compare_with_modules(transformers, config(name))


def test_what_nano_grows_into_is_read_too(transformers):
    "The text model alone, an untied head, K=V without another number of heads, no sharing, no PLE, one tower of two."
    nano = json.loads((NANO/'config.json').read_text())
    compare_with_modules(transformers, nano)
    text = nano.get('text_config', nano)
    for change in ({'tie_word_embeddings': False}, {'attention_k_eq_v': True, 'num_kv_shared_layers': 0}, {'hidden_size_per_layer_input': 0},
                   {'enable_moe_block': True, 'num_experts': 8, 'top_k_experts': 2, 'moe_intermediate_size': 32}, {'layer_types': None, 'per_layer_config': None, 'num_kv_shared_layers': 0}):
        cfg = {k: v for k, v in {**text, **change, 'model_type': 'gemma4_text'}.items() if v is not None or k not in change}
        compare_with_modules(transformers, cfg)
    eyes = config('31B')['vision_config'] | dict(num_hidden_layers=2, use_clipped_linears=True)
    compare_with_modules(transformers, dict(model_type='gemma4', text_config={**text, 'model_type': 'gemma4_text'}, vision_config=eyes, audio_config=None))
    compare_with_modules(transformers, dict(model_type='gemma4', text_config={**text, 'model_type': 'gemma4_text'}, audio_config=dict(num_hidden_layers=1, use_clipped_linears=False)))


def test_unused_tensors_are_those_that_transformers_ignores(transformers):
    lm = meta_model(transformers, config('E2B'))
    ignored = lm.model.language_model._keys_to_ignore_on_load_unexpected
    unused = {t.name.removeprefix('model.language_model.').rpartition('.')[0] for t in tensors(shapes('E2B'), True) if t.role == 'unused'}
    assert len(unused) == 60 and unused == {k for k in ignored if not k.endswith('v_norm')}


# --- published totals

def test_totals_are_the_published_ones():
    whole = lambda name, stored=False: sum(parameters(shapes(name), stored).values())
    text = lambda name: whole(name) - parameters(shapes(name)).get('vision', 0)
    for got, published, off in ((whole('E2B'), 5.1, .01), (active_parameters(shapes('E2B')), 2.3, .03), (whole('E4B', True), 8.0, .01), (whole('12B'), 11.95, .02),
                                (text('26B-A4B'), 25.2, .04), (active_parameters(shapes('26B-A4B')), 3.8, .03), (text('31B'), 30.7, .01)):
        assert got/1e9 == pytest.approx(published, abs=off)
    assert 2*whole('12B-it-assistant') + 5360 + 8 == 845_719_296 # bytes of the published file, header and its length included
    assert (whole('E4B-it-assistant') + 262144)/1e6 == pytest.approx(78.8, abs=.05)
    counted = {z: sum(t.elements for t in gguf_tensors(shapes(z))) for z in CONFIGS} # llama-bench
    assert counted['E2B'] == 4_647_450_147 and counted['E4B'] == 7_518_069_290
    assert [round(n/1e9, 2) for n in counted.values()] == [4.65, 7.52, 11.91, 25.23, 30.70]


def test_published_files_have_the_predicted_size():
    assert inventory('E4B-it', 'Q4_K_M').bytes == 5_319_465_128 # llama.cpp's "model size"
    for size, recipe, real in (('E2B', 'Q8_0', 4_967_494_592), ('26B-A4B', 'Q4_0', 14_439_363_584)):
        assert abs(inventory(size, recipe).file_bytes - real) < 20_000
    assert 2*sum(t.elements for t in tensors(shapes('26B-A4B'))) == pytest.approx(51.61e9, rel=1e-3) # the bf16 checkpoint


# --- recipes: the quantiser's own dry run, on files of any size without data

def header_of(s):
    "Metadata that llama.cpp needs to know a model."
    arch, first = 'gemma4-assistant' if s.backbone else 'gemma4', {l.full: l for l in reversed(s.layers)}
    sliding, full = first.get(False, s.layers[0]), first[True]
    m = {'block_count': len(s.layers), 'context_length': s.context, 'embedding_length': s.hidden, 'feed_forward_length': [l.ff for l in s.layers],
         'attention.head_count': s.layers[0].heads, 'attention.head_count_kv': [l.kv_heads for l in s.layers], 'attention.layer_norm_rms_epsilon': 1e-6,
         'attention.sliding_window': s.window, 'attention.shared_kv_layers': sum(l.source != i for i, l in enumerate(s.layers)),
         'attention.sliding_window_pattern': [not l.full for l in s.layers], 'embedding_length_per_layer_input': s.ple, 'rope.freq_base': 1e6,
         'rope.freq_base_swa': 1e4, 'rope.dimension_count': full.head_dim, 'rope.dimension_count_swa': sliding.head_dim}
    for side in ('key', 'value'): m |= {f'attention.{side}_length': full.head_dim, f'attention.{side}_length_swa': sliding.head_dim}
    if s.experts: m |= {'expert_count': s.experts, 'expert_used_count': s.top_k, 'expert_feed_forward_length': s.expert_ff}
    if s.backbone: m |= {'embedding_length_out': s.backbone, 'nextn_predict_layers': len(s.layers)}
    return {'general.architecture': arch, 'general.file_type': 32} | {f'{arch}.{k}': v for k, v in m.items()}


def sparse(path, s, types=None, meta=None):
    "A GGUF file of a model's full size whose data is a hole: nothing is written but the header."
    ts = [(t.name, t.shape[::-1], types[t.name] if types else _plain(t, s.dtype)) for t in gguf_tensors(s, True) if not types or t.name in types]
    return hole(path, meta or header_of(s), ts)

def hole(path, meta, tensors, fill=None):
    "`gguf.write` without the data."
    table = gguf._placed(tensors)
    with open(path, 'wb') as f:
        f.write(b'GGUF' + struct.pack('<IQQ', 3, len(table), len(meta)))
        for k, v in meta.items(): f.write(gguf._text(k) + gguf._encode(v))
        for t in table: f.write(gguf._text(t.name) + struct.pack(f'<I{len(t.shape)}QIQ', len(t.shape), *t.shape, gguf.CODES[t.type], t.offset))
        f.write(b'\0'*(-f.tell() % 32))
        f.truncate(f.tell() + sum(-(-t.bytes//32)*32 for t in table))
    return path


FTYPES = {name: n for n, name in convert._FTYPES.items()} | {'Q4_1': 3, 'Q5_1': 9}
DECIDED = re.compile(r'\]\s+(\S+)\s+- \[[^\]]*\], type =\s*(\w+), size =\s*[\d.]+ MiB(?: ->\s*[\d.]+ MiB \((\w+)\))?')

def dry_run(path, recipe):
    "What llama.cpp's quantiser decides for each tensor; it reads no data and writes nothing."
    C = convert.library()
    p = C.llama_model_quantize_default_params()
    p.ftype, p.nthread, p.dry_run = FTYPES[recipe], 1, True
    convert.LOG.clear()
    convert.LOG.quiet = True
    try: assert C.llama_model_quantize(os.fsencode(path), os.fsencode(f'{path}.out'), ctypes.byref(p)) == 0
    finally: convert.LOG.quiet = False
    return {name: (to or was).upper() for name, was, to in DECIDED.findall(''.join(convert.LOG.lines))}


def odd(**change):
    "A small model whose widths and numbers make the rules bite."
    text = dict(vocab_size=512, hidden_size=256, intermediate_size=512, num_hidden_layers=11, num_attention_heads=4, num_key_value_heads=2, head_dim=64,
                global_head_dim=128, num_global_key_value_heads=None, sliding_window=64, hidden_size_per_layer_input=0, vocab_size_per_layer_input=512)
    return from_config({'model_type': 'gemma4_text', **text, **change})

ODD = {'two heads on one': odd(), 'eight heads on one': odd(num_attention_heads=8, num_key_value_heads=1), 'rows of 288': odd(hidden_size=288, intermediate_size=544),
       'rows of 72': odd(hidden_size=72, intermediate_size=200), 'untied head': odd(tie_word_embeddings=False),
       'narrow PLE': odd(hidden_size_per_layer_input=40), 'eight experts': odd(enable_moe_block=True, num_experts=8, top_k_experts=2, moe_intermediate_size=96),
       'sixteen experts, K=V': odd(enable_moe_block=True, num_experts=16, top_k_experts=2, moe_intermediate_size=256, attention_k_eq_v=True, num_global_key_value_heads=1),
       'sharing': odd(num_kv_shared_layers=5, use_double_wide_mlp=True), 'forty layers': odd(num_hidden_layers=40)}

@pytest.mark.parametrize('what', [*CONFIGS, 'E2B-it-assistant', '12B-it-assistant', 'nano', *ODD])
def test_every_recipe_is_llamacpps_own(what, tmp_path):
    s = ODD.get(what) or shapes(what)
    path = sparse(tmp_path/'model.gguf', s)
    assert path.stat().st_blocks*512 < 10e6, 'the file system has no holes'
    for recipe in RECIPES:
        assert {t.name: t.type for t in inventory(s, recipe, stored=True)} == dry_run(path, recipe), recipe


@pytest.mark.parametrize('format', [f for f in FORMATS['llama.cpp'] if f in convert.FORMATS])
def test_nano_in_every_gguf_format(format):
    made = build('nano', 'llama.cpp', format)
    mine = inventory('nano', format)
    assert {t.name: (t.shape[::-1], t.type) for t in mine} == {t.name: (t.shape, t.type) for t in gguf.inventory(made.path)}
    text = gguf.inventory(made.path)
    assert mine.bytes == text.bytes and mine.bpw == pytest.approx(text.bpw, rel=.01)
    read = inventory(made.path)
    assert read.read and [(t.name, t.role, t.type) for t in sorted(read, key=lambda t: t.name)] == [(t.name, t.role, t.type) for t in sorted(mine, key=lambda t: t.name)]


def test_every_format_of_edgewb_has_a_recipe():
    from edgewb.weights import engines, formats
    for engine in engines():
        if engine in FORMATS: assert set(formats(engine)) <= set(FORMATS[engine])


@pytest.mark.parametrize('format', ['f32', 'int8', 'int4'])
def test_openvinos_weights(format):
    for model in ('nano', 'nano-moe', 'nano-dense'):
        graph = build(model, 'openvino', format).path/'openvino_model.bin'
        assert 0 < graph.stat().st_size - inventory(NANO/model[5:], format, 'openvino').bytes < 1300, model # constants of the graph


def test_a_checkpoint_in_torch():
    from edgewb import engine_torch
    from edgewb.weights import n_params
    assert inventory('nano', 'bf16').bytes == 2*n_params(NANO)
    if hasattr(engine_torch, 'memory_needed'): # the same weights, by the engine's own account
        for f in ('bf16', 'f32'): assert engine_torch.memory_needed(NANO, f, 2048, device='cpu') == cost.memory(inventory('nano', f))['weights']


# --- the converter, on small random checkpoints of the other architectures

def tiny(name):
    "A model's config with few and narrow layers: nano's vocabulary, everything else of its kind."
    cfg = config(name)
    t = cfg['text_config']
    n = 4 if name.endswith('assistant') else 6
    t |= dict(vocab_size=1024, hidden_size=64, num_hidden_layers=n, layer_types=t['layer_types'][-n:], intermediate_size=96, num_attention_heads=4, head_dim=16,
              global_head_dim=32, num_key_value_heads=2, dtype='bfloat16')
    if t.get('num_global_key_value_heads'): t['num_global_key_value_heads'] = 1
    if t.get('enable_moe_block'): t |= dict(num_experts=4, top_k_experts=2, moe_intermediate_size=32)
    if 'backbone_hidden_size' in cfg: cfg |= dict(backbone_hidden_size=80, num_centroids=16)
    if cfg.get('vision_config'): cfg['vision_config'] |= dict(num_hidden_layers=1, position_embedding_size=16)
    return cfg

@pytest.mark.parametrize('name', ['26B-A4B', '12B', 'E2B-it-assistant'])
def test_the_converter_names_tensors_so(transformers, name, tmp_path):
    import torch
    lm = meta_model(transformers, tiny(name)).to_empty(device='cpu').to(torch.bfloat16)
    for p in (*lm.parameters(), *lm.buffers()): p.data.zero_()
    lm.tie_weights()
    lm.config.dtype = 'bfloat16'
    lm.save_pretrained(tmp_path/'tiny')
    at = tmp_path/'tiny'/'config.json' # transformers leaves out a key that the published 12B has, as null, and that the converter looks for
    saved = json.loads(at.read_text())
    saved['text_config'].setdefault('moe_intermediate_size', None)
    at.write_text(json.dumps(saved))
    for f in ('tokenizer.json', 'tokenizer_config.json'): shutil.copy(NANO/f, tmp_path/'tiny')
    s = shapes(tmp_path/'tiny')
    made = gguf.inventory(convert._convert(tmp_path/'tiny', 'BF16', tmp_path/'tiny.gguf'))
    assert {t.name: (t.shape[::-1], t.type) for t in inventory(s, 'BF16', stored=False)} == {t.name: (t.shape, t.type) for t in made}
    read = shapes(made)
    assert (read.layers, read.hidden, read.vocab, read.window, read.experts, read.top_k, read.expert_ff, read.backbone, read.tied) == \
           (s.layers, s.hidden, s.vocab, s.window, s.experts, s.top_k, s.expert_ff, s.backbone, s.tied)


# --- cache, traffic, arithmetic

SETTINGS = [dict(), dict(cache='q8_0'), dict(cache='q8_0', cache_v='q4_0'), dict(cache='f32', flash=False), dict(swa_full=True), dict(batch=64), dict(batch=2048)]

def engines_settings(kw, **more):
    return lc._settings(dict(cache_type_k=kw.get('cache', 'f16'), cache_type_v=kw.get('cache_v') or kw.get('cache', 'f16'), n_batch=kw.get('batch', 512),
                             swa_full=kw.get('swa_full', False), flash_attn='on' if kw.get('flash', True) else 'off', **more))

@pytest.mark.parametrize('what', [*CONFIGS, 'nano'])
def test_cache_and_memory_agree_with_the_engine(what, tmp_path):
    "From a file's header, as the engine reads it before loading, and from the shapes alone."
    mine = inventory(what, 'Q4_K_M', stored=True)
    header = gguf.inventory(sparse(tmp_path/'model.gguf', mine.shapes, {t.name: t.type for t in mine}))
    for kw in SETTINGS:
        for n in (1, 777, 4096, 100_000):
            assert cost.kv_bytes(what, n, **kw) == lc.kv_bytes(header, n, engines_settings(kw))
        for mmap in (True, False):
            theirs, ours = lc.memory_need(header, 4096, engines_settings(kw, use_mmap=mmap)), cost.memory(mine, 4096, mmap=mmap, **kw)
            assert [ours['weights'], ours['KV cache'], ours['a step']] == [theirs['weights'], theirs['kv'], theirs['compute']]


def test_the_random_e2b_agrees(tmp_path, monkeypatch):
    "The file that benchmarks run on, as the code that makes it lays it out, its data a hole: header, types, and what the engine expects it to take."
    from edgewb import fullsize
    monkeypatch.setattr(gguf, 'write', hole)
    monkeypatch.setattr(fullsize, '_room', lambda *_: None) # a hole takes none
    (model, of), = fullsize.MODELS.items()
    path = fullsize.write_gguf(tmp_path/f'{model}-Q4_K_M.gguf', from_config(fullsize.config_json(of), model))
    held = {t.name: (t.shape[::-1], t.type) for t in gguf.inventory(path)}
    mine = {t.name: (t.shape, t.type) for t in inventory('E2B-it', 'Q4_K_M')}
    assert {k: mine[k] for k in held} == held
    assert {t.role for t in inventory('E2B-it', 'Q4_K_M') if t.name not in held} <= {'unused'}
    read, header = inventory(path), gguf.inventory(path)
    assert cost.bytes_per_token(read) == cost.bytes_per_token(inventory('E2B-it', 'Q4_K_M'))
    theirs, ours = lc.memory_need(header, 8192), cost.memory(read, 8192)
    assert [ours['weights'], ours['KV cache'], ours['a step']] == [theirs['weights'], theirs['kv'], theirs['compute']]
    assert cost.fits(path, hardware=8 << 30) and not cost.fits(path, hardware=1 << 30)


def test_openvinos_memory_agrees():
    from edgewb import engine_openvino
    for f in ('f32', 'int8'):
        made = build('nano-moe', 'openvino', f).path
        theirs = engine_openvino.memory_needed(made, f, 2048)
        assert sum(cost.memory(inventory(NANO/'moe', f, 'openvino'), 2048).values()) == pytest.approx(theirs, abs=10_000)


def test_cache_per_token_is_the_published_one():
    "KiB a token in 16 bits, of full and of sliding layers, from the configs' numbers."
    for name, full, sliding in (('E2B', 6, 12), ('E4B', 16, 40), ('12B', 16, 320), ('26B-A4B', 20, 200), ('31B', 80, 800)):
        window = shapes(name).window
        assert cost.kv_bytes(name, 65536, batch=0) == (65536*full + window*sliding)*1024
        assert cost.kv_bytes(name, 65536, swa_full=True) == 65536*(full + sliding)*1024


def test_reading_the_cache_counts_every_layer():
    s = shapes('E2B')
    assert cost.kv_read(s, 4096) == sum((4096 if l.full else 512)*2*2*l.kv_width for l in s.layers)
    assert cost.kv_read(s, 100) > cost.kv_bytes(s, 100, batch=0)*100/256 # sharing layers read what they do not keep
    assert cost.kv_read('E2B-it-assistant', 1000) == 2*2*(3*512*256 + 1000*512)


@pytest.mark.parametrize('model, format, gb', [('E2B', 'Q4_0', 1.39), ('E2B', 'Q4_K_M', 1.48), ('E4B', 'Q4_0', 2.79), ('E4B', 'Q4_K_M', 2.98), ('26B-A4B', 'IQ4_NL', 2.34),
                                               ('12B', 'Q4_0', 6.98), ('31B', 'Q8_0', 32.6)])
def test_bytes_per_token_as_computed_elsewhere(model, format, gb):
    assert cost.bytes_per_token(inventory(model, format))/1e9 == pytest.approx(gb, rel=.03)


def test_what_is_read_and_what_is_not():
    e2b = inventory('E2B-it', 'Q4_K_M')
    ple = next(t for t in e2b if t.role == 'ple_table')
    assert cost.traffic(e2b)['PLE'] == ple.bytes/262144
    assert sum(cost.traffic(e2b).values()) == pytest.approx(e2b.bytes - ple.bytes - sum(t.bytes for t in e2b if t.part == 'unused'), rel=1e-4)
    moe = inventory('26B-A4B')
    assert cost.traffic(moe)['experts'] == pytest.approx(sum(t.bytes for t in moe if t.part == 'experts')*8/128, rel=1e-9)
    assert cost.traffic(moe, tokens=8)['experts']/cost.traffic(moe)['experts'] == pytest.approx(128*(1 - (15/16)**8)/8, rel=1e-6)
    drafter = inventory('E2B-it-assistant', 'bf16') # searches 4,096 of 262,144 words; a GGUF file of it has the whole head
    assert cost.traffic(drafter)['head'] == 2*2048*256 + 4096*(2*256 + 8)
    assert cost.traffic(inventory('E2B-it-assistant', 'F16'))['head'] == 2*262144*256


def test_arithmetic():
    s = shapes('E2B')
    body = sum(t.elements for t in tensors(s) if t.part == 'body' and len(t.shape) > 1)
    assert cost.flops(s)['body'] == 2*body and cost.flops(s)['head'] == 2*262144*1536
    assert cost.flops(s, 512)['body'] == 512*2*body
    assert cost.flops(s, 512, skip=True)['body'] < 0.5*512*2*body
    assert cost.flops('26B-A4B')['experts'] == 2*sum(t.elements for t in tensors(shapes('26B-A4B')) if t.part == 'experts')*8//128
    slow = sum(4*l.heads*l.head_dim*min(100 + i + 1, s.window if not l.full else 10**9) for l in s.layers for i in range(700))
    assert cost.flops(s, 700, depth=100)['attention'] == slow
    assert sum(cost.flops('26B-A4B').values())/2 == pytest.approx(active_parameters(shapes('26B-A4B')), rel=.01)


# --- names, files and machines

def test_names():
    assert len({m.hub for m in catalogue()}) == len(catalogue()) and {m.size for m in catalogue()} == set(CONFIGS)
    for m in catalogue(): assert model(m.hub) == m and m.shapes.hidden == shapes(m.size if not m.drafter else f'{m.size}-it-assistant').hidden
    assert edgewb.model('E2B-IT').hub == 'google/gemma-4-E2B-it' and edgewb.shapes('e2b').layers == shapes('E2B').layers
    with pytest.raises(UnknownModel, match='gemma-4-E4B-it'): model('gemma4-E4B-itt')
    with pytest.raises(UnknownModel, match='nano'): shapes('nanno')
    with pytest.raises(UnknownFormat, match='Q4_K_M'): inventory('E2B', 'Q4_KM')
    with pytest.raises(UnknownFormat, match='int8'): inventory('E2B', 'Q4_K_M', 'openvino')
    with pytest.raises(Unsupported): inventory('E2B', 'int8', 'vllm')


def test_folders_and_files(tmp_path):
    assert shapes(NANO) == shapes(NANO/'config.json') == shapes('nano')
    for name, text in (('a', '{'), ('b', '[]'), ('c', '{"model_type": "llama"}'), ('d', '{"model_type": "gemma4"}'), ('e', '['*100_000)):
        (tmp_path/name).mkdir()
        (tmp_path/name/'config.json').write_text(text)
        with pytest.raises(BadBuild): shapes(tmp_path/name)
    with pytest.raises(BadBuild): shapes(tmp_path)
    (tmp_path/'x.gguf').write_bytes(b'GGUF')
    with pytest.raises(BadBuild): shapes(tmp_path/'x.gguf')
    foreign = sparse(tmp_path/'clip.gguf', odd())
    foreign.write_bytes(foreign.read_bytes().replace(b'general.architecture\x08\0\0\0\x06\0\0\0\0\0\0\0gemma4', b'general.architecture\x08\0\0\0\x06\0\0\0\0\0\0\0gemma3', 1))
    with pytest.raises(BadBuild, match='gemma3'): shapes(foreign)


def test_no_config_makes_it_fail_otherwise():
    "Ten thousand damaged configs: shapes, or BadBuild with a sentence."
    rng, junk = random.Random(0), [None, 0, -1, 1, 10**20, 1.5, '', 'x', [], {}, True, ['full_attention'], {'0': 3}, [None]*35]
    def damage(c):
        at = rng.choice([c, *(v for v in c.values() if isinstance(v, dict))])
        key = rng.choice([*at, 'per_layer_config', 'enable_moe_block'])
        if rng.random() < .3: at.pop(key, None)
        else: at[key] = rng.choice(junk)
    good = 0
    for _ in range(10_000):
        c = config(rng.choice(MODELS))
        for _ in range(rng.randint(1, 3)): damage(c)
        try: good += from_config(c).hidden > 0
        except BadBuild as e: assert str(e).endswith('.')
    assert 1000 < good < 9000


def test_no_header_makes_it_fail_otherwise(tmp_path):
    "Damaged GGUF metadata: shapes and an inventory, or BadBuild with a sentence."
    rng, s, good = random.Random(0), odd(num_kv_shared_layers=5, hidden_size_per_layer_input=32), 0
    types = {t.name: t.type for t in inventory(s, 'Q4_0')}
    for _ in range(400):
        meta = header_of(s)
        for _ in range(rng.randint(1, 2)):
            key = rng.choice(list(meta)[2:])
            meta[key] = rng.choice([0, 1, 7, 2**31, 1.5, '', 'x', [1], [1]*11, [True]*11, ['x']*11, [1]*5000, True])
        path = sparse(tmp_path/'model.gguf', s, types, meta)
        try: good += inventory(path).bytes > 0
        except BadBuild as e: assert str(e).endswith('.')
    assert 20 < good < 380


def test_machines():
    for hw, yes in ((8 << 30, True), (1.2e9, False), (edgewb.Hardware(memory=8 << 30, available=6 << 30), True), (edgewb.Hardware(memory=8 << 30, available=1 << 30), False),
                    (edgewb.Hardware(memory=2 << 30), False), (SimpleNamespace(memory=8 << 30), True)):
        assert bool(edgewb.fits('E2B-it', 'Q4_K_M', hw)) is yes
    for hw in (SimpleNamespace(), edgewb.Hardware(), True):
        with pytest.raises(Unsupported): edgewb.fits('nano', hardware=hw)
    with pytest.raises(edgewb.UnknownHardware): edgewb.fits('nano', hardware='much')
    assert edgewb.fits('nano') # here, now
    f = edgewb.fits('31B', 'bf16', 24 << 30)
    assert not f and f.advice in repr(f) and f.advice in f._repr_html_() and f.need > f.have and re.search(r'\w+ on llama.cpp would fit', f.advice)
    assert 'context' in edgewb.fits('E2B', 'Q2_K', int(1.9e9), context=131072).advice
    assert '<b>' not in edgewb.fits(from_config(config('E2B'), '<b>bold</b>'), 'Q4_K_M', 8 << 30)._repr_html_()


def test_importing_it_is_light():
    code = "import sys, edgewb; edgewb.fits('E2B-it', 'Q4_K_M', 1 << 33); print([m for m in ('torch', 'transformers', 'llama_cpp', 'openvino', 'plotly') if m in sys.modules])"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == '[]'

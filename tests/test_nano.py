"""nano: the shape it has, the split it was judged by, how good it is, and that it feels quantisation."""
import json, random
import pytest
from edgewb import weights
from edgewb.nano import media, tasks

NANO = weights.resolve('nano')
WHOLE = json.loads((NANO/'config.json').read_text())
CONFIG = WHOLE['text_config']

SCENES = 1564836174 # crc32 of one held-out scene of each media family

# ---- what it is

def test_it_has_every_feature_of_e2b():
    c = CONFIG
    assert WHOLE['architectures'] == ['Gemma4ForConditionalGeneration'] and WHOLE['model_type'] == 'gemma4' and c['model_type'] == 'gemma4_text'
    assert c['use_bidirectional_attention'] is None and not c['enable_moe_block'] and not c['attention_k_eq_v']
    types, shared = c['layer_types'], c['num_kv_shared_layers']
    assert types == (['sliding_attention'] * 4 + ['full_attention']) * 2
    kept = types[:-shared]
    assert kept[-2:] == ['sliding_attention', 'full_attention'], 'llama.cpp reads shared keys from the last two kept layers'
    assert set(types[-shared:]) <= set(kept)
    assert c['use_double_wide_mlp'] and c['final_logit_softcapping'] == 30 and c['tie_word_embeddings']
    full = c['rope_parameters']['full_attention']
    assert (full['rope_type'], full['partial_rotary_factor']) == ('proportional', .25)
    assert {l: v['head_dim'] for l, v in c['per_layer_config'].items()} == {'4': 128, '9': 128} and c['head_dim'] == 64
    assert c['hidden_size_per_layer_input'] and c['sliding_window'] == 64

def test_its_towers_are_e2bs_in_small():
    see, hear = WHOLE['vision_config'], WHOLE['audio_config']
    assert see['pooling_kernel_size'] == 3 and see['use_clipped_linears'] and not see['standardize'] and see['position_embedding_size'] >= 3 * 1120
    assert hear['use_clipped_linears'] and hear['attention_context_right'] == 0 and hear['attention_chunk_size'] == 12
    tok = {a['content']: a['id'] for a in json.loads((NANO/'tokenizer.json').read_text())['added_tokens']}
    for k, t in dict(boi_token_id='<|image>', image_token_id='<|image|>', eoi_token_id='<image|>', boa_token_id='<|audio>', audio_token_id='<|audio|>', eoa_token_index='<audio|>', video_token_id='<|video|>').items():
        assert WHOLE[k] == tok[t], k
    front = json.loads((NANO/'preprocessor_config.json').read_text())
    assert front['patch_size'] == see['patch_size'] and front['max_soft_tokens'] == 70

def test_every_width_takes_a_k_quant():
    c = CONFIG
    for width in (c['hidden_size'], c['intermediate_size'], 2 * c['intermediate_size'], c['hidden_size_per_layer_input'],
                  c['num_hidden_layers'] * c['hidden_size_per_layer_input'], c['num_attention_heads'] * c['head_dim'], c['num_attention_heads'] * 128):
        assert width % 256 == 0, width

def test_size_and_files():
    from safetensors import safe_open
    with safe_open(NANO/'model.safetensors', 'np') as f:
        tensors = {k: f.get_slice(k) for k in f.keys()}
        n = 0
        for k, t in tensors.items():
            assert t.get_dtype() == 'BF16', k
            size = 1
            for d in t.get_shape(): size *= d
            n += size
    assert 8e6 < n <= 16e6
    assert not any(f'language_model.layers.{i}.self_attn.{p}_proj' in k for k in tensors for i in range(5, 10) for p in 'kv'), 'shared layers have no keys of their own'
    assert sum(f.stat().st_size for f in NANO.iterdir() if f.is_file()) <= 40e6
    gen = json.loads((NANO/'generation_config.json').read_text())
    tok = json.loads((NANO/'tokenizer.json').read_text())
    assert [next(a['content'] for a in tok['added_tokens'] if a['id'] == i) for i in gen['eos_token_id']] == ['<eos>', '<turn|>', '<|tool_response>']

# ---- how it was judged

@pytest.mark.parametrize('family', tasks.FAMILIES)
def test_training_and_evaluation_never_meet(family):
    rng = random.Random(family)
    trained, prompts = set(), set()
    for i in range(400):
        it = tasks.draw(family, rng, train=True, level=rng.choice([.3, .6, 1.]), many=rng.random() < .5)
        trained |= set(it.keys); prompts.add(tasks.prompt(it))
        before = '' if not it.follow else it.keys[0][:it.keys[0].rindex('What is')] if family == 'recall' else it.keys[0].split('\n')[0] + '\n'
        trained |= {before + q for q, _ in it.follow} # later turns ask on the same text
    asked = tasks.held_out_items(family, 100)
    assert len(asked) >= 50 and len({tasks.prompt(it) for it in asked}) == len(asked)
    assert not trained & {k for it in asked for k in it.keys} and not prompts & {tasks.prompt(it) for it in asked}
    assert not any(map(tasks.held_out, trained)) and all(tasks.held_out(k) for it in asked for k in it.keys)

def test_every_fact_is_trained_in_some_wording():
    for att, forms in tasks.PHRASES.items():
        assert len(forms) >= 6
        known = [any(not tasks.held_out(f.format(p.name)) for f in forms) for p in tasks.world()]
        assert all(known)
    names = [p.name for p in tasks.world()]
    assert len(set(names)) == len(names) >= 1000 and tasks.world(100) == tasks.world()[:100]

def test_answers_are_right():
    "The generators against Python's own arithmetic and calendar."
    import datetime
    for it in tasks.held_out_items('arithmetic', 60):
        q = it.keys[0].split()[1]
        a, op, b = q.partition('+') if '+' in q else q.partition('-')
        assert it.answer == str(int(a) + int(b) if op == '+' else int(a) - int(b))
    seen = 0
    for it in tasks.held_out_items('dates', 150):
        w = it.messages[0]['content'].rstrip('?.').split()
        if w[:3] == ['What', 'date', 'is']:
            d = datetime.datetime.strptime(f'{w[-2]} {w[-1]} 2025', '%d %B %Y') + datetime.timedelta(days=int(w[3]))
            assert it.answer == f'{d.day} {d:%B}'; seen += 1
        elif w[0] == 'Write' and 'ISO' in w:
            assert it.answer == datetime.datetime.strptime(' '.join(w[1:4]), '%d %B %Y').strftime('%Y-%m-%d'); seen += 1
    assert seen > 60
    for it in tasks.held_out_items('units', 80):
        v, big, _, small = it.messages[0]['content'][8:-1].split()
        got, unit = it.answer.split()
        e = {(a, b): n for a, b, n in tasks.UNITS} | {(b, a): -n for a, b, n in tasks.UNITS}
        assert unit == small and abs(float(got) - float(v) * 10.0 ** e[big, small]) < 1e-9 * max(1, float(got))

def test_recall_bridges_more_than_a_window():
    from tokenizers import Tokenizer
    tok = Tokenizer.from_file(str(NANO/'tokenizer.json'))
    gaps = []
    for it in tasks.held_out_items('recall', 100):
        ids = tok.encode(tasks.prompt(it), add_special_tokens=False).ids
        head = tok.encode(tasks.prompt(it).split('.')[0], add_special_tokens=False).ids
        gaps.append(len(ids) - len(head))
    assert min(gaps) > 64 and max(gaps) > 3 * 64

def test_check_is_strict():
    fact = tasks.held_out_items('facts', 1)[0]
    assert tasks.check(fact, tasks.reply(fact)) and tasks.check(fact, f'<|channel>thought\nhm\n<channel|>{fact.answer}<turn|>rest')
    for wrong in ('', fact.answer + 'x', fact.answer + ' or so', f'<|channel>thought\n{fact.answer}', fact.answer.lower() + '.'): assert not tasks.check(fact, wrong)
    tool = next(it for it in tasks.held_out_items('tools', 20) if not isinstance(it.answer, str))
    good = tasks.reply(tool)
    assert tasks.check(tool, good)
    name = tool.answer[0]
    for wrong in (good.replace(name, 'other', 1), good + good.replace('<|tool_response>', ''), 'text', good.replace('{', '{extra:1,', 1)):
        if wrong.count('<|tool_call>') == 2: wrong = good.split('<|tool_response>')[0] * 2
        assert not tasks.check(tool, wrong), wrong

# ---- how good it is

def test_held_out_accuracy_through_an_engine():
    """The bar is 90% over the families. The recorded measurement meets it; a smaller one through another build and with other items must not contradict it,
    nor the card, family by family."""
    from edgewb.session import load
    recorded = {f: tasks.Count(*c) for f, c in json.loads((NANO/'results.json').read_text())['families'].items()}
    assert set(recorded) == set(tasks.FAMILIES)
    assert tasks.total(recorded).n >= 1000 and tasks.total(recorded).rate >= .90
    with load('nano', 'llama.cpp', 'Q8_0') as s: counts = tasks.evaluate(tasks.answers(s), n=25, seed=1)
    assert tasks.total(counts).interval[1] >= .90, {f: str(c) for f, c in counts.items()}
    for f, c in counts.items():
        assert c.interval[0] <= recorded[f].interval[1] and recorded[f].interval[0] <= c.interval[1], f'the card says {f} is {recorded[f]}, here it is {c}'

def test_damage_was_measured():
    "Two bits cost the fragile families at least ten points beyond what chance explains: the recorded measurement, n = 450."
    from edgewb.nano.train import recorded
    _, rows = recorded()
    assert [r.format for r in rows] == ['F16', 'Q8_0', 'Q6_K', 'Q5_K_M', 'Q4_K_M', 'Q3_K_M', 'Q2_K']
    klds = [r.kld for r in rows]
    assert all(a < b for a, b in zip(klds, klds[1:])), rows
    q8, q2 = rows[1].fragile, rows[-1].fragile
    assert q8.n == q2.n >= 400 and q8.rate - q2.rate >= .10 and q2.interval[1] < q8.interval[0], rows

def test_damage_shows():
    "The same on fewer and other items, live: divergence grows with every format, and its size is the recorded one."
    from edgewb.nano.train import recorded
    rows = tasks.damage(n=25, seed=2)
    klds = [r.kld for r in rows]
    assert all(a < b for a, b in zip(klds, klds[1:])), rows
    assert rows[-1].fragile.right < rows[1].fragile.right, rows
    for now, then in zip(rows, recorded()[1]): assert now.bytes == then.bytes and .4 * then.kld <= now.kld <= 2.5 * then.kld, (now, then)

# ---- what it sees and hears

@pytest.mark.parametrize('family', media.MEDIA_FAMILIES)
def test_no_held_out_scene_is_ever_drawn_for_training(family):
    rng = random.Random(family)
    trained = [media.draw(family, rng) for _ in range(300)]
    asked = media.held_out_items(family, 100)
    assert len({it.keys[0] for it in asked}) == len(asked)
    assert not {it.keys[0] for it in trained} & {it.keys[0] for it in asked}
    assert not any(tasks.held_out(it.keys[0]) for it in trained) and all(tasks.held_out(it.keys[0]) for it in asked)
    assert all(it.keys[0] == str(media.scene(it)[1]) for it in trained + asked), 'the whole scene is the key, whatever is asked about it'

def test_a_scene_gives_the_same_pixels_and_samples_everywhere():
    "The data are a function of the seeds: these hashes are those of the machine that trained."
    from zlib import crc32
    got = {}
    for f in media.MEDIA_FAMILIES:
        kind, s = media.scene(media.held_out_items(f, 1)[0])
        got[f] = s
        a = media.paint(s) if kind == 'image' else media.play(s)
        assert (a == (media.paint(s) if kind == 'image' else media.play(s))).all()
        assert a.shape == ((96, 96, 3) if kind == 'image' else (int(s.seconds * 16000),)) and a.dtype == ('uint8' if kind == 'image' else 'float32')
    assert crc32(str(got).encode()) == SCENES

def test_it_sees_and_hears():
    "The bar is 90% over the pictures and over the sounds, recorded with n >= 100 a family; a small live measurement must not contradict it."
    from edgewb.nano import towers
    recorded = {f: tasks.Count(*c) for f, c in json.loads((NANO/'results.json').read_text())['media'].items()}
    now = {f: tasks.Count(*c) for f, c in towers.measure(n=8).items()}
    assert set(recorded) == set(now) == set(media.PICTURES + media.SOUNDS)
    for fs in (media.PICTURES, media.SOUNDS):
        then = tasks.total(recorded, fs)
        assert min(recorded[f].n for f in fs) >= 100 and then.rate >= .90, {f: str(recorded[f]) for f in fs}
        assert tasks.total(now, fs).interval[1] >= then.interval[0], {f: str(now[f]) for f in fs}

# ---- the family

def _siblings(): return [m for m in weights.models(drafters=True) if m.startswith('nano-')]

def test_the_family_is_there():
    assert set(_siblings()) == {'nano-moe', 'nano-dense', 'nano-unified', 'nano-draft', 'nano-assistant'}
    for m in _siblings():
        folder = weights.resolve(m)
        assert (folder/'README.md').exists() and (folder/'results.json').exists() and (folder/'tokenizer.json').read_bytes() == (NANO/'tokenizer.json').read_bytes()
        assert (folder/'chat_template.jinja').read_bytes() == (NANO/'chat_template.jinja').read_bytes()

def test_the_siblings_have_what_nano_lacks():
    c = {m: json.loads((weights.resolve(m)/'config.json').read_text()) for m in _siblings()}
    t = {m: v.get('text_config', v) for m, v in c.items()}
    for m in ('nano-moe', 'nano-dense', 'nano-unified'):
        assert t[m]['attention_k_eq_v'] and t[m]['use_bidirectional_attention'] == 'vision' and t[m]['num_kv_shared_layers'] == 0
        assert t[m]['layer_types'] == ['sliding_attention'] * 5 + ['full_attention']
    assert t['nano-moe']['enable_moe_block'] and t['nano-moe']['moe_intermediate_size'] % 256
    assert t['nano-dense']['num_key_value_heads'] > 1 and c['nano-dense']['vision_config']['standardize']
    assert c['nano-unified']['model_type'] == 'gemma4_unified' and c['nano-assistant']['model_type'] == 'gemma4_assistant'
    assert c['nano-assistant']['backbone_hidden_size'] == CONFIG['hidden_size']

@pytest.mark.parametrize('model', ['nano-moe', 'nano-dense', 'nano-unified', 'nano-draft'])
def test_a_sibling_says_the_same_in_two_engines(model):
    "The same logits in torch and llama.cpp, past two windows; where a router nearly ties, another expert may be chosen, so the median stands for moe."
    import numpy as np
    from edgewb.session import load
    ids = [2] + np.random.default_rng(0).integers(24, 1024, 160).tolist()
    with load(model, 'torch', 'f32') as s: a = s.eval(ids, all=True).copy()
    with load(model, 'llama.cpp', 'F32', cache_type='f32', flash_attn='off') as s: b = s.eval(ids, all=True).copy()
    d = np.abs(a - b).max(1)
    assert np.median(d) < .02 and (model == 'nano-moe' or d.max() < .05), (model, float(np.median(d)), float(d.max()))

def test_a_card_says_what_was_recorded_of_each():
    from edgewb.nano import family
    for m in _siblings(): assert (weights.resolve(m)/'README.md').read_text(encoding='utf-8') == family.card(m[5:])

def test_no_tensor_falls_back():
    from edgewb.engine_llamacpp import fallbacks
    from edgewb.gguf import inventory
    from edgewb.weights import build
    for fmt in ('Q6_K', 'Q4_K_M', 'Q2_K'): assert not fallbacks(inventory(build('nano', 'llama.cpp', fmt).path)), fmt

def test_the_card_says_what_was_recorded():
    from edgewb.nano import train
    assert (NANO/'README.md').read_text(encoding='utf-8') == train.card()

"OpenVINO: pictures, sounds and films through exported towers and through the whole model, against transformers in float32."
import json, os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgewb import engine_openvino as eo
from edgewb.core import BadBuild, BadMedia, EdgewbError, Unsupported
from edgewb.engine_openvino import Engine, make
from edgewb.openvino_export import shared_core
from test_openvino import BASE, PARITY, checkpoint, randomise, spoilt

VISION = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, head_dim=16, patch_size=4, pooling_kernel_size=3,
              position_embedding_size=3360, use_clipped_linears=True)
AUDIO = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, subsampling_conv_channels=[128, 8], output_proj_dims=48, use_clipped_linears=True)
FEW = dict(num_hidden_layers=3, layer_types=['sliding_attention']*2 + ['full_attention'])
BIG = FEW | dict(attention_k_eq_v=True, num_key_value_heads=2, num_global_key_value_heads=1, hidden_size_per_layer_input=0, use_bidirectional_attention='vision')
EXPERTS = dict(enable_moe_block=True, num_experts=8, top_k_experts=3, moe_intermediate_size=40)
TOKENS = dict(boi_token_id=17, image_token_id=18, eoi_token_id=19, boa_token_id=20, audio_token_id=21, eoa_token_index=22, video_token_id=23)
IMAGE, AUDIO_ID, VIDEO = 18, 21, 23
PROCESSOR = dict(image_processor=dict(patch_size=4, pooling_kernel_size=3, max_soft_tokens=70, image_processor_type='Gemma4ImageProcessor'),
                 feature_extractor=dict(feature_size=128, sampling_rate=16000, feature_extractor_type='Gemma4AudioFeatureExtractor'),
                 video_processor=dict(patch_size=4, pooling_kernel_size=3, max_soft_tokens=70))


def random_whole(kind: str, **text):
    import torch, transformers as tf
    torch.manual_seed(0)
    text = BASE | text
    if kind == 'unified':
        c = tf.Gemma4UnifiedConfig(
            text_config=tf.Gemma4UnifiedTextConfig(**{k: v for k, v in text.items() if 'per_layer' not in k}),
            vision_config=tf.Gemma4UnifiedVisionConfig(patch_size=4, pooling_kernel_size=3, mm_embed_dim=64, output_proj_dims=64, mm_posemb_size=1120),
            audio_config=tf.Gemma4UnifiedAudioConfig(audio_embed_dim=640), **TOKENS)
        return randomise(tf.Gemma4UnifiedForConditionalGeneration(c).eval())
    c = tf.Gemma4Config(text_config=tf.Gemma4TextConfig(**text), vision_config=tf.Gemma4VisionConfig(**VISION, standardize=kind == 'moe'),
                        audio_config=tf.Gemma4AudioConfig(**AUDIO) if kind == 'causal' else None, **TOKENS)
    return randomise(tf.Gemma4ForConditionalGeneration(c).eval())


class Family:
    "A random model of one kind as transformers runs it, and its OpenVINO builds."
    def __init__(self, kind: str, folder: Path, **text):
        self.kind, self.folder, self.model = kind, folder, random_whole(kind, **text)
        self.source = checkpoint(self.model, folder/'hf')
        (self.source/'processor_config.json').write_text(json.dumps(PROCESSOR))

    def build(self, format: str = 'f32') -> Path:
        out = self.folder/format
        if not out.exists():
            out.mkdir()
            make(self.source, format, out)
        return out

    def engine(self, format: str = 'f32', **settings) -> Engine: return Engine(self.build(format), threads=1, **settings)

    def picture(self, a: np.ndarray, budget: int = 70) -> dict:
        "What transformers' own processor makes of a picture."
        import torch
        from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil
        y = Gemma4ImageProcessorPil(**PROCESSOR['image_processor'] | dict(max_soft_tokens=budget))(Image.fromarray(a), return_tensors='pt', input_data_format='channels_last')
        x, at = y['pixel_values'], y['image_position_ids']
        if self.kind == 'unified': # there, transformers has the function and no processor without torchvision
            n = int((at[0, :, 0] >= 0).sum())
            x, at = patches_merge(x[:, :n], at[:, :n], n//9)
        return dict(pixel_values=x, image_position_ids=at)

    def sound(self, a: np.ndarray) -> dict:
        import torch
        from transformers.models.gemma4.feature_extraction_gemma4 import Gemma4AudioFeatureExtractor
        from transformers.models.gemma4_unified.feature_extraction_gemma4_unified import Gemma4UnifiedAudioFeatureExtractor
        y = (Gemma4UnifiedAudioFeatureExtractor() if self.kind == 'unified' else Gemma4AudioFeatureExtractor())([a], return_tensors='pt')
        return dict(input_features=y['input_features'].float(), input_features_mask=y['input_features_mask'].bool())

    def rows(self, kind: str, a: np.ndarray, budget: int = 70) -> np.ndarray:
        import torch
        with torch.no_grad():
            if kind == 'image': return self.model.model.get_image_features(**self.picture(a, budget)).pooler_output[0].numpy()
            y = self.model.model.get_audio_features(**self.sound(a), return_dict=True)
            return y.pooler_output[y.attention_mask].numpy()

    def logits(self, ids: list[int], picture=None, sound=None, frames=()) -> np.ndarray:
        "The whole multimodal forward pass. `ids` with placeholders."
        import torch
        x = torch.tensor(ids)[None]
        kinds = (x == IMAGE)*1 + (x == VIDEO)*2 + (x == AUDIO_ID)*3
        kw = dict(mm_token_type_ids=kinds)
        if picture is not None: kw |= self.picture(picture)
        if sound is not None: kw |= self.sound(sound)
        if len(frames):
            each = [self.picture(f) for f in frames]
            kw |= dict(pixel_values_videos=torch.cat([e['pixel_values'] for e in each]), video_position_ids=torch.cat([e['image_position_ids'] for e in each]),
                       num_frames_per_video=torch.tensor([len(frames)]))
        if self.kind == 'unified': # its forward opens the full layers too; generate gives it these
            kw['attention_mask'] = self.model.create_masks_for_generate(self.model.config, torch.zeros(1, len(ids), 64), None, None, None, mm_token_type_ids=kinds)
        with torch.no_grad(): return self.model(input_ids=x, **kw).logits[0].numpy()


def patches_merge(x, at, n):
    "What transformers' function of that name computes, said in another way: nine patches of 4x4 pixels are one of 12x12."
    import torch
    w, h = (int(at[0, :, i].max()) + 1 for i in (0, 1))
    big = x[0].reshape(h//3, 3, w//3, 3, 4, 4, 3).permute(0, 2, 1, 4, 3, 5, 6).reshape(1, n, -1)
    return big, torch.stack(torch.meshgrid(torch.arange(w//3), torch.arange(h//3), indexing='xy'), -1).reshape(1, n, 2)


@pytest.fixture(scope='module')
def causal(tmp_path_factory): return Family('causal', tmp_path_factory.mktemp('causal'), num_hidden_layers=4, layer_types=['sliding_attention', 'full_attention']*2, num_kv_shared_layers=2, use_double_wide_mlp=True)

@pytest.fixture(scope='module')
def moe(tmp_path_factory): return Family('moe', tmp_path_factory.mktemp('moe'), **BIG, **EXPERTS)

@pytest.fixture(scope='module')
def unified(tmp_path_factory): return Family('unified', tmp_path_factory.mktemp('unified'), **BIG)

@pytest.fixture(scope='module')
def engine(causal):
    e = causal.engine()
    yield e
    e.close()

@pytest.fixture(scope='module')
def moe_engine(moe):
    e = moe.engine(chunk=16)
    yield e
    e.close()

@pytest.fixture(scope='module')
def unified_engine(unified):
    e = unified.engine(chunk=16)
    yield e
    e.close()

@pytest.fixture(autouse=True)
def fresh(request):
    yield
    for name in ('engine', 'moe_engine', 'unified_engine'):
        if name in request.fixturenames:
            request.getfixturevalue(name).trim(0)
            request.getfixturevalue(name).forget()

def noise(h: int, w: int, seed: int = 0) -> np.ndarray: return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)

def tone(seconds: float) -> np.ndarray:
    t = np.arange(round(16000*seconds))/16000
    return (.3*np.sin(2*np.pi*(300 + 200*t)*t)).astype(np.float32)

SIZES = [(1, 1), (1, 2), (2, 1), (1, 300), (300, 1), (480, 640), (96, 96), (37, 53)]


# Rows

@pytest.mark.parametrize('size', SIZES)
def test_rows_of_a_picture(causal, engine, size):
    ids = engine.embed('image', noise(*size))
    want = causal.rows('image', noise(*size))
    assert ids == list(range(-1, -len(want) - 1, -1))
    assert want.std() > .01 and np.abs(engine.soft.rows(ids) - want).max() < PARITY

@pytest.mark.parametrize('budget', [140, 280, 560, 1120])
def test_rows_at_every_budget(causal, budget):
    e = causal.engine(image_tokens=budget)
    for size in ((480, 640), (1, 1), (1, 300)):
        ids, want = e.embed('image', noise(*size)), causal.rows('image', noise(*size), budget)
        assert np.abs(e.soft.rows(ids) - want).max() < PARITY
    assert e.describe()['towers']['image_tokens'] == budget and len(e.soft) > budget
    e.close()

@pytest.mark.parametrize('sound', [tone(1), tone(.1), tone(161/16000), tone(2.3456), tone(30), np.zeros(16000, np.float32), np.zeros(1600, np.float32), np.zeros(480_000, np.float32)],
                         ids=['1 s', '0.1 s', 'one slice', '2.3456 s', '30 s', 'silence', '0.1 s of silence', '30 s of silence'])
def test_rows_of_a_sound(causal, engine, sound):
    ids, want = engine.embed('audio', sound), causal.rows('audio', sound)
    assert len(ids) == len(want) and want.std() > .01
    assert np.abs(engine.soft.rows(ids) - want).max() < PARITY

def test_a_sound_is_heard_forwards(engine):
    "What comes later changes nothing before it, beyond the slices that a token's convolutions reach."
    x, y = tone(2), tone(2)
    y[16000:] *= -.5
    a, b = (engine.soft.rows(engine.embed('audio', s)) for s in (x, y))
    assert np.array_equal(a[:24], b[:24]) and np.abs(a[26:] - b[26:]).max() > .01

@pytest.mark.parametrize('size', SIZES)
def test_rows_without_an_encoder(unified, unified_engine, size):
    ids, want = unified_engine.embed('image', noise(*size)), unified.rows('image', noise(*size))
    assert want.std() > .01 and np.abs(unified_engine.soft.rows(ids) - want).max() < PARITY

@pytest.mark.parametrize('seconds', [.0001, .04, .0401, 1, 30])
def test_samples_without_an_encoder(unified, unified_engine, seconds):
    ids, want = unified_engine.embed('audio', tone(seconds)), unified.rows('audio', tone(seconds))
    assert len(ids) == len(want) and np.abs(unified_engine.soft.rows(ids) - want).max() < PARITY

def test_rows_with_standardised_features(moe, moe_engine):
    ids, want = moe_engine.embed('image', noise(50, 90)), moe.rows('image', noise(50, 90))
    assert want.std() > .01 and np.abs(moe_engine.soft.rows(ids) - want).max() < PARITY

def test_clipped_layers_are_clipped(causal, engine):
    "Without its bounds the reference gives other rows, so the parity above saw them."
    import torch
    from copy import deepcopy
    a, b = noise(50, 90), tone(1)
    rows = causal.rows('image', a), causal.rows('audio', b)
    kept = causal.model
    causal.model = deepcopy(kept)
    for n, x in causal.model.named_buffers():
        if n.endswith(('_min', '_max')): x.mul_(1e6)
    loose = causal.rows('image', a), causal.rows('audio', b)
    causal.model = kept
    assert all(np.abs(x - y).max() > .05 for x, y in zip(rows, loose))


# Logits

def prompt(engine, picture=None, sound=None) -> tuple[list[int], list[int]]:
    "A prompt for the engine, and the same with placeholders for transformers."
    ids, marks = [2, 40, 41], [2, 40, 41]
    for kind, data, (first, mark, last) in (('image', picture, (17, IMAGE, 19)), ('audio', sound, (20, AUDIO_ID, 22))):
        if data is None: continue
        soft = engine.embed(kind, data)
        ids += [first, *soft, last, 50, 51, 52]
        marks += [first] + [mark]*len(soft) + [last, 50, 51, 52]
    return ids + [60, 61, 62, 63], marks + [60, 61, 62, 63]

@pytest.mark.parametrize('what', ['picture', 'sound', 'both'])
def test_logits_of_a_small_model(causal, engine, what):
    data = dict(picture=noise(40, 60)) if what == 'picture' else dict(sound=tone(1)) if what == 'sound' else dict(picture=noise(40, 60), sound=tone(1))
    ids, marks = prompt(engine, **data)
    want = causal.logits(marks, **data)
    got = np.concatenate([engine.eval(ids[:-3], all=True)] + [engine.eval([t], all=True) for t in ids[-3:]])
    assert want.std() > .1 and np.abs(got - want).max() < PARITY

@pytest.mark.parametrize('picture', [noise(1, 1), noise(1, 300), noise(480, 640)], ids=['1x1', '1x300', '640x480'])
def test_logits_of_a_mixture(moe, moe_engine, picture):
    "Experts, K=V, and pictures that see themselves on sliding layers: windows (8) and steps (16) are much shorter than the picture."
    ids, marks = prompt(moe_engine, picture)
    want = moe.logits(marks, picture)
    got = np.concatenate([moe_engine.eval(ids[:-3], all=True)] + [moe_engine.eval([t], all=True) for t in ids[-3:]])
    assert want.std() > .1 and np.abs(got - want).max() < PARITY

def test_logits_without_encoders(unified, unified_engine):
    picture, sound = noise(40, 60), tone(1)
    ids, marks = prompt(unified_engine, picture, sound)
    want = unified.logits(marks, picture, sound)
    got = np.concatenate([unified_engine.eval(ids[:-3], all=True)] + [unified_engine.eval([t], all=True) for t in ids[-3:]])
    assert want.std() > .1 and np.abs(got - want).max() < PARITY

def test_transformers_forward_alone_opens_the_full_layers_of_the_unified_model(unified):
    "Why the reference above gets its masks from generate's function: an upstream difference, to be dropped here when it is gone."
    import torch
    picture = noise(40, 60)
    marks = [2, 17] + [IMAGE]*len(unified.rows('image', picture)) + [19, 60]
    with torch.no_grad(): bare = unified.model(input_ids=torch.tensor(marks)[None], mm_token_type_ids=(torch.tensor(marks)[None] == IMAGE)*1, **unified.picture(picture)).logits[0].numpy()
    assert np.abs(bare - unified.logits(marks, picture)).max() > .05

def test_two_pictures_and_a_film(causal, engine):
    frames = np.stack([noise(40, 60, i) for i in range(3)])
    soft = engine.embed('video', frames)
    n = len(soft)//3
    cut = [soft[:n], soft[n:2*n], soft[2*n:]]
    assert [engine.soft.block(c).tolist() for c in cut] == [[i]*n for i in range(3)]
    ids, marks = [2], [2]
    for i, c in enumerate(cut): ids, marks = ids + [70 + i, 17, *c, 19], marks + [70 + i, 17] + [VIDEO]*n + [19]
    want = causal.logits(marks + [60], frames=frames)
    assert np.abs(engine.eval(ids + [60], all=True) - want).max() < PARITY

def test_steps_do_not_matter(causal, engine):
    ids, _ = prompt(engine, noise(40, 60), tone(1))
    want = engine.eval(ids, all=True)
    for chunk in (1, 7, 64):
        engine.trim(0)
        got = np.concatenate([engine.eval(ids[i:i + chunk], all=True) for i in range(0, len(ids), chunk)])
        assert np.abs(got - want).max() < 1e-4
    for keep in (0, 3, 20, 64, 80):
        engine.trim(keep)
        assert np.abs(engine.eval(ids[keep:], all=True) - want[keep:]).max() < 1e-4

def test_a_picture_that_sees_itself_stays_whole(moe, moe_engine):
    ids, _ = prompt(moe_engine, noise(40, 60))
    want = moe_engine.eval(ids, all=True)
    end = max(i for i, t in enumerate(ids) if t < 0)
    moe_engine.trim(0)
    with pytest.raises(EdgewbError, match='in one call'): moe_engine.eval(ids[:end])
    assert moe_engine.pos == 0
    moe_engine.eval(ids[:end + 1])
    for keep in (end + 1, end, 20, 4): # a roll-back into the picture: what is kept has seen all of it
        moe_engine.trim(keep)
        assert np.abs(moe_engine.eval(ids[keep:], all=True) - want[keep:]).max() < PARITY

def test_words_after_a_picture_are_words(engine):
    "The rows of a step must not leak into the next, and text must be what it is in an engine that never saw a picture."
    words = [2, *range(100, 140)]
    before = engine.eval(words, all=True)
    engine.trim(0)
    engine.eval(prompt(engine, noise(40, 60))[0])
    engine.trim(0)
    engine.forget()
    assert np.array_equal(engine.eval(words, all=True), before)

def test_soft_tokens_read_as_their_placeholder(engine):
    ids = engine.embed('audio', tone(.1)) + engine.embed('image', noise(9, 9))
    assert engine.pieces([40, ids[0], ids[-1]])[1:] == [b'<|audio|>', b'<|image|>'] and engine.pieces([40]) == engine.tokenizer.pieces([40])


# Formats

def constants(xml: Path) -> list[tuple[str, str, int]]:
    "Name, type and size of the large constants of an IR."
    return [(' '.join(o.output(0).get_names()), o.get_element_type().get_type_name(), o.get_byte_size()) for o in shared_core().read_model(xml).get_ordered_ops()
            if o.get_type_name() == 'Constant' and o.get_byte_size() > 1000]

@pytest.mark.parametrize('format, kind', [('f32', 'f32'), ('int8', 'u8')])
def test_towers_are_stored_as_the_format_says(causal, format, kind):
    for tower in ('vision.xml', 'audio.xml'):
        sizes = {}
        for _, t, n in constants(causal.build(format)/tower): sizes[t] = sizes.get(t, 0) + n
        assert max(sizes, key=sizes.get) == kind, (tower, sizes)

@pytest.mark.parametrize('format, bound', [('f32', 1e-4), ('int8', .15)])
def test_rows_in_every_format(causal, format, bound):
    e = causal.engine(format)
    for kind, data in (('image', noise(40, 60)), ('audio', tone(1))):
        got, want = e.soft.rows(e.embed(kind, data)), causal.rows(kind, data)
        assert np.abs(got - want).mean() < bound*want.std(), (kind, np.abs(got - want).mean()/want.std())
    assert np.isfinite(e.eval(prompt(e, noise(40, 60))[0])).all()
    e.close()

@pytest.mark.parametrize('format, kinds', [('f32', {'f32'}), ('int4', {'u4', 'u8'})])
def test_experts_are_gathered_and_packed_and_the_router_is_left_alone(moe, format, kinds):
    "40 columns don't divide into groups: `down` falls back to 8 bits, which is what 704 would do with groups of 128."
    e = moe.engine(format)
    experts = {k: n for k, n in e.describe()['kernels'].items() if k.startswith('experts')}
    assert sum(experts.values()) == 3*3 and {k.split()[-1] for k in experts} == kinds
    named = {n: t for n, t, _ in constants(moe.build(format)/'openvino_model.xml') if 'router' in n}
    assert len([n for n in named if 'proj' in n]) == 3 and set(named.values()) == {'f32'}
    assert np.isfinite(e.eval(prompt(e, noise(40, 60))[0])).all()
    e.close()

# What can't be

def test_models_without_towers(tmp_path_factory, moe_engine):
    with pytest.raises(Unsupported, match='no audio tower'): moe_engine.embed('audio', tone(1))
    with pytest.raises(Unsupported, match='kind of medium'): moe_engine.embed('smell', tone(1))
    assert set(moe_engine.describe()['towers']['kinds']) == {'image', 'video'}

@pytest.mark.parametrize('kind, data', [
    ('image', np.zeros((0, 5, 3), np.uint8)), ('image', np.zeros((5, 5), np.uint8)), ('image', np.zeros((5, 5, 3), np.float32)), ('image', np.zeros((5, 5, 4), np.uint8)),
    ('audio', np.zeros(0, np.float32)), ('audio', np.full(1600, np.nan, np.float32)), ('audio', np.zeros((1600, 2), np.float32)), ('audio', np.zeros(1600, np.int16)),
    ('audio', np.zeros(160, np.float32)), ('audio', np.zeros(480_001, np.float32)), ('video', np.zeros((0, 5, 5, 3), np.uint8)), ('video', np.zeros((5, 5, 3), np.uint8))])
def test_media_that_are_none(engine, kind, data):
    with pytest.raises(BadMedia): engine.embed(kind, data)
    assert len(engine.soft) == 0

def test_ids_that_stand_for_nothing(engine):
    engine.embed('audio', tone(.1))
    with pytest.raises(BadMedia, match='3 are kept'): engine.eval([2, -4])
    engine.forget()
    with pytest.raises(BadMedia, match='0 are kept'): engine.eval([2, -1])
    with pytest.raises(EdgewbError, match='token ids'): engine.eval([2, 300])
    assert engine.pos == 0

def test_a_tower_that_is_damaged(causal, tmp_path):
    with pytest.raises(BadBuild, match='vision.bin .* has 100 of'): Engine(spoilt(causal.build(), tmp_path, lambda p: os.truncate(p/'vision.bin', 100)))
    (tmp_path/'bad'/'vision.bin').write_bytes((causal.build()/'vision.bin').read_bytes())
    (tmp_path/'bad'/'vision.xml').write_bytes((causal.build()/'audio.xml').read_bytes())
    e = Engine(tmp_path/'bad', threads=1)
    with pytest.raises(BadBuild, match='vision.xml'): e.embed('image', noise(9, 9))
    e.close()


@pytest.mark.parametrize('format', ['int8', 'int4'])
def test_shipped_ears_compile(format):
    "nano's relative positions go through a matrix at build time; whole numbers there were more than OpenVINO could fold."
    import edgewb
    with edgewb.load('nano', 'openvino', format, threads=1) as s: assert len(s.embed('audio', np.zeros(8000, np.float32))) > 5

"""Pictures, sounds and videos: the engines against transformers' whole forward pass, against each other, and against bad input.

The checkpoints are small and their towers random: arithmetic needs no training. 'E2B' has nano's text model, causal pictures and a conformer;
'31B' bidirectional pictures, K=V and standardisation; '12B' no encoders at all.
"""
import ctypes, io, json, shutil, wave
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgewb import media
from edgewb.convert import mmproj_of
from edgewb.core import BadMedia, EdgewbError, Unsupported
from edgewb.engine_llamacpp import Engine as Llama
from edgewb.engine_torch import Engine as Torch
from edgewb.media_llamacpp import decode_rows
from edgewb.media_torch import LIKE, random_checkpoint
from edgewb.session import load
from edgewb.weights import build, models, resolve

EXACT = dict(threads=1, cache_type='f32', flash_attn='off')
IMAGE, AUDIO, VIDEO = 18, 21, 23
rng = np.random.default_rng(0)
PHOTO = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
TONE = (.3*np.sin(np.arange(24_123)*.17) + .01*rng.normal(size=24_123)).astype(np.float32)
SHAPES = {'1x1': (1, 1), '2x1': (1, 2), '1x2': (2, 1), '300x1': (1, 300), '640x480': (480, 640), '48x64': (64, 48)}
SOUNDS = {'silence': np.zeros(16_000, np.float32), '1 s': TONE[:16_000], '30 s': np.resize(TONE, 480_000), '161 samples': TONE[:161]}


@pytest.fixture(scope='module')
def folder(tmp_path_factory): return tmp_path_factory.mktemp('media')

@pytest.fixture(scope='module')
def checkpoints(folder): return {k: random_checkpoint(folder/k, k) for k in LIKE}

@pytest.fixture(scope='module')
def torch(checkpoints): return {k: Torch(p, device='cpu', chunk=32) for k, p in checkpoints.items()}

@pytest.fixture(scope='module')
def gguf(checkpoints): return {k: build(str(p), 'llama.cpp', 'F32').path for k, p in checkpoints.items()}

@pytest.fixture(scope='module')
def llama(gguf):
    engines = {k: Llama(p, **EXACT) for k, p in gguf.items()}
    yield engines
    for e in engines.values(): e.close()


def noise(h, w): return np.random.default_rng(h*1000 + w).integers(0, 256, (h, w, 3), dtype=np.uint8)

def rows(eng, kind, data):
    eng.forget()
    return eng.soft.rows(eng.embed(kind, data))

def prompt(eng, *parts):
    "Ids, of texts and media in turn, from an empty cache."
    eng.trim(0); eng.forget()
    return [i for p in parts for i in (eng.tokenize(p) if isinstance(p, str) else eng.embed(*p))]

def whole(eng, ids, pixels=None, positions=None, sound=None):
    "transformers' logits of every token, in one pass, rows and masks its own."
    import torch as t
    real = {b'<|image|>': IMAGE, b'<|audio|>': AUDIO, b'<|video|>': VIDEO}
    x, kw = t.tensor([[real[eng.soft.piece(i)] if i < 0 else i for i in ids]]), {}
    if pixels is not None: kw |= dict(pixel_values=pixels, image_position_ids=positions)
    if sound is not None: kw |= dict(eng.ears([sound], return_tensors='pt'))
    types = ((x == IMAGE) | (x == VIDEO)).int()
    masks = eng.model.create_masks_for_generate(eng.model.config, t.zeros(1, len(ids), 256), None, None, t.arange(len(ids))[None], types)
    with t.inference_mode(): return eng.model(input_ids=x, attention_mask=masks, use_cache=False, **kw).logits[0].numpy()

def processed(checkpoint, eng, picture):
    "transformers' own pixels; for the encoder-free model, whose processor needs torchvision, the same pixels in larger patches."
    import torch as t
    if eng.towers.merged:
        x, at = eng.towers.patches(eng.towers.fit(picture))
        return t.from_numpy(x)[None], t.from_numpy(at)[None]
    from PIL import Image
    from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil
    y = Gemma4ImageProcessorPil.from_pretrained(checkpoint, max_soft_tokens=eng.towers.budget)([Image.fromarray(picture)], return_tensors='pt')
    return y['pixel_values'], y['image_position_ids']


# --- torch is what transformers computes

@pytest.mark.parametrize('k', LIKE)
@pytest.mark.parametrize('shape', SHAPES)
def test_torch_pictures(torch, checkpoints, k, shape):
    eng, x = torch[k], noise(*SHAPES[shape])
    ids = prompt(eng, '<bos><|turn>user\nLook: <|image>', ('image', x), '<image|> what is it?')
    assert np.abs(eng.eval(ids, all=True) - whole(eng, ids, *processed(checkpoints[k], eng, x))).max() < 1e-3

def test_torch_largest_budget(checkpoints, k='E2B'):
    eng = Torch(checkpoints[k], device='cpu', image_tokens=1120)
    ids = prompt(eng, '<bos><|image>', ('image', noise(480, 640)), '<image|> what?')
    assert sum(i < 0 for i in ids) == 1064
    assert np.abs(eng.eval(ids, all=True) - whole(eng, ids, *processed(checkpoints[k], eng, noise(480, 640)))).max() < 1e-3

@pytest.mark.parametrize('k', ['E2B', '12B'])
@pytest.mark.parametrize('name', SOUNDS)
def test_torch_sounds(torch, k, name):
    eng, x = torch[k], SOUNDS[name]
    ids = prompt(eng, '<bos>Hear: <|audio>', ('audio', x), '<audio|> what is it?')
    assert np.abs(eng.eval(ids, all=True) - whole(eng, ids, sound=x)).max() < 1e-3

def test_torch_video(torch, checkpoints):
    "Frames through transformers' own video path."
    import torch as t
    eng, clip = torch['E2B'], rng.integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)
    got = np.split(rows(eng, 'video', clip), 3)
    x, at = zip(*(eng.towers.patches(eng.towers.fit(f, True)) for f in clip))
    n = eng.towers.frame_budget*9
    pad = lambda a, v: np.pad(a, ((0, n - len(a)), (0, 0)), constant_values=v)
    with t.inference_mode():
        y = eng.model.model.get_video_features(t.from_numpy(np.stack([pad(f, 0) for f in x])), t.from_numpy(np.stack([pad(p, -1) for p in at])), num_frames_per_video=t.tensor([3]))
    assert np.abs(np.concatenate(got) - y.pooler_output[0].numpy()).max() < 1e-4

@pytest.mark.parametrize('k', LIKE)
def test_torch_steps_do_not_matter(torch, k):
    eng = torch[k]
    ids = prompt(eng, '<bos>One <|image>', ('image', PHOTO), '<image|> two <|image>', ('image', PHOTO[:20]), '<image|> what?')
    together = []
    for eng.chunk in (8, 32, 1000):
        eng.trim(0)
        together.append(eng.eval(ids, all=True))
    eng.chunk = 32
    assert max(np.abs(together[0] - y).max() for y in together) < 1e-3


# --- llama.cpp against torch

@pytest.mark.parametrize('k', LIKE)
@pytest.mark.parametrize('shape', SHAPES)
def test_llamacpp_picture_rows(torch, llama, k, shape):
    a, b = (rows(e[k], 'image', noise(*SHAPES[shape])) for e in (torch, llama))
    assert a.shape == b.shape and np.abs(a - b).max() < 3e-3*a.std()

@pytest.mark.parametrize('k', ['E2B', '12B'])
@pytest.mark.parametrize('name', SOUNDS)
def test_llamacpp_sound_rows(torch, llama, k, name):
    "The encoder-free model exactly; the conformer up to llama.cpp's floor of the mel energies, which is another."
    a, b = (rows(e[k], 'audio', SOUNDS[name]) for e in (torch, llama))
    assert a.shape == b.shape and np.abs(a - b).max() <= (2e-2 if k == 'E2B' else 1e-4)*max(a.std(), 1e-6)

@pytest.mark.parametrize('k', LIKE)
def test_llamacpp_logits(torch, llama, k):
    parts = ['<bos><|turn>user\n<|image>', ('image', PHOTO), '<image|>and <|image>', ('image', noise(1, 1)), '<image|> what?']
    if k != '31B': parts += ['<|audio>', ('audio', TONE), '<audio|> and this?']
    ours = [prompt(e[k], *parts) for e in (torch, llama)]
    assert ours[0] == ours[1]
    assert np.abs(torch[k].eval(ours[0], all=True) - llama[k].eval(ours[1], all=True)).max() < .1
    given = llama[k].soft
    given._rows = torch[k].soft._rows # the tower's share taken out
    for e in (torch, llama): e[k].trim(0)
    assert np.abs(torch[k].eval(ours[0], all=True) - llama[k].eval(ours[1], all=True)).max() < .02
    llama[k].forget()

def test_llamacpp_video(torch, llama):
    clip = rng.integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)
    a, b = (rows(e['E2B'], 'video', clip) for e in (torch, llama))
    assert a.shape == b.shape and np.abs(a - b).max() < 3e-3*a.std() and torch['E2B'].soft.blocks == llama['E2B'].soft.blocks == 3

def test_llamacpp_largest_budget_goes_through_whole(gguf):
    "A bidirectional picture larger than n_batch: llama.cpp's assertion would end the process (its issue 28954 is about this)."
    from contextlib import closing
    with closing(Llama(gguf['31B'], n_batch=64, n_ctx=2048, image_tokens=1120, **EXACT)) as eng:
        ids = prompt(eng, '<bos><|image>', ('image', noise(480, 640)), '<image|> what?')
        assert len(ids) > 1064 and np.isfinite(eng.eval(ids)).all()

def test_llamacpp_rolls_back_over_media(llama):
    eng = llama['E2B']
    ids = prompt(eng, '<bos>One <|image>', ('image', PHOTO), '<image|> and <|audio>', ('audio', TONE), '<audio|> what?')
    y = eng.eval(ids, all=True).copy()
    for n in (100, 10, 40, 0):
        eng.trim(n)
        assert np.abs(y[n:] - eng.eval(ids[n:], all=True)).max() < .05, n

def test_llamacpp_log_is_read_after_towers(llama, gguf):
    from contextlib import closing
    rows(llama['E2B'], 'image', PHOTO)
    with closing(Llama(gguf['E2B'], n_ctx=256, **EXACT)) as later: assert later.describe()['buffers'] and later.eog

def test_a_bidirectional_picture_is_not_cut(llama):
    eng = llama['31B']
    eng.eval(prompt(eng, '<bos><|image>', ('image', PHOTO), '<image|> what?'))
    with pytest.raises(EdgewbError, match='inside a picture'): eng.trim(20)


SEEING = [m for m in models() if media.Towers.of(resolve(m)).vision]

@pytest.mark.parametrize('name', SEEING)
def test_shipped_towers(name):
    "Trained ones: the same prompt through both engines, and transformers' own forward."
    torch = Torch(resolve(name), device='cpu', chunk=32)
    llama = Llama(build(name, 'llama.cpp', 'F32').path, **EXACT)
    try:
        for x in (PHOTO, noise(1, 1), noise(1, 300)):
            parts = ['<bos><|turn>user\n<|image>', ('image', x), '<image|>What is it?<turn|>\n<|turn>model\n']
            a, b = prompt(torch, *parts), prompt(llama, *parts)
            y = torch.eval(a, all=True)
            assert a == b and np.abs(y - whole(torch, a, *processed(resolve(name), torch, x))).max() < 2e-3
            assert np.abs(y - llama.eval(b, all=True)).max() < .2
        if torch.towers.audio: assert np.abs(rows(torch, 'audio', TONE) - rows(llama, 'audio', TONE)).max() < .1*rows(torch, 'audio', TONE).std()
    finally: llama.close()


# --- the bugs of April 2026: the installed library has the fixes

@pytest.mark.parametrize('shape', ['1x1', '2x1', '1x2'])
def test_pictures_under_2x2_reach_mtmd_itself(llama, shape):
    "llama.cpp 21711: it crashed. Unscaled and with mtmd's own limits, as its tools would pass them."
    rows(llama['E2B'], 'image', PHOTO)
    m = llama['E2B']._mtmd
    p, ours = m.M.mtmd_context_params_default(), m.ctx
    p.use_gpu, p.n_threads, p.warmup = False, 1, False
    m.ctx = m.M.mtmd_init_from_file(str(llama['E2B'].mmproj).encode(), llama['E2B']._model, p)
    try: got = m.see(noise(*SHAPES[shape]))
    finally: m.close(); m.ctx = ours
    assert len(got) >= 70 and np.isfinite(got).all()

@pytest.mark.parametrize('k', ['E2B', '12B'])
def test_sounds_are_causal(torch, llama, k):
    "llama.cpp 21824: it decoded them bidirectionally. What comes later in a sound must not change what came before."
    for eng in (torch[k], llama[k]):
        ids = prompt(eng, '<bos><|audio>', ('audio', TONE))
        y = eng.eval(ids, all=True).copy()
        eng.trim(0)
        assert np.abs(y[:20] - eng.eval(ids[:20], all=True)).max() < 1e-2
    eng.trim(0) # and this is what the bug looked like
    eng.eval(ids[:2])
    wrong = np.concatenate(decode_rows(eng, eng.soft.rows(ids[2:]), 2, all=True, blocks=True))
    assert np.abs(y[2:] - wrong).max() > .05

def test_mtmd_says_that_sounds_are_causal(llama):
    mtmd = (rows(llama['12B'], 'audio', TONE), llama['12B']._mtmd)[1]
    M, chunks = mtmd.M, mtmd.M.mtmd_input_chunks_init()
    bitmap = M.mtmd_bitmap_init_from_audio(len(TONE), TONE.ctypes.data_as(ctypes.POINTER(ctypes.c_float)))
    parts = (ctypes.POINTER(M.mtmd_input_part)*1)(ctypes.pointer(M.mtmd_input_part(bitmap=bitmap)))
    assert M.mtmd_tokenize_from_parts(mtmd.ctx, chunks, parts, 1, False) == 0
    media = [c for i in range(M.mtmd_input_chunks_size(chunks)) if M.mtmd_input_chunk_get_type(c := M.mtmd_input_chunks_get(chunks, i))]
    assert media and not any(M.mtmd_decode_use_non_causal(mtmd.ctx, c) for c in media)
    M.mtmd_input_chunks_free(chunks); M.mtmd_bitmap_free(bitmap)

@pytest.mark.parametrize('k', LIKE)
def test_vision_masks_by_size(torch, llama, k):
    "E2B's pictures are causal, those of the large models are not."
    from dataclasses import replace
    ids = [prompt(e[k], '<bos><|image>', ('image', PHOTO), '<image|> what?') for e in (torch, llama)][0]
    llama[k].soft._rows = torch[k].soft._rows
    want, was = torch[k].eval(ids, all=True), llama[k].towers
    gaps = {}
    for both in (False, True):
        llama[k].trim(0)
        llama[k].towers = replace(was, bidirectional=both)
        gaps[both] = np.abs(want - llama[k].eval(ids, all=True)).max()
    llama[k].trim(0)
    llama[k].towers = was
    assert gaps[k != 'E2B'] < .02 < .1 < gaps[k == 'E2B']


# --- sessions

@pytest.fixture(scope='module')
def sessions(checkpoints):
    opened = [load(str(checkpoints['E2B']), e, f, threads=1) for e, f in (('torch', 'f32'), ('llama.cpp', 'F16'))]
    yield opened
    for s in opened: s.close()

@pytest.fixture(scope='module')
def talk(folder):
    from PIL import Image
    Image.fromarray(PHOTO).save(folder/'p.png')
    with wave.open(str(folder/'t.wav'), 'wb') as f:
        f.setnchannels(1); f.setsampwidth(2); f.setframerate(16_000)
        f.writeframes((TONE*32767).astype('<i2').tobytes())
    return [dict(role='user', content=[dict(type='image', image=folder/'p.png'), dict(type='text', text='What is this?\n\n'), dict(type='audio', audio=str(folder/'t.wav')),
                                       dict(type='text', text='And:'), dict(type='video', video=[Image.fromarray(PHOTO)]*2, fps=.5)])]

def test_engines_read_a_prompt_alike(sessions, talk):
    ids = [s.chat_ids(talk) for s in sessions]
    assert ids[0] == ids[1] and -min(ids[0]) == sum(i < 0 for i in ids[0])
    assert b''.join(sessions[0].pieces(ids[0])) == b''.join(sessions[1].pieces(ids[1]))

def test_the_text_is_transformers(sessions, talk, checkpoints):
    "Placeholders expanded by transformers' own processor, tokenized by its tokenizer."
    from transformers import AutoTokenizer, Gemma4Processor as P
    from edgewb.chat import render
    s, tok = sessions[0], AutoTokenizer.from_pretrained(checkpoints['E2B'])
    ids = s.chat_ids(talk)
    me = SimpleNamespace(boi_token='<|image>', eoi_token='<image|>', image_token='<|image|>', video_token='<|video|>', boa_token='<|audio>', eoa_token='<audio|>', audio_token='<|audio|>')
    kinds = [p.decode() for p in s.pieces(ids)]
    n = {k: kinds.count(f'<|{k}|>') for k in media.KINDS}
    text = render(talk, template=(checkpoints['E2B']/'chat_template.jinja').read_text())
    text = text.replace('<|image|>', P.replace_image_token(me, {'num_soft_tokens_per_image': [n['image']]}, 0))
    text = text.replace('<|audio|>', f'<|audio>{"<|audio|>"*n["audio"]}<audio|>')
    meta = SimpleNamespace(fps=.5, timestamps=[0, 2])
    text = text.replace('<|video|>', P.replace_video_token(me, {'num_soft_tokens_per_video': [n['video']//2], 'video_metadata': [meta]}, 0))
    real = {'<|image|>': IMAGE, '<|audio|>': AUDIO, '<|video|>': VIDEO}
    assert tok(text, add_special_tokens=False)['input_ids'] == [real[k] if i < 0 else i for i, k in zip(ids, kinds)]

def test_generate_stream_compare(sessions, talk):
    import edgewb
    c = edgewb.compare(talk, sessions, max_tokens=8, rounds=1)
    assert not any(r.error for r in c.rows) and len(c.prompt_ids) > 150 and len(c.rows[1].reply.tokens)
    for s in sessions:
        r = s.generate(talk, 8)
        assert [t.id for t in s.stream(talk, 8)] == r.ids == s.generate(r.prompt_ids, 8).ids
        assert s.generate(talk, 4, temperature=1., seed=1).ids

def test_media_beside_a_question(sessions, folder, talk):
    from PIL import Image
    import edgewb
    s = sessions[1]
    long = [dict(role='user', content=[dict(type='image', image=folder/'p.png'), dict(type='audio', audio=folder/'t.wav'), dict(type='text', text='What?')])]
    ids = s.chat_ids(long)
    for given in ([folder/'p.png', str(folder/'t.wav')], [Image.fromarray(PHOTO), (folder/'t.wav').read_bytes()]): assert s.chat_ids('What?', media=given) == ids
    assert s.generate('What?', 4, media=[folder/'p.png', folder/'t.wav']).ids == s.generate(long, 4).ids
    assert edgewb.compare('What?', sessions, max_tokens=4, rounds=0, media=[PHOTO]).prompt_ids.count(-63) == 1
    with pytest.raises(BadMedia, match='raw'): s.chat_ids('What?', raw=True, media=[PHOTO])

def test_the_widget_shows_media(sessions, folder, talk):
    import asyncio
    from edgewb.widgets import CompareWidget
    w = CompareWidget('What is it?', list(sessions), max_tokens=4, media=[folder/'p.png'], run=False)
    asyncio.run(w.run().done())
    assert w.errors == [None, None]
    assert [len(l.ids) for l in w._lanes] == [len(sessions[0].chat_ids('What is it?', media=[folder/'p.png']))]*2
    w.close()

def test_a_literal_placeholder_is_text(sessions):
    parts = [dict(type='text', text='see <|image|> here'), dict(type='image', image=PHOTO)]
    for s in sessions:
        ids = s.chat_ids([dict(role='user', content=parts)])
        assert IMAGE not in ids and b'see <|image|> here' in b''.join(s.pieces(ids))

def test_forgotten_media_are_missed(sessions, talk):
    for s in sessions:
        ids = s.chat_ids(talk)
        s.forget()
        with pytest.raises(BadMedia, match='0 are kept'): s.generate(ids, 4)
        assert s.generate('Sort: 3 1 2', 4).ids
        with pytest.raises(BadMedia): s.eval([2, -10_000])

def test_a_bad_medium_changes_nothing(sessions, talk):
    for s in sessions:
        ids = s.chat_ids(talk)
        with pytest.raises(BadMedia): s.chat_ids([dict(role='user', content=[*talk[0]['content'], dict(type='image', image='nowhere.png')])])
        assert s.generate(ids, 4).ids == s.generate(talk, 4).ids

def test_image_tokens(checkpoints, gguf):
    with load(str(checkpoints['E2B']), 'llama.cpp', 'F32', threads=1, image_tokens=140) as s: n = len(s.embed('image', PHOTO))
    assert n == len(Torch(checkpoints['E2B'], device='cpu', image_tokens=140).embed('image', PHOTO)) == 130
    for make in (lambda: Torch(checkpoints['E2B'], image_tokens=100), lambda: Llama(gguf['E2B'], image_tokens=100)):
        with pytest.raises(Unsupported, match='70, 140, 280'): make()

def test_models_without_a_tower_say_so(checkpoints):
    with load(str(checkpoints['31B']), 'llama.cpp', 'F16', threads=1) as s:
        assert s.info['towers']['kinds'] == ['image', 'video']
        with pytest.raises(Unsupported, match='no audio tower'): s.embed('audio', TONE)


# --- GGUF files and their towers

def test_towers_are_found_beside_a_gguf(gguf, tmp_path):
    text, towers = gguf['E2B'], mmproj_of(gguf['E2B'])
    assert towers and mmproj_of(gguf['31B']) != towers
    shutil.copy(text, tmp_path/'model-Q.gguf')
    assert mmproj_of(tmp_path/'model-Q.gguf') is None
    with load(str(tmp_path/'model-Q.gguf'), 'llama.cpp', 'F32', threads=1) as s: # a build from before there were towers
        assert s.generate('Sort: 3 1 2', 4).ids
        with pytest.raises(Unsupported, match='without its towers'): s.embed('image', PHOTO)
    with load(str(tmp_path/'model-Q.gguf'), 'llama.cpp', 'F32', threads=1, mmproj=str(towers)) as s: assert s.embed('image', PHOTO)
    shutil.copy(towers, tmp_path/'mmproj-F32.gguf')
    (tmp_path/'mmproj-broken.gguf').write_bytes(b'GGUF')
    with load(str(tmp_path/'model-Q.gguf'), 'llama.cpp', 'F32', threads=1) as s: assert len(s.embed('image', PHOTO)) == 63
    with load(str(tmp_path/'model-Q.gguf'), 'llama.cpp', 'F32', threads=1, mmproj='no') as s:
        with pytest.raises(Unsupported): s.embed('image', PHOTO)
    with pytest.raises(EdgewbError, match='no file'): load(str(tmp_path/'model-Q.gguf'), 'llama.cpp', 'F32', threads=1, mmproj='gone.gguf')

def test_quantised_builds_have_towers_and_count_them(checkpoints):
    q, f = (build(str(checkpoints['E2B']), 'llama.cpp', k) for k in ('Q4_K_M', 'BF16'))
    assert mmproj_of(q.path) and mmproj_of(q.path).read_bytes() == mmproj_of(f.path).read_bytes()
    assert abs(f.bpw - 16) < 2 and q.bytes < f.bytes # convolutions and positions stay F32


# --- hostile input

BAD = [('image', np.zeros((0, 5, 3), np.uint8)), ('image', np.zeros((4, 4), np.uint8)), ('image', np.zeros((4, 4, 3))), ('image', np.zeros((4, 4, 4), np.uint8)),
       ('audio', np.zeros(0, np.float32)), ('audio', np.full(1000, np.nan, np.float32)), ('audio', np.full(1000, np.inf, np.float32)), ('audio', np.zeros((2, 100), np.float32)),
       ('audio', np.zeros(100)), ('audio', np.zeros(31*16_000, np.float32)), ('audio', np.zeros(160, np.float32)), ('audio', np.full(1000, 1e4, np.float32)),
       ('video', np.zeros((0, 4, 4, 3), np.uint8)), ('video', np.zeros((4, 4, 3), np.uint8))]

@pytest.mark.parametrize('i', range(len(BAD)))
def test_bad_arrays_are_refused_on_both_sides(sessions, torch, llama, i):
    for e in (*sessions, torch['E2B'], llama['E2B']):
        with pytest.raises(BadMedia): e.embed(*BAD[i])

def test_no_worker_dies_of_odd_media(sessions):
    odd = np.random.default_rng(1)
    for s in sessions:
        pid = s.pid
        for h, w in [(1, 1), (1, 5000), (5000, 1), (3, 2), (7, 1000)]: s.embed('image', odd.integers(0, 256, (h, w, 3), dtype=np.uint8))
        for n in (161, 162, 320, 481, 6400): s.embed('audio', (odd.normal(size=n)*.1).astype(np.float32))
        for x in (np.full(800, 9.9, np.float32), np.full(800, -1e-30, np.float32)): s.embed('audio', x)
        assert s.pid == pid and s.generate('Sort: 3 1 2', 2).ids
        s.forget()

def test_any_damage_to_a_file_is_a_sentence():
    "Cut and flipped PNG, JPEG, GIF and WAV files: BadMedia, or a picture or sound of the right kind."
    from PIL import Image
    files, odd = [], np.random.default_rng(2)
    for kind in ('PNG', 'JPEG', 'GIF'):
        Image.fromarray(PHOTO).save(b := io.BytesIO(), kind)
        files.append((media.picture, b.getvalue()))
    with wave.open(b := io.BytesIO(), 'wb') as f:
        f.setnchannels(2); f.setsampwidth(3); f.setframerate(44_100)
        f.writeframes(bytes(6*500))
    files.append((media.sound, b.getvalue()))
    for read, raw in files:
        for _ in range(150):
            x = bytearray(raw[:odd.integers(0, len(raw) + 1)])
            for _ in range(odd.integers(0, 4)):
                if x: x[odd.integers(0, min(len(x), 200))] = odd.integers(0, 256)
            try: a = read(bytes(x))
            except BadMedia as e: assert len(str(e)) > 20
            else: assert a.size and a.dtype == (np.uint8 if read is media.picture else np.float32)

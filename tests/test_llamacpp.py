"llama.cpp, real files and the real library: the cache, the fast path, builds, and everything that can be wrong with a file."
import os, struct, subprocess, sys, tarfile
from pathlib import Path

import numpy as np
import pytest

from edgewb import convert, core, engine_llamacpp as lc, gguf
from edgewb.engine_llamacpp import Engine, Settings, make
from edgewb.hardware import detect
from edgewb.weights import build

EXACT = dict(flash_attn='off', cache_type='f32', n_batch=64, threads=1)
# Largest difference of an F32 logit between one order of computing and another: ggml's GELU looks its argument up rounded to 16 bits, which makes
# 1e-3 of a last bit now and then. A cache that is wrong by one token is off by whole units.
NOISE = 0.02


@pytest.fixture(scope='module')
def f32(): return build('nano', 'llama.cpp', 'F32').path

@pytest.fixture(scope='module')
def bf16(): return build('nano', 'llama.cpp', 'BF16').path

@pytest.fixture(scope='module')
def q4(): return build('nano', 'llama.cpp', 'Q4_K_M').path

@pytest.fixture(scope='module')
def exact(f32):
    e = Engine(f32, n_ctx=1024, **EXACT)
    yield e
    e.close()

@pytest.fixture(scope='module')
def ids(exact): return [2, *np.random.default_rng(0).integers(300, exact.vocab_size, 499).tolist()]

@pytest.fixture(scope='module')
def rows(exact, ids):
    exact.trim(0)
    return exact.eval(ids, all=True).copy()


def test_threads_can_be_fewer_for_a_while(q4):
    e = Engine(q4, n_ctx=128, threads=2)
    now = lambda: (e._C.llama_n_threads(e._ctx), e._C.llama_n_threads_batch(e._ctx))
    for asked, got in ((1, 1), (64, 2), (0, 2)):
        e.use_threads(asked)
        assert now() == (got, got)
    e.close()


def rewrite(src: Path, dst: Path, meta: dict = {}, drop: str = '', extra: tuple = (), **kw):
    "A copy of a GGUF file with other metadata, without some tensors, with more of them."
    inv, data = gguf.inventory(src), src.read_bytes()
    at = {t.name: t for t in inv}
    tensors = [(t.name, t.shape, t.type) for t in inv if not drop or drop not in t.name] + list(extra)
    fill = lambda name, shape, kind: data[at[name].offset:at[name].offset + at[name].bytes] if name in at else bytes(gguf.Tensor(name, shape, kind, 0).bytes)
    gguf.write(dst, gguf.raw_meta(src) | meta, tensors, fill)
    return dst


# The cache

@pytest.mark.parametrize('step', [1, 7, 64, 500])
def test_steps_do_not_matter(exact, ids, rows, step):
    exact.trim(0)
    last = [exact.eval(ids[i:i+step]).copy() for i in range(0, len(ids), step)]
    want = rows[[min(i + step, len(ids)) - 1 for i in range(0, len(ids), step)]]
    assert np.abs(np.array(last) - want).max() < NOISE
    assert exact.pos == len(ids)


@pytest.mark.parametrize('n', [499, 430, 300, 200, 129, 64, 1, 0])
def test_trim_is_exact(exact, ids, rows, n):
    if exact.pos < 500: exact.eval(ids[exact.pos:])
    exact.trim(n)
    assert exact.pos == n
    again = exact.eval(ids[n:n+70], all=True)
    assert np.abs(again - rows[n:n+70]).max() < NOISE
    assert exact.pos == min(n + 70, 500)


def test_the_bound_tells_a_wrong_cache(exact, ids, rows):
    exact.trim(0); exact.eval(ids[:99])
    wrong = exact.eval(ids[100:170], all=True)  # one token was left out
    assert np.abs(wrong - rows[100:170]).max(1).min() > 10*NOISE


def test_trim_past_the_window_evaluates_again(exact, ids):
    exact.trim(0); exact.eval(ids)
    exact.trim(490); assert not exact._stale
    exact.trim(20); assert exact._stale == 20
    exact.trim(10); assert exact._stale == 10 and exact.pos == 10
    exact.eval(ids[10:12]); assert not exact._stale and exact.pos == 12


def test_full_sliding_cache_rolls_back_freely(f32, ids, rows):
    e = Engine(f32, n_ctx=512, swa_full=True, **EXACT)
    e.eval(ids)
    for n in (300, 100, 10):
        e.trim(n)
        assert not e._stale
        assert np.abs(e.eval(ids[n:n+1]) - rows[n]).max() < NOISE
    e.close()


def test_trim_refuses_what_is_not_there(exact, ids):
    exact.trim(0); exact.eval(ids[:10])
    for n in (11, -1):
        with pytest.raises(core.EdgewbError, match='holds 10 tokens'): exact.trim(n)


def test_last_row_is_a_view(exact, ids):
    exact.trim(0)
    a = exact.eval(ids[:5])
    assert a.dtype == np.float32 and a.shape == (exact.vocab_size,) and not a.flags.owndata


def test_no_score_buffer_over_the_context(f32, ids):
    "n_ctx x n_vocab floats would show in the buffers that llama.cpp lists."
    e = Engine(f32, n_ctx=4096, **EXACT)
    held = e.describe()['buffers']
    assert held['CPU compute'] + held.get('CPU output', 0) < 64 << 20
    e.close()


# The fast path

@pytest.mark.parametrize('format', ['F32', 'Q4_K_M', 'Q8_0'])
def test_greedy_equals_argmax(format):
    e = Engine(build('nano', 'llama.cpp', format).path, threads=1)
    prompt = e.tokenize('<bos><|turn>user\nSort these words: tulip, cedar, acorn.<turn|>\n<|turn>model\n')
    first = int(e.eval(prompt).argmax())
    fast = list(e.greedy(first, 200))
    assert e.pos == len(prompt) + 200
    e.trim(len(prompt))
    plain, t = [], first
    for _ in range(200): plain.append(t := int(e.eval([t]).argmax()))
    assert fast == plain
    e.close()


def test_tiles_that_something_else_was_given():
    "Once Linux has given a process the AMX tiles, as PyTorch's bfloat16 products make it, ggml can't be refused them; its tile code crashes where an older GCC compiled it."
    code = '''
import ctypes, os
if os.name == 'posix' and os.uname()[::4] == ('Linux', 'x86_64'): ctypes.CDLL(None).syscall(158, 0x1023, 18) # arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA)
from edgewb.engine_llamacpp import Engine, _amx_crashes, _has_tiles
from edgewb.weights import build
e = Engine(build('nano', 'llama.cpp', 'Q4_K_M').path, threads=1)
e.eval(list(range(20, 60)))
print(_has_tiles(), e.describe()['repack'], _amx_crashes())'''
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
    tiles, repack, crashes = (w == 'True' for w in done.stdout.split())
    assert tiles == ('AMX-INT8' in detect().isa) and repack == (not (tiles and crashes))


def test_greedy_can_be_left_and_taken_up(exact, ids, rows):
    exact.trim(0); exact.eval(ids[:100])
    whole = list(exact.greedy(ids[100], 30))
    exact.trim(100)
    some = [t for _, t in zip(range(10), exact.greedy(ids[100], 30))]
    assert exact.pos == 110 and some == whole[:10]
    assert list(exact.greedy(some[-1], 20)) == whole[10:]


def test_greedy_ends_with_the_context(f32, ids):
    e = Engine(f32, n_ctx=100, **EXACT)
    e.eval(ids[:90])
    assert len(list(e.greedy(ids[90], 50))) == 10 and e.pos == 100
    assert list(e.greedy(ids[90], 5)) == []
    with pytest.raises(core.PromptTooLong, match='101 tokens'): e.eval([5])
    e.close()


def test_greedy_after_a_far_roll_back(exact, ids):
    exact.trim(0); exact.eval(ids[:30]); want = list(exact.greedy(ids[30], 20))
    exact.trim(0); exact.eval(ids); exact.trim(30)
    assert exact._stale == 30 and list(exact.greedy(ids[30], 20)) == want


# Stopping, and what is refused

def test_stop_inside_a_prefill(f32, ids):
    e = Engine(f32, n_ctx=4096, **EXACT | dict(n_batch=4096))
    asked = []
    def stop(): asked.append(1); return len(asked) > 2
    out = e.eval((ids*8)[:4000], stop=stop)
    assert out.shape == (0, e.vocab_size) and e.pos == 0  # one chunk, so it was stopped inside it
    assert e.eval(ids).shape == (e.vocab_size,)
    e.close()


@pytest.mark.parametrize('tokens', [[], [-1], [10**6], [5, -1], [5, 2**31 - 1]])
def test_token_ids_are_checked(exact, tokens):
    exact.trim(0)
    with pytest.raises(core.EdgewbError, match='token'): exact.eval(tokens)
    assert exact.pos == 0


def test_a_prompt_too_long_changes_nothing(exact, ids, rows):
    exact.trim(0); exact.eval(ids[:50])
    with pytest.raises(core.PromptTooLong, match='context of 1024'): exact.eval(ids*3)
    assert np.abs(exact.eval(ids[50:51]) - rows[50]).max() < NOISE


@pytest.mark.parametrize('settings,match', [
    (dict(flash_atn='on'), "no llama.cpp setting 'flash_atn'. Nearest: flash_attn"), (dict(cache_type='q9'), 'f32, f16'), (dict(flash_attn='maybe'), 'auto, on, off'),
    (dict(cache_type_v='q8_0', flash_attn='off'), 'needs flash attention'), (dict(n_batch=0), "n_batch can't be 0"), (dict(n_batch='many'), "'many'"),
    (dict(n_ctx=0), 'holds nothing'), (dict(threads=1000), '1000 threads on a machine'), (dict(threads=-1), '-1 threads')])
def test_settings_are_checked(q4, settings, match):
    with pytest.raises(core.Unsupported, match=match): Engine(q4, **settings)


def test_settings_may_be_text(q4):
    assert lc._settings(dict(n_batch='64', swa_full='true', repack='off')) == lc._settings(dict(n_batch=64, swa_full=True, repack=False))


# Memory

@pytest.mark.parametrize('settings', [{}, dict(swa_full=True), dict(cache_type='q8_0'), dict(cache_type='f32', flash_attn='off'), dict(n_batch=64)])
def test_the_estimate_of_the_kv_cache_is_what_is_allocated(q4, settings):
    e = Engine(q4, n_ctx=1500, threads=1, **settings)
    assert lc.kv_bytes(e.inventory, 1500, e.settings) == pytest.approx(e.describe()['buffers']['CPU KV'], rel=0.01)
    e.close()


def test_too_little_memory_is_said_before_the_load(q4):
    with pytest.raises(core.NotEnoughMemory, match='shorter n_ctx'): Engine(q4, n_ctx=2**30)


# Text

@pytest.mark.parametrize('text', ['', ' ', 'a', '\n\n\n\n', '  two  spaces ', 'naïve café', '🦙🏽 👩‍👩‍👧', '\t\x00\x7f', '<|turn>user\nhi<turn|>\n', '<|think|>', '<0x41>',
                                  'x'*5000, 'ﷺ ẞ ∑', '1234567890', '<bos><bos>'])
def test_text_survives(exact, text):
    assert b''.join(exact.pieces(exact.tokenize(text))) == text.encode()


def test_broken_text_does_not_raise(exact):
    assert exact.pieces(exact.tokenize('a\ud800b'))


def test_no_bos_is_added(exact): assert exact.tokenize('<bos>') == [2] and exact.tokenize('a')[0] != 2

def test_end_tokens(exact): assert {b''.join(exact.pieces([i])) for i in exact.eog} >= {b'<eos>', b'<turn|>'}

def test_pieces_check_ids(exact):
    with pytest.raises(core.EdgewbError, match='no token id'): exact.pieces([10**6])


# Builds

BLOCKS = {'Q8_0': 'Q8_0', 'Q6_K': 'Q6_K', 'Q5_K_M': 'Q5_K', 'Q4_K_M': 'Q4_K', 'Q4_0': 'Q4_0', 'IQ4_XS': 'IQ4_XS', 'Q3_K_M': 'Q3_K', 'Q2_K': 'Q2_K'}

@pytest.fixture(scope='module')
def made(bf16, tmp_path_factory):
    out = tmp_path_factory.mktemp('made')
    return {f: gguf.inventory(make(bf16, f, out)) for f in BLOCKS}


def test_nano_fits_every_type(made):
    for f, inv in made.items():
        assert convert.fallbacks(inv) == [] and BLOCKS[f] in inv.types(), f
        assert convert.format_of(inv.files[0]) == f


def test_bits_per_weight_fall(made):
    bpw = [inv.bpw for inv in made.values()]
    assert bpw == sorted(bpw, reverse=True) or abs(bpw[4] - bpw[5]) < .3
    assert made['Q8_0'].bpw > made['Q6_K'].bpw > made['Q5_K_M'].bpw > made['Q4_K_M'].bpw > made['Q3_K_M'].bpw > made['Q2_K'].bpw


def test_a_matrix_that_does_not_fit_is_found(bf16, tmp_path):
    narrow = rewrite(bf16, tmp_path/'narrow-BF16.gguf', extra=[('blk.0.ffn_narrow.weight', (192, 256), 'F32')])
    inv = gguf.inventory(make(narrow, 'Q4_K_M', tmp_path))
    assert [t.name for t in convert.fallbacks(inv)] == ['blk.0.ffn_narrow.weight']


def test_every_format_is_one_that_llama_cpp_knows():
    assert set(convert.FORMATS) == set(convert._FTYPES.values())
    C = convert.library()
    for n, name in convert._FTYPES.items(): assert getattr(C, 'LLAMA_FTYPE_ALL_F32' if name == 'F32' else f'LLAMA_FTYPE_MOSTLY_{name}') == n


def test_formats_that_are_not_made(bf16, q4, tmp_path):
    with pytest.raises(core.UnknownFormat, match='Nearest: Q4_K_M'): make(bf16, 'Q4_KM', tmp_path)
    with pytest.raises(core.BadBuild, match='quantised already'): make(q4, 'Q8_0', tmp_path)
    assert make(q4, 'Q4_K_M', tmp_path) == q4
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_without_its_tokenizer_is_refused_in_a_sentence(tmp_path):
    from edgewb.weights import resolve
    folder = tmp_path/'half'; folder.mkdir()
    for f in resolve('nano').iterdir():
        if f.is_file() and 'tokenizer' not in f.name: (folder/f.name).symlink_to(f)
    with pytest.raises(core.BadBuild, match='converter refused half'): make(folder, 'BF16', tmp_path)
    (folder/'config.json').unlink(); (folder/'config.json').write_text('{"model_type": "llama"}')
    with pytest.raises(core.BadBuild, match="'llama' model"): make(folder, 'BF16', tmp_path)


# Files that are wrong

@pytest.mark.parametrize('part', [0, 3, 10, 24, 1000, 20_000, .02, .3, .9, .999])
def test_a_cut_file_is_named_so(q4, tmp_path, part):
    data = q4.read_bytes()
    bad = tmp_path/'cut.gguf'
    bad.write_bytes(data[:part if isinstance(part, int) else int(part*len(data))])
    with pytest.raises(core.BadBuild, match='cut.gguf .*(cut short|empty|not a GGUF)') as e: Engine(bad)
    assert '\n' not in str(e.value)


@pytest.mark.parametrize('meta,match', [
    ({'general.architecture': 'gemma3'}, "'gemma3' model"), ({'general.architecture': 'clip'}, 'tower'), ({'tokenizer.ggml.model': 'nonsense'}, 'nonsense'),
    ({'gemma4.block_count': 11}, 'expected 11, got 10'), ({'gemma4.embedding_length': 128}, 'shape|embd')])
def test_wrong_metadata(q4, tmp_path, meta, match):
    with pytest.raises(core.BadBuild, match=match): Engine(rewrite(q4, tmp_path/'odd.gguf', meta))


def test_a_missing_tensor_is_named(q4, tmp_path):
    with pytest.raises(core.BadBuild, match='blk.3.ffn_up.weight'): Engine(rewrite(q4, tmp_path/'less.gguf', drop='blk.3.ffn_up'))


def test_not_there_and_not_a_file(tmp_path):
    with pytest.raises(core.BadBuild, match='there is no file'): Engine(tmp_path/'none.gguf')
    with pytest.raises(core.BadBuild, match='is a folder'): Engine(tmp_path)


def test_damaged_weights_are_noticed(q4, tmp_path):
    "Noise where the blocks were: their half-precision scales are NaN here and there, and one is enough."
    data, first = bytearray(q4.read_bytes()), min(t.offset for t in gguf.inventory(q4))
    data[first + 2**20:] = np.random.default_rng(0).bytes(len(data) - first - 2**20)
    (tmp_path/'noise.gguf').write_bytes(data)
    e = Engine(tmp_path/'noise.gguf', threads=1)
    with pytest.raises(core.BadBuild, match='NaN'): e.eval([2, 300, 301])
    e.close()


def test_any_damage_to_the_header_is_an_exception(q4, tmp_path):
    "One byte changed, anywhere in the header: refused in a sentence, or loaded; never a dead process."
    data = bytearray(q4.read_bytes())
    end = min(t.offset for t in gguf.inventory(q4))
    bad = tmp_path/'flip.gguf'
    for at in np.random.default_rng(1).integers(0, end, 200):
        bad.write_bytes(data[:at] + bytes([data[at] ^ 0x55]) + data[at+1:])
        try: gguf.check(bad)
        except core.BadBuild as e: assert '\n' not in str(e)


def split(src: Path, folder: Path, n: int = 3) -> list[Path]:
    "The file as llama.cpp's own splitter would write it: the vocabulary in the first shard, 16-bit numbers."
    inv, data = gguf.inventory(src), src.read_bytes()
    at = {t.name: t for t in inv}
    out = []
    for i in range(n):
        u16 = lambda v: struct.pack('<IH', 2, v)
        meta = (gguf.raw_meta(src) if i == 0 else {}) | {'split.no': u16(i), 'split.count': u16(n), 'split.tensors.count': struct.pack('<Ii', 5, len(inv))}
        mine = [(t.name, t.shape, t.type) for j, t in enumerate(inv) if j*n//len(inv) == i]
        out.append(folder/f'nano-{i+1:05d}-of-{n:05d}.gguf')
        gguf.write(out[-1], meta, mine, lambda name, *_: data[at[name].offset:at[name].offset + at[name].bytes])
    return out


def test_shards(f32, exact, ids, rows, tmp_path):
    files = split(f32, tmp_path)
    assert [t.name for t in gguf.inventory(files[1])] == [t.name for t in gguf.inventory(f32)]
    e = Engine(files[2], n_ctx=512, **EXACT)
    assert np.abs(e.eval(ids[:100]) - rows[99]).max() < NOISE
    e.close()
    files[1].rename(tmp_path/'away')
    with pytest.raises(core.BadBuild, match='nano-00002-of-00003.gguf is missing in its folder'): Engine(files[0])
    (tmp_path/'away').rename(tmp_path/'lone.gguf')
    with pytest.raises(core.BadBuild, match='one of 3 shards'): Engine(tmp_path/'lone.gguf')


def test_an_abort_is_an_exception_with_the_log(q4, tmp_path):
    "ggml asserts when shared layers leave fewer than two with a cache of their own; the process is gone, the caller is not."
    from edgewb.session import load
    bad = rewrite(q4, tmp_path/'aborts-Q4_K_M.gguf', {'gemma4.attention.shared_kv_layers': 9, 'general.name': str(tmp_path)})
    with pytest.raises(core.EngineDied, match='GGML_ASSERT') as e: load(bad, 'llama.cpp', 'Q4_K_M')
    assert 'abort' in str(e.value)


# The source archive

SNIPPET = '''
import sys
from edgewb import convert
if sys.argv[1:]: convert.SDIST_SHA256[convert.version('llama-cpp-python')] = sys.argv[1]
print(convert.sdist_tree())
'''

def tree_in(cache: Path, *args: str, **env: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, '-c', SNIPPET, *args], env=os.environ | {'EDGEWB_CACHE': str(cache)} | env, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)

def archive(cache: Path) -> str:
    "An archive like the sdist, where the user may put one by hand; its hash."
    v = convert.version('llama-cpp-python')
    (home := cache/'llama.cpp'/v).mkdir(parents=True)
    (src := cache/'convert_hf_to_gguf.py').write_text('# a converter')
    with tarfile.open(home/f'llama_cpp_python-{v}.tar.gz', 'w:gz') as tar:
        for name in ('convert_hf_to_gguf.py', 'gguf-py/gguf/__init__.py', 'src/unwanted.cpp'): tar.add(src, f'llama_cpp_python-{v}/vendor/llama.cpp/{name}')
        tar.add(src, f'llama_cpp_python-{v}/vendor/llama.cpp/gguf-py/../../escape.py')
    return core.file_sha256(home/f'llama_cpp_python-{v}.tar.gz')


def test_processes_may_race_for_the_source(tmp_path):
    sha = archive(tmp_path)
    racers = [tree_in(tmp_path, sha) for _ in range(3)]
    said = [p.communicate(timeout=60) for p in racers]
    assert [p.returncode for p in racers] == [0, 0, 0], said
    tree = Path(said[0][0].strip())
    assert sorted(p.relative_to(tree).as_posix() for p in tree.rglob('*') if p.is_file()) == ['convert_hf_to_gguf.py', 'gguf-py/gguf/__init__.py']
    assert [p for p in tree.parent.iterdir() if p.is_dir()] == [tree]


def test_another_archive_is_refused(tmp_path):
    archive(tmp_path)
    p = tree_in(tmp_path)
    assert 'is not the file that edgewb expects' in p.communicate(timeout=60)[1]


def test_offline_says_what_to_do(tmp_path):
    err = tree_in(tmp_path, PIP_NO_INDEX='1', PIP_FIND_LINKS='').communicate(timeout=60)[1]
    assert "can't be fetched" in err and 'Connect once, or put llama_cpp_python-' in err

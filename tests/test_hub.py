"Hub ids: the real huggingface_hub client against a hub on this machine, over good lines and bad ones, down to nano running in every engine."
import json, shutil, subprocess, sys
from pathlib import Path
import numpy as np, pytest

import edgewb
from edgewb import hub, weights
from edgewb.core import BadBuild, DownloadFailed, NoAccess, NotEnoughDisk, UnknownFormat, UnknownModel, Unsupported
from loopback import Hub, Repo
from test_llamacpp import split

NANO = weights.resolve('nano')
FILES = {p.name: p for p in NANO.iterdir() if p.is_file()}
CODE = {'README.md': b'# nano', 'modeling_nano.py': b'raise SystemExit', 'pytorch_model.bin': b'\x80\x04not opened', 'original/params.json': b'{}'}
WEIGHTS = (NANO/'model.safetensors').stat().st_size
CONFIG = json.loads((NANO/'config.json').read_text())


@pytest.fixture
def served(tmp_path, monkeypatch):
    "Start a hub with these repositories, and a machine that has never asked it for anything."
    for k in ('HF_TOKEN', 'HF_HUB_OFFLINE', 'TRANSFORMERS_OFFLINE', 'HF_HUB_CACHE'): monkeypatch.delenv(k, raising=False)
    monkeypatch.setenv('HF_HOME', str(tmp_path/'hf'))
    monkeypatch.setenv('HF_TOKEN_PATH', str(tmp_path/'token'))
    monkeypatch.setattr('huggingface_hub.constants.HF_TOKEN_PATH', str(tmp_path/'token'))
    monkeypatch.setattr('huggingface_hub.constants.HF_STORED_TOKENS_PATH', str(tmp_path/'tokens'))
    monkeypatch.setenv('EDGEWB_CACHE', str(tmp_path/'cache'))
    monkeypatch.setattr(hub, 'PAUSE', .01)
    monkeypatch.setattr(weights, '_fetched', {})
    opened = []
    def start(repos=None):
        h = Hub(repos or {'org/nano': FILES | CODE}).__enter__()
        opened.append(h)
        monkeypatch.setenv('HF_ENDPOINT', h.url)
        return h
    yield start
    for h in opened: h.__exit__()


@pytest.fixture
def real_cache(monkeypatch):
    "Builds go where they always go: llama.cpp's converter is there."
    monkeypatch.delenv('EDGEWB_CACHE')


def leftovers(): return [p for p in hub.cache_folder().rglob('*') if p.name.endswith('.edgewb')] if hub.cache_folder().exists() else []
def text_of(e): return str(e.value)


# --- what is fetched

def test_only_what_is_needed_and_as_the_client_would_keep_it(served):
    h = served()
    d = hub.fetch('org/nano')
    assert (d.kind, d.fetched, d.bytes) == ('safetensors', d.bytes, sum(FILES[n].stat().st_size for n in d.files))
    assert set(d.files) == {n for n in FILES if n.endswith(('.json', '.jinja', '.safetensors'))}
    assert not any(p.endswith(tuple(CODE)) for _, p, _ in h.requests)
    assert d.path.name == 'nano' and all((d.path/n).read_bytes() == FILES[n].read_bytes() for n in d.files)
    from huggingface_hub import scan_cache_dir, snapshot_download, try_to_load_from_cache
    cache = hub.cache_folder()
    assert Path(snapshot_download('org/nano', cache_dir=cache, local_files_only=True)).samefile(d.path)
    assert Path(try_to_load_from_cache('org/nano', 'config.json', cache_dir=cache)).read_bytes() == FILES['config.json'].read_bytes()
    found = scan_cache_dir(cache)
    assert not found.warnings and found.size_on_disk == d.bytes


def test_what_the_client_has_downloaded_is_not_downloaded_again(served):
    h = served({'org/nano': FILES})
    from huggingface_hub import hf_hub_download
    hf_hub_download('org/nano', 'model.safetensors', cache_dir=hub.cache_folder(), endpoint=h.url)
    d = hub.fetch('org/nano')
    assert d.fetched == d.bytes - WEIGHTS and h.count('GET', '/cdn/') == 1


def test_same_content_is_fetched_once(served):
    h = served()
    hub.fetch('org/nano')
    seen = len(h.requests)
    assert hub.fetch('org/nano').fetched == 0
    assert [p for _, p, _ in h.requests[seen:]] == ['/api/models/org/nano/revision/main']
    h.repos['org/nano'] = Repo(FILES | {'generation_config.json': b'{"eos_token_id": 1}'})
    d = hub.fetch('org/nano')
    assert d.fetched == len(b'{"eos_token_id": 1}') and json.loads((d.path/'generation_config.json').read_text()) == {'eos_token_id': 1}
    assert h.count('GET', '/cdn/') == 1


def test_a_revision_by_name_and_by_commit(served):
    h = served()
    commit = h.repos['org/nano'].commit
    assert hub.fetch(f'org/nano@{commit}').commit == hub.fetch('org/nano@main').commit == commit
    with pytest.raises(UnknownModel, match="no revision 'v9'"): hub.fetch('org/nano@v9')


def test_progress_says_how_far(served):
    served()
    said = []
    hub.fetch('org/nano', progress=said.append)
    assert any('100%' in s and '0 s left' in s for s in said)


# --- bad lines

def test_a_cut_connection_is_resumed(served):
    h = served()
    key = h.repos['org/nano'].files['model.safetensors'].sha256
    h.cut[key] = [5_000_000, 5_000_000, 12_000_000]
    d = hub.fetch('org/nano')
    assert (d.path/'model.safetensors').read_bytes() == FILES['model.safetensors'].read_bytes()
    starts = [int(r['Range'][6:-1]) for _, p, r in h.requests if 'Range' in r and '/cdn/' in p]
    assert len(starts) == 3 and 4_000_000 < starts[0] <= starts[1] <= 5_000_000 < 11_000_000 < starts[2]


def test_an_interrupted_download_goes_on_in_another_process(served, tmp_path):
    h = served()
    key = h.repos['org/nano'].files['model.safetensors'].sha256
    h.cut[key] = [9_000_000]*99
    with pytest.raises(DownloadFailed, match='kept'): hub.fetch('org/nano')
    part, = leftovers()
    assert 8_000_000 < part.stat().st_size <= 9_000_000
    h.cut.clear()
    code = "from edgewb import hub; d = hub.fetch('org/nano'); print(d.fetched, d.path.joinpath('model.safetensors').stat().st_size)"
    n, size = map(int, subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.split())
    assert size == WEIGHTS and n <= WEIGHTS - 8_000_000 and not leftovers()


def test_an_interrupt_keeps_what_has_come(served, monkeypatch):
    h = served()
    real = hub._pull
    def broken(url, at, size, part, count):
        def stop(n):
            count(n)
            if part.stat().st_size > 4_000_000: raise KeyboardInterrupt
        real(url, at, size, part, stop if size > 10_000_000 else count)
    monkeypatch.setattr(hub, '_pull', broken)
    with pytest.raises(KeyboardInterrupt): hub.fetch('org/nano')
    monkeypatch.setattr(hub, '_pull', real)
    d = hub.fetch('org/nano')
    assert d.fetched < WEIGHTS - 3_000_000 and (d.path/'model.safetensors').stat().st_size == WEIGHTS


def test_a_server_that_knows_no_ranges_starts_over(served):
    h = served()
    file = h.repos['org/nano'].files['model.safetensors']
    h.cut[file.sha256] = [5_000_000]
    def whole(handler, kind, path):
        del handler.headers['Range']
        return False
    h.fault = whole
    d = hub.fetch('org/nano')
    assert (d.path/'model.safetensors').read_bytes() == file.read()


@pytest.mark.parametrize('status, where', [(429, '/api/'), (429, 'tokenizer.json'), (500, '/api/'), (503, '/cdn/'), (502, 'config.json')])
def test_a_busy_hub_is_asked_again(served, status, where):
    h = served()
    said = []
    h.fail(status, 3, where, **({'Retry_After': '0'} if status == 429 else {}))
    assert hub.fetch('org/nano', progress=said.append).fetched
    assert len([s for s in said if 'attempt' in s]) == 3


@pytest.mark.parametrize('status, words', [(429, 'too many requests'), (503, 'status 503')])
def test_a_hub_that_stays_busy(served, status, words):
    h = served()
    h.fail(status, 99)
    with pytest.raises(DownloadFailed, match=words): hub.fetch('org/nano')
    assert h.count('GET') == hub.TRIES


def test_a_hub_that_stays_busy_matters_not_to_who_has_the_model(served):
    h = served()
    d = hub.fetch('org/nano')
    h.fail(503, 99)
    again = hub.fetch('org/nano')
    assert again.path == d.path and 'last visit' in again.notes[-1]


def test_no_connection(served, monkeypatch):
    h = served()
    path = hub.fetch('org/nano').path
    h.__exit__()
    assert hub.fetch('org/nano').path == path
    with pytest.raises(DownloadFailed, match='does not answer'): hub.fetch('org/other')
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    assert hub.fetch('org/nano').notes == () and weights.resolve('org/nano') == path
    with pytest.raises(DownloadFailed, match='HF_HUB_OFFLINE is set'): hub.fetch('org/other')


def test_offline_with_a_part_of_the_model(served, monkeypatch):
    served()
    d = hub.fetch('org/nano')
    (d.path/'model.safetensors').resolve().unlink()
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    with pytest.raises(BadBuild): hub.fetch('org/nano')
    monkeypatch.delenv('HF_HUB_OFFLINE')
    assert hub.fetch('org/nano').fetched == WEIGHTS


# --- not what was promised

@pytest.mark.parametrize('name', ['model.safetensors', 'config.json'])
def test_a_wrong_hash_leaves_nothing(served, name):
    h = served()
    file = h.repos['org/nano'].files[name]
    h.lie[file.sha256 if name.endswith('.safetensors') else name] = file.read()[:-2] + b'!}'
    with pytest.raises(BadBuild, match=f'{name} of org/nano is not the file that the hub describes'): hub.fetch('org/nano')
    assert not leftovers()
    assert not [p for p in hub.cache_folder().rglob('*') if p.name == name]
    h.lie.clear()
    assert (hub.fetch('org/nano').path/name).read_bytes() == file.read()


@pytest.mark.parametrize('change', [b'', b'more than was said'])
def test_a_wrong_length_is_noticed(served, change):
    h = served()
    file = h.repos['org/nano'].files['config.json']
    h.lie['config.json'] = file.read() + change if change else file.read()[:50]
    with pytest.raises((BadBuild, DownloadFailed)): hub.fetch('org/nano')
    assert not (hub.cache_folder()/'models--org--nano'/'refs').exists()


@pytest.mark.parametrize('name', ['../../evil.json', '/etc/evil.json', 'a\\..\\evil.json'])
def test_names_that_point_elsewhere(served, name):
    h = served({'org/x': FILES})
    h.repos['org/x'].files[name] = h.repos['org/x'].files['config.json']
    with pytest.raises(DownloadFailed, match='makes no sense'): hub.fetch('org/x')


def test_hashes_that_are_none(served):
    h = served()
    h.repos['org/nano'].files['config.json'].blob = '../../../config'
    with pytest.raises(DownloadFailed, match='makes no sense'): hub.fetch('org/nano')


def test_another_architecture_is_refused_before_its_weights(served):
    h = served({'org/llama': FILES | {'config.json': b'{"model_type": "llama"}'}})
    with pytest.raises(BadBuild, match='llama model'): hub.fetch('org/llama')
    assert not h.count('GET', '/cdn/')


def test_code_in_a_repository_is_neither_fetched_nor_run(served):
    own = CONFIG | {'auto_map': {'AutoModelForCausalLM': 'modeling_nano.Nano'}}
    h = served({'org/nano': FILES | CODE | {'config.json': json.dumps(own).encode()}})
    said = []
    d = hub.fetch('org/nano', progress=said.append)
    assert 'auto_map' in d.notes[0] and 'not run' in d.notes[0] and d.notes[0] in said
    assert not h.count('GET', '.py')
    from edgewb.engine_torch import Engine
    assert Engine(d.path, device='cpu').model.__class__.__module__.startswith('transformers.')


def test_pickled_weights_are_refused(served):
    h = served({'org/old': {'config.json': FILES['config.json'], 'pytorch_model-00001-of-00001.bin': b'\x80\x04.'}})
    with pytest.raises(BadBuild, match='pickled weights .*can run any code'): hub.fetch('org/old')
    assert not h.count('GET', 'resolve')


def test_an_index_that_points_elsewhere(served):
    index = json.dumps({'weight_map': {'a': '../../../secret.safetensors'}}).encode()
    served({'org/x': FILES | {'model.safetensors.index.json': index}})
    with pytest.raises(BadBuild, match='no safetensors file in that folder'): hub.fetch('org/x')


def test_an_upload_that_is_not_complete(served):
    index = json.dumps({'weight_map': {'a': 'model.safetensors', 'b': 'model-2.safetensors'}}).encode()
    h = served({'org/x': FILES | {'model.safetensors.index.json': index}})
    with pytest.raises(BadBuild, match='lacks 1 of the 2 weight files'): hub.fetch('org/x')
    assert not h.count('GET', '/cdn/')


# --- who may

def test_a_missing_repository_names_the_nearest(served):
    served()
    with pytest.raises(UnknownModel) as e: hub.fetch('google/gemma4-E2B-it')
    assert 'Nearest: google/gemma-4-E2B-it' in text_of(e) and 'HF_TOKEN' in text_of(e)
    with pytest.raises(UnknownModel, match='Nearest: google/gemma-4-E2B-it'): edgewb.load('google/gemma4-E2B-it')
    assert not hub.cache_folder().exists() or not list(hub.cache_folder().iterdir())


def test_a_private_repository(served, monkeypatch):
    h = served({'org/secret': Repo(FILES, private=True)})
    with pytest.raises(UnknownModel, match='If it is private, log in'): hub.fetch('org/secret')
    monkeypatch.setenv('HF_TOKEN', h.token)
    assert hub.fetch('org/secret').fetched
    with pytest.raises(UnknownModel) as e: hub.fetch('org/none')
    assert 'private' not in text_of(e)


def test_terms_to_accept(served, monkeypatch):
    h = served({'google/gemma-4-E2B-it': Repo(FILES, gated=True)})
    with pytest.raises(NoAccess) as e: hub.fetch('google/gemma-4-E2B-it')
    assert f'{h.url}/google/gemma-4-E2B-it' in text_of(e) and 'hf auth login' in text_of(e)
    monkeypatch.setenv('HF_TOKEN', h.token)
    with pytest.raises(NoAccess, match='belongs to an account that has not'): hub.fetch('google/gemma-4-E2B-it')


def test_a_token_that_is_not_valid(served, monkeypatch):
    served()
    monkeypatch.setenv('HF_TOKEN', 'hf_expired')
    with pytest.raises(NoAccess, match='expired or was revoked'): hub.fetch('org/nano')


def test_the_token_stays_with_the_hub(served, monkeypatch):
    h = served({'org/secret': Repo(FILES, private=True)})
    monkeypatch.setenv('HF_TOKEN', h.token)
    hub.fetch('org/secret')
    sent = {'/cdn/' in p: 'Authorization' in r or 'authorization' in r for _, p, r in h.requests}
    assert sent == {False: True, True: False}


# --- the disk

def test_too_little_room_is_said_before_anything_is_fetched(served, monkeypatch):
    h = served()
    usage = shutil.disk_usage('/')
    monkeypatch.setattr(hub.shutil, 'disk_usage', lambda p: usage._replace(free=70_000_000))
    with pytest.raises(NotEnoughDisk) as e: hub.fetch('org/nano')
    assert 'model.safetensors' in text_of(e) and '66.8 MiB free' in text_of(e) and 'HF_HOME' in text_of(e)
    assert not h.count('GET', '/cdn/')


def test_a_disk_that_fills_leaves_nothing(served):
    served()
    code = '''
import resource, sys
from edgewb import hub
from edgewb.core import NotEnoughDisk
resource.setrlimit(resource.RLIMIT_FSIZE, (6_000_000, 6_000_000))
try: hub.fetch('org/nano')
except NotEnoughDisk as e: print(e)
'''
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert 'was full after' in done.stdout and 'of model.safetensors' in done.stdout, done.stderr
    assert not leftovers()
    assert hub.fetch('org/nano').fetched >= WEIGHTS


# --- at the same time

def test_two_processes_fetch_once(served):
    h = served()
    code = "from edgewb import hub; print(hub.fetch('org/nano').fetched)"
    both = [subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True) for _ in 'ab']
    fetched = sorted(int(p.communicate()[0]) for p in both)
    assert fetched[0] == 0 and fetched[1] >= WEIGHTS and h.count('GET', '/cdn/') == 1


# --- GGUF

@pytest.fixture(scope='module')
def q8(): return weights.build('nano', 'llama.cpp', 'Q8_0').path


def test_a_quantisation_by_name_with_its_towers(served, q8):
    h = served({'org/nano-GGUF': {'nano-it-Q8_0.gguf': q8, 'nano-it-Q4_0.gguf': b'GGUFx', 'mmproj-F16.gguf': b'GGUFhalf', 'mmproj-BF16.gguf': b'GGUFtowers', 'README.md': b''}})
    d = hub.fetch('org/nano-GGUF:q8_0')
    assert (d.kind, d.path.name, d.path.read_bytes()) == ('gguf', 'nano-it-Q8_0.gguf', q8.read_bytes())
    towers = d.path.with_name('mmproj-BF16.gguf')
    assert towers.name in d.notes[0] and not towers.exists()
    d = hub.fetch('org/nano-GGUF:Q8_0', media=True)
    assert towers.read_bytes() == b'GGUFtowers' and d.fetched == len(b'GGUFtowers') and not d.path.with_name('mmproj-F16.gguf').exists()
    with pytest.raises(UnknownFormat, match='Nearest: Q4_0'): hub.fetch('org/nano-GGUF:Q4_K_S')
    with pytest.raises(UnknownFormat, match='has 2 GGUF models: name one'): hub.fetch('org/nano-GGUF')
    with pytest.raises(BadBuild, match='use the llama.cpp engine'): edgewb.load('org/nano-GGUF:Q8_0', 'torch')
    assert h.count('GET', 'Q4_0') == 0


def test_a_split_file_runs(served, q8, tmp_path):
    parts = {f'Q8_0/{p.name}': p for p in split(q8, tmp_path)}
    h = served({'org/nano-GGUF': parts})
    with edgewb.load('org/nano-GGUF:Q8_0') as s: split_reply = s.generate('Sort: 58 25 31 41', 24)
    with edgewb.load(str(q8)) as s: assert s.generate('Sort: 58 25 31 41', 24).ids == split_reply.ids
    assert h.count('GET', '/cdn/') == 3
    h.repos['org/nano-GGUF'] = Repo(dict(list(parts.items())[:2]))
    with pytest.raises(BadBuild, match='2 of the 3 files'): hub.fetch('org/nano-GGUF:Q8_0')


# --- OpenVINO

def test_a_foreign_graph_is_explained(served):
    names = ['openvino_language_model.xml', 'openvino_language_model.bin', 'openvino_text_embeddings_model.xml', 'openvino_text_embeddings_model.bin', 'config.json']
    h = served({'org/nano-int8-ov': dict.fromkeys(names, b'{}')})
    with pytest.raises(Unsupported, match='openvino_language_model.xml.*edgewb exports that'): edgewb.load('org/nano-int8-ov', 'openvino')
    assert not h.count('GET', 'resolve')


def test_an_exported_graph_can_be_moved_and_served(served, real_cache, tmp_path):
    own = weights.build('nano', 'openvino', 'int8').path
    moved = tmp_path/'nano-int8-ov'
    shutil.copytree(own, moved)
    served({'org/nano-int8-ov': {p.name: p for p in own.iterdir() if p.is_file()}})
    want = None
    for model in ('nano', str(moved), 'org/nano-int8-ov'):
        with edgewb.load(model, 'openvino', None if model != 'nano' else 'int8') as s:
            assert s.target.format == 'int8' and 8 < s.build.bpw < 12
            got = s.generate('Sort: 58 25 31 41', 16).ids
            want = want or got
            assert got == want


# --- all of it

@pytest.mark.parametrize('engine, format', [('torch', 'f32'), ('llama.cpp', 'Q8_0'), ('openvino', 'int8')])
def test_nano_from_the_hub_in_every_engine(served, real_cache, engine, format):
    h = served({'org/nano': FILES})
    said = []
    with edgewb.load('org/nano', engine, format, progress=said.append) as s:
        assert any('org/nano' in t and '100%' in t for t in said)
        got = s.generate('Sort: 58 25 31 41', 24)
        again = s.generate('Sort: 58 25 31 41', 24)
    with edgewb.load('nano', engine, format) as s: assert s.generate('Sort: 58 25 31 41', 24).ids == got.ids == again.ids
    assert h.count('GET', '/api/') == 1, 'asked once in a process'


def test_weights_in_several_files(served, tmp_path):
    from safetensors.torch import load_file, save_file
    all_, files = load_file(NANO/'model.safetensors'), dict(FILES)
    names = sorted(all_)
    weight_map = {n: f'model-{1 + (i >= len(names)//2):05d}-of-00002.safetensors' for i, n in enumerate(names)}
    for f in sorted(set(weight_map.values())): save_file({n: all_[n] for n in names if weight_map[n] == f}, tmp_path/f, {'format': 'pt'}); files[f] = tmp_path/f
    del files['model.safetensors']
    served({'org/nano': files | {'model.safetensors.index.json': json.dumps({'metadata': {}, 'weight_map': weight_map}).encode(), 'extra.safetensors': b'not listed'}})
    d = hub.fetch('org/nano')
    assert 'extra.safetensors' not in d.files and len(weights.shards(d.path)) == 2
    from edgewb.engine_torch import Engine
    assert np.array_equal(Engine(d.path, device='cpu').eval([2, 5, 7, 9]), Engine(NANO, device='cpu').eval([2, 5, 7, 9]))


def test_a_local_folder_of_that_name_comes_first(served, tmp_path, monkeypatch):
    h = served()
    shutil.copytree(NANO, tmp_path/'org'/'nano')
    monkeypatch.chdir(tmp_path)
    assert weights.resolve('org/nano') == Path('org/nano') and not h.requests


def test_the_command_line_names_the_error_in_one_line(served):
    served()
    done = subprocess.run([sys.executable, '-m', 'edgewb.cli', 'compare', '--model', 'google/gemma-4-E2B-itt', '--targets', 'torch:f32', '--rounds', '0'], capture_output=True, text=True)
    assert 'Nearest: google/gemma-4-E2B-it' in done.stdout + done.stderr and 'Traceback' not in done.stderr


def test_weights_left_on_disk_give_the_same_numbers():
    from edgewb.engine_torch import Engine
    ids = [2] + list(range(20, 120))
    want = Engine(NANO, device='cpu').eval(ids, all=True)
    for place in (dict(device_map='disk'), dict(max_memory='30MB')):
        e = Engine(NANO, device='cpu', **place)
        assert e.places()['disk'] > 1_000_000
        for _ in range(2):
            assert np.array_equal(e.eval(ids, all=True), want)
            e.trim(0)


def test_a_session_with_weights_on_disk_needs_no_memory_for_them(monkeypatch):
    with edgewb.load('nano', 'torch', 'f32', device='cpu', device_map='disk') as s:
        assert s.info['weights_in'].keys() == {'disk'} and s.generate('Sort: 58 25 31 41', 8).tokens
    import psutil
    monkeypatch.setattr(psutil, 'virtual_memory', lambda: type('', (), dict(available=1_000_000)))
    from edgewb.session import check_memory
    b = weights.build('nano', 'torch', 'f32')
    check_memory(b, 256, device='cpu', max_memory='30MB')
    with pytest.raises(edgewb.NotEnoughMemory): check_memory(b, 256, device='cpu')

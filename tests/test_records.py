"Records survive what happens to files: two writers, kill -9, full disks, other programs, older versions; and no value gets lost on the way in and out."
import csv, json, math, os, random, signal, sqlite3, string, subprocess, sys, time
from pathlib import Path
import numpy as np
import pytest

from edgewb import records
from edgewb.core import BadRecords, EdgewbError, NotEnoughDisk
from edgewb.records import CHUNK, FIELDS, Record, Store


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    "A data folder of its own for each test."
    monkeypatch.setenv('EDGEWB_DATA', str(tmp_path/'data'))
    return tmp_path/'data'


def child(code, *args, **kw):
    "A process that runs `code`, in which `records` and `sys` are known."
    return subprocess.Popen([sys.executable, '-c', 'import sys\nfrom edgewb import records\n' + code, *map(str, args)], stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'}, **kw)


def sound(path):
    "The file is whole: SQLite says so, ids have no gap, and each record's samples are where they should be."
    with sqlite3.connect(path) as c:
        assert c.execute('PRAGMA integrity_check').fetchall() == [('ok',)]
        n, least, most = c.execute('SELECT count(*), ifnull(min(id), 1), ifnull(max(id), 0) FROM record').fetchone()
        assert (least, most) == (1, n)
        rows = c.execute('SELECT id, card, value FROM record ORDER BY id')
        for first, cards, values, counts, data in c.execute('SELECT * FROM chunk ORDER BY first'):
            assert np.frombuffer(counts, '<i4').sum()*8 == len(data)
            assert rows.fetchmany(len(counts)//4) == [(first + i, k, v) for i, (k, v) in enumerate(zip(np.frombuffer(cards, '<i4'), np.frombuffer(values, '<f8')))]
        assert not rows.fetchall()
    return n


# --- in and out

def some_text(rng):
    return ''.join(rng.choice(string.printable + 'äß漢🙂\0"\'\\%*[]') for _ in range(rng.randrange(20)))


def some_value(rng, deep=0):
    kinds = [lambda: rng.random()*10**rng.randrange(-300, 300), lambda: rng.randrange(-2**70, 2**70), lambda: some_text(rng), lambda: rng.random() < .5, lambda: -0.]
    if deep < 2: kinds += [lambda: [some_value(rng, deep + 1) for _ in range(rng.randrange(4))], lambda: {some_text(rng): some_value(rng, deep + 1) for _ in range(rng.randrange(4))}]
    return rng.choice(kinds)()


def some_record(rng):
    of = {'TEXT': lambda: some_text(rng), 'INTEGER': lambda: rng.randrange(-2**63, 2**63), 'REAL': lambda: rng.gauss(0, 1)*10**rng.randrange(-9, 9),
          'PART': lambda: {some_text(rng): some_value(rng) for _ in range(3)}, 'JSON': lambda: {some_text(rng): some_value(rng)}}
    card = {k: of[FIELDS[k][0]]() for k in rng.sample(sorted(FIELDS.keys() - {'metric', 'unit'}), rng.randrange(12))}
    card |= {'rare_' + some_text(rng): some_value(rng) for _ in range(rng.randrange(3))}
    samples = [rng.choice([rng.gauss(0, 1), rng.gauss(0, 1)*1e300, math.inf, 5e-324]) for _ in range(rng.choice([0, 1, 5, 300]))]
    own = dict(low=rng.random(), high=1 + rng.random(), load_before=rng.random(), load_after=rng.random(), void=some_text(rng), more={'why': some_value(rng)})
    return Record(some_text(rng) or 'm', rng.choice([1.5, -math.inf, 1e-308, 0.]), some_text(rng), samples, time=rng.random()*2e9, card=card, **{k: own[k] for k in rng.sample(sorted(own), 3)})


@pytest.mark.parametrize('seed', range(20))
def test_any_record_comes_back_as_it_went_in(seed):
    rng = random.Random(seed)
    gone = [some_record(rng) for _ in range(rng.choice([1, 7, 150]))]
    came = list(records.add(gone))
    assert len(came) == len(gone)
    for a, b in zip(gone, came):
        assert (a.metric, a.value, a.unit, list(a.samples), a.time, a.load_before, a.load_after, a.void, a.more or None) == \
               (b.metric, b.value, b.unit, b.samples, b.time, b.load_before, b.load_after, b.void, b.more)
        assert a.card == b.card
        assert (b.low, b.high) == tuple(given if given is not None else f(a.samples) if len(a.samples) else None for given, f in ((a.low, min), (a.high, max)))


@pytest.mark.parametrize('seed', range(5))
def test_a_frame_can_be_added_elsewhere(seed, tmp_path):
    rng = random.Random(seed)
    gone = records.add([some_record(rng) for _ in range(40)])
    frame = gone.frame(samples=True)
    came = records.add(frame, path=tmp_path/'other').frame(samples=True)
    import pandas as pd
    pd.testing.assert_frame_equal(frame, came[frame.columns], check_dtype=False)


def test_samples_are_found_across_chunks():
    n = 2*CHUNK + 10
    rng = np.random.default_rng(0)
    samples = [rng.normal(size=i % 4).tolist() for i in range(n)]
    kept = records.add([Record('m', 1., samples=s, card=dict(n_gen=i % 3)) for i, s in enumerate(samples)])
    assert all(kept[i].samples == samples[i] for i in (0, 3, CHUNK - 1, CHUNK, n - 1, -2))
    assert kept.find(n_gen=1).frame(samples=True).samples.tolist() == samples[1::3]
    assert [r.samples for r in kept.find(id=slice(CHUNK - 1, CHUNK + 3))] == samples[CHUNK - 2:CHUNK + 2]


def test_lone_surrogates_and_numbers_that_json_lacks_are_replaced():
    r = records.add(metric='m', value=1., model='a\ud800b', extra=dict(x=math.nan), samples=[math.nan, 1.])[0]
    assert r['model'] == 'a?b' and r['extra'] == {'x': None} and math.isnan(r.samples[0])


@pytest.mark.parametrize('what, says', [
    (dict(metric='m'), 'has no value'), (dict(value=1.), 'needs a metric'), (dict(metric='m', value='fast'), 'value of a record takes numbers'),
    (dict(metric='m', samples=['x']), 'take numbers'), (dict(metric='m', value=1., n_gen=1.5), 'n_gen takes a number without a fraction'),
    (dict(metric='m', value=1., n_gen=2**63), 'n_gen takes'), (dict(metric='m', value=1., bpw='big'), 'bpw takes a number'), (dict(what=[3]), 'a record is wanted, not int')])
def test_what_is_no_record_is_refused_whole(what, says, data):
    with pytest.raises(BadRecords, match=says): records.add(**what)
    assert len(records.find()) == 0


def test_equal_cards_are_stored_once():
    big = {f'tensor.{i}': 'Q4_K' for i in range(600)}
    for i in range(20): records.add(metric='m', value=i, engine='torch', tensor_map=big)
    with sqlite3.connect(Store().path) as c: assert [c.execute(f'SELECT count(*) FROM {t}').fetchone()[0] for t in ('card', 'part', 'record')] == [1, 1, 20]
    assert records.find()[7]['tensor_map'] == big


def test_nothing_is_changed_or_deleted():
    records.add(metric='m', samples=[1.], machine=dict(cpu='x'))
    with sqlite3.connect(Store().path) as c:
        for sql in ('UPDATE record SET value=2', 'DELETE FROM record', "UPDATE card SET engine='x'", 'DELETE FROM card', 'DELETE FROM part', 'DELETE FROM chunk'):
            with pytest.raises(sqlite3.IntegrityError, match='only ever added'): c.execute(sql)


# --- questions

def test_find():
    for e in ('torch', 'llama.cpp'):
        for d in (0, 64, 128): records.add(metric='decode_tps', value=100. + d, engine=e, n_depth=d, unit='tok/s', cores=4, **dict(kernel='amx') if d else {})
    n = lambda **kw: len(records.find(**kw))
    assert (n(), n(engine='torch'), n(engine='*orch'), n(engine=['torch', 'llama.cpp']), n(n_depth=slice(0, 128)), n(kernel=None), n(value=slice(160, None))) == (6, 3, 3, 6, 4, 2, 4)
    assert (n(cores=4), n(cores=5), n(n_depth=[64.], engine='torch'), n(time=slice('2020-01-01', None)), n(time=slice(None, '2020-01-01'))) == (6, 0, 1, 6, 0)
    assert len(records.find(engine='torch').find(n_depth=64)) == 1
    with pytest.raises(BadRecords, match="no field 'egnine'"): records.find(egnine='x')


def test_a_set_does_not_grow_while_others_add():
    records.add(metric='m', value=1.)
    kept = records.find()
    records.add(metric='m', value=2.)
    assert len(kept) == len(list(kept)) == len(kept.frame()) == 1


def test_points_are_medians_with_the_samples_range():
    rng = np.random.default_rng(0)
    rows = [(d, rng.normal(100, 5, 5)) for d in (0, 64) for _ in range(9)]
    records.add([Record('decode_tps', unit='tok/s', samples=s, card=dict(engine='torch', n_depth=d)) for d, s in rows])
    records.add(metric='decode_tps', unit='tok/s', value=1e9, void='a hiccup', engine='torch', n_depth=0)
    p = records.find().points('n_depth', by=['engine'])
    for d, row in zip((0, 64), p.itertuples()):
        s = [x for at, x in rows if at == d]
        assert (row.n_depth, row.value, row.low, row.high, row.records) == (d, np.median([np.median(x) for x in s]), np.min(s), np.max(s), 9)
    slow = records.find(time=slice('2000-01-01', None)).points('n_depth', by=['engine']) # another way through the file
    assert slow.equals(p) and records.find(n_depth=64).points('n_depth').value[0] == p.value[1]
    records.add(metric='ttft', value=1., unit='s')
    with pytest.raises(BadRecords, match='one plot shows one metric'): records.find().points('n_depth')


def test_views_say_units_spread_and_why_a_row_is_void():
    records.add(metric='ttft', unit='s', samples=[.1, .2, .3], engine='<b>', format='F16')
    records.add(metric='ttft', unit='s', void='another program ran', engine='torch')
    page, text = records.find()._repr_html_(), repr(records.find())
    assert 'ttft, s' in page and '0.2 (0.1 to 0.3)' in page and 'opacity:.5' in page and 'void: another program ran' in page and '&lt;b&gt;' in page and '<b>' not in page
    assert 'ttft, s' in text and '0.2 (0.1 to 0.3)' in text and 'void: another program ran' in text
    assert repr(records.find(engine='nobody')) == '0 records' and records.find(engine='nobody').frame().empty and not list(records.find(engine='nobody'))


# --- writers at the same time, and writers that die

ADD = '''
for i in range(int(sys.argv[3])): records.add([records.Record('m', samples=[i, i + 1.], card=dict(study=sys.argv[2], n_gen=i//10)) for _ in range(int(sys.argv[4]))], path=sys.argv[1])
'''


def test_writers_that_start_at_once_lose_nothing(tmp_path):
    path = tmp_path/'shared.sqlite'
    ps = [child(ADD, path, who, 25, 3) for who in 'abcd']
    for p in ps: assert p.wait(240) == 0, p.stderr.read()
    assert sound(path) == 300
    for who in 'abcd': assert [r.samples for r in records.find(path, study=who)] == [[i, i + 1.] for i in range(25) for _ in range(3)]


def test_kill_9_leaves_all_or_nothing_of_an_addition(tmp_path):
    path, rng = tmp_path/'killed.sqlite', random.Random(0)
    code = '''
import numpy as np, pandas as pd
records.add(metric='m', value=1., path=sys.argv[1])
big, runs = pd.DataFrame(dict(n_gen=np.arange(5000) % 50)), np.ones((5000, 5))
print('ready', flush=True)
while True: records.add(big, runs, path=sys.argv[1], metric='m'); print('added', flush=True)
'''
    most = 0
    for _ in range(5):
        p = child(code, path)
        assert p.stdout.readline() == 'ready\n'
        time.sleep(rng.uniform(.05, 1.))
        p.send_signal(signal.SIGKILL)
        said = p.stdout.read().count('added')
        p.wait()
        n = sound(path)
        ones = len(records.find(path, n_gen=None))
        assert (n - ones) % 5000 == 0 and (n - ones)//5000 - most in (said, said + 1), 'what was said to be added is there, and nothing by halves'
        most = (n - ones)//5000
    assert most > 0
    records.add(metric='m', value=2., path=path)
    assert sound(path) == n + 1


def test_an_interrupt_adds_nothing(monkeypatch):
    records.add(metric='m', value=1.)
    def stop(*_): raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(records, '_insert_chunks', stop)
        with pytest.raises(KeyboardInterrupt): records.add([Record('m', 1.)]*1000)
    assert sound(Store().path) == 1


def test_a_writer_that_holds_on_is_named(monkeypatch):
    records.add(metric='m', value=1.)
    monkeypatch.setattr(records, 'WAIT', .2)
    c = sqlite3.connect(Store().path, isolation_level=None)
    c.execute('BEGIN IMMEDIATE')
    with pytest.raises(BadRecords, match='has kept .* locked for'): records.add(metric='m', value=2.)
    assert len(records.find()) == 1, 'reading goes on'
    c.execute('ROLLBACK')
    c.close()
    assert len(records.add(metric='m', value=2.)) == 1


# --- disks and folders

def test_a_full_disk_loses_nothing(tmp_path):
    "The limit on a file's size is what a process without privileges can have in place of a full disk."
    path = tmp_path/'full.sqlite'
    code = '''
import resource
records.add(metric='m', value=1., path=sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
try: records.add([records.Record('m', samples=[1.]*100) for i in range(2000)], path=sys.argv[1]); print('added')
except records.EdgewbError as e: print(type(e).__name__, e)
'''
    p = child(code, path)
    said = p.communicate()[0]
    assert said.startswith(('NotEnoughDisk', 'BadRecords')) and 'nothing was added and nothing was lost' in said
    assert sound(path) == 1 and len(records.add(metric='m', value=2., path=path)) == 1


@pytest.fixture()
def small_disk(tmp_path):
    "A file system of half a megabyte."
    where = tmp_path/'small'
    where.mkdir()
    if os.geteuid() or subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=512k', 'none', where], capture_output=True).returncode: pytest.skip('mounting is not allowed here')
    yield where
    subprocess.run(['umount', where], check=True)


def test_a_small_disk_that_fills_up(small_disk):
    path, n = small_disk/'records.sqlite', 0
    with pytest.raises(NotEnoughDisk, match='no room is left .* nothing was lost'):
        while True: records.add([Record('m', samples=[float(n)]*200)]*20, path=path); n += 20
    assert n > 0 and sound(path) == n
    assert records.find(path)[n - 1].samples == [n - 20.]*200
    with pytest.raises(EdgewbError, match="can't be written"): records.export_llama_bench(small_disk/'x.jsonl', records.add([Record('decode_tps', samples=[1.]*99, card=dict(n_prompt=0, n_gen=1))]*500))


UNPRIVILEGED = '''
import os, pandas, edgewb.recordset, edgewb.llamabench
if os.geteuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)
'''


def readable(tmp_path):
    "Other users may go into the test's folder."
    for p in (tmp_path, *tmp_path.parents):
        if p.owner() != 'root' or p == Path('/tmp'): break
        p.chmod(p.stat().st_mode | 0o055)


def test_a_read_only_folder_is_read_and_said_to_be_one(tmp_path):
    folder = tmp_path/'stick'
    records.add(metric='m', samples=[1., 2.], path=folder/'r.sqlite')
    assert sorted(p.name for p in folder.iterdir()) == ['r.sqlite'], 'nothing but the file is left lying'
    os.chmod(folder/'r.sqlite', 0o444), os.chmod(folder, 0o555), readable(tmp_path)
    code = UNPRIVILEGED + '''
print(records.find(sys.argv[1])[0].samples)
for path in (sys.argv[1], sys.argv[2]):
    try: records.add(metric='m', value=1., path=path)
    except records.BadRecords as e: print(e)
'''
    p = child(code, folder/'r.sqlite', folder/'below'/'new.sqlite')
    out, err = p.communicate()
    os.chmod(folder, 0o755)
    lines = out.splitlines()
    assert lines[:1] == ['[1.0, 2.0]'], err
    assert len(lines) == 3 and all("can't be written" in line and 'path=' in line for line in lines[1:]), out
    assert sound(folder/'r.sqlite') == 1


# --- files of others

def test_other_programs_files_are_left_alone(tmp_path):
    (files := tmp_path/'files').mkdir()
    with sqlite3.connect(files/'photos.sqlite') as c: c.execute('CREATE TABLE photo(x)')
    with sqlite3.connect(files/'bench.sqlite') as c: c.execute('CREATE TABLE llama_bench(avg_ts REAL)')
    with sqlite3.connect(files/'stamped.sqlite') as c: c.execute('PRAGMA application_id=1234')
    (files/'letter.txt').write_text('Dear records,\n'*100)
    for p in list(files.iterdir()):
        before = p.read_bytes()
        for attempt in (lambda: records.find(p), lambda: records.add(metric='m', value=1., path=p)):
            with pytest.raises(BadRecords, match='left as it is|left as it was|left as') as e: attempt()
            assert len(str(e.value).splitlines()) == 1
        assert p.read_bytes() == before
    assert sorted(p.name for p in files.iterdir()) == ['bench.sqlite', 'letter.txt', 'photos.sqlite', 'stamped.sqlite']
    with pytest.raises(BadRecords, match='import_llama_bench'): records.find(files/'bench.sqlite')
    with pytest.raises(BadRecords, match="can't be written"): records.add(metric='m', value=1., path=files)


def test_an_empty_file_is_taken(tmp_path):
    (tmp_path/'new').touch()
    assert len(records.find(tmp_path/'new')) == 0 and len(records.add(metric='m', value=1., path=tmp_path/'new')) == 1


@pytest.mark.parametrize('seed', range(8))
def test_damage_is_said_and_not_made_worse(seed, tmp_path):
    path, rng = tmp_path/'r.sqlite', random.Random(seed)
    records.add([Record('m', samples=[float(i)]*50, card=dict(n_gen=i % 9)) for i in range(500)], path=path)
    whole = path.read_bytes()
    at = rng.randrange(len(whole)//2)
    hurt = whole[:at] if seed % 2 else whole[:at] + rng.randbytes(4096) + whole[at + 4096:]
    path.write_bytes(hurt)
    try:
        for r in records.find(path): pass
        records.find(path).frame()
    except EdgewbError as e: assert len(str(e).splitlines()) == 1
    except (ValueError, TypeError): pass  # a damaged number is still a number to SQLite
    if not path.read_bytes() or path.read_bytes() == hurt: return
    pytest.fail('reading changed the file')


def test_a_newer_version_is_left_alone(tmp_path):
    records.add(metric='m', value=1., path=tmp_path/'r')
    with sqlite3.connect(tmp_path/'r') as c: c.execute('PRAGMA user_version=99')
    for attempt in (lambda: records.find(tmp_path/'r'), lambda: records.add(metric='m', value=1., path=tmp_path/'r')):
        with pytest.raises(BadRecords, match='newer edgewb'): attempt()


def test_an_older_schema_is_read_and_grows(tmp_path, monkeypatch):
    "An older edgewb knew fewer fields; what it didn't know it kept among the rare ones."
    old = {k: v for k, v in FIELDS.items() if k not in ('kernel', 'repack', 'study')}
    with monkeypatch.context() as m:
        for k in FIELDS.keys() - old.keys(): m.delitem(FIELDS, k)
        records.add(metric='m', value=1., engine='torch', kernel='amx', path=tmp_path/'r')
    with sqlite3.connect(tmp_path/'r') as c: assert 'kernel' not in {r[1] for r in c.execute('PRAGMA table_info(card)')}
    assert len(records.find(tmp_path/'r', kernel='amx')) == 1 and records.find(tmp_path/'r')[0]['kernel'] == 'amx' and records.find(tmp_path/'r').frame().kernel[0] == 'amx'
    records.add(metric='m', value=2., engine='torch', kernel='vnni', path=tmp_path/'r')
    assert [r['kernel'] for r in records.find(tmp_path/'r')] == ['amx', 'vnni'] and len(records.find(tmp_path/'r', kernel='*')) == 2
    assert records.find(tmp_path/'r').frame().kernel.tolist() == ['amx', 'vnni']


# --- results

def test_a_bench_becomes_records_with_those_that_do_not_count():
    from types import SimpleNamespace as Some
    class Measured:
        unit = 'ms'
        def rows(self): return [dict(name='a', low=9., high=12., n=3, reason='3 of them: busy'), dict(name='b', low=math.nan, high=math.nan, n=0, reason='cache hit')]
        def values(self, name, void=False): return [[10., 11, 12], [99.]][void] if name == 'a' else [[], [5.]][void]
    cost = Some(target='a', load_s=.5, memory=dict(anonymous=10, why='x'), joules_token=None)
    kept = records.add(records.from_bench(Some(results={'ttft128': Measured()}, costs=[cost]), dict(a=dict(engine='torch'), b=dict(engine='openvino'))))
    assert [(r.metric, r.unit, r.value, r.void, r['engine']) for r in kept] == [
        ('ttft', 's', pytest.approx(.011), '', 'torch'), ('ttft', 's', pytest.approx(.099), '3 of them: busy', 'torch'), ('ttft', 's', pytest.approx(.005), 'cache hit', 'openvino'),
        ('load', 's', .5, '', 'torch'), ('memory_anonymous', 'B', 10., '', 'torch')]
    assert (kept[0].low, kept[0].high) == (pytest.approx(.009), pytest.approx(.012)) and kept[0].more == dict(spread='95% interval') and kept[0]['n_prompt'] == 128


def test_run_cards_tell_targets_apart_and_the_same_one_together(tmp_path):
    "Made of plain data: what a session says of itself, whatever the engine."
    from types import SimpleNamespace as Some
    from edgewb.runcard import ids_hash, run_card
    def session(**kw):
        build = Some(sha256='ab'*32, bpw=4.5, path=tmp_path/'model.bin', bytes=10)
        return Some(target=Some(model='nano', engine='new', format='q', settings=kw), build=build, n_ctx=64, info=dict(version='1.0', threads=kw.get('threads', 2), anything=[1, {'x': 2}]))
    a, b, c = (records.add(metric='m', value=1., **run_card(session(**kw), [2, 3])) for kw in (dict(threads=1), dict(threads=1), dict(threads=2)))
    with sqlite3.connect(Store().path) as db: assert db.execute('SELECT count(*) FROM card').fetchone()[0] == 2
    r = a[0]
    assert (r['engine_version'], r['n_threads'], r['settings'], r['prompt_sha256'], r['model_filename']) == ('1.0', 1, dict(threads=1, n_ctx=64), ids_hash([2, 3]), 'model.bin')
    assert r['engine_info']['anything'] == [1, {'x': 2}] and r['command'] == "edgewb.load('nano', 'new', 'q', n_ctx=64, threads=1)" and r['machine']['memory'] and 'load' not in r['machine']


# --- llama-bench

COMMON = dict(cpu_info='AMD Ryzen 7', gpu_info='', model_filename='/models/gemma-4-E2B-it-Q4_K_M.gguf', model_type='gemma4 E2B Q4_K - Medium', model_size=3106731392, model_n_params=4647450147,
              n_threads=8, n_gpu_layers=99, main_gpu=0, tensor_split='0.00', n_batch=2048)
NEWER = dict(n_ubatch=512, cpu_mask='0x0', cpu_strict=False, poll=50, type_k='f16', type_v='f16', split_mode='layer', no_kv_offload=False, embeddings=False)
VERSIONS = { # what the versions of different years write
    2023: COMMON | dict(build_commit='2b4ea35e', build_number=1500, cuda=True, opencl=False, metal=False, gpu_blas=True, blas=True, f16_kv=True, mul_mat_q=True),
    2024: COMMON | dict(build_commit='6026da52', build_number=3779, cuda=False, vulkan=False, kompute=False, metal=False, sycl=False, rpc='0', gpu_blas=False, blas=False, flash_attn=False, use_mmap=True,
                        n_ubatch=512, type_k='f16', type_v='f16', split_mode='layer', no_kv_offload=False, embeddings=False),
    2025: COMMON | NEWER | dict(build_commit='8cf427ff', build_number=5163, backends='CUDA', flash_attn=True, tensor_buft_overrides='none', defrag_thold=-1., use_mmap=True, no_op_offload=0, n_depth=0),
    2026: COMMON | NEWER | dict(build_commit='0c1e5701a', build_number=9001, backends='CPU', n_cpu_moe=0, flash_attn=-1, devices='auto', tensor_buft_overrides='none', load_mode='mmap', lazy_mode='auto',
                                no_op_offload=0, no_host=False, repack=True, fit_target=0, fit_min_ctx=0, n_depth=4096, something_new={'a': [1]}),
}


def entries(version, tests=((512, 0), (0, 128), (256, 64))):
    "As llama-bench would write them, samples and averages in step."
    rng, out = random.Random(version), []
    for p, g in tests:
        ns = [rng.randrange(10**7, 10**12) for _ in range(5)]
        ts = [1e9*(p + g)/t for t in ns]
        out.append(VERSIONS[version] | dict(n_prompt=p, n_gen=g, test_time='2026-04-24T11:58:50Z', avg_ns=int(np.mean(ns)), stddev_ns=int(np.std(ns, ddof=1)), avg_ts=round(float(np.mean(ts)), 6),
                                            stddev_ts=round(float(np.std(ts, ddof=1)), 6), samples_ns=ns, samples_ts=[float(f'{t:.6g}') for t in ts]))
    return out


def written(path, found, form):
    if form == 'json': path.write_text('[\n' + ',\n'.join(json.dumps(e, indent=4) for e in found) + '\n]\n')
    if form == 'jsonl': path.write_text(''.join(json.dumps(e) + '\n' for e in found))
    flat = [{k: v for k, v in e.items() if not isinstance(v, (list, dict))} for e in found]
    if form == 'csv':
        with open(path, 'w', newline='') as f:
            w = csv.DictWriter(f, flat[0], quoting=csv.QUOTE_ALL)
            w.writeheader()
            w.writerows({k: int(v) if isinstance(v, bool) else v for k, v in e.items()} for e in flat)
    if form == 'sqlite':
        with sqlite3.connect(path) as c:
            c.execute(f'CREATE TABLE llama_bench({", ".join(flat[0])})')
            c.executemany(f'INSERT INTO llama_bench VALUES({", ".join("?"*len(flat[0]))})', [list(e.values()) for e in flat])
    return path


@pytest.mark.parametrize('form', ['json', 'jsonl', 'csv', 'sqlite'])
@pytest.mark.parametrize('version', VERSIONS)
def test_llama_bench_of_all_years_and_forms(version, form, tmp_path):
    gone = entries(version)
    came = records.import_llama_bench(written(tmp_path/f'b.{form}', gone, form))
    assert [r.metric for r in came] == ['prefill_tps', 'decode_tps', 'total_tps']
    for e, r in zip(gone, came):
        assert (r['build_commit'], r['cpu_info'], r['n_prompt'], r['n_gen'], r['n_depth']) == (e['build_commit'], e['cpu_info'], e['n_prompt'], e['n_gen'], e.get('n_depth', 0))
        assert r['model'] == 'gemma-4-E2B-it-Q4_K_M' and r.unit == 'tok/s' and r['type_k'] == 'f16'
        if form in ('json', 'jsonl'): assert r.samples == [1e9*(e['n_prompt'] + e['n_gen'])/t for t in e['samples_ns']] and r.value == np.median(r.samples)
        else: assert not r.samples and r.value == e['avg_ts'] and r.high - r.low == pytest.approx(2*e['stddev_ts'])
    assert came[0]['backends'] == {2023: 'CUDA,GPU BLAS,BLAS', 2024: 'CPU', 2025: 'CUDA', 2026: 'CPU'}[version]
    if version == 2026 and form == 'json': assert came[0]['something_new'] == {'a': [1]}


@pytest.mark.parametrize('version', VERSIONS)
def test_what_llama_bench_wrote_is_exported_again(version, tmp_path):
    gone = entries(version)
    records.import_llama_bench(written(tmp_path/'b.json', gone, 'json'))
    assert records.export_llama_bench(tmp_path/'out.json') == 3
    for a, b in zip(gone, json.loads((tmp_path/'out.json').read_text())):
        lasting = {k: v for k, v in a.items() if k in FIELDS or k in ('n_prompt', 'n_gen', 'n_depth', 'samples_ns', 'test_time')}
        assert {k: b[k] for k in lasting} == lasting
        for k in ('avg_ns', 'stddev_ns', 'avg_ts', 'stddev_ts'): assert b[k] == pytest.approx(a[k], rel=1e-6, abs=1)


def test_an_import_twice_is_one_import(tmp_path):
    p = written(tmp_path/'b.json', entries(2026), 'json')
    assert [r.id for r in records.import_llama_bench(p)] == [r.id for r in records.import_llama_bench(p)] and len(records.find()) == 3


@pytest.mark.parametrize('form', ['json', 'jsonl'])
def test_every_truncation_is_refused_or_salvaged(form, tmp_path):
    p = written(tmp_path/f'b.{form}', entries(2026), form)
    whole = p.read_bytes()
    for at in random.Random(0).sample(range(1, len(whole) - 2), 60):
        p.write_bytes(whole[:at])
        try: assert len(records.import_llama_bench(p, to=tmp_path/f'{at}')) == whole[:at].count(b'\n') and form == 'jsonl'
        except BadRecords as e: assert 'othing was imported' in str(e) and len(str(e).splitlines()) == 1 and not (tmp_path/f'{at}').exists()
        done = whole[:at].count(b'samples_ts') - (0 if whole[:at].rstrip().endswith((b'}', b'},', b']\n')) else 1)
        if done > 0: assert 0 < len(records.import_llama_bench(p, to=tmp_path/f's{at}', salvage=True)) <= 3


@pytest.mark.parametrize('text', ['', '\n', '[]x', '{}', '[{"n_prompt": 1}]', '[1, 2]', 'null', '{"a": NaN}', '[' * 100_000, 'a,b\n1,2\n', '\0\1', '{"n_prompt": -1, "n_gen": 0, "avg_ts": 1, "test_time": "2026-01-01T00:00:00Z"}',
                                  '{"n_prompt": 1, "n_gen": 0, "avg_ts": 1, "test_time": "yesterday"}', '{"n_prompt": 1, "n_gen": 0, "avg_ts": 1, "test_time": "2026-01-01T00:00:00Z", "samples_ns": [0]}',
                                  '{"n_prompt": 1, "n_gen": 0, "avg_ts": 1, "test_time": "2026-01-01T00:00:00Z", "n_batch": "many"}', 'CREATE TABLE IF NOT EXISTS llama_bench (x);'])
def test_what_is_not_from_llama_bench_gets_one_sentence(text, tmp_path):
    (tmp_path/'b.json').write_text(text)
    with pytest.raises(BadRecords) as e: records.import_llama_bench(tmp_path/'b.json')
    assert len(str(e.value).splitlines()) == 1 and len(str(e.value)) < 300 and len(records.find()) == 0


def test_missing_and_binary_files_too(tmp_path):
    (tmp_path/'x.json').write_bytes(b'\xff\xfe\x00')
    (tmp_path/'x.sqlite').write_bytes(b'SQLite format 3\0' + b'\7'*5000)
    for n in ('none.json', 'x.json', 'x.sqlite', '.'):
        with pytest.raises(BadRecords): records.import_llama_bench(tmp_path/n)


def test_an_export_has_no_holes(tmp_path):
    "The script joins on equality: an empty field must be a value, also of a record that never saw llama-bench."
    records.add(metric='decode_tps', unit='tok/s', samples=[99., 101.], engine='openvino', engine_version='2026.4', model='nano', format='int8', n_prompt=0, n_gen=47, n_depth=27)
    records.add(metric='decode_tps', unit='tok/s', value=3., void='busy', n_prompt=0, n_gen=47)
    records.add(metric='kld', unit='nats', value=3.)
    for form in ('json', 'jsonl', 'csv', 'sqlite'): assert records.export_llama_bench(tmp_path/f'x.{form}') == 1
    with sqlite3.connect(tmp_path/'x.sqlite') as c:
        row = c.execute('SELECT * FROM llama_bench').fetchone()
    assert None not in row and len((tmp_path/'x.csv').read_text().splitlines()) == 2
    e, = json.loads((tmp_path/'x.json').read_text())
    assert e['samples_ns'] == [round(47e9/99), round(47e9/101)] and e['avg_ts'] == 100. and len(e['build_commit']) == 8 and e['model_type'] == 'nano int8'
    with pytest.raises(BadRecords, match='which form'): records.export_llama_bench(tmp_path/'x.txt')


@pytest.mark.parametrize('form', ['json', 'jsonl', 'csv', 'sqlite'])
def test_llama_cpps_script_reads_an_export(form, tmp_path):
    from edgewb.convert import sdist_tree
    script = sdist_tree()/'scripts'/'compare-llama-bench.py'
    for commit, tps in (('aaaaaaa1', 100.), ('bbbbbbb2', 150.)):
        records.add(metric='decode_tps', unit='tok/s', samples=[tps]*3, engine='llama.cpp', build_commit=commit, model='nano', format='Q4_K_M', n_prompt=0, n_gen=47, n_depth=27)
    records.export_llama_bench(tmp_path/f'x.{form}')
    ran = subprocess.run([sys.executable, script, '-t', 'llama-bench', '-i', tmp_path/f'x.{form}', '-b', 'aaaaaaa1', '-c', 'bbbbbbb2'], capture_output=True, text=True, cwd=tmp_path, stdin=subprocess.DEVNULL,
                         env=os.environ | {'GIT_PYTHON_REFRESH': 'quiet'}) # no repository here, and none is needed
    assert ran.returncode == 0, ran.stderr
    assert 'tg47@d27' in ran.stdout and '1.50' in ran.stdout

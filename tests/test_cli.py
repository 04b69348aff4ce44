"The command as a shell sees it: streams, exit status, signals, and JupyterLab behind `edgewb lab`."
import json, os, re, signal, socket, subprocess, sys, time, urllib.request
from pathlib import Path
import pytest

ROOT = Path(__file__).parents[1]
EDGEWB = [sys.executable, '-m', 'edgewb.cli']


def edgewb(*args, **kw):
    return subprocess.run([*EDGEWB, *args], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300, **kw)


def test_results_on_stdout_progress_on_stderr():
    ran = edgewb('compare', 'What is 2 plus 3?', '--targets', 'llama.cpp:F16', 'llama.cpp:Q8_0', '--max-tokens', '8', '--rounds', '1', '--json')
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)
    assert [t['target'] for t in said['targets']] == ['llama.cpp:F16', 'llama.cpp:Q8_0']
    assert all(t['decode_tps'] > 0 and t['text'] for t in said['targets'])
    assert 'round 1 of 1' in ran.stderr


@pytest.mark.parametrize('args, part', [
    (['compare', '--targets', 'lama.cpp:Q4_K_M'], "Nearest: llama.cpp"),
    (['compare', '--targets', 'llama.cpp:Q4_KM'], "Nearest: Q4_K_M"),
    (['compare', '--model', 'nani'], "Nearest: nano"),
    (['compare', '--model', '/no/such/model.gguf'], "no file or folder"),
    (['formats', 'open-vino'], "Nearest: openvino"),
])
def test_a_mistake_is_one_sentence(args, part):
    ran = edgewb(*args)
    assert ran.returncode == 2 and ran.stdout == ''
    assert part in ran.stderr and 'Traceback' not in ran.stderr
    assert ran.stderr.splitlines()[-1].startswith('edgewb: ')


@pytest.fixture
def pictures(tmp_path):
    "Files with four squares and with one, and some that are no pictures."
    from PIL import Image
    from edgewb.nano.media import Picture, Thing, paint
    spots = ((82, 62), (43, 21), (52, 53), (14, 64))
    for name, n in (('four', 4), ('one', 1)):
        Image.fromarray(paint(Picture(96, 96, 96, 0, tuple(Thing('square', 'orange', x, y, 10) for x, y in spots[:n])))).save(tmp_path/f'{name}.png')
    (tmp_path/'text.png').write_text('no picture')
    (tmp_path/'empty.png').write_bytes(b'')
    (tmp_path/'half.png').write_bytes((tmp_path/'four.png').read_bytes()[:400])
    return tmp_path


LOOK = ['compare', 'How many shapes?', '--model', 'nano-dense', '--targets', 'llama.cpp:Q8_0', '--max-tokens', '8', '--rounds', '1']

def test_a_question_about_a_picture(pictures):
    for name, answer in (('four', '4'), ('one', '1')):
        ran = edgewb(*LOOK, '--json', '--media', str(pictures/f'{name}.png'))
        assert ran.returncode == 0, ran.stderr
        assert json.loads(ran.stdout)['targets'][0]['text'].strip() == answer


@pytest.mark.parametrize('name, part', [('gone.png', 'No such file'), ('text.png', 'nothing that Pillow can open'), ('empty.png', 'is empty'), ('half.png', 'is damaged')])
def test_what_is_no_picture_is_one_sentence(pictures, name, part):
    ran = edgewb(*LOOK, '--media', str(pictures/name))
    assert ran.returncode == 2 and ran.stdout == '' and 'Traceback' not in ran.stderr
    assert ran.stderr.splitlines()[-1].startswith('edgewb: ') and name in ran.stderr and part in ran.stderr


def test_questions_are_answered_at_once():
    assert edgewb('models').stdout.split()[:2] == ['nano', 'nano-dense']
    assert 'Q4_K_M' in edgewb('formats', 'llama.cpp').stdout and 'torch' in edgewb('version').stdout


def test_a_closed_pipe_is_no_error():
    ran = subprocess.run(f'{sys.executable} -m edgewb.cli formats | head -1', shell=True, capture_output=True, text=True)
    assert ran.stdout == 'torch:\n' and ran.stderr == ''


@pytest.mark.skipif(os.name != 'posix', reason='POSIX signals')
@pytest.mark.parametrize('after', [0.3, 3.0], ids=['while starting', 'while working'])
def test_interrupt_ends_with_130_and_leaves_nobody(after):
    import psutil
    p = subprocess.Popen([*EDGEWB, 'compare', 'Count.', '--rounds', '1000'], start_new_session=True,
                         stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    time.sleep(after)
    group = [psutil.Process(p.pid), *psutil.Process(p.pid).children(recursive=True)]
    os.killpg(p.pid, signal.SIGINT)
    said = p.communicate(timeout=30)[1]
    assert p.returncode == 130 or (after < 1 and p.returncode in (1, -signal.SIGINT)), said
    gone, alive = psutil.wait_procs(group, timeout=10)
    assert alive == []
    if p.returncode == 130: assert 'Traceback' not in said


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


@pytest.mark.skipif(os.name != 'posix', reason='POSIX signals')
def test_lab_opens_on_the_tour(tmp_path):
    own = {f'JUPYTER_{k}_DIR': str(tmp_path/k) for k in ('CONFIG', 'DATA', 'RUNTIME')}
    port = free_port()
    p = subprocess.Popen([*EDGEWB, 'lab', '--no-browser', f'--port={port}', '--IdentityProvider.token=t'], stdin=subprocess.DEVNULL,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path, env={**os.environ, **own})
    try:
        for _ in range(600):
            try: page = urllib.request.urlopen(f'http://127.0.0.1:{port}/lab?token=t', timeout=5).read().decode()
            except OSError: time.sleep(0.1)
            else: break
            assert p.poll() is None, p.stdout.read()
        tour = urllib.request.urlopen(f'http://127.0.0.1:{port}/api/contents/nbs/lessons/00_tour.ipynb?content=0&token=t', timeout=10)
        assert json.load(tour)['type'] == 'notebook'
        assert '"news": {"disabled": true}' in page
    finally:
        p.send_signal(signal.SIGTERM)
        said = p.communicate(timeout=30)[0]
    assert re.search(r'^kernels can use ', said, re.M), 'says what machine this is'
    assert f'127.0.0.1:{port}/lab/tree/nbs/lessons/00_tour.ipynb' in said


def test_waterfall_as_json():
    ran = edgewb('waterfall', 'llama.cpp:Q4_K_M,threads=1', '--tokens', '4', '--rounds', '2', '--json')
    assert ran.returncode in (0, 1), ran.stderr # 1: the machine was too busy for a figure
    said = json.loads(ran.stdout)
    assert [r['rung'] for r in said['rungs']] == ['kernels', 'engine loop', 'binding', 'session', 'server', 'client']


@pytest.mark.skipif(os.name != 'posix', reason='signals')
def test_serve_until_ctrl_c():
    p = subprocess.Popen([*EDGEWB, 'serve', '--port', '0'], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    url = re.search(r'http://\S+/v1', p.stdout.readline())[0]
    body = json.dumps(dict(messages=[dict(role='user', content='Sort: 58 25 31 41')], temperature=0)).encode()
    r = json.load(urllib.request.urlopen(urllib.request.Request(f'{url}/chat/completions', body), timeout=60))
    assert r['choices'][0]['message']['content'] == '25 31 41 58'
    p.send_signal(signal.SIGINT)
    assert p.wait(20) == 130


def test_figures_are_kept_and_found(tmp_path):
    file = str(tmp_path/'r.sqlite')
    ran = edgewb('bench', 'llama.cpp:Q4_K_M,threads=1', '--plan', 'pp32', 'tg8', '--rounds', '1', '--drift', '900', '--busy', '100', '--keep', file)
    assert ran.returncode == 0 and f'records in {file}' in ran.stderr, ran.stderr
    found = json.loads(edgewb('records', 'metric=decode_tps', '--file', file, '--json').stdout)
    assert [(r['model'], r['n_gen']) for r in found] == [('nano', 8)]
    out = tmp_path/'x.json'
    assert edgewb('records', '--file', file, '--export', str(out)).stdout.startswith('2 speeds of')
    assert edgewb('records', '--file', str(tmp_path/'other.sqlite'), '--import', str(out)).returncode == 0
    assert len(json.loads(edgewb('records', '--file', str(tmp_path/'other.sqlite'), '--json').stdout)) == 2


@pytest.mark.parametrize('args, part', [(['decode'], 'write field=value'), (['colour=red'], "no field 'colour'"), (['--file', '/no/such/x.sqlite'], '/no/such/x.sqlite'), (['--import', '/no/such.json'], "can't be read")])
def test_records_that_are_not_there(args, part):
    ran = edgewb('records', *args)
    assert ran.returncode == 2 and part in ran.stderr and 'Traceback' not in ran.stderr

"""What the browser tests share: a Chromium that the machine has, a page with the widget's module in it, a JupyterLab.

These tests fail, and say how to help, where there is no Chromium: a test that is skipped in silence proves nothing.
"""
import base64, json, os, shutil, socket, subprocess, sys, time, urllib.request
from pathlib import Path

import pytest

HERE = Path(__file__).parent
STATIC = HERE.parents[1] / 'edgewb' / 'static'
sys.path.insert(0, str(HERE))


def chromium() -> str:
    "Path of a Chromium: $EDGEWB_CHROMIUM, Debian's, or a Chrome or Chromium on the PATH."
    named = os.environ.get('EDGEWB_CHROMIUM')
    if named:
        if not os.access(named, os.X_OK): raise RuntimeError(f'EDGEWB_CHROMIUM={named} is not a program that can be run.')
        return named
    for name in '/usr/bin/chromium', 'chromium', 'google-chrome', 'chromium-browser', 'chrome':
        if found := shutil.which(name): return found
    raise RuntimeError('the browser tests need a Chromium and found none. On Debian or Ubuntu: `apt-get install --no-install-recommends '
                       'chromium`; elsewhere install Chrome or Chromium, or set EDGEWB_CHROMIUM to its path.')


def launch(playwright):
    "A headless Chromium; the sandbox is off because containers and root have none to offer."
    return playwright.chromium.launch(executable_path=chromium(), args=['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'])


@pytest.fixture(scope='session')
def browser():
    try: from playwright.sync_api import sync_playwright
    except ImportError: pytest.fail('the browser tests need playwright: pip install playwright (no `playwright install` needed).')
    with sync_playwright() as p:
        b = launch(p)
        yield b
        b.close()


# A model with anywidget's methods: what the view sends is kept, what Python would send is pushed.
MODEL = '''
window.makeModel = (state) => {
  const on = {}, sent = [];
  return { sent, state, get: (k) => state[k], set: (k, v) => { state[k] = v; }, save_changes() {},
    on: (e, f) => (on[e] ??= new Set()).add(f), off: (e, f) => on[e]?.delete(f), send: (m) => sent.push(m),
    push(m) { for (const f of on["msg:custom"] ?? []) f(m); },
    change(k, v) { state[k] = v; for (const f of on["change:" + k] ?? []) f(); },
    listeners: () => Object.values(on).reduce((n, s) => n + s.size, 0) };
};
'''


@pytest.fixture
def view(browser):
    "A function that opens a page with the widget's module drawn over a fake model, `window.model`."
    pages = []

    def open_view(lanes=('torch:f32', 'llama.cpp:Q4_K_M'), dark=False, width=1000, **state):
        page = browser.new_page(viewport=dict(width=width, height=900), reduced_motion='reduce')
        pages.append(page)
        page.problems = []
        page.on('pageerror', lambda e: page.problems.append(str(e)))
        page.on('console', lambda m: page.problems.append(m.text) if m.type == 'error' else None)
        page.on('request', lambda r: page.problems.append(r.url) if r.url.startswith('http') else None)
        page.set_content(f'<!doctype html><style>{(STATIC / "compare.css").read_text()}</style><main id="cell"></main><script>{MODEL}</script>')
        faces = [dict(name=n, engine=n.split(':')[0], format=n.split(':')[1], reference=i == 0) for i, n in enumerate(lanes)]
        state = dict(dict(lanes=faces, prompt='Say hello', state='idle', status='', figures={}, snapshot={}, twin='t'), **state)
        source = base64.b64encode((STATIC / 'compare.js').read_bytes()).decode()
        page.evaluate('''async ([source, state]) => {
            window.widget = (await import("data:text/javascript;base64," + source)).default;
            window.model = makeModel(state);
            window.clean = widget.render({model, el: document.getElementById("cell")});
        }''', [source, state])
        return page

    yield open_view
    for page in pages:
        assert not page.problems, page.problems
        page.close()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


class Lab:
    "A JupyterLab of its own: own home, own settings, own kernels, nothing of the user's."

    def __init__(self, root: Path):
        self.root, self.work, self.port, self.token = root, root / 'work', free_port(), 'edgewb'
        self.work.mkdir(parents=True)
        env = dict(os.environ, HOME=str(root / 'home'), IPYTHONDIR=str(root / 'ipython'), PLOTLY_RENDERER='plotly_mimetype',
                   PYTHONPATH=os.pathsep.join([str(HERE.parents[1]), str(HERE), os.environ.get('PYTHONPATH', '')]))
        # builds are content-addressed and costly: the tests share the user's, though nothing else of the home
        env.setdefault('EDGEWB_CACHE', str(Path(os.environ.get('XDG_CACHE_HOME', Path.home() / '.cache')) / 'edgewb'))
        for kind in 'CONFIG', 'DATA', 'RUNTIME':
            env[f'JUPYTER_{kind}_DIR'] = str(root / kind.lower())
        settings = root / 'config' / 'lab' / 'user-settings' / '@jupyterlab'
        for plugin, value in {
            # off-screen cells are otherwise not in the page at all
            'notebook-extension/tracker': {'windowingMode': 'none'},
            'apputils-extension/notification': {'fetchNews': 'false', 'checkForUpdates': False},
        }.items():
            (settings / plugin).parent.mkdir(parents=True, exist_ok=True)
            (settings / f'{plugin}.jupyterlab-settings').write_text(json.dumps(value))
        self.settings, self.log = settings, open(root / 'lab.log', 'wb')
        self.process = subprocess.Popen(
            [sys.executable, '-m', 'jupyter', 'lab', '--no-browser', '--allow-root', f'--port={self.port}', '--ServerApp.port_retries=0',
             f'--IdentityProvider.token={self.token}', '--LabApp.expose_app_in_browser=True', f'--ServerApp.root_dir={self.work}'],
            env=env, stdout=self.log, stderr=subprocess.STDOUT, cwd=root)
        self.url = f'http://127.0.0.1:{self.port}'
        end = time.time() + 60
        while time.time() < end:
            if self.process.poll() is not None: break
            try: return urllib.request.urlopen(f'{self.url}/api?token={self.token}', timeout=2).close()
            except OSError: time.sleep(.2)
        raise RuntimeError('JupyterLab did not start:\n' + (root / 'lab.log').read_text()[-2000:])

    def theme(self, dark: bool):
        path = self.settings / 'apputils-extension/themes.jupyterlab-settings'
        path.write_text(json.dumps({'theme': f'JupyterLab {"Dark" if dark else "Light"}'}))

    def notebook(self, name: str, *sources: str) -> None:
        cells = [dict(cell_type='code', id=f'c{i}', metadata={}, source=s, outputs=[], execution_count=None) for i, s in enumerate(sources)]
        kernel = dict(kernelspec=dict(name='python3', display_name='Python 3', language='python'))
        (self.work / name).write_text(json.dumps(dict(cells=cells, metadata=kernel, nbformat=4, nbformat_minor=5)))

    def open(self, browser, name: str, width=1280, height=1000, scale=1):
        "A page with the notebook open and its kernel idle; `page.problems` collects errors and every foreign request."
        page = browser.new_page(viewport=dict(width=width, height=height), device_scale_factor=scale)
        page.problems, page.requests = [], []
        page.on('pageerror', lambda e: page.problems.append(str(e)))
        page.on('console', lambda m: page.problems.append(m.text) if m.type == 'error' else None)
        page.on('request', lambda r: page.requests.append(r.url))
        page.goto(f'{self.url}/lab/tree/{name}?reset&token={self.token}')
        self.ready(page)
        return page

    def ready(self, page):
        page.wait_for_function('''() => window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status === "idle"''', timeout=90_000)

    def foreign(self, page) -> list:
        "Requests that left the machine."
        return [u for u in page.requests if u.split(':')[0] in ('http', 'https', 'ws', 'wss') and f'127.0.0.1:{self.port}' not in u]

    def run(self, page, command='notebook:run-all-cells'):
        page.evaluate('c => { jupyterapp.commands.execute(c) }', command)

    def value(self, page, code: str):
        "What `code` prints in the notebook's kernel, read back as JSON."
        return page.evaluate('''async (code) => {
            const kernel = jupyterapp.shell.currentWidget.sessionContext.session.kernel;
            const future = kernel.requestExecute({code, store_history: false});
            let text = "";
            future.onIOPub = (m) => { if (m.header.msg_type === "stream") text += m.content.text;
                                      if (m.header.msg_type === "error") text += m.content.evalue; };
            await future.done;
            try { return JSON.parse(text); } catch { return text; }
        }''', f'import json\nprint(json.dumps({code}))')

    def close(self):
        self.process.terminate()
        try: self.process.wait(20)
        except subprocess.TimeoutExpired: self.process.kill()
        self.log.close()


@pytest.fixture(scope='session')
def lab(tmp_path_factory):
    one = Lab(tmp_path_factory.mktemp('lab'))
    yield one
    one.close()

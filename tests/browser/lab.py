"""A Chromium that the machine has, and a JupyterLab of one's own: for the browser tests, the widget's bench and its pictures."""
import json, os, shutil, socket, subprocess, sys, time, urllib.request
from pathlib import Path

HERE = Path(__file__).parent


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

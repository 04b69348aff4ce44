"""What the browser tests share: a Chromium, a page with the widget's module in it, a JupyterLab.

These tests fail, and say how to help, where there is no Chromium: a test that is skipped in silence proves nothing.
"""
import base64, sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
STATIC = HERE.parents[1] / 'edgewb' / 'static'
sys.path.insert(0, str(HERE))
from lab import Lab, chromium, launch


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


@pytest.fixture(scope='session')
def lab(tmp_path_factory):
    one = Lab(tmp_path_factory.mktemp('lab'))
    yield one
    one.close()

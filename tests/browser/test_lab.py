"""The real thing: the widget in JupyterLab, driven in a Chromium, with a kernel behind it."""
import json, time

import pytest

FAKES = '''
from edgewb.widgets import CompareWidget
from fakes import FakeSession
sessions = [FakeSession('torch', 'f32', rate=60), FakeSession('llama.cpp', 'Q4_K_M', rate=60, departs=17), FakeSession('openvino', 'int8', rate=60)]
'''
ODD = ('Failed to load resource',)  # JupyterLab asks its own server for optional settings that this one has not got


@pytest.fixture
def page(lab, browser):
    "Opens a notebook of the given cells and runs it; on leaving, nothing may have gone wrong or left the machine."
    pages = []

    def open_notebook(*cells, name='compare.ipynb'):
        lab.notebook(name, *cells)
        p = lab.open(browser, name)
        pages.append(p)
        lab.run(p)
        p.wait_for_selector('.ewb', timeout=60_000)
        return p

    yield open_notebook
    for p in pages:
        assert lab.foreign(p) == []
        assert [m for m in p.problems if not m.startswith(ODD)] == []
        p.evaluate('() => jupyterapp.shell.currentWidget.sessionContext.shutdown()')
        p.close()


def lane(page, name): return page.get_by_role('article', name=name)


def state(page, name, *wanted, timeout=60):
    end = time.time() + timeout
    while (now := lane(page, name).locator('.ewb-state').inner_text()) not in wanted:
        assert time.time() < end, f'{name} is {now}, not {wanted}'
        time.sleep(.02)


def save(page): page.evaluate('() => jupyterapp.shell.currentWidget.context.save()')


def text(page, name): return lane(page, name).locator('.ewb-log').evaluate('e => e.textContent')


def test_stop_one_while_the_others_go_on(lab, page):
    p = page(FAKES, 'w = CompareWidget("Tell me of rivers", sessions, max_tokens=100_000)\nw')
    for name in 'torch:f32', 'llama.cpp:Q4_K_M', 'openvino:int8': state(p, name, 'running')
    p.get_by_role('button', name='Stop openvino:int8').click()
    state(p, 'openvino:int8', 'stopped')
    still = text(p, 'openvino:int8'), len(text(p, 'torch:f32'))
    time.sleep(1)
    assert text(p, 'openvino:int8') == still[0]
    assert len(text(p, 'torch:f32')) > still[1]
    assert lane(p, 'torch:f32').locator('.ewb-state').inner_text() == 'running'
    p.get_by_role('button', name='Stop all lanes').click()
    state(p, 'torch:f32', 'stopped')
    state(p, 'llama.cpp:Q4_K_M', 'stopped')
    assert lab.value(p, 'w.result(30) and w.state') == 'done'
    # the page has what was produced, to the letter
    made = lab.value(p, '["".join(t for _, t in s.produced) for s in sessions]')
    assert [text(p, n) for n in ('torch:f32', 'llama.cpp:Q4_K_M', 'openvino:int8')] == made


def test_real_engines_from_the_cell_magic(lab, page):
    p = page('%load_ext edgewb', '%%compare torch:f32 llama.cpp:Q2_K openvino:int8 --max-tokens 24\nWhat is 17 + 25?')
    names = 'torch:f32', 'llama.cpp:Q2_K', 'openvino:int8'
    for name in names: state(p, name, 'done', timeout=500)
    replies = lab.value(p, '[r.text for r in _.replies]')
    assert [text(p, n) for n in names] == replies and all(replies)
    p.get_by_role('button', name='Measure undisturbed').click()
    table = p.locator('.ewb-table table')
    table.wait_for(timeout=500_000)
    assert table.get_by_role('rowheader').all_inner_texts() == list(names)
    assert 'decode tok/s' in table.inner_text() and 'one target at a time' in table.inner_text()
    lab.value(p, 'bool(_.close())')


def test_departure_and_alternatives(lab, page):
    p = page(FAKES, 'w = CompareWidget("Tell me of rivers", sessions, max_tokens=40)\nw')
    state(p, 'llama.cpp:Q4_K_M', 'done')
    first = lane(p, 'llama.cpp:Q4_K_M').locator('.ewb-dep')
    assert first.inner_text().strip().endswith('17') and first.get_attribute('data-mark') == '◆17'
    assert lane(p, 'llama.cpp:Q4_K_M').get_by_text('◆ departs at token 17').is_visible()
    state(p, 'openvino:int8', 'done')
    lane(p, 'openvino:int8').get_by_text('same text').wait_for()
    first.hover()
    card = p.get_by_role('tooltip')
    assert 'token 17' in card.inner_text() and '◆ the reference wrote' in card.inner_text() and card.locator('li').count() == 5
    assert 'share this machine' in p.get_by_role('status').inner_text()


def test_a_second_view_and_a_reload_catch_up(lab, page):
    p = page(FAKES, 'w = CompareWidget("Tell me of rivers", sessions, max_tokens=100_000)\nw', name='reload.ipynb')
    state(p, 'torch:f32', 'running')
    p.evaluate('''() => { const nb = jupyterapp.shell.currentWidget.content; nb.activeCellIndex = 1; nb.mode = "command";
        return jupyterapp.commands.execute("notebook:create-output-view"); }''')
    p.wait_for_function('document.querySelectorAll(".ewb").length === 2')
    p.wait_for_function('''() => { const [a, b] = [...document.querySelectorAll(".ewb")].map(v => v.querySelector(".ewb-log").textContent);
        return b.length > 50 && a === b; }''', timeout=30_000)
    p.evaluate('() => jupyterapp.shell.currentWidget.context || jupyterapp.shell.currentWidget.close()')  # the second view, not the notebook
    p.wait_for_function('() => jupyterapp.shell.currentWidget?.context')
    save(p)
    p.goto(f'{lab.url}/lab/tree/reload.ipynb?reset&token={lab.token}')
    lab.ready(p)
    p.wait_for_selector('.ewb', timeout=30_000)
    state(p, 'torch:f32', 'running')
    p.get_by_role('button', name='Stop all lanes').first.click()
    state(p, 'torch:f32', 'stopped')
    time.sleep(.5)
    made = lab.value(p, '["".join(t for _, t in s.produced) for s in sessions]')
    assert [text(p, n) for n in ('torch:f32', 'llama.cpp:Q4_K_M', 'openvino:int8')] == made


def test_running_the_cell_again_stops_the_old_lanes(lab, page):
    p = page(FAKES, 'w = CompareWidget("Tell me of rivers", sessions, max_tokens=100_000)\nw', 'import threading')
    state(p, 'torch:f32', 'running')
    p.evaluate('''() => { const nb = jupyterapp.shell.currentWidget.content; nb.activeCellIndex = 1;
        return jupyterapp.commands.execute("notebook:run-cell"); }''')
    p.wait_for_function('document.querySelectorAll(".ewb").length === 1')
    state(p, 'torch:f32', 'running')
    time.sleep(.5)
    assert lab.value(p, 'sum(t.name.startswith("lane ") for t in threading.enumerate())') == 3
    assert lab.value(p, 'sum(t.name == "compare widget" for t in threading.enumerate())') == 1


def test_an_awaiting_cell_hears_the_buttons(lab, page):
    p = page(FAKES, 'w = CompareWidget("Tell me of rivers", sessions, max_tokens=100_000)\ndisplay(w)\nawait w.done()\nw.state')
    state(p, 'torch:f32', 'running')
    p.get_by_role('button', name='Stop all lanes').click()
    state(p, 'torch:f32', 'stopped')
    p.wait_for_function('''() => jupyterapp.shell.currentWidget.content.model.cells.get(1).outputs.toJSON().some(o => o.output_type === "execute_result")''')


def test_the_saved_notebook_reads_without_a_kernel(lab, page):
    p = page(FAKES, 'w = CompareWidget("<b>rivers</b>", sessions, max_tokens=40)\nw', name='saved.ipynb')
    state(p, 'llama.cpp:Q4_K_M', 'done')
    lab.value(p, 'w.result(30) and w.state')
    time.sleep(.5)
    assert p.locator('[id^=edgewb-]').count() == 1 and not p.locator('[id^=edgewb-]').is_visible()  # hidden while the widget lives
    save(p)
    import nbformat
    from nbconvert import HTMLExporter, MarkdownExporter
    nb = nbformat.read(lab.work / 'saved.ipynb', 4)
    page_html = HTMLExporter(mathjax_url='', require_js_url='').from_notebook_node(nb)[0]
    assert '◆ departs at token 17' in page_html and '<sup>◆17</sup><u>' in page_html and '&lt;b&gt;rivers&lt;/b&gt;' in page_html
    assert '◆ departs at token 17' in MarkdownExporter().from_notebook_node(nb)[0]
    assert len(json.dumps(nb)) < 40_000


def test_a_blocked_cell_does_not_mute_stop(lab, page):
    "ipykernel would hand the press to the shell that the cell blocks; the widget sees to it that it does not."
    p = page(FAKES, 'w = CompareWidget("Tell me of rivers", sessions, max_tokens=100_000)\nw', 'import time\nfor _ in range(900): time.sleep(.1)')
    state(p, 'torch:f32', 'running')
    p.get_by_role('button', name='Stop torch:f32').click()
    state(p, 'torch:f32', 'stopped', timeout=30)
    state(p, 'openvino:int8', 'running')
    p.evaluate('() => jupyterapp.commands.execute("notebook:interrupt-kernel")')
    state(p, 'openvino:int8', 'running')  # an interrupt ends the cell, not the lanes
    p.get_by_role('button', name='Stop all lanes').click()
    state(p, 'openvino:int8', 'stopped', timeout=30)

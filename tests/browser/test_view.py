"""The widget's page half alone, in a real Chromium, over a fake model: seconds, no kernel."""
import re

import pytest
from lab import chromium

HOSTILE = '<img src=x onerror="window.owned=1"><script>window.owned=1</script>'


def toks(words, start=0, top=True, rate=50):
    return [[100 + i, w, .7, round(i / rate, 4), [[100 + i, w, .7], [900 + i, ' else', .2]] if top else []] for i, w in enumerate(words, start)]


def facts(i, at, words, state='running', **kw):
    return dict(dict(i=i, at=at, toks=toks(words, at), state=state, note='', tps=50.0, ttft=.05, dep=None, rel=''), **kw)


def push(page, *lanes, run=1):
    page.evaluate('m => model.push(m)', dict(run=run, lanes=list(lanes)))


def settle(page): page.evaluate('() => new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))')


def sent(page, t): return [m for m in page.evaluate('model.sent') if m['t'] == t]


def log(page, i=0): return page.locator('.ewb-log').nth(i)


def test_text_arrives_whole_and_in_order(view):
    page = view()
    words = [f' w{i}' for i in range(500)]
    for a in range(0, 500, 25): push(page, facts(0, a, words[a:a + 25]), facts(1, a, words[a:a + 25]))
    settle(page)
    assert log(page, 0).evaluate('e => e.textContent') == ''.join(words) == log(page, 1).evaluate('e => e.textContent')
    assert page.get_by_role('article', name='torch:f32').get_by_text('500 tokens').is_visible()


def test_a_batch_twice_changes_nothing(view):
    page = view()
    push(page, facts(0, 0, ['a', 'b', 'c']))
    push(page, facts(0, 1, ['b', 'c', 'd']))
    push(page, facts(0, 0, ['a']))
    assert log(page).evaluate('e => e.textContent') == 'abcd'


def test_a_gap_asks_once_and_closes(view):
    page = view()
    push(page, facts(0, 0, ['a', 'b']), facts(1, 0, ['x']))
    push(page, facts(0, 4, ['e']))
    push(page, facts(0, 5, ['f']))
    assert sent(page, 'resync') == [dict(t='resync', run=1, have=[2, 1])]
    assert log(page).evaluate('e => e.textContent') == 'ab'
    push(page, facts(0, 2, ['c', 'd', 'e', 'f']))
    assert log(page).evaluate('e => e.textContent') == 'abcdef'


def test_what_a_model_writes_is_text(view):
    page = view(figures=dict(caption=HOSTILE, head=['target', HOSTILE], rows=[[HOSTILE, HOSTILE]]), status=HOSTILE)
    push(page, facts(0, 0, [HOSTILE, ' fine']), facts(1, 0, [HOSTILE], state='error', note=HOSTILE, dep=0, rel=HOSTILE))
    settle(page)
    log(page).locator('.ewb-t').first.hover()
    page.wait_for_timeout(100)
    assert log(page).evaluate('e => e.textContent') == HOSTILE + ' fine'
    assert page.locator('.ewb img, .ewb script').count() == 0
    assert page.evaluate('window.owned') is None


def test_departure_is_marked_by_glyph_line_and_colour(view):
    page = view()
    push(page, facts(0, 0, ['a', 'b', 'c', 'd']), facts(1, 0, ['a', 'b', 'X', 'Y'], dep=2, rel='◆ departs at token 2'))
    settle(page)
    style = lambda n: log(page, 1).locator('.ewb-t').nth(n).evaluate('''e => { const s = getComputedStyle(e), b = getComputedStyle(e, "::before");
        return [s.textDecorationLine, s.textDecorationStyle, s.textDecorationColor, b.content]; }''')
    same, first, later = style(1), style(2), style(3)
    assert same[0] == 'none'
    assert first[:2] == ['underline', 'wavy'] and '◆2' in first[3]
    assert later[:2] == ['underline', 'dotted'] and later[3] == 'none'
    assert same[2] != first[2] == later[2]
    assert log(page, 1).evaluate('e => e.textContent') == 'abXY'  # the glyph is not part of the text
    assert page.get_by_text('◆ departs at token 2').is_visible()
    assert log(page, 0).locator('.ewb-dep').count() == 0


def test_stop_sends_and_can_be_pressed_twice(view):
    page = view()
    push(page, facts(0, 0, ['a']), facts(1, 0, ['a']))
    settle(page)
    page.get_by_role('button', name='Stop llama.cpp:Q4_K_M').click()
    page.get_by_role('button', name='Stop all lanes').click()
    page.get_by_role('button', name='Stop all lanes').click()
    assert page.evaluate('model.sent') == [dict(t='stop', i=1), dict(t='stop'), dict(t='stop')]
    push(page, facts(0, 1, [], state='stopped'), facts(1, 1, [], state='done'))
    settle(page)
    stop = page.get_by_role('button', name='Stop torch:f32')
    assert stop.get_attribute('aria-disabled') == 'true'
    stop.click(force=True)
    assert len(page.evaluate('model.sent')) == 3
    assert page.locator('.ewb-state').all_inner_texts() == ['stopped', 'done']


def test_run_sends_the_edited_prompt(view):
    page = view()
    box = page.get_by_role('textbox', name='Prompt')
    assert box.input_value() == 'Say hello'
    box.fill('Say goodbye')
    box.press('Shift+Enter')
    page.get_by_role('button', name='Run all lanes').click()
    assert sent(page, 'run') == [dict(t='run', prompt='Say goodbye')] * 2


def test_a_new_run_starts_clean_and_old_batches_are_ignored(view):
    page = view()
    push(page, facts(0, 0, ['old']), run=1)
    push(page, facts(0, 0, ['new']), run=2)
    push(page, facts(0, 1, [' late']), run=1)
    assert log(page).evaluate('e => e.textContent') == 'new'


def test_the_snapshot_draws_a_second_view(view):
    page = view(snapshot=dict(run=3, lanes=[facts(0, 0, ['a', 'b'], state='done'), facts(1, 0, ['a', 'c'], state='done', dep=1, rel='◆ departs at token 1')]))
    settle(page)
    assert [log(page, i).evaluate('e => e.textContent') for i in (0, 1)] == ['ab', 'ac']
    assert log(page, 1).locator('.ewb-dep').inner_text() == 'c'


def test_alternatives_by_mouse_and_by_keyboard(view):
    page = view()
    push(page, facts(0, 0, [' a', ' b', ' c'], state='done'), facts(1, 0, [' a', ' b', ' X'], state='done', dep=2, rel='◆ departs at token 2'))
    settle(page)
    card = page.get_by_role('tooltip')
    log(page, 0).locator('.ewb-t').nth(1).hover()
    assert re.sub(r'\s+', ' ', card.inner_text()) == '␣b token 1 · id 101 ␣b 70.0% ␣else 20.0%'
    assert page.locator('.ewb-peer').count() == 2  # the same place in both lanes
    page.mouse.move(0, 0)
    assert card.count() == 0 or not card.is_visible()
    log(page, 1).focus()
    page.keyboard.press('d')  # to the departure
    assert 'token 2' in card.inner_text() and '◆ the reference wrote ␣c 70.0%' in card.inner_text()
    page.keyboard.press('ArrowLeft')
    assert 'token 1' in card.inner_text()
    assert page.evaluate('document.activeElement.getAttribute("aria-describedby") === document.querySelector(".ewb-card").id')
    page.keyboard.press('Escape')
    assert page.locator('.ewb-card').is_hidden()


def test_the_text_follows_unless_its_reader_scrolled_up(view):
    page = view()
    lines = [f'line {i}\n' for i in range(200)]
    place = lambda: log(page).evaluate('e => [e.scrollTop, e.scrollHeight - e.clientHeight]')
    push(page, facts(0, 0, lines[:100]))
    settle(page)
    assert abs(place()[0] - place()[1]) < 2
    log(page).evaluate('e => { e.scrollTop = 40 }')
    page.wait_for_timeout(100)
    push(page, facts(0, 100, lines[100:]))
    settle(page)
    assert place()[0] == 40


def test_the_figures_table(view):
    page = view(figures=dict(caption='one target at a time', head=['target', 'decode tok/s'], rows=[['torch:f32', '201 ± 3'], ['llama.cpp:Q4_K_M', '400 ± 9']]))
    table = page.get_by_role('table', name='one target at a time')
    assert table.get_by_role('row').count() == 3
    assert table.get_by_role('rowheader').all_inner_texts() == ['torch:f32', 'llama.cpp:Q4_K_M']
    page.evaluate('model.change("state", "done")')
    settle(page)
    page.get_by_role('button', name='Measure undisturbed').click()
    assert sent(page, 'measure') == [dict(t='measure', prompt='Say hello')]


def test_an_error_stays_in_its_lane(view):
    page = view()
    push(page, facts(0, 0, ['a']), facts(1, 0, ['b'], state='error', note='the engine ended: out of memory'))
    settle(page)
    lane = page.get_by_role('article', name='llama.cpp:Q4_K_M')
    assert lane.get_by_text('the engine ended: out of memory').is_visible() and lane.get_by_text('error', exact=True).is_visible()
    push(page, facts(0, 1, ['b']))
    assert log(page, 0).evaluate('e => e.textContent') == 'ab'


def test_what_a_screen_reader_gets(view):
    page = view(status='2 running. Lanes that stream together share this machine: each is slower here than alone.')
    push(page, facts(0, 0, ['Hello'], rel='reference'), facts(1, 0, ['Hello'], rel='same for 1 token'))
    settle(page)
    tree = page.get_by_role('region', name='Compare targets').aria_snapshot()
    for line in ['textbox "Prompt": Say hello', 'button "Run all lanes"', 'button "Stop all lanes"', 'article "torch:f32"', 'heading "torch f32" [level=4]',
                 'button "Stop torch:f32"', 'log "Text of torch:f32": Hello', 'article "llama.cpp:Q4_K_M"', 'status: "2 running. Lanes that stream together']:
        assert line in tree, f'{line!r} not in\n{tree}'
    assert log(page).get_attribute('aria-live') == 'off' and log(page).get_attribute('aria-busy') == 'true'


def test_one_to_six_lanes_fit(view):
    for n in range(1, 7):
        page = view([f'engine{i}:Q4_K_M' for i in range(n)])
        push(page, *(facts(i, 0, [f' word{k}' for k in range(60)], dep=9, rel='◆ departs at token 9') for i in range(n)))
        for width in 420, 800, 1400:
            page.set_viewport_size(dict(width=width, height=900))
            settle(page)
            assert page.evaluate('document.documentElement.scrollWidth <= innerWidth'), (n, width)
            assert min(lane.bounding_box()['width'] for lane in page.locator('.ewb-lane').all()) >= min(240, width - 40)


def test_leaving_takes_the_listeners_along(view):
    page = view()
    assert page.evaluate('model.listeners()') > 0
    page.evaluate('clean()')
    assert page.evaluate('model.listeners()') == 0


def test_a_missing_browser_is_said_not_skipped(monkeypatch):
    monkeypatch.setenv('EDGEWB_CHROMIUM', '/no/such/chromium')
    with pytest.raises(RuntimeError, match='EDGEWB_CHROMIUM=/no/such/chromium is not a program'): chromium()
    monkeypatch.delenv('EDGEWB_CHROMIUM')
    monkeypatch.setattr('shutil.which', lambda name: None)
    with pytest.raises(RuntimeError, match='apt-get install'): chromium()

"""Takes the README's pictures of the compare widget: real engines in a real JupyterLab, light and dark.

    python tests/browser/screenshot.py                  # writes nbs/images/compare-light.png and compare-dark.png
    python tests/browser/screenshot.py --fake --out /tmp  # scripted lanes, for work on the design
"""
import argparse, sys, tempfile, time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from lab import Lab, launch

REAL = '''from edgewb.widgets import CompareWidget
w = CompareWidget({prompt!r}, {targets!r}, max_tokens={tokens})
w'''
FAKE = '''from edgewb.widgets import CompareWidget
from fakes import FakeSession
sessions = [FakeSession("torch", "f32", rate=92), FakeSession("llama.cpp", "Q4_K_M", rate=240, departs=23), FakeSession("openvino", "int8", rate=180)]
w = CompareWidget({prompt!r}, sessions, max_tokens={tokens})
w'''


def shoot(lab, browser, cell, out: Path, dark: bool, width: int, measure: bool, hover: bool):
    "One picture of the widget alone, at twice the resolution, after the lanes have ended."
    lab.theme(dark)
    lab.notebook('shot.ipynb', cell)
    page = lab.open(browser, 'shot.ipynb', width=width, height=1100, scale=2)
    page.evaluate('() => jupyterapp.commands.execute("application:toggle-left-area")')
    lab.run(page)
    page.wait_for_selector('.ewb', timeout=60_000)
    wait = lambda: page.wait_for_function('''() => { const s = [...document.querySelectorAll(".ewb-state")].map(e => e.textContent);
        return s.length && s.every(x => ["done", "stopped", "error"].includes(x)); }''', timeout=900_000)
    wait()
    time.sleep(1)
    if measure:
        page.get_by_role('button', name='Measure undisturbed').click()
        page.wait_for_selector('.ewb-table table', timeout=900_000)
    mark = page.locator('.ewb-dep').first
    if hover and mark.count(): mark.hover()
    time.sleep(.5)
    page.locator('.ewb').screenshot(path=out, style='.jp-Toolbar { visibility: hidden }')
    page.evaluate('() => jupyterapp.shell.currentWidget.sessionContext.shutdown()')
    page.close()


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('--out', type=Path, default=Path(__file__).parents[2] / 'nbs' / 'images')
    ap.add_argument('--prompt', default='Locker of each: Memeni, Dukoza, Redulo, Lomoki, Mebozu, Zinuma, Lakifu, Tutoza')
    ap.add_argument('--targets', nargs='+', default=['torch:f32', 'llama.cpp:Q2_K', 'openvino:int8'], help='Q2_K shows what a coarse format forgets')
    ap.add_argument('--tokens', type=int, default=64)
    ap.add_argument('--width', type=int, default=1200)
    ap.add_argument('--themes', nargs='+', choices=['light', 'dark'], default=['light', 'dark'])
    ap.add_argument('--no-measure', action='store_true', help='leave the undisturbed pass out')
    ap.add_argument('--fake', action='store_true', help='scripted lanes')
    args = ap.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    from playwright.sync_api import sync_playwright
    cell = (FAKE if args.fake else REAL).format(prompt=args.prompt, targets=args.targets, tokens=args.tokens)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        lab, browser = Lab(Path(folder)), launch(playwright)
        try:
            for theme in args.themes:
                out = args.out / f'compare-{theme}.png'
                shoot(lab, browser, cell, out, theme == 'dark', args.width, measure=not (args.fake or args.no_measure), hover=True)
                print(f'{out} {out.stat().st_size // 1024} KB')
        finally:
            browser.close()
            lab.close()


if __name__ == '__main__': main()

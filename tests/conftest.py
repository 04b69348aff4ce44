"The order of the tests, which of them stay together, and what every test runs under."
import importlib.util, os
from pathlib import Path
import pytest

# Tests that run beside others compute with one thread: two on a taken core wait for each other. libgomp's threads then sleep soon instead of spinning.
if 'PYTEST_XDIST_WORKER' in os.environ: os.environ |= {'EDGEWB_THREADS': '1', 'OMP_NUM_THREADS': '1', 'GOMP_SPINCOUNT': '10000'}

# Figures are stored as data; with Plotly's default every notebook would carry five megabytes of JavaScript.
os.environ['PLOTLY_RENDERER'] = 'plotly_mimetype'

# The browser that `make test` found or installed; a test file must not find another one.
spec = importlib.util.spec_from_file_location('edgewb_setup', Path(__file__).parents[1]/'edgewb'/'_setup.py')
setup_script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(setup_script)
if browser := setup_script.find_chromium(): os.environ['EDGEWB_CHROMIUM'] = browser

LATE = {'browser': 2, 'test_notebooks.py': 3}  # single tests first, whole notebooks last: they fill both processes to the end
LONG = '[index.', '[06c_', '[03e_', '[09d_', '[07b_', '[22_', '[06b_', '[07a_', '[07c_', '[14_', '[nano/03_'  # notebooks that take most of a minute and more: none of them shall run alone at the end


def pytest_collection_modifyitems(items):
    def rank(item):
        parts = Path(item.path).parts
        return max((r for name, r in LATE.items() if name in parts), default=0 if parts[-1].startswith('test_project') else 1)
    items.sort(key=lambda item: (rank(item), not any(name in item.nodeid for name in LONG)))


def stay_together(nodeid: str) -> str:
    "With several processes, the tests of a file share its open sessions, those of the browser its JupyterLab; a notebook stands alone."
    file = nodeid.split('::')[0]
    return nodeid if file.endswith('test_notebooks.py') else 'browser' if 'browser/' in file else file

@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    "xdist has groups of its own (`loadgroup`), but its 3.8 can't tell pytest 9.2 of them: every test was sent out alone."
    from xdist.scheduler import LoadScopeScheduling
    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid): return stay_together(nodeid)
    return ByGroup(config, log)

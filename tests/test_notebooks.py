"Every notebook runs from top to bottom, each in a process of its own."
import subprocess, sys
from pathlib import Path
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if not any(part[0] in '._' for part in p.relative_to(ROOT).parts))
RUN = '''
import sys
from nbdev.config import get_config
from nbdev.test import test_nb
cfg = get_config()
sys.exit(not test_nb(sys.argv[1], skip_flags=cfg.tst_flags.split(), basepath=cfg.config_path)[0])
'''


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.relative_to(ROOT/'nbs').as_posix())
def test_notebook(path):
    ran = subprocess.run([sys.executable, '-c', RUN, str(path)], cwd=ROOT, text=True, stdin=subprocess.DEVNULL,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert ran.returncode == 0, ran.stdout[-6000:]

"""What `make` does before anything else: the environment that the workbench runs in.

`python -I edgewb/_setup.py lab` makes .venv with what running needs, `dev` adds what tests and documentation need,
`test` a Chromium on top.
Written by hand, standard library only: it runs before anything is installed. A second call finds its stamp and ends at once.
"""
import hashlib, json, os, platform, re, shutil, subprocess, sys, threading, time
from collections import deque
from configparser import ConfigParser
from pathlib import Path
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parent.parent
VENV = Path(os.environ.get('VENV') or ROOT / '.venv')
BIN = VENV / ('Scripts' if os.name == 'nt' else 'bin')
PYTHON = BIN / ('python.exe' if os.name == 'nt' else 'python')
LOG = VENV / 'setup.log'
CPU_INDEX = 'https://download.pytorch.org/whl/cpu'
CHROMIUMS = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome',
             '/Applications/Chromium.app/Contents/MacOS/Chromium',
             '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome')


def stop(sentence):
    sys.exit(f'\nedgewb: {sentence}')


def clock(seconds):
    return f'{int(seconds) // 60}:{int(seconds) % 60:02d}'


class Steps:
    "Numbered steps, each with the time it took; what the commands print goes to the log, its gist to the screen."
    def __init__(self, total):
        self.n, self.total, self.t0, self.tty = 0, total, time.monotonic(), sys.stdout.isatty()

    def show(self, text, end='\n'):
        print(('\r\033[K' if self.tty else '') + text, end=end, flush=True)

    def run(self, title, command, hint='', **env):
        "Run `command`; its last line worth reading is shown while it goes on, and the log's end when it fails."
        self.n += 1
        head, t0, gist, tail = f'[{self.n}/{self.total}] {title}', time.monotonic(), '', deque(maxlen=25)
        if not self.tty: self.show(f'{head} ...')
        with open(LOG, 'a', encoding='utf8') as log:
            log.write(f'\n$ {" ".join(map(str, command))}\n')
            p = subprocess.Popen([str(c) for c in command], cwd=ROOT, env={**os.environ, **env}, stdin=subprocess.DEVNULL,
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors='replace')
            lines = deque()

            def read():
                for line in p.stdout: lines.append(line)
            reader = threading.Thread(target=read, daemon=True)
            reader.start()
            said = t0
            try:
                while reader.is_alive() or lines:
                    while lines:
                        line = lines.popleft()
                        log.write(line)
                        tail.append(line[:300])
                        gist = what_it_does(line) or gist
                    now = time.monotonic()
                    if now - said >= (0.5 if self.tty else 20):
                        said = now
                        self.show(f'{head}  {clock(now - t0)}  {gist}'[:shutil.get_terminal_size().columns - 1 if self.tty else 200],
                                  end='' if self.tty else '\n')
                    reader.join(0.2)
            except BaseException:
                p.terminate()
                raise
            code = p.wait()
        if code:
            self.show(f'{head}  failed after {clock(time.monotonic() - t0)}')
            print(''.join(tail))
            stop(f'{title} failed (the end of its output is above, all of it in {LOG}). {hint}')
        self.show(f'{head}  done in {clock(time.monotonic() - t0)}')


def what_it_does(line):
    "The gist of a line of pip's or ninja's output, or nothing."
    if m := re.match(r'\s*\[(\d+)/(\d+)\] ', line): return f'compiling, {m[1]} of {m[2]} files'
    if m := re.match(r'\s*Downloading (\S+/)?([^\s/]+) \((.+?)\)', line): return f'downloading {m[2][:60]} ({m[3]})'
    if m := re.match(r'\s*(Collecting|Processing|Building wheel for) (\S+)', line): return f'{m[1].lower()} {m[2][-60:]}'
    if re.match(r'Installing collected', line): return 'unpacking'
    if re.match(r'\s*Installing build dependencies', line): return 'getting the build tools'


def requirements(group):
    ini = ConfigParser()
    ini.read(ROOT / 'settings.ini', encoding='utf8')
    own = ini['DEFAULT']
    return own['requirements'].split() + (own['dev_requirements'].split() if group == 'dev' else [])


def pip(*args):
    return [PYTHON, '-m', 'pip', '--disable-pip-version-check', *args]


def has_nvidia():
    return os.path.exists('/proc/driver/nvidia/version') or shutil.which('nvidia-smi') is not None


def torch_source(torch):
    """Where PyTorch comes from, as pip's arguments and a phrase.

    Only on x86-64 Linux (and on Windows) do the CPU build and the default one differ by gigabytes of CUDA libraries.
    """
    if has_nvidia(): return [], 'with CUDA, for the NVIDIA GPU here'
    if sys.platform == 'darwin' or platform.machine().lower() not in ('x86_64', 'amd64'): return [], 'the default build'
    report = VENV / 'torch.json'
    asked = subprocess.run(list(map(str, pip('install', '--dry-run', '--ignore-installed', '--no-deps', '--quiet',
                                             '--report', report, torch))), capture_output=True, stdin=subprocess.DEVNULL)
    if asked.returncode == 0:
        found = json.loads(report.read_text(encoding='utf8'))['install'][0]['metadata']['version']
        if found.endswith('+cpu'): return [], f'{found}, which pip already offers'
    try:
        with urlopen(f'{CPU_INDEX}/torch/', timeout=8): return ['--index-url', CPU_INDEX], "from PyTorch's own CPU index"
    except OSError: return [], "the default build, because PyTorch's CPU index can't be reached: this is several GB"


def check_python():
    if sys.version_info < (3, 11):
        stop(f'Python 3.11 or newer is needed, and this is {platform.python_version()}. '
             'Name another one, for example: make lab PYTHON=python3.12')


def check_compiler():
    "llama-cpp-python is compiled here, for this very CPU; better to say so before the downloads than after."
    if os.name == 'nt' or any(map(shutil.which, filter(None, (os.environ.get('CXX'), 'c++', 'g++', 'clang++')))): return
    stop('llama-cpp-python is compiled on this machine, and there is no C++ compiler. '
         + ('Install it with: xcode-select --install' if sys.platform == 'darwin' else
            'Install one, for example: apt-get install g++ (Debian, Ubuntu) or dnf install gcc-c++ (Fedora)'))


def stamp(group):
    "A file whose name holds what the environment was made from: another content, another stamp."
    made_from = b''.join((ROOT / f).read_bytes() for f in ('settings.ini', 'pyproject.toml', 'setup.py'))
    return VENV / f'.ready-{group}-{hashlib.sha256(made_from + str(ROOT).encode()).hexdigest()[:16]}'


def prepare(group):
    "Make or complete .venv for `group`: 'lab', or 'dev' with what tests and documentation need besides."
    if stamp(group).exists(): return
    check_python()
    wanted = requirements(group)
    torch = next(r for r in wanted if re.match(r'torch\b(?!\w)', r))
    llama = next(r for r in wanted if r.startswith('llama-cpp-python'))
    installed = PYTHON.exists() and subprocess.run([str(PYTHON), '-c', 'import llama_cpp._ctypes_extensions'],
                                                   capture_output=True).returncode == 0
    if not installed: check_compiler()
    steps = Steps(5)
    print(f'Bringing {VENV} up to date.' if installed else f'Setting up {VENV} (once; later calls start at once). '
          'Compiling llama.cpp takes the longest, about five minutes on two cores.', flush=True)
    VENV.mkdir(parents=True, exist_ok=True)
    LOG.write_text('', encoding='utf8')
    whole = PYTHON.exists() and subprocess.run(list(map(str, pip('--version'))), capture_output=True).returncode == 0
    steps.run('Python environment', pip('--version') if whole else [sys.executable, '-m', 'venv', VENV],
              'On Debian and Ubuntu, venv is a package of its own: apt-get install python3-venv')
    source, phrase = torch_source(torch)
    steps.run(f'PyTorch ({phrase})', pip('install', *source, torch))
    rest = [r for r in wanted if r not in (torch, llama)]
    steps.run(f'{len(rest)} packages: JupyterLab, Transformers, OpenVINO and others', pip('install', torch, *rest))
    steps.run('llama.cpp, compiled for this CPU', pip('install', '--verbose', llama),
              "It needs a C++ compiler; CMake and Ninja come from PyPI.")
    extra = '[dev]' if group == 'dev' else ''
    steps.run('edgewb itself', pip('install', '--editable', f'{ROOT}{extra}'))
    for old in VENV.glob(f'.ready-{group}-*'): old.unlink()
    stamp(group).touch()
    if group == 'dev': stamp('lab').touch()
    print(f'Ready after {clock(time.monotonic() - steps.t0)}.\n', flush=True)


def find_chromium():
    return next((p for c in (os.environ.get('EDGEWB_CHROMIUM') or '', *CHROMIUMS) if c and (p := shutil.which(c))), None)


def chromium():
    "The browser tests need a Chromium: the machine's own, or Debian's. Without one they fail and say so; they are not skipped."
    if find_chromium(): return
    if hasattr(os, 'geteuid') and os.geteuid() == 0 and shutil.which('apt-get'):
        steps = Steps(2)
        print('No Chromium here; installing the distribution\'s for the browser tests.', flush=True)
        steps.run('apt-get update', ['apt-get', 'update'])
        steps.run('Chromium', ['apt-get', 'install', '--yes', '--no-install-recommends', 'chromium'],
                  DEBIAN_FRONTEND='noninteractive')
        print(flush=True)
    if not find_chromium():
        print('edgewb: no Chromium found, so the browser tests will fail. Install one (Debian: apt-get install chromium; '
              'Ubuntu: snap install chromium; macOS: brew install --cask chromium) or name it: make test EDGEWB_CHROMIUM=/path/to/chrome',
              flush=True)


if __name__ == '__main__':
    try:
        wish = sys.argv[1] if len(sys.argv) > 1 else 'lab'
        prepare('lab' if wish == 'lab' else 'dev')
        if wish == 'test': chromium()
    except KeyboardInterrupt:
        stop('stopped. Call make again to go on where this ended.')

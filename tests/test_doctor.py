"The doctor on machines that are not here, on builds that are, and on engines that don't answer."
import json, shutil, subprocess, sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError
import pytest
from edgewb.condition import condition
from edgewb.hardware import Hardware, detect
from foreign import MACHINES, unpack

d = import_module('edgewb.doctor') # the package's own `doctor` is the function
GENERIC = json.loads((MACHINES/'ggml-generic-x86.json').read_text())            # asked of a build with -DGGML_NATIVE=OFF
NATIVE = json.loads((MACHINES/'ggml-native-granite-rapids.json').read_text())   # asked of a build for the CPU with AMX that it ran on


@pytest.mark.parametrize('machine, features, lacks', [
    ('i7-12700h', GENERIC['features'], ['AVX_VNNI']),
    ('container', GENERIC['features'], ['AVX512', 'AVX512_VNNI']),
    ('pi5', ['NEON', 'ARM_FMA'], ['FP16_VA', 'DOTPROD']),
    ('pi5', ['NEON', 'ARM_FMA', 'FP16_VA', 'DOTPROD'], []),
    ('graviton3', ['NEON', 'ARM_FMA', 'DOTPROD'], ['FP16_VA', 'MATMUL_INT8', 'SVE']),
    ('m2', ['NEON', 'ARM_FMA', 'FP16_VA', 'DOTPROD'], ['MATMUL_INT8']),
    ('z16', [], ['VXE']),
    ('k1', [], ['RISCV_V']),
])
def test_what_a_build_lacks(machine, features, lacks, tmp_path):
    hw = detect(unpack(machine, tmp_path))
    found = d.judge_llamacpp(hw, dict(features=features))
    assert d.missing(features, hw.flags) == lacks and len(found) == bool(lacks)
    for f in found:
        assert f.level == 'warning' and all(name in f.says for name in lacks) and 'pip install' in f.do and 'GGML_NATIVE=ON' in f.do


def test_a_build_for_another_machine_is_a_fault(tmp_path):
    f = d.judge_llamacpp(detect(unpack('i7-12700h', tmp_path)), NATIVE)[0]
    assert f.level == 'fault' and 'AVX512_VNNI' in f.says and 'illegal instruction' in f.says and f.do


def test_amx_by_an_old_gcc():
    has = tuple(sorted(set().union(*(need for need, _ in d.GGML.values()))))
    box = Hardware(flags=has, isa=('AMX-INT8',))
    old, new = ([f for f in d.judge_llamacpp(box, dict(NATIVE, compiler=c)) if 'AMX code' in f.says] for c in ('GCC 12.2.0', 'GCC 14.2.0'))
    assert 'GCC 12.2.0' in old[0].says and 'gcc-14' in old[0].do and new == []


def test_machine_code_is_the_proof():
    box = Hardware(flags=('ssse3', 'avx', 'avx2', 'f16c', 'fma', 'bmi2'))
    assert d.judge_llamacpp(box, GENERIC, GENERIC['instructions']) == []
    assert 'F16C' in d.judge_llamacpp(box, GENERIC, {'AVX2': 502, 'FMA': 145})[0].says
    assert not {'AVX512', 'AVX512_VNNI', 'AMX_INT8'} & set(GENERIC['instructions']) and NATIVE['instructions']['AMX_INT8'] > 0


def test_conditions(tmp_path):
    say = lambda name: {f.topic: f for f in [*d.judge_machine(detect(unpack(name, tmp_path/name))), *d.judge_condition(condition(tmp_path/name))] }
    pi, laptop, box, server = (say(n) for n in ('pi5', 'i7-12700h', 'container', 'graviton3'))
    assert 'soft temperature limit' in pi['heat'].says and 'swap' in pi and 'clock' not in pi
    assert '2.3 of 4.7 GHz' in laptop['clock'].says and '205 times' in laptop['heat'].says and 'threads=6' in laptop['cores'].do
    assert '34%' in box['quota'].says and '17%' in box['host'].says and '1.5 of 8' in box['cores'].says and 'threads=1)' in box['cores'].do and 'load' in box
    assert set(server) == {'counters'}


def test_counters_that_can_not_be_read_are_one_sentence(tmp_path):
    for name in ('devices/system/cpu/cpu0/cpufreq/scaling_governor', 'class/thermal/thermal_zone0/temp', 'fs/cgroup/cpu.max'):
        (tmp_path/'sys'/name).mkdir(parents=True) # a folder where a file should be: reading it fails
    (tmp_path/'proc').mkdir()
    for name in ('cpuinfo', 'meminfo', 'stat', 'loadavg'): (tmp_path/'proc'/name).write_bytes(b'\xff\x00garbage :::\n')
    found = [f for f in d.doctor(tmp_path).findings]
    assert [f.topic for f in found] == ['CPU', 'counters'] and all(f.level == 'note' and f.says.count('. ') == 0 for f in found)


def test_no_engine_installed(monkeypatch):
    def nothing(_): raise PackageNotFoundError
    monkeypatch.setattr(d, 'ask', lambda who, timeout=0: dict(absent=True))
    monkeypatch.setattr(d, 'version', nothing)
    seen = d.doctor()
    told = {f.topic: f.do for f in seen.findings if 'not installed' in f.says}
    assert set(told) == set(d.PACKAGES) and all('pip install' in do for do in told.values()) and 'GGML_NATIVE' in told['llama.cpp']
    assert d.Checkup.from_dict(json.loads(json.dumps(seen.to_dict()))) == d.Checkup.from_dict(seen.to_dict())
    assert '<b>' not in seen._repr_html_() and 'not installed' in repr(seen)


def test_a_folder_that_holds_no_engine(tmp_path, monkeypatch):
    monkeypatch.setenv('LLAMA_CPP_LIB_PATH', str(tmp_path))
    assert 'holds no ggml libraries' in d.ask('llama.cpp')['error']
    ending = {'darwin': 'dylib', 'win32': 'dll'}.get(sys.platform, 'so')
    (tmp_path/f'libggml-base.{ending}').write_bytes(b'no library')
    said = d.ask('llama.cpp')
    assert 'could not be loaded' in said['error']
    f = d.judge_llamacpp(Hardware(), said)[0]
    assert f.level == 'fault' and str(tmp_path) in f.do and 'Unset LLAMA_CPP_LIB_PATH' in f.do


@pytest.mark.skipif(not shutil.which('cc') or sys.platform != 'linux', reason='needs a C compiler')
@pytest.mark.parametrize('body, part', [('raise(SIGILL);', 'compiled for instructions that this CPU lacks'), ('raise(SIGSEGV);', 'crashed (signal 11)')])
def test_a_library_that_dies(tmp_path, monkeypatch, body, part):
    c = '#include <signal.h>\n__attribute__((constructor)) static void f(void) { signal(SIGILL, SIG_DFL); signal(SIGSEGV, SIG_DFL); ' + body + ' }\n'
    subprocess.run(['cc', '-shared', '-fPIC', '-x', 'c', '-', '-o', str(tmp_path/'libggml-base.so')], input=c, text=True, check=True)
    monkeypatch.setenv('LLAMA_CPP_LIB_PATH', str(tmp_path))
    assert part in d.judge_llamacpp(Hardware(), d.ask('llama.cpp'))[0].says


def test_a_driver_that_hangs(monkeypatch):
    def hangs(*a, **kw): raise subprocess.TimeoutExpired(a, kw['timeout'])
    monkeypatch.setattr(subprocess, 'run', hangs)
    assert d.ask('vulkan', timeout=3) == dict(error='did not answer within 3 s')


def test_vulkan_devices(monkeypatch):
    monkeypatch.setattr(shutil, 'which', lambda _: '/usr/bin/vulkaninfo')
    text = '''GPU0:
	apiVersion         = 1.3.255
	vendorID           = 0x14e4
	deviceType         = PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU
	deviceName         = V3D 7.1.7
GPU1:
	deviceType         = PHYSICAL_DEVICE_TYPE_CPU
	deviceName         = llvmpipe (LLVM 15.0.6, 128 bits)
'''
    monkeypatch.setattr(subprocess, 'run', lambda *a, **k: subprocess.CompletedProcess(a, 0, text, ''))
    assert d._ask_vulkan()['devices'] == ['integrated gpu V3D 7.1.7', 'cpu llvmpipe (LLVM 15.0.6, 128 bits)']


def test_the_command():
    run = lambda *a: subprocess.run([sys.executable, '-m', 'edgewb.cli', 'doctor', *a], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300)
    mac = run('--json', '--root', str(MACHINES/'m2.txt'))
    assert mac.returncode == 0, mac.stderr
    said = json.loads(mac.stdout)
    assert said['hardware']['cpu'] == 'Apple M2' and [f['topic'] for f in said['findings']] == ['cores', 'counters']
    assert 'Apple M2' in run('--root', str(MACHINES/'m2.txt')).stdout
    wrong = run('--root', '/no/such/machine')
    assert wrong.returncode == 2 and wrong.stdout == '' and wrong.stderr.splitlines()[-1].startswith('edgewb: no folder or file')


def test_the_package_gives_the_function():
    import edgewb
    assert edgewb.doctor is d.doctor and edgewb.Checkup is d.Checkup


def test_the_engines_of_this_machine():
    seen = d.doctor()
    assert set(seen.engines) == set(d._ASK) and not any(f.level == 'fault' for f in seen.findings), seen.findings
    assert {'features', 'compiler', 'version'} <= set(seen.engines['llama.cpp']) and seen.engines['torch']['features']
    assert all(len(f.says) < 400 and f.says.endswith('.') for f in seen.findings)

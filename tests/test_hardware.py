"Machines that are not here, from what their operating systems would say."
import json, platform, random, subprocess, sys, types
import pytest
from edgewb import hardware
from edgewb.core import EdgewbError
from edgewb.hardware import Cache, Hardware, detect
from foreign import unpack

CORE = 'processor\t: {}\nFeatures\t: {}\nCPU implementer\t: 0x41\nCPU part\t: {}\n\n'


def put(root, files):
    "Write some files of a Linux machine and describe it."
    for name, text in files.items():
        (root/name).parent.mkdir(parents=True, exist_ok=True)
        (root/name).write_text(text)
    return detect(root)


def test_two_kinds_of_core_are_counted(tmp_path):
    info = ''.join(CORE.format(i, 'fp asimd asimddp', '0xd05' if i < 4 else '0xd0b') for i in range(8))
    hw = put(tmp_path, {'proc/cpuinfo': info})
    assert hw.cpu == '4x Cortex-A55 + 4x Cortex-A76' and hw.logical == 8 and hw.isa == ('NEON', 'DOTPROD')


def test_a_core_without_a_name_keeps_its_numbers(tmp_path):
    assert put(tmp_path, {'proc/cpuinfo': CORE.format(0, 'asimd', '0xfff').replace('0x41', '0x61')}).cpu == '1x Arm core 0x61/0xfff'


def test_threads_of_one_core_are_one_core(tmp_path):
    flags = 'vendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Core(TM) i5\nflags\t: fpu avx2 f16c\n\n'
    top = 'sys/devices/system/cpu/cpu{}/topology/thread_siblings_list'
    hw = put(tmp_path, {'proc/cpuinfo': ''.join(f'processor\t: {i}\n{flags}' for i in range(4)),
                        **{top.format(i): f'{i % 2},{i % 2 + 2}\n' for i in range(4)}})
    assert (hw.cpu, hw.physical, hw.logical, hw.virtual) == ('Intel Core i5', 2, 4, False)


def test_the_tightest_of_nested_limits_counts(tmp_path):
    hw = put(tmp_path, {'proc/meminfo': 'MemTotal: 8388608 kB\nMemAvailable: 4194304 kB\n', 'proc/self/cgroup': '0::/a/b\n',
                        'sys/fs/cgroup/a/cpu.max': '150000 100000', 'sys/fs/cgroup/a/b/cpu.max': 'max 100000',
                        'sys/fs/cgroup/a/memory.max': '1073741824', 'sys/fs/cgroup/a/memory.current': '1000000000',
                        'sys/fs/cgroup/a/b/memory.max': 'max'})
    assert hw.usable == 1.5 and hw.memory_limit == 2**30 and hw.available == 2**30 - 1_000_000_000


def test_a_limit_above_the_memory_is_none(tmp_path):
    hw = put(tmp_path, {'proc/meminfo': 'MemTotal: 1024 kB\nMemAvailable: 512 kB\n', 'proc/self/cgroup': '4:memory:/\n',
                        'sys/fs/cgroup/memory/memory.limit_in_bytes': '9223372036854771712'})
    assert hw.memory_limit is None and hw.available == 512*1024


def test_nothing_readable_is_not_known():
    hw = Hardware()
    assert hw.busy is None and hw.fingerprint and 'unknown' in repr(hw) and 'none found' in hw._repr_html_()


def test_what_changes_by_the_minute_is_not_in_the_fingerprint():
    same = dict(cpu='x', logical=4, memory=2**33)
    assert Hardware(**same, load=0.1, available=5).fingerprint == Hardware(**same, load=9.0, available=7, python='3.13').fingerprint
    assert Hardware(**same).fingerprint != Hardware(**{**same, 'logical': 8}).fingerprint


def test_names_are_text_in_html():
    assert '<b>' not in Hardware(cpu='<b>x</b>')._repr_html_()


@pytest.mark.parametrize('load, cores, busy', [(0.4, 2, False), (0.6, 2, True), (0.9, 64, False), (7, 64, True)])
def test_busy(load, cores, busy): assert Hardware(load=load, usable=cores).busy is busy


APPLE = '''machdep.cpu.brand_string: Apple M2
hw.model: Mac14,2
hw.physicalcpu: 8
hw.logicalcpu: 8
hw.memsize: 17179869184
hw.l1dcachesize: 65536
hw.l2cachesize: 4194304
hw.optional.neon: 1
hw.optional.arm.FEAT_FP16: 1
hw.optional.arm.FEAT_DotProd: 1
hw.optional.arm.FEAT_I8MM: 1
hw.optional.arm.FEAT_BF16: 1
hw.optional.arm.FEAT_SME: 0
'''
M4 = APPLE.replace('M2', 'M4').replace('SME: 0', 'SME: 1') + ''.join(f'hw.optional.arm.SME_{k}: 1\n' for k in ('F32F32', 'BI32I32', 'B16F32', 'F16F32', 'I8I32', 'I16I32'))
INTEL = '''machdep.cpu.brand_string: Intel(R) Core(TM) i7
machdep.cpu.features: FPU VME F16C AVX1.0
machdep.cpu.leaf7_features: AVX2 BMI1
hw.physicalcpu: 4
hw.logicalcpu: 8
hw.memsize: 17179869184
'''


@pytest.mark.parametrize('said, arch, isa, gpu', [
    (APPLE, 'arm64', ('NEON', 'FP16', 'DOTPROD', 'I8MM', 'BF16'), ('Apple GPU (Metal)',)),
    (M4, 'arm64', ('NEON', 'FP16', 'DOTPROD', 'I8MM', 'BF16', 'SME'), ('Apple GPU (Metal)',)),
    (INTEL, 'x86_64', ('AVX2', 'F16C'), ())], ids=['Apple', 'Apple with SME', 'Intel'])
def test_macos(monkeypatch, said, arch, isa, gpu):
    monkeypatch.setattr(subprocess, 'run', lambda *a, **k: types.SimpleNamespace(stdout=said))
    monkeypatch.setattr(platform, 'machine', lambda: arch)
    facts = hardware._mac()
    assert {'asimddp', 'i8mm'} <= set(facts['flags']) if arch == 'arm64' else {'avx', 'f16c', 'avx2', 'bmi1'} <= set(facts['flags'])
    assert ({'smef32f32', 'smeb16f32', 'smei8i32'} <= set(facts['flags'])) == ('SME' in isa) and 'sve' not in facts['flags']
    assert (facts['isa'], facts['accelerators'], facts['memory']) == (isa, gpu, 2**34)
    assert Hardware(**facts).caches == facts['caches']


FOREIGN = { # cpu, arch, cores, threads, usable, isa
    'pi5': ('4x Cortex-A76', 'aarch64', 4, 4, None, ('NEON', 'FP16', 'DOTPROD')),
    'i7-12700h': ('12th Gen Intel Core i7-12700H', 'x86_64', 14, 20, None, ('AVX2', 'F16C', 'AVX-VNNI')),
    'graviton3': ('16x Neoverse-V1', 'aarch64', 16, 16, 16, ('NEON', 'FP16', 'DOTPROD', 'I8MM', 'BF16', 'SVE')),
    'm2': ('Apple M2', 'arm64', 8, 8, None, ('NEON', 'FP16', 'DOTPROD', 'I8MM', 'BF16')),
    'z16': ('IBM z16', 's390x', None, 4, None, ('VXE', 'VXE2', 'NNPA')),
    'k1': ('Spacemit X60', 'riscv64', None, 8, None, ('RVV',)),
    'container': ('Intel Xeon Gold 6248 CPU @ 2.50GHz', 'x86_64', 4, 8, 1.5, ('AVX2', 'F16C', 'AVX-512', 'AVX512-VNNI')),
}


@pytest.mark.parametrize('name', FOREIGN)
def test_foreign_machines(name, tmp_path):
    hw = detect(unpack(name, tmp_path))
    assert (hw.cpu, hw.arch, hw.physical, hw.logical, hw.usable, hw.isa) == FOREIGN[name]
    again = json.loads(json.dumps(hw.to_dict()))
    assert again['fingerprint'] == hw.fingerprint and again['cpu'] == hw.cpu and 'unknown' not in repr(hw).split('\n')[0]


def test_kinds_of_core(tmp_path):
    cores = lambda name: [str(c) for c in detect(unpack(name, tmp_path/name)).clusters]
    assert cores('i7-12700h') == ['6 performance (4.7 GHz, 12 threads)', '8 efficiency (3.5 GHz)'] # favoured cores are no kind of their own
    assert cores('m2') == ['4 performance', '4 efficiency'] and cores('pi5') == cores('graviton3') == cores('container') == []


def test_caches_of_the_fast_cores_and_of_z(tmp_path):
    assert detect(unpack('m2', tmp_path)).caches == (Cache('L1d', 2**17, 1), Cache('L2', 2**24, 4))
    assert [str(c) for c in detect(unpack('z16', tmp_path)).caches] == ['L1d 128 KiB', 'L2 32 MiB', 'L3 256 MiB shared by 4']


def test_three_kinds_of_core_by_capacity(tmp_path):
    top = 'sys/devices/system/cpu/cpu{}/cpu_capacity'
    hw = put(tmp_path, {top.format(i): c for i, c in enumerate(('1024', '768', '768', '250'))})
    assert [(c.kind, c.cpus) for c in hw.clusters] == [('performance', (0,)), ('middle', (1, 2)), ('efficiency', (3,))]


@pytest.mark.parametrize('name', [n for n in FOREIGN if n != 'm2'])
def test_damaged_files_are_never_a_traceback(name, tmp_path):
    from edgewb.condition import condition
    rng, root = random.Random(name), unpack(name, tmp_path)
    files = sorted(p for p in root.rglob('*') if p.is_file())
    for _ in range(10):
        for p in rng.sample(files, min(len(files), 25)):
            raw = bytearray(p.read_bytes())
            for _ in range(rng.randint(1, 4)):
                if raw: raw[rng.randrange(len(raw))] = rng.choice(b'\x00\xff-:, x9\n')
            p.write_bytes(raw[:rng.randint(0, len(raw))] if rng.random() < 0.2 else raw)
        hw = detect(root)
        assert repr(hw) and hw._repr_html_() and json.dumps(hw.to_dict()) and repr(condition(root))


def test_no_such_machine(tmp_path):
    with pytest.raises(EdgewbError, match='no folder or file at'): detect('/no/such/machine')
    (tmp_path/'notes').write_text('hello: world\n')
    with pytest.raises(EdgewbError, match='no line of it begins with hw'): detect(tmp_path/'notes')


def test_this_machine():
    hw = detect()
    assert hw.logical and hw.memory and hw.usable <= hw.logical and hw.os and hw.fingerprint == detect().fingerprint
    assert all(len(line) < 200 for line in repr(hw).splitlines())
    if sys.platform == 'linux': assert hw.available <= hw.memory and hw.busy in (True, False)

"What the probe measures: rates from stamps, a child that dies, loops for CPUs that are not here."
import math, os, re, shutil, subprocess, sys
import pytest
from edgewb import probe
from edgewb.core import EdgewbError
from edgewb.hardware import Cache, Hardware


@pytest.mark.parametrize('threads, slow', [(1, 1), (2, 1), (4, 1), (4, 3)])
def test_rates_of_threads_add_up(threads, slow):
    "Threads of 10 pieces a second each, one of them `slow` times slower."
    step = lambda k: 0.1*slow if k == 0 else 0.1
    stamps = [[0.013*k + step(k)*i for i in range(int(9/step(k)))] for k in range(threads)]
    rates = probe._rates(stamps, 2.0)
    assert len(rates) >= 3 and all(math.isclose(r, 20*(threads - 1) + 20/slow, rel_tol=1e-6) for r in rates)


def test_an_interrupted_thread_spoils_some_samples_only():
    stamps = [[0.1*i + (5 if i > 60 else 0) for i in range(100)], [0.1*i for i in range(150)]]
    rates = probe._rates(stamps, 1.0)
    assert math.isclose(max(rates), 20, rel_tol=0.01) and min(rates) < 15


def test_buffers_are_larger_than_caches_and_smaller_than_memory():
    epyc = Hardware(logical=16, caches=(Cache('L2', 1 << 20, 2), Cache('L3', 32 << 20, 8)), available=64 << 30)
    assert probe._last_level(epyc) == 64 << 20 and probe._footprint(epyc) == 256 << 20
    assert probe._footprint(Hardware(logical=1, caches=(Cache('L3', 8 << 30, 1),), available=64 << 30)) == 4 << 30
    assert probe._footprint(Hardware(available=200 << 20)) == 50 << 20 and probe._last_level(Hardware()) == 0


def test_a_small_probe():
    b = probe.bandwidth(1, seconds=0.02, footprint=32 << 20)
    assert b.threads == 1 and 1e8 < b.read == max(b.read_samples) < 1e13 and 1e8 < b.triad < 1e13 and 0 < b.share <= 1
    assert b.to_dict()['notes'] == b.notes and 'GB/s' in repr(b)


def test_doubts_are_said():
    b = probe.Bandwidth(1, 1e10, 1e10, (1e10,), (1e10,), 100, 200, 0.4, 'numpy')
    assert 'busy' in b.notes[0] and 'cache' in b.notes[1] and all(n in repr(b) for n in b.notes)
    assert probe.Bandwidth(1, 1e10, 1e10, (1e10,), (1e10,), 800, 200, 0.99, 'numpy').notes == ()


@pytest.mark.parametrize('threads', [-1, 100_000])
def test_threads_that_are_not_there(threads):
    with pytest.raises(EdgewbError, match='threads on a machine with'): probe.bandwidth(threads)


@pytest.mark.parametrize('code, part', [(-9, 'no room for its buffers'), (-4, 'status -4'), (1, 'MemoryError')])
def test_a_child_that_dies_is_one_sentence(monkeypatch, code, part):
    said = 'Traceback\nnumpy.MemoryError' if part == 'MemoryError' else ''
    monkeypatch.setattr(subprocess, 'run', lambda *a, **k: subprocess.CompletedProcess(a, code, '', said))
    with pytest.raises(EdgewbError, match='no room' if part == 'MemoryError' else part): probe._child('_bandwidth', 1, 1, 1)


def test_no_compiler_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv('EDGEWB_CACHE', str(tmp_path))
    monkeypatch.setattr(shutil, 'which', lambda _: None)
    found = probe.peaks(1)
    assert found and all(p.rate == 0 and 'no C compiler' in p.why_not and 'not measured' in repr(p) for p in found)


PRODUCTS = { # that a step adds to each sum
    'AVX2 f32': 1, 'AVX-512 f32': 1, 'AVX512-BF16 bf16': 2, 'AVX512-FP16 f16': 1, 'AVX2 int8': 4, 'AVX-VNNI int8': 4, 'AVX512-VNNI int8': 4, 'AMX bf16': 32, 'AMX int8': 64,
    'NEON f32': 1, 'FP16 f16': 1, 'BF16 bf16': 4, 'DOTPROD int8': 4, 'I8MM int8': 8, 'SVE f32': 1, 'SVE f16': 1, 'SVE bf16': 4, 'SVE int8': 4, 'SVE-I8MM int8': 8,
    'SME f32': 1, 'SME bf16': 2, 'SME int8': 4, 'RVV f32': 1, 'VXE f32': 1}
BITS = dict(ymm=256, zmm=512, tmm=512, v=128, vxe=128)


def claimed(name, bits=0):
    "Operations of a step by the instruction's definition."
    p = probe.PATHS[name]
    sums = (bits or BITS[p.registers])//(16 if p.dtype == 'f16' else 32)
    return 2*PRODUCTS[name]*sums**(2 if p.registers in ('za', 'tmm') else 1)


@pytest.mark.skipif(sys.platform == 'win32' or not shutil.which('cc'), reason='needs a C compiler')
def test_peaks_are_in_the_order_of_the_instructions(tmp_path, monkeypatch):
    monkeypatch.setenv('EDGEWB_CACHE', str(tmp_path))
    found = {p.path: p for p in probe.peaks(1, seconds=0.02)}
    assert found and all(p.why_not or p.rate > 1e8 and p.samples for p in found.values()), found
    assert all(p.why_not or p.ops == claimed(p.path) for p in found.values() if probe.PATHS[p.path].registers in BITS), found
    assert list(tmp_path.rglob('*.so')) and not list(tmp_path.rglob('*.c'))


MAIN = r"""
#include <pthread.h>
#include <stdio.h>
static char ones[8256], sums[2][1 << 18];
static void *loop(void *to) {
  run(8, to, ones);
#ifdef __aarch64__
  __asm__ volatile("add v0.4s,v0.4s,v0.4s" ::: "v0"); /* illegal in the streaming mode */
#endif
  return 0;
}
int main(void) { /* two threads at once: modes and tiles belong to a thread */
  pthread_t other;
  if (fread(ones, 1, sizeof ones, stdin) != sizeof ones || pthread_create(&other, 0, loop, sums[1])) return 1;
  loop(sums[0]);
  pthread_join(other, 0);
  return fwrite(sums, 1, sizeof sums, stdout) != sizeof sums;
}
"""
EMULATED = { # registers: architecture, the emulator's CPU, bits that its registers are told to have
    'v': ('aarch64', 'max,sme=off', (128,)), 'z': ('aarch64', 'max,sme=off,sve{}=on', (128, 256, 512)),
    'za': ('aarch64', 'max,sme{}=on,sme_fa64=off', (128, 256, 512)), # sme_fa64=off: a thread that stays in the streaming mode dies
    'rvv': ('riscv64', 'rv64,v=true,vlen={}', (128, 256)), 'vxe': ('s390x', 'max', (128,))}


def emulator(arch, name):
    "QEMU's program for a foreign architecture, or a skip with the reason."
    qemu = shutil.which(f'qemu-{arch}') or shutil.which(f'qemu-{arch}-static') or pytest.skip(f'assembled, not run: needs qemu-{arch} (Debian: qemu-user)')
    version = re.search(r'version (\d+)', subprocess.run([qemu, '--version'], capture_output=True, text=True).stdout)[1]
    if name == 'SME int8' and int(version) < 10: pytest.skip(f'assembled, not run: QEMU {version} adds half the products of smopa; 10.0 is right')
    return qemu


def swapped(data, dtype):
    "float32 of a machine with the other byte order."
    import numpy as np
    return np.frombuffer(data, 'f4').byteswap().tobytes() if dtype == 'f32' else data


@pytest.mark.parametrize('name', [n for n, p in probe.PATHS.items() if p.registers in EMULATED])
def test_loops_for_foreign_cpus_count_what_is_claimed(name, tmp_path):
    "Assembled, run under emulation at several widths, and the sums of ones held against the definition. No speed is taken."
    p, program = probe.PATHS[name], tmp_path/'loop'
    arch, cpu, widths = EMULATED[p.registers]
    cc = shutil.which(f'{arch}-linux-gnu-gcc') or pytest.skip(f'needs {arch}-linux-gnu-gcc (Debian: gcc-{arch.replace("_", "-")}-linux-gnu and its libc6-dev)')
    (tmp_path/'loop.c').write_text(probe._source(p) + MAIN)
    subprocess.run([cc, '-O1', '-static', '-pthread', str(tmp_path/'loop.c'), '-o', str(program)], check=True)
    qemu, order = emulator(arch, name), swapped if arch == 's390x' else lambda data, _: data
    for bits in widths:
        ran = subprocess.run([qemu, '-cpu', cpu.format(bits), str(program)], input=order(probe._ones(p.dtype), p.dtype), capture_output=True)
        assert ran.returncode == 0, (bits, ran.stderr[-200:])
        sums = order(ran.stdout, p.dtype)
        assert [probe._operations(p, sums[i:i + (1 << 18)], 8) for i in (0, 1 << 18)] == [claimed(name, bits)]*2
    if arch == 'aarch64': assert (subprocess.run([qemu, '-cpu', 'cortex-a72', str(program)], input=probe._ones(p.dtype), capture_output=True).returncode == 0) == (name == 'NEON f32')

"What the probe measures: rates from stamps, a child that dies, loops for CPUs that are not here."
import math, os, shutil, subprocess, sys
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


@pytest.mark.skipif(sys.platform == 'win32' or not shutil.which('cc'), reason='needs a C compiler')
def test_peaks_are_in_the_order_of_the_instructions(tmp_path, monkeypatch):
    monkeypatch.setenv('EDGEWB_CACHE', str(tmp_path))
    found = {p.path: p for p in probe.peaks(1, seconds=0.02)}
    assert found and all(p.why_not or p.rate > 1e8 and p.samples for p in found.values()), found
    assert list(tmp_path.rglob('*.so')) and not list(tmp_path.rglob('*.c'))


ARM = [n for n, p in probe.PATHS.items() if 'v{a}' in p.step]


@pytest.mark.skipif(not shutil.which('aarch64-linux-gnu-gcc'), reason='needs gcc-aarch64-linux-gnu')
@pytest.mark.parametrize('name', ARM)
def test_arm_loops_assemble_and_run_where_the_cpu_has_them(name, tmp_path):
    p = probe.PATHS[name]
    (tmp_path/'a.c').write_text(probe._source(p) + '\nint main(void) { int bad = prepare(); run(1000); return bad; }\n')
    subprocess.run(['aarch64-linux-gnu-gcc', '-O1', *probe._march(p), '-static', str(tmp_path/'a.c'), '-o', str(tmp_path/'a')], check=True)
    if not (qemu := shutil.which('qemu-aarch64-static')): return
    assert subprocess.run([qemu, '-cpu', 'max,sme=off', str(tmp_path/'a')]).returncode == 0
    assert (subprocess.run([qemu, '-cpu', 'cortex-a72', str(tmp_path/'a')]).returncode == 0) == (name == 'NEON f32')

"""The probes find real bugs in real engines, and find none where there is none."""
import json, shutil
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgewb import mutants, mutants_media, rounded, weights
from edgewb.conform import Cell, Conformance, Known, NotApplicable, PROBES, probe
from edgewb.core import EdgewbError, UnknownFormat

conform = import_module('edgewb.conform') # the package's attribute is the function
NANO = weights.resolve('nano')

def broken(tmp_path: Path, change) -> str:
    "A copy of nano whose config says something else: every engine then has that bug."
    folder = tmp_path/'nano'
    shutil.copytree(NANO, folder, ignore=lambda d, names: [n for n in names if Path(d) != NANO or not n.endswith(weights.PARTS)])
    config = json.loads((folder/'config.json').read_text())
    change(config.get('text_config', config))
    (folder/'config.json').write_text(json.dumps(config))
    return str(folder)

def rope_all(c): c['rope_parameters']['full_attention'].update(rope_type='default', partial_rotary_factor=1.0)

BUGS = [('llama.cpp:Q4_K_M', 'window_long', lambda c: c.update(sliding_window=65)),
        ('llama.cpp:Q8_0', 'window_short', lambda c: c.update(sliding_window=63)),
        ('openvino:int8', 'window_long', lambda c: c.update(sliding_window=65)),
        ('openvino:f32', 'no_softcap', lambda c: c.update(final_logit_softcapping=None)),
        ('torch:bf16', 'rope_all', rope_all),
        ('torch:f32', 'window_none', lambda c: c.update(sliding_window=4096))]

@pytest.mark.parametrize('target,bug,change', BUGS, ids=[f'{t} {b}' for t, b, _ in BUGS])
def test_a_bug_in_an_engine_is_found_and_named(tmp_path, target, bug, change):
    cell, = conform.conform(target, broken(tmp_path, change), [f'not_{bug}'], reference=NANO).cells
    assert cell.status == 'fail', cell
    assert cell.value > .5

@pytest.mark.parametrize('target', ['llama.cpp:F16', 'llama.cpp:Q4_K_M', 'openvino:int4', 'torch:bf16'])
def test_engines_are_right_on_nano(target):
    m = conform.conform(target)
    assert not m.count('fail') and all(c.issue for c in m.failed), m
    assert {c.probe for c in m.cells} == set(PROBES)
    assert m.count('pass') >= 25

def test_rounded_weights_are_not_taken_for_a_bug():
    "The four-bit weights of the experts model go all the way towards a K=V bug; the engine that multiplies with them does not."
    m = conform.conform('openvino:int4', 'nano-moe', ['not_value_after_knorm', 'own_weights'])
    assert [c.status for c in m.cells] == ['pass', 'pass'], m
    assert abs(m.cells[0].value) < .1 and 'from the checkpoint' in m.cells[1].evidence

def test_rounded_weights_are_those_of_the_file():
    "llama.cpp's 8-bit blocks, by hand: a half-precision scale, then 32 whole numbers."
    from edgewb.gguf import inventory
    file = weights.build('nano', 'llama.cpp', 'Q8_0').path
    found = dict(rounded.rounded(file))
    for t in [t for t in inventory(file) if t.type == 'Q8_0'][:3]:
        b = np.fromfile(file, np.dtype([('d', '<f2'), ('q', 'i1', 32)]), t.elements//32, offset=t.offset)
        assert (found[t.name].ravel() == (b['d'].astype(np.float32)[:, None]*b['q']).ravel()).all()
    assert rounded.is_rounded(file) and not rounded.is_rounded(weights.build('nano', 'llama.cpp', 'F16').path) and not rounded.is_rounded(NANO)

def test_rounded_towers_find_their_places():
    "A build keeps the two halves of the position table apart; every rounded constant belongs somewhere."
    model = mutants_media.Shown(weights.resolve('nano-dense')).model
    build = weights.build('nano-dense', 'openvino', 'int8').path
    moved = rounded.wear(model, build)
    assert len(moved) == len(list(rounded.rounded(build))) and max(moved.values()) < .02
    assert {k for k in moved if k.endswith(('table.0', 'table.1'))}

def test_weights_of_another_checkpoint_are_refused():
    other = weights.build('nano-dense', 'llama.cpp', 'Q8_0').path
    cell, = conform.conform('llama.cpp:Q8_0', str(other), ['not_window_long'], reference=NANO).cells
    assert cell.status == 'fail' and 'no rounded weight of this checkpoint' in cell.evidence

def test_files_as_upstream_converts_them():
    m = conform.conform(['torch:f32', 'llama.cpp:F16'], 'upstream:nano-dense', ['opens', 'token_ids', 'not_quick_gelu'])
    assert {(c.model, c.target) for c in m.cells} == {('upstream:nano-dense', 'llama.cpp:F16')}
    assert [c.status for c in m.cells] == ['pass', 'pass', 'known'] and 'no issue found' in m.cells[2].issue
    own, = conform.conform('llama.cpp:F16', 'nano-dense', ['not_quick_gelu']).cells
    assert own.status == 'pass'

def test_what_upstream_refuses_is_known(tmp_path):
    "A 12B config as transformers 5.23 saves it; the one that ships here has the key that the converter wants."
    folder = tmp_path/'unified'
    shutil.copytree(weights.resolve('nano-unified'), folder)
    config = json.loads((folder/'config.json').read_text())
    del config['text_config']['moe_intermediate_size']
    (folder/'config.json').write_text(json.dumps(config))
    cell, = conform.conform('llama.cpp:F16', f'upstream:{folder}', ['prefill']).cells
    assert (cell.probe, cell.status) == ('opens', 'known') and 'moe_intermediate_size' in cell.evidence

def test_defects_name_probes_that_exist():
    assert {k.probe for k in conform.KNOWN} | {f.probe for f in conform.FIXED} <= set(PROBES)
    m = Conformance([Cell('shows_tiny', 'm', 'llama.cpp:F16', 'pass', ''), Cell('shows_tiny', 'm', 'llama.cpp:Q8_0', 'fail', ''), Cell('shows_tiny', 'm', 'torch:f32', 'pass', '')])
    assert conform.shown_fixed(m).set_index('probe').loc['shows_tiny', 'passes'] == '1 of 2'

def test_frames_of_a_video_stand_apart():
    from edgewb.tokens import Tokenizer
    s = mutants_media.SCENES['video']
    ids, at = mutants_media.laid(mutants_media.pieces(Tokenizer(NANO), s), [[-1]*4, [-2]*4, [-3]*4])
    assert [ids[r.start:r.stop] for r in at] == [[-1]*4, [-2]*4, [-3]*4]
    rows = mutants_media.rows_of(at, len(ids))
    assert {i for r in at for i in r} <= set(rows) and rows[-1] == len(ids) - 1 and rows == sorted(set(rows))

def test_a_probe_is_one_function():
    @probe('output')
    def says_something(c):
        "Does it say anything at all?"
        n = len(c.s.generate('Hi', 4, ignore_eog=True).ids)
        return n == 4, f'{n} tokens'
    try:
        m = conform.conform('llama.cpp:Q8_0', probes=['opens', 'says_something'])
        assert [c.status for c in m.cells] == ['pass', 'pass']
        assert m.cells[1].evidence == '4 tokens' and 'says_something' in repr(m) and 'says_something' in m._repr_html_()
    finally: del PROBES['says_something']

def test_a_dead_engine_is_a_failed_cell_and_the_next_probe_goes_on():
    @probe('output')
    def dies(c):
        "Does it survive?"
        c.s.worker.proc.kill(); c.s.worker.proc.wait()
        return True, str(c.s.pos)
    try: m = conform.conform('llama.cpp:Q8_0', probes=['dies', 'bos_once'])
    finally: del PROBES['dies']
    assert [c.status for c in m.cells] == ['fail', 'pass'] and 'EngineDied' in m.cells[0].evidence

def test_a_known_defect_is_shown_with_its_number(tmp_path, monkeypatch):
    monkeypatch.setattr(conform, 'KNOWN', [Known('llama.cpp', 'not_window_long', 'someone/engine #1', 'Off by one.')])
    m = conform.conform('llama.cpp:Q8_0', broken(tmp_path, BUGS[0][2]), ['not_window_long'], reference=NANO)
    assert m.cells[0].status == 'known' and 'someone/engine #1' in repr(m) and m.failed

def test_a_file_without_a_checkpoint_says_so():
    file = weights.build('nano', 'llama.cpp', 'Q8_0').path
    m = conform.conform('llama.cpp:Q8_0', str(file), ['opens', 'prefill', 'deterministic', 'parsed_edges'])
    assert [c.status for c in m.cells][:2] == ['pass', 'n/a'] and 'reference=' in m.cells[1].evidence
    m = conform.conform('llama.cpp:Q8_0', str(file), ['prefill'], reference=NANO)
    assert m.cells[0].status == 'pass'

def test_bad_names():
    with pytest.raises(UnknownFormat): conform.conform('llama.cpp:Q4_KM')
    with pytest.raises(EdgewbError, match='no probe .prefil.. Nearest: prefill'): conform.conform('llama.cpp:Q8_0', probes=['prefil'])

def test_there_and_back():
    a = Conformance([Cell('p', 'nano', 'torch:f32', 'fail', 'x < y', 1., .5, 'a #2'), Cell('q', 'nano', 'torch:f32', 'n/a', 'none')], dict(seconds=1.))
    b = Conformance.from_dict(json.loads(json.dumps(a.to_dict())))
    assert a == b and '&lt;' in a._repr_html_()

@pytest.mark.parametrize('rows, words', [(192, 64), (24, 512)]) # 24: what there is of a checkpoint with 262,144 words
def test_the_direction_is_read_under_noise(rows, words):
    "Over many draws: noise alone is hardly ever taken for the bug, and noise with the bug hardly ever for none."
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 3, (rows, words))
    bug = truth + rng.normal(0, .1, truth.shape)
    verdicts = {False: [], True: []}
    for i in range(60):
        noise = rng.normal(0, .3, truth.shape)
        for wrong in verdicts: verdicts[wrong].append(mutants.towards(truth, bug, (bug if wrong else truth) + noise).verdict)
    assert verdicts[False].count('bug') <= 1 and verdicts[True].count('right') <= 1
    assert verdicts[False].count('right') > 40 and verdicts[True].count('bug') > 40


def test_a_tie_is_an_excuse_for_mixtures_and_small_gaps_only():
    of = lambda moe, kld: conform._explained('llama.cpp', 'after_trim', f'against itself: mean KLD {kld} nats over 32 positions', SimpleNamespace(config=dict(enable_moe_block=moe)))
    assert of(True, '3.4e-03') and not of(True, '2.0e-02') and not of(False, '3.4e-03')

"""A drafter guesses from what its target has, in every engine that takes one."""
import json, shutil
from importlib import import_module

import numpy as np
import pytest

import edgewb
from edgewb import weights
from edgewb.case import Case
from edgewb.core import BadBuild, EdgewbError, UnknownModel, Unsupported
from edgewb.drafter import check_pair, mend
from edgewb.drafter_probes import Drafting, draft_references
from edgewb.quality import kld
from edgewb.session import Session, Target

conform = import_module('edgewb.conform')
NANO, ASSISTANT = weights.resolve('nano'), weights.resolve('nano-assistant')
PROBES = [p for p in conform.PROBES.values() if p.group == 'drafter']

def opened(target: str, drafter: str = 'nano-assistant', **kw) -> Session:
    t = Target.parse(target)
    return Session(Target(t.engine, t.format, 'nano', t.settings | {'drafter': drafter, 'threads': 1}), **kw)

def test_guesses_are_those_of_transformers_own_loop():
    "Within one window, where its mask takes nothing away: the candidates of its generator, token by token."
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig
    from transformers.generation.candidate_generator import SinglePositionMultiTokenCandidateGenerator as Generator
    mend()
    read = lambda folder: AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    target, drafter = read(NANO), read(ASSISTANT)
    forward = drafter.forward
    drafter.forward = lambda **kw: forward(**kw, logits_to_keep=None) # 5.23 slices rows that a drafter hasn't got
    drafter.generation_config.num_assistant_tokens = 4
    with opened('torch:f32') as s:
        ids = s.chat_ids('Sort: 58 41 25 31')
        assert len(ids) < 63
        first = int(s.eval(ids).argmax())
        with torch.no_grad(): said = target(input_ids=torch.tensor([ids]), output_hidden_states=True, return_shared_kv_states=True)
        make = Generator(drafter, target.get_input_embeddings(), GenerationConfig(max_length=500))
        found, _ = make.get_candidates(torch.tensor([ids + [first]]), {}, said, False, 0)
        assert found[0, len(ids) + 1:].tolist() == s.draft([first], 3).argmax(-1).tolist()

@pytest.mark.parametrize('target', ['torch:f32', 'torch:bf16', 'llama.cpp:F16', 'llama.cpp:Q4_K_M', 'llama.cpp:Q2_K', 'openvino:f32', 'openvino:int8', 'openvino:int4'])
def test_every_probe(target):
    m = conform.conform(target, 'nano-assistant')
    assert not m.count('fail') and not m.count('blind'), m
    assert {c.probe for c in m.cells} == set(conform.PROBES)
    assert [c.probe for c in m.failed] == (['draft_plain'] if target.startswith('torch') else [])
    assert m.count('pass') >= len(PROBES) - 2

class Bent:
    "A session whose drafter makes a mistake."
    def __init__(self, session, draft): self._session, self.draft = session, lambda tokens, n=0: draft(session, tokens, n)
    def __getattr__(self, name): return getattr(self._session, name)

def forgets(s, tokens, n): return np.concatenate([s.draft([t], n*(i == len(tokens) - 1)) for i, t in enumerate(tokens)])

@pytest.mark.parametrize('target', ['torch:f32', 'llama.cpp:F16', 'llama.cpp:Q4_K_M', 'openvino:int4'])
def test_a_mistake_is_found_and_named(target):
    with opened(target, n_ctx=1400) as s:
        case = Case(Bent(s, forgets))
        found = {p.name: conform.judge(case, p).status for p in PROBES}
    assert found['not_draft_forgets'] == 'fail' and found['draft_first'] == 'pass' and found['draft_chain'] == 'fail'
    assert [n for n, status in found.items() if n.startswith('not_') and status == 'fail'] == ['not_draft_forgets'] # nothing else is blamed

def test_other_models_are_not_asked():
    cells = conform.conform('llama.cpp:F16', 'nano', [p.name for p in PROBES]).cells
    assert {(c.status, c.evidence) for c in cells} == {('n/a', 'there is no drafter beside it')}

@pytest.mark.parametrize('engine,format', [('llama.cpp', 'F16'), ('torch', 'f32'), ('openvino', 'f32')])
def test_a_drafter_alone_is_refused(engine, format):
    with pytest.raises(Unsupported, match="open its target with drafter='nano-assistant'"): edgewb.load('nano-assistant', engine, format)

@pytest.mark.parametrize('engine,format', [('llama.cpp', 'F16'), ('torch', 'f32'), ('openvino', 'f32')])
def test_what_is_no_drafter_is_refused(engine, format):
    with pytest.raises(Unsupported, match="'nano-draft' is no MTP drafter"): edgewb.load('nano', engine, format, drafter='nano-draft')
    with pytest.raises(UnknownModel, match='Nearest: nano-assistant'): edgewb.load('nano', engine, format, drafter='nano-asistant')

@pytest.mark.parametrize('engine,format', [('llama.cpp', 'F16'), ('torch', 'f32'), ('openvino', 'f32')])
def test_another_models_drafter_is_refused(engine, format):
    "nano-unified is half as wide."
    with pytest.raises(Unsupported, match='does not draft for .*states 256 instead of 128'): edgewb.load('nano-unified', engine, format, drafter='nano-assistant')

def test_a_drafter_file_is_known_by_its_header(tmp_path):
    file = weights.build('nano-assistant', 'llama.cpp', 'Q8_0', drafter=True).path
    shutil.copy(file, tmp_path/'x.gguf')
    with pytest.raises(Unsupported, match='MTP drafter'): edgewb.load(str(tmp_path/'x.gguf'))
    with opened('llama.cpp:Q8_0', str(tmp_path/'x.gguf')) as s, opened('llama.cpp:Q8_0') as t:
        ids = s.chat_ids('What is 32+6?')
        for x in (s, t): x.eval(ids)
        assert (s.draft([9], 3) == t.draft([9], 3)).all()

def test_an_openvino_drafter_can_be_moved(tmp_path):
    made = weights.build('nano-assistant', 'openvino', 'int8', drafter=True).path
    shutil.copytree(made, tmp_path/'moved')
    with pytest.raises(Unsupported, match='MTP drafter'): edgewb.load(str(tmp_path/'moved'), 'openvino')
    with opened('openvino:int8', str(tmp_path/'moved')) as s, opened('openvino:int8') as t:
        ids = s.chat_ids('What is 32+6?')
        for x in (s, t): x.eval(ids)
        assert (s.draft([9], 3) == t.draft([9], 3)).all()

def test_weights_in_several_places_take_no_drafter():
    with pytest.raises(Unsupported, match='in one place'): edgewb.load('nano', 'torch', 'f32', device_map='disk', drafter='nano-assistant')

@pytest.mark.parametrize('target', ['torch:f32', 'llama.cpp:F16', 'openvino:f32'])
def test_where_a_state_is_gone(target):
    with opened(target) as s:
        ids = s.chat_ids('What is 32+6?')
        with pytest.raises(EdgewbError, match='no state to draft from'): s.draft([ids[0]])
        s.eval(ids[:-4]); s.eval(ids[-4:], all=True)
        whole = s.draft([9], 2)
        s.trim(len(ids) - 3)
        there = s.draft(ids[-3:])
        s.trim(len(ids) - 6)
        with pytest.raises(EdgewbError, match=f'trim\\({len(ids) - 7}\\)'): s.draft([9])
        s.trim(len(ids) - 7); s.eval([ids[-7]]) # as the sentence says
        assert np.isfinite(s.draft(ids[-6:-4])).all()
        s.eval(ids[-6:]); assert kld(whole, s.draft([9], 2)).max() < 1e-5
        s.trim(0); s.eval(ids[:-3]); assert kld(there, s.draft(ids[-3:])).max() < 1e-5

@pytest.mark.parametrize('target', ['torch:f32', 'llama.cpp:F16', 'openvino:f32'])
def test_behind_a_picture(target):
    "The cache holds soft tokens; the state is that of the word after them."
    from edgewb.mutants_media import SCENES
    with opened(target) as s, opened('torch:f32') as t:
        ids = s.chat_ids('What shape is it?', media=[SCENES['picture'].data])
        also = t.chat_ids('What shape is it?', media=[SCENES['picture'].data])
        assert len(ids) == len(also) and min(ids) < 0
        newest = int(s.eval(ids).argmax())
        assert int(t.eval(also).argmax()) == newest
        assert kld(t.draft([newest], 3), s.draft([newest], 3)).max() < 1e-4

def test_a_session_without_a_drafter_says_what_to_do():
    with edgewb.load('nano', 'llama.cpp', 'F16') as s:
        s.eval(s.chat_ids('Hi'))
        with pytest.raises(Unsupported, match="drafter='nano-assistant'"): s.draft([5])

def test_a_truncated_drafter_is_refused(tmp_path):
    file = weights.build('nano-assistant', 'llama.cpp', 'F16', drafter=True).path
    (tmp_path/'cut.gguf').write_bytes(file.read_bytes()[:-5000])
    with pytest.raises(BadBuild, match='cut.gguf'): opened('llama.cpp:F16', str(tmp_path/'cut.gguf'))

@pytest.fixture(scope='module')
def clustered(tmp_path_factory):
    "nano-assistant with the clusters of words that E2B's drafter has; which words go together is drawn."
    import torch
    from transformers import AutoModelForCausalLM
    mend()
    folder = tmp_path_factory.mktemp('clustered')/'clustered-assistant'
    shutil.copytree(ASSISTANT, folder)
    c = json.loads((folder/'config.json').read_text()) | dict(use_ordered_embeddings=True, num_centroids=32, centroid_intermediate_top_k=8)
    (folder/'config.json').write_text(json.dumps(c))
    torch.manual_seed(0)
    m = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    with torch.no_grad():
        torch.nn.init.normal_(m.masked_embedding.centroids.weight)
        m.masked_embedding.token_ordering.copy_(torch.randperm(1024))
    m.save_pretrained(folder)
    return folder

@pytest.mark.parametrize('target', ['torch:f32', 'llama.cpp:F16', 'openvino:f32'])
def test_a_drafter_with_clusters(clustered, target):
    "torch searches eight of 32 clusters, the others the whole head: each is held against its own."
    with opened(target, str(clustered), n_ctx=1400) as s:
        case = Case(s)
        found = {p.name: conform.judge(case, p) for p in PROBES}
        rows = case.drafted()
    assert not [c for c in found.values() if c.status == 'fail' and c.probe != 'draft_plain'], found
    words = [len(set(r.tolist())) for r in rows]
    assert max(words) <= 258 if target.startswith('torch') else min(words) > 900

def test_the_reference_is_the_targets_own(tmp_path):
    "Places, guesses and mutants, made once and kept."
    from edgewb.case import prompt_ids
    from edgewb.tokens import Tokenizer
    ids = prompt_ids(Tokenizer(NANO), 300)
    a, b = (draft_references(NANO, ASSISTANT, ids, [100, 250]) for _ in range(2))
    assert all((a[k] == b[k]).all() for k in a) and a['truth'].shape == (8, 1024)
    m = Drafting(NANO, ASSISTANT)
    m.run(ids[:254])
    assert np.abs(m.guesses(ids, [250]) - a['truth'][4:]).max() < 1e-3 # what follows changes nothing

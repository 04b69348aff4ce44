"The OpenAI endpoint over a real session: what a client may rely on, and what happens to a bad one."
import json, os, signal, socket, threading, time

import httpx
import pytest

from edgewb import load
from edgewb.core import EdgewbError
from edgewb.serve import Server

SORT = [dict(role='user', content='Sort: 58 25 31 41')]


@pytest.fixture(scope='module')
def session():
    with load('nano') as s: yield s

@pytest.fixture
def server(session):
    with Server(session) as s: yield s

def post(server, path='/chat/completions', **body): return httpx.post(server.url + path, json=body, timeout=60)

def chunks(server, path='/chat/completions', **body):
    with httpx.stream('POST', server.url + path, json=dict(stream=True, **body), timeout=60) as r:
        lines = [l[6:] for l in r.iter_lines() if l.startswith('data: ')]
    assert lines[-1] == '[DONE]'
    return [json.loads(l) for l in lines[:-1]]


def test_models(server):
    (m,) = httpx.get(f'{server.url}/models').json()['data']
    assert m['id'] == 'nano' and m['target'] == 'llama.cpp:Q4_K_M'


def test_a_reply_is_the_session_s(server, session):
    r = post(server, messages=SORT, temperature=0).json()
    direct = session.generate(SORT)
    assert r['choices'][0]['message'] == dict(role='assistant', content='25 31 41 58') and r['choices'][0]['finish_reason'] == 'stop'
    assert r['usage'] == dict(prompt_tokens=len(direct.prompt_ids), completion_tokens=len(direct.tokens), total_tokens=len(direct.prompt_ids) + len(direct.tokens))


def test_streamed_and_whole_say_the_same(server):
    got = chunks(server, messages=SORT, temperature=0)
    assert ''.join(c['delta'].get('content', '') for x in got for c in x['choices']) == '25 31 41 58'
    assert [c['finish_reason'] for x in got for c in x['choices'] if c['finish_reason']] == ['stop']
    assert got[-1]['choices'] == [] and got[-1]['usage']['completion_tokens'] == 12 and got[-1]['edgewb']['sent_s'] >= 0


def test_ids_of_a_completion(server, session):
    ids = session.tokenize('<bos>Once upon a time')
    want = session.generate(ids, 30, ignore_eog=True).ids
    got = chunks(server, '/completions', prompt=ids, max_tokens=30, temperature=0, ignore_eos=True, return_token_ids=True)
    assert [i for x in got for c in x['choices'] for i in c.get('token_ids', [])] == want
    assert post(server, '/completions', prompt=ids, max_tokens=30, temperature=0, ignore_eos=True, return_token_ids=True).json()['choices'][0]['token_ids'] == want


def test_the_seed_is_heard(server):
    ask = lambda seed: post(server, '/completions', prompt='The', max_tokens=40, seed=seed, temperature=2.).json()['choices'][0]['text']
    assert ask(1) == ask(1) != ask(2)


def test_a_thought_and_a_call():
    from edgewb.reply import Parser
    from edgewb.serve import _deltas, _whole
    text = '<|channel>thought\nhm<channel|>Well.<|tool_call>call:add{a:1,b:2}<tool_call|>'
    p = Parser([dict(type='function', function=dict(name='add', parameters=dict(type='object', properties=dict(a=dict(type='integer'), b=dict(type='integer')))))])
    said = _whole(list(_deltas([e for c in text for e in p.feed(c)] + p.close(), 0)))
    assert said['reasoning_content'].strip() == 'hm' and said['content'] == 'Well.'
    assert [(c['function']['name'], json.loads(c['function']['arguments'])) for c in said['tool_calls']] == [('add', dict(a=1, b=2))]


@pytest.mark.parametrize('body, part', [
    (dict(messages=SORT, stop=['x']), "'stop' can only be null"), (dict(messages=SORT, n=2), "'n' can only be 1"), (dict(messages=SORT, temprature=1), 'Nearest: temperature'),
    (dict(prompt='Hi'), "no 'messages'"), (dict(messages=SORT, max_tokens='many'), 'are numbers'), (dict(messages=SORT, max_tokens=0), 'at least 1'),
    (dict(messages=[dict(role='user', content='word '*5000)]), 'n_ctx='), (dict(messages='Hi'), 'list of objects'), (dict(messages=[]), 'list of objects'), ([1], 'no JSON object')])
def test_a_bad_request_gets_a_sentence(server, body, part):
    r = httpx.post(f'{server.url}/chat/completions', json=body, timeout=60)
    assert r.status_code == 400 and part in r.json()['error']['message'], r.text
    assert post(server, messages=SORT, temperature=0).status_code == 200


def test_a_prompt_is_one(server):
    for prompt in (['a', 'b'], 7, [], [[1], [2]]): assert 'one text' in post(server, '/completions', prompt=prompt).json()['error']['message']


def test_what_is_no_json(server):
    r = httpx.post(f'{server.url}/chat/completions', content=b'{"messages": [', timeout=60)
    assert r.status_code == 400 and 'no JSON' in r.json()['error']['message']


def test_requests_wait_for_each_other(server):
    out = {}
    def ask(i): out[i] = post(server, messages=SORT, temperature=0).json()['choices'][0]['message']['content']
    threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert list(out.values()) == ['25 31 41 58']*4


def test_a_client_that_goes_away_stops_the_reply(server, session):
    with httpx.stream('POST', f'{server.url}/completions', json=dict(prompt='The', max_tokens=1900, ignore_eos=True, stream=True), timeout=60) as r: next(r.iter_lines())
    assert post(server, messages=SORT, temperature=0).status_code == 200
    assert session.pos < 1900


def test_a_port_that_is_taken(session):
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0)); s.listen()
        with pytest.raises(EdgewbError, match='give another port'): Server(session, s.getsockname()[1])


def test_closing_twice(session):
    s = Server(session)
    s.close(); s.close()
    with pytest.raises(httpx.ConnectError): httpx.get(f'{s.url}/models')


def test_an_engine_that_dies_in_mid_reply():
    with load('nano') as s, Server(s) as server:
        with httpx.stream('POST', f'{server.url}/completions', json=dict(prompt='The', max_tokens=1900, ignore_eos=True, stream=True), timeout=60) as r:
            lines = r.iter_lines()
            next(lines)
            os.kill(s.pid, signal.SIGKILL)
            last = [l for l in lines if l][-1]
        assert 'killed' in json.loads(last[6:])['error']['message']
        r = post(server, messages=SORT)
        assert r.status_code == 500 and r.json()['error']['message']

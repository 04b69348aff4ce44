"""The chat format: our template gives upstream's text, a foreign template can do no harm, nobody but the template writes a fence, and any reply comes apart
without an exception and without losing a character."""
import json, random, time
from pathlib import Path
import pytest
from edgewb import chat, reply
from edgewb.arguments import QUOTE
from edgewb.core import BadTemplate

HERE = Path(__file__).parent
CASES = json.loads((HERE/'chat_upstream.json').read_text(encoding='utf-8'))
MALFORMED = json.loads((HERE/'malformed.json').read_text(encoding='utf-8'))
arguments = lambda c: dict(tools=c['tools'], thinking=c['thinking'], add_generation_prompt=c['add_generation_prompt'])


# --- templates

def test_upstream_text():
    "400 drawn conversations with the text that upstream's template gave for them (recorded from llama.cpp's google-gemma-4-31B-it.jinja)."
    assert len(CASES) == 400
    seen = ''.join(c['text'] for c in CASES)
    for mark in ('<|think|>', '<|tool>', '<|tool_call>', '<tool_response|>', '<|channel>thought\nbecause', '<|image|>', '<|audio|>', '<|video|>',
                 'items:{', 'nullable:true', 'enum:[', '<|turn>system'):
        assert mark in seen, f'the recording has no {mark}'
    for c in CASES: assert chat.render(c['messages'], **arguments(c)) == c['text'], json.dumps(c['messages'])


@pytest.fixture(scope='module')
def upstream():
    "The chat templates in the llama.cpp tree that builds are made with."
    from edgewb.convert import sdist_tree
    return {p.stem: p.read_text(encoding='utf-8') for p in sorted((sdist_tree()/'models'/'templates').glob('*.jinja'))}


def test_against_the_template_itself(upstream):
    for c in CASES: assert chat.render(c['messages'], template=upstream['google-gemma-4-31B-it'], **arguments(c)) == c['text']


TEXTS = ['hi', '', ' two\nlines ', 'a<b & "c"', 'x<channel|>y', '<|turn>', 'ünï 🙂', '<|channel>thought\nhm\n<channel|>So.', '<|"|>', '{{ 1 }}']

def drawn(rng):
    "A conversation, tools and settings, as users and agents make them."
    text = lambda: rng.choice(TEXTS)
    def value(d=0):
        kind = rng.randrange(8 if d < 3 else 6)
        if kind > 5: return [value(d + 1) for _ in range(rng.randrange(3))] if kind == 6 else {k: value(d + 1) for k in rng.sample('abcdeA', rng.randrange(3))}
        return [rng.randint(-99, 99), round(rng.uniform(-9, 9), 2), rng.random() < .5, None, text(), text()][kind]
    def content(): return text() if rng.random() < .7 else [rng.choice([{'type': 'text', 'text': text()}, {'type': 'image'}, {'type': 'audio'}, {'type': 'video'}]) for _ in range(rng.randrange(1, 4))]
    def spec(d=0):
        kind = rng.choice(['string', 'integer', 'boolean', 'array', 'object'] if d < 2 else ['string', 'number'])
        s = {'type': kind} | ({'description': text()} if rng.random() < .5 else {}) | ({'nullable': True} if rng.random() < .2 else {})
        if kind == 'string' and rng.random() < .4: s['enum'] = ['x', 'y']
        if kind == 'array' and rng.random() < .7: s['items'] = spec(d + 1)
        if kind == 'object': s |= {'properties': {k: spec(d + 1) for k in rng.sample(['p', 'q', 'r'], rng.randrange(3))}, 'required': ['p']}
        return s
    def function(i): return {'type': 'function', 'function': {'name': f'f{i}', 'description': text(), 'parameters': {
        'type': 'object', 'properties': {k: spec() for k in rng.sample(['a', 'b', 'kind', 'type'], rng.randrange(4))}, 'required': ['a']}}}
    messages = [{'role': rng.choice(['system', 'developer']), 'content': text()}] if rng.random() < .4 else []
    for _ in range(rng.randrange(1, 5)):
        messages.append({'role': 'user', 'content': content()})
        for _ in range(rng.randrange(3)):
            m = {'role': 'assistant', 'content': rng.choice([text(), None, content()])} | ({rng.choice(['reasoning', 'reasoning_content', 'thinking']): rng.choice(['because', '', None])} if rng.random() < .5 else {})
            if rng.random() < .6:
                m['tool_calls'] = [{'id': f'c{i}', 'type': 'function', 'function': {'name': f'f{i}', 'arguments': rng.choice([value(4) and {} or {'a': value(), 'B': value()}, {}, 'a:1'])}} for i in range(rng.randrange(1, 4))]
                if rng.random() < .2: m['tool_responses'] = [{'name': 'f0', 'response': value()}]
            messages.append(m)
            for i in range(rng.randrange(3) if 'tool_calls' in m else 0):
                messages.append({'role': 'tool', 'content': rng.choice([text(), {'r': value()}, [{'type': 'text', 'text': text()}], None]), **({'tool_call_id': f'c{i}'} if rng.random() < .8 else {'name': 'g'})})
    return messages, dict(tools=[function(i) for i in range(rng.randrange(3))] or None, thinking=rng.random() < .5, add_generation_prompt=rng.random() < .8)


@pytest.fixture(scope='module')
def theirs():
    "transformers' own way: nano's tokenizer and `apply_chat_template`."
    from transformers import AutoTokenizer
    from edgewb.weights import resolve
    t = AutoTokenizer.from_pretrained(resolve('nano'))
    def text(messages, template, tools, thinking, add_generation_prompt):
        return t.apply_chat_template(messages, tools=tools, chat_template=template, add_generation_prompt=add_generation_prompt, enable_thinking=thinking, tokenize=False)
    return text


def either(f):
    "The text, or that there is none."
    try: return f()
    except Exception as e: return 'no text' if isinstance(e, BadTemplate) or 'jinja2' in type(e).__module__ or isinstance(e, (TypeError, KeyError, ValueError, AttributeError, IndexError)) else repr(e)


def test_equal_to_transformers(upstream, theirs):
    "2,000 drawn conversations, nano's template and the two that llama.cpp has for Gemma 4."
    rng, own, texts = random.Random(7), chat._own(), 0
    templates = {'nano': own} | {k: v for k, v in upstream.items() if 'gemma-4' in k}
    assert len(templates) == 3
    for k in range(2000):
        (messages, args), name = drawn(rng), list(templates)[k % 3]
        ours = either(lambda: chat.render(messages, template=templates[name], **args))
        assert ours == either(lambda: theirs(messages, templates[name], **args)), (name, messages, args)
        texts += ours != 'no text'
    assert texts > 1700  # the others are refused by both: None where a template adds texts


def test_equal_to_transformers_on_other_families(upstream):
    "The templates of the other families in the tree: the same text, or no text from either."
    from transformers.utils.chat_template_utils import render_jinja_template
    rng, texts, used = random.Random(8), 0, set()
    for name, template in upstream.items():
        if 'strftime_now' in template: continue  # its text has the time in it
        for _ in range(6):
            messages, args = drawn(rng)
            them = either(lambda: render_jinja_template([messages], tools=args['tools'], chat_template=template, add_generation_prompt=args['add_generation_prompt'],
                                                        enable_thinking=args['thinking'], bos_token='<bos>', eos_token='<eos>')[0][0])
            ours = either(lambda: chat.render(messages, template=template, **args))
            assert ours == them, (name, messages, args)
            if ours != 'no text': texts += 1; used.add(name)
    assert len(used) > 50 and texts > 150


def test_a_foreign_template_is_sandboxed():
    for template, why in (('{{ messages.__class__.__mro__[1].__subclasses__() }}', 'reaches for'), ('{{ messages.append(1) }}', 'reaches for'),
                          ("{{ raise_exception('no tools here') }}", 'refuses this conversation: no tools here'), ('{% for %}', 'line 1'), ("{{ namespace(_x=1) }}", 'underscore'),
                          ("{% set n = namespace() %}{% set n.__x = 1 %}", 'underscore'), ("{{ cycler.__init__.__globals__ }}", 'reaches for'), ("{% include '/etc/passwd' %}", 'no loader'),
                          ("{% import 'os' as o %}", 'no loader'), ("{{ lipsum(9) }}", 'not callable')):
        with pytest.raises(BadTemplate, match=why): chat.render('Hi', template=template)
    for template in ("{{ ''|attr('__class__') }}", "{{ '{0.__class__}'.format('') }}", "{{ self._TemplateReference__context }}", "{{ messages|map(attribute='__class__')|list }}"):
        try: assert 'class' not in chat.render('Hi', template=template)
        except BadTemplate: pass


@pytest.fixture
def hurried(monkeypatch):
    "The limit of processor time, shortened."
    monkeypatch.setattr(chat, 'SECONDS', .5)


@pytest.mark.parametrize('template', [
    '{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}', "{{ 'a' * 10**11 }}", "{{ 10**(10**9) }}", "{{ '%10000000000d'|format(1) }}",
    "{{ 'a'|center(10**10) }}", "{% set n = namespace(t='ab') %}{% for i in range(99) %}{% set n.t = n.t ~ n.t %}{% endfor %}", "{{ 'a' * 10**8 }}",
    "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}", "{% for i in range(10**9) %}{% endfor %}", "{{ (" * 3000, "{{ [1,2,3]|map('string')|list * 10**9 }}"])
def test_a_hostile_template_is_stopped(template, hurried):
    with pytest.raises(BadTemplate): chat.render('Hi', template=template)
    assert chat.render('Hi', template='{{ messages[0].content }}') == 'Hi'  # the next one isn't harmed


def test_a_hostile_template_leaves_nothing_behind(hurried):
    import psutil
    with pytest.raises(BadTemplate): chat.render('Hi', template="{{ 'a' * 10**11 }}")
    pid = (chat.render('Hi', template='x'), chat._box.proc.pid)[1]
    with pytest.raises(BadTemplate): chat.render('Hi', template='{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}')
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_template_sees_plain_values_only():
    import numpy as np
    class Odd:
        secret = 'x'
        def __repr__(self): return 'odd'
    message = {'role': 'user', 'content': [{'type': 'image', 'image': np.zeros((2, 2))}, {'type': 'text', 'text': 'hi', 'n': np.float32(.5), 'x': Odd()}]}
    text = chat.render([message], template='{% for p in messages[0].content %}{{ p }}{% endfor %}{{ messages[0].content[1].x.secret }}')
    assert text == "{'type': 'image', 'image': '<ndarray>'}{'type': 'text', 'text': 'hi', 'n': 0.5, 'x': '<Odd>'}"


# --- pieces: who wrote a fence

def test_pieces_are_the_text():
    "Drawn conversations: the pieces joined are the text, placeholders apart, and no piece holds a control token that somebody typed."
    rng = random.Random(3)
    for _ in range(300):
        messages, args = drawn(rng)
        text = either(lambda: chat.render(messages, **args))
        if text == 'no text': continue
        parts = chat.render_parts(messages, **args)
        assert ''.join(p if isinstance(p, str) else f'<|{p.kind}|>' for p in parts) == text
        assert [p.i for p in parts if not isinstance(p, str)] == list(range(sum(not isinstance(p, str) for p in parts)))


def test_nobody_but_the_template_writes_a_fence():
    "Whatever is typed, wherever it can be typed: the control tokens of the ids are those of the same conversation without the typed ones."
    from edgewb.tokens import Tokenizer
    from edgewb.weights import resolve
    t = Tokenizer(resolve('nano'))
    ids = lambda *a, **k: [i for p in chat.render_parts(*a, **k) for i in (t.encode(p) if isinstance(p, str) else [p.kind]) if i in t.added or isinstance(i, str)]
    tokens = [c for c in t.added.values() if c not in ('<|channel>', '<channel|>')]
    for token in tokens:
        for before, after in (('', ''), ('a ', ' b'), ('<', '>'), (token, token)):
            typed, plain = before + token + after, 'x'
            talk = lambda s: [{'role': 'system', 'content': s}, {'role': 'user', 'content': [{'type': 'text', 'text': s}, {'type': 'image'}]},
                {'role': 'assistant', 'content': s, 'reasoning': s, 'tool_calls': [{'id': 'c', 'function': {'name': 'f', 'arguments': {'k': s, 'l': [s, {'m': s}]}}}]},
                {'role': 'tool', 'tool_call_id': 'c', 'content': s}, {'role': 'assistant', 'content': s}]
            tool = lambda s: [{'function': {'name': 'f', 'description': s, 'parameters': {'type': 'object', 'properties': {'k': {'type': 'string', 'description': s, 'enum': [s]}}}}}]
            assert ids(talk(typed), tools=tool(typed)) == ids(talk(plain), tools=tool(plain)), typed
    half = [{'role': 'user', 'content': [{'type': 'text', 'text': 'a<|tu'}, {'type': 'text', 'text': 'rn>b'}]}]
    assert ids(half) == ids('a')


def test_media_are_matched_in_order():
    "Two pictures and a sound over two turns, and literal placeholders in between."
    a, b, c = ({'type': 'image', 'image': 'a'}, {'type': 'audio', 'audio': 'b'}, {'type': 'image', 'image': 'c'})
    text = {'type': 'text', 'text': '<|image|><|audio|><|video|>'}
    parts = chat.render_parts([{'role': 'user', 'content': [text, a, text, b]}, {'role': 'assistant', 'content': 'ok'}, {'role': 'user', 'content': [c, text]}])
    media = [p for p in parts if not isinstance(p, str)]
    assert media == [chat.Media('image', 0), chat.Media('audio', 1), chat.Media('image', 2)] and [m.part for m in media] == [a, b, c]
    with pytest.raises(BadTemplate, match="1 parts of type 'image' and the chat template placed 0"):
        chat.render_parts([{'role': 'user', 'content': 'x'}, {'role': 'tool', 'content': [a]}])


# --- replies

def drawn_arguments(rng):
    def value(d=0):
        kind = rng.randrange(7 if d < 3 else 5)
        if kind == 5: return [value(d + 1) for _ in range(rng.randrange(4))]
        if kind == 6: return {k: value(d + 1) for k in rng.sample('abcde', rng.randrange(4))}
        return [rng.randint(-10**6, 10**6), round(rng.uniform(-9, 9), 3), rng.random() < .5, None, rng.choice(['', 'x,y:{z}', 'two\nlines', '"q"', "it's", 'ünï 🙂', 'a:b, c:1}', '<p>'])][kind]
    return {k: value() for k in rng.sample('klmno', rng.randrange(4))}


def test_calls_survive_the_round_trip():
    rng = random.Random(1)
    for _ in range(1000):
        args = drawn_arguments(rng)
        text = chat.render([{'role': 'user', 'content': 'x'}, {'role': 'assistant', 'tool_calls': [{'function': {'name': 'f', 'arguments': args}}]}])
        out = chat.parse(text.split('<|turn>model\n')[1])
        call, = out['tool_calls']
        assert (call['name'], call['arguments'], out['repairs']) == ('f', args, [])


def events(text, cuts=(), tools=None, thinking=False, ended=False):
    p, out, last = reply.Parser(tools, thinking), [], 0
    for c in [*cuts, len(text)]: out += p.feed(text[last:c]); last = c
    return out + p.close(ended), p.repairs


def check(text, rng, tools=None, thinking=False, ended=False):
    "Nothing lost, nothing but known repairs, and the same however it is divided."
    whole, repairs = events(text, (), tools, thinking, ended)
    assert ''.join(e.text for e in whole) == text, text
    assert {e.kind for e in whole} <= {'thinking', 'content', 'call', 'control', 'after'} and set(repairs) <= set(reply.REPAIRS)
    n = len(text)
    for cuts in (range(1, n), sorted(rng.randrange(n + 1) for _ in range(4))):
        parts, again = events(text, cuts, tools, thinking, ended)
        assert (reply.joined(parts), again) == (reply.joined(whole), repairs), (text, list(cuts))
    for e in whole:
        if e.call: assert e.call['arguments'] is None or isinstance(e.call['arguments'], dict) and not e.call['error']


@pytest.mark.parametrize('case', MALFORMED, ids=lambda c: f"{c['source']} {c['what']}"[:80])
def test_malformed(case):
    "What trackers report, and variants: thought, answer and calls as meant, each repair named."
    args = dict(tools=case.get('tools'), thinking=case.get('opened', False), ended=case.get('ended', False))
    got = reply.parse(case['text'], **args)
    assert [[c['name'], c['arguments']] for c in got['tool_calls']] == case['calls']
    assert (got['content'], got['thinking'], got['repairs']) == (case['content'], case['thinking'], case['repairs'])
    check(case['text'], random.Random(1), **args)


def test_the_collection():
    assert len(MALFORMED) >= 100 and sum(c['kind'] == 'reported' for c in MALFORMED) >= 100
    assert all(c['kind'] in ('reported', 'derived') and '/' in c['source'] for c in MALFORMED)
    assert len({c['text'] for c in MALFORMED}) > len(MALFORMED) - 5
    never = {'stray-in-call'}  # reported only together with BEGIN_ARG
    assert {r for c in MALFORMED for r in c['repairs']} == set(reply.REPAIRS) - never


BITS = ['<|channel>', '<channel|>', 'thought\n', 'thought', '<|tool_call>', 'call:f{', 'call:', 'call:run(', 'a:', 'b=', QUOTE, '}', '{', '[', ']', '(', ')', '1', ',', '<tool_call|>', '<turn|>',
        '<|turn>', 'model\n', 'user\n', ' word ', '\n', '🙂', '"', "'", '`', '\\', '<', '|>', '<|', '<eos>', '<|tool_response>', '<tool_response|>', '<|image|>', 'true', 'None', 'x, y: z', '"""',
        '<tool_call:', '{"name":"f","arguments":{', 'BEGIN_ARG:\n', 'END_ARG', '<|"', 'run{', '__import__("os")']
TOOLS = [{'function': {'name': 'run', 'parameters': {'properties': {'a': {}, 'b': {}}}}}, {'function': {'name': 'f', 'parameters': {'properties': {'a': {}}}}}]


def mutated(rng):
    "A malformed output with something taken out, doubled, moved or put in; or a heap of pieces."
    if rng.random() < .3: return ''.join(rng.choice(BITS) for _ in range(rng.randrange(1, 30)))
    text = rng.choice(MALFORMED)['text']
    for _ in range(rng.randrange(1, 4)):
        i, j = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        j = min(j, i + 12)
        text = rng.choice([text[:i] + text[j:], text[:j] + text[i:], text[:i] + rng.choice(BITS) + text[i:], text[j:] + text[:i], text[:i], text + rng.choice(MALFORMED)['text'][:80]])
    return text


def test_fuzzed():
    "As many as fit into a few seconds; `benchmarks/bench_parser.py` does 10,000."
    rng, end, n = random.Random(5), time.monotonic() + 6, 0
    while time.monotonic() < end or n < 300:
        check(mutated(rng), rng, rng.choice([None, TOOLS]), rng.random() < .1, rng.random() < .3)
        n += 1


def test_parse_never_raises():
    rng = random.Random(2)
    for _ in range(2000):
        out = chat.parse(mutated(rng))
        assert set(out) == {'thinking', 'content', 'tool_calls', 'repairs'}
    assert chat.parse('<|tool_call>call:f{a:__import__("os").getcwd()}<tool_call|>')['tool_calls'][0]['arguments'] == {'a': '__import__("os").getcwd()'}
    assert chat.parse('<|tool_call>call:f{a:' + '['*10**5)['tool_calls'][0]['arguments'] is None


@pytest.mark.parametrize('text', ['<'*200_000, '<|tool_call>'*20_000, '<|channel>'*20_000, '<|tool_call>call:f{a:' + "'x,"*60_000, '<|tool_call>call:f{a:<|"|>' + '<tool_call|>'*20_000,
    '<|tool_call>call:f{a:<|"|>x<tool_call|>'*5_000, '<|channel>' + '<|tool_call>call:f{'*10_000, '{'*200_000, '<|tool_call>call:f' + '{'*200_000, '<|tool_call>call:f{' + 'a'*200_000,
    '<|tool_call>call:f{' + 'a:b c,d:'*20_000, '<|tool_call>call:f{a:<|"|>' + '<|"|>x'*30_000, 'call:'*40_000, '<|tool_call>' + ' '*200_000, '<|tool_call>call:f{a:"' + '\\'*200_000,
    '\n'*200_000, '`<|turn>`'*20_000, '<|turn>model\n'*15_000], ids=lambda t: t[:24])
def test_hostile_text_is_read_in_linear_time(text):
    "A quadratic reader would need minutes for these; the limit is generous for busy machines."
    start = time.process_time()
    for piece in (len(text), 7):
        p, out = reply.Parser(TOOLS), []
        for i in range(0, len(text), piece): out += p.feed(text[i:i + piece])
        assert ''.join(e.text for e in out + p.close()) == text
    assert time.process_time() - start < 60


def test_a_truncated_call_is_no_call():
    "However a call is cut off, half of it is never handed out as if it were whole."
    text = '<|tool_call>call:rm{force:true,path:<|"|>/home/jo/tmp<|"|>,tags:[<|"|>a<|"|>,{k:1}]}'
    whole = chat.parse(text)['tool_calls'][0]['arguments']
    for n in range(len('<|tool_call>call:r'), len(text)):
        for c in chat.parse(text[:n])['tool_calls']: assert c['arguments'] in (None, {}) or c['arguments'] == whole, text[:n]
    assert chat.parse(text)['repairs'] == ['call-end'] and whole['path'] == '/home/jo/tmp'


def test_two_parsers_know_nothing_of_each_other():
    a, b = reply.Parser(), reply.Parser()
    a.feed('<|channel>thought\nx'), b.feed('y')
    assert [e.kind for e in b.close()] == [] and reply.joined(a.close())[-1:] == []
    assert b.feed('z')[0].kind == 'content'

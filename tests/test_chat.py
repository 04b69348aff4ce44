"""The chat format: our template gives upstream's text, and any reply comes apart without an exception."""
import json, random
from pathlib import Path
import pytest
from edgewb import chat

CASES = json.loads((Path(__file__).parent/'chat_upstream.json').read_text(encoding='utf-8'))

def test_upstream_text():
    "400 drawn conversations with the text that upstream's template gave for them (recorded from llama.cpp's google-gemma-4-31B-it.jinja)."
    assert len(CASES) == 400
    seen = ''.join(c['text'] for c in CASES)
    for mark in ('<|think|>', '<|tool>', '<|tool_call>', '<tool_response|>', '<|channel>thought\nbecause', '<|image|>', '<|audio|>', '<|video|>',
                 'items:{', 'nullable:true', 'enum:[', '<|turn>system'):
        assert mark in seen, f'the recording has no {mark}'
    for c in CASES:
        got = chat.render(c['messages'], tools=c['tools'], thinking=c['thinking'], add_generation_prompt=c['add_generation_prompt'])
        assert got == c['text'], json.dumps(c['messages'])

def test_against_the_template_itself():
    "The same, live, against the template in the llama.cpp tree that builds are made with; fetched where it isn't there yet."
    from edgewb.convert import sdist_tree
    upstream = (sdist_tree()/'models'/'templates'/'google-gemma-4-31B-it.jinja').read_text(encoding='utf-8')
    for c in CASES:
        a = dict(tools=c['tools'], thinking=c['thinking'], add_generation_prompt=c['add_generation_prompt'])
        assert chat.render(c['messages'], **a) == chat.render(c['messages'], template=upstream, **a)

def test_a_foreign_template_is_sandboxed():
    from jinja2.exceptions import SecurityError, TemplateError
    with pytest.raises(SecurityError):
        chat.render([], template='{{ messages.__class__.__mro__[1].__subclasses__() }}')
    with pytest.raises(SecurityError):
        chat.render([1], template='{{ messages.append(1) }}')
    with pytest.raises(TemplateError, match='no tools here'):
        chat.render([], template="{{ raise_exception('no tools here') }}")

def test_calls_survive_the_round_trip():
    rng = random.Random(1)
    def value(d=0):
        kind = rng.randrange(7 if d < 3 else 5)
        if kind == 5: return [value(d + 1) for _ in range(rng.randrange(4))]
        if kind == 6: return {k: value(d + 1) for k in rng.sample('abcde', rng.randrange(4))}
        return [rng.randint(-10**6, 10**6), round(rng.uniform(-9, 9), 3), rng.random() < .5, None, rng.choice(['', 'x,y:{z}', 'two\nlines', '"q"', 'ünï 🙂'])][kind]
    for _ in range(500):
        args = {k: value() for k in rng.sample('klmno', rng.randrange(4))}
        text = chat.render([{'role': 'user', 'content': 'x'}, {'role': 'assistant', 'tool_calls': [{'function': {'name': 'f', 'arguments': args}}]}])
        call, = chat.parse(text.split('<|turn>model\n')[1])['tool_calls']
        assert (call['name'], call['arguments']) == ('f', args)

def test_parse_never_raises():
    rng = random.Random(2)
    bits = ['<|channel>', '<channel|>', 'thought\n', '<|tool_call>', 'call:f{', 'a:', '<|"|>', '}', '[', '1', ',', '<tool_call|>', '<turn|>', '<|turn>', ' word ', '\n', '🙂', '__import__("os")']
    for _ in range(5000):
        out = chat.parse(''.join(rng.choice(bits) for _ in range(rng.randrange(16))))
        assert set(out) == {'thinking', 'content', 'tool_calls'}
        assert not any(m in out['content'] for m in ('<|channel>', '<channel|>', '<turn|>', '<|tool_call>'))
        for c in out['tool_calls']: assert c['arguments'] is None or isinstance(c['arguments'], dict)
    assert chat.parse('<|tool_call>call:f{a:__import__("os").getcwd()}<tool_call|>')['tool_calls'][0]['arguments'] == {'a': '__import__("os").getcwd()'}
    assert chat.parse('<|tool_call>call:f{a:' + '[' * 10**5)['tool_calls'][0]['arguments'] is None

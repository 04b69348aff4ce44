"Tools: what a function tells the model, what a call must be before anything runs, and the loop around them."
import enum, random
from dataclasses import dataclass
from typing import Literal, Optional, TypedDict
import pytest
from edgewb import chat
from edgewb.core import BadCall
from edgewb.reply import parse
from edgewb.tools import Tool, call, check_arguments, converse, declare, tool, turn


class Unit(enum.Enum):
    C = 'celsius'
    K = 'kelvin'

@dataclass
class Place:
    "Where."
    name: str         # as on a map
    height: float = 0 # metres

class Window(TypedDict, total=False):
    """A span of hours.

    Attributes:
        start: first hour
        stop: last hour
    """
    start: int
    stop: int

def forecast(
    place: Place,             # where
    unit: Unit = Unit.C,      # of temperatures
    windows: list[Window] = (), # when
    days: Optional[int] = None,
) -> str:
    "Weather of the next days."
    return f'{place.name} {place.height} {unit.name} {len(windows)} {days}'


def test_declaration():
    f = declare(forecast)['function']
    assert (f['name'], f['description'], f['parameters']['required']) == ('forecast', 'Weather of the next days.', ['place'])
    assert f['parameters']['properties'] == {
        'place': {'type': 'object', 'properties': {'name': {'type': 'string', 'description': 'as on a map'}, 'height': {'type': 'number', 'description': 'metres'}}, 'required': ['name'], 'description': 'where'},
        'unit': {'type': 'string', 'enum': ['celsius', 'kelvin'], 'description': 'of temperatures'},
        'windows': {'type': 'array', 'items': {'type': 'object', 'properties': {'start': {'type': 'integer', 'description': 'first hour'}, 'stop': {'type': 'integer', 'description': 'last hour'}}}, 'description': 'when'},
        'days': {'type': 'integer', 'nullable': True}}


def test_every_declaration_renders():
    "What is declared reaches the model: each name, each description, and nothing breaks the fence."
    text = chat.render('x', tools=[forecast])
    for word in ('as on a map', 'metres', 'first hour', 'celsius', 'windows', 'days', 'nullable:true'): assert word in text
    assert text.count('<|tool>') == text.count('<tool|>') == 1


def test_same_as_transformers_where_both_can():
    "Google docstrings with plain types: transformers' own `get_json_schema` says the same."
    from transformers.utils import get_json_schema
    def a(x: int, y: Optional[str] = None, z: Literal['p', 'q'] = 'p', w: list[float] = ()):
        """
        Does a thing.

        Args:
            x: first
            y: second,
                in two lines
            z: third
            w: fourth
        """
    ours, theirs = declare(a)['function'], get_json_schema(a)['function']
    assert ours == {k: theirs[k] for k in ('name', 'description', 'parameters')}


def test_what_a_declaration_refuses():
    class Odd: pass
    def unhinted(x): pass
    def starred(*xs: int): pass
    def odd(x: Odd): pass
    def several(x: str|int): pass
    def hidden(required: bool): pass
    for f, why in ((unhinted, 'no type'), (starred, 'no name'), (odd, 'Odd'), (several, 'str or int'), (hidden, "called 'required'"), ('text', 'no function')):
        with pytest.raises(BadCall, match=why): declare(f)


def test_methods_and_decorators():
    class Room:
        light = False
        def switch(self, on: bool): "Switch the light."; self.light = on
    room = Room()
    assert list(declare(room.switch)['function']['parameters']['properties']) == ['on']
    call(dict(name='switch', arguments={'on': True}), [room.switch])
    assert room.light
    @tool
    def double(x: int): "Twice."; return 2*x
    assert isinstance(double, Tool) and double(4) == 8 and tool(double) is double and call(dict(name='double', arguments={'x': 3}), [double])[0].value == 6


def test_arguments_become_what_the_hints_say():
    said = parse('<|tool_call>call:forecast{place:{name:<|"|>Elmton<|"|>,height:3},unit:<|"|>kelvin<|"|>,windows:[{start:1},{}],days:null}<tool_call|>', [forecast])
    r, = call(said['tool_calls'], [forecast])
    assert r.value == 'Elmton 3 K 2 None' and said['repairs'] == []


@pytest.mark.parametrize('arguments, why', [
    ({}, "lacks 'place'"), ({'place': None}, 'should be object'), ({'place': {'name': 1}}, 'name should be string'), ({'place': {'name': 'x', 'depth': 1}}, "'depth'"),
    ({'place': {'name': 'x'}, 'unit': 'C'}, "'celsius', 'kelvin'"), ({'place': {'name': 'x'}, 'windows': {}}, 'should be array'),
    ({'place': {'name': 'x'}, 'windows': [{'start': 1.5}]}, r'\[0\]: start should be integer'), ({'place': {'name': 'x'}, 'days': True}, 'should be integer'),
    ({'place': {'name': 'x'}, '__class__': 1}, "'__class__'"), ({'place': {'name': 'x'}, 'self': 1}, "'self'")])
def test_wrong_arguments_never_reach_the_function(arguments, why):
    ran = []
    def forecast_(place: Place, unit: Unit = Unit.C, windows: list[Window] = (), days: Optional[int] = None): ran.append(1)
    with pytest.raises(BadCall, match=why): call(dict(name='forecast_', arguments=arguments), [forecast_])
    assert not ran


def test_nothing_is_evaluated():
    "Names that would be dangerous are only names."
    def note(text: str): return text
    evil = '__import__("os").system("touch /tmp/never")'
    said = parse(f'<|tool_call>call:note{{text:{evil}}}<tool_call|><|tool_call>call:__import__{{name:<|"|>os<|"|>}}<tool_call|><|tool_call>call:os.system{{x:1}}<tool_call|>')
    assert call(said['tool_calls'][0], [note])[0].value == evil
    for c in said['tool_calls'][1:]:
        with pytest.raises(BadCall, match='no tool'): call(c, [note])


def test_a_cut_off_call_is_refused():
    def rm(path: str): raise AssertionError('ran')
    said = parse('<|tool_call>call:rm{path:<|"|>/home/jo')
    with pytest.raises(BadCall, match='the reply ended inside the call'): call(said['tool_calls'], [rm])


def test_drawn_arguments_are_checked_without_an_exception():
    rng, schema = random.Random(3), declare(forecast)['function']['parameters']
    def value(d=0): return rng.choice([None, 1, 1.5, 2.0, True, 'x', 'celsius', [], {}, [1], *([{rng.choice(['name', 'start', 'x']): value(d + 1)}, [value(d + 1)]] if d < 3 else [])])
    kept = 0
    for _ in range(3000):
        given = {k: value() for k in rng.sample(['place', 'unit', 'windows', 'days', 'other'], rng.randrange(5))}
        try: checked = check_arguments(given, schema)
        except BadCall: continue
        kept += 1
        assert set(checked) <= set(schema['properties']) and 'place' in checked
    assert kept


class Scripted:
    "A session that says what it is told to."
    def __init__(self, *replies): self.replies, self.prompts = list(replies), []
    def pieces(self, ids): return [b'']
    def generate(self, messages, **kw):
        from edgewb.session import Reply, Target, Token
        self.prompts.append(chat.render(messages, tools=kw['tools'], thinking=kw['thinking']))
        return Reply(Target(), [1], [Token(0, 5, self.replies.pop(0), 0.)], 'stop')


def test_the_loop():
    def add(a: int, b: int): return a + b
    s = Scripted('<|channel>thought\nAdd.\n<channel|><|tool_call>call:add{a:1,b:2}<tool_call|><|tool_call>call:add{a:1,b:<|"|>x<|"|>}<tool_call|>', 'Three.')
    talk = converse(s, 'Sum?', [add], thinking=True)
    assert [m['role'] for m in talk] == ['user', 'assistant', 'tool', 'tool', 'assistant']
    assert talk[2]['content'] == 3 and 'should be integer' in talk[3]['content']['error'] and talk[4]['content'] == 'Three.'
    assert '<|channel>thought\nAdd.\n<channel|><|tool_call>call:add{a:1,b:2}<tool_call|>' in s.prompts[1]
    assert 'response:add{value:3}' in s.prompts[1] and s.prompts[1].count('<|turn>model') == 1
    assert converse(Scripted('<|tool_call>call:add{a:1,b:2}<tool_call|>', '?'), 'x', [add], rounds=1)[-1]['role'] == 'tool'


def test_a_repeating_model_ends_with_the_rounds():
    def look(): return 'nothing'
    s = Scripted(*['<|tool_call>call:look{}<tool_call|>']*9)
    assert len([m for m in converse(s, 'x', [look], rounds=3) if m['role'] == 'assistant']) == 3


def test_turn_goes_back_into_the_template():
    said = parse('<|channel>thought\nHm.\n<channel|>I ask.<|tool_call>call:f{a:{b:[1,null]}}<tool_call|>')
    messages = [{'role': 'user', 'content': 'x'}, *turn(said)]
    again = parse(chat.render(messages, thinking=True).split('<|turn>model\n')[1])
    assert [(c['name'], c['arguments']) for c in again['tool_calls']] == [('f', {'a': {'b': [1, None]}})] and again['thinking'] == 'Hm.'

"""One text, the same token ids in transformers and in llama.cpp: 1,000 drawn strings full of what breaks tokenizers."""
import json, random
from pathlib import Path
import pytest
from edgewb import weights
from edgewb.nano import tasks

NANO = weights.resolve('nano')
SPECIAL = ['<pad>', '<eos>', '<bos>', '<unk>', '<mask>', '<|turn>', '<turn|>', '<|think|>', '<|channel>', '<channel|>', '<|tool>', '<tool|>', '<|tool_call>',
           '<tool_call|>', '<|tool_response>', '<tool_response|>', '<|"|>', '<|image>', '<|image|>', '<image|>', '<|audio>', '<|audio|>', '<audio|>', '<|video|>']
PLANES = [(32, 126), (0xa0, 0x24f), (0x300, 0x36f), (0x370, 0x5ff), (0x900, 0xd7ff), (0xe000, 0xfffd), (0x10000, 0x1ffff), (0x20000, 0x3134f), (0xe0000, 0xe01ef), (0x100000, 0x10fffd)]
PIECES = [
    lambda r: ''.join(chr(r.randint(*r.choice(PLANES))) for _ in range(r.randint(1, 8))),
    lambda r: '\n' * r.randint(1, 9),
    lambda r: ' ' * r.randint(1, 40),
    lambda r: r.choice(['👩‍👩‍👧‍👦', '🏳️‍🌈', '👍🏽', 'e\u0301', '\u0308', '\u0301\u0301', '〰️', '🇩🇪', '👨🏿‍🚀']) * r.randint(1, 3),
    lambda r: r.choice(SPECIAL),
    lambda r: '\n'.join(CODE[(i := r.randrange(len(CODE))):i + r.randint(1, 4)]),
    lambda r: r.choice(['<|turn', 'turn|>', '<0x0A>', '<0xFF>', '<|', '|>', '<||>', '<|"|', '<|turn >', '</s>', '<s>', '[INST]', '\ufffd', '\ufffe', '\u200d', '\ufeff']),
    lambda r: '\u2581' * r.randint(1, 4),
    lambda r: r.choice(['\t', '\r', '\r\n', '\x0b', '\x0c', '\x1b', '\x7f', '\x85', '\u2028', '\u3000', '\xa0', '\x01']) * r.randint(1, 4),
    lambda r: str(r.randint(0, 10 ** r.randint(1, 15))),
    lambda r: ''.join(r.choice('ab \u2581\n') for _ in range(r.randint(1, 20))),
    lambda r: ''.join(r.choice("bdfklmnrtzaeiouBDFK '") for _ in range(r.randint(1, 20))),
    lambda r: r.choice(['مرحبا', 'こんにちは', 'नमस्ते', 'Здравствуй', 'ﬁ', 'ß', 'İ', '한국어']),
    lambda r: tasks.prompt(tasks.draw(r.choice(list(tasks.FAMILIES)), r)),
]
CODE = [line for f in sorted(Path(random.__file__).parent.glob('*.py'))[:20] for line in f.read_text(encoding='utf-8', errors='replace').split('\n')]

def strings(n, seed=5):
    out = []
    for i in range(n):
        r = random.Random(f'{seed} {i}')
        out.append(''.join(r.choice(PIECES)(r) for _ in range(r.randint(1, 8))))
    return out

@pytest.fixture(scope='module')
def tok():
    from transformers import AutoTokenizer
    return AutoTokenizer.from_pretrained(NANO)

@pytest.fixture(scope='module')
def llama():
    from edgewb.session import load
    with load('nano', 'llama.cpp', 'F16', threads=1) as s: yield s

def test_same_ids_in_transformers_and_llama_cpp(tok, llama):
    texts = strings(1000)
    everything = ''.join(texts)
    for mark in ['\n\n\n', '    ', '\u200d', '\u2581', '\r', '\t', '\u0308'] + SPECIAL: assert mark in everything
    for s in texts:
        assert llama.tokenize(s) == tok(s, add_special_tokens=False).input_ids, repr(s)

def test_same_text_back(tok, llama):
    "Decoding the ids gives the text again in both, up to what the normalizer merges: a lower block U+2581 reads back as a space."
    for s in strings(300, seed=6):
        ids = llama.tokenize(s)
        want = s.replace('\u2581', ' ')
        assert b''.join(llama.pieces(ids)).decode('utf-8') == want
        assert tok.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) == want

def test_the_vocabulary_is_of_gemmas_kind(tok):
    t = json.loads((NANO/'tokenizer.json').read_text(encoding='utf-8'))
    vocab = t['model']['vocab']
    assert len(vocab) == 1024 and sorted(vocab.values()) == list(range(1024))
    assert t['model']['type'] == 'BPE' and t['model']['byte_fallback'] and t['pre_tokenizer'] is None
    assert t['normalizer'] == {'type': 'Replace', 'pattern': {'String': ' '}, 'content': '\u2581'}
    assert [vocab[f'<0x{b:02X}>'] for b in range(256)] == list(range(vocab['<0x00>'], vocab['<0x00>'] + 256))
    assert {a['content'] for a in t['added_tokens'] if a['special']} == set(SPECIAL)
    assert tok.convert_tokens_to_ids(SPECIAL) == list(range(len(SPECIAL)))
    assert '\n' in vocab and not any('\n' in v and v != '\n' for v in vocab)
    assert not any(c.isdigit() for v in vocab if len(v) > 1 and not v.startswith('<0x') for c in v), 'digits are single'
    for i in range(3): assert tok(str(10 ** 12 + i), add_special_tokens=False).input_ids == [vocab[c] for c in str(10 ** 12 + i)]

def test_words_of_the_world_are_short(tok):
    "A name is its three syllables, so that what is stored about people does not hang on the luck of a merge."
    lengths = [len(tok(' ' + p.name, add_special_tokens=False).input_ids) for p in tasks.world()]
    assert max(lengths) == 3 and lengths.count(3) > .97 * len(lengths) # Nobody shares a beginning with Nobofe

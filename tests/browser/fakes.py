"""A session with the real one's methods and no model behind it: tokens at a set rate, the same every time.

It is the load generator of `benchmarks/bench_widget.py` and lets the widget's tests ask for what real engines seldom
do: a departure at a chosen token, an engine that dies, hostile text, 200 tokens a second in every lane.
"""
import threading, time
from dataclasses import dataclass, field

WORDS = ' the river keeps its own slow time and every stone in it knows a name\n'.split(' ')


@dataclass(frozen=True)
class FakeTarget:
    engine: str = 'fake'
    format: str = 'F32'

    def __str__(self): return f'{self.engine}:{self.format}'


@dataclass
class FakeToken:
    i: int
    id: int
    text: str
    t: float
    p: float | None
    top: list


@dataclass
class FakeReply:
    tokens: list = field(default_factory=list)
    finish: str = 'length'
    ttft: float | None = None
    decode_tps: float | None = None
    text = property(lambda self: ''.join(t.text for t in self.tokens))


class FakeStream:
    def __init__(self, session, n, top):
        self.session, self.n, self.top, self.reply, self._stop = session, n, top, None, threading.Event()

    def stop(self): self._stop.set()

    def __iter__(self):
        s, reply, t0 = self.session, FakeReply(), time.perf_counter()
        for i in range(self.n):
            due = t0 + s.ttft + i / s.rate
            if self._stop.wait(max(0, due - time.perf_counter())):
                reply.finish = 'stopped'
                break
            if i == s.dies_at: raise s.death
            tok = s.token(i, time.perf_counter() - t0, self.top)
            s.produced.append((time.time(), tok.text))  # before it is handed over: the last one is the engine's last
            reply.tokens.append(tok)
            yield tok
        toks = reply.tokens
        if toks: reply.ttft = toks[0].t
        if len(toks) > 1: reply.decode_tps = (len(toks) - 1) / (toks[-1].t - toks[0].t)
        self.reply = reply


class FakeSession:
    """`rate` tokens a second after `ttft` seconds; from token `departs` on it writes other words; at `dies_at` it raises
    `death`; `texts` replaces the words; `ids` replaces the prompt's ids."""

    def __init__(self, engine='fake', format='F32', rate=200, ttft=.05, departs=None, dies_at=None, death=None, texts=None, ids=(2, 5, 7)):
        self.target = FakeTarget(engine, format)
        self.rate, self.ttft, self.departs, self.dies_at, self.texts, self.ids = rate, ttft, departs, dies_at, texts, ids
        self.death = death or RuntimeError('the engine ended')
        self.produced, self.closed = [], False

    def chat_ids(self, prompt, **how): return list(self.ids)

    def token(self, i, t, top):
        def word(k): return (self.texts or WORDS)[k % len(self.texts or WORDS)] + ('' if self.texts else ' ')
        # `strange` words are numbered: a lost or swapped token cannot go unseen
        text = word(i) if self.departs is None or i < self.departs else f'{word(i).strip()}{i} '
        id = 100 + i % 13 if self.departs is None or i < self.departs else 500 + i % 13
        p = .9 - .8 * ((i * 37 % 100) / 100)
        rest = [(200 + k, word(i + k), (1 - p) / 2 ** k) for k in range(1, top)]
        return FakeToken(i, id, text, t, p if top else None, [(id, text, p), *rest] if top else [])

    def stream(self, prompt, max_tokens=128, top=0, **how): return FakeStream(self, max_tokens, top)

    def close(self): self.closed = True

"Divergences, intervals, noise and departures on cases whose answer is known."
import math

import numpy as np
import pytest

from edgewb.quality import (NoiseFloor, Quality, compare_logits, verdict, interval, kld, log_softmax, margins, noise_floor, parity,
                            quality_table, table_gelu)

rng = np.random.default_rng(0)
A, B = rng.normal(size=(2, 40, 300)).astype(np.float32)*4


# Divergence

def test_never_negative_and_zero_on_itself():
    assert (kld(A, B) > 0).all() and (kld(A, A) == 0).all()
    tiny = kld(A, A*np.float32(1 + 1e-7))
    assert (tiny >= 0).all() and tiny.max() < 1e-10

@pytest.mark.parametrize('p, q', [((.75, .25), (.5, .5)), ((.9, .1), (.1, .9)), ((1/3,)*3, (.5, .25, .25))])
def test_known_values(p, q):
    want = sum(a*math.log(a/b) for a, b in zip(p, q))
    assert kld(np.log([p]), np.log([q]))[0] == pytest.approx(want, rel=1e-12)

def test_a_shift_of_all_logits_changes_nothing():
    assert kld(A, B) == pytest.approx(kld(A + 7, B - 3), rel=1e-4)  # float32 sums round; the divergence itself is exact to it
    assert kld(A.astype(float) + 7, B.astype(float) - 3) == pytest.approx(kld(A, B), rel=1e-11)

def test_as_torch_computes_it():
    import torch
    t = lambda x: torch.log_softmax(torch.tensor(x, dtype=torch.float64), -1)
    want = torch.nn.functional.kl_div(t(B), t(A), log_target=True, reduction='none').sum(-1)
    assert kld(A, B) == pytest.approx(want.numpy(), rel=1e-10)

def test_small_divergences_survive():
    "Second order: D(p || p + d) is about half the variance of the change of the logits under p."
    d = rng.normal(size=A.shape)*1e-5
    p = np.exp(log_softmax(A))
    var = (p*d**2).sum(-1) - (p*d).sum(-1)**2
    assert kld(A.astype(float), A + d) == pytest.approx(var/2, rel=1e-3)

def test_extremes():
    huge = np.array([[1e4, 0., -1e4]], np.float32)
    assert kld(huge, huge)[0] == 0 and np.isfinite(kld(huge, huge[:, ::-1])).all()
    never = np.array([[0., 0., -np.inf]])
    assert kld(never, np.zeros((1, 3)))[0] == pytest.approx(math.log(1.5))
    assert kld(np.zeros((1, 3)), never)[0] == np.inf

def test_log_softmax_sums_to_one():
    assert np.exp(log_softmax(A)).sum(-1) == pytest.approx(np.ones(40), rel=1e-13)


# Figures

def test_figures_of_a_small_case():
    ref, test = np.log([[.5, .3, .2], [.1, .8, .1]]), np.log([[.2, .6, .2], [.1, .7, .2]])
    q = compare_logits(ref, test, [1, 1])
    assert q.same.tolist() == [False, True] and q.same_top == .5
    assert q.dp == pytest.approx([.3, -.1]) and q.rms_dp == pytest.approx(math.sqrt((.09 + .01)/2))
    assert q.ppl_ref == pytest.approx(1/math.sqrt(.3*.8)) and q.ppl_test == pytest.approx(1/math.sqrt(.6*.7))
    assert q.mean == pytest.approx(kld(ref, test).mean()) and q.max == kld(ref, test).max()

def test_pieces_do_not_matter():
    wide = rng.normal(size=(2, 7, 1_000_000)).astype(np.float32)  # more than one piece
    q = compare_logits(*wide)
    assert len(q) == 7 and q.kld == pytest.approx(kld(*wide))

def test_where_the_following_token_is_not_known():
    q = compare_logits(A, B, [3]*39)
    assert np.isnan(q.dp[-1]) and np.isfinite(q.dp[:-1]).all() and math.isfinite(q.ppl_ref)
    bare = compare_logits(A, B)
    assert math.isnan(bare.ppl_ref) and 'perplexity' not in repr(bare) and '–' in bare._repr_html_()

def test_bad_logits():
    with pytest.raises(ValueError, match='NaN, first at row 2'): compare_logits(A, np.where(np.arange(40)[:, None] == 2, np.nan, B))
    with pytest.raises(ValueError, match='shape'): compare_logits(A, B[:, 1:])

def test_tables_escape_names():
    q = compare_logits(A, B, name='<b>x</b>')
    assert '&lt;b&gt;' in q._repr_html_() and '<b>' not in quality_table([q], '<b>') and '<caption>' in q._repr_html_()

def test_frame():
    f = compare_logits(A, B, [3]*40).frame()
    assert list(f) == ['kld', 'same', 'diff', 'dp', 'nll_ref', 'nll_test'] and len(f) == 40


# Intervals

def test_interval_covers():
    "Of 200 samples of independent draws, about 95% of the intervals hold the true mean."
    hit = sum(lo <= 1 <= hi for lo, hi in (interval(rng.exponential(size=640), draws=300, seed=i) for i in range(200)))
    assert 175 <= hit <= 199

def test_blocks_widen_what_is_not_independent():
    x = np.repeat(rng.exponential(size=64), 16)
    narrow, wide = ((lambda i: i[1] - i[0])(interval(x, block=b)) for b in (1, 16))
    assert wide > 2.5*narrow

def test_too_few_tokens_have_no_interval():
    assert all(math.isnan(v) for v in interval(np.ones(20)))


# Two targets

class Scripted:
    "Gives prepared logits for positions; an optional disturbance depends on the size of the step."
    def __init__(self, rows, wobble=0.): self.rows, self.wobble, self.pos, self.steps = rows, wobble, 0, []
    def trim(self, n): self.pos = n
    def close(self): self.closed = True
    def pieces(self, ids): return [f'<{i}>'.encode() for i in ids]
    def eval(self, tokens, all=False):
        n = len(tokens)
        self.steps.append(n)
        y = self.rows[self.pos:self.pos+n] + self.wobble*n
        y[:, 0] += self.wobble*n
        self.pos += n
        return y if all else y[-1]

def test_parity_runs_both_ways():
    a, b = Scripted(A), Scripted(B)
    p = parity(a, b, range(40), prefill=25, block=10, name='b')
    assert a.steps == b.steps == [10, 10, 5] + [1]*15
    assert (len(p.prefill), len(p.decode)) == (25, 15) and p.prefill.name == 'b prefill'
    assert p.mean == pytest.approx(kld(A, B).mean()) and p.max_diff == pytest.approx(np.abs(A - B).max())
    assert math.isfinite(p.prefill.ppl_ref) and np.isnan(p.decode.dp[-1])

@pytest.mark.parametrize('prefill', [0, 40, 99])
def test_parity_needs_both_parts(prefill):
    with pytest.raises(ValueError, match='leaves nothing'): parity(Scripted(A), Scripted(B), range(40), prefill=prefill)

def test_noise_floor_is_what_other_steps_do():
    opened = []
    def open(threads): opened.append((threads, e := Scripted(A, 1e-3))); return e
    f = noise_floor(open, range(40), blocks=(8, 1, 20), threads=(1, 2, 4))
    assert [v for v, *_ in f.runs] == ['blocks of 1', 'blocks of 20', '2 threads', '4 threads']
    assert all(e.closed for _, e in opened) and [t for t, _ in opened] == [1, 2, 4]
    assert f.diff == pytest.approx(2e-3*12, rel=1e-2) and f.kld > 0 and f.runs[2][1].max == 0

def test_margins():
    assert margins(np.array([[3., 1, 2], [0, 0, -5]])).tolist() == [1, 0]


# Departures

def scripted(*choices, gap=1., size=6):
    "Logits that make the greedy text `choices`, each ahead of the next id by `gap`."
    rows = np.full((len(choices), size), -20., np.float32)
    for r, c in zip(rows, choices): r[c], r[(c + 1) % size] = gap, 0
    return Scripted(rows)

def test_same_text(): assert verdict(scripted(1, 2, 3), scripted(1, 2, 3), [0], 3) is None

def test_a_real_departure():
    v = verdict(scripted(1, 2, 3), scripted(1, 3, 3), [0], 3, floor=.1)
    assert (v.i, v.ref_id, v.test_id, v.ref_text, v.test_text, v.verdict) == (1, 2, 3, '<2>', '<3>', 'real')
    e = math.e/(1 + math.e)
    assert v.p_ref == pytest.approx((e, 1 - e), rel=1e-6) and v.p_test[1] == pytest.approx(e, rel=1e-6)
    assert v.margin == pytest.approx(1) and "'<2>' (73.1%" in repr(v)

def test_a_tie():
    v = verdict(scripted(1, 2, gap=1e-6), scripted(1, 3), [0], 2, floor=1e-5)
    assert v.verdict == 'tie' and v.floor == 1e-5

def test_the_floor_may_be_a_measured_one():
    f = NoiseFloor([('x', compare_logits(A, A), 2.)])
    assert verdict(scripted(1, 2), scripted(1, 3), [0], 2, floor=f).verdict == 'tie'

def test_the_end_of_a_reply_ends_the_search():
    assert verdict(scripted(1, 5, 2), scripted(1, 5, 3), [0], 3, eog=[5]) is None
    assert verdict(scripted(1, 5), scripted(1, 4), [0], 3, eog=[5]).i == 1


# ggml's GELU

def test_table_gelu_is_ggmls():
    import torch
    x = torch.tensor([-11., -10., -9.999, -1., -1e-8, 0., .1, 1., 9.999, 10., 1000.])
    y, exact = table_gelu(x), torch.nn.functional.gelu(x, approximate='tanh')
    assert y[0] == y[1] == 0 and y[-1] == 1000 and y[-2] == 10
    assert torch.equal(y, y.half().float()) and (y - exact).abs().max() < 8e-3 and not torch.equal(y, exact)

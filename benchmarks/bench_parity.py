"""How far is each engine, in each format, from the float32 reference?

What limits the figure. Between two float32 engines only the order of additions differs, and the divergence should sink to the reference's own noise,
around 1e-13 nats: OpenVINO does. llama.cpp in float32 doesn't, because ggml looks GELU up in a table of half-precision numbers; the same table in torch
makes most of the gap go away, and that row is printed too. Below 32 bits the weights' rounding takes over, and below 16 bits nothing else can be seen.
OpenVINO also rounds activations to 8 bits where weights are integers; a row shows what is left when that is off.

How. The same ids everywhere: running text, longer than four of nano's sliding windows. Three quarters go in as a prefill in blocks, the rest one by one,
and each position's whole distribution is held against the reference's. The noise floor is the reference against itself in other block sizes and with
another number of threads. Then each engine's greedy replies: the first token that differs, and whether the reference's margin there is above its noise.

Bars: OpenVINO f32, largest logit difference 1e-3. llama.cpp F32 with a float32 cache and without flash attention, mean KLD 1e-5; F16, 5e-4. Greedy text of
the float32 builds equal, or parted at a tie. Prints tables for people and, as its last line, one JSON object.
"""
import inspect, json, textwrap

from edgewb.engine_torch import Engine as Torch
from edgewb.quality import Parity, verdict, interval, noise_floor, parity, with_table_gelu
from edgewb.session import Session, load
from edgewb.weights import resolve

EXACT = 'llama.cpp:F32,cache_type=f32,flash_attn=off'
TARGETS = ['torch:bf16', 'openvino:f32', 'openvino:f16', 'openvino:int8', 'openvino:int8,dynamic_quant=0', 'openvino:int4',
           EXACT, 'llama.cpp:F32', 'llama.cpp:F16', 'llama.cpp:Q8_0', 'llama.cpp:Q4_K_M']
GREEDY = ['openvino:f32', EXACT]
PROMPTS = ['What is 17 plus 25?', 'Sort these numbers: 9, 2, 14, 7.', 'Reverse the word lantern.', 'Tell me of rivers.']


def row(name: str, p: Parity) -> dict:
    lo, hi = interval(p.prefill.kld)
    print(f'{name:46} {p.prefill.mean:9.1e} [{lo:.0e}, {hi:.0e}] {p.decode.mean:9.1e}   {max(p.prefill.max, p.decode.max):8.1e}  {p.prefill.same_top:7.1%}  {p.max_diff:8.1e}', flush=True)
    return dict(prefill_kld=p.prefill.mean, prefill_interval=[lo, hi], decode_kld=p.decode.mean, max_kld=max(p.prefill.max, p.decode.max),
                same_top=p.prefill.same_top, max_logit_difference=p.max_diff)


def main():
    ref = load('nano', 'torch', 'f32', threads=1)
    ids = ref.tokenize('<bos>' + inspect.getsource(textwrap))[:320]
    floor = noise_floor(lambda t: load('nano', 'torch', 'f32', threads=t), ids)
    print(f'nano against torch f32, {len(ids)} tokens, windows of 64; {floor}\n')
    print(f'{"":46} {"KLD prefill":>9} {"95%":>16} {"decode":>9}   {"largest":>8}  {"same top":>7}  logits')
    rows, parted = {}, {}
    for t in TARGETS:
        with Session(t) as s:
            rows[t] = row(t, parity(ref, s, ids))
            if t in GREEDY: parted[t] = [verdict(ref, s, ref.chat_ids(p), 64, floor, eog=ref._call('eog')) for p in PROMPTS]
            if t == EXACT:
                halved = Torch(resolve('nano'), threads=1)
                with_table_gelu(halved.model)
                rows['table'] = row('  ... against torch with ggml\'s GELU table', parity(halved, s, ids))
                halved.close()
    ref.close()
    print()
    for t, vs in parted.items(): print(f'{t}: {sum(v is None for v in vs)} of {len(vs)} greedy replies equal' + ''.join(f'\n  {v}' for v in vs if v))
    worst = lambda t: max(rows[t]['prefill_kld'], rows[t]['decode_kld'])
    met = (rows['openvino:f32']['max_logit_difference'] <= 1e-3 and worst(EXACT) <= 1e-5 and worst('llama.cpp:F16') <= 5e-4
           and all(v is None or v.verdict == 'tie' for vs in parted.values() for v in vs))
    explained = 1 - worst('table')/worst(EXACT)
    print(f'ggml\'s GELU table explains {explained:.1%} of llama.cpp\'s difference in float32; bars {"met" if met else "NOT met"}')
    print(json.dumps(dict(bench='parity', tokens=len(ids), noise=dict(kld=floor.kld, logits=floor.diff, margin=floor.margin), targets=rows, table_explains=explained,
                          greedy={t: [None if v is None else v.verdict for v in vs] for t, vs in parted.items()}, met=met)))


if __name__ == '__main__': main()

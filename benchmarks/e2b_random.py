"""Gemma 4 E2B at full size, with random weights.

Speed and memory don't depend on what the weights say, only on how many there are, in which types, and where. So a file with E2B's real
shapes, the types that Q4_K_M gives each of its matrices and the real vocabulary of 262,144 words measures like the checkpoint, on a machine
that has never seen it. What it writes is noise.

It is written as GGUF directly, from a pool of random blocks: 3.1 GiB in seconds, with no model in memory.
"""
import os, sys
from pathlib import Path

import numpy as np

from edgewb import gguf
from edgewb.core import cache_dir
from edgewb.convert import sdist_tree

LAYERS, SHARED, EMBD, PLE, HEADS, VOCAB, WINDOW = 35, 20, 1536, 256, 8, 262144, 512
OWN = LAYERS - SHARED  # layers with keys and values of their own
SLIDING = [i % 5 != 4 for i in range(LAYERS)]
FF = [6144 if i < OWN else 12288 for i in range(LAYERS)]


def meta() -> dict:
    "E2B's numbers; the vocabulary comes with llama.cpp's source."
    vocab = gguf.raw_meta(sdist_tree()/'models'/'ggml-vocab-gemma-4.gguf')
    arch = dict(block_count=LAYERS, context_length=131072, embedding_length=EMBD, feed_forward_length=FF, final_logit_softcapping=30.,
                embedding_length_per_layer_input=PLE)
    attention = dict(head_count=HEADS, head_count_kv=1, layer_norm_rms_epsilon=1e-6, key_length=512, value_length=512, key_length_swa=256,
                     value_length_swa=256, sliding_window=WINDOW, shared_kv_layers=SHARED, sliding_window_pattern=SLIDING)
    rope = dict(freq_base=1e6, freq_base_swa=1e4, dimension_count=512, dimension_count_swa=256)
    named = {'general.architecture': 'gemma4', 'general.type': 'model', 'general.name': 'Gemma 4 E2B, random weights', 'general.file_type': 15,
             'general.quantization_version': 2}
    named |= {f'gemma4.{k}': v for k, v in arch.items()} | {f'gemma4.attention.{k}': v for k, v in attention.items()}
    return named | {f'gemma4.rope.{k}': v for k, v in rope.items()} | {k: v for k, v in vocab.items() if k.startswith('tokenizer.')}


def more(i: int, n: int = LAYERS) -> bool:
    "The layers that Q4_K_M gives 6 bits where it matters: the first and last eighth, and every third between."
    return i < n//8 or i >= 7*n//8 or (i - n//8) % 3 == 2


def tensors() -> list[tuple[str, tuple[int, ...], str]]:
    out = [('token_embd.weight', (EMBD, VOCAB), 'Q6_K'), ('per_layer_token_embd.weight', (PLE*LAYERS, VOCAB), 'Q6_K'),
           ('per_layer_model_proj.weight', (EMBD, PLE*LAYERS), 'BF16'), ('per_layer_proj_norm.weight', (PLE,), 'F32'),
           ('output_norm.weight', (EMBD,), 'F32'), ('rope_freqs.weight', (256,), 'F32')]
    for i in range(LAYERS):
        d, high = (256 if SLIDING[i] else 512), 'Q6_K' if more(i) else 'Q4_K'
        one = [('attn_norm', (EMBD,), 'F32'), ('attn_q', (EMBD, HEADS*d), 'Q4_K'), ('attn_output', (HEADS*d, EMBD), 'Q4_K'), ('attn_q_norm', (d,), 'F32'),
               ('post_attention_norm', (EMBD,), 'F32'), ('ffn_norm', (EMBD,), 'F32'), ('ffn_gate', (EMBD, FF[i]), 'Q4_K'), ('ffn_up', (EMBD, FF[i]), 'Q4_K'),
               ('ffn_down', (FF[i], EMBD), high), ('post_ffw_norm', (EMBD,), 'F32'), ('inp_gate', (EMBD, PLE), 'Q4_K'), ('proj', (PLE, EMBD), 'Q4_K'),
               ('post_norm', (EMBD,), 'F32'), ('layer_output_scale', (1,), 'F32')]
        if i < OWN: one += [('attn_k', (EMBD, d), 'Q4_K'), ('attn_v', (EMBD, d), high), ('attn_k_norm', (d,), 'F32')]
        out += [(f'blk.{i}.{name}.weight', shape, kind) for name, shape, kind in one]
    return out


class Noise:
    "Random blocks whose scales give weights of about 0.02: nothing overflows, so nothing takes another path through a kernel."
    def __init__(self, seed: int = 0):
        rng, n = np.random.default_rng(seed), 1 << 16
        q4 = rng.integers(0, 256, (n, 144), np.uint8)  # scale, minimum's scale, twelve bytes of sub-scales, 4-bit weights
        q4[:, :4] = np.frombuffer(np.array([1e-4, 7.5e-4], np.float16).tobytes(), np.uint8)
        q6 = rng.integers(0, 256, (n, 210), np.uint8)  # weights, signed sub-scales, scale
        q6[:, -2:] = np.frombuffer(np.array([1.5e-5], np.float16).tobytes(), np.uint8)
        self.pool = {'Q4_K': q4.tobytes(), 'Q6_K': q6.tobytes(),
                     'BF16': (rng.normal(0, .02, n*32).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()}

    def __call__(self, name: str, shape: tuple[int, ...], kind: str):
        if name == 'rope_freqs.weight': return np.array([1.]*64 + [1e30]*192, np.float32).tobytes()  # 64 of 256 pairs rotate
        if kind == 'F32': return np.full(shape, shape[0]**-.25 if 'q_norm' in name or 'k_norm' in name else 1., np.float32).tobytes()
        left, pool = gguf.Tensor(name, shape, kind, 0).bytes, self.pool[kind]
        return (pool[:min(len(pool), left - at)] for at in range(0, left, len(pool)))


def make() -> Path:
    "The file, written on first use."
    path = cache_dir('random')/'gemma-4-E2B-random-Q4_K_M.gguf'
    if not path.exists():
        print(f'writing {path.name}, 3.1 GiB of random weights', file=sys.stderr)
        part = path.with_suffix(f'.{os.getpid()}')
        try: gguf.write(part, meta(), tensors(), Noise()); part.replace(path)
        finally: part.unlink(missing_ok=True)
    return path


if __name__ == '__main__': print(make(), gguf.inventory(make()), sep='\n')

"""Does Gemma 4 E2B, at its full size, go through OpenVINO on a machine with 24 GB?

What limits it. The checkpoint is 9.3 GB of bfloat16, and the table of per-layer embeddings alone is 2.35 billion numbers: as float32, one copy of it takes 9.4 GB. So weights stay mapped as they are stored, are quantised a few
megabytes at a time, and what grows is the quantised model: 4.7 GB in int8, 3.3 in int4. Loading maps that file, and the plugin copies the matrices that its kernels want in another order. Mapped pages can be dropped and read again when memory is short;
anonymous ones can't, so the two are counted apart, as the largest value seen in /proc/PID/status (RssAnon, RssFile), looked up five times a second.

What is compared. Logits after each token of a short prompt, through `edgewb.load` like anybody's, against transformers' model of the same checkpoint, whose arithmetic is float32 while its weights stay bfloat16 in the mapped file
(converted where they are multiplied): 18.6 GB are never there at once. torch in bfloat16 stands beside it, as a measure of what bfloat16 arithmetic alone does. The weights are random: the distances say that the graph is the same model, not what a
quantisation costs in quality.

How much of a distance is rounding, and is anything else in it? Random weights have no structure that forgives, so four bits take a random model far. A second reference therefore rounds its weights as the build does (`levels` of the quantise page, in torch, a
matrix at a time when it is multiplied), and OpenVINO runs the same build with its activations left in float32 (`dynamic_quant=0`). What is left between these two is the graph.

Bar: everything runs with less than 12 GB of anonymous memory at any time, and the graphs are within 1% of the spread of their rounded references' logits (root mean square). Builds are made again, so 10 GB of disk are needed. Prints a table for people and, as its
last line, one JSON object.
"""
import argparse, json, shutil, subprocess, sys, tempfile, threading, time
from pathlib import Path

import numpy as np
import psutil

import edgewb
from edgewb import core, weights
from edgewb.session import Session, Target, softmax
from edgewb.speed import busy

MODEL, BAR = 'gemma-4-E2B-random', 12e9
TEXT = '<bos><|turn>user\nSort these words: tulip, cedar, acorn, maple.<turn|>\n<|turn>model\n'


class Memory:
    "The largest anonymous and mapped memory of this process's children while the block runs, in bytes."
    def __enter__(self):
        self.anon = self.mapped = self.both = 0
        self.end = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        self.t0 = time.perf_counter()
        return self

    def _watch(self):
        while not self.end.wait(.2):
            rows = [r for p in psutil.Process().children(recursive=True) if (r := self._rss(p.pid))]
            anon, mapped = (sum(r[i] for r in rows) for i in (0, 1))
            self.anon, self.mapped, self.both = max(self.anon, anon), max(self.mapped, mapped), max(self.both, anon + mapped)

    @staticmethod
    def _rss(pid: int):
        try: rows = dict(l.split(':') for l in Path(f'/proc/{pid}/status').read_text().splitlines() if l.startswith('Rss'))
        except OSError: return None
        of = lambda k: int(rows[k].split()[0])*1024
        return (of('RssAnon') + of('RssShmem'), of('RssFile')) if rows else None

    def __exit__(self, *_):
        self.s = time.perf_counter() - self.t0
        self.end.set()
        self.thread.join()

    def facts(self) -> dict: return dict(s=self.s, anonymous=self.anon, mapped=self.mapped, together=self.both)


def reference(model: str, out: str, ids: list[int], format: str = ''):
    "In a process of its own: logits in float32 from weights as they are stored, or as a format would round them."
    import torch
    from transformers import AutoModelForCausalLM, logging
    from edgewb import openvino_export as export
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    lm = AutoModelForCausalLM.from_pretrained(where(model), dtype='auto', local_files_only=True).eval()
    export._keep_stored(lm, gather_first=True)
    if format: as_rounded(lm, format)
    with torch.no_grad(): np.save(out, lm(input_ids=torch.tensor(ids)[None]).logits[0].float().numpy())


def as_rounded(lm, format: str):
    "Have a model's matrices and tables multiply as an OpenVINO build of that format does."
    import torch, torch.nn.functional as F
    from types import MethodType
    from edgewb.openvino_quantise import EIGHT, GROUPS, levels
    def rounded(w, group):
        flat = w.detach().reshape(-1, group or w.shape[-1])
        q, z, s = levels(flat.view(torch.int16).numpy() if w.dtype == torch.bfloat16 else flat.float().numpy(), 4 if group else 8, 'bf16' if w.dtype == torch.bfloat16 else 'f32')
        return torch.from_numpy(((q.astype(np.float32) - z)*s.astype(np.float32)).reshape(w.shape))
    def linear(group): return lambda self, x: F.linear(x, rounded(self.weight, group))
    def table(self, ids): return rounded(self.weight[ids.reshape(-1)], 0).reshape(*ids.shape, -1)*self.scalar_embed_scale
    for name, m in lm.named_modules():
        if isinstance(m, torch.nn.Linear):
            group = 0 if format == 'int8' or any(k in name for k in EIGHT) else next((g for g in GROUPS if m.in_features % g == 0), 0)
            m.forward = MethodType(linear(group), m)
        elif isinstance(m, torch.nn.Embedding): m.forward = MethodType(table, m)


def where(model: str) -> Path: return weights._random(model, 'openvino', 'int8', None) or weights.resolve(model)


def forget(model: str, format: str):
    "Delete a build that is there from earlier, so that it is made again."
    source = where(model)
    shutil.rmtree(core.cache_dir('builds')/f"{source.stem}-openvino-{format}-{weights._key(source, 'openvino', format)}", ignore_errors=True)


def logits(target: Target, ids: list[int], tokens: int) -> tuple[dict, np.ndarray]:
    "Load, evaluate the prompt, decode; what it took, and the prompt's logits."
    with Memory() as loading: s = Session(target, n_ctx=512)
    with s:
        with Memory() as running:
            rows = np.array(s.eval(ids, all=True))
            r = s.generate(ids, tokens, ignore_eog=True)
        return dict(load=loading.facts(), run=running.facts(), bytes=s.build.bytes, bpw=s.build.bpw, prefill_tps=r.prefill_tps, decode_tps=r.decode_tps, threads=s.info.get('threads')), rows


def distance(want: np.ndarray, got: np.ndarray) -> dict:
    "How far logits are from the reference's."
    p, q = (np.log(softmax(x.astype(np.float64))) for x in (want, got))
    return dict(rms=float((got - want).std()/want.std()), largest=float(np.abs(got - want).max()), spread=float(want.std()),
                kld=float((np.exp(p)*(p - q)).sum(-1).mean()), same_top=float((got.argmax(-1) == want.argmax(-1)).mean()))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--formats', nargs='+', default=['int8', 'int4'])
    ap.add_argument('--model', default=MODEL)
    ap.add_argument('--tokens', type=int, default=8, help='decoded, after the prompt')
    ap.add_argument('--threads', type=int, default=1)
    ap.add_argument('--keep', action='store_true', help="use builds that are there; their export isn't measured")
    ap.add_argument('--reference', help=argparse.SUPPRESS)
    ap.add_argument('--rounded', default='', help=argparse.SUPPRESS)
    ap.add_argument('--ids', nargs='+', type=int, help=argparse.SUPPRESS)
    a = ap.parse_args()
    if a.reference: return reference(a.model, a.reference, a.ids, a.rounded)
    from edgewb.tokens import Tokenizer
    ids, note, out = Tokenizer(where(a.model)).encode(TEXT), busy(), {}
    gb = lambda b: f'{b/1e9:.2f}'
    def expected(rounded: str = '') -> tuple[np.ndarray, dict]:
        with tempfile.TemporaryDirectory() as tmp, Memory() as m:
            subprocess.run([sys.executable, __file__, '--model', a.model, '--rounded', rounded, '--reference', f'{tmp}/want.npy', '--ids', *map(str, ids)], check=True)
            y = np.load(f'{tmp}/want.npy')
        return y, m.facts()
    want, ref = expected()
    print(f"{a.model}, {len(ids)} tokens of prompt, {a.threads} thread{'s'*(a.threads > 1)}; memory in GB: anonymous + mapped, largest seen" + (f'; {note}' if note else ''))
    show = lambda m: f"{m['s']:.0f} s, {gb(m['anonymous'])} + {gb(m['mapped'])}"
    print(f'reference in float32, from weights as stored: {show(ref)}', flush=True)
    print(f'{"":14} {"file":>6} {"export":>24} {"load":>24} {"prompt and decode":>24} {"tok/s":>7} {"off, rms":>9} {"KLD nats":>9} {"same top":>9} {"graph alone, rms":>17}')
    for name in [f'openvino:{f}' for f in a.formats] + ['torch:bf16']:
        engine, format = name.split(':')
        if engine == 'openvino' and not a.keep: forget(a.model, format)
        with Memory() as m: b = weights.build(a.model, engine, format)
        facts, rows = logits(Target(engine, format, a.model, dict(threads=a.threads)), ids, a.tokens)
        out[name] = facts | dict(export=m.facts() if engine == 'openvino' and not a.keep else None, **distance(want, rows))
        r = out[name]
        if engine == 'openvino':
            like, _ = expected(format)
            plain = logits(Target(engine, format, a.model, dict(threads=a.threads, dynamic_quant=0)), ids, 2)[1]
            r['graph'] = distance(like, plain)
        print(f"{name:14} {gb(r['bytes']):>6} {show(r['export']) if r['export'] else '-':>24} {show(r['load']):>24} {show(r['run']):>24} {r['decode_tps']:>7.2f} {r['rms']:>9.4f} {r['kld']:>9.1e} {r['same_top']:>9.0%} {r['graph']['rms'] if 'graph' in r else float('nan'):>17.5f}", flush=True)
    most = max(m['anonymous'] for n, r in out.items() if n.startswith('openvino') for m in (r['export'], r['load'], r['run']) if m)
    met = most < BAR and all(r['graph']['rms'] < .01 for r in out.values() if 'graph' in r)
    print(json.dumps(dict(bench='openvino_e2b', model=a.model, prompt=len(ids), busy=bool(note), reference=ref, targets=out, anonymous=most, bar=BAR, met=met)))


if __name__ == '__main__': main()

"""What do a model that can see and hear pay for it while it only writes? OpenVINO's decode with the inputs for soft tokens against without.

What limits it. A graph with towers beside it has two more inputs, `soft` and `pick`: the embedded words and the soft rows are laid one after the other and the step's rows are picked from them. While there are only words, both stay as they were set, and
what is left is one concatenation and one gather of one row: some microseconds of a step of a few hundred on nano, nothing at E2B's size. So nano is the hard case, and the one measured.

What is compared. nano's decoder exported twice, once as a text model and once beside a small vision tower, which no step ever runs. Both are open in one process with one thread and decode the same tokens in turn, a few at a time, the order changing each
round. The figure is the ratio of processor time, by round, so that other work on the machine falls on both.

Bar: 0.97. Prints a table for people and, as its last line, one JSON object.
"""
import json, os, tempfile, time
from pathlib import Path
from statistics import median

os.environ.setdefault('OMP_NUM_THREADS', '1')

import numpy as np

from bench_llamacpp import interval
from edgewb.engine_openvino import Engine, make
from edgewb.speed import busy
from edgewb.weights import resolve

ROUNDS, TOKENS, PROMPT = 60, 24, 64


def checkpoints(folder: Path) -> dict[str, Path]:
    "nano's language model alone, and beside a tower of random weights."
    import shutil, torch
    from transformers import AutoConfig, Gemma4Config, Gemma4ForConditionalGeneration, Gemma4VisionConfig, logging
    logging.disable_progress_bar()
    nano, out = Gemma4ForConditionalGeneration.from_pretrained(resolve('nano'), dtype='auto', local_files_only=True), {}
    small = Gemma4VisionConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, head_dim=16)
    for name, vision in (('without', None), ('with', small)):
        m = Gemma4ForConditionalGeneration(Gemma4Config(text_config=nano.config.text_config, vision_config=vision, audio_config=None)).to(torch.bfloat16)
        m.model.language_model.load_state_dict(nano.model.language_model.state_dict())
        m.save_pretrained(folder/name)
        shutil.copyfile(resolve('nano')/'tokenizer.json', folder/name/'tokenizer.json')
        out[name] = folder/name
    return out


def compare(builds: dict[str, Path]) -> dict:
    engines = {n: Engine(p, threads=1, n_ctx=512) for n, p in builds.items()}
    if (takes := {n: e.takes['soft'] for n, e in engines.items()}) != {'without': False, 'with': True}: raise SystemExit(f'the wrong graphs: {takes}')
    ids, times, last = np.random.default_rng(0).integers(5, 1000, PROMPT + TOKENS).tolist(), {n: [] for n in engines}, {}
    for r in range(ROUNDS + 3):
        for n in list(engines)[::1 if r % 2 else -1]:
            engines[n].trim(0)
            engines[n].eval(ids[:PROMPT])
            t0 = time.process_time()
            for t in ids[PROMPT:]: y = engines[n].eval([t])
            if r > 2: times[n].append((time.process_time() - t0)/TOKENS)
            last[n] = y.copy()
    ratio = [a/b for a, b in zip(times['without'], times['with'])]
    return dict(without_us=[1e6*t for t in times['without']], with_us=[1e6*t for t in times['with']], ratio=ratio, median=median(ratio), interval=interval(ratio),
                same=float(np.abs(last['with'] - last['without']).max()))


def main():
    note, out = busy(), {}
    with tempfile.TemporaryDirectory() as tmp:
        hf = checkpoints(Path(tmp))
        print('nano, one thread' + (f'; {note}' if note else ''))
        print(f'{"format":8} {"without us":>11} {"with us":>9} {"speed with/without (95% of median)":>36} {"logits apart":>13}')
        for format in ('f32', 'int8'):
            builds = {}
            for name, source in hf.items():
                builds[name] = Path(tmp)/f'{name}-{format}'
                builds[name].mkdir()
                make(source, format, builds[name])
            r = out[format] = compare(builds)
            cell = f"{r['median']:.3f} ({r['interval'][0]:.3f} to {r['interval'][1]:.3f})"
            print(f"{format:8} {median(r['without_us']):>11.0f} {median(r['with_us']):>9.0f} {cell:>36} {r['same']:>13.1e}", flush=True)
    print(json.dumps(dict(bench='openvino_media', formats=out, busy=bool(note), met=all(r['median'] >= .97 for r in out.values()))))


if __name__ == '__main__': main()

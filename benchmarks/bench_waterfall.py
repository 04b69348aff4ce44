"""Where does a token's time go, between the kernels and a client behind HTTP?

What limits it. A token must multiply every matrix once: that is the floor. An engine adds its graph (attention, norms, and a barrier between all threads after each of some 900 operations), a binding the reading of the logits,
a session a second process, a server JSON and HTTP, a client the parsing. Those last four cost tens of microseconds a token, whatever the model. Beside nano's half a millisecond that is a fifth; beside E2B's seventy it is nothing.

What is compared. `edgewb.waterfall`: the same file, threads, prompt and ids through one more layer each time, interleaved in a balanced order, with an anchor, drifting rounds measured again. E2B has random weights: speed does not depend on
the values. A part is the difference of two medians, so the parts are the gap; its interval comes from differences within rounds.

There is no bar. Prints a table for each size and, as its last line, one JSON object. `--only nano` takes half a minute, both about four.
"""
import argparse, json

from edgewb.protocol import Rules
from edgewb.waterfall import waterfall


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--only', choices=['nano', 'E2B'], help='one of the two sizes')
    ap.add_argument('--rounds', type=int, default=12)
    a, out = ap.parse_args(), {}
    for label, model, tokens in (('nano', 'nano', 64), ('E2B', 'gemma-4-E2B-random', 16)):
        if a.only not in (None, label): continue
        w = waterfall('llama.cpp:Q4_K_M', model, tokens, rules=Rules(rounds=a.rounds, looks=1, retries=a.rounds))
        print(w, end='\n\n', flush=True)
        d = w.to_dict()
        out[label] = {k: d[k] for k in ('target', 'model', 'steps', 'prompt_tokens', 'threads', 'kernels', 'gap_ms', 'rungs')} | dict(caption=w.caption(), samples={k: w.measured.values(k) for k in w.measured.names})
    print(json.dumps(dict(bench='waterfall', sizes=out)))


if __name__ == '__main__': main()

// The least that greedy decoding in llama.cpp can cost: decode, find the largest logit, decode again. Nothing between two tokens.
//
//   bare_loop MODEL N_CTX THREADS N_BATCH N_OUTPUTS NO_AMX
//
// Then, for every line "n id id id ..." on stdin: a prefill of the ids, n tokens, and one line of answer: seconds from the first token to
// the last, then the ids. Same library, same settings as the session it is measured against.
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "llama.h"

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9*t.tv_nsec;
}

static void quiet(enum ggml_log_level level, const char *text, void *data) { (void) level; (void) text; (void) data; }

static llama_token largest(const float *z, int n) {
    int best = 0;
    for (int i = 1; i < n; i++) if (z[i] > z[best]) best = i;
    return best;
}

int main(int argc, char **argv) {
    if (argc < 7) return 2;
    static char room[8192], line[1 << 20];
    stack_t small = { .ss_sp = room, .ss_size = sizeof room }, before;
    llama_log_set(quiet, NULL);
    llama_backend_init();
    int no_amx = atoi(argv[6]);
    if (no_amx) sigaltstack(&small, &before);  // ggml does without AMX where Linux denies it: edgewb/engine_llamacpp.py says why
    struct llama_model_params m = llama_model_default_params();
    m.load_mode = LLAMA_LOAD_MODE_MMAP;
    struct llama_model *model = llama_model_load_from_file(argv[1], m);
    if (no_amx) sigaltstack(&before, NULL);
    if (!model) return 3;
    struct llama_context_params c = llama_context_default_params();
    c.n_ctx = atoi(argv[2]);
    c.n_threads = c.n_threads_batch = atoi(argv[3]);
    c.n_batch = c.n_ubatch = atoi(argv[4]);
    c.n_outputs_max = atoi(argv[5]);
    c.swa_full = false;
    c.no_perf = true;
    struct llama_context *ctx = llama_init_from_model(model, c);
    if (!ctx) return 4;
    int vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
    printf("ready\n");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        static llama_token ids[1 << 16], out[1 << 16];
        int n = 0, want = 0;
        for (char *p = strtok(line, " \n"); p; p = strtok(NULL, " \n")) {
            if (!want) want = atoi(p); else ids[n++] = atoi(p);
        }
        llama_memory_clear(llama_get_memory(ctx), false);
        for (int i = 0; i < n; i += (int) c.n_batch) {
            int k = n - i < (int) c.n_batch ? n - i : (int) c.n_batch;
            if (llama_decode(ctx, llama_batch_get_one(ids + i, k))) return 5;
        }
        out[0] = largest(llama_get_logits_ith(ctx, -1), vocab);
        double start = now();
        for (int i = 1; i < want; i++) {
            if (llama_decode(ctx, llama_batch_get_one(out + i - 1, 1))) return 6;
            out[i] = largest(llama_get_logits_ith(ctx, -1), vocab);
        }
        printf("%.9f", now() - start);
        for (int i = 0; i < want; i++) printf(" %d", out[i]);
        printf("\n");
        fflush(stdout);
    }
    return 0;
}

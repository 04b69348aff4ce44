// What llama-bench takes from llama.cpp's `common` and a measurement never reaches: the hub, the fitting of layers to devices, its log, build numbers.
// With this file its own sources and common.cpp make an executable in seconds, linked against the very library that a session loads.
#include <cstdlib>
#include <stdexcept>
#include <string>
#ifdef __linux__
#include <csignal>
#endif
#include "arg.h"
#include "build-info.h"
#include "common.h"
#include "fit.h"
#include "llama.h"
#include "log.h"

#ifdef __linux__
// ggml does without AMX where Linux denies it the tiles, and Linux denies them to a process whose signal stack is too small for them
// (edgewb/engine_llamacpp.py says when that is wanted).
__attribute__((constructor)) static void no_amx() {
    static char room[8192];
    if (!std::getenv("EDGEWB_NO_AMX")) return;
    stack_t small = {};
    small.ss_sp = room;
    small.ss_size = sizeof room;
    sigaltstack(&small, nullptr);
}
#endif

static void none(const char * what) { throw std::runtime_error(std::string(what) + " is not part of this build of llama-bench"); }

int llama_build_number(void) { return 0; }
const char * llama_commit(void) { return "sdist"; }
const char * llama_compiler(void) { return ""; }
const char * llama_build_target(void) { return ""; }
const char * llama_build_info(void) { return "sdist"; }
void llama_print_build_info(const char *, FILE *) {}

int common_log_get_verbosity_thold(void) { return 0; }
struct common_log * common_log_main() { return nullptr; }
void common_log_add(struct common_log *, enum ggml_log_level, const char *, ...) {}

namespace common_arg_utils {
bool is_truthy(const std::string & v) { return v == "on" || v == "enabled" || v == "true" || v == "1"; }
bool is_falsey(const std::string & v) { return v == "off" || v == "disabled" || v == "false" || v == "0"; }
bool is_autoy(const std::string & v) { return v == "auto" || v == "-1"; }
}

void common_print_available_devices() { none("the list of devices"); }
common_models_handler common_models_handler_init(const common_params &, llama_example) { none("the hub"); return {}; }
void common_models_handler_apply(common_models_handler &, common_params &, common_download_callback *) { none("the hub"); }
common_params_fit_status common_fit_params(const char *, llama_model_params *, llama_context_params *, float *, llama_model_tensor_buft_override *,
    size_t *, uint32_t, const common_fit_extra_model *, ggml_log_level) { none("fitting"); return {}; }

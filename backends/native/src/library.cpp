// Chooses the instruction set and how threads divide the work, and runs it.
#include "denormals.h"
#include "interface.h"
#include "kernels.h"

namespace {

int best_instruction_set() {
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  return avx2 ? avx512 ? AVX512 : AVX2 : PORTABLE;
#elif defined(__aarch64__)
  return NEON;  // every processor has it
#else
  return PORTABLE;
#endif
}

// The portable ones where the processor lacks the instruction set: even to return its kernels may
// take its instructions. `status_of` then refuses the call.
Kernels kernels_of(int instruction_set) {
#if defined(__x86_64__)
  if (instruction_set <= best_instruction_set()) {
    if (instruction_set == AVX512) return avx512_kernels();
    if (instruction_set == AVX2) return avx2_kernels();
  }
#elif defined(__aarch64__)
  if (instruction_set == NEON) return neon_kernels();
#endif
  return portable_kernels();
}

int status_of(const gatecore_layer* l) {
  if (l->instruction_set < 0 || l->instruction_set > best_instruction_set())
    return NO_INSTRUCTION_SET;
  const bool fits = l->core >= LSTM && l->core <= MINGRU && l->auxiliary >= NONE &&
                    l->auxiliary <= UNTIED && l->activation >= SIGMOID && l->activation <= CUMAX &&
                    l->time >= 0 && l->batch >= 0 && l->input_size >= 0 && l->hidden_size >= 1 &&
                    l->downsize >= 1 && l->hidden_size % l->downsize == 0 && l->threads >= 1;
  return fits ? OK : BAD_SHAPE;
}

// By columns each weight is read once a step rather than once a thread; that pays for the barriers
// when the weights exceed the caches and a thread has few rows to use them for.
bool by_columns(const gatecore_layer* l, int threads) {
  if (threads == 1) return false;
  if (l->split) return l->split == 2;
  const long rows = l->batch / threads, bytes = 4L * l->rows * (l->hidden_size + l->input_size);
  if (rows == 0)  // else threads would be idle: one starts while another reads 256 KB, and waits 48 KB
    return l->time * (bytes - 48L * 1024) > 256L * 1024;
  return (rows <= 16 && bytes > (2L << 20)) || (rows < 6 && bytes > 400L * 1024);
}

typedef void (*Run)(const gatecore_layer&, const gatecore_arguments&, const Worker&, bool);

struct Job {
  const gatecore_layer& layer;
  const gatecore_arguments& arguments;
  Run run;
};

void run_job(void* data, const Worker& worker) {
  const Job& j = *(const Job*)data;
  j.run(j.layer, j.arguments, worker, by_columns(&j.layer, worker.size));
}

void run_job_without_denormals(void* data, const Worker& worker) {
  DenormalsAreZero scope;
  run_job(data, worker);
}

// Runs one of the calls on the layer's threads.
int run(const gatecore_layer* layer, const gatecore_arguments* arguments, Run Kernels::*direction,
        bool denormals_are_zero) {
  if (int status = status_of(layer)) return status;
  Job job = {*layer, *arguments, kernels_of(layer->instruction_set).*direction};
  // MinGRU divides its work by itself; of the others, threads without a sequence are not started
  const bool idle = layer->core != MINGRU && !by_columns(layer, layer->threads);
  const int threads = idle && layer->batch < layer->threads ? (layer->batch ? layer->batch : 1)
                                                            : layer->threads;
  run_on_threads(threads, denormals_are_zero ? run_job_without_denormals : run_job, &job);
  return OK;
}

}  // namespace

extern "C" {

int32_t gatecore_version() { return 7; }
int32_t gatecore_best_instruction_set() { return best_instruction_set(); }
double gatecore_multiply_adds(int32_t instruction_set, int64_t rounds) {
  const bool lacking = instruction_set < 0 || instruction_set > best_instruction_set();
  return lacking ? 0 : kernels_of(instruction_set).multiply_adds(rounds);
}
size_t gatecore_stride(const gatecore_layer* l) { return kernels_of(l->instruction_set).stride(*l); }
size_t gatecore_forward_scratch(const gatecore_layer* l) {
  return kernels_of(l->instruction_set).forward_scratch(*l);
}
size_t gatecore_backward_scratch(const gatecore_layer* l, int32_t wants_d_x) {
  return kernels_of(l->instruction_set).backward_scratch(*l, wants_d_x);
}

int32_t gatecore_run_forward(const gatecore_layer* layer, const gatecore_arguments* arguments) {
  return run(layer, arguments, &Kernels::forward, false);
}
int32_t gatecore_run_backward(const gatecore_layer* layer, const gatecore_arguments* arguments) {
  return run(layer, arguments, &Kernels::backward, true);
}
void gatecore_use_openmp(void* parallel, void* num_threads) { use_openmp(parallel, num_threads); }
}

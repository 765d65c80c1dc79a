// The library's two calls as XLA's foreign functions, with JAX's header. Buffers without elements
// stand for what is absent. The arrays' order is that of backends/jax/native.py.
#include <cstring>

#include "interface.h"
#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;
using Numbers = ffi::Span<const int32_t>;

// The fields of gatecore_layer up to the row orders, in its order, then what follows them.
gatecore_layer layer_of(Numbers fields, Numbers input_rows, Numbers state_rows, int32_t threads) {
  gatecore_layer layer = {};
  std::memcpy(&layer, fields.begin(), fields.size() * sizeof(int32_t));
  layer.input_rows = input_rows.begin();
  layer.state_rows = state_rows.begin();
  layer.threads = threads;
  layer.instruction_set = gatecore_best_instruction_set();
  return layer;
}

template <class T> T* data(ffi::AnyBuffer buffer) {
  return buffer.element_count() ? static_cast<T*>(buffer.untyped_data()) : nullptr;
}
template <class T = float> T* argument(ffi::RemainingArgs arguments, size_t at) {
  return data<T>(*arguments.get<ffi::AnyBuffer>(at));
}
float* result(ffi::RemainingRets results, size_t at) {
  return data<float>(**results.get<ffi::AnyBuffer>(at));
}

gatecore_forward forward_of(ffi::RemainingArgs arguments) {
  gatecore_forward f = {};
  f.x = argument(arguments, 0);
  f.weight_ih = argument(arguments, 1);
  f.weight_hh = argument(arguments, 2);
  f.bias = argument(arguments, 3);
  f.bias_n = argument(arguments, 4);
  f.resets = argument<uint8_t>(arguments, 5);
  f.keep_cell = argument(arguments, 6);
  f.keep_hidden = argument(arguments, 7);
  return f;
}

void copy(float* to, const float* from, long count) {
  if (to && from) std::memcpy(to, from, count * sizeof(float));
}

ffi::Error answer(int32_t status) {
  if (status == OK) return ffi::Error::Success();
  return ffi::Error::Internal("gatecore's native CPU library refused the call");
}

ffi::Error run_forward(ffi::RemainingArgs arguments, ffi::RemainingRets results, Numbers fields,
                       Numbers input_rows, Numbers state_rows, int32_t threads, int32_t saves) {
  const gatecore_layer layer = layer_of(fields, input_rows, state_rows, threads);
  gatecore_forward f = forward_of(arguments);
  f.output = result(results, 0);
  f.output_cell = result(results, 1);
  f.hidden = result(results, 2);
  f.cell = result(results, 3);
  f.gates = result(results, 4);
  f.scratch = result(results, 5);
  f.saves = saves;
  const long state = (long)layer.batch * layer.hidden;
  copy(f.hidden, argument(arguments, 8), state);
  copy(f.cell, argument(arguments, 9), state);
  return answer(gatecore_run_forward(&layer, &f));
}

ffi::Error run_backward(ffi::RemainingArgs arguments, ffi::RemainingRets results, Numbers fields,
                        Numbers input_rows, Numbers state_rows, int32_t threads) {
  const gatecore_layer layer = layer_of(fields, input_rows, state_rows, threads);
  gatecore_forward f = forward_of(arguments);
  f.gates = argument(arguments, 8);
  f.hidden = argument(arguments, 9);
  f.cell = argument(arguments, 10);
  f.saves = 1;
  gatecore_backward b = {};
  b.forward = &f;
  b.d_output = argument(arguments, 11);
  b.d_output_cell = argument(arguments, 12);
  b.d_hidden = result(results, 0);
  b.d_cell = result(results, 1);
  b.d_x = result(results, 2);
  b.d_weight_ih = result(results, 3);
  b.d_weight_hh = result(results, 4);
  b.d_bias = result(results, 5);
  b.d_bias_n = result(results, 6);
  b.scratch = result(results, 7);
  const long state = (long)layer.batch * layer.hidden;
  copy(b.d_hidden, argument(arguments, 13), state);
  copy(b.d_cell, argument(arguments, 14), state);
  return answer(gatecore_run_backward(&layer, &b));
}

}  // namespace

#pragma GCC visibility push(default)
XLA_FFI_DEFINE_HANDLER_SYMBOL(gatecore_jax_forward, run_forward,
                              ffi::Ffi::Bind()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<Numbers>("fields")
                                  .Attr<Numbers>("input_rows")
                                  .Attr<Numbers>("state_rows")
                                  .Attr<int32_t>("threads")
                                  .Attr<int32_t>("saves"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(gatecore_jax_backward, run_backward,
                              ffi::Ffi::Bind()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<Numbers>("fields")
                                  .Attr<Numbers>("input_rows")
                                  .Attr<Numbers>("state_rows")
                                  .Attr<int32_t>("threads"));
#pragma GCC visibility pop

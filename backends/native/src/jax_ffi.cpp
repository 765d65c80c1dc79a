// The library's two calls as XLA's foreign functions, with JAX's header. Their attributes are those
// of LayerCall.ffi_attributes in backends/native/call.py: the numbers of the layer, its row orders,
// and for each buffer the byte offset of the field of gatecore_arguments that points to it.
#include <cstring>

#include "interface.h"
#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;
using Numbers = ffi::Span<const int32_t>;

// A buffer without elements is a null pointer.
void point(gatecore_arguments& arguments, int32_t offset, ffi::AnyBuffer buffer) {
  void* data = buffer.element_count() ? buffer.untyped_data() : nullptr;
  std::memcpy(reinterpret_cast<char*>(&arguments) + offset, &data, sizeof data);
}

template <int32_t (*call)(const gatecore_layer*, const gatecore_arguments*)>
ffi::Error run(ffi::RemainingArgs inputs, ffi::RemainingRets results, Numbers numbers,
               Numbers input_rows, Numbers state_rows, Numbers read, Numbers written) {
  gatecore_layer layer = {};
  std::memcpy(&layer, numbers.begin(), numbers.size() * sizeof(int32_t));
  layer.input_rows = input_rows.begin();
  layer.state_rows = state_rows.begin();
  gatecore_arguments arguments = {};
  for (size_t i = 0; i < inputs.size(); i++)
    point(arguments, read[i], *inputs.get<ffi::AnyBuffer>(i));
  for (size_t i = 0; i < results.size(); i++)
    point(arguments, written[i], **results.get<ffi::AnyBuffer>(i));
  if (call(&layer, &arguments) == OK) return ffi::Error::Success();
  return ffi::Error::Internal("gatecore's native CPU library refused the call");
}

auto binding() {
  return ffi::Ffi::Bind().RemainingArgs().RemainingRets().Attr<Numbers>("layer")
      .Attr<Numbers>("input_rows").Attr<Numbers>("state_rows")
      .Attr<Numbers>("read").Attr<Numbers>("written");
}

}  // namespace

#pragma GCC visibility push(default)
XLA_FFI_DEFINE_HANDLER_SYMBOL(gatecore_jax_forward, run<gatecore_run_forward>, binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(gatecore_jax_backward, run<gatecore_run_backward>, binding());
#pragma GCC visibility pop

// Serves the library's C interface over stdin and stdout, so that a library of another processor can
// be called under emulation: tests/native/served.py is the client. All numbers are little-endian.
//
// A request is the number of a function, the layer and its two row orders, and for a call the
// arguments, the number of their buffers, and each buffer: its field's offset, its bytes and its
// content. The answer is the function's result as a double, and after a call the buffers' contents.
// Buffers are on the heap and as long as the client's, scratch memory as long as the library says.
#include "interface.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

static_assert(sizeof(void*) == 8, "the client's pointers have 64 bits");

typedef std::unique_ptr<char[]> Buffer;

static bool take(void* to, size_t bytes) { return std::fread(to, 1, bytes, stdin) == bytes; }
static void give(const void* from, size_t bytes) { std::fwrite(from, 1, bytes, stdout); }

template <class T> static T taken() {
  T value;
  if (!take(&value, sizeof value)) std::exit(1);
  return value;
}
static Buffer taken_buffer(size_t bytes) {
  Buffer buffer(new char[bytes]);
  if (!take(buffer.get(), bytes)) std::exit(1);
  return buffer;
}

struct Call {
  gatecore_layer layer = taken<gatecore_layer>();
  Buffer input_rows = taken_buffer(layer.rows * sizeof(int32_t));
  Buffer state_rows = taken_buffer(layer.rows * sizeof(int32_t));
  Call() {
    layer.input_rows = (const int32_t*)input_rows.get();
    layer.state_rows = (const int32_t*)state_rows.get();
  }

  double run(bool backward) {
    gatecore_arguments arguments = taken<gatecore_arguments>();
    std::vector<Buffer> buffers(taken<int64_t>());
    std::vector<int64_t> lengths;
    for (Buffer& buffer : buffers) {
      const int64_t offset = taken<int64_t>();
      lengths.push_back(taken<int64_t>());
      buffer = taken_buffer(lengths.back());
      const char* data = buffer.get();
      std::memcpy((char*)&arguments + offset, &data, sizeof data);
    }
    const size_t scratch = backward ? gatecore_backward_scratch(&layer, arguments.d_x != nullptr)
                                    : gatecore_forward_scratch(&layer);
    std::unique_ptr<float[]> floats(new float[scratch]);
    arguments.scratch = floats.get();
    const double status = (backward ? gatecore_run_backward : gatecore_run_forward)(&layer, &arguments);
    give(&status, sizeof status);
    for (size_t i = 0; i < buffers.size(); i++) give(buffers[i].get(), lengths[i]);
    return status;
  }
};

int main() {
  for (int64_t function; take(&function, sizeof function); std::fflush(stdout)) {
    double result = 0;
    if (function == 0) {
      result = gatecore_best_instruction_set();
    } else if (function == 1) {
      const int64_t instruction_set = taken<int64_t>();
      result = gatecore_multiply_adds((int32_t)instruction_set, taken<int64_t>());
    } else {
      Call call;
      if (function == 2) result = gatecore_stride(&call.layer);
      if (function == 3) result = gatecore_forward_scratch(&call.layer);
      if (function == 4) result = gatecore_backward_scratch(&call.layer, taken<int64_t>());
      if (function >= 5) {
        call.run(function == 6);
        continue;
      }
    }
    give(&result, sizeof result);
  }
}

// Rates of the library's products on the benchmark's shapes: compiled and run by tiles.py, on one core.
// Each line of the output is the name of a product and its floating-point operations a second.
#include "product.h"

#include <chrono>
#include <cstdio>
#include <vector>

using namespace ISA;

struct Array : std::vector<float> {
  explicit Array(long floats) : std::vector<float>(floats + 4096, 0.01f) {}
  float* at() { return (float*)(((size_t)data() + 63) / 64 * 64); }  // on a cache line
};

// The shortest of some calls, for about 0.1 s.
template <class F> static double seconds(F f) {
  auto now = [] { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); };
  double best = 1e9;
  f();
  for (double begin = now(); now() - begin < 0.1;) {
    const double start = now();
    f();
    best = now() - start < best ? now() - start : best;
  }
  return best;
}

static long odd_lines(long floats) { return (rounded(floats, LINE) / LINE | 1) * LINE; }

// The logits of a step, or the cotangents of its state: rows by depth, packed weights of depth by columns
static void step(const char* name, long rows, long depth, long columns) {
  Array weights(Packed::floats(depth, columns)), left(rows * depth), out(rows * odd_lines(columns));
  const Packed packed = {weights.at(), depth, columns};
  const Left operand = {left.at(), depth, depth};
  const double least = seconds([&] {
    Prefetcher prefetcher;
    multiply(rows, &operand, 1, packed, 0, 0, packed.panels(), out.at(), odd_lines(columns), nullptr,
             prefetcher);
  });
  std::printf("step %s %g\n", name, 2.0 * rows * depth * columns / least);
}

// The gradients of the weights from `depth` time steps times sequences
static void weights(const char* name, long features, long depth, long columns) {
  const long tiles = (features + HEIGHT - 1) / HEIGHT, stride = odd_lines(columns);
  Array left(tiles * HEIGHT * depth), right(depth * stride);
  Array out(tiles * HEIGHT * rounded(columns, VL));
  const Gradient gradient = {out.at(), tiles * HEIGHT, columns};
  const double least = seconds([&] {
    for (long p = 0; p < gradient.panels(); p++)
      outer(left.at(), depth, 0, tiles, features, right.at() + p * Gradient::WIDTH, stride, depth,
            gradient.vectors(p), gradient.panel(p), true);
  });
  std::printf("weights %s %g\n", name, 2.0 * features * depth * columns / least);
}

int main() {
  // a thread's share of two
  step("copy", 16, 266, 1024), step("copy-back", 16, 1024, 256);
  step("pixel", 25, 513, 2048), step("pixel-back", 25, 2048, 512);
  step("lm", 32, 1536, 2048), step("lm-back", 32, 4096, 512);
  step("tiny", 8, 72, 256), step("digits", 32, 129, 512);
  weights("copy", 267, 256, 1024), weights("pixel", 514, 1024, 2048), weights("lm", 1537, 1024, 2048);
  weights("tiny", 73, 512, 256), weights("digits", 130, 256, 512);
}

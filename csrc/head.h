// Helpers shared by the two halves of the LM-head loss (head_forward.cpp, head_backward.cpp).
//
// Logits are held transposed, [vocab, tokens]: a vocabulary column of the usual [tokens, vocab] layout is then a
// contiguous row, so that dropping, gathering and scattering columns move whole cache lines, and every loop over
// the tokens of a row vectorises without a reduction. The vocabulary is worked through in tiles that stay in the
// second-level cache between their GEMM and everything that follows it.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <bit>
#include <cfloat>
#include <cmath>
#include <cstdint>

// One binary for every x86-64: the loader picks the widest version that the machine can run.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define ADVGAME_MULTIVERSION __attribute__((target_clones("arch=skylake-avx512", "arch=haswell", "default")))
#else
#define ADVGAME_MULTIVERSION
#endif

namespace advgame {

constexpr int64_t kTile = 256;  // vocabulary rows a tile  // vocabulary rows a tile

inline int64_t tiles(int64_t vocab) { return (vocab + kTile - 1) / kTile; }

// exp(x) for x <= 0, to 2 ulp, as straight-line code that compilers vectorise; 0 below -87, NaN stays NaN.
// Cephes' expf: 2^n e^f with |f| <= ln(2) / 2 and a polynomial of degree 6.
__attribute__((always_inline)) inline float exp_nonpositive(float x) {
  const float shifted = x * 1.44269504088896341f + 12582912.f;  // adding 1.5 * 2^23 rounds to an integer
  const float n = shifted - 12582912.f;
  const float f = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * f + 1.3981999507e-3f;
  p = p * f + 8.3334519073e-3f;
  p = p * f + 4.1665795894e-2f;
  p = p * f + 1.6666665459e-1f;
  p = p * f + 5.0000001201e-1f;
  p = p * f * f + f + 1.f;
  const auto scaled = std::bit_cast<uint32_t>(p) + (std::bit_cast<uint32_t>(shifted) << 23);
  return x < -87.f ? 0.f : std::bit_cast<float>(scaled);
}

// Rows [begin, end) of a matrix as float32: a view where they already are.
inline at::Tensor float_rows(const at::Tensor& matrix, int64_t begin, int64_t end) {
  return matrix.narrow(0, begin, end - begin).to(at::kFloat);
}

}  // namespace advgame

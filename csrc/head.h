// Helpers shared by the two halves of the LM-head loss (head_forward.cpp, head_backward.cpp).
//
// Logits are held transposed, [vocab, tokens]: a vocabulary column of the usual [tokens, vocab] layout is then a
// contiguous row, so that dropping, gathering and scattering columns move whole cache lines, and every loop over
// the tokens of a row vectorises without a reduction. The vocabulary is processed in tiles that are still in cache
// after their GEMM.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>

#include <bit>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <vector>

// One binary serves every x86-64 processor: the loader picks the widest version that its features allow.
// ("arch=skylake-avx512" would match that family alone, and leave newer processors with SSE2.)
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#if __GNUC__ >= 12
#define ADVGAME_MULTIVERSION __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define ADVGAME_MULTIVERSION __attribute__((target_clones("avx512f", "avx2", "default")))
#endif
#else
#define ADVGAME_MULTIVERSION
#endif

namespace advgame {

constexpr int64_t kTile = 1024;  // vocabulary rows per tile: enough for an efficient GEMM, in a few megabytes

inline int64_t tiles(int64_t vocab) { return (vocab + kTile - 1) / kTile; }

// Tokens are padded to whole vectors. Padding has zero hidden states, no target and no gradient.
constexpr int64_t kLane = 32;

inline int64_t padded(int64_t n) { return (n + kLane - 1) / kLane * kLane; }

// exp(x) for x <= 0, without branches, so that compilers vectorise it; 0 below -87, NaN stays NaN.
// 2^n 2^f with n the nearest integer to x log2(e) and a polynomial for 2^f (minimax with 2^0 = 1: 9.1e-08 relative).
__attribute__((always_inline)) inline float exp_nonpositive(float x) {
  const float y = x * 1.44269504088896341f;
  const float shifted = y + 12583039.f;  // adding 1.5 * 2^23 rounds to an integer; 127 is the exponent's bias
  const float f = y - (shifted - 12583039.f);
  float p = 1.326472721e-03f;
  p = p * f + 9.671512707e-03f;
  p = p * f + 5.550733744e-02f;
  p = p * f + 2.402224208e-01f;
  p = p * f + 6.931469776e-01f;
  p = p * f + 1.f;
  const float scale = std::bit_cast<float>(std::bit_cast<uint32_t>(shifted) << 23);  // multiplied: NaN stays
  return x < -87.f ? 0.f : p * scale;
}

// bfloat16 is held as its bits. Rounding is to the nearest, ties to even; NaN stays NaN.
inline float widen(float x) { return x; }
inline float widen(uint16_t x) { return std::bit_cast<float>(uint32_t(x) << 16); }
inline void narrow(float x, float& to) { to = x; }
inline void narrow(float x, uint16_t& to) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  to = uint16_t(x == x ? (bits + 0x7fff + (bits >> 16 & 1)) >> 16 : 0x7fc0);
}

// Hidden states [n, H], followed by rows of zeros up to padded(n).
inline at::Tensor padded_rows(const at::Tensor& hidden) {
  at::Tensor x = at::zeros({padded(hidden.size(0)), hidden.size(1)}, hidden.options());
  x.narrow(0, 0, hidden.size(0)).copy_(hidden);
  return x;
}

}  // namespace advgame

// Linear layers for sampling: few rows at a time through the same weights, which are packed once for it.
//
// A packed weight is cut into panels of 64 output columns, each [K, 64] contiguous (bfloat16: [K / 2, 64, 2]), so that
// every step over K reads whole cache lines in order. A panel stays in the second-level cache while all rows pass
// through it, six at a time, whose 6 x 64 sums fit the registers. The sums run over K in order, in float32, for one row
// as for six: a row's result does not depend on the rows beside it.
#include "checks.h"
#include "head.h"

#if defined(__x86_64__) && defined(__linux__)
#define ADVGAME_PACKS
#include <immintrin.h>
#endif

namespace advgame {

// Whether this processor multiplies packed weights of this dtype: with AVX-512, for bfloat16 with AVX512_BF16.
bool packs(at::ScalarType dtype) {
#ifdef ADVGAME_PACKS
  const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  return wide && (dtype == at::kFloat || (dtype == at::kBFloat16 && __builtin_cpu_supports("avx512bf16")));
#else
  return false;
#endif
}

#ifdef ADVGAME_PACKS
namespace {

constexpr int64_t kWidth = 64;  // output columns of a panel
constexpr int64_t kRows = 6;    // rows at a time

#define ADVGAME_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))
#define ADVGAME_AVX512_BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))

template <int R>
ADVGAME_AVX512 inline void tile(const float* x, int64_t stride, const float* panel, int64_t k, float* out) {
  __m512 sum[R][4];
  for (int r = 0; r < R; ++r)
    for (int j = 0; j < 4; ++j) sum[r][j] = _mm512_setzero_ps();
  for (int64_t i = 0; i < k; ++i, panel += kWidth) {
    const __m512 b0 = _mm512_loadu_ps(panel), b1 = _mm512_loadu_ps(panel + 16), b2 = _mm512_loadu_ps(panel + 32),
                 b3 = _mm512_loadu_ps(panel + 48);
    for (int r = 0; r < R; ++r) {
      const __m512 a = _mm512_set1_ps(x[r * stride + i]);
      sum[r][0] = _mm512_fmadd_ps(a, b0, sum[r][0]);
      sum[r][1] = _mm512_fmadd_ps(a, b1, sum[r][1]);
      sum[r][2] = _mm512_fmadd_ps(a, b2, sum[r][2]);
      sum[r][3] = _mm512_fmadd_ps(a, b3, sum[r][3]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int j = 0; j < 4; ++j) _mm512_storeu_ps(out + r * kWidth + 16 * j, sum[r][j]);
}

// k: pairs.
template <int R>
ADVGAME_AVX512_BF16 inline void tile(const uint32_t* x, int64_t stride, const uint32_t* panel, int64_t k, float* out) {
  __m512 sum[R][4];
  for (int r = 0; r < R; ++r)
    for (int j = 0; j < 4; ++j) sum[r][j] = _mm512_setzero_ps();
  for (int64_t i = 0; i < k; ++i, panel += kWidth) {
    const __m512bh b0 = (__m512bh)_mm512_loadu_si512(panel), b1 = (__m512bh)_mm512_loadu_si512(panel + 16),
                   b2 = (__m512bh)_mm512_loadu_si512(panel + 32), b3 = (__m512bh)_mm512_loadu_si512(panel + 48);
    for (int r = 0; r < R; ++r) {
      const __m512bh a = (__m512bh)_mm512_set1_epi32(x[r * stride + i]);
      sum[r][0] = _mm512_dpbf16_ps(sum[r][0], a, b0);
      sum[r][1] = _mm512_dpbf16_ps(sum[r][1], a, b1);
      sum[r][2] = _mm512_dpbf16_ps(sum[r][2], a, b2);
      sum[r][3] = _mm512_dpbf16_ps(sum[r][3], a, b3);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int j = 0; j < 4; ++j) _mm512_storeu_ps(out + r * kWidth + 16 * j, sum[r][j]);
}

template <typename T>
void rows_of_tile(int64_t rows, const T* x, int64_t stride, const T* panel, int64_t k, float* out) {
  switch (rows) {
    case 1: return tile<1>(x, stride, panel, k, out);
    case 2: return tile<2>(x, stride, panel, k, out);
    case 3: return tile<3>(x, stride, panel, k, out);
    case 4: return tile<4>(x, stride, panel, k, out);
    case 5: return tile<5>(x, stride, panel, k, out);
    default: return tile<6>(x, stride, panel, k, out);
  }
}

uint16_t rounded(float x) { return at::BFloat16(x).x; }

template <typename T>
void product(const at::Tensor& x, const at::Tensor& packed, const float* bias, at::Tensor& out) {
  const int64_t rows = x.size(0), columns = out.size(1), panels = packed.size(0), k = packed.size(1);
  const T* from = static_cast<const T*>(x.const_data_ptr());
  const T* weights = static_cast<const T*>(packed.const_data_ptr());
  const bool half = out.scalar_type() == at::kBFloat16;
  at::parallel_for(0, panels, 1, [&](int64_t begin, int64_t end) {
    float sums[kRows * kWidth];
    for (int64_t p = begin; p < end; ++p) {
      const int64_t width = std::min(kWidth, columns - p * kWidth);
      for (int64_t r = 0; r < rows; r += kRows) {
        const int64_t n = std::min(kRows, rows - r);
        rows_of_tile<T>(n, from + r * k, k, weights + p * k * kWidth, k, sums);
        for (int64_t i = 0; i < n; ++i) {
          const int64_t at = (r + i) * columns + p * kWidth;
          const float* sum = sums + i * kWidth;
          if (half) {
            uint16_t* to = static_cast<uint16_t*>(out.data_ptr()) + at;
            for (int64_t c = 0; c < width; ++c) to[c] = rounded(sum[c] + (bias ? bias[p * kWidth + c] : 0.f));
          } else {
            float* to = static_cast<float*>(out.data_ptr()) + at;
            for (int64_t c = 0; c < width; ++c) to[c] = sum[c] + (bias ? bias[p * kWidth + c] : 0.f);
          }
        }
      }
    }
  });
}

}  // namespace

// weight [N, K] -> [panels, K, 64] float32, or [panels, K / 2, 64] pairs of bfloat16 as int32.
at::Tensor pack_weight(const at::Tensor& weight) {
  const at::ScalarType dtype = weight.scalar_type();
  TORCH_CHECK_VALUE(packs(dtype), "weight: this processor does not multiply packed weights of ", dtype);
  check_tensor("weight", weight, dtype, {-1, -1});
  const int64_t n = weight.size(0), k = weight.size(1), panels = (n + kWidth - 1) / kWidth;
  TORCH_CHECK_VALUE(n > 0 && k > 0 && k % 2 == 0, "weight: expected an even number of columns, got ", weight.sizes());
  const at::Tensor rows = at::zeros({panels * kWidth, k}, weight.options());
  rows.narrow(0, 0, n).copy_(weight);
  const at::Tensor units = dtype == at::kFloat ? rows : rows.view(at::kInt);
  return units.view({panels, kWidth, units.size(1)}).transpose(1, 2).contiguous();
}

// x [..., K] times the weight [N, K] that was packed, plus bias [N] float32: [..., N] of x's dtype, or of float32 if
// `whole`.
at::Tensor packed_linear(const at::Tensor& x, const at::Tensor& packed, const std::optional<at::Tensor>& bias,
                         int64_t columns, bool whole) {
  const at::ScalarType dtype = x.scalar_type();
  const bool half = dtype == at::kBFloat16;
  TORCH_CHECK_VALUE(packs(dtype) && x.dim() > 0, "x: this processor does not multiply packed weights by ", dtype);
  TORCH_CHECK_VALUE(columns > 0, "columns: expected a positive number, got ", columns);
  check_tensor("packed", packed, half ? at::kInt : at::kFloat, {(columns + kWidth - 1) / kWidth, -1, kWidth});
  check_contiguous("packed", packed);
  const at::Tensor rows = x.reshape({-1, x.size(-1)}).contiguous();
  check_tensor("x", rows, dtype, {-1, packed.size(1) * (half ? 2 : 1)});
  if (bias) check_tensor("bias", *bias, at::kFloat, {columns});
  if (bias) check_contiguous("bias", *bias);
  at::Tensor out = at::empty({rows.size(0), columns}, x.options().dtype(whole ? at::kFloat : dtype));
  const float* b = bias ? bias->const_data_ptr<float>() : nullptr;
  half ? product<uint32_t>(rows, packed, b, out) : product<float>(rows, packed, b, out);
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = columns;
  return out.view(shape);
}

#else

at::Tensor pack_weight(const at::Tensor&) { TORCH_CHECK_VALUE(false, "weight: not packed on this platform"); }

at::Tensor packed_linear(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, int64_t, bool) {
  TORCH_CHECK_VALUE(false, "x: weights are not packed on this platform");
}

#endif

}  // namespace advgame

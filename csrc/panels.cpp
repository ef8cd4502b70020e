#include "panels.h"

#include <ATen/Version.h>

#include "head.h"

#if defined(__x86_64__) && defined(__linux__)
#define ADVGAME_PANELS
#include <immintrin.h>
#endif

namespace advgame {

#ifdef ADVGAME_PANELS

// ATEN_CPU_CAPABILITY=avx2 turns AVX-512 off here, as in PyTorch.
bool has_wide_panels() {
  static const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                           at::get_cpu_capability() == "AVX512";
  return wide;
}

namespace {

constexpr int64_t kRows = 6;        // at a time
constexpr int64_t kPart = 1 << 16;  // numbers, or pairs, of a strip at a time: they stay in the second-level cache
constexpr int64_t kNarrow = 16;     // columns whose sums of six rows fill the registers of AVX2

int64_t strip_width() { return has_wide_panels() ? kWidth : kNarrow; }

#define ADVGAME_AVX2 __attribute__((target("avx2,fma")))
#define ADVGAME_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))
#define ADVGAME_AVX512_BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))

// What is read of left, and where the sums go.
template <typename T>
struct Rows {
  const T* left;
  int64_t row_stride, column_stride;
  float* out;
  int64_t out_stride;
  bool add;
};

// Unless these loops are unrolled at once, GCC keeps the sums in memory and stores them at every step over K.
template <int R, typename T>
ADVGAME_AVX512 inline void begin(const Rows<T>& rows, __m512 (&sum)[R][4]) {
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
    for (int j = 0; j < 4; ++j)
      sum[r][j] = rows.add ? _mm512_loadu_ps(rows.out + r * rows.out_stride + 16 * j) : _mm512_setzero_ps();
}

template <int R>
ADVGAME_AVX2 inline void begin(const Rows<float>& rows, __m256 (&sum)[R][2]) {
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
    for (int j = 0; j < 2; ++j)
      sum[r][j] = rows.add ? _mm256_loadu_ps(rows.out + r * rows.out_stride + 8 * j) : _mm256_setzero_ps();
}

template <int R, typename T>
ADVGAME_AVX512 inline void finish(const Rows<T>& rows, const __m512 (&sum)[R][4]) {
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
    for (int j = 0; j < 4; ++j) _mm512_storeu_ps(rows.out + r * rows.out_stride + 16 * j, sum[r][j]);
}

template <int R>
ADVGAME_AVX2 inline void finish(const Rows<float>& rows, const __m256 (&sum)[R][2]) {
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
    for (int j = 0; j < 2; ++j) _mm256_storeu_ps(rows.out + r * rows.out_stride + 8 * j, sum[r][j]);
}

template <int R>
ADVGAME_AVX512 inline void tile(const Rows<float>& rows, int64_t k, const float* panel) {
  __m512 sum[R][4];
  begin(rows, sum);
  const float* left = rows.left;
  for (int64_t i = 0; i < k; ++i, panel += kWidth, left += rows.column_stride) {
    const __m512 b0 = _mm512_loadu_ps(panel), b1 = _mm512_loadu_ps(panel + 16), b2 = _mm512_loadu_ps(panel + 32),
                 b3 = _mm512_loadu_ps(panel + 48);
    for (int r = 0; r < R; ++r) {
      const __m512 a = _mm512_set1_ps(left[r * rows.row_stride]);
      sum[r][0] = _mm512_fmadd_ps(a, b0, sum[r][0]);
      sum[r][1] = _mm512_fmadd_ps(a, b1, sum[r][1]);
      sum[r][2] = _mm512_fmadd_ps(a, b2, sum[r][2]);
      sum[r][3] = _mm512_fmadd_ps(a, b3, sum[r][3]);
    }
  }
  finish(rows, sum);
}

template <int R>
ADVGAME_AVX512_BF16 inline void tile(const Rows<uint32_t>& rows, int64_t k, const uint32_t* panel) {
  __m512 sum[R][4];
  begin(rows, sum);
  const uint32_t* left = rows.left;
  for (int64_t i = 0; i < k; ++i, panel += kWidth, left += rows.column_stride) {
    const __m512bh b0 = (__m512bh)_mm512_loadu_si512(panel), b1 = (__m512bh)_mm512_loadu_si512(panel + 16),
                   b2 = (__m512bh)_mm512_loadu_si512(panel + 32), b3 = (__m512bh)_mm512_loadu_si512(panel + 48);
    for (int r = 0; r < R; ++r) {
      const __m512bh a = (__m512bh)_mm512_set1_epi32(left[r * rows.row_stride]);
      sum[r][0] = _mm512_dpbf16_ps(sum[r][0], a, b0);
      sum[r][1] = _mm512_dpbf16_ps(sum[r][1], a, b1);
      sum[r][2] = _mm512_dpbf16_ps(sum[r][2], a, b2);
      sum[r][3] = _mm512_dpbf16_ps(sum[r][3], a, b3);
    }
  }
  finish(rows, sum);
}

template <int R>
ADVGAME_AVX2 inline void narrow_tile(const Rows<float>& rows, int64_t k, const float* strip) {
  __m256 sum[R][2];
  begin(rows, sum);
  const float* left = rows.left;
  for (int64_t i = 0; i < k; ++i, strip += kNarrow, left += rows.column_stride) {
    const __m256 b0 = _mm256_loadu_ps(strip), b1 = _mm256_loadu_ps(strip + 8);
    for (int r = 0; r < R; ++r) {
      const __m256 a = _mm256_broadcast_ss(left + r * rows.row_stride);
      sum[r][0] = _mm256_fmadd_ps(a, b0, sum[r][0]);
      sum[r][1] = _mm256_fmadd_ps(a, b1, sum[r][1]);
    }
  }
  finish(rows, sum);
}

template <int R, typename T>
void some_rows(const Rows<T>& rows, int64_t k, const T* strip) {
  if constexpr (std::is_same_v<T, float>)
    if (!has_wide_panels()) return narrow_tile<R>(rows, k, strip);
  tile<R>(rows, k, strip);
}

template <typename T>
void some_rows(int64_t count, const Rows<T>& rows, int64_t k, const T* strip) {
  switch (count) {
    case 1:
      return some_rows<1>(rows, k, strip);
    case 2:
      return some_rows<2>(rows, k, strip);
    case 3:
      return some_rows<3>(rows, k, strip);
    case 4:
      return some_rows<4>(rows, k, strip);
    case 5:
      return some_rows<5>(rows, k, strip);
    default:
      return some_rows<6>(rows, k, strip);
  }
}

template <typename T>
void multiply(int64_t count, int64_t k, Rows<T> rows, const T* panel) {
  const int64_t width = strip_width(), most = kPart / width;
  for (int64_t column = 0; column < kWidth; column += width)
    for (int64_t begin = 0; begin < k; begin += most) {
      const int64_t depth = std::min(most, k - begin);
      const T* strip = panel + column * k + begin * width;
      for (int64_t r = 0; r < count; r += kRows) {
        const T* left = rows.left + r * rows.row_stride + begin * rows.column_stride;
        float* out = rows.out + r * rows.out_stride + column;
        const Rows<T> part{left, rows.row_stride, rows.column_stride, out, rows.out_stride, rows.add || begin > 0};
        some_rows(std::min(kRows, count - r), part, depth, strip);
      }
    }
  if (k == 0 && !rows.add)
    for (int64_t r = 0; r < count; ++r) std::fill_n(rows.out + r * rows.out_stride, kWidth, 0.f);
}

}  // namespace

bool has_panels(at::ScalarType dtype) {
  if (dtype == at::kFloat) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return dtype == at::kBFloat16 && has_wide_panels() && __builtin_cpu_supports("avx512bf16");
}

at::Tensor pack_panels(const at::Tensor& matrix) {
  const int64_t k = matrix.size(0), n = matrix.size(1), panels = panels_of(n), strip = strip_width();
  const at::Tensor columns = at::zeros({panels * kWidth, k}, matrix.options());
  columns.narrow(0, 0, n).copy_(matrix.t());
  const at::Tensor units = matrix.scalar_type() == at::kFloat ? columns : columns.view(at::kInt);
  const int64_t depth = units.size(1);
  return units.view({-1, strip, depth}).transpose(1, 2).contiguous().view({panels, depth, kWidth});
}

void multiply_panel(int64_t rows, int64_t k, const float* left, int64_t row_stride, int64_t column_stride,
                    const float* panel, float* out, int64_t out_stride, bool add) {
  multiply<float>(rows, k, {left, row_stride, column_stride, out, out_stride, add}, panel);
}

void multiply_panel(int64_t rows, int64_t k, const uint32_t* left, int64_t row_stride, int64_t column_stride,
                    const uint32_t* panel, float* out, int64_t out_stride, bool add) {
  multiply<uint32_t>(rows, k, {left, row_stride, column_stride, out, out_stride, add}, panel);
}

#else

bool has_panels(at::ScalarType) { return false; }
bool has_wide_panels() { return false; }
at::Tensor pack_panels(const at::Tensor& matrix) { return matrix; }

void multiply_panel(int64_t, int64_t, const float*, int64_t, int64_t, const float*, float*, int64_t, bool) {}
void multiply_panel(int64_t, int64_t, const uint32_t*, int64_t, int64_t, const uint32_t*, float*, int64_t, bool) {}

#endif

}  // namespace advgame

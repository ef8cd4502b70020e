// Linear layers for sampling: few rows at a time through the same weights, which are packed once for it (panels.h).
// AMX reads panels of bfloat16 as they are.
#include <ATen/native/CPUBlas.h>
#include <ATen/ops/empty.h>

#include "checks.h"
#include "factor.h"
#include "head.h"
#include "panels.h"

namespace advgame {
namespace {

namespace blas = at::native::cpublas;

constexpr int64_t kRows = 96;        // rows whose sums are held at a time
constexpr int64_t kGrain = 1 << 18;  // products that are worth a thread of their own

// Asks for a panel, which is read once its turn comes.
void prefetch(const void* panel, int64_t bytes) {
  const char* begin = static_cast<const char*>(panel);
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(begin + i, 0, 2);
}

// to [n] = sums + bias.
ADVGAME_MULTIVERSION
void add_bias(const float* __restrict sums, const float* __restrict bias, int64_t n, float* __restrict to) {
  if (bias)
    for (int64_t i = 0; i < n; ++i) to[i] = sums[i] + bias[i];
  else
    std::copy_n(sums, n, to);
}

ADVGAME_MULTIVERSION
void add_bias(const float* __restrict sums, const float* __restrict bias, int64_t n, uint16_t* __restrict to) {
  if (bias)
    for (int64_t i = 0; i < n; ++i) narrow(sums[i] + bias[i], to[i]);
  else
    for (int64_t i = 0; i < n; ++i) narrow(sums[i], to[i]);
}

// sums [rows, 64] = left [rows, k numbers, or pairs] x panel.
void multiply(int64_t rows, int64_t k, const float* left, const float* panel, float* sums, bool) {
  multiply_panel(rows, k, left, k, 1, panel, sums, kWidth, /*add=*/false);
}

void multiply(int64_t rows, int64_t k, const uint32_t* left, const uint32_t* panel, float* sums, bool by_tiles) {
  if (!by_tiles) return multiply_panel(rows, k, left, k, 1, panel, sums, kWidth, /*add=*/false);
  blas::brgemm(rows, kWidth, 2 * k, 2 * k, kWidth, kWidth, /*add=*/false, reinterpret_cast<const at::BFloat16*>(left),
               reinterpret_cast<const at::BFloat16*>(panel), sums);
}

// x [rows, K] times all panels, plus bias, into out [rows, columns].
template <typename T, typename Out>
void multiply_rows(const at::Tensor& x, const at::Tensor& packed, const float* bias, const at::Tensor& out) {
  const int64_t rows = x.size(0), columns = out.size(1), panels = packed.size(0), k = packed.size(1);
  const T* left = static_cast<const T*>(x.const_data_ptr());
  const T* weights = static_cast<const T*>(packed.const_data_ptr());
  Out* to = static_cast<Out*>(out.mutable_data_ptr());
  const bool by_tiles = std::is_same_v<T, uint32_t> && has_tiles();
  const int64_t grain = 1 + kGrain / std::max<int64_t>(1, rows * k * kWidth);
  at::parallel_for(0, panels, grain, [&](int64_t begin, int64_t end) {
    std::vector<float> sums(std::min(rows, kRows) * kWidth);
    for (int64_t p = begin; p < end; ++p) {
      if (by_tiles && p + 1 < end) prefetch(weights + (p + 1) * k * kWidth, k * kWidth * sizeof(T));
      const int64_t first = p * kWidth, width = std::min(kWidth, columns - first);
      for (int64_t r = 0; r < rows; r += kRows) {
        const int64_t n = std::min(kRows, rows - r);
        multiply(n, k, left + r * k, weights + p * k * kWidth, sums.data(), by_tiles);
        for (int64_t i = 0; i < n; ++i)
          add_bias(sums.data() + i * kWidth, bias ? bias + first : nullptr, width, to + (r + i) * columns + first);
      }
    }
    if (by_tiles) release_tiles();
  });
}

}  // namespace

// weight [N, K] -> panels of its transpose.
at::Tensor pack_weight(const at::Tensor& weight) {
  const at::ScalarType dtype = weight.scalar_type();
  TORCH_CHECK_VALUE(has_panels(dtype), "weight: this processor does not multiply packed weights of ", dtype);
  check_tensor("weight", weight, dtype, {-1, -1});
  TORCH_CHECK_VALUE(weight.size(0) > 0 && weight.size(1) > 0 && weight.size(1) % 2 == 0,
                    "weight: expected a row or more and an even number of columns, got ", weight.sizes());
  return pack_panels(weight.t());
}

// x [..., K] times the weight [N, K] that was packed, plus bias [N] float32: [..., N] of x's dtype, or of float32 if
// `whole`.
at::Tensor packed_linear(const at::Tensor& x, const at::Tensor& packed, const std::optional<at::Tensor>& bias,
                         int64_t columns, bool whole) {
  const at::ScalarType dtype = x.scalar_type();
  const bool half = dtype == at::kBFloat16;
  TORCH_CHECK_VALUE(has_panels(dtype) && x.dim() > 0, "x: this processor does not multiply packed weights by ", dtype);
  TORCH_CHECK_VALUE(columns > 0, "columns: expected a positive number, got ", columns);
  check_tensor("packed", packed, half ? at::kInt : at::kFloat, {panels_of(columns), -1, kWidth});
  check_contiguous("packed", packed);
  const at::Tensor rows = x.reshape({-1, x.size(-1)}).contiguous();
  check_tensor("x", rows, dtype, {-1, packed.size(1) * (half ? 2 : 1)});
  const float* b = nullptr;
  if (bias) {
    check_tensor("bias", *bias, at::kFloat, {columns});
    check_contiguous("bias", *bias);
    b = bias->const_data_ptr<float>();
  }
  at::Tensor out = at::empty({rows.size(0), columns}, x.options().dtype(whole ? at::kFloat : dtype));
  if (!half) multiply_rows<float, float>(rows, packed, b, out);
  if (half && whole) multiply_rows<uint32_t, float>(rows, packed, b, out);
  if (half && !whole) multiply_rows<uint32_t, uint16_t>(rows, packed, b, out);
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = columns;
  return out.view(shape);
}

}  // namespace advgame

// Linear layers for sampling: few rows at a time through the same weights, which are packed once for it (panels.h).
#include "checks.h"
#include "head.h"
#include "panels.h"

namespace advgame {
namespace {

constexpr int64_t kRows = 96;        // rows whose sums are held at a time
constexpr int64_t kGrain = 1 << 18;  // products that are worth a thread of their own

// x [rows, K] times all panels, plus bias, into out [rows, columns].
template <typename T, typename Out>
void multiply_rows(const at::Tensor& x, const at::Tensor& packed, const float* bias, const at::Tensor& out) {
  const int64_t rows = x.size(0), columns = out.size(1), panels = packed.size(0), k = packed.size(1);
  const T* left = static_cast<const T*>(x.const_data_ptr());
  const T* weights = static_cast<const T*>(packed.const_data_ptr());
  Out* to = static_cast<Out*>(out.mutable_data_ptr());
  const int64_t grain = 1 + kGrain / std::max<int64_t>(1, rows * k * kWidth);
  at::parallel_for(0, panels, grain, [&](int64_t begin, int64_t end) {
    std::vector<float> sums(std::min(rows, kRows) * kWidth);
    for (int64_t p = begin; p < end; ++p) {
      const int64_t first = p * kWidth, width = std::min(kWidth, columns - first);
      for (int64_t r = 0; r < rows; r += kRows) {
        const int64_t n = std::min(kRows, rows - r);
        multiply_panel(n, k, left + r * k, k, 1, weights + p * k * kWidth, sums.data(), kWidth, /*add=*/false);
        for (int64_t i = 0; i < n; ++i)
          for (int64_t c = 0; c < width; ++c)
            to[(r + i) * columns + first + c] = Out(sums[i * kWidth + c] + (bias ? bias[first + c] : 0.f));
      }
    }
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
  if (half && !whole) multiply_rows<uint32_t, at::BFloat16>(rows, packed, b, out);
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = columns;
  return out.view(shape);
}

}  // namespace advgame

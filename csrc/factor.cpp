#include "factor.h"

#include <ATen/native/CPUBlas.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>

#include "panels.h"

namespace advgame {
namespace {

namespace blas = at::native::cpublas;

constexpr int64_t kRows = 64;    // rows of the left factor at a time: their parts and results stay in cache
constexpr int64_t kPanel = 512;  // columns of the right factor per panel, at most: a panel stays in cache too

// Returns the bits of the bfloat16 nearest to x, and subtracts it from x.
__attribute__((always_inline)) inline uint32_t take_bfloat16(float& x) {
  uint32_t bits = std::bit_cast<uint32_t>(x);
  bits = x == x ? (bits + 0x7fff + ((bits >> 16) & 1)) >> 16 : 0x7fc0;  // a GPU's NaN, 0x7fffffff, would round to -0
  x -= std::bit_cast<float>(bits << 16);
  return bits;
}

template <int kParts>
__attribute__((always_inline)) inline void split_row(const float* __restrict row, int64_t n, uint16_t* __restrict out,
                                                     int64_t stride) {
  for (int64_t i = 0; i < n; ++i) {
    float x = row[i];
    for (int part = 0; part < kParts; ++part) out[part * stride + i] = take_bfloat16(x);
  }
}

template <int kParts>
__attribute__((always_inline)) inline void split_pair(const float* __restrict even, const float* __restrict odd,
                                                      int64_t n, uint32_t* __restrict out, int64_t stride) {
  for (int64_t i = 0; i < n; ++i) {
    float x = even[i], y = odd[i];
    for (int part = 0; part < kParts; ++part) {
      const uint32_t bits = take_bfloat16(x);
      out[part * stride + i] = bits | take_bfloat16(y) << 16;
    }
  }
}

// Splits a row into parts: n bfloat16 each, `stride` apart.
ADVGAME_MULTIVERSION
void split(const float* row, int64_t n, int64_t parts, uint16_t* out, int64_t stride) {
  parts == 3 ? split_row<3>(row, n, out, stride) : split_row<2>(row, n, out, stride);
}

// Splits two rows into parts, interleaved: n pairs of bfloat16 each, `stride` apart.
ADVGAME_MULTIVERSION
void split_interleaved(const float* even, const float* odd, int64_t n, int64_t parts, uint32_t* out, int64_t stride) {
  if (parts == 3) split_pair<3>(even, odd, n, out, stride);
  if (parts == 2) split_pair<2>(even, odd, n, out, stride);
  if (parts == 1) split_pair<1>(even, odd, n, out, stride);
}

// out [n, m] = in [m, n] transposed, in squares whose cache lines stay in cache.
ADVGAME_MULTIVERSION
void transpose(const uint32_t* __restrict in, int64_t m, int64_t n, uint32_t* __restrict out) {
  constexpr int64_t kSquare = 16;
  for (int64_t i = 0; i < m; i += kSquare)
    for (int64_t j = 0; j < n; ++j)
      for (int64_t k = i; k < std::min(i + kSquare, m); ++k) out[j * m + k] = in[k * n + j];
}

template <typename T>
T* data(const at::Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

// [parts, M, K]: the parts of a float32 matrix, each contiguous.
at::Tensor split_left(const at::Tensor& left, int64_t parts) {
  const int64_t m = left.size(0), k = left.size(1);
  const at::Tensor out = at::empty({parts, m, k}, left.options().dtype(at::kBFloat16));
  const float* from = left.const_data_ptr<float>();
  if (left.stride(1) == 1) {
    for (int64_t i = 0; i < m; ++i) split(from + i * left.stride(0), k, parts, data<uint16_t>(out) + i * k, m * k);
    return out;
  }
  TORCH_INTERNAL_ASSERT(left.stride(0) == 1);
  const at::Tensor columns = at::empty_like(out);  // [parts, K / 2, M, 2]
  for (int64_t j = 0; j < k; j += 2)
    split_interleaved(from + j * left.stride(1), from + (j + 1) * left.stride(1), m, parts,
                      data<uint32_t>(columns) + j / 2 * m, m * k / 2);
  for (int64_t part = 0; part < parts; ++part)
    transpose(data<uint32_t>(columns[part]), k / 2, m, data<uint32_t>(out[part]));
  return out;
}

// The width of the panels that n columns are cut into: equal, and a multiple of a tile's 32.
int64_t panel_width(int64_t n) {
  const int64_t panels = (n + kPanel - 1) / kPanel;
  return (n + panels * 32 - 1) / (panels * 32) * 32;
}

}  // namespace

bool has_tiles() { return blas::could_pack(at::kBFloat16); }

Factor::Factor(const at::Tensor& matrix, Precision precision)
    : columns_(matrix.size(1)), limit_(std::max<int64_t>(2, int64_t(precision))) {
  const int64_t k = matrix.size(0), n = columns_;
  const bool whole = matrix.scalar_type() == at::kBFloat16, empty = matrix.numel() == 0;
  if (!has_tiles() && !empty && has_wide_panels() && has_panels(matrix.scalar_type()) && !(whole && k % 2)) {
    panels_ = pack_panels(matrix);
    return;
  }
  const at::Tensor rows = matrix.to(at::kFloat);
  if (!has_tiles() || (precision == Precision::kWhole && !whole) || k % 2 || empty) {
    matrix_ = rows;
    return;
  }
  const int64_t parts = whole ? 1 : limit_, panel = panel_width(n);
  const at::Tensor ordered = rows.contiguous(), packed = at::empty({parts, k * n}, rows.options().dtype(at::kBFloat16));
  for (int64_t first = 0; first < n; first += panel) {
    const int64_t width = std::min(panel, n - first);
    for (int64_t i = 0; i < k; i += 2) {
      const float* even = ordered.const_data_ptr<float>() + i * n + first;
      split_interleaved(even, even + n, width, parts, data<uint32_t>(packed) + (first * k + i * width) / 2, k * n / 2);
    }
  }
  parts_ = packed.unbind();
}

void Factor::multiply(const at::Tensor& left, at::Tensor out, bool add) const {
  if (panels_.defined()) return multiply_panels(left, out, add);
  if (matrix_.defined()) {
    const at::Tensor rows = left.to(at::kFloat);
    add ? at::addmm_out(out, out, rows, matrix_) : at::mm_out(out, rows, matrix_);
    return;
  }
  const int64_t k = left.size(1), n = columns_, panel = panel_width(n);
  for (int64_t first = 0; first < left.size(0); first += kRows) {
    const at::Tensor rows = left.narrow(0, first, std::min(kRows, left.size(0) - first));
    const at::Tensor lefts = rows.scalar_type() == at::kBFloat16 ? rows.unsqueeze(0) : split_left(rows, limit_);
    for (int64_t column = 0; column < n; column += panel) {
      const int64_t width = std::min(panel, n - column), count = parts_.size();
      float* to = out.mutable_data_ptr<float>() + first * n + column;
      bool more = add;
      for (int64_t order = limit_ - 1; order >= 0; --order)  // small terms first: they round on their own scale
        for (int64_t i = std::max<int64_t>(0, order - count + 1); i <= std::min(order, lefts.size(0) - 1); ++i) {
          blas::brgemm(rows.size(0), width, k, k, width, n, more, data<at::BFloat16>(lefts) + i * lefts.stride(0),
                       data<at::BFloat16>(parts_[order - i]) + column * k, to);
          more = true;
        }
    }
  }
}

// As with tiles, a float32 factor on the left of a bfloat16 one is split into two parts.
void Factor::multiply_panels(const at::Tensor& left, at::Tensor out, bool add) const {
  const int64_t depth = panels_.size(1), n = columns_;
  const bool half = panels_.scalar_type() == at::kInt;
  float sums[kRows * kWidth];
  for (int64_t first = 0; first < left.size(0); first += kRows) {
    const int64_t count = std::min(kRows, left.size(0) - first);
    at::Tensor rows = left.narrow(0, first, count);
    if (half) rows = rows.scalar_type() == at::kBFloat16 ? rows.unsqueeze(0) : split_left(rows, limit_);
    if (!half) rows = rows.to(at::kFloat);
    for (int64_t p = 0; p < panels_.size(0); ++p) {
      if (half) {
        for (int64_t part = rows.size(0) - 1; part >= 0; --part)
          multiply_panel(count, depth, data<uint32_t>(rows) + part * rows.stride(0) / 2, depth, 1,
                         data<uint32_t>(panels_) + p * depth * kWidth, sums, kWidth, part < rows.size(0) - 1);
      } else {
        multiply_panel(count, depth, rows.const_data_ptr<float>(), rows.stride(0), rows.stride(1),
                       panels_.const_data_ptr<float>() + p * depth * kWidth, sums, kWidth, false);
      }
      const int64_t width = std::min(kWidth, n - p * kWidth);
      for (int64_t i = 0; i < count; ++i) {
        float* to = out.mutable_data_ptr<float>() + (first + i) * n + p * kWidth;
        for (int64_t c = 0; c < width; ++c) to[c] = add ? to[c] + sums[i * kWidth + c] : sums[i * kWidth + c];
      }
    }
  }
}

void release_tiles() {
  if (has_tiles()) blas::brgemm_release();
}

}  // namespace advgame

// Products with panels of 64 columns, six rows at a time: by AVX-512, whose registers hold their 6 x 64 sums, or by
// AVX2.
//
// A panel is [K, 64] float32, or [K / 2, 64] pairs of bfloat16, contiguous, so that each step over K reads whole cache
// lines in order. By AVX2 it is four strips of [K, 16], one after another, for the same reason. Sums are float32 and
// run over K in order, for one row as for six: a row's result does not depend on the rows beside it.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace advgame {

constexpr int64_t kWidth = 64;  // columns of a panel

// Whether this processor has them for this dtype: AVX2 or AVX-512 for float32, AVX512_BF16 for bfloat16.
bool has_panels(at::ScalarType dtype);

// Whether they are by AVX-512, and then as fast for many rows as for few: by AVX2, PyTorch's products are faster there.
bool has_wide_panels();

inline int64_t panels_of(int64_t columns) { return (columns + kWidth - 1) / kWidth; }

// matrix [K, N], any strides, K even for bfloat16 -> [panels, K, 64] float32, or [panels, K / 2, 64] int32, each of
// which is a pair of bfloat16. Behind the last column there are zeros.
at::Tensor pack_panels(const at::Tensor& matrix);

// out [rows, 64] (+)= left [rows, K] x panel. Left's numbers (or pairs) are row_stride and column_stride apart.
void multiply_panel(int64_t rows, int64_t k, const float* left, int64_t row_stride, int64_t column_stride,
                    const float* panel, float* out, int64_t out_stride, bool add);
void multiply_panel(int64_t rows, int64_t k, const uint32_t* left, int64_t row_stride, int64_t column_stride,
                    const uint32_t* panel, float* out, int64_t out_stride, bool add);

}  // namespace advgame

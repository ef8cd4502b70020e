// Matrix products with a float32 result, on whatever this processor multiplies fastest.
#pragma once

#include "head.h"

namespace advgame {

// The right-hand factor [K, N] of many products.
//
// Processors with AMX multiply bfloat16 tiles, into float32 sums, an order of magnitude faster than float32. There a
// float32 matrix is taken as the sum of two bfloat16 ones, high + low, to 2^-17 of every number, and a product is
// high high + high low + low high. A bfloat16 matrix is all high. If `exact`, float32 matrices are multiplied as they
// are, and so they are on other processors.
class Factor {
 public:
  Factor(const at::Tensor& matrix, bool exact);  // [K, N], float32 or bfloat16, any strides

  // out [M, N] (+)= left [M, K] matrix. left: float32, or contiguous bfloat16; out: contiguous float32.
  void multiply(const at::Tensor& left, at::Tensor out, bool add) const;

 private:
  int64_t columns_;
  at::Tensor matrix_;              // float32; undefined where parts are used
  std::vector<at::Tensor> parts_;  // bfloat16, high and low: by panels of columns, pairs of rows interleaved
};

// Called by a thread when it has done its products.
void release_tiles();

}  // namespace advgame

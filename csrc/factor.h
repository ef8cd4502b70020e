// Matrix products with a float32 result, on whatever this processor multiplies fastest.
#pragma once

#include "head.h"

namespace advgame {

// How many bfloat16 matrices a float32 one is taken as the sum of, where products are made of those: to 2^-17 of every
// number, or to all of its 24 bits.
enum class Precision { kHigh = 2, kFull = 3 };

// The right-hand factor [K, N] of many products.
//
// Processors with AMX multiply bfloat16 tiles, into float32 sums, an order of magnitude faster than float32. There a
// float32 matrix is split into parts, each the bfloat16 nearest to what the parts before it leave, and a product is the
// sum of the products of parts i and j with i + j < the number of parts: 3 of them, or 6. A bfloat16 matrix is a single
// part. On other processors this is a float32 GEMM.
class Factor {
 public:
  Factor(const at::Tensor& matrix, Precision precision);  // [K, N], float32 or bfloat16, any strides

  // out [M, N] (+)= left [M, K] matrix. left: float32, or contiguous bfloat16; out: contiguous float32.
  void multiply(const at::Tensor& left, at::Tensor out, bool add) const;

 private:
  int64_t columns_, limit_;
  at::Tensor matrix_;              // float32; undefined where parts are used
  std::vector<at::Tensor> parts_;  // bfloat16 [panels, K / 2, kPanel, 2]: by panels of columns, pairs of rows interleaved
};

// Called by a thread when it has done its products.
void release_tiles();

}  // namespace advgame

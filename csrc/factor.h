// Matrix products with a float32 result, on whatever this processor multiplies fastest.
#pragma once

#include "head.h"

namespace advgame {

// Whether this processor has AMX, which multiplies bfloat16 tiles.
bool has_tiles();

// How a float32 matrix is multiplied where the processor has AMX.
//
// AMX multiplies bfloat16 tiles, into float32 sums, an order of magnitude faster than float32. So a float32 matrix is
// split into a sum of bfloat16 parts, each the nearest to the remainder that those before it leave, and a product is
// the sum of the products of parts i and j with i + j < the number of parts.
enum class Precision {
  kWhole = 0,  // no parts, but a float32 product; with a bfloat16 matrix, the same as kHigh
  kHigh = 2,   // two parts, to 2^-17 of every number: three products
  kFull = 3,   // three parts, to all of float32's 24 bits: six products
};

// The right-hand factor [K, N] of many products. A bfloat16 matrix is a single part. Without AMX, panels.h multiplies
// float32 by AVX-512 and bfloat16 by AVX512_BF16; PyTorch multiplies everything else, in float32.
class Factor {
 public:
  Factor(const at::Tensor& matrix, Precision precision);  // [K, N], float32 or bfloat16, any strides

  // out [M, N] (+)= left [M, K] matrix. left: float32, or contiguous bfloat16; out: contiguous float32.
  void multiply(const at::Tensor& left, at::Tensor out, bool add) const;

 private:
  void multiply_panels(const at::Tensor& left, at::Tensor out, bool add) const;

  int64_t columns_, limit_;
  at::Tensor panels_;              // defined where the processor has AVX-512 and no AMX
  at::Tensor matrix_;              // float32, where it has neither
  std::vector<at::Tensor> parts_;  // bfloat16: by panels of columns, pairs of rows interleaved
};

// To be called by each thread after its last product.
void release_tiles();

}  // namespace advgame

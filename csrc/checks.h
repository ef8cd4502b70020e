// Checks of the operators' arguments, for calls that do not come from kernels/: what is read through raw pointers must
// have the shape, the dtype and the strides that the loops expect.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <cstdint>
#include <initializer_list>

namespace advgame {

// A CPU tensor of this dtype and shape; -1 stands for any size.
inline void check_tensor(const char* name, const at::Tensor& tensor, at::ScalarType dtype,
                         std::initializer_list<int64_t> shape) {
  const at::IntArrayRef expected(shape);
  bool fits = tensor.dim() == int64_t(expected.size()) && tensor.scalar_type() == dtype && tensor.is_cpu() &&
              tensor.layout() == at::kStrided;
  for (size_t i = 0; fits && i < expected.size(); ++i) fits = expected[i] < 0 || tensor.size(i) == expected[i];
  TORCH_CHECK_VALUE(fits, name, ": expected ", dtype, " ", expected, " on the CPU (-1: any size), got ",
                    tensor.scalar_type(), " ", tensor.sizes(), " on ", tensor.device());
}

inline void check_contiguous(const char* name, const at::Tensor& tensor) {
  TORCH_CHECK_VALUE(tensor.is_contiguous(), name, ": must be contiguous, has strides ", tensor.strides());
}

// hidden [n, H] and weight [V, H], float32 or bfloat16, and targets [n] int64 in [0, V).
inline void check_head(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets) {
  const at::ScalarType dtype = hidden.scalar_type();
  TORCH_CHECK_VALUE(dtype == at::kFloat || dtype == at::kBFloat16, "hidden: expected float32 or bfloat16, got ", dtype);
  check_tensor("hidden", hidden, dtype, {-1, -1});
  check_tensor("weight", weight, dtype, {-1, hidden.size(1)});
  check_tensor("targets", targets, at::kLong, {hidden.size(0)});
  TORCH_CHECK_VALUE(weight.size(0) > 0, "weight: must have a row");
  const at::Tensor tokens = targets.contiguous();
  const int64_t* token = tokens.const_data_ptr<int64_t>();
  for (int64_t t = 0; t < tokens.size(0); ++t)
    TORCH_CHECK_VALUE(token[t] >= 0 && token[t] < weight.size(0), "targets: ", token[t], " is outside [0, ",
                      weight.size(0), ")");
}

// The buffer of a chunk's probabilities: contiguous float32, `size` numbers or more.
inline void check_probs(const at::Tensor& probs, int64_t size) {
  TORCH_CHECK_VALUE(
      probs.scalar_type() == at::kFloat && probs.is_cpu() && probs.is_contiguous() && probs.numel() >= size,
      "probs: expected ", size, " contiguous float32 numbers on the CPU or more, got ", probs.scalar_type(), " ",
      probs.sizes(), " on ", probs.device());
}

}  // namespace advgame

// `make sanitize` links this into its build: AMX's products of bfloat16 tiles in plain C++, in place of PyTorch's, so
// that the packing around them (csrc/factor.cpp) runs on every processor.
#include <ATen/Context.h>
#include <ATen/native/CPUBlas.h>

namespace at::native::cpublas {

bool could_pack(ScalarType dtype) { return dtype == kBFloat16 && globalContext().userEnabledMkldnn(); }

// C [M, N] (+)= A [M, K] B, where B has pairs of rows interleaved: [K / 2, N, 2].
void brgemm(int64_t M, int64_t N, int64_t K, int64_t ld_a, int64_t ld_b, int64_t ld_c, const bool add_C,
            const BFloat16* A, const BFloat16* B, float* C, bool) {
  for (int64_t m = 0; m < M; ++m)
    for (int64_t n = 0; n < N; ++n) {
      float sum = add_C ? C[m * ld_c + n] : 0.f;
      for (int64_t k = 0; k < K; ++k) sum += float(A[m * ld_a + k]) * float(B[(k / 2 * ld_b + n) * 2 + k % 2]);
      C[m * ld_c + n] = sum;
    }
}

void brgemm_release(bool) {}

}  // namespace at::native::cpublas

// Nucleus (top-p) sampling by inverse CDF, one row per task: see sample_top_p in kernels/sampling.py.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace advgame {
namespace {

struct Candidate {
  float prob;
  int64_t token;
};

// The tokens of largest probability whose mass reaches top_p, most probable first, lower index first on ties.
// Only the tokens above a threshold are sorted; it falls by a factor of 16 until they have enough mass.
void nucleus(const float* probs, int64_t vocab, double top_p, std::vector<Candidate>& kept) {
  float threshold = *std::max_element(probs, probs + vocab) / 16;
  for (;;) {
    kept.clear();
    double mass = 0;
    for (int64_t v = 0; v < vocab; ++v) {
      if (probs[v] >= threshold) {
        kept.push_back({probs[v], v});
        mass += probs[v];
      }
    }
    if (mass >= top_p || threshold == 0) break;
    threshold = threshold < 1e-30f ? 0 : threshold / 16;
  }
  std::sort(kept.begin(), kept.end(), [](const Candidate& a, const Candidate& b) {
    return a.prob > b.prob || (a.prob == b.prob && a.token < b.token);
  });
  double before = 0;
  size_t size = 0;
  while (size < kept.size() && before < top_p) before += kept[size++].prob;
  kept.resize(size);
}

}  // namespace

at::Tensor sample_probs(const at::Tensor& probs, const at::Tensor& uniforms, double top_p) {
  TORCH_CHECK_VALUE(probs.dim() == 2 && probs.scalar_type() == at::kFloat && probs.is_contiguous(),
                    "probs must be a contiguous float32 [rows, vocab] tensor");
  TORCH_CHECK_VALUE(uniforms.dim() == 1 && uniforms.size(0) == probs.size(0) && uniforms.scalar_type() == at::kDouble &&
                        uniforms.is_contiguous(),
                    "uniforms must be a contiguous float64 [rows] tensor");
  const int64_t rows = probs.size(0), vocab = probs.size(1);
  at::Tensor tokens = at::empty({rows}, probs.options().dtype(at::kLong));
  const float* p = probs.const_data_ptr<float>();
  const double* u = uniforms.const_data_ptr<double>();
  int64_t* out = tokens.mutable_data_ptr<int64_t>();
  at::parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
    std::vector<Candidate> kept;
    for (int64_t r = begin; r < end; ++r) {
      if (top_p < 1) {
        nucleus(p + r * vocab, vocab, top_p, kept);
      } else {  // the whole vocabulary, in its own order
        kept.clear();
        for (int64_t v = 0; v < vocab; ++v) kept.push_back({p[r * vocab + v], v});
      }
      double mass = 0, before = 0;
      for (const Candidate& c : kept) mass += c.prob;
      const double target = u[r] * mass;
      size_t i = 0;
      while (i + 1 < kept.size() && (before += kept[i].prob) <= target) ++i;
      while (kept[i].prob == 0) --i;  // rounding at the very end must not pick an impossible token
      out[r] = kept[i].token;
    }
  });
  return tokens;
}

}  // namespace advgame

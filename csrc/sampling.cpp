// Nucleus (top-p) sampling by inverse CDF, one row per task: see sample_top_p in kernels/sampling.py.
#include "checks.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cfloat>
#include <cstdint>
#include <vector>

namespace advgame {
namespace {

struct Candidate {
  float prob;
  int64_t token;
};

// The largest of a row's probabilities, none of which may be negative or NaN, and one of which must be positive.
float largest_of(const float* probs, int64_t vocab) {
  float largest = 0;
  bool valid = true;
  for (int64_t v = 0; v < vocab; ++v) {
    valid &= probs[v] >= 0;
    largest = probs[v] > largest ? probs[v] : largest;
  }
  TORCH_CHECK_VALUE(valid && largest > 0 && largest <= FLT_MAX,
                    "probs: every row needs a positive number, and no NaN, infinity or negative number");
  return largest;
}

// The tokens of largest probability whose mass reaches top_p, most probable first, lower index first on ties.
// Only the tokens above a threshold are sorted; it falls by a factor of 16 until they have enough mass.
void nucleus(const float* probs, int64_t vocab, float largest, double top_p, std::vector<Candidate>& kept) {
  float threshold = largest / 16;
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
  check_tensor("probs", probs, at::kFloat, {-1, -1});
  check_contiguous("probs", probs);
  check_tensor("uniforms", uniforms, at::kDouble, {probs.size(0)});
  check_contiguous("uniforms", uniforms);
  TORCH_CHECK_VALUE(top_p > 0 && top_p <= 1, "top_p: expected a number in (0, 1], got ", top_p);
  const int64_t rows = probs.size(0), vocab = probs.size(1);
  at::Tensor tokens = at::empty({rows}, probs.options().dtype(at::kLong));
  const float* p = probs.const_data_ptr<float>();
  const double* u = uniforms.const_data_ptr<double>();
  int64_t* out = tokens.mutable_data_ptr<int64_t>();
  at::parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
    std::vector<Candidate> kept;
    for (int64_t r = begin; r < end; ++r) {
      TORCH_CHECK_VALUE(u[r] >= 0 && u[r] < 1, "uniforms: expected numbers in [0, 1), got ", u[r]);
      const float largest = largest_of(p + r * vocab, vocab);
      if (top_p < 1) {
        nucleus(p + r * vocab, vocab, largest, top_p, kept);
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

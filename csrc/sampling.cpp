// Nucleus (top-p) sampling by inverse CDF, one row per task: see sample_top_p in kernels/sampling.py.
//
// Two passes over a row's logits: its maximum, and the sums of exp(logit - max), at temperature 1 for the log-prob and
// at the given one for the draw. The second keeps sums and maxima of spans of 1,024 tokens, so that what follows reads
// those spans only in which there is something to find. No probabilities are stored.
#include "checks.h"
#include "head.h"

#include <ATen/ops/empty.h>

#include <algorithm>

namespace advgame {
namespace {

constexpr int64_t kSpan = 1024;  // tokens
constexpr int64_t kLanes = 32;

struct Candidate {
  float prob;
  int64_t token;
};

struct Span {
  float max;
  double mass;
};

ADVGAME_MULTIVERSION
float largest(const float* logits, int64_t n) {
  float lanes[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) lanes[i] = -INFINITY;
  int64_t v = 0;
  for (; v + kLanes <= n; v += kLanes)
    for (int64_t i = 0; i < kLanes; ++i) lanes[i] = logits[v + i] > lanes[i] ? logits[v + i] : lanes[i];
  for (; v < n; ++v) lanes[0] = logits[v] > lanes[0] ? logits[v] : lanes[0];
  return *std::max_element(lanes, lanes + kLanes);
}

// The sum of exp((logit - max) * scale); NaN if there is a NaN or +inf.
ADVGAME_MULTIVERSION
double mass_of(const float* logits, int64_t n, float max, float scale) {
  float lanes[kLanes] = {};
  int64_t v = 0;
  for (; v + kLanes <= n; v += kLanes)
    for (int64_t i = 0; i < kLanes; ++i) lanes[i] += exp_nonpositive((logits[v + i] - max) * scale);
  for (; v < n; ++v) lanes[0] += exp_nonpositive((logits[v] - max) * scale);
  double sum = 0;
  for (int64_t i = 0; i < kLanes; ++i) sum += lanes[i];
  return sum;
}

class Row {
 public:
  Row(const float* logits, int64_t vocab, float temperature) : logits_(logits), vocab_(vocab) {
    scale_ = 1 / temperature;
    for (int64_t v = 0; v < vocab; v += kSpan) spans_.push_back({largest(logits + v, std::min(kSpan, vocab - v)), 0});
    max_ = std::max_element(spans_.begin(), spans_.end(), [](Span a, Span b) { return a.max < b.max; })->max;
    for (size_t s = 0; s < spans_.size(); ++s) {
      const int64_t first = s * kSpan, n = std::min(kSpan, vocab - first);
      const double raw = mass_of(logits + first, n, max_, 1);
      spans_[s].mass = scale_ == 1 ? raw : mass_of(logits + first, n, max_, scale_);
      raw_ += raw;
      mass_ += spans_[s].mass;
    }
  }

  bool valid() const { return std::isfinite(max_) && std::isfinite(raw_); }
  bool overflows() const { return !std::isfinite(max_ * scale_); }
  float logprob(int64_t token) const { return logits_[token] - max_ - float(std::log(raw_)); }

  int64_t draw(double uniform, double top_p) {
    return top_p < 1 ? draw_from_nucleus(uniform, top_p) : draw_from_all(uniform * mass_);
  }

 private:
  float prob(int64_t token) const { return exp_nonpositive((logits_[token] - max_) * scale_); }

  // In the order of the vocabulary.
  int64_t draw_from_all(double target) const {
    size_t span = 0;
    double before = 0;
    while (span + 1 < spans_.size() && before + spans_[span].mass <= target) before += spans_[span++].mass;
    const int64_t end = std::min<int64_t>((span + 1) * kSpan, vocab_);
    int64_t token = span * kSpan;
    while (token + 1 < end && (before += prob(token)) <= target) ++token;
    while (prob(token) == 0) token = token ? token - 1 : vocab_ - 1;  // rounding must not pick an impossible token
    return token;
  }

  // Most probable first, lower index first on ties. Only tokens above a threshold are sorted; it falls by a factor of
  // 16 until they have enough mass.
  int64_t draw_from_nucleus(double uniform, double top_p) {
    std::vector<Candidate> kept;
    for (float threshold = 1.f / 16;; threshold = threshold < 1e-30f ? 0 : threshold / 16) {
      kept.clear();
      double mass = 0;
      // A little lower than the threshold, whatever the rounding: most tokens need no exponential to be left out.
      const float logit =
          threshold ? max_ + (std::log(threshold) - 1e-3f) / scale_ - 1e-6f * std::abs(max_) : -INFINITY;
      for (size_t s = 0; s < spans_.size(); ++s) {
        if (spans_[s].max < logit) continue;
        for (int64_t v = s * kSpan; v < std::min<int64_t>((s + 1) * kSpan, vocab_); ++v) {
          if (logits_[v] < logit) continue;
          const float p = prob(v);
          if (p < threshold) continue;
          kept.push_back({p, v});
          mass += p;
        }
      }
      if (mass >= top_p * mass_ || threshold == 0) break;
    }
    std::sort(kept.begin(), kept.end(), [](const Candidate& a, const Candidate& b) {
      return a.prob > b.prob || (a.prob == b.prob && a.token < b.token);
    });
    double mass = 0;
    size_t size = 0;
    while (size < kept.size() && mass < top_p * mass_) mass += kept[size++].prob;
    size_t i = 0;
    double before = 0;
    while (i + 1 < size && (before += kept[i].prob) <= uniform * mass) ++i;
    while (kept[i].prob == 0) --i;
    return kept[i].token;
  }

  const float* logits_;
  int64_t vocab_;
  float scale_, max_;
  double raw_ = 0, mass_ = 0;
  std::vector<Span> spans_;
};

}  // namespace

std::tuple<at::Tensor, at::Tensor> sample_logits(const at::Tensor& logits, const at::Tensor& uniforms,
                                                 double temperature, double top_p) {
  check_tensor("logits", logits, at::kFloat, {-1, -1});
  check_contiguous("logits", logits);
  check_tensor("uniforms", uniforms, at::kDouble, {logits.size(0)});
  check_contiguous("uniforms", uniforms);
  TORCH_CHECK_VALUE(top_p > 0 && top_p <= 1, "top_p: expected a number in (0, 1], got ", top_p);
  TORCH_CHECK_VALUE(temperature >= 0 && std::isfinite(temperature), "temperature: expected a finite number >= 0, got ",
                    temperature);
  const int64_t rows = logits.size(0), vocab = logits.size(1);
  TORCH_CHECK_VALUE(vocab > 0, "logits: must have a column");
  at::Tensor tokens = at::empty({rows}, logits.options().dtype(at::kLong)),
             logprobs = at::empty({rows}, logits.options());
  const double* u = uniforms.const_data_ptr<double>();
  at::parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const float* of_row = logits.const_data_ptr<float>() + r * vocab;
      Row row(of_row, vocab, temperature ? temperature : 1);
      TORCH_CHECK_VALUE(row.valid(), "logits: every row needs at least one finite logit, and no NaN or +inf");
      TORCH_CHECK_VALUE(u[r] >= 0 && u[r] < 1, "uniforms: expected numbers in [0, 1), got ", u[r]);
      TORCH_CHECK_VALUE(!row.overflows(), "temperature: ", temperature,
                        " is too small for logits of this size, which overflow");
      const int64_t token = temperature ? row.draw(u[r], top_p) : std::max_element(of_row, of_row + vocab) - of_row;
      tokens.mutable_data_ptr<int64_t>()[r] = token;
      logprobs.mutable_data_ptr<float>()[r] = row.logprob(token);
    }
  });
  return {tokens, logprobs};
}

}  // namespace advgame

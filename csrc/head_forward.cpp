// Logits of a chunk of tokens, and the statistics of each token's distribution, tile by tile of the vocabulary.
#include "factor.h"


namespace advgame {
namespace {

// What is kept of one tile of rows x n logits, per token.
struct TileStats {
  float* max;       // [n] largest logit
  float* sum;       // [n] sum of exp(logit - max)
  float* weighted;  // [n] sum of exp(logit - max) (logit - max), for the entropy; may be null
  float* mass;      // [n] sum of what is stored (differs from `sum` under a soft-cap); may be null
};

ADVGAME_MULTIVERSION
void scale_and_cap(float* logits, const float* bias, int64_t rows, int64_t n, float softcap, float inverse_temperature) {
  for (int64_t i = 0; i < rows; ++i) {
    float* row = logits + i * n;
    const float b = bias ? bias[i] : 0.f;
    if (softcap > 0) {
      for (int64_t t = 0; t < n; ++t) row[t] = softcap * std::tanh((row[t] + b) / softcap) * inverse_temperature;
    } else {
      for (int64_t t = 0; t < n; ++t) row[t] = (row[t] + b) * inverse_temperature;
    }
  }
}

ADVGAME_MULTIVERSION
void tile_max(const float* logits, int64_t rows, int64_t n, float* max) {
  for (int64_t t = 0; t < n; ++t) max[t] = -FLT_MAX;  // finite, so that -inf - max is -inf and not NaN
  for (int64_t i = 0; i < rows; ++i) {
    const float* row = logits + i * n;
    for (int64_t t = 0; t < n; ++t) max[t] = row[t] > max[t] ? row[t] : max[t];
  }
}

ADVGAME_MULTIVERSION
void tile_sum(const float* logits, int64_t rows, int64_t n, const TileStats& stats) {
  float* __restrict sum = stats.sum;
  const float* __restrict max = stats.max;
  for (int64_t t = 0; t < n; ++t) sum[t] = 0;
  for (int64_t i = 0; i < rows; ++i) {
    const float* __restrict row = logits + i * n;
    for (int64_t t = 0; t < n; ++t) sum[t] += exp_nonpositive(row[t] - max[t]);
  }
}

// The same, and out receives exp(logit - max).
ADVGAME_MULTIVERSION
void tile_exp(const float* logits, int64_t rows, int64_t n, const TileStats& stats, float* out) {
  float* __restrict sum = stats.sum;
  const float* __restrict max = stats.max;
  for (int64_t t = 0; t < n; ++t) sum[t] = 0;
  for (int64_t i = 0; i < rows; ++i) {
    const float* __restrict row = logits + i * n;
    float* __restrict to = out + i * n;
    for (int64_t t = 0; t < n; ++t) {
      to[t] = exp_nonpositive(row[t] - max[t]);
      sum[t] += to[t];
    }
  }
}

// The same with what is rarely asked for: the entropy, and the slope of the soft-cap in what out receives.
ADVGAME_MULTIVERSION
void tile_exp_more(const float* logits, int64_t rows, int64_t n, const TileStats& stats, float inverse_cap, float* out) {
  for (int64_t t = 0; t < n; ++t) stats.sum[t] = stats.weighted[t] = stats.mass[t] = 0;
  for (int64_t i = 0; i < rows; ++i) {
    const float* row = logits + i * n;
    float* to = out + i * n;
    for (int64_t t = 0; t < n; ++t) {
      const float x = row[t] - stats.max[t];
      const float e = exp_nonpositive(x);
      const float capped = row[t] * inverse_cap;
      stats.sum[t] += e;
      stats.weighted[t] += x > -87.f ? e * x : 0.f;
      to[t] = e * (1 - capped * capped);
      stats.mass[t] += to[t];
    }
  }
}

}  // namespace

// Returns (logps [n], lse [n], entropy [n] or empty, tile_max, mass [n] or empty), all float32.
//   probs: [vocab * padded(n)] or more float32, or undefined: receives, as [vocab, padded(n)], exp(logit - max of its
//     tile), times the soft-cap's slope where there is one; times exp(tile_max - lse) these are the probabilities.
//   tile_max: [tiles, padded(n)].
//   mass: with a soft-cap, the sum over the vocabulary of slope times probability; without, it is 1.
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> head_forward(
    const at::Tensor& hidden, const at::Tensor& weight, const std::optional<at::Tensor>& bias, const at::Tensor& targets,
    double softcap, double temperature, bool with_entropy, bool exact, const std::optional<at::Tensor>& probs) {
  const int64_t size = hidden.size(0), n = padded(size), vocab = weight.size(0), count = tiles(vocab);
  const auto options = hidden.options().dtype(at::kFloat);
  const bool keep = probs.has_value(), capped = softcap > 0, more = with_entropy || capped;
  TORCH_CHECK_VALUE(!keep || (probs->numel() >= vocab * n && probs->is_contiguous()), "probs: too small");

  const Factor x(padded_rows(hidden).t(), exact ? Precision::kFull : Precision::kHigh);
  const at::Tensor w = weight.contiguous();
  const at::Tensor b = bias.has_value() ? bias->to(at::kFloat).contiguous() : at::Tensor();
  at::Tensor max = at::empty({count, n}, options), sum = at::empty({count, n}, options);
  at::Tensor weighted = more ? at::empty({count, n}, options) : at::Tensor();
  at::Tensor mass = more ? at::empty({count, n}, options) : at::Tensor();
  at::Tensor target_logit = at::empty({size}, options);
  const at::Tensor wanted_tokens = targets.contiguous();
  const int64_t* target = wanted_tokens.const_data_ptr<int64_t>();

  at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    at::AutoDispatchBelowADInplaceOrView no_autograd;
    const at::Tensor scratch = at::empty({kTile, n}, options);  // stays in cache, as the whole buffer would not
    for (int64_t k = begin; k < end; ++k) {
      const int64_t first = k * kTile, rows = std::min(kTile, vocab - first);
      at::Tensor tile = scratch.narrow(0, 0, rows);
      x.multiply(w.narrow(0, first, rows), tile, /*add=*/false);
      float* logits = tile.mutable_data_ptr<float>();
      if (b.defined() || capped || temperature != 1)
        scale_and_cap(logits, b.defined() ? b.const_data_ptr<float>() + first : nullptr, rows, n, softcap, 1 / temperature);
      for (int64_t t = 0; t < size; ++t)
        if (target[t] >= first && target[t] < first + rows)
          target_logit.mutable_data_ptr<float>()[t] = logits[(target[t] - first) * n + t];
      TileStats stats{max.mutable_data_ptr<float>() + k * n, sum.mutable_data_ptr<float>() + k * n, nullptr, nullptr};
      tile_max(logits, rows, n, stats.max);
      float* out = keep ? probs->mutable_data_ptr<float>() + first * n : logits;
      if (more) {
        stats.weighted = weighted.mutable_data_ptr<float>() + k * n;
        stats.mass = mass.mutable_data_ptr<float>() + k * n;
        tile_exp_more(logits, rows, n, stats, capped ? temperature / softcap : 0., out);
      } else if (keep) {
        tile_exp(logits, rows, n, stats, out);
      } else {
        tile_sum(logits, rows, n, stats);
      }
    }
    release_tiles();
  });

  // The tiles' sums are put on one scale: the largest logit of the whole row.
  const at::Tensor row_max = max.amax(0), scale = (max - row_max).exp(), total = (sum * scale).sum(0);
  const at::Tensor lse = (row_max + total.log()).narrow(0, 0, size);
  at::Tensor entropy = at::empty({0}, options), whole = at::empty({0}, options);
  if (with_entropy) {
    // H = lse - E[logit], and E[logit] = row_max + sum_k scale_k (weighted_k + (max_k - row_max) sum_k) / total
    const at::Tensor offset = ((max - row_max) * sum * scale).nan_to_num(0., 0., 0.);
    entropy = (total.log() - (weighted * scale + offset).sum(0) / total).narrow(0, 0, size);
  }
  if (capped) whole = ((mass * scale).sum(0) / total).narrow(0, 0, size);
  return {target_logit - lse, lse, entropy, max, whole};
}

}  // namespace advgame

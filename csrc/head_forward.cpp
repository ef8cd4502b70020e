// Logits of a chunk of tokens, and the statistics of each token's distribution, tile by tile of the vocabulary.
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>

#include "checks.h"
#include "factor.h"

namespace advgame {
namespace {

// The statistics of one tile of rows x n logits, for each token.
struct TileStats {
  float* max;       // [n] largest logit
  float* sum;       // [n] sum of exp(logit - max)
  float* weighted;  // [n] sum of exp(logit - max) (logit - max), for the entropy; may be null
  float* mass;      // [n] sum of what is stored (differs from `sum` under a soft-cap); may be null
};

ADVGAME_MULTIVERSION
void scale_and_cap(float* logits, const float* bias, int64_t rows, int64_t n, float softcap,
                   float inverse_temperature) {
  for (int64_t i = 0; i < rows; ++i) {
    float* row = logits + i * n;
    const float b = bias ? bias[i] : 0.f;
    if (softcap > 0) {
      for (int64_t t = 0; t < n; ++t) {
        const float x = row[t] + b;
        row[t] = (softcap * std::tanh(x / softcap) + (x - x)) * inverse_temperature;  // infinity becomes NaN
      }
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

// The same, and stores exp(logit - max) in out.
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

// The same with what is seldom asked for: the terms of the entropy, and out multiplied by the soft-cap's slope.
ADVGAME_MULTIVERSION
void tile_exp_more(const float* logits, int64_t rows, int64_t n, const TileStats& stats, float inverse_cap,
                   float* out) {
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
      to[t] = x < -87.f ? 0.f : e * (1 - capped * capped);  // of a forbidden token too: 0 * -inf is NaN
      stats.mass[t] += to[t];
    }
  }
}

// The statistics of all tiles, [tiles, n] each; the last two are undefined where they are not needed.
struct Tiles {
  at::Tensor max, sum, weighted, mass;

  TileStats of(int64_t k) const {
    const auto row = [&](const at::Tensor& all) {
      return all.defined() ? all.data_ptr<float>() + k * all.size(1) : nullptr;
    };
    return {row(max), row(sum), row(weighted), row(mass)};
  }
};

Tiles empty_tiles(int64_t count, int64_t n, bool more, const at::TensorOptions& options) {
  const auto make = [&](bool needed) { return needed ? at::empty({count, n}, options) : at::Tensor(); };
  return {make(true), make(true), make(more), make(more)};
}

using Outputs = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

// Puts the tiles' sums on one scale, the largest logit of the whole row, and adds them up: what head_forward returns.
Outputs merge(const Tiles& tiles, const at::Tensor& target_logit, bool with_entropy, bool capped) {
  const int64_t size = target_logit.size(0);
  const at::Tensor &max = tiles.max, &sum = tiles.sum;
  const at::Tensor row_max = max.amax(0), scale = (max - row_max).exp(), total = (sum * scale).sum(0);
  const at::Tensor lse = (row_max + total.log()).narrow(0, 0, size);
  at::Tensor entropy = at::empty({0}, max.options()), mass = at::empty({0}, max.options());
  if (with_entropy) {
    // H = lse - E[logit], and E[logit] = row_max + sum_k scale_k (weighted_k + (max_k - row_max) sum_k) / total
    const at::Tensor offset = ((max - row_max) * sum * scale).nan_to_num(0., 0., 0.);
    entropy = (total.log() - (tiles.weighted * scale + offset).sum(0) / total).narrow(0, 0, size);
  }
  if (capped) mass = ((tiles.mass * scale).sum(0) / total).narrow(0, 0, size);
  return {target_logit - lse, target_logit, lse, entropy, max, mass};
}

}  // namespace

// Returns (logps [n], target_logit [n], lse [n], entropy [n] or empty, tile_max, mass [n] or empty), all float32.
//   probs: contiguous float32, [vocab * padded(n)] or more, or none. Receives, as [vocab, padded(n)], exp(logit - max
//     of its tile), times the soft-cap's slope where there is one; times exp(tile_max - lse) these are probabilities.
//   tile_max: [tiles, padded(n)].
//   mass: with a soft-cap, the sum over the vocabulary of slope times probability; without one it is 1.
Outputs head_forward(const at::Tensor& hidden, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                     const at::Tensor& targets, double softcap, double temperature, bool with_entropy, bool exact,
                     const std::optional<at::Tensor>& probs) {
  check_head(hidden, weight, targets);
  const int64_t size = hidden.size(0), n = padded(size), vocab = weight.size(0), count = tiles(vocab);
  const auto options = hidden.options().dtype(at::kFloat);
  const bool keep = probs.has_value(), capped = softcap > 0, more = with_entropy || capped;
  if (bias.has_value()) check_tensor("bias", *bias, bias->scalar_type(), {vocab});
  if (keep) check_probs(*probs, vocab * n);

  const Factor x(padded_rows(hidden).t(), exact ? Precision::kFull : Precision::kHigh);
  const at::Tensor w = weight.contiguous();
  const at::Tensor b = bias.has_value() ? bias->to(at::kFloat).contiguous() : at::Tensor();
  const Tiles all = empty_tiles(count, n, more, options);
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
      const float* biases = b.defined() ? b.const_data_ptr<float>() + first : nullptr;
      if (biases || capped || temperature != 1) scale_and_cap(logits, biases, rows, n, softcap, 1 / temperature);
      for (int64_t t = 0; t < size; ++t)
        if (target[t] >= first && target[t] < first + rows)
          target_logit.mutable_data_ptr<float>()[t] = logits[(target[t] - first) * n + t];
      const TileStats stats = all.of(k);
      tile_max(logits, rows, n, stats.max);
      float* out = keep ? probs->mutable_data_ptr<float>() + first * n : logits;
      if (more) {
        tile_exp_more(logits, rows, n, stats, capped ? temperature / softcap : 0., out);
      } else if (keep) {
        tile_exp(logits, rows, n, stats, out);
      } else {
        tile_sum(logits, rows, n, stats);
      }
    }
    release_tiles();
  });
  return merge(all, target_logit, with_entropy, capped);
}

}  // namespace advgame

// Gradients of a chunk of tokens through the LM head, from as few vocabulary columns as the error allows.
//
// With c_t = dloss/dlogp_t, the gradient of token t's logits is dL_tv = c_t (onehot_tv - p_tv). p is sharply peaked:
// per group of about a hundred tokens, the columns of least energy sum_t dL_tv^2 are dropped, for as long as what
// is dropped from the whole chunk stays below filter_eps^2 ||dL||^2. What is left is gathered into dense blocks:
//   dX = dL_A W_A,   dW_A += dL_A^T X.
// The dropped columns are not forgotten in dX: a token's dropped mass S_t is known, and sum_{v not in A} p_tv W_v is
// close to S_t times the |c|-weighted mean embedding of the group's dropped columns.
#include "factor.h"

#include <cstring>

namespace advgame {
namespace {

constexpr int64_t kBlock = 256;  // active columns gathered at a time

struct Group {  // of neighbouring tokens, which share their set of columns
  int64_t begin, end;
  std::vector<int64_t> columns;  // ascending
};

// For `rows` rows of probs, from p = probs * scale (scale [n] is exp(tile_max - lse) |c|): the sums over the n tokens of
// p^2 and of p. Rows of probs are `stride` apart.
ADVGAME_MULTIVERSION
void energy_and_mass(const float* probs, int64_t rows, int64_t stride, const float* scale, int64_t n, float* energy,
                     float* mass) {
  for (int64_t v = 0; v < rows; ++v) {
    const float* row = probs + v * stride;
    float e = 0, m = 0;
#pragma omp simd reduction(+ : e, m)
    for (int64_t t = 0; t < n; ++t) {
      const float x = row[t] * scale[t];
      e += x * x;
      m += x;
    }
    energy[v] = e;
    mass[v] = m;
  }
}

// out = -c p, kept += p, where p = probs * scale and scale [n] is exp(tile_max - lse).
ADVGAME_MULTIVERSION
void compact_row(const float* __restrict probs, const float* __restrict scale, const float* __restrict coef, int64_t n,
                 float* __restrict out, float* __restrict kept) {
  for (int64_t t = 0; t < n; ++t) {
    const float p = probs[t] * scale[t];
    out[t] = -coef[t] * p;
    kept[t] += p;
  }
}

ADVGAME_MULTIVERSION
void add_row(float* __restrict out, const float* __restrict row, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] += row[i];
}

// A float's order of magnitude, in steps of 1/16 of a power of two: monotone in x >= 0.
constexpr int kBins = 1 << 12;
int bin_of(float x) { return std::bit_cast<uint32_t>(x) >> 19; }

// The first bin that must be kept: those below hold at most `budget` of energy in all.
int first_kept_bin(const float* energy, int64_t size, double budget) {
  std::vector<double> sums(kBins, 0.);
  for (int64_t i = 0; i < size; ++i) sums[bin_of(energy[i])] += energy[i];
  double dropped = 0;
  int bin = 0;
  while (bin < kBins && dropped + sums[bin] <= budget) dropped += sums[bin++];
  return bin;
}

}  // namespace

// Adds to grad_hidden [n, H], grad_weight [V, H] and grad_bias [V] (float32, each optional).
//   coef: [n] dloss/dlogp. probs, tile_max, lse, mass: as head_forward left them. filter_eps 0 keeps everything.
void head_backward(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets, const at::Tensor& coef,
                   const at::Tensor& logps, const at::Tensor& lse, const at::Tensor& target_slope, const at::Tensor& mass,
                   const at::Tensor& tile_max, const at::Tensor& probs, double temperature, double filter_eps,
                   int64_t group_size, const std::optional<at::Tensor>& grad_hidden,
                   const std::optional<at::Tensor>& grad_weight, const std::optional<at::Tensor>& grad_bias) {
  const int64_t size = hidden.size(0), n = padded(size), vocab = weight.size(0), width = hidden.size(1);
  const auto options = hidden.options().dtype(at::kFloat);
  const bool exact = filter_eps == 0;
  // Six products of parts beat one of float32 in the forward pass, but not here.
  const Precision precision = exact ? Precision::kWhole : Precision::kHigh;
  const at::Tensor x = padded_rows(hidden), w = weight.contiguous();
  at::Tensor c = at::zeros({n}, options), scale = at::zeros({tile_max.size(0), n}, options);  // no weight on padding
  c.narrow(0, 0, size).copy_(coef / temperature);
  scale.narrow(1, 0, size).copy_((tile_max.narrow(1, 0, size) - lse).exp());
  const float* p = probs.const_data_ptr<float>();
  const at::Tensor wanted_tokens = targets.contiguous();
  const int64_t* target = wanted_tokens.const_data_ptr<int64_t>();

  const int64_t lanes = n / kLane, wanted = exact ? 1 : std::max<int64_t>(1, (n + group_size / 2) / group_size);
  std::vector<Group> groups;
  for (int64_t g = 0; g < wanted; ++g) groups.push_back({g * lanes / wanted * kLane, (g + 1) * lanes / wanted * kLane, {}});

  at::Tensor tail_mass;  // [groups, V] sum over a group's tokens of |c| p, of dropped columns
  if (!exact) {
    at::Tensor energy = at::empty({wanted, vocab}, options);
    tail_mass = at::empty({wanted, vocab}, options);
    const at::Tensor weighted = scale * c.abs();
    float *e = energy.mutable_data_ptr<float>(), *m = tail_mass.mutable_data_ptr<float>();
    const float* s = weighted.const_data_ptr<float>();
    at::parallel_for(0, tiles(vocab), 1, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) {
        const int64_t first = k * kTile, rows = std::min(kTile, vocab - first);
        for (int64_t g = 0; g < wanted; ++g) {
          const int64_t t = groups[g].begin;
          energy_and_mass(p + first * n + t, rows, n, s + k * n + t, groups[g].end - t, e + g * vocab + first,
                          m + g * vocab + first);
        }
      }
    });
    // ||dL||^2 = sum of c^2 p^2, but (1 - p)^2 = p^2 + 1 - 2p at the targets.
    const double norm = energy.sum(at::kDouble).item<double>() +
                        (c.narrow(0, 0, size) * target_slope).square().mul(1 - 2 * logps.exp()).sum(at::kDouble).item<double>();
    if (norm == 0) return;
    for (const Group& g : groups)  // targets are always kept
      for (int64_t t = g.begin; t < std::min(g.end, size); ++t) e[(&g - groups.data()) * vocab + target[t]] = INFINITY;
    const int lowest = first_kept_bin(e, wanted * vocab, filter_eps * filter_eps * norm);
    at::parallel_for(0, wanted, 1, [&](int64_t begin, int64_t end) {
      for (int64_t g = begin; g < end; ++g)
        for (int64_t v = 0; v < vocab; ++v)
          if (bin_of(e[g * vocab + v]) >= lowest) {
            groups[g].columns.push_back(v);
            m[g * vocab + v] = 0;
          }
    });
  }

  const int threads = at::get_num_threads();
  at::Tensor kept = at::zeros({threads, n}, options);
  for (Group& group : groups) {
    const int64_t span = group.end - group.begin, real = std::min(group.end, size) - group.begin;
    const int64_t columns = exact ? vocab : group.columns.size();
    const int64_t* column = group.columns.data();
    at::Tensor partial = grad_hidden ? at::zeros({threads, span, width}, options) : at::Tensor();
    const float *s = scale.const_data_ptr<float>() + group.begin, *co = c.const_data_ptr<float>() + group.begin;
    const float* slope = target_slope.const_data_ptr<float>() + group.begin;

    std::vector<int64_t> place(real);  // where each token's target stands among the columns
    for (int64_t t = 0; t < real; ++t) {
      const int64_t v = target[group.begin + t];
      place[t] = exact ? v : std::lower_bound(column, column + columns, v) - column;
    }
    const Factor x_group(x.narrow(0, group.begin, span), precision);
    const int64_t rows_a_block = exact ? kTile : kBlock;
    at::parallel_for(0, (columns + rows_a_block - 1) / rows_a_block, 1, [&](int64_t begin, int64_t end) {
      at::AutoDispatchBelowADInplaceOrView no_autograd;
      const int thread = at::get_thread_num();
      const at::Tensor block = at::empty({rows_a_block, span}, options);
      const at::Tensor embeddings = exact || !grad_hidden ? at::Tensor() : at::empty({kBlock, width}, w.options());
      const at::Tensor product = exact || !grad_weight ? at::Tensor() : at::empty({kBlock, width}, options);
      float* seen = kept.mutable_data_ptr<float>() + thread * n + group.begin;
      for (int64_t k = begin; k < end; ++k) {
        const int64_t first = k * rows_a_block, rows = std::min(rows_a_block, columns - first);
        auto row_of = [&](int64_t i) { return exact ? first + i : column[first + i]; };
        const at::Tensor d = block.narrow(0, 0, rows);  // [rows, span] this block of dL, transposed
        float* out = d.mutable_data_ptr<float>();
        for (int64_t i = 0; i < rows; ++i)
          compact_row(p + row_of(i) * n + group.begin, s + row_of(i) / kTile * n, co, span, out + i * span, seen);
        for (int64_t t = 0; t < real; ++t)
          if (place[t] >= first && place[t] < first + rows) out[(place[t] - first) * span + t] += co[t] * slope[t];
        if (grad_hidden && exact) {
          Factor(w.narrow(0, first, rows), precision).multiply(d.t(), partial[thread], /*add=*/true);
        } else if (grad_hidden) {
          const size_t bytes = width * w.element_size();
          const char* from = static_cast<const char*>(w.const_data_ptr());
          char* to = static_cast<char*>(embeddings.mutable_data_ptr());
          for (int64_t i = 0; i < rows; ++i) std::memcpy(to + i * bytes, from + row_of(i) * bytes, bytes);
          if (rows < kBlock) {  // products of one shape only
            embeddings.narrow(0, rows, kBlock - rows).zero_();
            block.narrow(0, rows, kBlock - rows).zero_();
          }
          Factor(embeddings, precision).multiply(block.t(), partial[thread], /*add=*/true);
        }
        if (grad_weight && exact) {
          x_group.multiply(d, grad_weight->narrow(0, first, rows), /*add=*/true);
        } else if (grad_weight) {
          x_group.multiply(d, product.narrow(0, 0, rows), /*add=*/false);
          const float* from = product.const_data_ptr<float>();
          float* to = grad_weight->mutable_data_ptr<float>();
          for (int64_t i = 0; i < rows; ++i) add_row(to + row_of(i) * width, from + i * width, width);
        }
        if (grad_bias) {
          const at::Tensor sums = d.sum(1);
          float* to = grad_bias->mutable_data_ptr<float>();
          for (int64_t i = 0; i < rows; ++i) to[row_of(i)] += sums.const_data_ptr<float>()[i];
        }
      }
      release_tiles();
    });
    if (grad_hidden) grad_hidden->narrow(0, group.begin, real).add_(partial.sum(0).narrow(0, 0, real));
  }

  if (!exact && grad_hidden) {
    const at::Tensor whole = mass.numel() ? mass : at::ones({size}, options);
    const at::Tensor dropped = (whole - kept.sum(0).narrow(0, 0, size)).clamp_min(0) * c.narrow(0, 0, size);
    const at::Tensor total = tail_mass.sum(1, /*keepdim=*/true).clamp_min(FLT_MIN);
    const at::Tensor mean = at::mm((tail_mass / total).to(w.scalar_type()), w).to(at::kFloat);  // [groups, H]
    for (const Group& g : groups) {
      const int64_t real = std::min(g.end, size) - g.begin;
      grad_hidden->narrow(0, g.begin, real)
          .sub_(dropped.narrow(0, g.begin, real).unsqueeze(1) * mean[&g - groups.data()]);
    }
  }
}

}  // namespace advgame

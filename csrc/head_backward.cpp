// Gradients of a chunk of tokens through the LM head, from as few vocabulary columns as the error allows.
//
// With c_t = dloss/dlogp_t, the gradient of token t's logits is dL_tv = c_t (onehot_tv - p_tv). p is sharply peaked:
// per group of about a hundred tokens, the columns of least energy sum_t dL_tv^2 are dropped, for as long as what
// is dropped from the whole chunk stays below filter_eps^2 ||dL||^2. What is left is gathered into dense blocks:
//   dX = dL_A W_A,   dW_A += dL_A^T X.
// The dropped columns are not forgotten in dX: a token's dropped mass S_t is known, and sum_{v not in A} p_tv W_v is
// close to S_t times the |c|-weighted mean embedding of the group's dropped columns.
#include "head.h"

#include <array>
#include <vector>

namespace advgame {
namespace {

struct Group {  // of neighbouring tokens, which share their set of columns
  int64_t begin, end;
  std::vector<int64_t> columns;  // ascending
};

// Per vocabulary row and group, from p = probs * scale (scale [n] is exp(tile_max - lse) |c|): the sum of p^2 and of p.
ADVGAME_MULTIVERSION
void energy_and_mass(const float* probs, const float* scale, int64_t n, float* energy, float* mass) {
  float e = 0, m = 0;
#pragma omp simd reduction(+ : e, m)
  for (int64_t t = 0; t < n; ++t) {
    const float x = probs[t] * scale[t];
    e += x * x;
    m += x;
  }
  *energy = e;
  *mass = m;
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

// Adds to grad_hidden [n, H], grad_weight [V, H] and grad_bias [V] (float32, each optional). Returns the share of
// the n x V entries of dL that was kept.
//   coef: [n] dloss/dlogp. probs, tile_max, lse, mass: as head_forward left them. filter_eps 0 keeps everything.
double head_backward(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets, const at::Tensor& coef,
                     const at::Tensor& logps, const at::Tensor& lse, const at::Tensor& target_slope, const at::Tensor& mass,
                     const at::Tensor& tile_max, const at::Tensor& probs, double temperature, double filter_eps,
                     int64_t group_size, const std::optional<at::Tensor>& grad_hidden,
                     const std::optional<at::Tensor>& grad_weight, const std::optional<at::Tensor>& grad_bias) {
  const int64_t n = hidden.size(0), vocab = weight.size(0), width = hidden.size(1);
  const auto options = hidden.options().dtype(at::kFloat);
  const bool exact = filter_eps == 0;
  const at::Tensor x = hidden.to(at::kFloat).contiguous();
  const at::Tensor c = coef.to(at::kFloat) / temperature;
  const at::Tensor scale = (tile_max - lse).exp();  // [tiles, n]
  const float* p = probs.const_data_ptr<float>();
  const int64_t* target = targets.const_data_ptr<int64_t>();

  const int64_t wanted = exact ? 1 : std::max<int64_t>(1, (n + group_size / 2) / group_size);
  std::vector<Group> groups;
  for (int64_t g = 0; g < wanted; ++g) groups.push_back({g * n / wanted, (g + 1) * n / wanted, {}});

  at::Tensor tail_mass;  // [groups, V] sum over a group's tokens of |c| p, of dropped columns
  if (!exact) {
    at::Tensor energy = at::empty({wanted, vocab}, options);
    tail_mass = at::empty({wanted, vocab}, options);
    const at::Tensor weighted = scale * c.abs();
    float *e = energy.mutable_data_ptr<float>(), *m = tail_mass.mutable_data_ptr<float>();
    const float* s = weighted.const_data_ptr<float>();
    at::parallel_for(0, vocab, kTile, [&](int64_t begin, int64_t end) {
      for (int64_t v = begin; v < end; ++v)
        for (int64_t g = 0; g < wanted; ++g) {
          const int64_t first = groups[g].begin;
          energy_and_mass(p + v * n + first, s + v / kTile * n + first, groups[g].end - first, e + g * vocab + v,
                          m + g * vocab + v);
        }
    });
    // ||dL||^2 = sum of c^2 p^2, but (1 - p)^2 = p^2 + 1 - 2p at the targets.
    const double norm = energy.sum(at::kDouble).item<double>() +
                        (c * c * target_slope.square() * (1 - 2 * logps.exp())).sum(at::kDouble).item<double>();
    if (norm == 0) return 0;
    for (const Group& g : groups)
      for (int64_t t = g.begin; t < g.end; ++t) e[(&g - groups.data()) * vocab + target[t]] = INFINITY;  // always kept
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
  double active = 0;
  for (Group& group : groups) {
    const int64_t size = group.end - group.begin, columns = exact ? vocab : group.columns.size();
    const int64_t* column = group.columns.data();
    active += double(columns) * size;
    at::Tensor x_group = x.narrow(0, group.begin, size);
    at::Tensor partial = grad_hidden ? at::zeros({threads, size, width}, options) : at::Tensor();
    const float *s = scale.const_data_ptr<float>(), *co = c.const_data_ptr<float>();
    const float* slope = target_slope.const_data_ptr<float>();

    // Where each token's target stands among the columns.
    std::vector<int64_t> place(size);
    for (int64_t t = 0; t < size; ++t) {
      const int64_t v = target[group.begin + t];
      place[t] = exact ? v : std::lower_bound(column, column + columns, v) - column;
    }
    at::parallel_for(0, tiles(columns), 1, [&](int64_t begin, int64_t end) {
      at::AutoDispatchBelowADInplaceOrView no_autograd;
      const int thread = at::get_thread_num();
      at::Tensor block = at::empty({kTile, size}, options);
      at::Tensor embeddings = exact || !grad_hidden ? at::Tensor() : at::empty({kTile, width}, options);
      at::Tensor product = exact || !grad_weight ? at::Tensor() : at::empty({kTile, width}, options);
      float* seen = kept.mutable_data_ptr<float>() + thread * n + group.begin;
      for (int64_t k = begin; k < end; ++k) {
        const int64_t first = k * kTile, rows = std::min(kTile, columns - first);
        at::Tensor d = block.narrow(0, 0, rows);  // [rows, size] this block of dL, transposed
        float* out = d.mutable_data_ptr<float>();
        for (int64_t i = 0; i < rows; ++i) {
          const int64_t v = exact ? first + i : column[first + i];
          compact_row(p + v * n + group.begin, s + v / kTile * n + group.begin, co + group.begin, size, out + i * size, seen);
        }
        for (int64_t t = 0; t < size; ++t)
          if (place[t] >= first && place[t] < first + rows)
            out[(place[t] - first) * size + t] += co[group.begin + t] * slope[group.begin + t];
        if (grad_hidden) {
          at::Tensor w = exact ? float_rows(weight, first, first + rows) : embeddings.narrow(0, 0, rows);
          if (!exact)
            for (int64_t i = 0; i < rows; ++i) w[i].copy_(weight[column[first + i]]);
          at::Tensor sum = partial[thread];
          at::addmm_out(sum, sum, d.t(), w);
        }
        if (grad_weight && exact) {
          at::Tensor rows_of_grad = grad_weight->narrow(0, first, rows);
          at::addmm_out(rows_of_grad, rows_of_grad, d, x_group);
        } else if (grad_weight) {
          at::Tensor g = product.narrow(0, 0, rows);
          at::mm_out(g, d, x_group);
          const float* from = g.const_data_ptr<float>();
          float* to = grad_weight->mutable_data_ptr<float>();
          for (int64_t i = 0; i < rows; ++i) add_row(to + column[first + i] * width, from + i * width, width);
        }
        if (grad_bias) {
          const at::Tensor sums = d.sum(1);
          for (int64_t i = 0; i < rows; ++i)
            grad_bias->mutable_data_ptr<float>()[exact ? first + i : column[first + i]] += sums.const_data_ptr<float>()[i];
        }
      }
    });
    if (grad_hidden) grad_hidden->narrow(0, group.begin, size).add_(partial.sum(0));
  }

  if (!exact && grad_hidden) {
    const at::Tensor dropped = ((mass.numel() ? mass : at::ones({n}, options)) - kept.sum(0)).clamp_min(0) * c;  // [n]
    const at::Tensor total = tail_mass.sum(1, /*keepdim=*/true).clamp_min(FLT_MIN);
    const at::Tensor mean = at::mm((tail_mass / total).to(weight.scalar_type()), weight).to(at::kFloat);  // [groups, H]
    for (const Group& g : groups)
      grad_hidden->narrow(0, g.begin, g.end - g.begin)
          .sub_(dropped.narrow(0, g.begin, g.end - g.begin).unsqueeze(1) * mean[&g - groups.data()]);
  }
  return active / (double(n) * vocab);
}

}  // namespace advgame

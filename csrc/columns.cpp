#include "columns.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

namespace advgame {
namespace {

// The sums of x^2 and of x over n tokens, x = probs * scale, for each of `rows` rows of probs, `stride` apart.
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

// Of each column in each group, [groups, V]: the energy of -coef p, and the mass, the sum of |coef| p.
void measure_columns(const Chunk& chunk, const at::Tensor& coef, const std::vector<Group>& groups, at::Tensor energy,
                     at::Tensor mass) {
  const at::Tensor weighted = chunk.scale * coef.abs();
  const float *p = chunk.probs.const_data_ptr<float>(), *scale = weighted.const_data_ptr<float>();
  float *e = energy.mutable_data_ptr<float>(), *m = mass.mutable_data_ptr<float>();
  at::parallel_for(0, tiles(chunk.vocab), 1, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      const int64_t first = k * kTile, rows = std::min(kTile, chunk.vocab - first);
      for (size_t g = 0; g < groups.size(); ++g) {
        const int64_t t = groups[g].begin, to = g * chunk.vocab + first;
        energy_and_mass(p + first * chunk.n + t, rows, chunk.n, scale + k * chunk.n + t, groups[g].span, e + to,
                        m + to);
      }
    }
  });
}

// A float's order of magnitude, in steps of 1/16 of a power of two: monotone in x >= 0. The sign is that of a NaN.
constexpr int kBins = 1 << 12;
int bin_of(float x) { return (std::bit_cast<uint32_t>(x) & 0x7fffffff) >> 19; }

// The lowest bin that must be kept: those below it hold at most `budget` of energy together.
int lowest_kept_bin(const float* energy, int64_t size, double budget) {
  std::vector<double> sums(kBins, 0.);
  for (int64_t i = 0; i < size; ++i) sums[bin_of(energy[i])] += energy[i];
  double dropped = 0;
  int bin = 0;
  while (bin < kBins && dropped + sums[bin] <= budget) dropped += sums[bin++];
  return bin;
}

}  // namespace

std::vector<Group> make_groups(const Chunk& chunk, int64_t count) {
  const int64_t lanes = chunk.n / kLane;
  std::vector<Group> groups;
  for (int64_t g = 0; g < count; ++g) {
    const int64_t begin = g * lanes / count * kLane, end = (g + 1) * lanes / count * kLane;
    groups.push_back({begin, end - begin, std::min(end, chunk.size) - begin, {}});
  }
  return groups;
}

at::Tensor choose_columns(const Chunk& chunk, const at::Tensor& logps, double filter_eps, std::vector<Group>& groups) {
  const int64_t count = groups.size(), vocab = chunk.vocab;
  const at::Tensor largest = chunk.coef.abs().amax();
  if (largest.item<float>() == 0) return {};
  const at::Tensor coef = chunk.coef / largest;  // energies are relative: squares neither overflow nor vanish
  at::Tensor energy = at::empty({count, vocab}, chunk.scale.options()), mass = at::empty_like(energy);
  measure_columns(chunk, coef, groups, energy, mass);

  // ||dL||^2 = sum of c^2 p^2, but (1 - p)^2 = p^2 + 1 - 2p at the targets.
  const at::Tensor at_targets = (coef.narrow(0, 0, chunk.size) * chunk.slope).square().mul(1 - 2 * logps.exp());
  const double norm = energy.sum(at::kDouble).item<double>() + at_targets.sum(at::kDouble).item<double>();
  if (norm == 0) return {};

  float *e = energy.mutable_data_ptr<float>(), *m = mass.mutable_data_ptr<float>();
  const int64_t* target = chunk.targets.const_data_ptr<int64_t>();
  for (int64_t g = 0; g < count; ++g)
    for (int64_t t = 0; t < groups[g].tokens; ++t) e[g * vocab + target[groups[g].begin + t]] = INFINITY;
  const int lowest = lowest_kept_bin(e, count * vocab, filter_eps * filter_eps * norm);
  at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g)
      for (int64_t v = 0; v < vocab; ++v)
        if (bin_of(e[g * vocab + v]) >= lowest) {
          groups[g].columns.push_back(v);
          m[g * vocab + v] = 0;
        }
  });
  return mass;
}

}  // namespace advgame

// Gradients of a chunk of tokens through the LM head, from as few vocabulary columns as the allowed error permits.
//
// With c_t = dloss/dlogp_t, the gradient with respect to token t's logits is dL_tv = c_t (onehot_tv - p_tv). p is
// sharply peaked: most columns carry almost nothing of it, and groups of about a hundred tokens drop them (columns.h).
// What is left is gathered into dense blocks:
//   dX = dL_A W_A,   dW_A += dL_A^T X.
// dX still accounts for the dropped columns: a token's dropped mass S_t is known, and sum_{v not in A} p_tv W_v is
// close to S_t times the |c|-weighted mean embedding of the group's dropped columns.
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>

#include "checks.h"
#include "columns.h"
#include "factor.h"

#include <cstring>

namespace advgame {
namespace {

constexpr int64_t kBlock = 256;  // kept columns gathered at a time

// What the gradients are added to, all float32; each is optional.
struct Gradients {
  const std::optional<at::Tensor>& hidden;  // [n, H]
  const std::optional<at::Tensor>& weight;  // [V, H]
  const std::optional<at::Tensor>& bias;    // [V]
};

// Neighbouring entries of a group's list of columns, or, without a list, neighbouring columns.
struct Block {
  const int64_t* list;
  int64_t first, rows;
  int64_t column(int64_t i) const { return list ? list[first + i] : first + i; }
};

// What a thread works in.
struct Scratch {
  at::Tensor block;       // [rows, span] a block of dL, transposed
  at::Tensor embeddings;  // [kBlock, H] its rows of W, where they have to be gathered
  at::Tensor product;     // [kBlock, H] its part of dW, where that has to be scattered
};

// out = -coef p, kept += p, where p = probs * scale.
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

// Float32 products made of bfloat16 parts beat plain ones in the forward pass even where six are needed, but not here.
Precision precision(bool exact) { return exact ? Precision::kWhole : Precision::kHigh; }

// Where the target of each of a group's tokens is in its list of columns.
std::vector<int64_t> find_targets(const Chunk& chunk, const Group& group, bool exact) {
  const int64_t* target = chunk.targets.const_data_ptr<int64_t>() + group.begin;
  std::vector<int64_t> places(target, target + group.tokens);
  if (exact) return places;
  const auto begin = group.columns.begin(), end = group.columns.end();
  for (int64_t& place : places) place = std::lower_bound(begin, end, place) - begin;
  return places;
}

// out [rows, span] = a block of dL, transposed; kept [span] += the probability in it.
void gather_block(const Chunk& chunk, const Group& group, const Block& block, const std::vector<int64_t>& places,
                  float* out, float* kept) {
  const float* probs = chunk.probs.const_data_ptr<float>() + group.begin;
  const float* scale = chunk.scale.const_data_ptr<float>() + group.begin;
  const float* coef = chunk.coef.const_data_ptr<float>() + group.begin;
  const float* slope = chunk.slope.const_data_ptr<float>() + group.begin;
  for (int64_t i = 0; i < block.rows; ++i) {
    const int64_t v = block.column(i);
    compact_row(probs + v * chunk.n, scale + v / kTile * chunk.n, coef, group.span, out + i * group.span, kept);
  }
  for (int64_t t = 0; t < group.tokens; ++t) {
    const int64_t row = places[t] - block.first;
    if (row >= 0 && row < block.rows) out[row * group.span + t] += coef[t] * slope[t];
  }
}

// out [span, H] += dL W, for a block's columns.
void add_to_hidden(const Block& block, const at::Tensor& w, const Scratch& scratch, const at::Tensor& out) {
  if (!block.list) {
    const Factor rows(w.narrow(0, block.first, block.rows), precision(/*exact=*/true));
    rows.multiply(scratch.block.narrow(0, 0, block.rows).t(), out, /*add=*/true);
    return;
  }
  const size_t bytes = w.size(1) * w.element_size();
  const char* from = static_cast<const char*>(w.const_data_ptr());
  char* to = static_cast<char*>(scratch.embeddings.mutable_data_ptr());
  for (int64_t i = 0; i < block.rows; ++i) std::memcpy(to + i * bytes, from + block.column(i) * bytes, bytes);
  if (const int64_t rest = kBlock - block.rows) {  // products of one shape only
    scratch.embeddings.narrow(0, block.rows, rest).zero_();
    scratch.block.narrow(0, block.rows, rest).zero_();
  }
  Factor(scratch.embeddings, precision(/*exact=*/false)).multiply(scratch.block.t(), out, /*add=*/true);
}

// grad_weight [V, H] += dL^T X, for a block's columns.
void add_to_weight(const Block& block, const Factor& x, const Scratch& scratch, const at::Tensor& grad_weight) {
  const at::Tensor d = scratch.block.narrow(0, 0, block.rows);
  if (!block.list) {
    x.multiply(d, grad_weight.narrow(0, block.first, block.rows), /*add=*/true);
    return;
  }
  const int64_t width = grad_weight.size(1);
  x.multiply(d, scratch.product.narrow(0, 0, block.rows), /*add=*/false);
  const float* from = scratch.product.const_data_ptr<float>();
  float* to = grad_weight.mutable_data_ptr<float>();
  for (int64_t i = 0; i < block.rows; ++i) add_row(to + block.column(i) * width, from + i * width, width);
}

// grad_bias [V] += the sums of dL over tokens, for a block's columns.
void add_to_bias(const Block& block, const Scratch& scratch, const at::Tensor& grad_bias) {
  const at::Tensor sums = scratch.block.narrow(0, 0, block.rows).sum(1);
  float* to = grad_bias.mutable_data_ptr<float>();
  for (int64_t i = 0; i < block.rows; ++i) to[block.column(i)] += sums.const_data_ptr<float>()[i];
}

// Adds a group's gradients, all columns if `exact`, and to kept [threads, n] the probability in the columns that it
// has.
//   x: [n, H] and w: [V, H], contiguous.
void accumulate(const Chunk& chunk, const Group& group, bool exact, const at::Tensor& x, const at::Tensor& w,
                const Gradients& gradients, const at::Tensor& kept) {
  const auto options = kept.options();
  const int64_t width = w.size(1), columns = exact ? chunk.vocab : group.columns.size(), rows = exact ? kTile : kBlock;
  const std::vector<int64_t> places = find_targets(chunk, group, exact);
  const Factor x_group(x.narrow(0, group.begin, group.span), precision(exact));
  at::Tensor partial;
  if (gradients.hidden) partial = at::zeros({at::get_num_threads(), group.span, width}, options);

  at::parallel_for(0, (columns + rows - 1) / rows, 1, [&](int64_t begin, int64_t end) {
    at::AutoDispatchBelowADInplaceOrView no_autograd;
    const int thread = at::get_thread_num();
    Scratch scratch{at::empty({rows, group.span}, options), {}, {}};
    if (!exact && gradients.hidden) scratch.embeddings = at::empty({kBlock, width}, w.options());
    if (!exact && gradients.weight) scratch.product = at::empty({kBlock, width}, options);
    float* out = scratch.block.mutable_data_ptr<float>();
    float* seen = kept.mutable_data_ptr<float>() + thread * chunk.n + group.begin;
    for (int64_t k = begin; k < end; ++k) {
      const int64_t first = k * rows;
      const Block block{exact ? nullptr : group.columns.data(), first, std::min(rows, columns - first)};
      gather_block(chunk, group, block, places, out, seen);
      if (gradients.hidden) add_to_hidden(block, w, scratch, partial[thread]);
      if (gradients.weight) add_to_weight(block, x_group, scratch, *gradients.weight);
      if (gradients.bias) add_to_bias(block, scratch, *gradients.bias);
    }
    release_tiles();
  });
  if (gradients.hidden)
    gradients.hidden->narrow(0, group.begin, group.tokens).add_(partial.sum(0).narrow(0, 0, group.tokens));
}

// The dropped columns' part of grad_hidden: a token's dropped probability times its group's mean dropped embedding.
//   mass: [size] or empty, where it is 1. kept: [threads, n]. tail_mass: [groups, V].
void subtract_tail(const Chunk& chunk, const std::vector<Group>& groups, const at::Tensor& w, const at::Tensor& mass,
                   const at::Tensor& kept, const at::Tensor& tail_mass, const at::Tensor& grad_hidden) {
  const at::Tensor whole = mass.numel() ? mass : at::ones({chunk.size}, kept.options());
  const at::Tensor coef = chunk.coef.narrow(0, 0, chunk.size);
  const at::Tensor dropped = (whole - kept.sum(0).narrow(0, 0, chunk.size)).clamp_min(0) * coef;
  const at::Tensor total = tail_mass.sum(1, /*keepdim=*/true).clamp_min(FLT_MIN);
  const at::Tensor mean = at::mm((tail_mass / total).to(w.scalar_type()), w).to(at::kFloat);  // [groups, H]
  for (size_t g = 0; g < groups.size(); ++g) {
    const int64_t begin = groups[g].begin, tokens = groups[g].tokens;
    grad_hidden.narrow(0, begin, tokens).sub_(dropped.narrow(0, begin, tokens).unsqueeze(1) * mean[g]);
  }
}

}  // namespace

// Adds to grad_hidden [n, H], grad_weight [V, H] and grad_bias [V] (float32, each optional).
//   coef: [n] dloss/dlogp. probs, tile_max, lse, mass: as head_forward left them. filter_eps 0 keeps all columns.
void head_backward(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets,
                   const at::Tensor& coef, const at::Tensor& logps, const at::Tensor& lse,
                   const at::Tensor& target_slope, const at::Tensor& mass, const at::Tensor& tile_max,
                   const at::Tensor& probs, double temperature, double filter_eps, int64_t group_size,
                   const std::optional<at::Tensor>& grad_hidden, const std::optional<at::Tensor>& grad_weight,
                   const std::optional<at::Tensor>& grad_bias) {
  check_head(hidden, weight, targets);
  const int64_t size = hidden.size(0), n = padded(size), vocab = weight.size(0), width = weight.size(1);
  check_tensor("coef", coef, at::kFloat, {size});
  check_tensor("logps", logps, at::kFloat, {size});
  check_tensor("lse", lse, at::kFloat, {size});
  check_tensor("target_slope", target_slope, at::kFloat, {size});
  check_tensor("mass", mass, at::kFloat, {mass.numel() ? size : 0});
  check_tensor("tile_max", tile_max, at::kFloat, {tiles(vocab), n});
  check_probs(probs, vocab * n);
  TORCH_CHECK_VALUE(filter_eps >= 0 && filter_eps < 1, "filter_eps: expected a number in [0, 1), got ", filter_eps);
  TORCH_CHECK_VALUE(group_size >= 1, "group_size: expected a positive number, got ", group_size);
  if (grad_hidden) check_tensor("grad_hidden", *grad_hidden, at::kFloat, {size, width});
  if (grad_weight) check_tensor("grad_weight", *grad_weight, at::kFloat, {vocab, width});
  if (grad_weight) check_contiguous("grad_weight", *grad_weight);
  if (grad_bias) check_tensor("grad_bias", *grad_bias, at::kFloat, {vocab});
  if (grad_bias) check_contiguous("grad_bias", *grad_bias);
  if (size == 0) return;
  const auto options = hidden.options().dtype(at::kFloat);
  const bool exact = filter_eps == 0;
  const at::Tensor x = padded_rows(hidden), w = weight.contiguous();
  at::Tensor c = at::zeros({n}, options), scale = at::zeros({tile_max.size(0), n}, options);
  c.narrow(0, 0, size).copy_(coef / temperature);
  scale.narrow(1, 0, size).copy_((tile_max.narrow(1, 0, size) - lse).exp());
  const Chunk chunk{size, n, vocab, probs, scale, c, target_slope.contiguous(), targets.contiguous()};

  std::vector<Group> groups = make_groups(chunk, exact ? 1 : std::max<int64_t>(1, (n + group_size / 2) / group_size));
  at::Tensor tail_mass;
  if (!exact) {
    tail_mass = choose_columns(chunk, logps, filter_eps, groups);
    if (!tail_mass.defined()) return;
  }
  const at::Tensor kept = at::zeros({at::get_num_threads(), n}, options);
  const Gradients gradients{grad_hidden, grad_weight, grad_bias};
  for (const Group& group : groups) accumulate(chunk, group, exact, x, w, gradients, kept);
  if (!exact && grad_hidden) subtract_tail(chunk, groups, w, mass, kept, tail_mass, *grad_hidden);
}

}  // namespace advgame

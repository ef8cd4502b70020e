// Which vocabulary columns the backward pass keeps.
#pragma once

#include "head.h"

namespace advgame {

// A chunk of tokens as the forward pass left it. The gradient with respect to its logits is
//   dL_tv = coef_t (slope_t onehot_tv - p_tv),   p_tv = probs_vt exp(tile_max - lse)_t.
struct Chunk {
  int64_t size, n, vocab;  // tokens, tokens with padding, columns
  at::Tensor probs;        // [vocab * n] or more
  at::Tensor scale;        // [tiles, n] exp(tile_max - lse), 0 for padding
  at::Tensor coef;         // [n] 0 for padding
  at::Tensor slope;        // [size] of the soft-cap, at the target
  at::Tensor targets;      // [size] int64
};

// Neighbouring tokens that share their set of columns.
struct Group {
  int64_t begin, span, tokens;   // the first token, their number with padding, and without
  std::vector<int64_t> columns;  // ascending
};

// The chunk's tokens in `count` groups of about the same size, without columns.
std::vector<Group> make_groups(const Chunk& chunk, int64_t count);

// Fills in each group's columns: those of least energy sum_t dL_tv^2 are dropped, for as long as what is dropped from
// the whole chunk stays below filter_eps^2 ||dL||^2. Targets are always kept.
// Returns [groups, V], the sum of |coef| p over a group's tokens, for each dropped column; undefined when dL is 0.
at::Tensor choose_columns(const Chunk& chunk, const at::Tensor& logps, double filter_eps, std::vector<Group>& groups);

}  // namespace advgame

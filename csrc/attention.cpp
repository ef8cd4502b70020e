// Attention over packs of sequences that share prefixes, and its derivative.
//
// A pack is a forest of segments. A block is up to 64 tokens of one segment, as queries; its keys are the segments
// above it, from the root down, and its own segment up to the block's last token. The query heads that share a key head
// are rows of the same products. All scores of a block are held at once, so its softmax needs no second pass.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros_like.h>

#include "checks.h"
#include "head.h"

namespace advgame {
namespace {

constexpr int64_t kBlock = 64;  // tokens
constexpr int64_t kTasks = 16;  // pieces that a backward pass is cut into at the least, on however many threads

struct Span {
  int64_t begin, length;  // tokens of the pack
};

struct Block {
  Span queries;
  std::vector<Span> keys;  // the last one ends with the block's last token
  int64_t length;          // of all keys
};

// bounds [N + 1]: where each segment begins. parents [N]: -1 for a root, else a segment before.
std::vector<Block> blocks_of(at::IntArrayRef bounds, at::IntArrayRef parents, int64_t tokens) {
  const int64_t segments = parents.size();
  TORCH_CHECK_VALUE(int64_t(bounds.size()) == segments + 1 && bounds[0] == 0 && bounds[segments] == tokens,
                    "bounds: expected ", segments + 1, " numbers from 0 to ", tokens, ", got ", bounds);
  std::vector<Block> blocks;
  for (int64_t s = 0; s < segments; ++s) {
    TORCH_CHECK_VALUE(bounds[s] <= bounds[s + 1], "bounds: expected rising numbers, got ", bounds);
    TORCH_CHECK_VALUE(parents[s] >= -1 && parents[s] < s, "parents: segment ", s, " continues segment ", parents[s],
                      ", which does not come before it");
    std::vector<Span> above;
    for (int64_t p = parents[s]; p >= 0; p = parents[p])
      above.insert(above.begin(), {bounds[p], bounds[p + 1] - bounds[p]});
    int64_t length = 0;
    for (const Span& span : above) length += span.length;
    for (int64_t t = bounds[s]; t < bounds[s + 1]; t += kBlock) {
      const int64_t end = std::min(t + kBlock, bounds[s + 1]);
      Block block{{t, end - t}, above, length + end - bounds[s]};
      block.keys.push_back({bounds[s], end - bounds[s]});
      blocks.push_back(std::move(block));
    }
  }
  return blocks;
}

// scores [length] of one token, of which it sees the first `seen`, become probabilities. Returns their log-sum-exp.
ADVGAME_MULTIVERSION
float softmax(float* scores, int64_t seen, int64_t length, float scale) {
  float max = -INFINITY;
  for (int64_t i = 0; i < seen; ++i) {
    scores[i] *= scale;
    max = scores[i] > max ? scores[i] : max;
  }
  float lanes[16] = {};
  int64_t i = 0;
  for (; i + 16 <= seen; i += 16)
    for (int64_t j = 0; j < 16; ++j) {
      scores[i + j] = exp_nonpositive(scores[i + j] - max);
      lanes[j] += scores[i + j];
    }
  float sum = 0;
  for (; i < seen; ++i) sum += scores[i] = exp_nonpositive(scores[i] - max);
  for (int64_t j = 0; j < 16; ++j) sum += lanes[j];
  const float inverse = 1 / sum;
  for (int64_t i = 0; i < seen; ++i) scores[i] *= inverse;
  std::fill(scores + seen, scores + length, 0.f);
  return max + std::log(sum);
}

double softmax(double* scores, int64_t seen, int64_t length, double scale) {
  double max = -INFINITY, sum = 0;
  for (int64_t i = 0; i < seen; ++i) max = std::max(max, scores[i] *= scale);
  for (int64_t i = 0; i < seen; ++i) sum += scores[i] = std::exp(scores[i] - max);
  for (int64_t i = 0; i < seen; ++i) scores[i] /= sum;
  std::fill(scores + seen, scores + length, 0.);
  return max + std::log(sum);
}

// The same probabilities again, from the log-sum-exp.
template <typename T>
inline void softmax_again(T* scores, int64_t seen, int64_t length, T scale, T lse) {
  for (int64_t i = 0; i < seen; ++i) {
    const T x = scores[i] * scale - lse;
    const T below = x > 0 ? 0 : x;  // rounding; NaN stays
    if constexpr (std::is_same_v<T, float>)
      scores[i] = exp_nonpositive(below);
    else
      scores[i] = std::exp(below);
  }
  std::fill(scores + seen, scores + length, T(0));
}

ADVGAME_MULTIVERSION
void probabilities(float* scores, int64_t seen, int64_t length, float scale, float lse) {
  softmax_again(scores, seen, length, scale, lse);
}

void probabilities(double* scores, int64_t seen, int64_t length, double scale, double lse) {
  softmax_again(scores, seen, length, scale, lse);
}

// dP becomes the gradient of the products of queries and keys.
ADVGAME_MULTIVERSION
void differentiate(const float* probs, float* grads, int64_t length, float scale, float delta) {
  for (int64_t i = 0; i < length; ++i) grads[i] = scale * probs[i] * (grads[i] - delta);
}

void differentiate(const double* probs, double* grads, int64_t length, double scale, double delta) {
  for (int64_t i = 0; i < length; ++i) grads[i] = scale * probs[i] * (grads[i] - delta);
}

// Matrices of a block and a key head. Its rows are head by head: row g n + i is query head g of the i-th token.
template <typename T>
struct Rows {
  const Block& block;
  int64_t head, shared;  // the key head, and how many query heads share it
  int64_t heads, width;  // query heads in all, and numbers of each

  int64_t count() const { return shared * block.queries.length; }

  T* token(T* tensor, int64_t row) const { return tensor + place(row); }
  const T* token(const T* tensor, int64_t row) const { return tensor + place(row); }

  at::Tensor gather(const at::Tensor& tensor) const {
    at::Tensor rows = at::empty({count(), width}, tensor.options());
    for (int64_t r = 0; r < count(); ++r)
      std::copy_n(token(tensor.const_data_ptr<T>(), r), width, rows.mutable_data_ptr<T>() + r * width);
    return rows;
  }

  int64_t seen(int64_t row) const { return block.length - block.queries.length + 1 + row % block.queries.length; }
  int64_t lse(int64_t row, int64_t tokens) const {
    const int64_t n = block.queries.length;
    return (head * shared + row / n) * tokens + block.queries.begin + row % n;
  }

 private:
  int64_t place(int64_t row) const {
    const int64_t n = block.queries.length;
    return ((block.queries.begin + row % n) * heads + head * shared + row / n) * width;
  }
};

at::Tensor piece(const at::Tensor& tensor, const Span& span, int64_t head) {
  return tensor.narrow(0, span.begin, span.length).select(1, head);  // [length, D]
}

// rows [count, D] by the transposed keys (or values) of a block: [count, length of all keys].
at::Tensor by_keys(const at::Tensor& rows, const at::Tensor& keys, const Block& block, int64_t head) {
  at::Tensor products = at::empty({rows.size(0), block.length}, rows.options());
  int64_t at = 0;
  for (const Span& span : block.keys) {
    at::Tensor part = products.narrow(1, at, span.length);
    at::mm_out(part, rows, piece(keys, span, head).t());
    at += span.length;
  }
  return products;
}

// weights [count, length of all keys] by the values (or keys) of a block: [count, D].
at::Tensor over_keys(const at::Tensor& weights, const at::Tensor& values, const Block& block, int64_t head) {
  at::Tensor sum = at::zeros({weights.size(0), values.size(2)}, weights.options());
  int64_t at = 0;
  for (const Span& span : block.keys) {
    sum.addmm_(weights.narrow(1, at, span.length), piece(values, span, head));
    at += span.length;
  }
  return sum;
}

// gradients [T, D] += transposed weights [count, length of all keys] by rows [count, D].
void add_to_keys(const at::Tensor& gradients, const at::Tensor& weights, const at::Tensor& rows, const Block& block) {
  int64_t at = 0;
  for (const Span& span : block.keys) {
    gradients.narrow(0, span.begin, span.length).addmm_(weights.narrow(1, at, span.length).t(), rows);
    at += span.length;
  }
}

template <typename T>
void attend(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, const std::vector<Block>& blocks,
            T scale, const at::Tensor& out, const at::Tensor& lse) {
  const int64_t tokens = query.size(0), heads = query.size(1), width = query.size(2), count = blocks.size();
  at::parallel_for(0, count * key.size(1), 1, [&](int64_t begin, int64_t end) {
    const at::AutoDispatchBelowADInplaceOrView plain;
    for (int64_t task = begin; task < end; ++task) {
      const Block& block = blocks[task % count];
      const int64_t head = task / count;
      const Rows<T> rows{block, head, heads / key.size(1), heads, width};
      const at::Tensor probs = by_keys(rows.gather(query), key, block, head);
      T* p = probs.mutable_data_ptr<T>();
      for (int64_t r = 0; r < rows.count(); ++r)
        lse.mutable_data_ptr<T>()[rows.lse(r, tokens)] =
            softmax(p + r * block.length, rows.seen(r), block.length, scale);
      const at::Tensor result = over_keys(probs, value, block, head);
      for (int64_t r = 0; r < rows.count(); ++r)
        std::copy_n(result.const_data_ptr<T>() + r * width, width, rows.token(out.mutable_data_ptr<T>(), r));
    }
  });
}

// Where to cut the blocks into pieces of about the same work. It depends on nothing else, so sums come out the same on
// any number of threads.
std::vector<int64_t> cuts(const std::vector<Block>& blocks, int64_t pieces) {
  int64_t work = 0, done = 0;
  for (const Block& block : blocks) work += block.queries.length * block.length;
  std::vector<int64_t> cuts{0};
  for (size_t b = 0; b < blocks.size(); ++b) {
    done += blocks[b].queries.length * blocks[b].length;
    if (done * pieces >= work * int64_t(cuts.size())) cuts.push_back(b + 1);
  }
  if (cuts.back() < int64_t(blocks.size())) cuts.push_back(blocks.size());
  return cuts;
}

template <typename T>
void attend_backward(const at::Tensor& grad_out, const at::Tensor& query, const at::Tensor& key,
                     const at::Tensor& value, const at::Tensor& out, const at::Tensor& lse,
                     const std::vector<Block>& blocks, T scale, at::Tensor& grad_query, at::Tensor& grad_key,
                     at::Tensor& grad_value) {
  const int64_t tokens = query.size(0), heads = query.size(1), width = query.size(2), key_heads = key.size(1);
  const std::vector<int64_t> cut = cuts(blocks, (kTasks + key_heads - 1) / key_heads);
  const int64_t pieces = cut.size() - 1;
  // A key has queries in many blocks: each piece sums for itself.
  const at::Tensor keys = at::zeros({pieces, key_heads, tokens, width}, key.options()), values = at::zeros_like(keys);
  at::parallel_for(0, pieces * key_heads, 1, [&](int64_t begin, int64_t end) {
    const at::AutoDispatchBelowADInplaceOrView plain;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t head = task % key_heads, part = task / key_heads;
      for (int64_t b = cut[part]; b < cut[part + 1]; ++b) {
        const Block& block = blocks[b];
        const Rows<T> rows{block, head, heads / key_heads, heads, width};
        const at::Tensor q = rows.gather(query), upstream = rows.gather(grad_out);
        const at::Tensor probs = by_keys(q, key, block, head), grads = by_keys(upstream, value, block, head);
        for (int64_t r = 0; r < rows.count(); ++r) {
          T *p = probs.mutable_data_ptr<T>() + r * block.length, *g = grads.mutable_data_ptr<T>() + r * block.length;
          const T *u = upstream.const_data_ptr<T>() + r * width, *o = rows.token(out.const_data_ptr<T>(), r);
          T delta = 0;
          for (int64_t d = 0; d < width; ++d) delta += u[d] * o[d];
          probabilities(p, rows.seen(r), block.length, scale, lse.const_data_ptr<T>()[rows.lse(r, tokens)]);
          differentiate(p, g, block.length, scale, delta);
        }
        add_to_keys(values[part][head], probs, upstream, block);
        add_to_keys(keys[part][head], grads, q, block);
        const at::Tensor result = over_keys(grads, key, block, head);
        for (int64_t r = 0; r < rows.count(); ++r)
          std::copy_n(result.const_data_ptr<T>() + r * width, width, rows.token(grad_query.mutable_data_ptr<T>(), r));
      }
    }
  });
  grad_key = keys.sum(0).transpose(0, 1);
  grad_value = values.sum(0).transpose(0, 1);
}

void check_heads(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value) {
  const at::ScalarType dtype = query.scalar_type();
  check_tensor("query", query, dtype, {-1, -1, -1});
  TORCH_CHECK_VALUE(query.is_floating_point(), "query: expected floating point, got ", dtype);
  check_tensor("key", key, dtype, {query.size(0), -1, query.size(2)});
  TORCH_CHECK_VALUE(key.size(1) > 0 && query.size(1) % key.size(1) == 0, "key: ", key.size(1),
                    " heads do not divide the queries' ", query.size(1));
  check_tensor("value", value, dtype, {query.size(0), key.size(1), query.size(2)});
}

at::ScalarType sums_of(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

}  // namespace

// query [T, Hq, D], key and value [T, Hkv, D], of any floating point dtype: the output like query, and the
// log-sum-exps [Hq, T], float64 for float64, else float32.
std::tuple<at::Tensor, at::Tensor> forest_attention(const at::Tensor& query, const at::Tensor& key,
                                                    const at::Tensor& value, at::IntArrayRef bounds,
                                                    at::IntArrayRef parents, double scale) {
  check_heads(query, key, value);
  const at::ScalarType dtype = sums_of(query);
  const std::vector<Block> blocks = blocks_of(bounds, parents, query.size(0));
  const auto plain = [&](const at::Tensor& tensor) { return tensor.to(dtype).contiguous(); };
  const at::Tensor q = plain(query), k = plain(key), v = plain(value), out = at::empty_like(q);
  const at::Tensor lse = at::empty({query.size(1), query.size(0)}, q.options());
  dtype == at::kDouble ? attend<double>(q, k, v, blocks, scale, out, lse)
                       : attend<float>(q, k, v, blocks, scale, out, lse);
  return {out.to(query.scalar_type()), lse};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> forest_attention_backward(const at::Tensor& grad_out,
                                                                         const at::Tensor& query, const at::Tensor& key,
                                                                         const at::Tensor& value, const at::Tensor& out,
                                                                         const at::Tensor& lse, at::IntArrayRef bounds,
                                                                         at::IntArrayRef parents, double scale) {
  check_heads(query, key, value);
  const at::ScalarType dtype = sums_of(query);
  check_tensor("grad_out", grad_out, query.scalar_type(), {query.size(0), query.size(1), query.size(2)});
  check_tensor("out", out, query.scalar_type(), {query.size(0), query.size(1), query.size(2)});
  check_tensor("lse", lse, dtype, {query.size(1), query.size(0)});
  check_contiguous("lse", lse);
  const std::vector<Block> blocks = blocks_of(bounds, parents, query.size(0));
  const auto plain = [&](const at::Tensor& tensor) { return tensor.to(dtype).contiguous(); };
  const at::Tensor g = plain(grad_out), q = plain(query), k = plain(key), v = plain(value), o = plain(out);
  at::Tensor grad_query = at::empty_like(q), grad_key, grad_value;
  dtype == at::kDouble ? attend_backward<double>(g, q, k, v, o, lse, blocks, scale, grad_query, grad_key, grad_value)
                       : attend_backward<float>(g, q, k, v, o, lse, blocks, scale, grad_query, grad_key, grad_value);
  const auto narrow = [&](const at::Tensor& tensor) { return tensor.to(query.scalar_type()); };
  return {narrow(grad_query), narrow(grad_key), narrow(grad_value)};
}

}  // namespace advgame

// Attention of the newest token of each sequence to all of its tokens, which lie in a cache of blocks.
//
// A block holds 16 tokens of a key head: keys transposed, [D, 16], so that the scores of 16 tokens are one vector and
// need no sum across it; values as they are, [16, D]. A sequence is a list of pieces, each a run of tokens that begins
// with a block: what many sequences begin with is stored once and named by each of them.
#include <ATen/ops/empty_like.h>

#include "checks.h"
#include "head.h"

namespace advgame {
namespace {

constexpr int64_t kBlock = 16;  // tokens

// 16 numbers. Compilers cut them to the processor's own width.
typedef float Vector __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint32_t Bits __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32), aligned(2), may_alias));

// Vectors go by reference: by value, how they are passed would depend on the processor compiled for.
__attribute__((always_inline)) inline void load(const float* x, Vector& to) {
  to = *reinterpret_cast<const Vector*>(x);
}
__attribute__((always_inline)) inline void load(const uint16_t* x, Vector& to) {
  const Bits bits = __builtin_convertvector(*reinterpret_cast<const Halves*>(x), Bits) << 16;
  to = reinterpret_cast<const Vector&>(bits);
}
__attribute__((always_inline)) inline void save(float* to, const Vector& x) { *reinterpret_cast<Vector*>(to) = x; }

// scores [G, kBlocks * 16] of G queries for the keys of kBlocks neighbouring blocks.
template <typename T, int G, int kBlocks>
__attribute__((always_inline)) inline void score(const float* query, int64_t width, const T* keys, int64_t block_stride,
                                                 float* scores, int64_t stride) {
  Vector sum[kBlocks][G] = {};
  for (int64_t d = 0; d < width; ++d)
    for (int b = 0; b < kBlocks; ++b) {
      Vector key;
      load(keys + b * block_stride + d * kBlock, key);
      for (int g = 0; g < G; ++g) sum[b][g] += query[g * width + d] * key;
    }
  for (int b = 0; b < kBlocks; ++b)
    for (int g = 0; g < G; ++g) save(scores + g * stride + b * kBlock, sum[b][g]);
}

// out [G, kVectors * 16] += probs [G, tokens] values [tokens, kVectors * 16], of one block.
template <typename T, int G, int kVectors>
__attribute__((always_inline)) inline void weigh(const float* probs, int64_t stride, int64_t tokens, const T* values,
                                                 int64_t width, float* out) {
  Vector sum[G][kVectors];
  for (int g = 0; g < G; ++g)
    for (int i = 0; i < kVectors; ++i) load(out + g * width + i * kBlock, sum[g][i]);
  for (int64_t t = 0; t < tokens; ++t)
    for (int i = 0; i < kVectors; ++i) {
      Vector value;
      load(values + t * width + i * kBlock, value);
      for (int g = 0; g < G; ++g) sum[g][i] += probs[g * stride + t] * value;
    }
  for (int g = 0; g < G; ++g)
    for (int i = 0; i < kVectors; ++i) save(out + g * width + i * kBlock, sum[g][i]);
}

inline int64_t blocks_of(int64_t tokens) { return (tokens + kBlock - 1) / kBlock; }

// keys [Hkv, blocks, D, 16] and values [Hkv, blocks, 16, D], float32 or bfloat16.
void check_cache(const at::Tensor& keys, const at::Tensor& values) {
  const at::ScalarType dtype = keys.scalar_type();
  TORCH_CHECK_VALUE(dtype == at::kFloat || dtype == at::kBFloat16, "keys: expected float32 or bfloat16, got ", dtype);
  check_tensor("keys", keys, dtype, {-1, -1, -1, kBlock});
  check_contiguous("keys", keys);
  TORCH_CHECK_VALUE(keys.size(0) > 0 && keys.size(2) > 0, "keys: expected a head and a number or more, got ",
                    keys.sizes());
  check_tensor("values", values, dtype, {keys.size(0), keys.size(1), kBlock, keys.size(2)});
  check_contiguous("values", values);
}

struct Cache {
  const void* keys;
  const void* values;
  int64_t heads, blocks, width;
  const int32_t* pieces;  // [rows, count, 2]: first block, tokens
  int64_t count;
};

// The G query heads that share key head h, for one row. scores: room for G x the sequence's blocks.
template <typename T, int G>
__attribute__((always_inline)) inline void attend(const Cache& cache, int64_t row, int64_t head, const float* query,
                                                  std::vector<float>& room, float* out) {
  const int64_t width = cache.width, stride = width * kBlock;
  const int32_t* pieces = cache.pieces + row * cache.count * 2;
  int64_t blocks = 0;
  for (int64_t p = 0; p < cache.count; ++p) blocks += blocks_of(pieces[2 * p + 1]);
  const int64_t length = blocks * kBlock;
  if (int64_t(room.size()) < G * length) room.resize(G * length);
  float* scores = room.data();
  int64_t at = 0;
  for (int64_t p = 0; p < cache.count; ++p) {
    const int64_t tokens = pieces[2 * p + 1], count = blocks_of(tokens);
    const T* keys = static_cast<const T*>(cache.keys) + (head * cache.blocks + pieces[2 * p]) * stride;
    int64_t b = 0;
    for (; b + 4 <= count; b += 4)
      score<T, G, 4>(query, width, keys + b * stride, stride, scores + at + b * kBlock, length);
    for (; b < count; ++b) score<T, G, 1>(query, width, keys + b * stride, stride, scores + at + b * kBlock, length);
    for (int g = 0; g < G; ++g)  // behind the piece's end
      for (int64_t t = tokens; t < count * kBlock; ++t) scores[g * length + at + t] = -INFINITY;
    at += count * kBlock;
  }
  float inverse[G];
  for (int g = 0; g < G; ++g) {
    float* s = scores + g * length;
    float lanes[kBlock];
    for (int t = 0; t < kBlock; ++t) lanes[t] = -FLT_MAX;
    for (int64_t i = 0; i < length; i += kBlock)
      for (int t = 0; t < kBlock; ++t) lanes[t] = s[i + t] > lanes[t] ? s[i + t] : lanes[t];
    float max = -FLT_MAX;
    for (int t = 0; t < kBlock; ++t) max = lanes[t] > max ? lanes[t] : max;
    for (int t = 0; t < kBlock; ++t) lanes[t] = 0;
    for (int64_t i = 0; i < length; i += kBlock)
      for (int t = 0; t < kBlock; ++t) {
        const float e = exp_nonpositive(s[i + t] - max);
        s[i + t] = e;
        lanes[t] += e;
      }
    float sum = 0;
    for (int t = 0; t < kBlock; ++t) sum += lanes[t];
    inverse[g] = 1 / sum;
  }
  for (int64_t i = 0; i < G * width; ++i) out[i] = 0;
  at = 0;
  for (int64_t p = 0; p < cache.count; ++p) {
    const int64_t tokens = pieces[2 * p + 1];
    const T* values = static_cast<const T*>(cache.values) + (head * cache.blocks + pieces[2 * p]) * stride;
    for (int64_t t = 0; t < tokens; t += kBlock, values += stride) {
      const int64_t n = std::min(kBlock, tokens - t);
      int64_t d = 0;
      for (; d + 64 <= width; d += 64) weigh<T, G, 4>(scores + at + t, length, n, values + d, width, out + d);
      for (; d + 16 <= width; d += 16) weigh<T, G, 1>(scores + at + t, length, n, values + d, width, out + d);
      for (; d < width; ++d)
        for (int g = 0; g < G; ++g)
          for (int64_t i = 0; i < n; ++i)
            out[g * width + d] += scores[g * length + at + t + i] * widen(values[i * width + d]);
    }
    at += blocks_of(tokens) * kBlock;
  }
  for (int g = 0; g < G; ++g)
    for (int64_t d = 0; d < width; ++d) out[g * width + d] *= inverse[g];
}

// G is the number of query heads at hand: up to four at a time.
#define ATTEND(name, T, G)                                                                                             \
  ADVGAME_MULTIVERSION                                                                                                 \
  void name(const Cache& cache, int64_t row, int64_t head, const float* query, std::vector<float>& room, float* out) { \
    attend<T, G>(cache, row, head, query, room, out);                                                                  \
  }
ATTEND(attend_f1, float, 1)
ATTEND(attend_f2, float, 2)
ATTEND(attend_f3, float, 3)
ATTEND(attend_f4, float, 4)
ATTEND(attend_h1, uint16_t, 1)
ATTEND(attend_h2, uint16_t, 2)
ATTEND(attend_h3, uint16_t, 3)
ATTEND(attend_h4, uint16_t, 4)

using Attend = void (*)(const Cache&, int64_t, int64_t, const float*, std::vector<float>&, float*);
constexpr Attend kAttend[2][4] = {{attend_f1, attend_f2, attend_f3, attend_f4},
                                  {attend_h1, attend_h2, attend_h3, attend_h4}};

template <typename T>
void run(const at::Tensor& query, const Cache& cache, float scale, at::Tensor& out) {
  const int64_t rows = query.size(0), heads = query.size(1), width = cache.width, shared = heads / cache.heads;
  const T* q = static_cast<const T*>(query.const_data_ptr());
  T* to = static_cast<T*>(out.data_ptr());
  at::parallel_for(0, rows * cache.heads, 4, [&](int64_t begin, int64_t end) {
    std::vector<float> room, scaled(4 * width), result(4 * width);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t head = i / rows, row = i % rows;
      for (int64_t g = 0; g < shared; g += 4) {
        const int64_t n = std::min<int64_t>(4, shared - g), first = (row * heads + head * shared + g) * width;
        for (int64_t j = 0; j < n * width; ++j) scaled[j] = scale * widen(q[first + j]);
        kAttend[!std::is_same_v<T, float>][n - 1](cache, row, head, scaled.data(), room, result.data());
        for (int64_t j = 0; j < n * width; ++j) narrow(result[j], to[first + j]);
      }
    }
  });
}

}  // namespace

at::Tensor cached_attention(const at::Tensor& query, const at::Tensor& keys, const at::Tensor& values,
                            const at::Tensor& pieces, double scale) {
  check_cache(keys, values);
  const int64_t heads = keys.size(0), blocks = keys.size(1), width = keys.size(2);
  check_tensor("query", query, keys.scalar_type(), {-1, -1, width});
  check_contiguous("query", query);
  TORCH_CHECK_VALUE(query.size(1) % heads == 0, "query: ", query.size(1), " heads are no multiple of the keys' ",
                    heads);
  check_tensor("pieces", pieces, at::kInt, {query.size(0), -1, 2});
  check_contiguous("pieces", pieces);
  const int32_t* piece = pieces.const_data_ptr<int32_t>();
  for (int64_t i = 0; i < pieces.numel(); i += 2)
    TORCH_CHECK_VALUE(piece[i] >= 0 && piece[i + 1] >= 0 && piece[i] + blocks_of(piece[i + 1]) <= blocks,
                      "pieces: ", piece[i + 1], " tokens from block ", piece[i], " are not all in a cache of ", blocks,
                      " blocks");
  at::Tensor out = at::empty_like(query);
  const Cache cache{keys.const_data_ptr(), values.const_data_ptr(), heads, blocks, width, piece, pieces.size(1)};
  query.scalar_type() == at::kBFloat16 ? run<uint16_t>(query, cache, scale, out) : run<float>(query, cache, scale, out);
  return out;
}

void cache_tokens(at::Tensor keys, at::Tensor values, const at::Tensor& key, const at::Tensor& value,
                  const at::Tensor& places) {
  check_cache(keys, values);
  const int64_t heads = keys.size(0), blocks = keys.size(1), width = keys.size(2), n = places.size(0);
  check_tensor("key", key, keys.scalar_type(), {n, heads, width});
  check_tensor("value", value, keys.scalar_type(), {n, heads, width});
  check_tensor("places", places, at::kLong, {n});
  check_contiguous("places", places);
  const at::Tensor k = key.contiguous(), v = value.contiguous();
  const int64_t* place = places.const_data_ptr<int64_t>();
  for (int64_t t = 0; t < n; ++t)
    TORCH_CHECK_VALUE(place[t] >= 0 && place[t] < blocks * kBlock, "places: ", place[t], " is outside [0, ",
                      blocks * kBlock, ")");
  auto move = [&]<typename T>(T) {
    const T *from_k = static_cast<const T*>(k.const_data_ptr()), *from_v = static_cast<const T*>(v.const_data_ptr());
    T *to_k = static_cast<T*>(keys.data_ptr()), *to_v = static_cast<T*>(values.data_ptr());
    at::parallel_for(0, n, 64, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t)
        for (int64_t h = 0; h < heads; ++h) {
          const int64_t from = (t * heads + h) * width, block = (h * blocks + place[t] / kBlock) * width * kBlock;
          const int64_t lane = place[t] % kBlock;
          for (int64_t d = 0; d < width; ++d) to_k[block + d * kBlock + lane] = from_k[from + d];
          for (int64_t d = 0; d < width; ++d) to_v[block + lane * width + d] = from_v[from + d];
        }
    });
  };
  keys.scalar_type() == at::kBFloat16 ? move(uint16_t()) : move(float());
}

}  // namespace advgame

// The layers between the products of a transformer, each in one pass over memory: RMS norms and gated activations.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "checks.h"
#include "head.h"

namespace advgame {
namespace {

constexpr int64_t kRows = 32;        // rows whose share of a norm's weight gradient is summed at a time
constexpr int64_t kGrain = 1 << 14;  // numbers that are worth a thread of their own

// 1 / (1 + exp(-x)); NaN stays NaN.
inline float sigmoid(float x) {
  const float e = exp_nonpositive(x > 0 ? -x : x);
  return (x > 0 ? 1.f : e) / (1.f + e);
}

template <typename X, typename Y>
inline float normalize(const X* x, const float* weight, int64_t width, float eps, Y* y) {
  float lanes[16] = {}, sum = 0;
  int64_t i = 0;
  for (; i + 16 <= width; i += 16)
    for (int64_t j = 0; j < 16; ++j) lanes[j] += widen(x[i + j]) * widen(x[i + j]);
  for (; i < width; ++i) sum += widen(x[i]) * widen(x[i]);
  for (int64_t j = 0; j < 16; ++j) sum += lanes[j];
  const float inverse = 1 / std::sqrt(sum / float(width) + eps);
  for (i = 0; i < width; ++i) narrow(widen(x[i]) * inverse * weight[i], y[i]);
  return inverse;
}

// y = w x r with r = (mean x^2 + eps)^-1/2: dx = r (w dy - x r^2 mean(w dy x)), dw += dy x r.
template <typename X, typename Y>
inline void normalize_backward(const Y* dy, const X* x, const float* weight, int64_t width, float inverse, X* dx,
                               float* dw) {
  float lanes[16] = {}, sum = 0;
  int64_t i = 0;
  for (; i + 16 <= width; i += 16)
    for (int64_t j = 0; j < 16; ++j) lanes[j] += widen(dy[i + j]) * weight[i + j] * widen(x[i + j]);
  for (; i < width; ++i) sum += widen(dy[i]) * weight[i] * widen(x[i]);
  for (int64_t j = 0; j < 16; ++j) sum += lanes[j];
  const float mean = sum / float(width) * inverse * inverse;
  for (i = 0; i < width; ++i) {
    const float up = widen(dy[i]), in = widen(x[i]);
    narrow(inverse * (up * weight[i] - in * mean), dx[i]);
    dw[i] += up * in * inverse;
  }
}

template <typename T>
inline void gate(const T* g, const T* up, int64_t n, T* y) {
  for (int64_t i = 0; i < n; ++i) {
    const float x = widen(g[i]);
    narrow(x * sigmoid(x) * widen(up[i]), y[i]);
  }
}

template <typename T>
inline void gate_backward(const T* dy, const T* g, const T* up, int64_t n, T* dg, T* dup) {
  for (int64_t i = 0; i < n; ++i) {
    const float x = widen(g[i]), s = sigmoid(x), upstream = widen(dy[i]);
    narrow(upstream * widen(up[i]) * s * (1 + x * (1 - s)), dg[i]);
    narrow(upstream * x * s, dup[i]);
  }
}

// One version for each processor needs functions that are no templates.
#define NORMALIZE(name, X, Y)                                                                                          \
  ADVGAME_MULTIVERSION                                                                                                 \
  float name(const X* x, const float* weight, int64_t width, float eps, Y* y) {                                        \
    return normalize(x, weight, width, eps, y);                                                                        \
  }                                                                                                                    \
  ADVGAME_MULTIVERSION                                                                                                 \
  void name##_backward(const Y* dy, const X* x, const float* weight, int64_t width, float inverse, X* dx, float* dw) { \
    normalize_backward(dy, x, weight, width, inverse, dx, dw);                                                         \
  }
NORMALIZE(norm_ff, float, float)
NORMALIZE(norm_fh, float, uint16_t)
NORMALIZE(norm_hh, uint16_t, uint16_t)

#define GATE(name, T)                                                                    \
  ADVGAME_MULTIVERSION                                                                   \
  void name(const T* g, const T* up, int64_t n, T* y) { gate(g, up, n, y); }             \
  ADVGAME_MULTIVERSION                                                                   \
  void name##_backward(const T* dy, const T* g, const T* up, int64_t n, T* dg, T* dup) { \
    gate_backward(dy, g, up, n, dg, dup);                                                \
  }
GATE(gate_f, float)
GATE(gate_h, uint16_t)

template <typename T>
const T* in(const at::Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <typename T>
T* out(const at::Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

void check_number(const char* name, at::ScalarType dtype) {
  TORCH_CHECK_VALUE(dtype == at::kFloat || dtype == at::kBFloat16, name, ": expected float32 or bfloat16, got ", dtype);
}

// Calls one(X(), Y()) with the types behind these dtypes; a norm's output is never wider than its input.
template <typename F>
void typed(at::ScalarType x, at::ScalarType y, const F& one) {
  check_number("x", x);
  check_number("dtype", y);
  TORCH_CHECK_VALUE(x == at::kFloat || y == at::kBFloat16, "dtype: expected bfloat16 for x in bfloat16, got ", y);
  if (y == at::kFloat) return one(float(), float());
  x == at::kFloat ? one(float(), uint16_t()) : one(uint16_t(), uint16_t());
}

}  // namespace

// x [n, H] float32 or bfloat16, weight [H] float32: (w x / rms(x) of `dtype`, 1 / rms(x) [n]).
std::tuple<at::Tensor, at::Tensor> rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps,
                                            at::ScalarType dtype) {
  check_tensor("x", x, x.scalar_type(), {-1, -1});
  check_contiguous("x", x);
  check_tensor("weight", weight, at::kFloat, {x.size(1)});
  check_contiguous("weight", weight);
  const int64_t n = x.size(0), width = x.size(1);
  at::Tensor y = at::empty({n, width}, x.options().dtype(dtype)), inverse = at::empty({n}, weight.options());
  typed(x.scalar_type(), dtype, [&]<typename X, typename Y>(X, Y) {
    at::parallel_for(0, n, 1 + kGrain / std::max<int64_t>(1, width), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const X* from = in<X>(x) + r * width;
        Y* to = out<Y>(y) + r * width;
        float& saved = out<float>(inverse)[r];
        if constexpr (std::is_same_v<Y, float>)
          saved = norm_ff(from, in<float>(weight), width, eps, to);
        else if constexpr (std::is_same_v<X, float>)
          saved = norm_fh(from, in<float>(weight), width, eps, to);
        else
          saved = norm_hh(from, in<float>(weight), width, eps, to);
      }
    });
  });
  return {y, inverse};
}

// The gradients of x, of x's dtype, and of weight.
std::tuple<at::Tensor, at::Tensor> rms_norm_backward(const at::Tensor& grad, const at::Tensor& x,
                                                     const at::Tensor& weight, const at::Tensor& inverse) {
  check_tensor("x", x, x.scalar_type(), {-1, -1});
  const int64_t n = x.size(0), width = x.size(1), chunks = (n + kRows - 1) / kRows;
  check_tensor("grad", grad, grad.scalar_type(), {n, width});
  check_tensor("weight", weight, at::kFloat, {width});
  check_tensor("inverse", inverse, at::kFloat, {n});
  check_contiguous("grad", grad);
  check_contiguous("x", x);
  check_contiguous("weight", weight);
  check_contiguous("inverse", inverse);
  at::Tensor grad_x = at::empty_like(x), shares = at::zeros({chunks, width}, weight.options());
  typed(x.scalar_type(), grad.scalar_type(), [&]<typename X, typename Y>(X, Y) {
    at::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin * kRows; r < std::min(n, end * kRows); ++r) {
        const Y* up = in<Y>(grad) + r * width;
        const X* from = in<X>(x) + r * width;
        X* to = out<X>(grad_x) + r * width;
        float* share = out<float>(shares) + r / kRows * width;
        const float saved = in<float>(inverse)[r];
        if constexpr (std::is_same_v<Y, float>)
          norm_ff_backward(up, from, in<float>(weight), width, saved, to, share);
        else if constexpr (std::is_same_v<X, float>)
          norm_fh_backward(up, from, in<float>(weight), width, saved, to, share);
        else
          norm_hh_backward(up, from, in<float>(weight), width, saved, to, share);
      }
    });
  });
  return {grad_x, shares.sum(0)};
}

namespace {

void check_gate(const at::Tensor& gate, const at::Tensor& up) {
  check_number("gate", gate.scalar_type());
  check_tensor("gate", gate, gate.scalar_type(), {-1, -1});
  check_tensor("up", up, gate.scalar_type(), {gate.size(0), gate.size(1)});
  check_contiguous("gate", gate);
  check_contiguous("up", up);
}

}  // namespace

// silu(gate) up, of [n, I] each, float32 or bfloat16.
at::Tensor silu_gate(const at::Tensor& gate, const at::Tensor& up) {
  check_gate(gate, up);
  at::Tensor y = at::empty_like(gate);
  const bool half = gate.scalar_type() == at::kBFloat16;
  at::parallel_for(0, gate.numel(), kGrain, [&](int64_t begin, int64_t end) {
    const int64_t n = end - begin;
    half ? gate_h(in<uint16_t>(gate) + begin, in<uint16_t>(up) + begin, n, out<uint16_t>(y) + begin)
         : gate_f(in<float>(gate) + begin, in<float>(up) + begin, n, out<float>(y) + begin);
  });
  return y;
}

std::tuple<at::Tensor, at::Tensor> silu_gate_backward(const at::Tensor& grad, const at::Tensor& gate,
                                                      const at::Tensor& up) {
  check_gate(gate, up);
  check_tensor("grad", grad, gate.scalar_type(), {gate.size(0), gate.size(1)});
  check_contiguous("grad", grad);
  at::Tensor d_gate = at::empty_like(gate), d_up = at::empty_like(up);
  const auto run = [&]<typename T>(T, const auto& loop) {
    at::parallel_for(0, gate.numel(), kGrain, [&](int64_t begin, int64_t end) {
      loop(in<T>(grad) + begin, in<T>(gate) + begin, in<T>(up) + begin, end - begin, out<T>(d_gate) + begin,
           out<T>(d_up) + begin);
    });
  };
  gate.scalar_type() == at::kBFloat16 ? run(uint16_t(), gate_h_backward) : run(float(), gate_f_backward);
  return {d_gate, d_up};
}

}  // namespace advgame

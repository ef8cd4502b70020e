// The operators and their schemas, which importing advgame.kernels._C registers.
#include <Python.h>

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/library.h>

namespace advgame {

at::Tensor pooled(at::IntArrayRef shape, bool zeroed);
void empty_pool();

std::tuple<at::Tensor, at::Tensor> sample_logits(const at::Tensor& logits, const at::Tensor& uniforms,
                                                 double temperature, double top_p);

bool has_tiles();
bool has_panels(at::ScalarType dtype);
at::Tensor pack_weight(const at::Tensor& weight);
at::Tensor packed_linear(const at::Tensor& x, const at::Tensor& packed, const std::optional<at::Tensor>& bias,
                         int64_t columns, bool whole);

void cache_tokens(at::Tensor keys, at::Tensor values, const at::Tensor& key, const at::Tensor& value,
                  const at::Tensor& places);
at::Tensor cached_attention(const at::Tensor& query, const at::Tensor& keys, const at::Tensor& values,
                            const at::Tensor& pieces, double scale);

std::tuple<at::Tensor, at::Tensor> rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps,
                                            at::ScalarType dtype);
std::tuple<at::Tensor, at::Tensor> rms_norm_backward(const at::Tensor& grad, const at::Tensor& x,
                                                     const at::Tensor& weight, const at::Tensor& inverse);
at::Tensor silu_gate(const at::Tensor& gate, const at::Tensor& up);
std::tuple<at::Tensor, at::Tensor> silu_gate_backward(const at::Tensor& grad, const at::Tensor& gate,
                                                      const at::Tensor& up);

std::tuple<at::Tensor, at::Tensor> forest_attention(const at::Tensor& query, const at::Tensor& key,
                                                    const at::Tensor& value, at::IntArrayRef bounds,
                                                    at::IntArrayRef parents, double scale);
std::tuple<at::Tensor, at::Tensor, at::Tensor> forest_attention_backward(const at::Tensor& grad_out,
                                                                         const at::Tensor& query, const at::Tensor& key,
                                                                         const at::Tensor& value, const at::Tensor& out,
                                                                         const at::Tensor& lse, at::IntArrayRef bounds,
                                                                         at::IntArrayRef parents, double scale);

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> head_forward(
    const at::Tensor& hidden, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
    const at::Tensor& targets, double softcap, double temperature, bool with_entropy, bool exact,
    const std::optional<at::Tensor>& probs);

void head_backward(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets,
                   const at::Tensor& coef, const at::Tensor& logps, const at::Tensor& lse,
                   const at::Tensor& target_slope, const at::Tensor& mass, const at::Tensor& tile_max,
                   const at::Tensor& probs, double temperature, double filter_eps, int64_t group_size,
                   const std::optional<at::Tensor>& grad_hidden, const std::optional<at::Tensor>& grad_weight,
                   const std::optional<at::Tensor>& grad_bias);

}  // namespace advgame

TORCH_LIBRARY(advgame, m) {
  m.def("pooled(int[] shape, bool zeroed) -> Tensor", &advgame::pooled);
  m.def("empty_pool() -> ()", &advgame::empty_pool);
  m.def("has_tiles() -> bool", &advgame::has_tiles);
  m.def("has_panels(ScalarType dtype) -> bool", &advgame::has_panels);
  m.def("pack_weight(Tensor weight) -> Tensor");
  m.def("packed_linear(Tensor x, Tensor packed, Tensor? bias, int columns, bool whole) -> Tensor");
  m.def("cache_tokens(Tensor(a!) keys, Tensor(b!) values, Tensor key, Tensor value, Tensor places) -> ()");
  m.def("cached_attention(Tensor query, Tensor keys, Tensor values, Tensor pieces, float scale) -> Tensor");
  m.def("rms_norm(Tensor x, Tensor weight, float eps, ScalarType dtype) -> (Tensor, Tensor)");
  m.def("rms_norm_backward(Tensor grad, Tensor x, Tensor weight, Tensor inverse) -> (Tensor, Tensor)");
  m.def("silu_gate(Tensor gate, Tensor up) -> Tensor");
  m.def("silu_gate_backward(Tensor grad, Tensor gate, Tensor up) -> (Tensor, Tensor)");
  m.def(
      "forest_attention(Tensor query, Tensor key, Tensor value, int[] bounds, int[] parents, float scale) -> "
      "(Tensor, Tensor)");
  m.def(
      "forest_attention_backward(Tensor grad_out, Tensor query, Tensor key, Tensor value, Tensor out, Tensor lse, "
      "int[] bounds, int[] parents, float scale) -> (Tensor, Tensor, Tensor)");
  m.def("sample_logits(Tensor logits, Tensor uniforms, float temperature, float top_p) -> (Tensor, Tensor)");
  m.def(
      "head_forward(Tensor hidden, Tensor weight, Tensor? bias, Tensor targets, float softcap, float temperature, "
      "bool with_entropy, bool exact, Tensor(a!)? probs) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "head_backward(Tensor hidden, Tensor weight, Tensor targets, Tensor coef, Tensor logps, Tensor lse, "
      "Tensor target_slope, Tensor mass, Tensor tile_max, Tensor probs, float temperature, float filter_eps, "
      "int group_size, Tensor(a!)? grad_hidden, Tensor(b!)? grad_weight, Tensor(c!)? grad_bias) -> ()");
}

TORCH_LIBRARY_IMPL(advgame, CPU, m) {
  m.impl("pack_weight", &advgame::pack_weight);
  m.impl("packed_linear", &advgame::packed_linear);
  m.impl("cache_tokens", &advgame::cache_tokens);
  m.impl("cached_attention", &advgame::cached_attention);
  m.impl("rms_norm", &advgame::rms_norm);
  m.impl("rms_norm_backward", &advgame::rms_norm_backward);
  m.impl("silu_gate", &advgame::silu_gate);
  m.impl("silu_gate_backward", &advgame::silu_gate_backward);
  m.impl("forest_attention", &advgame::forest_attention);
  m.impl("forest_attention_backward", &advgame::forest_attention_backward);
  m.impl("sample_logits", &advgame::sample_logits);
  m.impl("head_forward", &advgame::head_forward);
  m.impl("head_backward", &advgame::head_backward);
}

// kernels/ differentiates. Calls from elsewhere get an error for a derivative, in either direction, and no silent zero.
TORCH_LIBRARY_IMPL(advgame, Autograd, m) {
  m.impl("packed_linear", torch::autograd::autogradNotImplementedFallback());
  m.impl("cached_attention", torch::autograd::autogradNotImplementedFallback());
  m.impl("rms_norm", torch::autograd::autogradNotImplementedFallback());
  m.impl("rms_norm_backward", torch::autograd::autogradNotImplementedFallback());
  m.impl("silu_gate", torch::autograd::autogradNotImplementedFallback());
  m.impl("silu_gate_backward", torch::autograd::autogradNotImplementedFallback());
  m.impl("forest_attention", torch::autograd::autogradNotImplementedFallback());
  m.impl("forest_attention_backward", torch::autograd::autogradNotImplementedFallback());
  m.impl("head_forward", torch::autograd::autogradNotImplementedFallback());
  m.impl("head_backward", torch::autograd::autogradNotImplementedFallback());
}

PyMODINIT_FUNC PyInit__C(void) {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr};
  return PyModule_Create(&module);
}

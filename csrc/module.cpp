// The operators and their schemas, which importing advgame.kernels._C registers.
#include <Python.h>

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/library.h>

namespace advgame {

at::Tensor pooled(at::IntArrayRef shape, bool zeroed);
void empty_pool();

at::Tensor sample_probs(const at::Tensor& probs, const at::Tensor& uniforms, double top_p);

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
  m.def("sample_probs(Tensor probs, Tensor uniforms, float top_p) -> Tensor");
  m.def(
      "head_forward(Tensor hidden, Tensor weight, Tensor? bias, Tensor targets, float softcap, float temperature, "
      "bool with_entropy, bool exact, Tensor(a!)? probs) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "head_backward(Tensor hidden, Tensor weight, Tensor targets, Tensor coef, Tensor logps, Tensor lse, "
      "Tensor target_slope, Tensor mass, Tensor tile_max, Tensor probs, float temperature, float filter_eps, "
      "int group_size, Tensor(a!)? grad_hidden, Tensor(b!)? grad_weight, Tensor(c!)? grad_bias) -> ()");
}

TORCH_LIBRARY_IMPL(advgame, CPU, m) {
  m.impl("sample_probs", &advgame::sample_probs);
  m.impl("head_forward", &advgame::head_forward);
  m.impl("head_backward", &advgame::head_backward);
}

// kernels/ differentiates. Calls from elsewhere get an error for a derivative, in either direction, and no silent zero.
TORCH_LIBRARY_IMPL(advgame, Autograd, m) {
  m.impl("head_forward", torch::autograd::autogradNotImplementedFallback());
  m.impl("head_backward", torch::autograd::autogradNotImplementedFallback());
}

PyMODINIT_FUNC PyInit__C(void) {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr};
  return PyModule_Create(&module);
}

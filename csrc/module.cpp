// Makes the shared library importable as advgame.kernels._C; importing it runs the TORCH_LIBRARY registrations.
#include <Python.h>

PyMODINIT_FUNC PyInit__C(void) {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr};
  return PyModule_Create(&module);
}

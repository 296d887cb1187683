// The Python module edge_ad.kernels._cpp.
#include <pybind11/pybind11.h>

PYBIND11_MODULE(_cpp, m) { m.doc() = "C++ kernels on NumPy arrays."; }

// What all kernels share, on the CPU and on CUDA: tensors of PyTorch's stable ABI, where their values lie, and what
// messages say of them. The schemas, the meaning of each tensor and the references are in torch_trf/_ops.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/macros/Macros.h>
#include <torch/headeronly/util/Exception.h>

namespace torch_trf {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <typename T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

template <typename T>
const T* const_data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

inline std::string shape_of(const Tensor& tensor) {
  std::string shape = "[";
  for (int64_t i = 0; i < tensor.dim(); ++i) shape += (i == 0 ? "" : ", ") + std::to_string(tensor.size(i));
  return shape + "]";
}

// Far more numbers than any memory holds, and so few that sums of their products with a few others do not overflow.
constexpr int64_t kMostNumbers = int64_t{1} << 36;

// The product of sizes, none of them negative. `what` names them for the message.
inline int64_t product(const char* what, std::initializer_list<int64_t> sizes) {
  int64_t value = 1;
  bool fits = true;
  std::string text;
  for (const int64_t size : sizes) {
    text += (text.empty() ? "" : " x ") + std::to_string(size);
    if (size == 0) return 0;
    fits = fits && size <= kMostNumbers / value;
    if (fits) value *= size;
  }
  STD_TORCH_CHECK(fits, what, ": ", text, " numbers are more than any memory holds");
  return value;
}

inline bool on_same_device(const Tensor& a, const Tensor& b) {
  return a.is_cuda() == b.is_cuda() && a.get_device() == b.get_device();
}

}  // namespace torch_trf

// What the solvers of small problems check of their tensors, on the CPU and on CUDA. The schemas, the meaning of each
// tensor and the references are in torch_trf/_ops.
#pragma once

#include <initializer_list>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

namespace torch_trf {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline void check_real(std::initializer_list<const Tensor*> tensors) {
  for (const Tensor* tensor : tensors)
    STD_TORCH_CHECK(tensor->is_contiguous() && tensor->scalar_type() == ScalarType::Double,
                    "expected contiguous float64 tensors");
}

inline void check_eigenproblems(const Tensor& matrix, const Tensor& rows) {
  check_real({&matrix, &rows});
  STD_TORCH_CHECK(matrix.dim() >= 2 && rows.dim() == matrix.dim() && matrix.size(-2) == matrix.size(-1) &&
                      rows.size(-1) == matrix.size(-1),
                  "matrix must be [..., D, D] and rows [..., K, D]");
  for (int64_t i = 0; i + 2 < matrix.dim(); ++i)
    STD_TORCH_CHECK(matrix.size(i) == rows.size(i), "matrix and rows must have the same batch");
}

inline void check_regressions(const Tensor& sigma, const Tensor& projected, const Tensor& outside, const Tensor& count,
                              const Tensor& included) {
  check_real({&sigma, &projected, &outside, &count});
  STD_TORCH_CHECK(included.is_contiguous() && included.scalar_type() == ScalarType::Bool && sigma.dim() >= 1 &&
                      outside.dim() >= 1,
                  "included must be contiguous booleans [..., K]");
  const int64_t directions = sigma.size(-1), classes = outside.size(-1), entries = count.numel();
  STD_TORCH_CHECK(sigma.numel() == entries * directions && projected.numel() == entries * classes * directions &&
                      outside.numel() == entries * classes && included.numel() == entries * classes,
                  "sigma must be [..., D], projected [..., K, D], outside and included [..., K], count [...]");
}

}  // namespace torch_trf

// What the solvers of small problems share, on the CPU and on CUDA: constants, and what they check of their tensors, so
// that no call reads beyond them.
#pragma once

#include <initializer_list>

#include "tensors.h"

namespace torch_trf {

constexpr int kMostSweeps = 30;
constexpr double kSmallOffDiagonal = 1e-30;  // squared norm off the diagonal, relative to that of the matrix
constexpr double kTwoPi = 6.283185307179586;

inline void check_real(std::initializer_list<const Tensor*> tensors) {
  for (const Tensor* tensor : tensors) {
    STD_TORCH_CHECK(tensor->is_contiguous() && tensor->scalar_type() == ScalarType::Double, "expected contiguous",
                    " float64 tensors, not ", toString(tensor->scalar_type()), " ", shape_of(*tensor));
    STD_TORCH_CHECK(on_same_device(*tensor, **tensors.begin()), "expected all tensors on one device");
  }
}

inline void check_eigenproblems(const Tensor& matrix, const Tensor& rows) {
  check_real({&matrix, &rows});
  STD_TORCH_CHECK(matrix.dim() >= 2 && rows.dim() == matrix.dim() && matrix.size(-2) == matrix.size(-1) &&
                      rows.size(-1) == matrix.size(-1),
                  "matrix ", shape_of(matrix), " must be [..., D, D] and rows ", shape_of(rows), " [..., K, D]");
  for (int64_t i = 0; i + 2 < matrix.dim(); ++i)
    STD_TORCH_CHECK(matrix.size(i) == rows.size(i), "matrix ", shape_of(matrix), " and rows ", shape_of(rows),
                    " must have the same batch");
}

inline void check_regressions(const Tensor& sigma, const Tensor& projected, const Tensor& outside, const Tensor& count,
                              const Tensor& included) {
  check_real({&sigma, &projected, &outside, &count});
  STD_TORCH_CHECK(included.is_contiguous() && included.scalar_type() == ScalarType::Bool &&
                      on_same_device(included, sigma),
                  "included must be contiguous booleans beside sigma, not ", toString(included.scalar_type()));
  STD_TORCH_CHECK(sigma.dim() >= 1 && outside.dim() >= 1, "sigma ", shape_of(sigma), " must be [..., D] and outside ",
                  shape_of(outside), " [..., K]");
  const int64_t directions = sigma.size(-1), classes = outside.size(-1), entries = count.numel();
  STD_TORCH_CHECK(sigma.numel() == entries * directions && projected.numel() == entries * classes * directions &&
                      outside.numel() == entries * classes && included.numel() == entries * classes,
                  "sigma ", shape_of(sigma), " must be [..., D], projected ", shape_of(projected),
                  " [..., K, D], outside ", shape_of(outside), " and included ", shape_of(included),
                  " [..., K], count ", shape_of(count), " [...]");
}

}  // namespace torch_trf

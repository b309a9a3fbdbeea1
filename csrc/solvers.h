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

// How many numbers a matrix has, and its rows together.
struct Areas {
  int64_t matrix, rows;
};

inline Areas check_eigenproblems(const Tensor& matrix, const Tensor& rows) {
  check_real({&matrix, &rows});
  STD_TORCH_CHECK(matrix.dim() >= 2 && rows.dim() == matrix.dim() && matrix.size(-2) == matrix.size(-1) &&
                      rows.size(-1) == matrix.size(-1),
                  "matrix ", shape_of(matrix), " must be [..., D, D] and rows ", shape_of(rows), " [..., K, D]");
  for (int64_t i = 0; i + 2 < matrix.dim(); ++i)
    STD_TORCH_CHECK(matrix.size(i) == rows.size(i), "matrix ", shape_of(matrix), " and rows ", shape_of(rows),
                    " must have the same batch");
  return {product("channels, channels", {matrix.size(-1), matrix.size(-1)}),
          product("rows, channels", {rows.size(-2), rows.size(-1)})};
}

inline void check_regressions(const Tensor& sigma, const Tensor& projected, const Tensor& outside, const Tensor& count,
                              const Tensor& included, double tolerance, int64_t max_iterations) {
  check_real({&sigma, &projected, &outside, &count});
  STD_TORCH_CHECK(included.is_contiguous() && included.scalar_type() == ScalarType::Bool &&
                      on_same_device(included, sigma),
                  "included must be contiguous booleans beside sigma, not ", toString(included.scalar_type()));
  STD_TORCH_CHECK(sigma.dim() >= 1 && outside.dim() >= 1, "sigma ", shape_of(sigma), " must be [..., D] and outside ",
                  shape_of(outside), " [..., K]");
  const int64_t directions = sigma.size(-1), entries = count.numel();
  const int64_t regressions = product("entries, classes", {entries, outside.size(-1)});
  STD_TORCH_CHECK(sigma.numel() == product("entries, directions", {entries, directions}) &&
                      projected.numel() == product("regressions, directions", {regressions, directions}) &&
                      outside.numel() == regressions && included.numel() == regressions,
                  "sigma ", shape_of(sigma), " must be [..., D], projected ", shape_of(projected),
                  " [..., K, D], outside ", shape_of(outside), " and included ", shape_of(included),
                  " [..., K], count ", shape_of(count), " [...]");
  STD_TORCH_CHECK(tolerance >= 0 && max_iterations > 0, "tolerance must be at least 0 and max_iterations at least 1,",
                  " not ", tolerance, " and ", max_iterations);
}

}  // namespace torch_trf

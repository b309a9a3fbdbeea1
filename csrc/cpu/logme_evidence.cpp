// LogME's fixed point on the CPU, a thread for many regressions. The formulas and their order are those of the
// reference in torch_trf/_ops/_logme_evidence.py.
//
// Operations an iteration: a division and 8 products for each direction; one logarithm for each direction at the end.
#include "../solvers.h"
#include "vectorized.h"

#include <algorithm>
#include <cmath>

namespace torch_trf {
namespace {

constexpr double kTwoPi = 6.283185307179586;

struct Regression {
  const double *sigma, *projected;
  int64_t channels;
  double outside, count;
};

struct Settings {
  double epsilon, tolerance;
  int64_t max_iterations;
};

TORCH_TRF_VECTORIZED
double evidence(const Regression& y, const Settings& settings) {
  int64_t rank = 0;
  for (int64_t d = 0; d < y.channels; ++d) rank += y.sigma[d] > 0;
  const double beyond_rank = std::max(0.0, y.count - static_cast<double>(rank));
  double alpha = 1, beta = 1, mean_square = 0, residual = 0;
  for (int64_t iteration = 0; iteration < settings.max_iterations; ++iteration) {
    const double ratio = alpha / beta;
    double gamma = 0, freedom = 0, length = 0, error = 0;
#pragma omp simd reduction(+ : gamma, freedom, length, error)
    for (int64_t d = 0; d < y.channels; ++d) {
      const double sigma = y.sigma[d], inverse = sigma > 0 ? 1 / (sigma + ratio) : 0;
      const double shrinkage = sigma * inverse, remainder = ratio * inverse;
      gamma += shrinkage;
      freedom += remainder;
      length += shrinkage * inverse * y.projected[d];
      error += remainder * remainder * y.projected[d];
    }
    mean_square = length + settings.epsilon;
    residual = error + y.outside + settings.epsilon;
    alpha = gamma / mean_square;
    beta = (beyond_rank + freedom) / residual;
    if (std::fabs(alpha / beta - ratio) <= settings.tolerance * ratio) break;
  }
  double log_determinant = 0;
  for (int64_t d = 0; d < y.channels; ++d)
    if (y.sigma[d] > 0) log_determinant += std::log1p(y.sigma[d] * (beta / alpha));
  const double log_evidence = y.count / 2 * std::log(beta / kTwoPi) - log_determinant / 2 - beta / 2 * residual -
                              alpha / 2 * mean_square;
  return log_evidence / y.count;
}

Tensor logme_evidence(const Tensor& sigma, const Tensor& projected, const Tensor& outside, const Tensor& count,
                      const Tensor& included, double epsilon, double tolerance, int64_t max_iterations) {
  check_regressions(sigma, projected, outside, count, included);
  const int64_t channels = sigma.size(-1), classes = outside.size(-1);
  const Tensor result = torch::stable::empty_like(outside);
  const auto real = [](const Tensor& tensor) { return static_cast<const double*>(tensor.const_data_ptr()); };
  const double *const sigmas = real(sigma), *const all_projected = real(projected), *const all_outside = real(outside);
  const double* const counts = real(count);
  const bool* const wanted = static_cast<const bool*>(included.const_data_ptr());
  double* const values = static_cast<double*>(result.mutable_data_ptr());
  torch::stable::parallel_for(0, outside.numel(), 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t entry = i / classes;
      const Regression y{sigmas + entry * channels, all_projected + i * channels, channels, all_outside[i],
                         counts[entry]};
      values[i] = wanted[i] ? evidence(y, {epsilon, tolerance, max_iterations}) : 0;
    }
  });
  return result;
}

}  // namespace
}  // namespace torch_trf

STABLE_TORCH_LIBRARY_IMPL(torch_trf, CPU, m) { m.impl("logme_evidence", TORCH_BOX(&torch_trf::logme_evidence)); }

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

struct Regression {
  const double *sigma, *projected;
  int64_t directions;
  double outside, count;
};

struct Settings {
  double epsilon, tolerance;
  int64_t max_iterations;
};

TORCH_TRF_VECTORIZED
double maximize(const Regression& y, const Settings& settings) {
  int64_t rank = 0;
  for (int64_t d = 0; d < y.directions; ++d) rank += y.sigma[d] > 0;
  const double beyond_rank = std::max(0.0, y.count - static_cast<double>(rank));
  double alpha = 1, beta = 1, mean_square = 0, residual = 0;
  for (int64_t iteration = 0; iteration < settings.max_iterations; ++iteration) {
    const double ratio = alpha / beta;
    double gamma = 0, freedom = 0;
    mean_square = residual = 0;
#pragma omp simd reduction(+ : gamma, freedom, mean_square, residual)
    for (int64_t d = 0; d < y.directions; ++d) {
      const double sigma = y.sigma[d], inverse = sigma > 0 ? 1 / (sigma + ratio) : 0;
      const double shrinkage = sigma * inverse, remainder = ratio * inverse;
      gamma += shrinkage;
      freedom += remainder;
      mean_square += shrinkage * inverse * y.projected[d];
      residual += remainder * remainder * y.projected[d];
    }
    freedom = beyond_rank + freedom;
    mean_square = mean_square + settings.epsilon;
    residual = residual + y.outside + settings.epsilon;
    alpha = gamma / mean_square;
    beta = freedom / residual;
    if (!(std::fabs(alpha / beta - ratio) > settings.tolerance * ratio)) break;  // where it is no number, too
  }
  double log_determinant = 0;
  for (int64_t d = 0; d < y.directions; ++d)
    if (y.sigma[d] > 0) log_determinant += std::log1p(y.sigma[d] * (beta / alpha));
  const double log_evidence = y.count / 2 * std::log(beta / kTwoPi) - log_determinant / 2 - beta / 2 * residual -
                              alpha / 2 * mean_square;
  return log_evidence / y.count;
}

Tensor logme_evidence(const Tensor& sigma, const Tensor& projected, const Tensor& outside, const Tensor& count,
                      const Tensor& included, double epsilon, double tolerance, int64_t max_iterations) {
  check_regressions(sigma, projected, outside, count, included, tolerance, max_iterations);
  const int64_t directions = sigma.size(-1), classes = outside.size(-1);
  const Tensor evidence = torch::stable::empty_like(outside);
  const double *const all_sigma = const_data<double>(sigma), *const all_projected = const_data<double>(projected);
  const double *const all_outside = const_data<double>(outside), *const all_counts = const_data<double>(count);
  const uint8_t* const all_included = const_data<uint8_t>(included);  // a byte that is neither 0 nor 1 is no bool
  double* const all_evidence = data<double>(evidence);
  torch::stable::parallel_for(0, outside.numel(), 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t entry = i / classes;
      const Regression y{all_sigma + entry * directions, all_projected + i * directions, directions, all_outside[i],
                         all_counts[entry]};
      all_evidence[i] = all_included[i] ? maximize(y, {epsilon, tolerance, max_iterations}) : 0;
    }
  });
  return evidence;
}

}  // namespace
}  // namespace torch_trf

STABLE_TORCH_LIBRARY_IMPL(torch_trf, CPU, m) { m.impl("logme_evidence", TORCH_BOX(&torch_trf::logme_evidence)); }

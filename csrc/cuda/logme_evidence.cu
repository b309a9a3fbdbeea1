// The fixed point of LogME on CUDA: some lanes of a warp have one class of one entry, each lane every so many of its
// directions, and add up their sums after each iteration. The evidence is needed only at the last iteration, which
// spares the logarithms of all others.
//
// An iteration costs some 50 double-precision operations a direction; everything is read from cache.
#include "../solvers.h"
#include "launch.cuh"

namespace torch_trf {
namespace {

constexpr int kThreads = 128;
constexpr int64_t kFewDirections = 32;  // up to here 8 lanes have a class, beyond a whole warp

struct Regressions {
  const double *sigma, *projected, *outside, *count;  // [entries, D], [entries, K, D], [entries, K], [entries]
  const uint8_t* included;                            // [entries, K], 0 for no
  double* evidence;                                   // [entries, K]
  int64_t entries, classes, directions;
  double epsilon, tolerance;
  int64_t max_iterations;
};

template <int kGroup>
__global__ void __launch_bounds__(kThreads) maximize(const Regressions all) {
  const int lane = threadIdx.x % kGroup;
  const int64_t regressions = all.entries * all.classes, at_once = int64_t{gridDim.x} * kThreads / kGroup;
  // Every lane of a warp goes on until the last class of the warp is done: the sums need them all.
  for (int64_t start = int64_t{blockIdx.x} * kThreads / kGroup; start < regressions; start += at_once) {
    const int64_t index = start + threadIdx.x / kGroup;
    const bool exists = index < regressions;
    const int64_t entry = exists ? index / all.classes : 0;
    const double* const sigma = all.sigma + entry * all.directions;
    const double* const projected = all.projected + (exists ? index : 0) * all.directions;
    const double outside = exists ? all.outside[index] : 0, count = all.count[entry];
    // The sum of `term` over the directions with sigma > 0.
    const auto sum_present = [&](const auto& term) {
      double sum = 0;
      for (int64_t d = lane; d < all.directions; d += kGroup)
        if (sigma[d] > 0) sum += term(sigma[d]);
      return sum_lanes(sum, 1, kGroup);
    };
    double beyond_rank = count - sum_present([](double) { return 1.0; });
    if (beyond_rank < 0) beyond_rank = 0;  // NaN stays

    double alpha = 1, beta = 1, evidence = 0;
    bool converged = !exists || !all.included[index];
    for (int64_t iteration = 0; iteration < all.max_iterations; ++iteration) {
      if (__all_sync(kAllLanes, converged)) break;
      const double ratio = alpha / beta;
      double gamma = 0, freedom = 0, mean_square = 0, residual = 0;
      for (int64_t d = lane; d < all.directions; d += kGroup) {
        const bool present = sigma[d] > 0;
        const double shrinkage = present ? sigma[d] / (sigma[d] + ratio) : 0;
        const double remainder = present ? ratio / (sigma[d] + ratio) : 0;
        gamma += shrinkage;
        freedom += remainder;
        if (present) mean_square += shrinkage * shrinkage * projected[d] / sigma[d];
        residual += remainder * remainder * projected[d];  // NaN where `projected` is, present or not
      }
      gamma = sum_lanes(gamma, 1, kGroup);
      freedom = beyond_rank + sum_lanes(freedom, 1, kGroup);
      mean_square = sum_lanes(mean_square, 1, kGroup) + all.epsilon;
      residual = sum_lanes(residual, 1, kGroup) + outside + all.epsilon;
      if (!converged) {
        alpha = gamma / mean_square;
        beta = freedom / residual;
      }
      const bool now = !converged && !(fabs(alpha / beta - ratio) > all.tolerance * ratio);  // no number: at once
      const bool last = !converged && (now || iteration == all.max_iterations - 1);
      if (__any_sync(kAllLanes, last)) {
        const double log_determinant = sum_present([&](double s) { return log1p(s * (beta / alpha)); });
        const double log_evidence = count / 2 * log(beta / kTwoPi) - log_determinant / 2 - beta / 2 * residual -
                                    alpha / 2 * mean_square;
        if (last) evidence = log_evidence / count;
      }
      converged = converged || now;
    }
    if (exists && lane == 0) all.evidence[index] = evidence;
  }
}

template <int kGroup>
void launch_maximize(const Regressions& all, const Launch& launch) {
  maximize<kGroup><<<blocks(all.entries * all.classes, kThreads / kGroup), kThreads, 0, launch.stream>>>(all);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

Tensor logme_evidence(const Tensor& sigma, const Tensor& projected, const Tensor& outside, const Tensor& count,
                      const Tensor& included, double epsilon, double tolerance, int64_t max_iterations) {
  check_regressions(sigma, projected, outside, count, included, tolerance, max_iterations);
  const int64_t classes = outside.size(-1), directions = sigma.size(-1), entries = count.numel();
  const Launch launch(sigma);
  const Tensor evidence = torch::stable::empty_like(outside);
  if (entries * classes > 0) {
    const Regressions all{const_data<double>(sigma),
                          const_data<double>(projected),
                          const_data<double>(outside),
                          const_data<double>(count),
                          const_data<uint8_t>(included),
                          data<double>(evidence),
                          entries,
                          classes,
                          directions,
                          epsilon,
                          tolerance,
                          max_iterations};
    directions <= kFewDirections ? launch_maximize<8>(all, launch) : launch_maximize<kWarp>(all, launch);
  }
  return evidence;
}

}  // namespace
}  // namespace torch_trf

STABLE_TORCH_LIBRARY_IMPL(torch_trf, CUDA, m) { m.impl("logme_evidence", TORCH_BOX(&torch_trf::logme_evidence)); }

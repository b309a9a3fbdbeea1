// LEEP's second look on the CPU: for every patch the sum over its pixels of ln Σ_z p(y|z) θ_z, with the patch's own
// p(y|z). Patches side by side share a pixel's softmax; patches above one another look at it again.
//
// Operations a pixel and row of patches: Z exponentials; a pixel and patch: Z products and a logarithm.
#include "prediction.h"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <tuple>

namespace torch_trf {
namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor> patch_log_likelihood(const Tensor& logits, const Tensor& labels,
                                                                const Tensor& target_given_source,
                                                                int64_t patch_height, int64_t patch_width,
                                                                int64_t stride_height, int64_t stride_width,
                                                                bool pool_batch, int64_t ignore_index) {
  const PatchGrid grid{patch_height, patch_width, stride_height, stride_width};
  const int64_t num_classes = classes_of(target_given_source);
  const Geometry g =
      make_geometry(logits, labels, num_classes, grid, pool_batch, ignore_index, numbers_of_log_likelihood);
  check_target_given_source(target_given_source, logits, g);
  const int64_t source_classes = g.channels, numbers = num_classes * source_classes;
  const Tensor total = make_rows(logits, g, true, {}), total_square = make_rows(logits, g, true, {});
  const Tensor pixel_count = make_rows(logits, g, false, {}, ScalarType::Long), faults = make_faults(logits, g);
  double *const all_total = data<double>(total), *const all_total_square = data<double>(total_square);
  const double* const all_target_given_source = const_data<double>(target_given_source);
  int64_t *const all_counts = data<int64_t>(pixel_count), *const all_faults = data<int64_t>(faults);
  const Pixels pixels(logits, labels, g);
  const Units units(g, kPredictionSpan, kPredictionSpan);
  std::mutex mutex;
  for_each_unit(units, [&](const Unit& unit) {
    Tally tally(g, unit.patches, 1);
    Prediction prediction(g, pixels);
    units.bands(unit, kPredictionSpan, [&](const Band& band) {
      for (int64_t row = 0; row < band.rows; ++row) {
        prediction.read(band, row, false);
        for (int64_t j = 0; j < unit.patches; ++j) {
          const int64_t patch = unit.first_patch + j, chunk_row = g.chunk_row(patch, unit.chunk);
          for (int64_t t = j * g.stride_width; t < j * g.stride_width + band.width; ++t) {
            const int64_t label = prediction.classify(tally, j, t);
            if (label < 0) continue;
            const double* const exponentials = prediction.exponentials(t);
            const double* const p = all_target_given_source + patch * numbers + label * source_classes;
            double likelihood = 0;
            for (int64_t z = 0; z < source_classes; ++z) likelihood += p[z] * exponentials[z * kPredictionStride];
            // The likelihood is at most 1; rounding may lift it by an ulp.
            const double log_likelihood = std::log(std::min(likelihood * prediction.scale(t), 1.0));
            all_total[chunk_row] += log_likelihood;
            all_total_square[chunk_row] += log_likelihood * log_likelihood;
            tally.count(j, 0);
          }
        }
      }
    });
    tally.add_to(unit, all_counts, all_faults, mutex);
  });
  return {finish(total, g, pool_batch, true), finish(total_square, g, pool_batch, true),
          finish(pixel_count, g, pool_batch, false), finish(faults, g, pool_batch, false)};
}

}  // namespace
}  // namespace torch_trf

STABLE_TORCH_LIBRARY_IMPL(torch_trf, CPU, m) {
  m.impl("patch_log_likelihood", TORCH_BOX(&torch_trf::patch_log_likelihood));
}

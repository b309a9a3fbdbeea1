// The mass that target and source classes share in every cell, on the CPU: one read of the logits, softened span by
// span in cache and added to the row of the pixel's class.
//
// Operations a pixel: Z exponentials, Z additions.
#include "prediction.h"

#include <mutex>
#include <tuple>

namespace torch_trf {
namespace {

std::tuple<Tensor, Tensor> patch_joint_mass(const Tensor& logits, const Tensor& labels, int64_t num_classes,
                                            int64_t cell_height, int64_t cell_width, bool pool_batch,
                                            int64_t ignore_index, bool hard) {
  const PatchGrid cells = grid_of_cells(cell_height, cell_width);
  const Geometry g =
      make_geometry(logits, labels, num_classes, cells, pool_batch, ignore_index, numbers_of_joint_mass);
  const int64_t source_classes = g.channels, numbers = num_classes * source_classes;
  const Tensor mass = make_rows(logits, g, true, {num_classes, source_classes}), faults = make_faults(logits, g);
  double* const all_mass = data<double>(mass);
  int64_t* const all_faults = data<int64_t>(faults);
  const Pixels pixels(logits, labels, g);
  const Units units(g, kPredictionSpan, kPredictionSpan);
  std::mutex mutex;
  for_each_unit(units, [&](const Unit& unit) {
    Tally tally(g, unit.patches, 0);
    Prediction prediction(g, pixels);
    units.bands(unit, kPredictionSpan, [&](const Band& band) {
      for (int64_t row = 0; row < band.rows; ++row) {
        prediction.read(band, row, hard);
        for (int64_t t = 0; t < band.span; ++t) {
          const int64_t j = t / band.width, label = prediction.classify(tally, j, t);
          if (label < 0) continue;
          double* const sums = all_mass + g.chunk_row(unit.first_patch + j, unit.chunk) * numbers;
          double* const sum = sums + label * source_classes;
          if (hard) {
            sum[prediction.best(t)] += 1;
          } else {
            const double *const exponentials = prediction.exponentials(t), scale = prediction.scale(t);
            for (int64_t z = 0; z < source_classes; ++z) sum[z] += exponentials[z * kPredictionStride] * scale;
          }
        }
      }
    });
    tally.add_to(unit, nullptr, all_faults, mutex);
  });
  return {finish(mass, g, pool_batch, true), finish(faults, g, pool_batch, false)};
}

}  // namespace
}  // namespace torch_trf

STABLE_TORCH_LIBRARY_IMPL(torch_trf, CPU, m) { m.impl("patch_joint_mass", TORCH_BOX(&torch_trf::patch_joint_mass)); }

// Log-likelihood of patches on CUDA: a thread has one pixel of every tile of its unit, and one patch's sums, which the
// threads of a patch add up, in the order of their pixels, at the end of the unit. A patch's p(y|z) is read from the
// first level of cache, where it stays while the block goes through the patch's pixels.
//
// A pixel in a patch costs one read of its logits and an exponential of some 20 double-precision operations for each.
#include "../patches.h"

#include "launch.cuh"
#include "pixels.cuh"
#include "prediction.cuh"

namespace torch_trf {
namespace {

template <typename scalar_t>
__global__ void __launch_bounds__(kSlots)
    add_log_likelihood(const Pixels<scalar_t> pixels, const Units units, const double* target_given_source,
                       double* total, double* total_square, int64_t* pixel_count) {
  using real_t = exponential_t<scalar_t>;
  extern __shared__ __align__(16) unsigned char memory[];
  __shared__ double sums[kLine], square_sums[kLine];
  __shared__ int64_t counts[kLine];
  const Geometry& g = pixels.g;
  const int slot = threadIdx.x, slot_patch = units.patch_of(slot), slot_pixel = units.pixel_of(slot);
  const int place = units.place(slot_patch, slot_pixel);
  Prediction<scalar_t> prediction(pixels, reinterpret_cast<real_t*>(memory) + place);

  for (int64_t index = blockIdx.x; index < units.count; index += gridDim.x) {
    const Unit unit = units.unit(g, index);
    const int64_t patch = unit.first_patch + slot_patch;
    const double* const patch_p = target_given_source + patch * g.classes * g.channels;
    Walk walk(g, patch, unit.chunk * g.chunk_pixels + slot_pixel);
    double sum = 0, square_sum = 0;
    int64_t counted = 0;

    for (int64_t pixel = slot_pixel; slot_patch < unit.patches && pixel < unit.pixels; pixel += units.tile_pixels()) {
      const Offsets at = walk.at();
      walk.advance(g, units.step);
      const int label = pixels.classify(patch, at.label);
      if (label < 0) continue;
      if (!prediction.read(at.features)) {
        pixels.count_non_finite(patch);
        continue;
      }
      const double* const p = patch_p + label * g.channels;  // p(y|z) of the pixel's own class y
      double weight_sum = 0, weighted = 0;
      for (int64_t z = 0; z < g.channels; ++z) {
        const double weight = prediction.exponential(z);
        weight_sum += weight;
        weighted += p[z] * weight;
      }
      const double likelihood = weighted / weight_sum;
      const double log_likelihood = log(likelihood > 1 ? 1 : likelihood);  // rounding may lift it by an ulp
      sum += log_likelihood;
      square_sum += log_likelihood * log_likelihood;
      ++counted;
    }

    sums[place] = sum;
    square_sums[place] = square_sum;
    counts[place] = counted;
    __syncthreads();
    if (slot < unit.patches) {
      sum = square_sum = 0;
      counted = 0;
      for (int i = 0; i < units.tile_pixels(); ++i) {
        sum += sums[units.place(slot, i)];
        square_sum += square_sums[units.place(slot, i)];
        counted += counts[units.place(slot, i)];
      }
      const int64_t chunk_row = g.chunk_row(unit.first_patch + slot, unit.chunk);
      total[chunk_row] = sum;
      total_square[chunk_row] = square_sum;
      pixels.count(pixel_count + unit.first_patch + slot, counted);
    }
    __syncthreads();
  }
}

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
  const Launch launch(logits);
  const Tensor total = make_rows(logits, g, true, {}), total_square = make_rows(logits, g, true, {});
  const Tensor pixel_count = make_rows(logits, g, false, {}, ScalarType::Long), faults = make_faults(logits, g, launch);
  if (g.patches * g.patch_pixels > 0) {
    dispatch_features(logits, [&](auto* type) {
      using scalar_t = std::remove_pointer_t<decltype(type)>;
      const Pixels<scalar_t> pixels(logits, labels, faults, g);
      const Units units(g, kMostPatches);
      add_log_likelihood<<<blocks(units.count), kSlots, held_bytes<scalar_t>(g.channels), launch.stream>>>(
          pixels, units, const_data<double>(target_given_source), data<double>(total),
          data<double>(total_square), data<int64_t>(pixel_count));
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    });
  }
  return {finish(total, g, pool_batch, true), finish(total_square, g, pool_batch, true),
          finish(pixel_count, g, pool_batch, false), finish(faults, g, pool_batch, false)};
}

}  // namespace
}  // namespace torch_trf

STABLE_TORCH_LIBRARY_IMPL(torch_trf, CUDA, m) {
  m.impl("patch_log_likelihood", TORCH_BOX(&torch_trf::patch_log_likelihood));
}

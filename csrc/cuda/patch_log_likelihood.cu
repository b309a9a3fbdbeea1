// Log-likelihood of windows on CUDA: a thread has one pixel of every tile of its unit, and one window's sums, which the
// threads of a window add up, in the order of their pixels, at the end of the unit. A window's p(y|z) is read from the
// first level of cache, where it stays while the block goes through the window's pixels.
//
// A pixel in a window costs one read of its logits and an exponential of some 20 double-precision operations for each.
#include "../patches.h"

#include "launch.cuh"
#include "pixels.cuh"
#include "softmax.cuh"

namespace torch_trf {
namespace {

template <typename scalar_t>
__global__ void __launch_bounds__(kSlots)
    add_log_likelihood(const Pixels<scalar_t> pixels, const Tiling tiling, const double* target_given_source,
                       double* total, double* total_square, int64_t* count) {
  using real_t = exponential_t<scalar_t>;
  extern __shared__ __align__(16) unsigned char memory[];
  __shared__ double sums[kLine], square_sums[kLine];
  __shared__ int64_t counts[kLine];
  const Geometry& g = pixels.g;
  const int slot = threadIdx.x, slot_patch = tiling.patch_of(slot), slot_pixel = tiling.pixel_of(slot);
  const int place = tiling.place(slot_patch, slot_pixel);
  Logits<scalar_t> logits(pixels, reinterpret_cast<real_t*>(memory) + place);

  for (int64_t index = blockIdx.x; index < tiling.units; index += gridDim.x) {
    const Unit unit = tiling.unit(g, index);
    const int64_t patch = unit.first_patch + slot_patch;
    const double* const table = target_given_source + patch * g.classes * g.channels;
    Walk walk(g, patch, unit.chunk * g.chunk_pixels + slot_pixel);
    double sum = 0, square_sum = 0;
    int64_t counted = 0;

    for (int64_t pixel = slot_pixel; slot_patch < unit.patches && pixel < unit.pixels; pixel += tiling.pixels()) {
      const Offsets at = walk.at();
      walk.advance(g, tiling.step);
      const int label = pixels.classify(patch, at.label);
      if (label < 0) continue;
      if (!logits.look(at.features)) {
        pixels.count_non_finite(patch);
        continue;
      }
      const double* const target = table + label * g.channels;
      double all = 0, joint = 0;
      for (int64_t z = 0; z < g.channels; ++z) {
        const double weight = logits.exponential(z);
        all += weight;
        joint += target[z] * weight;
      }
      const double likelihood = joint / all;
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
      for (int i = 0; i < tiling.pixels(); ++i) {
        sum += sums[tiling.place(slot, i)];
        square_sum += square_sums[tiling.place(slot, i)];
        counted += counts[tiling.place(slot, i)];
      }
      const int64_t row = (unit.first_patch + slot) * g.chunks + unit.chunk;
      total[row] = sum;
      total_square[row] = square_sum;
      pixels.count(count + unit.first_patch + slot, counted);
    }
    __syncthreads();
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor> patch_log_likelihood(const Tensor& logits, const Tensor& labels,
                                                                const Tensor& target_given_source,
                                                                int64_t patch_height, int64_t patch_width,
                                                                int64_t stride_height, int64_t stride_width,
                                                                bool pool_batch, int64_t ignore_index) {
  constexpr int64_t kSums = 2;
  const int64_t classes = target_given_source.size(target_given_source.dim() - 2);
  const Geometry g = make_geometry(logits, labels, classes, {patch_height, patch_width, stride_height, stride_width},
                                   pool_batch, ignore_index, kSums);
  check_conditional(target_given_source, g);
  const Launch launch(logits);
  const Tensor total = make_rows(logits, g, true, {}), total_square = make_rows(logits, g, true, {});
  const Tensor count = make_rows(logits, g, false, {}, ScalarType::Long), faults = make_faults(logits, g, launch);
  if (g.patches * g.patch_pixels > 0) {
    dispatch_features(logits, [&](auto* type) {
      using scalar_t = std::remove_pointer_t<decltype(type)>;
      const Pixels<scalar_t> pixels(logits, labels, faults, g);
      const Tiling tiling(g, kMostPatches);
      add_log_likelihood<<<blocks(tiling.units), kSlots, held_bytes<scalar_t>(g.channels), launch.stream>>>(
          pixels, tiling, static_cast<const double*>(target_given_source.const_data_ptr()), data<double>(total),
          data<double>(total_square), data<int64_t>(count));
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    });
  }
  return {finish(total, g, pool_batch, true), finish(total_square, g, pool_batch, true),
          finish(count, g, pool_batch, false), finish(faults, g, pool_batch, false)};
}

}  // namespace
}  // namespace torch_trf

STABLE_TORCH_LIBRARY_IMPL(torch_trf, CUDA, m) {
  m.impl("patch_log_likelihood", TORCH_BOX(&torch_trf::patch_log_likelihood));
}

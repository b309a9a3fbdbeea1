// Joint mass on CUDA: a thread has one pixel of a tile and leaves its exponentials in shared memory; then a warp goes
// through the 32 pixels that it has of one patch, a lane for each source class, and adds what belongs to one target
// class after the other to that class's row.
//
// With 19 source classes a pixel is 76 bytes of float32 and 19 exponentials of some 20 double-precision operations:
// on an H100 that takes about as long as the memory. More than 32 source classes are taken 32 at a time, and the
// exponentials twice, since their sum has to be known first.
#include "../patches.h"

#include "class_rows.cuh"
#include "launch.cuh"
#include "pixels.cuh"
#include "prediction.cuh"

namespace torch_trf {
namespace {

constexpr int kWarps = kSlots / kWarp;

template <typename scalar_t>
__global__ void __launch_bounds__(kSlots)
    add_joint_mass(const Pixels<scalar_t> pixels, const Units units, const ClassRows rows, bool hard) {
  using real_t = exponential_t<scalar_t>;
  extern __shared__ __align__(16) unsigned char memory[];
  real_t* const weights = reinterpret_cast<real_t*>(memory);  // [kHeldLogits, kHeldPitch], before normalization
  __shared__ real_t scales[kLine];                            // which normalize them
  __shared__ int classes[kLine];
  const Geometry& g = pixels.g;
  const int64_t source_classes = g.channels;

  const int slot = threadIdx.x, slot_patch = units.patch_of(slot), slot_pixel = units.pixel_of(slot);
  const int place = units.place(slot_patch, slot_pixel);
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int warp_patch = warp / rows.sharing, turn = warp % rows.sharing;
  const int warp_place = units.place(warp_patch, turn * kWarp);
  Prediction<scalar_t> prediction(pixels, weights + place);
  const auto weigh = [&](int64_t z) {
    return hard ? static_cast<real_t>(z == prediction.best()) : prediction.exponential(z);
  };

  for (int64_t index = blockIdx.x; index < units.count; index += gridDim.x) {
    const Unit unit = units.unit(g, index);
    const int64_t patch = unit.first_patch + slot_patch;
    const int64_t chunk_row = g.chunk_row(unit.first_patch + warp_patch, unit.chunk);
    const bool has_patch = warp_patch < unit.patches;
    double* const mass = rows.warp_row(chunk_row);
    if (has_patch) rows.open(chunk_row);
    Walk walk(g, patch, unit.chunk * g.chunk_pixels + slot_pixel);

    for (int64_t start = 0; start < unit.pixels; start += units.tile_pixels()) {
      const Offsets at = walk.at();
      walk.advance(g, units.step);
      int label = -1;
      if (slot_patch < unit.patches && start + slot_pixel < unit.pixels) label = pixels.classify(patch, at.label);
      if (label >= 0 && !prediction.read(at.features)) {
        pixels.count_non_finite(patch);
        label = -1;
      }
      real_t weight_sum = 0;
      if (source_classes > kHeldLogits && label >= 0)
        for (int64_t z = 0; z < source_classes; ++z) weight_sum += weigh(z);

      for (int64_t first = 0; first < source_classes; first += kHeldLogits) {
        const int64_t last = first + kHeldLogits < source_classes ? first + kHeldLogits : source_classes;
        for (int64_t z = first; z < last && label >= 0; ++z) {
          const real_t weight = weigh(z);
          weights[(z - first) * kHeldPitch + place] = weight;
          if (source_classes <= kHeldLogits) weight_sum += weight;
        }
        classes[place] = label;
        scales[place] = 1 / weight_sum;
        __syncthreads();

        // Class after class among the warp's pixels; each lane one source class.
        const int64_t z = first + lane;
        const int own = classes[warp_place + lane];
        for (unsigned left = __ballot_sync(kAllLanes, own >= 0); left != 0;) {
          const int target = __shfl_sync(kAllLanes, own, __ffs(left) - 1);
          const unsigned alike = __ballot_sync(kAllLanes, own == target);
          left &= ~alike;
          if (z >= source_classes) continue;
          double sum = 0;
          for (unsigned those = alike; those != 0; those &= those - 1) {
            const int at_place = warp_place + __ffs(those) - 1;
            sum += static_cast<double>(weights[lane * kHeldPitch + at_place]) * scales[at_place];
          }
          mass[target * source_classes + z] += sum;
        }
        __syncthreads();  // before the weights give way to others
      }
    }

    for (int t = 0; t < rows.sharing; ++t) {
      if (t == turn && has_patch) rows.close(chunk_row);
      __syncthreads();
    }
  }
}

std::tuple<Tensor, Tensor> patch_joint_mass(const Tensor& logits, const Tensor& labels, int64_t num_classes,
                                            int64_t cell_height, int64_t cell_width, bool pool_batch,
                                            int64_t ignore_index, bool hard) {
  const PatchGrid cells = grid_of_cells(cell_height, cell_width);
  const Geometry g =
      make_geometry(logits, labels, num_classes, cells, pool_batch, ignore_index, numbers_of_joint_mass);
  const int64_t source_classes = g.channels, numbers = num_classes * source_classes;
  const Launch launch(logits);
  const Tensor mass = make_rows(logits, g, true, {num_classes, source_classes});
  const Tensor faults = make_faults(logits, g, launch);
  if (g.patches * g.patch_pixels > 0) {
    dispatch_features(logits, [&](auto* type) {
      using scalar_t = std::remove_pointer_t<decltype(type)>;
      const Pixels<scalar_t> pixels(logits, labels, faults, g);
      const Units units(g, kWarps);
      const ClassRowsPlan plan = plan_class_rows(mass, units, numbers, kWarps);
      const size_t bytes = held_bytes<scalar_t>(source_classes);
      add_joint_mass<<<plan.grid, kSlots, bytes, launch.stream>>>(pixels, units, plan.rows, hard);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    });
  }
  return {finish(mass, g, pool_batch, true), finish(faults, g, pool_batch, false)};
}

}  // namespace
}  // namespace torch_trf

STABLE_TORCH_LIBRARY_IMPL(torch_trf, CUDA, m) { m.impl("patch_joint_mass", TORCH_BOX(&torch_trf::patch_joint_mass)); }

// Patch moments on CUDA: the first pixel that counts is a patch's origin, close to its mean, so that little cancels;
// found by a short look at the first pixels. Then all sums are taken around it, by one of two ways.
#include "../patches.h"

#include "launch.cuh"
#include "moments.cuh"
#include "moments_in_blocks.cuh"
#include "moments_in_registers.cuh"
#include "pixels.cuh"

namespace torch_trf {
namespace {

constexpr int kThreads = 256;

// A warp for each chunk of a patch: `first[patch]` becomes the first labeled pixel whose features are all finite, and
// stays `patch_pixels` where there is none. Chunks behind one that was found already have nothing to do.
template <typename scalar_t>
__global__ void find_first(const Pixels<scalar_t> pixels, const Step step, int64_t* first) {
  const Geometry& g = pixels.g;
  const int lane = threadIdx.x % kWarp;
  const int64_t warps = int64_t{gridDim.x} * blockDim.x / kWarp;
  for (int64_t chunk_row = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / kWarp; chunk_row < g.patches * g.chunks;
       chunk_row += warps) {
    const int64_t patch = chunk_row / g.chunks, begin = chunk_row % g.chunks * g.chunk_pixels;
    const int64_t end = begin + g.chunk_pixels < g.patch_pixels ? begin + g.chunk_pixels : g.patch_pixels;
    Walk walk(g, patch, begin + lane);
    bool done = false;
    for (int64_t start = begin; start < end && !done; start += kWarp) {
      const int64_t earliest = __shfl_sync(kAllLanes, *static_cast<volatile int64_t*>(first + patch), 0);
      if (earliest < start) break;
      const Offsets at = walk.at();
      walk.advance(g, step);
      const bool labeled = start + lane < end && pixels.class_of(pixels.label(at.label)) >= 0;
      for (unsigned left = __ballot_sync(kAllLanes, labeled); left != 0 && !done; left &= left - 1) {
        const int candidate = __ffs(left) - 1;
        const int64_t offset = __shfl_sync(kAllLanes, at.features, candidate);
        bool finite = true;
        for (int64_t d = lane; d < g.channels; d += kWarp)
          finite = finite && isfinite(static_cast<double>(pixels.feature(offset, d)));
        done = __all_sync(kAllLanes, finite);
        if (done && lane == 0) atomicMin(reinterpret_cast<long long*>(first + patch), start + candidate);
      }
    }
  }
}

// A thread for each channel of a patch.
template <typename scalar_t>
__global__ void take_origins(const Pixels<scalar_t> pixels, const int64_t* first, double* origin) {
  const Geometry& g = pixels.g;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < g.patches * g.channels;
       i += int64_t{gridDim.x} * blockDim.x) {
    const int64_t patch = i / g.channels;
    if (first[patch] == g.patch_pixels) continue;
    origin[i] = static_cast<double>(pixels.feature(g.locate(patch, first[patch]).features, i % g.channels));
  }
}

template <typename scalar_t>
void launch_origins(const Pixels<scalar_t>& pixels, const Tensor& origin, const Launch& launch) {
  const Geometry& g = pixels.g;
  const Tensor first = torch::stable::new_empty(origin, {g.patches}, ScalarType::Long);
  torch::stable::fill_(first, static_cast<double>(g.patch_pixels));
  find_first<<<blocks(g.patches * g.chunks, kThreads / kWarp), kThreads, 0, launch.stream>>>(pixels, Step(g, kWarp),
                                                                                             data<int64_t>(first));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  take_origins<<<blocks(g.patches * g.channels, kThreads), kThreads, 0, launch.stream>>>(pixels, data<int64_t>(first),
                                                                                         data<double>(origin));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> patch_moments(
    const Tensor& features, const Tensor& labels, int64_t num_classes, int64_t cell_height, int64_t cell_width,
    bool pool_batch, int64_t ignore_index) {
  const PatchGrid cells = grid_of_cells(cell_height, cell_width);
  const Geometry g =
      make_geometry(features, labels, num_classes, cells, pool_batch, ignore_index, numbers_of_moments);
  const int64_t channels = g.channels;
  const Launch launch(features);
  const MomentTensors tensors{make_rows(features, g, false, {channels}),
                              make_rows(features, g, false, {num_classes}, ScalarType::Long),
                              make_faults(features, g, launch),
                              make_rows(features, g, true, {num_classes, channels}),
                              make_rows(features, g, true, {channels, channels}),
                              make_rows(features, g, true, {channels}),
                              make_rows(features, g, true, {})};
  if (g.patches * g.patch_pixels > 0) {
    dispatch_features(features, [&](auto* type) {
      const Pixels<std::remove_pointer_t<decltype(type)>> pixels(features, labels, tensors.faults, g);
      launch_origins(pixels, tensors.origin, launch);
      channels <= kRegisterChannels ? launch_in_registers(pixels, tensors, launch)
                                    : launch_in_blocks(pixels, tensors, launch);
    });
  }
  const auto whole = [&](const Tensor& rows) { return finish(rows, g, pool_batch, false); };
  const auto chunked = [&](const Tensor& rows) { return finish(rows, g, pool_batch, true); };
  return {whole(tensors.origin),        whole(tensors.class_count),    chunked(tensors.class_sum),
          chunked(tensors.gram),        chunked(tensors.third_moment), chunked(tensors.fourth_moment),
          whole(tensors.faults)};
}

}  // namespace
}  // namespace torch_trf

STABLE_TORCH_LIBRARY_IMPL(torch_trf, CUDA, m) { m.impl("patch_moments", TORCH_BOX(&torch_trf::patch_moments)); }

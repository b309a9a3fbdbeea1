// Moments of any number of channels. Every sum of a patch is an entry of A Aᵀ, where A has a column for each of its
// pixels and the rows [features around the origin; one-hot label; squared norm]: features x features is the Gram
// matrix, labels x features the class sums, norm x features the third moment, norm x norm the fourth. A first kernel
// looks at each pixel once and keeps its squared norm (8 bytes a pixel); a second multiplies, 64 x 64 entries a block.
// A block reads 128 values of a pixel for 4096 products, and blocks of one patch run side by side, so that the second
// level of cache serves most reads; of the Gram matrix only the blocks of the lower triangle are computed.
#pragma once

#include "moments.cuh"
#include "outer_products.cuh"

namespace torch_trf {

constexpr int kBlockThreads = 256;
constexpr int kSide = 64;         // rows of A in one block of the product, on either side
constexpr int kSidePixels = 32;   // pixels in shared memory at a time
constexpr int kSidePitch = kSidePixels + kBlockPixels;  // no two lanes of half a warp meet in a bank
constexpr int kWarpLeft = 2, kWarpRight = 4;            // blocks of 8 rows that a warp multiplies: 16 x 32 entries
constexpr double kDoesNotCount = -1;                    // in place of a squared norm

// A thread a slot: the squared norm of its pixels, the class counts and the faults.
template <typename scalar_t>
__global__ void look_at_pixels(const Pixels<scalar_t> pixels, const MomentSums sums, const Units units,
                               double* squares) {
  const Geometry& g = pixels.g;
  const int slot_patch = units.patch_of(threadIdx.x), slot_pixel = units.pixel_of(threadIdx.x);
  for (int64_t index = blockIdx.x; index < units.count; index += gridDim.x) {
    const Unit unit = units.unit(g, index);
    const int64_t patch = unit.first_patch + slot_patch, first = unit.chunk * g.chunk_pixels;
    const double* const origin = sums.origin + patch * g.channels;
    Walk walk(g, patch, first + slot_pixel);
    for (int64_t start = 0; start < unit.pixels; start += units.tile_pixels()) {
      const int64_t pixel = start + slot_pixel;
      const Offsets at = walk.at();
      walk.advance(g, units.step);
      int label = -1;
      if (slot_patch < unit.patches && pixel < unit.pixels) {
        label = pixels.classify(patch, at.label);
        double square = 0;
        for (int64_t d = 0; label >= 0 && d < g.channels; ++d) {
          const double x = static_cast<double>(pixels.feature(at.features, d)) - origin[d];
          square += x * x;
        }
        if (!isfinite(square)) {
          pixels.count_non_finite(patch);
          label = -1;
        }
        squares[patch * g.patch_pixels + first + pixel] = label >= 0 ? square : kDoesNotCount;
      }
      // Lanes with the same patch and class are counted together.
      const int64_t counter = label >= 0 ? patch * g.classes + label : -1;
      const unsigned alike = __match_any_sync(kAllLanes, static_cast<long long>(counter));
      if (label >= 0 && static_cast<int>(threadIdx.x % kWarp) == __ffs(alike) - 1)
        Pixels<scalar_t>::count(sums.class_count + counter, __popc(alike));
    }
  }
}

// Rows of A, and the blocks of A Aᵀ: on the left stands all of A, on the right the features and the squared norm.
struct Rows {
  int64_t labels, square;  // where these parts of A begin
  int64_t left_blocks, right_blocks;

  explicit Rows(const Geometry& g) : labels(g.channels), square(g.channels + g.classes) {
    left_blocks = square / kSide + 1;
    right_blocks = labels / kSide + 1;
  }

  // The row of A in row `right` of the right side.
  __device__ int64_t on_the_right(int64_t right) const { return right < labels ? right : square + right - labels; }

  // Whether the block of 64 x 64 entries from here on holds one that is wanted.
  __device__ bool wanted(int64_t left, int64_t right) const {
    const bool above_diagonal = right > left && left + kSide <= labels;
    const bool squares_without_square = right >= labels && left + kSide <= square;
    return !above_diagonal && !squares_without_square;
  }
};

template <typename scalar_t>
__global__ void __launch_bounds__(kBlockThreads, 2)
    multiply(const Pixels<scalar_t> pixels, const MomentSums sums, const Rows rows, const Step step,
             const double* squares) {
  __shared__ double left[kSide][kSidePitch], right[kSide][kSidePitch];
  __shared__ int64_t offsets[kSidePixels];
  __shared__ double tile_squares[kSidePixels];
  __shared__ int classes[kSidePixels];
  const Geometry& g = pixels.g;
  // Neighboring threads read neighboring values: of a channel or, where channels lie closest, of a pixel.
  const bool channels_last = llabs(g.feature_strides[1]) < llabs(g.feature_strides[3]);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int lane_row = lane / kBlockPixels, lane_pixel = lane % kBlockPixels;
  const int warp_left = warp / 2 * kWarpLeft * kBlockRows, warp_right = warp % 2 * kWarpRight * kBlockRows;
  const int64_t pairs = rows.left_blocks * rows.right_blocks;

  for (int64_t work = blockIdx.x; work < g.patches * g.chunks * pairs; work += gridDim.x) {
    const int64_t left_start = work % pairs / rows.right_blocks * kSide;
    const int64_t right_start = work % pairs % rows.right_blocks * kSide;
    if (!rows.wanted(left_start, right_start)) continue;
    const bool alike = left_start == right_start && left_start + kSide <= rows.labels;
    const int64_t chunk_row = work / pairs, patch = chunk_row / g.chunks;
    const int64_t first = chunk_row % g.chunks * g.chunk_pixels;
    const int64_t last = first + g.chunk_pixels < g.patch_pixels ? first + g.chunk_pixels : g.patch_pixels;
    const double* const origin = sums.origin + patch * g.channels;

    const auto stage = [&](double (*side)[kSidePitch], const auto& row_of) {
      for (int i = threadIdx.x; i < kSide * kSidePixels; i += kBlockThreads) {
        const int line = channels_last ? i % kSide : i / kSidePixels;
        const int pixel = channels_last ? i / kSide : i % kSidePixels;
        const int64_t row = row_of(line);
        double value = 0;
        if (tile_squares[pixel] != kDoesNotCount) {
          if (row < rows.labels) {
            value = static_cast<double>(pixels.feature(offsets[pixel], row)) - origin[row];
          } else if (row < rows.square) {
            value = classes[pixel] == row - rows.labels ? 1 : 0;
          } else if (row == rows.square) {
            value = tile_squares[pixel];
          }
        }
        side[line][pixel] = value;
      }
    };

    double products[kWarpLeft][kWarpRight][2] = {};
    Walk walk(g, patch, first + lane);  // of the first warp
    for (int64_t start = first; start < last; start += kSidePixels) {
      if (warp == 0) {
        const int64_t pixel = start + lane;
        const Offsets at = walk.at();
        walk.advance(g, step);
        tile_squares[lane] = pixel < last ? squares[patch * g.patch_pixels + pixel] : kDoesNotCount;
        offsets[lane] = at.features;
        classes[lane] = pixel < last ? pixels.class_of(pixels.label(at.label)) : -1;
      }
      __syncthreads();
      stage(left, [&](int line) { return left_start + line; });
      if (!alike) stage(right, [&](int line) { return rows.on_the_right(right_start + line); });
      __syncthreads();
      const auto& other = alike ? left : right;
      for (int pixel = lane_pixel; pixel < kSidePixels; pixel += kBlockPixels) {
        double a[kWarpLeft], b[kWarpRight];
#pragma unroll
        for (int i = 0; i < kWarpLeft; ++i) a[i] = left[warp_left + i * kBlockRows + lane_row][pixel];
#pragma unroll
        for (int j = 0; j < kWarpRight; ++j) b[j] = other[warp_right + j * kBlockRows + lane_row][pixel];
#pragma unroll
        for (int i = 0; i < kWarpLeft; ++i) {
#pragma unroll
          for (int j = 0; j < kWarpRight; ++j) add_outer_products(products[i][j], a[i], b[j]);
        }
      }
      __syncthreads();
    }

#pragma unroll
    for (int block = 0; block < kWarpLeft * kWarpRight * 2; ++block) {
      const int a = block / (2 * kWarpRight), b = block / 2 % kWarpRight, k = block % 2;
      const int64_t i = left_start + warp_left + a * kBlockRows + lane_row;
      const int64_t j = right_start + warp_right + b * kBlockRows + 2 * lane_pixel + k;
      const double value = products[a][b][k];
      if (j > rows.labels || i > rows.square) continue;
      if (j == rows.labels) {
        if (i == rows.square) sums.fourth_moment[chunk_row] = value;
      } else if (i == rows.square) {
        sums.third_moment[chunk_row * g.channels + j] = value;
      } else if (i >= rows.labels) {
        sums.class_sum[(chunk_row * g.classes + i - rows.labels) * g.channels + j] = value;
      } else if (j <= i) {
        sums.gram[(chunk_row * g.channels + i) * g.channels + j] = value;
        sums.gram[(chunk_row * g.channels + j) * g.channels + i] = value;
      }
    }
  }
}

template <typename scalar_t>
void launch_in_blocks(const Pixels<scalar_t>& pixels, const MomentTensors& tensors, const Launch& launch) {
  const Geometry& g = pixels.g;
  const Units units(g, kMostPatches);
  const MomentSums sums(tensors);
  const Rows rows(g);
  const Tensor squares = torch::stable::new_empty(tensors.gram, {g.patches, g.patch_pixels}, ScalarType::Double);
  look_at_pixels<<<blocks(units.count), kSlots, 0, launch.stream>>>(pixels, sums, units, data<double>(squares));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  const int64_t work = g.patches * g.chunks * rows.left_blocks * rows.right_blocks;
  multiply<<<blocks(work), kBlockThreads, 0, launch.stream>>>(pixels, sums, rows, Step(g, kSidePixels),
                                                             data<double>(squares));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace torch_trf

// Moments of at most 32 channels, in one read of the features. Every sum of a patch is an entry of A Aᵀ, where A has a
// column for each of its pixels and, as rows, the features around the origin, their squared norm, and 1 for the pixels
// of the class at hand: features x features is the Gram matrix, norm x features the third moment, norm x norm the
// fourth, and the last row holds that class's sum and count, until a pixel of another class comes and they move to
// their place in the output. Labels are alike where pixels are close, so that this is rare.
//
// A tile is brought into shared memory as it is, while the tile before is summed: a warp takes 16 pixels of one patch,
// four at a time, so that a lane holds one pixel and every eighth row of A. There each value is converted and moved to
// the origin once, and serves both A and Aᵀ; the lower triangle of A Aᵀ, in blocks of 8 x 8, stays in registers
// until the unit ends.
//
// With 19 channels a pixel is 76 bytes of float32 and costs 6 x 64 products for A Aᵀ and some 60 operations more, all
// in double precision: on an H100 the arithmetic takes about as long as the memory, and runs beside it.
#pragma once

#include <type_traits>

#include "class_rows.cuh"
#include "moments.cuh"
#include "outer_products.cuh"

namespace torch_trf {

constexpr int kRegisterWarps = kMostPatches;
constexpr int kRegisterThreads = kRegisterWarps * kWarp;
constexpr int kWarpPixels = kSlots / kRegisterWarps;     // of a tile
constexpr int kSlotThreads = kRegisterThreads / kSlots;  // that bring in one pixel
constexpr int kSquareLine = kBlockRows - 2, kClassLine = kBlockRows - 1;  // in the last block of rows of A
constexpr int kRegisterPitch = kLine + kBlockPixels;     // 8 rows x 4 pixels meet every bank once

// Blocks of threads that a multiprocessor's registers should hold.
constexpr int register_occupancy(int row_blocks) { return row_blocks <= 3 ? 3 : row_blocks == 4 ? 2 : 1; }

// The lower triangle of A Aᵀ, in the registers of a warp. Rows of A between the channels and the norm are zero.
template <int kRowBlocks>
struct Products {
  static constexpr int kLast = kRowBlocks - 1;
  static constexpr int kSquare = kLast * kBlockRows + kSquareLine, kClass = kLast * kBlockRows + kClassLine;

  double block[kRowBlocks * (kRowBlocks + 1) / 2][2] = {};  // row by row

  __device__ double (&at(int a, int b))[2] { return block[a * (a + 1) / 2 + b]; }

  __device__ void add(const double (&a)[kRowBlocks]) {
#pragma unroll
    for (int i = 0; i < kLast; ++i) {
#pragma unroll
      for (int j = 0; j <= i; ++j) add_outer_products(at(i, j), a[i], a[j]);
    }
    add_last(a[kLast], a);
  }

  // Adds to the last row of blocks alone.
  __device__ void add_last(double left, const double (&a)[kRowBlocks]) {
#pragma unroll
    for (int j = 0; j < kRowBlocks; ++j) add_outer_products(at(kLast, j), left, a[j]);
  }

  // Calls `visit` with a row and a column of A Aᵀ and what this lane has there.
  template <typename Visit>
  __device__ void each(int first_row_block, const Visit& visit) {
    const int lane = threadIdx.x % kWarp, line = lane / kBlockPixels, column = 2 * (lane % kBlockPixels);
#pragma unroll
    for (int a = first_row_block; a < kRowBlocks; ++a) {
#pragma unroll
      for (int b = 0; b <= a; ++b) {
#pragma unroll
        for (int k = 0; k < 2; ++k) visit(a * kBlockRows + line, b * kBlockRows + column + k, at(a, b)[k]);
      }
    }
  }

  // Moves the sums of class `label` to their place in `class_row`, [classes, channels].
  __device__ void move_class(int label, int channels, double* class_row, int64_t* class_count) {
    each(kLast, [&](int i, int j, double& value) {
      if (i != kClass) return;
      if (j < channels) class_row[static_cast<int64_t>(label) * channels + j] += value;
      if (j == i) Pixels<double>::count(class_count + label, static_cast<int64_t>(value));
      value = 0;
    });
  }

  // Adds everything else to row `row` of the output.
  __device__ void write(const MomentSums& sums, int64_t row, int channels) {
    double* const gram = sums.gram + row * channels * channels;
    each(0, [&](int i, int j, double value) {
      if (i < channels && j <= i) {
        gram[i * channels + j] += value;
        gram[j * channels + i] = gram[i * channels + j];
      } else if (i == kSquare && j < channels) {
        sums.third_moment[row * channels + j] += value;
      } else if (i == kSquare && j == kSquare) {
        sums.fourth_moment[row] += value;
      }
    });
  }
};

// `kRowBlocks` is the number of blocks of 8 rows that hold A.
template <typename scalar_t, int kRowBlocks>
__global__ void __launch_bounds__(kRegisterThreads, register_occupancy(kRowBlocks))
    add_in_registers(const Pixels<scalar_t> pixels, const MomentSums sums, const Units units, const ClassRows rows) {
  using staged_t = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;
  constexpr int kChannels = kRowBlocks * kBlockRows < kRegisterChannels ? kRowBlocks * kBlockRows : kRegisterChannels;
  constexpr int kLoads = kChannels / kSlotThreads;
  __shared__ staged_t tile[kChannels][kRegisterPitch];
  __shared__ int classes[kLine];
  __shared__ double origins[kMostPatches][kChannels];
  __shared__ Unit unit;  // in shared memory to spare registers
  const Geometry& g = pixels.g;
  const int channels = static_cast<int>(g.channels);

  // Bringing in: a thread has one slot of the tile and every second channel.
  const int first_channel = threadIdx.x / kSlots;
  const int slot_patch = units.patch_of(threadIdx.x % kSlots), slot_pixel = units.pixel_of(threadIdx.x % kSlots);
  const int slot_place = units.place(slot_patch, slot_pixel);
  // Summing: a warp has 16 pixels of the tile, all of one patch.
  const int warp = threadIdx.x / kWarp, line = threadIdx.x % kWarp / kBlockPixels;
  const int warp_patch = warp / rows.sharing, turn = warp % rows.sharing;
  const int warp_place = units.place(warp_patch, turn * kWarpPixels) + threadIdx.x % kBlockPixels;

  const auto patch = [&] { return unit.first_patch + warp_patch; };
  const auto chunk_row = [&] { return g.chunk_row(patch(), unit.chunk); };

  for (int64_t index = blockIdx.x; index < units.count; index += gridDim.x) {
    if (threadIdx.x == 0) unit = units.unit(g, index);
    __syncthreads();
    const bool has_patch = warp_patch < unit.patches;
    if (has_patch) rows.open(chunk_row());
    for (int i = threadIdx.x; i < kMostPatches * kChannels; i += kRegisterThreads) {
      const int j = i / kChannels, d = i % kChannels;
      const bool exists = j < unit.patches && d < channels;
      origins[j][d] = exists ? sums.origin[(unit.first_patch + j) * channels + d] : 0;
    }

    Walk walk(g, unit.first_patch + slot_patch, unit.chunk * g.chunk_pixels + slot_pixel);
    staged_t values[kLoads];
    int label = -1;
    const auto fetch = [&](int64_t start) {
      const bool exists = slot_patch < unit.patches && start + slot_pixel < unit.pixels;
      const Offsets at = walk.at();
      walk.advance(g, units.step);
      const scalar_t* feature = pixels.features + at.features + first_channel * g.feature_strides[1];
      const int existing = exists ? channels - first_channel : 0;
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        values[i] = i * kSlotThreads < existing ? static_cast<staged_t>(*feature) : staged_t{0};
        feature += kSlotThreads * g.feature_strides[1];
      }
      if (first_channel == 0) label = exists ? pixels.classify(unit.first_patch + slot_patch, at.label) : -1;
    };

    Products<kRowBlocks> products;
    int current = -1;  // the class at hand
    const auto move_class = [&] {
      if (current >= 0)
        products.move_class(current, channels, rows.warp_row(chunk_row()), sums.class_count + patch() * g.classes);
    };
    fetch(0);
    for (int64_t start = 0; start < unit.pixels; start += units.tile_pixels()) {
      __syncthreads();  // the tile before has been summed
#pragma unroll
      for (int i = 0; i < kLoads; ++i) tile[first_channel + i * kSlotThreads][slot_place] = values[i];
      if (first_channel == 0) classes[slot_place] = label;
      __syncthreads();
      if (start + units.tile_pixels() < unit.pixels) fetch(start + units.tile_pixels());

      for (int place = warp_place; place < warp_place + kWarpPixels; place += kBlockPixels) {
        int own = classes[place];
        double a[kRowBlocks], square = 0;
#pragma unroll
        for (int b = 0; b < kRowBlocks; ++b) {
          const int d = b * kBlockRows + line;
          const bool counts = own >= 0 && d < kChannels;
          a[b] = counts ? static_cast<double>(tile[d][place]) - origins[warp_patch][d] : 0;
          square += a[b] * a[b];
        }
        square = sum_lanes(square, kBlockPixels, kWarp);
        if (!isfinite(square)) {
          if (line == 0) pixels.count_non_finite(patch());
          own = -1;
          square = 0;
#pragma unroll
          for (int b = 0; b < kRowBlocks; ++b) a[b] = 0;
        }
        double& last = a[kRowBlocks - 1];
        if (line == kSquareLine) last = square;

        bool at_hand = own >= 0;
        if (!__all_sync(kAllLanes, own < 0 || own == current)) {
          for (unsigned left = __ballot_sync(kAllLanes, at_hand); left != 0;) {
            const int target = __shfl_sync(kAllLanes, own, __ffs(left) - 1);
            if (target != current) move_class();
            current = target;
            at_hand = own == target;
            left &= ~__ballot_sync(kAllLanes, at_hand);
            if (left == 0) break;  // the last class goes with the other sums
            if (line == kClassLine) last = at_hand;
            products.add_last(line == kClassLine ? last : 0, a);
          }
        }
        if (line == kClassLine) last = at_hand;
        products.add(a);
      }
    }

    move_class();
    for (int t = 0; t < rows.sharing; ++t) {
      if (t == turn && has_patch) {
        products.write(sums, chunk_row(), channels);
        rows.close(chunk_row());
      }
      __syncthreads();
    }
  }
}

template <typename scalar_t>
void launch_in_registers(const Pixels<scalar_t>& pixels, const MomentTensors& tensors, const Launch& launch) {
  const Units units(pixels.g, kRegisterWarps);
  const ClassRowsPlan plan =
      plan_class_rows(tensors.class_sum, units, pixels.g.classes * pixels.g.channels, kRegisterWarps);
  const auto run = [&](auto* kernel) {
    kernel<<<plan.grid, kRegisterThreads, 0, launch.stream>>>(pixels, MomentSums(tensors), units, plan.rows);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  };
  switch ((pixels.g.channels + 2 + kBlockRows - 1) / kBlockRows) {
    case 1: return run(&add_in_registers<scalar_t, 1>);
    case 2: return run(&add_in_registers<scalar_t, 2>);
    case 3: return run(&add_in_registers<scalar_t, 3>);
    case 4: return run(&add_in_registers<scalar_t, 4>);
    default: return run(&add_in_registers<scalar_t, 5>);
  }
}

}  // namespace torch_trf

// Sums by class that a warp adds to whenever the class of its pixels changes. Warps that have a patch of their own add
// straight to its row of the output; warps that share a patch have rows of their own and merge them, in turns, at the
// end of the unit, so that the order of additions never depends on timing.
#pragma once

#include "pixels.cuh"

namespace torch_trf {

constexpr int64_t kMostPrivateBytes = int64_t{256} << 20;
constexpr int64_t kMostSharingBlocks = 2048;  // enough to fill a GPU; each takes unit after unit

struct ClassRows {
  double* sums;        // [rows, numbers]: a row for each chunk of each patch, zero before the kernel
  double* own;         // [blocks, warps, numbers], where warps share a patch
  int64_t numbers;     // of a row: classes x channels
  int warps, sharing;  // of a block; how many of them share a patch

  // Where this warp adds what belongs to row `row`.
  __device__ double* warp_row(int64_t row) const {
    return sharing == 1 ? sums + row * numbers : own + (int64_t{blockIdx.x} * warps + threadIdx.x / kWarp) * numbers;
  }

  // Before a warp adds to a row.
  __device__ void open(int64_t row) const {
    if (sharing == 1) return;
    for (int64_t i = threadIdx.x % kWarp; i < numbers; i += kWarp) warp_row(row)[i] = 0;
    __syncwarp();
  }

  // After it: brings the sums to the output. The warps of a patch call this in turns.
  __device__ void close(int64_t row) const {
    if (sharing == 1) return;
    __syncwarp();
    for (int64_t i = threadIdx.x % kWarp; i < numbers; i += kWarp) sums[row * numbers + i] += warp_row(row)[i];
  }
};

// The rows of an op, the memory behind them, and how many blocks it has room for.
struct ClassRowsPlan {
  ClassRows rows;
  Tensor own;
  unsigned grid;
};

inline ClassRowsPlan plan_class_rows(const Tensor& sums, const Units& units, int64_t numbers, int warps) {
  const int sharing = warps / units.patches();
  int64_t grid = units.count;
  if (sharing > 1) {
    const int64_t room = kMostPrivateBytes / std::max<int64_t>(1, warps * numbers * int64_t{sizeof(double)});
    grid = std::min({grid, kMostSharingBlocks, std::max<int64_t>(1, room)});
  }
  const Tensor own = torch::stable::new_empty(sums, {sharing > 1 ? grid * warps : 0, numbers}, ScalarType::Double);
  return {{data<double>(sums), data<double>(own), numbers, warps, sharing}, own, blocks(grid)};
}

}  // namespace torch_trf

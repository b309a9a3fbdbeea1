// How a block goes through the pixels of patches. Neighbors in a row of the grid share cache lines, so a block takes
// several of them at once, or one chunk of each: a unit. It reads a unit tile by tile, a tile being kSlots pixels, as
// many from each patch, in such an order that neighboring slots are neighboring columns of the image.
#pragma once

#include "../patches.h"
#include "launch.cuh"

namespace torch_trf {

constexpr int kSlots = 128;      // pixels of a tile
constexpr int kWideEnough = 32;  // columns of a unit: 128 bytes of float32
constexpr int kMostPatches = 8;  // of a unit
constexpr int kApart = 4;        // numbers between the pixels of two patches in shared memory
constexpr int kLine = kSlots + kMostPatches * kApart;  // numbers that hold the pixels of a tile

// The features (or logits) and labels, whatever their types and strides, and where faults are counted.
template <typename scalar_t>
struct Pixels {
  const scalar_t* features;
  const void* labels;
  int label_bytes;  // tells the type: int64, int32 or uint8
  int64_t* faults;  // [patches, kFaults]
  Geometry g;

  Pixels(const Tensor& features, const Tensor& labels, const Tensor& faults, const Geometry& geometry)
      : features(static_cast<const scalar_t*>(features.const_data_ptr())),
        labels(labels.const_data_ptr()),
        faults(data<int64_t>(faults)),
        g(geometry) {
    dispatch_labels(labels, [&](auto* type) { label_bytes = static_cast<int>(sizeof(*type)); });
  }

  __device__ scalar_t feature(int64_t offset, int64_t d) const { return features[offset + d * g.feature_strides[1]]; }

  __device__ int64_t label(int64_t offset) const {
    if (label_bytes == sizeof(int64_t)) return static_cast<const int64_t*>(labels)[offset];
    if (label_bytes == sizeof(int32_t)) return static_cast<const int32_t*>(labels)[offset];
    return static_cast<const uint8_t*>(labels)[offset];
  }

  // The class that a label means, -1 where it means none.
  __device__ int class_of(int64_t label) const {
    return g.is_class(label) && label != g.ignore_index ? static_cast<int>(label) : -1;
  }

  // The same for a pixel of `patch`; a label that is neither a class nor to be ignored is a fault.
  __device__ int classify(int64_t patch, int64_t offset) const {
    const int64_t value = label(offset);
    if (!g.is_class(value) && value != g.ignore_index) {
      count(faults + patch * kFaults + kBadLabels, 1);
      atomicMin(reinterpret_cast<long long*>(faults + patch * kFaults + kLeastBadLabel), value);
      atomicMax(reinterpret_cast<long long*>(faults + patch * kFaults + kLargestBadLabel), value);
    }
    return class_of(value);
  }

  __device__ void count_non_finite(int64_t patch) const { count(faults + patch * kFaults + kNonFinite, 1); }

  // Integers have no rounding, so the order in which blocks add them does not matter.
  __device__ static void count(int64_t* counter, int64_t more) {
    atomicAdd(reinterpret_cast<unsigned long long*>(counter), static_cast<unsigned long long>(more));
  }
};

// So many pixels on in a patch. Plain data, made on the host, so that a kernel finds it in constant memory.
struct Step {
  int x, y;
  Offsets by, new_row, new_image;  // by x and y and by images; and where a row, or an image, comes to its end

  Step(const Geometry& g, int64_t pixels)
      : x(static_cast<int>(pixels % g.patch_width)),
        y(static_cast<int>(pixels / g.patch_width % g.patch_height)),
        by(g.at(pixels / g.patch_width / g.patch_height, y, x)),
        new_row(g.at(0, 1, -g.patch_width)),
        new_image(g.at(1, -g.patch_height, 0)) {}
};

// Goes through the pixels of a patch step by step, without a division for each.
class Walk {
 public:
  __device__ Walk(const Geometry& g, int64_t patch, int64_t pixel)
      : at_(g.locate(patch, pixel)),
        x_(static_cast<int>(pixel % g.patch_width)),
        y_(static_cast<int>(pixel / g.patch_width % g.patch_height)) {}

  __device__ const Offsets& at() const { return at_; }

  __device__ void advance(const Geometry& g, const Step& step) {
    x_ += step.x;
    y_ += step.y;
    move(step.by);
    if (x_ >= g.patch_width) {
      x_ -= static_cast<int>(g.patch_width);
      ++y_;
      move(step.new_row);
    }
    if (y_ >= g.patch_height) {
      y_ -= static_cast<int>(g.patch_height);
      move(step.new_image);
    }
  }

 private:
  __device__ void move(const Offsets& by) {
    at_.features += by.features;
    at_.label += by.label;
  }

  Offsets at_;
  int x_, y_;
};

struct Unit {
  int64_t first_patch, chunk;
  int patches;     // from `first_patch` on
  int64_t pixels;  // of each, from pixel `chunk * chunk_pixels` on
};

// Plain data, so that a kernel takes it by value. Slots of a tile go run after run and, of each run, patch after patch;
// a run is pixels that lie side by side in the image.
struct Units {
  int patch_bits = 0, run_bits = 0;  // logarithms of the patches of a unit, at most, and of the pixels of a run
  int64_t row_units, count;          // units in a row of the grid, and altogether
  Step step;                         // from tile to tile

  Units(const Geometry& g, int most_patches) : step(g, 0) {
    while (2 * patches() <= std::min<int64_t>(most_patches, g.patch_columns) &&
           patches() * g.stride_width < kWideEnough)
      ++patch_bits;
    while ((2 << run_bits) <= tile_pixels() && g.patch_width % (2 << run_bits) == 0) ++run_bits;
    row_units = (g.patch_columns + patches() - 1) / patches();
    count = g.patches / g.patch_columns * row_units * g.chunks;
    step = Step(g, tile_pixels());
  }

  C10_HOST_DEVICE int patches() const { return 1 << patch_bits; }
  C10_HOST_DEVICE int tile_pixels() const { return kSlots >> patch_bits; }  // of each patch

  __device__ Unit unit(const Geometry& g, int64_t index) const {
    const int64_t chunk = index % g.chunks, row = index / g.chunks / row_units;
    const int64_t first = index / g.chunks % row_units * patches(), columns = g.patch_columns - first;
    const int64_t pixels = g.patch_pixels - chunk * g.chunk_pixels;
    return {row * g.patch_columns + first, chunk,
            static_cast<int>(columns < patches() ? columns : patches()),
            pixels < g.chunk_pixels ? pixels : g.chunk_pixels};
  }

  __device__ int patch_of(int slot) const { return (slot >> run_bits) & (patches() - 1); }
  __device__ int pixel_of(int slot) const {
    return (slot >> (run_bits + patch_bits) << run_bits) + (slot & ((1 << run_bits) - 1));
  }

  // Where a pixel lies in a line of shared memory: patches are set apart so that the slots of a warp, and the pixels of
  // a patch, meet no bank twice.
  __device__ int place(int patch, int pixel) const { return patch * (tile_pixels() + kApart) + pixel; }
};

static __global__ void clear_faults(int64_t* faults, int64_t patches) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < patches; i += int64_t{gridDim.x} * blockDim.x) {
    faults[i * kFaults + kBadLabels] = faults[i * kFaults + kNonFinite] = 0;
    faults[i * kFaults + kLeastBadLabel] = INT64_MAX;
    faults[i * kFaults + kLargestBadLabel] = INT64_MIN;
  }
}

// A row of faults for each patch, without any.
inline Tensor make_faults(const Tensor& like, const Geometry& g, const Launch& launch) {
  constexpr int kThreads = 256;
  STD_TORCH_CHECK(std::max({g.classes, g.images, g.patch_rows * g.stride_height + g.patch_height,
                            g.patch_columns * g.stride_width + g.patch_width}) <= INT32_MAX,
                  "images, their height and width, and num_classes must each fit into 32 bits");
  const Tensor faults = torch::stable::new_empty(like, {g.patches, kFaults}, ScalarType::Long);
  clear_faults<<<blocks(g.patches, kThreads), kThreads, 0, launch.stream>>>(data<int64_t>(faults), g.patches);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return faults;
}

}  // namespace torch_trf

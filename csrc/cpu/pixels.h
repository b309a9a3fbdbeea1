// How the CPU goes through the pixels: patches side by side in a row of the grid make a unit of work, and a unit is
// read band by band, a few rows of a span of columns at a time, in the order in which the pixels lie in memory.
#pragma once

#include <algorithm>
#include <mutex>
#include <vector>

#include "../patches.h"
#include "vectorized.h"

namespace torch_trf {

// A span of columns in neighboring rows, seen by every patch of a unit: in each row patch j holds the pixels from
// j * stride_width on, `width` of them.
struct Band {
  Offsets at;  // of the first pixel
  int64_t rows, span, width;
};

TORCH_TRF_VECTORIZED
inline void widen(const float* from, int64_t count, double* to) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) to[i] = from[i];
}

template <typename From, typename To>
inline void widen(const From* from, int64_t count, To* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<To>(from[i]);
}

// The features (or logits) as double precision and labels, whatever their types and strides, in runs of pixels.
class Pixels {
 public:
  Pixels(const Tensor& features, const Tensor& labels, const Geometry& geometry)
      : features_(features.const_data_ptr()), labels_(labels.const_data_ptr()), geometry_(geometry) {
    dispatch_features(features,
                      [&](auto* type) { copy_features_ = &copy<std::remove_pointer_t<decltype(type)>, double>; });
    dispatch_labels(labels, [&](auto* type) { copy_labels_ = &copy<std::remove_pointer_t<decltype(type)>, int64_t>; });
  }

  // Channel `d` of `count` pixels, `row` rows below `at`.
  void features(const Offsets& at, int64_t d, int64_t row, int64_t count, double* values) const {
    const int64_t* const strides = geometry_.feature_strides;
    copy_features_(features_, at.features + d * strides[1] + row * strides[2], strides[3], count, values);
  }

  void labels(const Offsets& at, int64_t row, int64_t count, int64_t* values) const {
    const int64_t* const strides = geometry_.label_strides;
    copy_labels_(labels_, at.label + row * strides[1], strides[2], count, values);
  }

 private:
  template <typename From, typename To>
  static void copy(const void* data, int64_t offset, int64_t stride, int64_t count, To* to) {
    const From* from = static_cast<const From*>(data) + offset;
    if (stride == 1) return widen(from, count, to);
    for (int64_t i = 0; i < count; ++i) to[i] = static_cast<To>(from[i * stride]);
  }

  const void *features_, *labels_;
  const Geometry& geometry_;
  void (*copy_features_)(const void*, int64_t, int64_t, int64_t, double*);
  void (*copy_labels_)(const void*, int64_t, int64_t, int64_t, int64_t*);
};

// `patches` neighbors in a row of the grid, or one chunk of a single patch.
struct Unit {
  int64_t first_patch, patches, chunk;
};

class Units {
 public:
  // No span is longer than `most_span` columns, and no unit has more than `most_patches` patches.
  Units(const Geometry& geometry, int64_t most_span, int64_t most_patches) : g_(geometry), most_span_(most_span) {
    patches_ = g_.chunks > 1 ? 1 : std::max<int64_t>(1, (most_span - g_.patch_width) / g_.stride_width + 1);
    patches_ = std::min({patches_, g_.patch_columns, most_patches});
    row_units_ = (g_.patch_columns + patches_ - 1) / patches_;
  }

  int64_t count() const { return g_.patches / g_.patch_columns * row_units_ * g_.chunks; }

  Unit operator[](int64_t index) const {
    const int64_t row = index / g_.chunks / row_units_, first = index / g_.chunks % row_units_ * patches_;
    return {row * g_.patch_columns + first, std::min(patches_, g_.patch_columns - first), index % g_.chunks};
  }

  // Calls `visit` with every band of a unit, image by image and row by row; a band has at most `most_pixels` pixels of
  // each patch.
  template <typename Visit>
  void bands(const Unit& unit, int64_t most_pixels, const Visit& visit) const {
    const int64_t first = unit.chunk * g_.chunk_pixels, last = std::min(first + g_.chunk_pixels, g_.patch_pixels);
    for (int64_t pixel = first, rows, width; pixel < last; pixel += rows * width) {
      const int64_t column = pixel % g_.patch_width, row = pixel / g_.patch_width % g_.patch_height;
      width = std::min({g_.patch_width - column, last - pixel, most_span_});
      rows = 1;
      if (width == g_.patch_width)
        rows = std::max<int64_t>(1, std::min({g_.patch_height - row, (last - pixel) / width, most_pixels / width}));
      visit(Band{g_.locate(unit.first_patch, pixel), rows, (unit.patches - 1) * g_.stride_width + width, width});
    }
  }

 private:
  const Geometry& g_;
  int64_t most_span_;
  int64_t patches_, row_units_;  // of a unit, at most; in a row of the grid
};

// A row of faults for each patch, without any.
inline void clear_faults(int64_t* faults, int64_t patches) {
  for (int64_t j = 0; j < patches; ++j) {
    faults[j * kFaults + kBadLabels] = faults[j * kFaults + kNonFinite] = 0;
    faults[j * kFaults + kLeastBadLabel] = INT64_MAX;
    faults[j * kFaults + kLargestBadLabel] = INT64_MIN;
  }
}

// What the labels of a unit say, patch by patch: how many pixels count, in each of `columns` columns, and the faults.
class Tally {
 public:
  Tally(const Geometry& geometry, int64_t patches, int64_t columns)
      : g_(geometry), columns_(columns), counts_(patches * columns), faults_(patches * kFaults) {
    clear_faults(faults_.data(), patches);
  }

  // The class of a pixel of the unit's patch j, -1 where it has none.
  int64_t classify(int64_t j, int64_t label) {
    if (label == g_.ignore_index) return -1;
    if (g_.is_class(label)) return label;
    int64_t* const faults = faults_.data() + j * kFaults;
    ++faults[kBadLabels];
    faults[kLeastBadLabel] = std::min(faults[kLeastBadLabel], label);
    faults[kLargestBadLabel] = std::max(faults[kLargestBadLabel], label);
    return -1;
  }

  void count(int64_t j, int64_t column) { ++counts_[j * columns_ + column]; }
  void count_non_finite(int64_t j) { ++faults_[j * kFaults + kNonFinite]; }

  // Adds a unit to the outputs. Chunks of one patch do so one after the other; integers have no rounding, so their
  // order does not matter.
  void add_to(const Unit& unit, int64_t* counts, int64_t* faults, std::mutex& mutex) const {
    const std::lock_guard<std::mutex> lock(mutex);
    for (size_t i = 0; i < counts_.size(); ++i) counts[unit.first_patch * columns_ + i] += counts_[i];
    for (int64_t j = 0; j < unit.patches; ++j) {
      const int64_t* const own = faults_.data() + j * kFaults;
      int64_t* const all = faults + (unit.first_patch + j) * kFaults;
      all[kBadLabels] += own[kBadLabels];
      all[kLeastBadLabel] = std::min(all[kLeastBadLabel], own[kLeastBadLabel]);
      all[kLargestBadLabel] = std::max(all[kLargestBadLabel], own[kLargestBadLabel]);
      all[kNonFinite] += own[kNonFinite];
    }
  }

 private:
  const Geometry& g_;
  const int64_t columns_;
  std::vector<int64_t> counts_, faults_;
};

// No faults yet, for every patch.
inline Tensor make_faults(const Tensor& like, const Geometry& g) {
  Tensor faults = make_rows(like, g, false, {kFaults}, ScalarType::Long);
  clear_faults(data<int64_t>(faults), g.patches);
  return faults;
}

// Calls `work` with every unit, in parallel.
template <typename Work>
void for_each_unit(const Units& units, const Work& work) {
  torch::stable::parallel_for(0, units.count(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) work(units[index]);
  });
}

}  // namespace torch_trf

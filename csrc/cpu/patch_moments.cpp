// Patch moments on the CPU: a tile of pixels at a time is brought into cache as double precision, channel by channel
// around the patch's origin, and every sum is taken from there.
#include "../patch_moments.h"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <vector>

// One library serves every x86-64 processor: the loader picks the widest version of the inner loops that runs.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define TORCH_TRF_VECTORISED __attribute__((target_clones("arch=skylake-avx512", "arch=haswell", "default")))
#else
#define TORCH_TRF_VECTORISED
#endif

namespace torch_trf {
namespace {

constexpr int64_t kTile = 256;

struct Tile {
  int64_t count = 0;           // pixels held
  std::vector<double> values;  // [D, kTile], around the origin; unused pixels are zero
  std::vector<double> square;  // [kTile], squared norms
  std::vector<int64_t> label;  // [kTile]
  std::vector<int64_t> place;  // [kTile], where each pixel's first channel lies

  explicit Tile(int64_t channels)
      : values(channels * kTile), square(kTile), label(kTile), place(kTile) {}
};

struct Sums {
  double *class_sum, *gram, *third_moment, *fourth_moment;
};

TORCH_TRF_VECTORISED
void square_norms(Tile& tile, int64_t channels) {
  double* square = tile.square.data();
  std::fill_n(square, kTile, 0.0);
  for (int64_t d = 0; d < channels; ++d) {
    const double* row = tile.values.data() + d * kTile;
#pragma omp simd
    for (int64_t t = 0; t < kTile; ++t) square[t] += row[t] * row[t];
  }
}

// Adds a tile's Gram matrix (lower triangle) and its third and fourth moments.
TORCH_TRF_VECTORISED
void add_moments(const Tile& tile, int64_t channels, const Sums& sums) {
  const double* square = tile.square.data();
  double fourth = 0;
#pragma omp simd reduction(+ : fourth)
  for (int64_t t = 0; t < kTile; ++t) fourth += square[t] * square[t];
  *sums.fourth_moment += fourth;
  for (int64_t i = 0; i < channels; ++i) {
    const double* left = tile.values.data() + i * kTile;
    double third = 0;
#pragma omp simd reduction(+ : third)
    for (int64_t t = 0; t < kTile; ++t) third += square[t] * left[t];
    sums.third_moment[i] += third;
    for (int64_t j = 0; j <= i; ++j) {
      const double* right = tile.values.data() + j * kTile;
      double product = 0;
#pragma omp simd reduction(+ : product)
      for (int64_t t = 0; t < kTile; ++t) product += left[t] * right[t];
      sums.gram[i * channels + j] += product;
    }
  }
}

void add_classes(const Tile& tile, int64_t channels, const Sums& sums) {
  for (int64_t t = 0; t < tile.count; ++t) {
    double* sum = sums.class_sum + tile.label[t] * channels;
    const double* value = tile.values.data() + t;
    for (int64_t d = 0; d < channels; ++d) sum[d] += value[d * kTile];
  }
}

template <typename scalar_t, typename label_t>
class PatchMoments {
 public:
  PatchMoments(const Tensor& features, const Tensor& labels, const Geometry& geometry, const Outputs& outputs)
      : features_(static_cast<const scalar_t*>(features.const_data_ptr())),
        labels_(static_cast<const label_t*>(labels.const_data_ptr())),
        geometry_(geometry),
        origin_(static_cast<double*>(outputs.origin.mutable_data_ptr())),
        class_count_(static_cast<int64_t*>(outputs.class_count.mutable_data_ptr())),
        faults_(static_cast<int64_t*>(outputs.faults.mutable_data_ptr())),
        sums_{static_cast<double*>(outputs.class_sum.mutable_data_ptr()),
              static_cast<double*>(outputs.gram.mutable_data_ptr()),
              static_cast<double*>(outputs.third_moment.mutable_data_ptr()),
              static_cast<double*>(outputs.fourth_moment.mutable_data_ptr())} {}

  // The first pixel that counts is the patch's origin: close to its mean, so that little cancels, and exact for
  // constant features.
  void start(int64_t patch) const {
    const int64_t channels = geometry_.channels;
    faults_[patch * kFaults + kLeastBadLabel] = INT64_MAX;
    faults_[patch * kFaults + kLargestBadLabel] = INT64_MIN;
    double* origin = origin_ + patch * channels;
    for (int64_t pixel = 0; pixel < geometry_.patch_pixels; ++pixel) {
      const Offsets at = geometry_.locate(patch, pixel);
      const int64_t label = labels_[at.label];
      if (label == geometry_.ignore_index || !geometry_.is_class(label)) continue;
      bool finite = true;
      for (int64_t d = 0; d < channels; ++d) {
        origin[d] = static_cast<double>(features_[at.features + d * geometry_.feature_strides[1]]);
        finite = finite && std::isfinite(origin[d]);
      }
      if (finite) return;
    }
    std::fill_n(origin, channels, 0.0);
  }

  void add_chunk(int64_t unit) {
    const int64_t channels = geometry_.channels, classes = geometry_.classes;
    const int64_t patch = unit / geometry_.chunks, first = unit % geometry_.chunks * kChunkPixels;
    const int64_t last = std::min(first + kChunkPixels, geometry_.patch_pixels);
    const Sums sums{sums_.class_sum + unit * classes * channels, sums_.gram + unit * channels * channels,
                    sums_.third_moment + unit * channels, sums_.fourth_moment + unit};
    std::vector<int64_t> class_count(classes, 0);
    int64_t faults[kFaults] = {0, INT64_MAX, INT64_MIN, 0};
    Tile tile(channels);
    for (int64_t pixel = first, run; pixel < last; pixel += run) {  // a run of pixels in one row of the cell
      const Offsets start = geometry_.locate(patch, pixel);
      run = std::min(last - pixel, geometry_.cell_width - pixel % geometry_.cell_width);
      for (int64_t x = 0; x < run; ++x) {
        const int64_t label = labels_[start.label + x * geometry_.label_strides[2]];
        if (label == geometry_.ignore_index) continue;
        if (!geometry_.is_class(label)) {
          ++faults[kBadLabels];
          faults[kLeastBadLabel] = std::min(faults[kLeastBadLabel], label);
          faults[kLargestBadLabel] = std::max(faults[kLargestBadLabel], label);
          continue;
        }
        tile.label[tile.count] = label;
        tile.place[tile.count] = start.features + x * geometry_.feature_strides[3];
        if (++tile.count == kTile) flush(tile, origin_ + patch * channels, sums, class_count, faults);
      }
    }
    if (tile.count > 0) flush(tile, origin_ + patch * channels, sums, class_count, faults);
    for (int64_t i = 0; i < channels; ++i)
      for (int64_t j = 0; j < i; ++j) sums.gram[j * channels + i] = sums.gram[i * channels + j];

    const std::lock_guard<std::mutex> lock(mutex_);
    int64_t* const patch_faults = faults_ + patch * kFaults;
    for (int64_t k = 0; k < classes; ++k) class_count_[patch * classes + k] += class_count[k];
    patch_faults[kBadLabels] += faults[kBadLabels];
    patch_faults[kLeastBadLabel] = std::min(patch_faults[kLeastBadLabel], faults[kLeastBadLabel]);
    patch_faults[kLargestBadLabel] = std::max(patch_faults[kLargestBadLabel], faults[kLargestBadLabel]);
    patch_faults[kNonFinite] += faults[kNonFinite];
  }

 private:
  void flush(Tile& tile, const double* origin, const Sums& sums, std::vector<int64_t>& class_count,
             int64_t* faults) const {
    const int64_t channels = geometry_.channels;
    for (int64_t d = 0; d < channels; ++d) {
      const scalar_t* channel = features_ + d * geometry_.feature_strides[1];
      double* row = tile.values.data() + d * kTile;
      for (int64_t t = 0; t < tile.count; ++t) row[t] = static_cast<double>(channel[tile.place[t]]) - origin[d];
      std::fill(row + tile.count, row + kTile, 0.0);
    }
    square_norms(tile, channels);
    int64_t kept = 0;
    for (int64_t t = 0; t < tile.count; ++t) {
      if (!std::isfinite(tile.square[t])) continue;
      if (kept < t) {
        tile.label[kept] = tile.label[t];
        tile.square[kept] = tile.square[t];
        for (int64_t d = 0; d < channels; ++d) tile.values[d * kTile + kept] = tile.values[d * kTile + t];
      }
      ++kept;
    }
    faults[kNonFinite] += tile.count - kept;
    for (int64_t t = kept; t < tile.count; ++t) {
      tile.square[t] = 0;
      for (int64_t d = 0; d < channels; ++d) tile.values[d * kTile + t] = 0;
    }
    tile.count = kept;
    for (int64_t t = 0; t < kept; ++t) ++class_count[tile.label[t]];
    add_classes(tile, channels, sums);
    add_moments(tile, channels, sums);
    tile.count = 0;
  }

  const scalar_t* features_;
  const label_t* labels_;
  const Geometry geometry_;
  double* origin_;
  int64_t *class_count_, *faults_;
  const Sums sums_;
  std::mutex mutex_;
};

Result patch_moments(const Tensor& features, const Tensor& labels, int64_t num_classes, int64_t cell_height,
                     int64_t cell_width, bool pool_batch, int64_t ignore_index) {
  const Geometry geometry =
      make_geometry(features, labels, num_classes, cell_height, cell_width, pool_batch, ignore_index);
  const Outputs outputs = make_outputs(features, geometry);
  dispatch(features, labels, [&](auto* feature_type, auto* label_type) {
    using scalar_t = std::remove_pointer_t<decltype(feature_type)>;
    using label_t = std::remove_pointer_t<decltype(label_type)>;
    PatchMoments<scalar_t, label_t> kernel(features, labels, geometry, outputs);
    torch::stable::parallel_for(0, geometry.patches, 1, [&](int64_t begin, int64_t end) {
      for (int64_t patch = begin; patch < end; ++patch) kernel.start(patch);
    });
    torch::stable::parallel_for(0, geometry.patches * geometry.chunks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; ++unit) kernel.add_chunk(unit);
    });
  });
  return finish(outputs, geometry, features.size(0), pool_batch);
}

}  // namespace
}  // namespace torch_trf

STABLE_TORCH_LIBRARY_IMPL(torch_trf, CPU, m) { m.impl("patch_moments", TORCH_BOX(&torch_trf::patch_moments)); }

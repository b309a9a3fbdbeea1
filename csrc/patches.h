// What the kernels over patches share, on the CPU and on CUDA: where the pixels of a patch lie, which of them count,
// and the tensors that receive the sums.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <vector>

#include "tensors.h"

namespace torch_trf {

// Columns of `faults`.
enum Fault : int { kBadLabels, kLeastBadLabel, kLargestBadLabel, kNonFinite, kFaults };

// A patch of more pixels is summed in chunks, in parallel. The cut depends on the shapes alone, never on the number of
// threads, so the same input gives the same bits.
constexpr int64_t kChunkPixels = 16384;
constexpr int64_t kMostPartialSums = int64_t{1} << 24;  // numbers that all chunks together may hold

struct Offsets {
  int64_t features;  // of the pixel's first channel
  int64_t label;
};

// Plain data, so that a CUDA kernel takes it by value.
struct Geometry {
  int64_t images, channels, classes, ignore_index;
  int64_t patch_height, patch_width, stride_height, stride_width, patch_rows, patch_columns;
  int64_t patches, patch_images, patch_pixels;  // patch_images: how many images a patch is pooled over
  int64_t chunks, chunk_pixels;
  int64_t feature_strides[4];  // image, channel, row, column
  int64_t label_strides[3];    // image, row, column

  // A patch is a rectangle of one image or, pooled over the batch, the same rectangle of every image. Patches are
  // numbered image by image, row by row, and so are the pixels of a patch.
  C10_HOST_DEVICE Offsets locate(int64_t patch, int64_t pixel) const {
    const int64_t rectangles = patch_rows * patch_columns, rectangle = patch % rectangles;
    const int64_t area = patch_height * patch_width, inside = pixel % area;
    const int64_t row = rectangle / patch_columns * stride_height + inside / patch_width;
    const int64_t column = rectangle % patch_columns * stride_width + inside % patch_width;
    return at(patch / rectangles + pixel / area, row, column);
  }

  C10_HOST_DEVICE Offsets at(int64_t image, int64_t row, int64_t column) const {
    return {image * feature_strides[0] + row * feature_strides[2] + column * feature_strides[3],
            image * label_strides[0] + row * label_strides[1] + column * label_strides[2]};
  }

  // Among the rows that `make_rows` has for the chunks.
  C10_HOST_DEVICE int64_t chunk_row(int64_t patch, int64_t chunk) const { return patch * chunks + chunk; }

  C10_HOST_DEVICE bool is_class(int64_t label) const { return label >= 0 && label < classes; }
};

// How images are cut into patches.
struct PatchGrid {
  int64_t height, width, stride_height, stride_width;
};

// What a chunk holds of moments, of a joint mass, and of a log-likelihood.
inline int64_t numbers_of_moments(int64_t channels, int64_t classes) {
  return product("channels, sums of each", {channels, channels + classes + 1}) + 1;
}

inline int64_t numbers_of_joint_mass(int64_t source_classes, int64_t classes) {
  return product("target classes, source classes", {classes, source_classes});
}

inline int64_t numbers_of_log_likelihood(int64_t, int64_t) { return 2; }

inline PatchGrid grid_of_cells(int64_t height, int64_t width) { return {height, width, height, width}; }

// `numbers_of` gives how many numbers a chunk of a patch holds, of the channels and classes. The checks are those of
// `check_pixels` in Python: an op that is called past it must not read beyond its tensors.
template <typename NumbersOf>
Geometry make_geometry(const Tensor& features, const Tensor& labels, int64_t num_classes, const PatchGrid& grid,
                       bool pool_batch, int64_t ignore_index, const NumbersOf& numbers_of) {
  STD_TORCH_CHECK(features.dim() == 4 && labels.dim() == 3 && features.size(0) == labels.size(0) &&
                      features.size(2) == labels.size(1) && features.size(3) == labels.size(2),
                  "features ", shape_of(features), " must be [B, D, H, W] and labels ", shape_of(labels), " [B, H, W]");
  const int64_t images = features.size(0), height = features.size(2), width = features.size(3);
  STD_TORCH_CHECK(features.size(1) > 0, "features ", shape_of(features), " have no channel");
  STD_TORCH_CHECK(on_same_device(features, labels), "features and labels must be on one device");
  STD_TORCH_CHECK(num_classes > 0, "num_classes must be positive, not ", num_classes);
  STD_TORCH_CHECK(num_classes <= kMostNumbers, "num_classes=", num_classes, ": so many classes fit into no memory");
  STD_TORCH_CHECK(grid.height > 0 && grid.height <= height && grid.width > 0 && grid.width <= width, "a patch of ",
                  grid.height, " x ", grid.width, " pixels does not fit into ", height, " x ", width, " pixels");
  STD_TORCH_CHECK(grid.stride_height > 0 && grid.stride_width > 0, "the stride must be positive, not ",
                  grid.stride_height, " x ", grid.stride_width, " pixels");
  Geometry g{};
  g.images = images;
  g.channels = features.size(1);
  g.classes = num_classes;
  g.ignore_index = ignore_index;
  g.patch_height = grid.height;
  g.patch_width = grid.width;
  g.stride_height = grid.stride_height;
  g.stride_width = grid.stride_width;
  g.patch_rows = (height - grid.height) / grid.stride_height + 1;
  g.patch_columns = (width - grid.width) / grid.stride_width + 1;
  g.patch_images = pool_batch ? images : 1;
  g.patches = product("patches", {g.patch_rows, g.patch_columns, pool_batch ? 1 : images});
  g.patch_pixels = product("pixels of a patch", {grid.height, grid.width, g.patch_images});
  const int64_t sums = product("patches, sums of each", {g.patches, numbers_of(g.channels, num_classes)});
  const int64_t most_chunks = std::max<int64_t>(1, kMostPartialSums / std::max<int64_t>(1, sums));
  g.chunk_pixels = std::max(kChunkPixels, (g.patch_pixels + most_chunks - 1) / most_chunks);
  g.chunks = std::max<int64_t>(1, (g.patch_pixels + g.chunk_pixels - 1) / g.chunk_pixels);
  for (int i = 0; i < 4; ++i) g.feature_strides[i] = features.stride(i);
  for (int i = 0; i < 3; ++i) g.label_strides[i] = labels.stride(i);
  return g;
}

// `target_given_source`: p(y|z) of every patch. How many target classes it tells of.
inline int64_t classes_of(const Tensor& target_given_source) {
  STD_TORCH_CHECK(target_given_source.dim() >= 2, "target_given_source ", shape_of(target_given_source),
                  " must be [*patches, K, Z]");
  return target_given_source.size(-2);
}

inline void check_target_given_source(const Tensor& target_given_source, const Tensor& logits, const Geometry& g) {
  STD_TORCH_CHECK(on_same_device(target_given_source, logits), "target_given_source must be on the logits' device");
  STD_TORCH_CHECK(target_given_source.scalar_type() == ScalarType::Double && target_given_source.is_contiguous() &&
                      target_given_source.numel() ==
                          product("patches, target classes, source classes", {g.patches, g.classes, g.channels}),
                  "target_given_source ", shape_of(target_given_source), " must be contiguous float64 [*patches, K, Z]",
                  " of ", g.patches, " patches, K=", g.classes, ", Z=", g.channels);
}

// Zeros with a row for each patch or, chunked, for each chunk of each patch.
inline Tensor make_rows(const Tensor& like, const Geometry& g, bool chunked, std::initializer_list<int64_t> size,
                        ScalarType dtype = ScalarType::Double) {
  std::vector<int64_t> shape{g.patches * (chunked ? g.chunks : 1)};
  shape.insert(shape.end(), size);
  return torch::stable::new_zeros(like, shape, dtype);
}

// Adds the chunks, in their order, and gives the patches their leading dimensions.
inline Tensor finish(const Tensor& rows, const Geometry& g, bool pool_batch, bool chunked) {
  std::vector<int64_t> patch{g.patches}, size;
  if (chunked) patch.push_back(g.chunks);
  if (!pool_batch) size.push_back(g.images);
  size.insert(size.end(), {g.patch_rows, g.patch_columns});
  for (int64_t i = 1; i < rows.dim(); ++i) {
    patch.push_back(rows.size(i));
    size.push_back(rows.size(i));
  }
  Tensor value = torch::stable::view(rows, patch);
  if (chunked) {
    const int64_t chunk_dim = 1;
    value = g.chunks == 1 ? torch::stable::select(value, chunk_dim, 0)
                          : torch::stable::sum(value, torch::headeronly::IntHeaderOnlyArrayRef(&chunk_dim, 1));
  }
  return torch::stable::reshape(value, size);
}

// Calls `run` with a null pointer of the features' type.
template <typename Run>
void dispatch_features(const Tensor& features, const Run& run) {
  switch (features.scalar_type()) {
    case ScalarType::Float: return run(static_cast<float*>(nullptr));
    case ScalarType::Double: return run(static_cast<double*>(nullptr));
    case ScalarType::Half: return run(static_cast<torch::headeronly::Half*>(nullptr));
    case ScalarType::BFloat16: return run(static_cast<torch::headeronly::BFloat16*>(nullptr));
    default: STD_TORCH_CHECK(false, "features must be float64, float32, float16 or bfloat16, not ",
                             toString(features.scalar_type()));
  }
}

// Calls `run` with a null pointer of the labels' type.
template <typename Run>
void dispatch_labels(const Tensor& labels, const Run& run) {
  switch (labels.scalar_type()) {
    case ScalarType::Long: return run(static_cast<int64_t*>(nullptr));
    case ScalarType::Int: return run(static_cast<int32_t*>(nullptr));
    case ScalarType::Byte: return run(static_cast<uint8_t*>(nullptr));
    default: STD_TORCH_CHECK(false, "labels must be int64, int32 or uint8, not ", toString(labels.scalar_type()));
  }
}

}  // namespace torch_trf

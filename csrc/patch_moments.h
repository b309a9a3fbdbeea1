// Patch moments: what the CPU and the CUDA kernel share. Where the pixels of a patch lie, which of them count, and
// the tensors that receive the sums. The schema, the meaning of each output and the reference are in torch_trf/_ops.py.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <tuple>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/macros/Macros.h>
#include <torch/headeronly/util/Exception.h>

namespace torch_trf {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Columns of `faults`.
enum Fault : int { kBadLabels, kLeastBadLabel, kLargestBadLabel, kNonFinite, kFaults };

// A cell of more pixels is summed in chunks, in parallel. The cut depends on the shapes alone, never on the number of
// threads, so the same input gives the same bits.
constexpr int64_t kChunkPixels = 16384;

struct Offsets {
  int64_t features;  // of the pixel's first channel
  int64_t label;
};

// Plain data, so that a CUDA kernel takes it by value.
struct Geometry {
  int64_t channels, classes, ignore_index;
  int64_t cell_height, cell_width, cell_rows, cell_columns;
  int64_t patches, patch_pixels, chunks;
  int64_t feature_strides[4];  // image, channel, row, column
  int64_t label_strides[3];    // image, row, column

  // A patch is a cell of one image or, pooled over the batch, the same cell of every image. Its pixels are numbered
  // image by image, row by row.
  C10_HOST_DEVICE Offsets locate(int64_t patch, int64_t pixel) const {
    const int64_t cells = cell_rows * cell_columns, cell = patch % cells;
    const int64_t cell_pixels = cell_height * cell_width, place = pixel % cell_pixels;
    const int64_t image = patch / cells + pixel / cell_pixels;
    const int64_t row = cell / cell_columns * cell_height + place / cell_width;
    const int64_t column = cell % cell_columns * cell_width + place % cell_width;
    return {image * feature_strides[0] + row * feature_strides[2] + column * feature_strides[3],
            image * label_strides[0] + row * label_strides[1] + column * label_strides[2]};
  }

  C10_HOST_DEVICE bool is_class(int64_t label) const { return label >= 0 && label < classes; }
};

// The outputs, the patches flattened. Floating-point sums have one row for each chunk until `finish` adds the chunks.
struct Outputs {
  Tensor origin, class_count, class_sum, gram, third_moment, fourth_moment, faults;
};

using Result = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

inline Geometry make_geometry(const Tensor& features, const Tensor& labels, int64_t num_classes, int64_t cell_height,
                              int64_t cell_width, bool pool_batch, int64_t ignore_index) {
  STD_TORCH_CHECK(features.dim() == 4 && labels.dim() == 3, "features must be [B, D, H, W] and labels [B, H, W]");
  const int64_t images = features.size(0), height = features.size(2), width = features.size(3);
  STD_TORCH_CHECK(labels.size(0) == images && labels.size(1) == height && labels.size(2) == width,
                  "features and labels must lie on the same grid");
  STD_TORCH_CHECK(labels.get_device() == features.get_device() && labels.is_cuda() == features.is_cuda(),
                  "features and labels must be on the same device");
  STD_TORCH_CHECK(num_classes > 0, "num_classes must be positive");
  STD_TORCH_CHECK(cell_height > 0 && cell_height <= height && cell_width > 0 && cell_width <= width,
                  "a cell must have at least one pixel and fit into the image");
  Geometry geometry{};
  geometry.channels = features.size(1);
  geometry.classes = num_classes;
  geometry.ignore_index = ignore_index;
  geometry.cell_height = cell_height;
  geometry.cell_width = cell_width;
  geometry.cell_rows = height / cell_height;
  geometry.cell_columns = width / cell_width;
  geometry.patches = geometry.cell_rows * geometry.cell_columns * (pool_batch ? 1 : images);
  geometry.patch_pixels = cell_height * cell_width * (pool_batch ? images : 1);
  geometry.chunks = (geometry.patch_pixels + kChunkPixels - 1) / kChunkPixels;
  if (geometry.chunks == 0) geometry.chunks = 1;
  for (int i = 0; i < 4; ++i) geometry.feature_strides[i] = features.stride(i);
  for (int i = 0; i < 3; ++i) geometry.label_strides[i] = labels.stride(i);
  return geometry;
}

inline Outputs make_outputs(const Tensor& features, const Geometry& g) {
  const auto zeros = [&](std::initializer_list<int64_t> size, ScalarType dtype) {
    return torch::stable::new_zeros(features, size, dtype);
  };
  const int64_t rows = g.patches * g.chunks;
  return {zeros({g.patches, g.channels}, ScalarType::Double),
          zeros({g.patches, g.classes}, ScalarType::Long),
          zeros({rows, g.classes, g.channels}, ScalarType::Double),
          zeros({rows, g.channels, g.channels}, ScalarType::Double),
          zeros({rows, g.channels}, ScalarType::Double),
          zeros({rows}, ScalarType::Double),
          zeros({g.patches, kFaults}, ScalarType::Long)};
}

// Adds the chunks, in their order, and gives the patches their leading dimensions.
inline Result finish(const Outputs& outputs, const Geometry& g, int64_t images, bool pool_batch) {
  const auto shape = [&](const Tensor& tensor, bool chunked) {
    std::vector<int64_t> patch{g.patches}, size;
    if (chunked) patch.push_back(g.chunks);
    if (!pool_batch) size.push_back(images);
    size.insert(size.end(), {g.cell_rows, g.cell_columns});
    for (int64_t i = 1; i < tensor.dim(); ++i) {
      patch.push_back(tensor.size(i));
      size.push_back(tensor.size(i));
    }
    Tensor value = torch::stable::view(tensor, patch);
    if (chunked) {
      const int64_t chunk_dim = 1;
      value = g.chunks == 1 ? torch::stable::select(value, chunk_dim, 0)
                            : torch::stable::sum(value, torch::headeronly::IntHeaderOnlyArrayRef(&chunk_dim, 1));
    }
    return torch::stable::reshape(value, size);
  };
  return {shape(outputs.origin, false),      shape(outputs.class_count, false),  shape(outputs.class_sum, true),
          shape(outputs.gram, true),         shape(outputs.third_moment, true), shape(outputs.fourth_moment, true),
          shape(outputs.faults, false)};
}

// Calls `run` with a null pointer of the features' type and one of the labels' type.
template <typename Run>
void dispatch(const Tensor& features, const Tensor& labels, const Run& run) {
  const auto with_labels = [&](auto* feature_type) {
    switch (labels.scalar_type()) {
      case ScalarType::Long: return run(feature_type, static_cast<int64_t*>(nullptr));
      case ScalarType::Int: return run(feature_type, static_cast<int32_t*>(nullptr));
      case ScalarType::Byte: return run(feature_type, static_cast<uint8_t*>(nullptr));
      default: STD_TORCH_CHECK(false, "labels must be int64, int32 or uint8");
    }
  };
  switch (features.scalar_type()) {
    case ScalarType::Float: return with_labels(static_cast<float*>(nullptr));
    case ScalarType::Double: return with_labels(static_cast<double*>(nullptr));
    case ScalarType::Half: return with_labels(static_cast<torch::headeronly::Half*>(nullptr));
    case ScalarType::BFloat16: return with_labels(static_cast<torch::headeronly::BFloat16*>(nullptr));
    default: STD_TORCH_CHECK(false, "features must be float64, float32, float16 or bfloat16");
  }
}

}  // namespace torch_trf

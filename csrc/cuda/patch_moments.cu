// Patch moments on CUDA. Every sum of a patch is an entry of A Aᵀ, where A has a column for each of its pixels and the
// rows [features around the origin; one-hot label; squared norm]: features x features is the Gram matrix, labels x
// features the class sums, norm x features the third moment, norm x norm the fourth. Three kernels: find each patch's
// origin, look at each pixel once (label and norm), multiply. A block owns its entries, so nothing is added in an
// order that depends on timing; only integers are counted with atomics.
#include "../patch_moments.h"

#include <climits>

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

namespace torch_trf {
namespace {

constexpr int kThreads = 256;
constexpr int kBlockRows = 32;  // rows of A in one block of the product, on either side
constexpr int kTile = 32;       // pixels staged in shared memory at a time
constexpr int64_t kMostBlocks = 1 << 16;

using Count = unsigned long long;

template <typename scalar_t, typename label_t>
struct Pixels {
  const scalar_t* features;
  const label_t* labels;
  double* origin;         // [patches, D]
  int64_t* class_count;   // [patches, K]
  int64_t* faults;        // [patches, kFaults]
  int32_t* pixel_class;   // [patches, pixels], -1 where the pixel does not count
  double* pixel_square;   // [patches, pixels]
  double *class_sum, *gram, *third_moment, *fourth_moment;  // a row for each chunk
  Geometry g;

  __device__ double feature(int64_t place, int64_t d) const {
    return static_cast<double>(features[place + d * g.feature_strides[1]]);
  }
};

// One block a patch: the first labelled pixel with finite features becomes the origin.
template <typename P>
__global__ void find_origins(P pixels) {
  const Geometry& g = pixels.g;
  __shared__ long long first;
  for (int64_t patch = blockIdx.x; patch < g.patches; patch += gridDim.x) {
    if (threadIdx.x == 0) {
      first = LLONG_MAX;
      pixels.faults[patch * kFaults + kLeastBadLabel] = INT64_MAX;
      pixels.faults[patch * kFaults + kLargestBadLabel] = INT64_MIN;
    }
    __syncthreads();
    for (int64_t start = 0; start < g.patch_pixels && first == LLONG_MAX; start += blockDim.x) {
      const int64_t pixel = start + threadIdx.x;
      bool counts = false;
      if (pixel < g.patch_pixels) {
        const Offsets at = g.locate(patch, pixel);
        const int64_t label = pixels.labels[at.label];
        counts = label != g.ignore_index && g.is_class(label);
        for (int64_t d = 0; counts && d < g.channels; ++d) counts = isfinite(pixels.feature(at.features, d));
      }
      __syncthreads();  // every thread has read `first` before one of them changes it
      if (counts) atomicMin(&first, static_cast<long long>(pixel));
      __syncthreads();
    }
    if (first != LLONG_MAX) {
      const Offsets at = g.locate(patch, first);
      for (int64_t d = threadIdx.x; d < g.channels; d += blockDim.x)
        pixels.origin[patch * g.channels + d] = pixels.feature(at.features, d);
    }
    __syncthreads();
  }
}

// One thread a pixel: its class, its squared norm around the origin, the class counts and the faults.
template <typename P>
__global__ void look_at_pixels(P pixels) {
  const Geometry& g = pixels.g;
  const int64_t total = g.patches * g.patch_pixels;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < total;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t patch = i / g.patch_pixels;
    const Offsets at = g.locate(patch, i % g.patch_pixels);
    const int64_t label = pixels.labels[at.label];
    int64_t* const faults = pixels.faults + patch * kFaults;
    pixels.pixel_class[i] = -1;
    pixels.pixel_square[i] = 0;
    if (label == g.ignore_index) continue;
    if (!g.is_class(label)) {
      atomicAdd(reinterpret_cast<Count*>(faults + kBadLabels), Count{1});
      atomicMin(reinterpret_cast<long long*>(faults + kLeastBadLabel), static_cast<long long>(label));
      atomicMax(reinterpret_cast<long long*>(faults + kLargestBadLabel), static_cast<long long>(label));
      continue;
    }
    double square = 0;
    for (int64_t d = 0; d < g.channels; ++d) {
      const double value = pixels.feature(at.features, d) - pixels.origin[patch * g.channels + d];
      square += value * value;
    }
    if (!isfinite(square)) {
      atomicAdd(reinterpret_cast<Count*>(faults + kNonFinite), Count{1});
      continue;
    }
    pixels.pixel_class[i] = static_cast<int32_t>(label);
    pixels.pixel_square[i] = square;
    atomicAdd(reinterpret_cast<Count*>(pixels.class_count + patch * g.classes + label), Count{1});
  }
}

// The entry of A in row `row` for a pixel of `patch`.
template <typename P>
__device__ double entry(const P& pixels, int64_t row, int64_t patch, int64_t pixel, int64_t place) {
  const Geometry& g = pixels.g;
  const int64_t at = patch * g.patch_pixels + pixel;
  const int32_t label = pixels.pixel_class[at];
  if (label < 0) return 0;
  if (row < g.channels) return pixels.feature(place, row) - pixels.origin[patch * g.channels + row];
  if (row < g.channels + g.classes) return label == row - g.channels ? 1 : 0;
  return row == g.channels + g.classes ? pixels.pixel_square[at] : 0;
}

// One block for each chunk of a patch (x) and each pair of row blocks of A (y): 32 x 32 entries of A Aᵀ, 2 x 2 a thread.
template <typename P>
__global__ void multiply(P pixels) {
  const Geometry& g = pixels.g;
  __shared__ double left[kBlockRows][kTile + 1], right[kBlockRows][kTile + 1];
  const int64_t square_row = g.channels + g.classes;
  const int64_t right_blocks = (g.channels + kBlockRows - 1) / kBlockRows;
  const int64_t left_start = blockIdx.y / (right_blocks + 1) * kBlockRows;
  // The last block on the right is the squared norm alone, for the fourth moment.
  const bool fourth = blockIdx.y % (right_blocks + 1) == right_blocks;
  const int64_t right_start = fourth ? square_row : blockIdx.y % (right_blocks + 1) * kBlockRows;
  if (fourth ? left_start + kBlockRows <= square_row : right_start >= left_start + kBlockRows) return;
  const int x = threadIdx.x % 16, y = threadIdx.x / 16;
  for (int64_t unit = blockIdx.x; unit < g.patches * g.chunks; unit += gridDim.x) {
    const int64_t patch = unit / g.chunks, first = unit % g.chunks * kChunkPixels;
    const int64_t last = first + kChunkPixels < g.patch_pixels ? first + kChunkPixels : g.patch_pixels;
    double product[2][2] = {};
    for (int64_t start = first; start < last; start += kTile) {
      const int64_t pixel = start + threadIdx.x % kTile;
      const int64_t place = pixel < last ? g.locate(patch, pixel).features : 0;
      for (int row = threadIdx.x / kTile; row < kBlockRows; row += kThreads / kTile) {
        left[row][threadIdx.x % kTile] = pixel < last ? entry(pixels, left_start + row, patch, pixel, place) : 0;
        right[row][threadIdx.x % kTile] = pixel < last ? entry(pixels, right_start + row, patch, pixel, place) : 0;
      }
      __syncthreads();
      for (int t = 0; t < kTile; ++t)
        for (int a = 0; a < 2; ++a)
          for (int b = 0; b < 2; ++b) product[a][b] += left[y + 16 * a][t] * right[x + 16 * b][t];
      __syncthreads();
    }
    for (int a = 0; a < 2; ++a) {
      for (int b = 0; b < 2; ++b) {
        const int64_t i = left_start + y + 16 * a, j = right_start + x + 16 * b;
        const double value = product[a][b];
        if (fourth) {
          if (i == square_row && j == square_row) pixels.fourth_moment[unit] = value;
        } else if (j >= g.channels) {
          continue;
        } else if (i < g.channels) {
          if (j > i) continue;
          pixels.gram[(unit * g.channels + i) * g.channels + j] = value;
          pixels.gram[(unit * g.channels + j) * g.channels + i] = value;
        } else if (i < square_row) {
          pixels.class_sum[(unit * g.classes + i - g.channels) * g.channels + j] = value;
        } else if (i == square_row) {
          pixels.third_moment[unit * g.channels + j] = value;
        }
      }
    }
  }
}

unsigned blocks(int64_t wanted) { return static_cast<unsigned>(wanted < kMostBlocks ? wanted : kMostBlocks); }

Result patch_moments(const Tensor& features, const Tensor& labels, int64_t num_classes, int64_t cell_height,
                     int64_t cell_width, bool pool_batch, int64_t ignore_index) {
  const Geometry g = make_geometry(features, labels, num_classes, cell_height, cell_width, pool_batch, ignore_index);
  STD_TORCH_CHECK(num_classes <= INT32_MAX, "num_classes must fit into 32 bits");
  const torch::stable::accelerator::DeviceGuard guard(features.get_device_index());
  void* handle = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(features.get_device_index(), &handle));
  const auto stream = static_cast<cudaStream_t>(handle);
  const Outputs outputs = make_outputs(features, g);
  const Tensor pixel_class = torch::stable::new_empty(features, {g.patches, g.patch_pixels}, ScalarType::Int);
  const Tensor pixel_square = torch::stable::new_empty(features, {g.patches, g.patch_pixels}, ScalarType::Double);
  if (g.patches > 0) {
    dispatch(features, labels, [&](auto* feature_type, auto* label_type) {
      using scalar_t = std::remove_pointer_t<decltype(feature_type)>;
      using label_t = std::remove_pointer_t<decltype(label_type)>;
      const auto real = [](const Tensor& tensor) { return static_cast<double*>(tensor.mutable_data_ptr()); };
      const Pixels<scalar_t, label_t> pixels{static_cast<const scalar_t*>(features.const_data_ptr()),
                                             static_cast<const label_t*>(labels.const_data_ptr()),
                                             real(outputs.origin),
                                             static_cast<int64_t*>(outputs.class_count.mutable_data_ptr()),
                                             static_cast<int64_t*>(outputs.faults.mutable_data_ptr()),
                                             static_cast<int32_t*>(pixel_class.mutable_data_ptr()),
                                             real(pixel_square),
                                             real(outputs.class_sum),
                                             real(outputs.gram),
                                             real(outputs.third_moment),
                                             real(outputs.fourth_moment),
                                             g};
      find_origins<<<blocks(g.patches), kThreads, 0, stream>>>(pixels);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
      if (g.patch_pixels == 0) return;
      look_at_pixels<<<blocks((g.patches * g.patch_pixels + kThreads - 1) / kThreads), kThreads, 0, stream>>>(pixels);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
      const int64_t left_blocks = (g.channels + g.classes + kBlockRows) / kBlockRows;
      const int64_t right_blocks = (g.channels + kBlockRows - 1) / kBlockRows + 1;
      STD_TORCH_CHECK(left_blocks * right_blocks < 65536, "too many channels and classes for one launch");
      multiply<<<dim3(blocks(g.patches * g.chunks), static_cast<unsigned>(left_blocks * right_blocks)), kThreads, 0,
                 stream>>>(pixels);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    });
  }
  return finish(outputs, g, features.size(0), pool_batch);
}

}  // namespace
}  // namespace torch_trf

STABLE_TORCH_LIBRARY_IMPL(torch_trf, CUDA, m) { m.impl("patch_moments", TORCH_BOX(&torch_trf::patch_moments)); }

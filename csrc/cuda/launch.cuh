// What every launch needs: the tensor's device and stream, and grids within the hardware's limits.
#pragma once

#include <algorithm>

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/headeronly/util/shim_utils.h>

#include "../tensors.h"

namespace torch_trf {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffff;
constexpr int64_t kMostBlocks = 1 << 20;  // of a launch; a block takes further work in strides of the grid

// Makes the tensor's device current for as long as it lives, and knows that device's stream.
class Launch {
 public:
  explicit Launch(const Tensor& tensor) : guard_(tensor.get_device_index()) {
    void* handle = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &handle));
    stream = static_cast<cudaStream_t>(handle);
  }

  cudaStream_t stream;

 private:
  torch::stable::accelerator::DeviceGuard guard_;
};

// As many blocks as give every piece of work one, `each` pieces a block.
inline unsigned blocks(int64_t work, int64_t each = 1) {
  return static_cast<unsigned>(std::max<int64_t>(1, std::min(kMostBlocks, (work + each - 1) / each)));
}

// The sum over the lanes whose numbers differ only in the bits from `least` up to, not including, `most`; all of them
// get the same bits.
__device__ inline double sum_lanes(double value, int least, int most) {
  for (int bit = least; bit < most; bit *= 2) value += __shfl_xor_sync(kAllLanes, value, bit);
  return value;
}

}  // namespace torch_trf

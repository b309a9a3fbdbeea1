// The source model's prediction on a pixel: the softmax of its logits without probabilities in memory, by the largest
// logit and then exponentials relative to it. Logits are read once where a block's shared memory holds those of its
// pixels, otherwise again for each use.
#pragma once

#include <type_traits>

#include "pixels.cuh"

namespace torch_trf {

constexpr int kHeldLogits = kWarp;     // of a pixel, in shared memory
constexpr int kHeldPitch = kLine + 1;  // neighboring logits of a pixel do not meet in a bank

// 16-bit logits are worth exponentials in single precision.
template <typename scalar_t>
using exponential_t = std::conditional_t<sizeof(scalar_t) == 2, float, double>;

// Bytes of shared memory that hold a tile's logits.
template <typename scalar_t>
size_t held_bytes(int64_t source_classes) {
  return sizeof(exponential_t<scalar_t>) * kHeldPitch * std::min<int64_t>(source_classes, kHeldLogits);
}

template <typename scalar_t>
class Prediction {
 public:
  using real_t = exponential_t<scalar_t>;

  // `held` is the thread's own column of the shared memory.
  __device__ Prediction(const Pixels<scalar_t>& pixels, real_t* held)
      : pixels_(pixels), held_(held), source_classes_(pixels.g.channels), hold_(source_classes_ <= kHeldLogits) {}

  // Reads the pixel at `offset`; whether the sum of its logits is finite.
  __device__ bool read(int64_t offset) {
    offset_ = offset;
    best_ = 0;
    double check = 0;
#pragma unroll 8
    for (int64_t z = 0; z < source_classes_; ++z) {
      const real_t logit = static_cast<real_t>(pixels_.feature(offset, z));
      check += static_cast<double>(logit);
      if (z == 0 || logit > largest_) {
        largest_ = logit;
        best_ = z;
      }
      if (hold_) held_[z * kHeldPitch] = logit;
    }
    return isfinite(check);
  }

  // The class of largest logit, the lowest-numbered one where several are equal.
  __device__ int64_t best() const { return best_; }

  // The probability of class z but for a factor that all classes share.
  __device__ real_t exponential(int64_t z) const {
    const real_t logit = hold_ ? held_[z * kHeldPitch] : static_cast<real_t>(pixels_.feature(offset_, z));
    return exp(logit - largest_);
  }

 private:
  const Pixels<scalar_t>& pixels_;
  real_t* const held_;
  const int64_t source_classes_;
  const bool hold_;
  int64_t offset_ = 0, best_ = 0;
  real_t largest_ = 0;
};

}  // namespace torch_trf

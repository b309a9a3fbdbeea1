// Sums of outer products over the lanes of a warp, in double precision, on the tensor cores where there are any.
#pragma once

#include "launch.cuh"

namespace torch_trf {

constexpr int kBlockRows = 8;    // rows of A and of B in one product of blocks
constexpr int kBlockPixels = 4;  // pixels in one

// C += A Bᵀ, with A and B 8 rows x 4 pixels. A lane holds row `lane / 4` of A and of B at pixel `lane % 4`, and row
// `lane / 4` of C at columns `2 (lane % 4)` and the next. So what is A for one block of rows is B for another.
__device__ inline void add_outer_products(double (&c)[2], double a, double b) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
               : "+d"(c[0]), "+d"(c[1])
               : "d"(a), "d"(b));
#else
  const int lane = threadIdx.x % kWarp, row = lane / kBlockPixels, column = 2 * (lane % kBlockPixels);
  for (int pixel = 0; pixel < kBlockPixels; ++pixel) {
    const double left = __shfl_sync(kAllLanes, a, row * kBlockPixels + pixel);
    c[0] += left * __shfl_sync(kAllLanes, b, column * kBlockPixels + pixel);
    c[1] += left * __shfl_sync(kAllLanes, b, (column + 1) * kBlockPixels + pixel);
  }
#endif
}

}  // namespace torch_trf

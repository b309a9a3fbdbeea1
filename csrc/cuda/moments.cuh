// What the two ways of summing moments share: where the sums go.
#pragma once

#include "pixels.cuh"

namespace torch_trf {

// Above so many the Gram matrix does not fit into a warp's registers.
constexpr int kRegisterChannels = 32;

struct MomentTensors {
  Tensor origin, class_count, faults;                      // a row for each patch
  Tensor class_sum, gram, third_moment, fourth_moment;     // a row for each chunk of each patch
};

struct MomentSums {
  const double* origin;
  int64_t* class_count;
  double *class_sum, *gram, *third_moment, *fourth_moment;

  explicit MomentSums(const MomentTensors& tensors)
      : origin(data<double>(tensors.origin)),
        class_count(data<int64_t>(tensors.class_count)),
        class_sum(data<double>(tensors.class_sum)),
        gram(data<double>(tensors.gram)),
        third_moment(data<double>(tensors.third_moment)),
        fourth_moment(data<double>(tensors.fourth_moment)) {}
};

}  // namespace torch_trf

// One library serves every x86-64 processor: the loader picks the widest version of the inner loops that runs. The
// versions are named by instruction sets: names of processors would leave out those of other makers. AddressSanitizer
// gets a single version, because the loader would pick before the sanitizer has begun.
#pragma once

#include <cstdint>  // any header of the C library says whose it is: others than glibc have no such loader

namespace torch_trf {

constexpr int64_t kLanes = 8;  // numbers in the widest vector

}  // namespace torch_trf

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12 && \
    !defined(__SANITIZE_ADDRESS__)
#define TORCH_TRF_VECTORIZED __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define TORCH_TRF_VECTORIZED
#endif

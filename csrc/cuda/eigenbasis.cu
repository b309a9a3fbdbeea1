// Batched symmetric eigenproblems on CUDA by cyclic Jacobi rotations (Golub and Van Loan, section 8.5) in round-robin
// order: in each of D - 1 rounds every index meets another one, so D / 2 rotations are applied at a time, to the matrix
// and to the rows that are to be expressed in its eigenvectors; those vectors are never formed. A group of threads has
// one matrix, in shared memory: a warp up to 32 channels, a block beyond. Where not all rows fit beside the matrix,
// several groups take some each and repeat the rotations.
//
// A sweep costs about 4 D³ + 4 K D² operations, and 6 to 10 sweeps are needed.
#include <vector>

#include "../solvers.h"
#include "launch.cuh"

namespace torch_trf {
namespace {

constexpr int kThreads = 128;
constexpr int kMostChannels = 64;
constexpr int64_t kMostSharedBytes = 60 << 10;  // of a block; every architecture grants 64 KB where asked for

struct Problem {
  const double *matrices, *rows;      // [batch, D, D], [batch, K, D]
  double *eigenvalues, *coordinates;  // [batch, D], [batch, K, D]
  int64_t batch, num_rows;            // K
  int channels;                       // D
  int rows_at_once, passes;           // rows of a group; groups of a matrix

  // Of a matrix in shared memory; odd, so that a column meets every bank.
  C10_HOST_DEVICE int pitch() const { return channels | 1; }
  // Numbers in shared memory: the matrix, its rows, a rotation for each pair, and what the warps of a group reduce.
  C10_HOST_DEVICE int64_t numbers() const {
    return (channels + rows_at_once) * pitch() + channels + 2 + kThreads / kWarp;
  }
};

// The threads that have one matrix.
template <int kGroup>
struct Group {
  int thread;
  double* partial;  // shared, one number a warp

  __device__ static void sync() {
    if constexpr (kGroup == kWarp) {
      __syncwarp();
    } else {
      __syncthreads();
    }
  }

  // `both` takes its arguments in any order, so every thread gets the same bits.
  template <typename Both>
  __device__ double reduce(double value, const Both& both) const {
    for (int bit = 1; bit < kWarp; bit *= 2) value = both(value, __shfl_xor_sync(kAllLanes, value, bit));
    if constexpr (kGroup > kWarp) {
      if (thread % kWarp == 0) partial[thread / kWarp] = value;
      sync();
      value = partial[0];
      for (int i = 1; i < kGroup / kWarp; ++i) value = both(value, partial[i]);
      sync();
    }
    return value;
  }

  __device__ double sum(double value) const {
    return reduce(value, [](double a, double b) { return a + b; });
  }

  __device__ double largest(double value) const {
    return reduce(value, [](double a, double b) { return fmax(a, b); });
  }
};

struct Pair {
  int p, q;  // p < q
};

// Pair i of a round among `players` (an even number): the last player stays, the others go round.
__device__ Pair meet(int i, int round, int players) {
  const int circle = players - 1;
  const int ahead = round + i < circle ? round + i : round + i - circle;
  const int a = i == 0 ? circle : ahead, b = round < i ? round - i + circle : round - i;
  return a < b ? Pair{a, b} : Pair{b, a};
}

struct Rotation {
  double cosine, sine;
};

// The rotation that makes a_pq zero, by the smaller of the two angles.
__device__ Rotation rotation(double a_pp, double a_qq, double a_pq) {
  if (a_pq == 0) return {1, 0};
  const double cotangent = (a_qq - a_pp) / (2 * a_pq);  // of twice the angle
  const double tangent = copysign(1 / (fabs(cotangent) + sqrt(1 + cotangent * cotangent)), cotangent);
  const double cosine = 1 / sqrt(1 + tangent * tangent);
  return {cosine, tangent * cosine};
}

__device__ void rotate(double& x, double& y, const Rotation& by) {
  const double before = x;
  x = by.cosine * before - by.sine * y;
  y = by.sine * before + by.cosine * y;
}

// Makes the D x D matrix diagonal and multiplies the rows by its eigenvectors.
template <int kGroup>
__device__ void diagonalize(const Group<kGroup>& group, int channels, int pitch, double* matrix, int num_rows,
                            double* rows, Rotation* rotations) {
  const int players = channels + channels % 2, pairs = players / 2;  // an odd one out meets nobody
  for (int sweep = 0; sweep < kMostSweeps; ++sweep) {
    double off_diagonal = 0, whole = 0;
    for (int i = group.thread; i < channels * channels; i += kGroup) {
      const double value = matrix[i / channels * pitch + i % channels];
      whole += value * value;
      if (i / channels != i % channels) off_diagonal += value * value;
    }
    off_diagonal = group.sum(off_diagonal);
    if (off_diagonal <= kSmallOffDiagonal * group.sum(whole)) return;

    for (int round = 0; round < players - 1; ++round) {
      for (int i = group.thread; i < pairs; i += kGroup) {
        const auto [p, q] = meet(i, round, players);
        rotations[i] = q < channels ? rotation(matrix[p * pitch + p], matrix[q * pitch + q], matrix[q * pitch + p])
                                    : Rotation{1, 0};
      }
      group.sync();
      // Pairs i >= j share four entries of the lower triangle's block, which nobody else touches, and their mirror.
      for (int block = group.thread; block < pairs * pairs; block += kGroup) {
        const int i = block / pairs, j = block % pairs;
        if (i < j) continue;
        const Pair left = meet(i, round, players), right = meet(j, round, players);
        const auto at = [&](int a, int b) { return a < channels && b < channels ? matrix[a * pitch + b] : 0; };
        double pp = at(left.p, right.p), pq = at(left.p, right.q), qp = at(left.q, right.p), qq = at(left.q, right.q);
        rotate(pp, pq, rotations[j]);
        rotate(qp, qq, rotations[j]);
        rotate(pp, qp, rotations[i]);
        rotate(pq, qq, rotations[i]);
        if (i == j) pq = qp = 0;
        const auto put = [&](int a, int b, double value) {
          if (a < channels && b < channels) matrix[a * pitch + b] = matrix[b * pitch + a] = value;
        };
        put(left.p, right.p, pp);
        put(left.p, right.q, pq);
        put(left.q, right.p, qp);
        put(left.q, right.q, qq);
      }
      for (int i = group.thread; i < num_rows * pairs; i += kGroup) {
        const auto [p, q] = meet(i % pairs, round, players);
        double* const row = rows + i / pairs * pitch;
        if (q < channels) rotate(row[p], row[q], rotations[i % pairs]);
      }
      group.sync();
    }
  }
}

template <int kGroup>
__global__ void __launch_bounds__(kThreads) solve(const Problem problem) {
  extern __shared__ __align__(16) double memory[];
  constexpr int kGroups = kThreads / kGroup;  // of a block
  const int channels = problem.channels, pitch = problem.pitch();
  double* const matrix = memory + threadIdx.x / kGroup * problem.numbers();
  double* const rows = matrix + channels * pitch;
  Rotation* const rotations = reinterpret_cast<Rotation*>(rows + problem.rows_at_once * pitch);
  const Group<kGroup> group{static_cast<int>(threadIdx.x) % kGroup, rows + problem.rows_at_once * pitch + channels + 2};

  for (int64_t work = int64_t{blockIdx.x} * kGroups + threadIdx.x / kGroup; work < problem.batch * problem.passes;
       work += int64_t{gridDim.x} * kGroups) {
    const int64_t entry = work / problem.passes, first_row = work % problem.passes * problem.rows_at_once;
    const int64_t rows_left = problem.num_rows - first_row;
    const int num_rows = static_cast<int>(rows_left < problem.rows_at_once ? rows_left : problem.rows_at_once);
    const double* const source = problem.matrices + entry * channels * channels;
    const int64_t row_offset = (entry * problem.num_rows + first_row) * channels;
    double* const eigenvalues = problem.eigenvalues + entry * channels;

    // A power of two near the largest entry (of the lower triangle) scales without rounding, and keeps squares within
    // the range of a double.
    double largest = 0, non_finite = 0;
    for (int i = group.thread; i < channels * channels; i += kGroup) {
      if (i % channels <= i / channels) largest = fmax(largest, fabs(source[i]));
      non_finite += !isfinite(source[i]);
    }
    non_finite = group.sum(non_finite);
    largest = group.largest(largest);
    const int exponent = non_finite == 0 && largest > 0 ? ilogb(largest) : 0;

    for (int i = group.thread; i < channels * channels; i += kGroup) {
      const int a = i / channels, b = i % channels;
      matrix[a * pitch + b] = scalbn(source[a < b ? b * channels + a : i], -exponent);
    }
    for (int i = group.thread; i < num_rows * channels; i += kGroup)
      rows[i / channels * pitch + i % channels] = problem.rows[row_offset + i];
    group.sync();
    if (non_finite == 0) diagonalize(group, channels, pitch, matrix, num_rows, rows, rotations);

    for (int d = group.thread; d < channels; d += kGroup) {
      const double value = matrix[d * pitch + d];
      int rank = 0;  // ascending
      for (int other = 0; other < channels; ++other) {
        const double rival = matrix[other * pitch + other];
        rank += non_finite == 0 && (rival < value || (rival == value && other < d));
      }
      if (non_finite != 0) rank = d;
      if (first_row == 0) eigenvalues[rank] = non_finite == 0 ? scalbn(value, exponent) : NAN;
      for (int k = 0; k < num_rows; ++k)
        problem.coordinates[row_offset + k * channels + rank] = non_finite == 0 ? rows[k * pitch + d] : NAN;
    }
    group.sync();
  }
}

template <int kGroup>
void launch_solve(Problem problem, const Launch& launch) {
  constexpr int64_t kGroups = kThreads / kGroup;
  const int64_t room = kMostSharedBytes / kGroups / int64_t{sizeof(double)};
  problem.rows_at_once = 0;
  const int64_t rows_at_once = (room - problem.numbers()) / problem.pitch();
  problem.rows_at_once = static_cast<int>(std::min(rows_at_once, problem.num_rows));
  problem.passes = static_cast<int>(std::max<int64_t>(1, (problem.num_rows + rows_at_once - 1) / rows_at_once));
  const int64_t bytes = kGroups * problem.numbers() * int64_t{sizeof(double)};
  STD_CUDA_CHECK(cudaFuncSetAttribute(&solve<kGroup>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      static_cast<int>(kMostSharedBytes)));
  solve<kGroup><<<blocks(problem.batch * problem.passes, kGroups), kThreads, bytes, launch.stream>>>(problem);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

std::tuple<Tensor, Tensor> eigenbasis(const Tensor& matrix, const Tensor& rows) {
  check_eigenproblems(matrix, rows);
  const int64_t channels = matrix.size(-1), num_rows = rows.size(-2);
  STD_TORCH_CHECK(channels <= kMostChannels, "the kernel takes at most ", kMostChannels, " channels, not ", channels);
  const Launch launch(matrix);
  std::vector<int64_t> shape;
  for (int64_t i = 0; i + 1 < matrix.dim(); ++i) shape.push_back(matrix.size(i));
  const Tensor eigenvalues = torch::stable::new_empty(matrix, shape);
  const Tensor coordinates = torch::stable::empty_like(rows);
  const int64_t batch = channels == 0 ? 0 : matrix.numel() / (channels * channels);
  if (batch > 0) {
    const Problem problem{const_data<double>(matrix),
                          const_data<double>(rows),
                          data<double>(eigenvalues),
                          data<double>(coordinates),
                          batch,
                          num_rows,
                          static_cast<int>(channels),
                          0,
                          0};
    channels <= kWarp ? launch_solve<kWarp>(problem, launch) : launch_solve<kThreads>(problem, launch);
  }
  return {eigenvalues, coordinates};
}

}  // namespace
}  // namespace torch_trf

STABLE_TORCH_LIBRARY_IMPL(torch_trf, CUDA, m) { m.impl("eigenbasis", TORCH_BOX(&torch_trf::eigenbasis)); }

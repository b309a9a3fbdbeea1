// Batches of small symmetric eigenproblems on the CPU, by cyclic Jacobi rotations: eight matrices at a time, one in
// each lane of a vector, so that every step is the same for all of them.
//
// A sweep rotates each of the D (D - 1) / 2 pairs of axes: 4 (D - 2) + 4 K products each; 5 to 8 sweeps converge.
#include "../solvers.h"
#include "vectorized.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <tuple>
#include <vector>

namespace torch_trf {
namespace {

// Turns axes x and y of every lane: (x, y) becomes (cosine x - sine y, sine x + cosine y).
inline void rotate(double* x, double* y, const double* cosine, const double* sine) {
#pragma omp simd
  for (int64_t l = 0; l < kLanes; ++l) {
    const double before = x[l];
    x[l] = cosine[l] * before - sine[l] * y[l];
    y[l] = sine[l] * before + cosine[l] * y[l];
  }
}

// Whether in some lane the entries off the diagonal are not yet negligible. A lane that is not a number never is
// "not yet": its comparison is false.
TORCH_TRF_VECTORIZED
bool is_unfinished(const double* matrix, int64_t channels) {
  double diagonal[kLanes] = {}, off_diagonal[kLanes] = {};
  for (int64_t i = 0; i < channels; ++i) {
    for (int64_t j = 0; j < i; ++j)
      for (int64_t l = 0; l < kLanes; ++l) {
        const double value = matrix[(i * channels + j) * kLanes + l];
        off_diagonal[l] += 2 * value * value;
      }
    for (int64_t l = 0; l < kLanes; ++l) {
      const double value = matrix[(i * channels + i) * kLanes + l];
      diagonal[l] += value * value;
    }
  }
  bool unfinished = false;
  for (int64_t l = 0; l < kLanes; ++l)
    unfinished = unfinished || off_diagonal[l] > kSmallOffDiagonal * (diagonal[l] + off_diagonal[l]);
  return unfinished;
}

// One sweep over all pairs p > q of axes of the lower triangle `[D, D, kLanes]` and the rows `[K, D, kLanes]`. The
// angle that makes entry (p, q) zero is that of Golub and Van Loan, "Matrix Computations", 4th edition, algorithm
// 8.5.1.
TORCH_TRF_VECTORIZED
void sweep(double* matrix, double* rows, int64_t channels, int64_t num_rows) {
  const auto entry = [&](int64_t i, int64_t j) { return matrix + (i * channels + j) * kLanes; };
  for (int64_t p = 1; p < channels; ++p) {
    for (int64_t q = 0; q < p; ++q) {
      double cosine[kLanes], sine[kLanes];
      double *const pp = entry(p, p), *const qq = entry(q, q), *const pq = entry(p, q);
#pragma omp simd
      for (int64_t l = 0; l < kLanes; ++l) {
        const double cotangent = (pp[l] - qq[l]) / (2 * pq[l]);  // of twice the angle
        double tangent = 1 / (std::fabs(cotangent) + std::sqrt(cotangent * cotangent + 1));
        tangent = pq[l] == 0 ? 0 : std::copysign(tangent, cotangent);
        cosine[l] = 1 / std::sqrt(tangent * tangent + 1);
        sine[l] = tangent * cosine[l];
        pp[l] += tangent * pq[l];
        qq[l] -= tangent * pq[l];
        pq[l] = 0;
      }
      for (int64_t i = 0; i < q; ++i) rotate(entry(q, i), entry(p, i), cosine, sine);
      for (int64_t i = q + 1; i < p; ++i) rotate(entry(i, q), entry(p, i), cosine, sine);
      for (int64_t i = p + 1; i < channels; ++i) rotate(entry(i, q), entry(i, p), cosine, sine);
      for (int64_t k = 0; k < num_rows; ++k)
        rotate(rows + (k * channels + q) * kLanes, rows + (k * channels + p) * kLanes, cosine, sine);
    }
  }
}

// The largest absolute entry; 1 if all are zero, NaN if one is not finite.
double scale_of(const double* matrix, int64_t area) {
  double largest = 0;
  for (int64_t i = 0; i < area; ++i) {
    if (!std::isfinite(matrix[i])) return std::numeric_limits<double>::quiet_NaN();
    largest = std::max(largest, std::fabs(matrix[i]));
  }
  return largest == 0 ? 1 : largest;
}

std::tuple<Tensor, Tensor> eigenbasis(const Tensor& matrix, const Tensor& rows) {
  const Areas areas = check_eigenproblems(matrix, rows);
  const int64_t channels = matrix.size(-1), num_rows = rows.size(-2), area = areas.matrix, row_area = areas.rows;
  std::vector<int64_t> shape;
  for (int64_t i = 0; i + 1 < matrix.dim(); ++i) shape.push_back(matrix.size(i));
  const Tensor eigenvalues = torch::stable::new_empty(matrix, shape), coordinates = torch::stable::empty_like(rows);
  const double* const all_matrices = const_data<double>(matrix);
  const double* const all_rows = const_data<double>(rows);
  double* const all_eigenvalues = data<double>(eigenvalues);
  double* const all_coordinates = data<double>(coordinates);
  const int64_t batch = channels == 0 ? 0 : eigenvalues.numel() / channels;

  torch::stable::parallel_for(0, (batch + kLanes - 1) / kLanes, 1, [&](int64_t begin, int64_t end) {
    std::vector<double> a(area * kLanes), r(row_area * kLanes);
    std::vector<int64_t> order(channels), filled_row(num_rows);
    for (int64_t pack = begin; pack < end; ++pack) {
      const int64_t first = pack * kLanes, lanes = std::min(kLanes, batch - first);
      double scale[kLanes];  // the largest entry, so that squares neither overflow nor vanish
      for (int64_t l = 0; l < kLanes; ++l) {
        const bool used = l < lanes;  // the others hold zeros
        scale[l] = used ? scale_of(all_matrices + (first + l) * area, area) : 1;
        for (int64_t i = 0; i < area; ++i)
          a[i * kLanes + l] = used ? all_matrices[(first + l) * area + i] / scale[l] : 0;
      }
      // Rows of zeros stay what they are: classes that none of these patches has.
      int64_t filled = 0;
      for (int64_t k = 0; k < num_rows; ++k) {
        bool empty = true;
        for (int64_t d = 0; d < channels; ++d)
          for (int64_t l = 0; l < kLanes; ++l) {
            const double value = l < lanes ? all_rows[(first + l) * row_area + k * channels + d] : 0;
            r[(filled * channels + d) * kLanes + l] = value;
            empty = empty && value == 0;
          }
        filled_row[k] = empty ? -1 : filled++;
      }
      for (int i = 0; i < kMostSweeps && is_unfinished(a.data(), channels); ++i)
        sweep(a.data(), r.data(), channels, filled);
      for (int64_t l = 0; l < lanes; ++l) {
        const auto value = [&](int64_t d) { return a[d * (channels + 1) * kLanes + l] * scale[l]; };
        const bool failed = std::isnan(scale[l]);
        std::iota(order.begin(), order.end(), 0);
        if (!failed) std::sort(order.begin(), order.end(), [&](int64_t i, int64_t j) { return value(i) < value(j); });
        for (int64_t d = 0; d < channels; ++d) {
          all_eigenvalues[(first + l) * channels + d] = value(order[d]);
          for (int64_t k = 0; k < num_rows; ++k)
            all_coordinates[(first + l) * row_area + k * channels + d] =
                failed ? scale[l] : filled_row[k] < 0 ? 0 : r[(filled_row[k] * channels + order[d]) * kLanes + l];
        }
      }
    }
  });
  return {eigenvalues, coordinates};
}

}  // namespace
}  // namespace torch_trf

STABLE_TORCH_LIBRARY_IMPL(torch_trf, CPU, m) { m.impl("eigenbasis", TORCH_BOX(&torch_trf::eigenbasis)); }

// The source model's prediction on a span of pixels: softmax of the logits, kept in cache and never written out.
#pragma once

#include <cmath>
#include <vector>

#include "pixels.h"

namespace torch_trf {

constexpr int64_t kPredictionSpan = 128;                    // pixels of a line at a time
constexpr int64_t kPredictionStride = kPredictionSpan + 8;  // apart, so that channels do not meet in the cache's sets

// exp(x) for x <= 0, to within 2 units in the last place: x = n ln 2 + r, the Taylor series of exp(r), |r| <= ln 2 / 2,
// to degree 13, and n added to the exponent. Below -708, where the result would be subnormal, 0.
inline double exp_of_negative(double x) {
  constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to a whole number, in the low bits
  constexpr double kLn2High = 0x1.62e42fefa0000p-1, kLn2Low = 0x1.cf79abc9e3b3ap-40;
  const double shifted = x * 1.4426950408889634 + kRound, n = shifted - kRound;
  const double r = (x - n * kLn2High) - n * kLn2Low;
  double sum = 1.0 / 6227020800;
  sum = sum * r + 1.0 / 479001600;
  sum = sum * r + 1.0 / 39916800;
  sum = sum * r + 1.0 / 3628800;
  sum = sum * r + 1.0 / 362880;
  sum = sum * r + 1.0 / 40320;
  sum = sum * r + 1.0 / 5040;
  sum = sum * r + 1.0 / 720;
  sum = sum * r + 1.0 / 120;
  sum = sum * r + 1.0 / 24;
  sum = sum * r + 1.0 / 6;
  sum = sum * r + 0.5;
  sum = sum * r + 1;
  sum = sum * r + 1;
  const uint64_t exponent = __builtin_bit_cast(uint64_t, shifted) << 52;
  return x < -708.0 ? 0.0 : __builtin_bit_cast(double, __builtin_bit_cast(uint64_t, sum) + exponent);
}

// Logits `[Z, kPredictionStride]` to exp(logit - largest), and 1 / their sum; `check` is the sum of the logits.
TORCH_TRF_VECTORIZED
inline void soften(double* logits, int64_t source_classes, int64_t count, double* largest, double* check,
                   double* scale) {
  for (int64_t t = 0; t < count; ++t) largest[t] = check[t] = logits[t];
  for (int64_t z = 1; z < source_classes; ++z) {
    const double* row = logits + z * kPredictionStride;
#pragma omp simd
    for (int64_t t = 0; t < count; ++t) {
      largest[t] = row[t] > largest[t] ? row[t] : largest[t];
      check[t] += row[t];
    }
  }
  for (int64_t t = 0; t < count; ++t) scale[t] = 0;
  for (int64_t z = 0; z < source_classes; ++z) {
    double* row = logits + z * kPredictionStride;
#pragma omp simd
    for (int64_t t = 0; t < count; ++t) {
      row[t] = exp_of_negative(row[t] - largest[t]);
      scale[t] += row[t];
    }
  }
  for (int64_t t = 0; t < count; ++t) scale[t] = 1 / scale[t];
}

// The class of largest logit, the lowest-numbered one where several are equal; `check` is the sum of the logits.
TORCH_TRF_VECTORIZED
inline void choose(const double* logits, int64_t source_classes, int64_t count, double* largest, double* check,
                   int64_t* best) {
  for (int64_t t = 0; t < count; ++t) {
    largest[t] = check[t] = logits[t];
    best[t] = 0;
  }
  for (int64_t z = 1; z < source_classes; ++z) {
    const double* row = logits + z * kPredictionStride;
#pragma omp simd
    for (int64_t t = 0; t < count; ++t) {
      best[t] = row[t] > largest[t] ? z : best[t];
      largest[t] = row[t] > largest[t] ? row[t] : largest[t];
      check[t] += row[t];
    }
  }
}

// Labels and predictions of one span of pixels.
class Prediction {
 public:
  Prediction(const Geometry& geometry, const Pixels& pixels)
      : g_(geometry),
        pixels_(pixels),
        exponentials_(geometry.channels * kPredictionStride),
        largest_(kPredictionSpan),
        check_(kPredictionSpan),
        scale_(kPredictionSpan),
        label_(kPredictionSpan),
        best_(kPredictionSpan) {}

  // Reads one row of a band, for `exponentials` and `scale` or, where `hard`, for `best`.
  void read(const Band& band, int64_t row, bool hard) {
    pixels_.labels(band.at, row, band.span, label_.data());
    for (int64_t z = 0; z < g_.channels; ++z) {
      pixels_.features(band.at, z, row, band.span, exponentials_.data() + z * kPredictionStride);
    }
    if (hard) {
      choose(exponentials_.data(), g_.channels, band.span, largest_.data(), check_.data(), best_.data());
    } else {
      soften(exponentials_.data(), g_.channels, band.span, largest_.data(), check_.data(), scale_.data());
    }
  }

  // The class of pixel t as the unit's patch j sees it, -1 where it does not count.
  int64_t classify(Tally& tally, int64_t j, int64_t t) const {
    const int64_t label = tally.classify(j, label_[t]);
    if (label < 0 || std::isfinite(check_[t])) return label;
    tally.count_non_finite(j);
    return -1;
  }

  // θ of pixel t is exponentials(t)[z * kPredictionStride] * scale(t).
  const double* exponentials(int64_t t) const { return exponentials_.data() + t; }
  double scale(int64_t t) const { return scale_[t]; }

  // The source class that pixel t is predicted to have.
  int64_t best(int64_t t) const { return best_[t]; }

 private:
  const Geometry& g_;
  const Pixels& pixels_;
  std::vector<double> exponentials_;  // [Z, kPredictionStride]; the logits where `hard`
  std::vector<double> largest_, check_, scale_;
  std::vector<int64_t> label_, best_;
};

}  // namespace torch_trf

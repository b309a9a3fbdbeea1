// Patch moments on the CPU. Lines of pixels are read in memory order and dealt out to the patches that they cross, as
// double precision around each patch's origin: a tile of channels x pixels of every patch of a unit, small enough for
// the cache. A full tile is added to the sums.
//
// Operations a pixel: D conversions, D (D + 1) / 2 products for the Gram matrix, D for the class sum, 2 D for the third
// and fourth moments.
#include "pixels.h"
#include "vectorized.h"

#include <cmath>
#include <mutex>
#include <tuple>
#include <vector>

namespace torch_trf {
namespace {

constexpr int64_t kMostSpan = 256;         // columns read at a time
constexpr int64_t kTilePixels = 80;        // of each patch in a tile; fewer where the patch has fewer
constexpr int64_t kTileNumbers = 1 << 16;  // of a tile: 512 KiB
constexpr int64_t kLeft = 4, kRight = 2;   // rows multiplied at a time

struct MomentSums {
  double *class_sum, *gram, *third_moment, *fourth_moment;
};

// Adds the products of the rows of a patch with its channels: out[i][j] += Σ_t rows[i][t] rows[j][t]. The first rows
// are the channels; of their products those on and below the diagonal are needed, and no block above it is computed.
// Every row that is loaded serves several products, so that the processor waits for arithmetic and not for its cache.
TORCH_TRF_VECTORIZED
void add_products(const double* rows, int64_t stride, int64_t pixels, int64_t num_rows, int64_t channels,
                  double* const* out) {
  for (int64_t i = 0; i < num_rows; i += kLeft) {
    const double *a = rows + i * stride, *b = a + stride, *c = b + stride, *d = c + stride;
    const int64_t end = i + kLeft <= channels ? i + kLeft : channels;
    for (int64_t j = 0; j < end; j += kRight) {
      const bool pair = j + 1 < channels;
      const double *x = rows + j * stride, *y = pair ? x + stride : x;
      double ax = 0, ay = 0, bx = 0, by = 0, cx = 0, cy = 0, dx = 0, dy = 0;
#pragma omp simd reduction(+ : ax, ay, bx, by, cx, cy, dx, dy)
      for (int64_t t = 0; t < pixels; ++t) {
        ax += a[t] * x[t], ay += a[t] * y[t];
        bx += b[t] * x[t], by += b[t] * y[t];
        cx += c[t] * x[t], cy += c[t] * y[t];
        dx += d[t] * x[t], dy += d[t] * y[t];
      }
      out[i][j] += ax, out[i + 1][j] += bx, out[i + 2][j] += cx, out[i + 3][j] += dx;
      if (pair) out[i][j + 1] += ay, out[i + 1][j + 1] += by, out[i + 2][j + 1] += cy, out[i + 3][j + 1] += dy;
    }
  }
}

TORCH_TRF_VECTORIZED
void square_norms(const double* rows, int64_t stride, int64_t pixels, int64_t channels, double* square) {
  std::fill_n(square, pixels, 0.0);
  for (int64_t d = 0; d < channels; ++d) {
    const double* row = rows + d * stride;
#pragma omp simd
    for (int64_t t = 0; t < pixels; ++t) square[t] += row[t] * row[t];
  }
}

TORCH_TRF_VECTORIZED
double sum_of_squares(const double* values, int64_t count) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += values[i] * values[i];
  return sum;
}

// Deals a line of one channel out to the patches side by side, each around its origin.
template <int kWidth>
inline __attribute__((always_inline)) void deal_out(const double* line, int64_t patches, int64_t width,
                                                    const double* origin, int64_t channels, double* tile,
                                                    int64_t patch_numbers) {
  if (kWidth > 0) width = kWidth;  // known to the compiler
  for (int64_t j = 0; j < patches; ++j) {
    const double shift = origin[j * channels];
    double* const to = tile + j * patch_numbers;
    for (int64_t u = 0; u < width; ++u) to[u] = line[j * width + u] - shift;
  }
}

TORCH_TRF_VECTORIZED
void deal(const double* line, int64_t patches, int64_t width, const double* origin, int64_t channels, double* tile,
          int64_t patch_numbers) {
  switch (width) {
    case 4: return deal_out<4>(line, patches, width, origin, channels, tile, patch_numbers);
    case 8: return deal_out<8>(line, patches, width, origin, channels, tile, patch_numbers);
    default: return deal_out<0>(line, patches, width, origin, channels, tile, patch_numbers);
  }
}

// The tile of a unit. Beneath the channels each patch gets a row of squared norms and a row of ones and zeros for each
// class that its pixels have, so that one product gives Gram matrix, third moment and class sums.
class Tile {
 public:
  Tile(const Geometry& geometry, const Pixels& pixels, const Unit& unit, int64_t tile_pixels, const double* origin,
       Tally& tally)
      : g_(geometry),
        pixels_(pixels),
        unit_(unit),
        tile_pixels_(tile_pixels),
        stride_(row_stride(tile_pixels)),
        origin_(origin),
        tally_(tally),
        values_(unit.patches * geometry.channels * stride_),
        label_(unit.patches * tile_pixels),
        row_of_class_(geometry.classes, 0),
        line_(kMostSpan),
        line_label_(kMostSpan) {}

  // Rows side by side would meet in the same sets of the cache without some space between them.
  static int64_t row_stride(int64_t pixels) { return (pixels + kLanes - 1) / kLanes * kLanes + kLanes; }

  bool has_room_for(const Band& band) const { return filled_ + band.rows * band.width <= tile_pixels_; }

  void read(const Band& band) {
    for (int64_t row = 0; row < band.rows; ++row) {
      pixels_.labels(band.at, row, band.span, line_label_.data());
      for (int64_t j = 0; j < unit_.patches; ++j)
        for (int64_t u = 0; u < band.width; ++u)
          label_[j * tile_pixels_ + filled_ + row * band.width + u] =
              tally_.classify(j, line_label_[j * band.width + u]);
    }
    for (int64_t d = 0; d < g_.channels; ++d) {
      for (int64_t row = 0; row < band.rows; ++row) {
        pixels_.features(band.at, d, row, band.span, line_.data());
        deal(line_.data(), unit_.patches, band.width, origin_ + d, g_.channels,
             values_.data() + d * stride_ + filled_ + row * band.width, g_.channels * stride_);
      }
    }
    filled_ += band.rows * band.width;
  }

  // Adds the pixels of the unit's patch j to its sums.
  void add(int64_t j, const MomentSums& sums) {
    const int64_t channels = g_.channels, length = stride_ - kLanes, *const label = label_.data() + j * tile_pixels_;
    rows_.assign(values_.begin() + j * channels * stride_, values_.begin() + (j + 1) * channels * stride_);
    rows_.resize((channels + 1) * stride_);
    out_.clear();
    for (int64_t d = 0; d < channels; ++d) out_.push_back(sums.gram + d * channels);
    out_.push_back(sums.third_moment);
    for (int64_t t = 0; t < length; ++t)
      if (t >= filled_ || label[t] < 0) leave_out(t);
    square_norms(rows_.data(), stride_, length, channels, rows_.data() + channels * stride_);
    for (int64_t t = 0; t < filled_; ++t) {
      if (label[t] < 0) continue;
      if (!std::isfinite(rows_[channels * stride_ + t])) {
        tally_.count_non_finite(j);
        leave_out(t);
        rows_[channels * stride_ + t] = 0;
        continue;
      }
      tally_.count(j, label[t]);
      int64_t& row = row_of_class_[label[t]];
      if (row == 0) {
        row = out_.size();
        rows_.resize((row + 1) * stride_);
        out_.push_back(sums.class_sum + label[t] * channels);
        met_.push_back(label[t]);
      }
      rows_[row * stride_ + t] = 1;
    }
    *sums.fourth_moment += sum_of_squares(rows_.data() + channels * stride_, length);
    spare_.resize(channels);
    while (out_.size() % kLeft != 0) out_.push_back(spare_.data());
    rows_.resize(out_.size() * stride_);
    add_products(rows_.data(), stride_, length, out_.size(), channels, out_.data());
    for (const int64_t k : met_) row_of_class_[k] = 0;
    met_.clear();
  }

  void clear() { filled_ = 0; }

 private:
  void leave_out(int64_t t) {
    for (int64_t d = 0; d < g_.channels; ++d) rows_[d * stride_ + t] = 0;
  }

  const Geometry& g_;
  const Pixels& pixels_;
  const Unit unit_;
  const int64_t tile_pixels_, stride_;  // of each patch, at most; from row to row
  const double* const origin_;
  Tally& tally_;
  int64_t filled_ = 0;
  std::vector<double> values_;  // [patches, D, stride]
  std::vector<int64_t> label_;  // [patches, tile_pixels]
  std::vector<double> rows_;    // of the patch that is added
  std::vector<double*> out_;    // where the products of each row go
  std::vector<double> spare_;
  std::vector<int64_t> row_of_class_, met_;  // 0: no pixel has the class
  std::vector<double> line_;
  std::vector<int64_t> line_label_;
};

// The first pixel that counts is the patch's origin: close to its mean, so that little cancels, and exact for constant
// features.
void find_origin(const Geometry& g, const Pixels& pixels, int64_t patch, double* origin) {
  Tally unused(g, 1, 0);
  for (int64_t pixel = 0; pixel < g.patch_pixels; ++pixel) {
    const Offsets at = g.locate(patch, pixel);
    int64_t label;
    pixels.labels(at, 0, 1, &label);
    if (unused.classify(0, label) < 0) continue;
    bool finite = true;
    for (int64_t d = 0; d < g.channels && finite; ++d) {
      pixels.features(at, d, 0, 1, origin + d);
      finite = std::isfinite(origin[d]);
    }
    if (finite) return;
  }
  std::fill_n(origin, g.channels, 0.0);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> patch_moments(
    const Tensor& features, const Tensor& labels, int64_t num_classes, int64_t cell_height, int64_t cell_width,
    bool pool_batch, int64_t ignore_index) {
  const PatchGrid cells = grid_of_cells(cell_height, cell_width);
  const Geometry g =
      make_geometry(features, labels, num_classes, cells, pool_batch, ignore_index, numbers_of_moments);
  const int64_t channels = g.channels;
  const Tensor origin = make_rows(features, g, false, {channels});
  const Tensor class_count = make_rows(features, g, false, {num_classes}, ScalarType::Long);
  const Tensor class_sum = make_rows(features, g, true, {num_classes, channels});
  const Tensor gram = make_rows(features, g, true, {channels, channels});
  const Tensor third_moment = make_rows(features, g, true, {channels});
  const Tensor fourth_moment = make_rows(features, g, true, {});
  const Tensor faults = make_faults(features, g);

  double* const origins = data<double>(origin);
  const MomentSums sums{data<double>(class_sum), data<double>(gram), data<double>(third_moment),
                        data<double>(fourth_moment)};
  int64_t *const all_counts = data<int64_t>(class_count), *const all_faults = data<int64_t>(faults);
  const Pixels pixels(features, labels, g);
  std::mutex mutex;

  torch::stable::parallel_for(0, g.patches, 1, [&](int64_t begin, int64_t end) {
    for (int64_t patch = begin; patch < end; ++patch) find_origin(g, pixels, patch, origins + patch * channels);
  });
  const int64_t tile_pixels = std::min(kTilePixels, g.patch_pixels);
  const int64_t patch_numbers = std::max<int64_t>(1, channels * Tile::row_stride(tile_pixels));
  const int64_t most_patches = std::max<int64_t>(1, kTileNumbers / patch_numbers);
  const Units units(g, g.patch_width <= tile_pixels ? kMostSpan : std::max<int64_t>(1, tile_pixels), most_patches);
  for_each_unit(units, [&](const Unit& unit) {
    Tally tally(g, unit.patches, num_classes);
    Tile tile(g, pixels, unit, tile_pixels, origins + unit.first_patch * channels, tally);
    const auto flush = [&] {
      for (int64_t j = 0; j < unit.patches; ++j) {
        const int64_t row = g.chunk_row(unit.first_patch + j, unit.chunk);
        tile.add(j, {sums.class_sum + row * num_classes * channels, sums.gram + row * channels * channels,
                      sums.third_moment + row * channels, sums.fourth_moment + row});
      }
      tile.clear();
    };
    units.bands(unit, tile_pixels, [&](const Band& band) {
      if (!tile.has_room_for(band)) flush();
      tile.read(band);
    });
    flush();
    for (int64_t j = 0; j < unit.patches; ++j) {
      double* const matrix = sums.gram + g.chunk_row(unit.first_patch + j, unit.chunk) * channels * channels;
      for (int64_t a = 0; a < channels; ++a)
        for (int64_t b = 0; b < a; ++b) matrix[b * channels + a] = matrix[a * channels + b];
    }
    tally.add_to(unit, all_counts, all_faults, mutex);
  });
  return {finish(origin, g, pool_batch, false),      finish(class_count, g, pool_batch, false),
          finish(class_sum, g, pool_batch, true),    finish(gram, g, pool_batch, true),
          finish(third_moment, g, pool_batch, true), finish(fourth_moment, g, pool_batch, true),
          finish(faults, g, pool_batch, false)};
}

}  // namespace
}  // namespace torch_trf

STABLE_TORCH_LIBRARY_IMPL(torch_trf, CPU, m) { m.impl("patch_moments", TORCH_BOX(&torch_trf::patch_moments)); }

// From feature maps to pixel scores and image scores: the maps of the whole batch, a layer after the other, as they lie
// in memory; then image by image, so that everything between stays in the cache.
#include "kernels.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace edge_ad {
namespace {

constexpr Index kLanes = 16;
constexpr Index kColumns = 64;  // of a piece of the scores,
constexpr Index kRows = 8;      // and its rows: what is bounded, and left out or looked at, together
constexpr float kLargest = std::numeric_limits<float>::max();

Index round_up(Index count, Index unit) { return (count + unit - 1) / unit * unit; }

struct Run {  // results begin..end lie between the same two source pixels
    Index begin, end, low, high;
};

struct Axis {  // bilinear taps along one axis: result i is away[i] of low[i] and between[i] of high[i]
    std::vector<Index> low, high;
    std::vector<float> away, between;  // as long as `padded`, so that whole blocks of lanes can be read
    std::vector<Run> runs;

    Axis(Index length, Index out, Index padded) : low(out), high(out), away(padded, 1.f), between(padded, 0.f) {
        const float scale = static_cast<float>(length) / static_cast<float>(out);
        for (Index i = 0; i < out; ++i) {
            const float position = std::max((static_cast<float>(i) + 0.5f) * scale - 0.5f, 0.f);
            low[i] = std::min<Index>(static_cast<Index>(position), length - 1);
            high[i] = std::min<Index>(low[i] + 1, length - 1);
            between[i] = position - static_cast<float>(low[i]);
            away[i] = 1.f - between[i];
            if (runs.empty() || runs.back().low != low[i]) runs.push_back({i, i, low[i], high[i]});
            runs.back().end = i + 1;
        }
    }
};

// One row at full width, run by run, `lanes` at a time: those past a run's end are written again by the next run.
// `wide` holds kLanes floats past the last result. Inlined where `lanes` is constant.
__attribute__((always_inline)) inline void widen_runs(const float* row, const Axis& across, Index lanes, float* wide) {
    const float *away = across.away.data(), *between = across.between.data();
    for (const Run& run : across.runs) {
        const float left = row[run.low], right = row[run.high];
        for (Index x = run.begin; x < run.end; x += lanes)
            for (Index j = 0; j < lanes; ++j) wide[x + j] = left * away[x + j] + right * between[x + j];
    }
}

EDGE_AD_CLONES
void widen_row(const float* row, const Axis& across, Index out, float* wide) {
    const Index length = out / static_cast<Index>(across.runs.size());  // of a run, about
    if (length <= 4) return widen_runs(row, across, 4, wide);
    if (length <= 8) return widen_runs(row, across, 8, wide);
    widen_runs(row, across, kLanes, wide);
}

// The largest of every kColumns of a row of scores, none of which is negative; infinite where one is NaN.
EDGE_AD_CLONES
void peaks_of(const float* row, Index pieces, float* peaks) {
    for (Index piece = 0; piece < pieces; ++piece) {
        const float* scores = row + piece * kColumns;
        float peak = 0, sum = 0;
#pragma omp simd reduction(max : peak) reduction(+ : sum)
        for (Index i = 0; i < kColumns; ++i) {
            peak = peak < scores[i] ? scores[i] : peak;
            sum += scores[i];  // NaN if any is
        }
        peaks[piece] = sum <= kLargest ? peak : std::numeric_limits<float>::infinity();
    }
}

EDGE_AD_CLONES
void mix_rows(const float* top, const float* bottom, float between, Index width, float* out) {
    for (Index x = 0; x < width; ++x) out[x] = top[x] * (1.f - between) + bottom[x] * between;
}

EDGE_AD_CLONES
void add_mixed_rows(const float* top, const float* bottom, float between, Index width, float* out) {
    for (Index x = 0; x < width; ++x) out[x] += top[x] * (1.f - between) + bottom[x] * between;
}

EDGE_AD_CLONES
void add_scaled(const float* in, float scale, Index count, float* out) {
    for (Index i = 0; i < count; ++i) out[i] += in[i] * scale;
}

void multiply_power(const float* in, float power, Index count, float* out) {
    if (power == 1.f)
        for (Index i = 0; i < count; ++i) out[i] *= in[i];
    else
        for (Index i = 0; i < count; ++i) out[i] *= std::pow(in[i], power);
}

// How maps of one size become scores: the same for every image.
struct Grid {
    Index height, width, pieces, pitch;  // pieces of kColumns of a row of scores; floats between rows at full width
    Axis down, across;

    Grid(Index map_height, Index map_width, Index out_height, Index out_width)
        : height(map_height), width(map_width), pieces(round_up(out_width, kColumns) / kColumns),
          pitch(pieces * kColumns + kLanes), down(map_height, out_height, out_height),
          across(map_width, out_width, pitch) {}
};

// A map with every row at full width; rows of the result are mixed from two of them.
struct Wide {
    const Grid* grid;
    std::vector<float> rows, peaks;

    explicit Wide(const Grid& of) : grid(&of), rows(of.height * of.pitch), peaks(of.height * of.pieces) {}
    void fill(const float* map) {
        const Index out = static_cast<Index>(grid->across.low.size());
        for (Index y = 0; y < grid->height; ++y)
            widen_row(map + y * grid->width, grid->across, out, rows.data() + y * grid->pitch);
    }
    void find_peaks() {
        for (Index y = 0; y < grid->height; ++y)
            peaks_of(rows.data() + y * grid->pitch, grid->pieces, peaks.data() + y * grid->pieces);
    }
    const float* top(Index y) const { return rows.data() + grid->down.low[y] * grid->pitch; }
    const float* bottom(Index y) const { return rows.data() + grid->down.high[y] * grid->pitch; }
    float between(Index y) const { return grid->down.between[y]; }
    // No score of these rows and this piece is larger.
    float bound(Index first, Index last, Index piece) const {
        float bound = 0;
        for (Index y = grid->down.low[first]; y <= grid->down.high[last]; ++y)
            bound = std::max(bound, peaks[y * grid->pieces + piece]);
        return bound;
    }
};

void blur(const std::vector<float>& gaussian, Index height, Index width, float* map) {
    const Index radius = static_cast<Index>(gaussian.size()) / 2;
    std::vector<float> copy(map, map + height * width), padded(width + 2 * radius);
    for (Index y = 0; y < height; ++y) {
        std::fill_n(map + y * width, width, 0.f);
        for (Index i = -radius; i <= radius; ++i)
            add_scaled(copy.data() + std::clamp<Index>(y + i, 0, height - 1) * width, gaussian[i + radius], width,
                       map + y * width);
    }
    for (Index y = 0; y < height; ++y) {
        float* row = map + y * width;
        std::fill_n(padded.data(), radius, row[0]);
        std::copy_n(row, width, padded.data() + radius);
        std::fill_n(padded.data() + radius + width, radius, row[width - 1]);
        std::fill_n(row, width, 0.f);
        for (Index i = 0; i <= 2 * radius; ++i) add_scaled(padded.data() + i, gaussian[i], width, row);
    }
}

// One thread's work on the scores of one image after the other.
class Scorer {
public:
    // Layer i is upsampled by grid of[i]. Maps that share one are joined before, for upsampling is linear; where maps
    // are multiplied, every layer has its own.
    Scorer(const std::vector<Grid>& grids, std::vector<std::size_t> of, const Score& how)
        : of_(std::move(of)), how_(how), total_(0), spare_(how.width), block_(kColumns) {
        for (const Grid& grid : grids) wide_.emplace_back(grid);
        for (const double weight : how.weights) total_ += weight;
    }

    // maps[i] [height, width] of layer i; pixel_scores may be null. Returns the image score.
    float score(const std::vector<const float*>& maps, float* pixel_scores) {
        join(maps);
        TopK top(how_.k);
        if (!how_.gaussian.empty()) {
            if (pixel_scores == nullptr) own_.resize(how_.height * how_.width), pixel_scores = own_.data();
            write_scores(pixel_scores);
            blur(how_.gaussian, how_.height, how_.width, pixel_scores);
            top.add(pixel_scores, how_.height * how_.width);
            return top.mean();
        }
        if (pixel_scores != nullptr) write_scores(pixel_scores);
        find_largest(pixel_scores, top);
        return top.mean();
    }

private:
    struct Piece {
        float bound;
        Index first, piece;  // row, and number in it
        bool operator<(const Piece& other) const { return bound < other.bound; }
    };

    void join(const std::vector<const float*>& maps) {
        for (std::size_t g = 0; g < wide_.size(); ++g) {
            const Index pixels = wide_[g].grid->height * wide_[g].grid->width;
            sum_.assign(pixels, 0.f);
            const float* map = sum_.data();
            for (std::size_t i = 0; i < maps.size(); ++i) {
                if (of_[i] != g) continue;
                const double weight = how_.combine == Combine::mean ? how_.weights[i] / total_ : how_.weights[i];
                if (how_.combine == Combine::product)
                    map = maps[i];
                else
                    add_scaled(maps[i], static_cast<float>(weight), pixels, sum_.data());
            }
            wide_[g].fill(map);
        }
    }

    // Scores of `count` columns from `first` on.
    void write_row(Index y, Index first, Index count, float* row) {
        if (how_.combine == Combine::product) std::fill_n(row, count, 1.f);
        for (std::size_t g = 0; g < wide_.size(); ++g) {
            const float *top = wide_[g].top(y) + first, *bottom = wide_[g].bottom(y) + first;
            const float between = wide_[g].between(y);
            if (how_.combine == Combine::product) {
                mix_rows(top, bottom, between, count, spare_.data());
                multiply_power(spare_.data(), static_cast<float>(how_.weights[g]), count, row);
            } else if (g == 0) {
                mix_rows(top, bottom, between, count, row);
            } else {
                add_mixed_rows(top, bottom, between, count, row);
            }
        }
    }

    void write_scores(float* scores) {
        for (Index y = 0; y < how_.height; ++y) write_row(y, 0, how_.width, scores + y * how_.width);
    }

    // What no score of a piece exceeds: bilinear scores lie between the maps' pixels, but for rounding. Infinite if it
    // isn't known.
    float bound(Index first, Index last, Index piece) const {
        constexpr float kMore = 1 + 1e-6f, kLeast = std::numeric_limits<float>::min();
        float bound = how_.combine == Combine::product ? 1.f : 0.f;
        for (std::size_t g = 0; g < wide_.size(); ++g) {
            const float one = wide_[g].bound(first, last, piece) * kMore + kLeast;
            if (how_.combine == Combine::product)
                multiply_power(&one, static_cast<float>(how_.weights[g]), 1, &bound);
            else
                bound += one;
            bound *= kMore;
        }
        return bound <= kLargest ? bound : std::numeric_limits<float>::infinity();
    }

    // Pieces are looked at from the highest bound down, until none can hold a score that counts.
    void find_largest(const float* scores, TopK& top) {
        for (Wide& wide : wide_) wide.find_peaks();
        pieces_.clear();
        for (Index y = 0; y < how_.height; y += kRows)
            for (Index piece = 0; piece < wide_[0].grid->pieces; ++piece)
                pieces_.push_back({bound(y, std::min(y + kRows, how_.height) - 1, piece), y, piece});
        std::make_heap(pieces_.begin(), pieces_.end());
        for (; !pieces_.empty(); pieces_.pop_back()) {
            std::pop_heap(pieces_.begin(), pieces_.end());
            const Piece& next = pieces_.back();
            if (next.bound <= std::min(top.bar(), kLargest)) break;
            const Index left = next.piece * kColumns, count = std::min(kColumns, how_.width - left);
            for (Index y = next.first; y < std::min(next.first + kRows, how_.height); ++y) {
                if (scores == nullptr) write_row(y, left, count, block_.data());
                top.add(scores == nullptr ? block_.data() : scores + y * how_.width + left, count);
            }
        }
    }

    std::vector<std::size_t> of_;
    const Score& how_;
    double total_;
    std::vector<Wide> wide_;
    std::vector<float> sum_, spare_, block_, own_;
    std::vector<Piece> pieces_;
};

}  // namespace

void upsample(const float* maps, Index batch, Index height, Index width, Index out_height, Index out_width,
              float* out) {
    const Grid grid(height, width, out_height, out_width);
    parallel(batch, 2.0 * static_cast<double>(batch * out_height * out_width), [&](Index begin, Index end) {
        Wide wide(grid);
        for (Index image = begin; image < end; ++image) {
            wide.fill(maps + image * height * width);
            for (Index y = 0; y < out_height; ++y)
                mix_rows(wide.top(y), wide.bottom(y), wide.between(y), out_width,
                         out + (image * out_height + y) * out_width);
        }
    });
}

void fused_score(const std::vector<Layer>& layers, Index batch, const Score& how, float* pixel_scores,
                 float* image_score) {
    std::vector<std::vector<float>> maps;  // [batch, height, width] of each layer: small beside the features
    std::vector<Grid> grids;
    std::vector<std::size_t> of;
    Index read = 0;
    for (const Layer& layer : layers) read += 2 * batch * layer.channels * layer.height * layer.width;
    for (const Layer& layer : layers) {
        maps.emplace_back(batch * layer.height * layer.width);
        cosine_map(layer, batch, how.eps, maps.back().data(), read);
        std::size_t g = how.combine == Combine::product ? grids.size() : 0;
        while (g < grids.size() && (grids[g].height != layer.height || grids[g].width != layer.width)) ++g;
        if (g == grids.size()) grids.emplace_back(layer.height, layer.width, how.height, how.width);
        of.push_back(g);
    }
    const Index pixels = how.height * how.width;
    parallel(batch, static_cast<double>(batch * pixels), [&](Index begin, Index end) {
        Scorer scorer(grids, of, how);
        std::vector<const float*> own(layers.size());
        for (Index image = begin; image < end; ++image) {
            for (std::size_t i = 0; i < layers.size(); ++i)
                own[i] = maps[i].data() + image * layers[i].height * layers[i].width;
            image_score[image] = scorer.score(own, pixel_scores ? pixel_scores + image * pixels : nullptr);
        }
    });
}

}  // namespace edge_ad

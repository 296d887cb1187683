// Difference maps and head inputs: norms, products and differences in one pass over the features.
//
// Sums of squares in float32 overflow or lose their digits for features beyond about 1e18 or below 1e-15. Positions
// whose sums tell so are computed once more in double, where the square of any float fits: see `redo_*`.
#include "kernels.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace edge_ad {
namespace {

constexpr Index kLanes = 16;        // positions (or channels, where they come last) summed side by side
constexpr Index kTile = 1024;       // positions summed before the next channels: their sums stay in the L1 cache
constexpr Index kTogether = 8;      // channels read at a time: more are more rows than a prefetcher follows
constexpr Index kKept = 1 << 20;    // products of a tile that wait in a cache for their lengths
constexpr Index kCached = 4 << 20;  // floats that a cache may still hold; asking for more ahead would only cost time
constexpr float kLarge = 1e37f;     // sums above may overflow on their way to the map
constexpr float kSmall = 1e-30f;    // sums below have lost digits
constexpr double kSmallEps = 1e-14;  // ... which matters only where eps is shorter than such a vector

// Four sums of each of 16 positions, next to each other: far apart they would compete for the same lines of the cache
// as the rows, which often lie a power of two apart.
struct alignas(64) Sums {
    float tt[kLanes], ss[kLanes], dd[kLanes], ts[kLanes];
};
using Tile = Sums[kTile / kLanes + 1];

// `count` positions cut into blocks of `lanes`, from a line of the cache on where that is possible: rows a power of two
// apart drive each other out of the cache before the next block could read the rest of a line. The first and the last
// block overlap their neighbours where the ends need it; a position summed twice gets the same result twice.
struct Blocks {
    Index count, lanes, shift, number;

    Blocks(const float* row, Index positions) : count(positions), lanes(std::min(kLanes, positions)) {
        shift = -static_cast<Index>(reinterpret_cast<std::uintptr_t>(row) / sizeof(float) % kLanes);
        if (count <= kLanes) shift = 0;
        number = (count - shift + kLanes - 1) / kLanes;
    }
    Index start(Index block) const { return std::clamp<Index>(block * kLanes + shift, 0, count - lanes); }
};

// Adds `channels` channels, `stride` floats apart, of `lanes` positions. With `keep`, the products go to `kept`,
// `pitch` floats from channel to channel, and only squares are summed. Inlined where the numbers are constants.
template <bool keep>
__attribute__((always_inline)) inline void add_block(const float* __restrict t, const float* __restrict s, Index stride,
                                                     Index channels, Index lanes, Sums& __restrict sums,
                                                     float* __restrict kept, Index pitch) {
#pragma GCC ivdep  // rows of `kept` lie apart
    for (Index j = 0; j < lanes; ++j) {
        float tt = sums.tt[j], ss = sums.ss[j], dd = sums.dd[j], ts = sums.ts[j];
        float tt2 = 0, ss2 = 0, dd2 = 0, ts2 = 0;  // two chains of additions, so that neither waits for the other
#pragma GCC unroll 8
        for (Index c = 0; c + 2 <= channels; c += 2) {
            const float a = t[j + c * stride], b = s[j + c * stride], d = a - b;
            const float a2 = t[j + (c + 1) * stride], b2 = s[j + (c + 1) * stride], d2 = a2 - b2;
            tt += a * a, ss += b * b, tt2 += a2 * a2, ss2 += b2 * b2;
            if (keep)
                kept[j + c * pitch] = a * b, kept[j + (c + 1) * pitch] = a2 * b2;
            else
                dd += d * d, ts += a * b, dd2 += d2 * d2, ts2 += a2 * b2;
        }
        if (channels % 2 == 1) {
            const float a = t[j + (channels - 1) * stride], b = s[j + (channels - 1) * stride], d = a - b;
            tt += a * a, ss += b * b;
            if (keep)
                kept[j + (channels - 1) * pitch] = a * b;
            else
                dd += d * d, ts += a * b;
        }
        sums.tt[j] = tt + tt2, sums.ss[j] = ss + ss2;
        if (!keep) sums.dd[j] = dd + dd2, sums.ts[j] = ts + ts2;
    }
}

// Asks for what lies `floats` further on, into the L2 cache. Nothing is read, so that it may lie past the end.
__attribute__((always_inline)) inline void fetch(const float* from, Index floats) {
    const auto address = reinterpret_cast<std::uintptr_t>(from) + floats * sizeof(float);
    __builtin_prefetch(reinterpret_cast<const void*>(address), 0, 2);
}

// ... and of every block, asking for the lines `ahead` of each. Inlined into those that follow, each with its number
// of channels.
template <bool keep>
__attribute__((always_inline)) inline void add_blocks(const float* t, const float* s, Index stride, Index channels,
                                                      Index ahead, const Blocks& blocks, Sums* sums, float* kept,
                                                      Index pitch) {
    if (blocks.lanes < kLanes) return add_block<keep>(t, s, stride, channels, blocks.lanes, sums[0], kept, pitch);
    add_block<keep>(t, s, stride, channels, kLanes, sums[0], kept, pitch);
    for (Index block = 1, at = kLanes + blocks.shift; block < blocks.number - 1; ++block, at += kLanes) {
        if (ahead != 0)
            for (Index c = 0; c < channels; ++c)
                fetch(t + at + c * stride, ahead), fetch(s + at + c * stride, ahead);
        add_block<keep>(t + at, s + at, stride, channels, kLanes, sums[block], kept + at, pitch);
    }
    const Index last = blocks.number - 1, at = blocks.start(last);
    if (last > 0) add_block<keep>(t + at, s + at, stride, channels, kLanes, sums[last], kept + at, pitch);
}

EDGE_AD_CLONES
void add_channels8(const float* t, const float* s, Index stride, Index ahead, const Blocks& blocks, Sums* sums) {
    add_blocks<false>(t, s, stride, kTogether, ahead, blocks, sums, nullptr, 0);
}

EDGE_AD_CLONES
void add_channel(const float* t, const float* s, const Blocks& blocks, Sums* sums) {
    add_blocks<false>(t, s, 0, 1, 0, blocks, sums, nullptr, 0);
}

EDGE_AD_CLONES
void keep_channels8(const float* t, const float* s, Index stride, Index ahead, const Blocks& blocks, Sums* sums,
                    float* kept, Index pitch) {
    add_blocks<true>(t, s, stride, kTogether, ahead, blocks, sums, kept, pitch);
}

EDGE_AD_CLONES
void keep_channel(const float* t, const float* s, const Blocks& blocks, Sums* sums, float* kept) {
    add_blocks<true>(t, s, 0, 1, 0, blocks, sums, kept, 0);
}

// All channels; their products too if there is a place to keep them. Reading a line of each of sixteen rows in turn,
// the processor doesn't foresee the rows after them: these are asked for, unless `next` is 0 (see next_tile).
void add_all(const float* t, const float* s, Index channels, Index stride, Index next, const Blocks& blocks, Sums* sums,
             float* kept = nullptr, Index pitch = 0) {
    std::fill_n(sums, blocks.number, Sums{});
    Index c = 0;
    for (; c + kTogether <= channels; c += kTogether) {
        const Index ahead = c + 2 * kTogether <= channels ? kTogether * stride : next - c * stride;
        const float *of_t = t + c * stride, *of_s = s + c * stride;
        if (kept == nullptr)
            add_channels8(of_t, of_s, stride, next == 0 ? 0 : ahead, blocks, sums);
        else
            keep_channels8(of_t, of_s, stride, next == 0 ? 0 : ahead, blocks, sums, kept + c * pitch, pitch);
    }
    for (; c < channels; ++c)
        if (kept == nullptr)
            add_channel(t + c * stride, s + c * stride, blocks, sums);
        else
            keep_channel(t + c * stride, s + c * stride, blocks, sums, kept + c * pitch);
}

// Where the tile after the one at position `first` starts, from that one's start; 0 if all floats that the call touches
// may be in a cache.
Index next_tile(Index first, Index tile, Index channels, Index pixels, Index touched) {
    if (touched <= kCached) return 0;
    return first + tile < pixels ? tile : channels * pixels - first;
}

// The same sums where one position's channels lie together.
EDGE_AD_CLONES
void add_position(const float* t, const float* s, Index channels, Sums& sums, Index lane) {
    float tt[kLanes] = {}, ss[kLanes] = {}, dd[kLanes] = {}, ts[kLanes] = {};
    Index c = 0;
    for (; c + kLanes <= channels; c += kLanes)
        for (Index j = 0; j < kLanes; ++j) {
            const float a = t[c + j], b = s[c + j], d = a - b;
            tt[j] += a * a, ss[j] += b * b, dd[j] += d * d, ts[j] += a * b;
        }
    for (Index j = 0; c < channels; ++c, ++j) {
        const float a = t[c], b = s[c], d = a - b;
        tt[j] += a * a, ss[j] += b * b, dd[j] += d * d, ts[j] += a * b;
    }
    for (Index half = kLanes / 2; half > 0; half /= 2)
        for (Index j = 0; j < half; ++j) {
            tt[j] += tt[j + half], ss[j] += ss[j + half];
            dd[j] += dd[j + half], ts[j] += ts[j + half];
        }
    sums.tt[lane] = tt[0], sums.ss[lane] = ss[0], sums.dd[lane] = dd[0], sums.ts[lane] = ts[0];
}

// Whether a sum of squares can't be used. `small` is 0 where short vectors don't matter. True for NaN.
bool is_odd(float sum, float small) { return !(sum <= kLarge) | (sum < small); }
float small_for(double eps) { return eps < kSmallEps ? kSmall : 0.f; }

EDGE_AD_CLONES
int any_odd(const Sums& sums, Index lanes, float small) {
    int odd = 0;
    for (Index j = 0; j < lanes; ++j) odd |= is_odd(sums.tt[j], small) | is_odd(sums.ss[j], small);
    return odd;
}

// |t̂ - ŝ|² / 2 from the sums. Between vectors of like length, |t - s|² - (|t| - |s|)² keeps the digits that
// 1 - cos would cancel; elsewhere the plain form is as good. Comparisons are turned so that NaN passes through.
EDGE_AD_CLONES
void finish(const Sums& sums, Index lanes, float eps, float* map) {
    for (Index j = 0; j < lanes; ++j) {
        const float t = std::sqrt(sums.tt[j]), s = std::sqrt(sums.ss[j]);
        const float nt = t < eps ? eps : t, ns = s < eps ? eps : s;
        const float a = t / nt, b = s / ns, gap = nt - ns;
        const float near = (sums.dd[j] - gap * gap) / (2.f * nt * ns);
        const float plain = 0.5f * (a * a + b * b) - sums.ts[j] / nt / ns;
        const bool alike = (t >= eps) & (s >= eps) & (t <= 2.f * s) & (s <= 2.f * t);
        const float value = alike ? near : plain;
        map[j] = value < 0.f ? 0.f : value;
    }
}

// One position of any length, in double; channels lie `stride` floats apart.
struct Exact {
    double nt, ns, map, cosine;  // the cosine counts as 1 where the student's length is below eps

    Exact(const float* t, const float* s, Index channels, Index stride, double eps) {
        double tt = 0, ss = 0, ts = 0;
        for (Index c = 0; c < channels; ++c) {
            const double a = t[c * stride], b = s[c * stride];
            tt += a * a, ss += b * b, ts += a * b;
        }
        const double length_t = std::sqrt(tt), length_s = std::sqrt(ss);
        nt = length_t < eps ? eps : length_t, ns = length_s < eps ? eps : length_s;
        const double a = length_t / nt, b = length_s / ns;  // NaN for infinite lengths
        const double value = 0.5 * (a * a + b * b) - ts / nt / ns;
        map = value < 0 ? 0 : value;
        cosine = length_s < eps ? 1 : ts / nt / ns;
    }
};

void redo_map(const float* t, const float* s, Index channels, Index stride, Index step, const Sums& sums, Index lanes,
              double eps, float* map) {
    for (Index j = 0; j < lanes; ++j)
        if (is_odd(sums.tt[j], small_for(eps)) || is_odd(sums.ss[j], small_for(eps)))
            map[j] = static_cast<float>(Exact(t + j * step, s + j * step, channels, stride, eps).map);
}

void redo_products(const float* t, const float* s, Index channels, Index stride, const Sums& sums, Index lanes,
                   double eps, float* product) {
    for (Index j = 0; j < lanes; ++j) {
        if (!is_odd(sums.tt[j], small_for(eps)) && !is_odd(sums.ss[j], small_for(eps))) continue;
        const Exact exact(t + j, s + j, channels, stride, eps);
        const bool bad = !std::isfinite(exact.nt) || !std::isfinite(exact.ns);
        for (Index c = 0; c < channels; ++c) {
            const double a = t[j + c * stride] / exact.nt, b = s[j + c * stride] / exact.ns;
            const double whole = static_cast<double>(channels) * a * b;
            product[j + c * stride] = bad ? std::numeric_limits<float>::quiet_NaN() : static_cast<float>(whole);
        }
    }
}

// The gradient of the map in the student's features is of_s · s - of_t · t: grad / |s| · (<t̂, ŝ> ŝ - t̂). Below eps the
// length is constant, and <t̂, ŝ> counts as 1.
EDGE_AD_CLONES
void gradient_of(const Sums& sums, Index lanes, float eps, const float* grad, float* of_t, float* of_s) {
    for (Index j = 0; j < lanes; ++j) {
        const float t = std::sqrt(sums.tt[j]), s = std::sqrt(sums.ss[j]);
        const float nt = t < eps ? eps : t, ns = s < eps ? eps : s;
        const float cosine = s < eps ? 1.f : sums.ts[j] / nt / ns;
        of_t[j] = grad[j] / ns / nt, of_s[j] = grad[j] * cosine / ns / ns;
    }
}

EDGE_AD_CLONES
void write_gradient(const float* t, const float* s, const float* of_t, const float* of_s, Index count, float* out) {
    for (Index i = 0; i < count; ++i) out[i] = s[i] * of_s[i] - t[i] * of_t[i];
}

void redo_gradient(const float* t, const float* s, Index channels, Index stride, const Sums& sums, Index lanes,
                   double eps, const float* grad, float* out) {
    for (Index j = 0; j < lanes; ++j) {
        if (!is_odd(sums.tt[j], small_for(eps)) && !is_odd(sums.ss[j], small_for(eps))) continue;
        const Exact exact(t + j, s + j, channels, stride, eps);
        for (Index c = 0; c < channels; ++c) {
            const double a = t[j + c * stride] / exact.nt, b = s[j + c * stride] / exact.ns;
            out[j + c * stride] = static_cast<float>(grad[j] / exact.ns * (exact.cosine * b - a));
        }
    }
}

// C / (|t| |s|). Where neither sum is odd, this is in range, and so are the products that it scales.
EDGE_AD_CLONES
void scales_of(const Sums& sums, Index lanes, float eps, float channels, float* scale) {
    for (Index j = 0; j < lanes; ++j) {
        const float t = std::sqrt(sums.tt[j]), s = std::sqrt(sums.ss[j]);
        scale[j] = channels / (t < eps ? eps : t) / (s < eps ? eps : s);
    }
}

EDGE_AD_CLONES
void write_products(const float* t, const float* s, const float* scale, Index count, float* out) {
    for (Index i = 0; i < count; ++i) out[i] = t[i] * s[i] * scale[i];
}

// The same from products, past the caches where the processor can: a line that is written whole isn't read before.
EDGE_AD_CLONES
void stream_scaled(const float* __restrict row, const float* __restrict scale, Index count, float* __restrict out) {
    Index i = 0;
#if defined(__SSE2__)
    const Index used = static_cast<Index>(reinterpret_cast<std::uintptr_t>(out) / sizeof(float) % kLanes);
    for (const Index start = std::min((kLanes - used) % kLanes, count); i < start; ++i) out[i] = row[i] * scale[i];
    for (; i + kLanes <= count; i += kLanes)
        for (Index j = i; j < i + kLanes; j += 4)
            _mm_stream_ps(out + j, _mm_mul_ps(_mm_loadu_ps(row + j), _mm_loadu_ps(scale + j)));
#endif
    for (; i < count; ++i) out[i] = row[i] * scale[i];
}

// Before another thread may read what was streamed.
void end_stream() {
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

}  // namespace

void cosine_map(const Layer& layer, Index batch, double eps, float* map, Index read) {
    const Index pixels = layer.height * layer.width, tiles = (pixels + kTile - 1) / kTile;
    const Index step = layer.channels_last ? layer.channels : 1, stride = layer.channels_last ? 1 : pixels;
    const Index features = 2 * batch * layer.channels * pixels, touched = std::max(features, read);
    parallel(batch * tiles, static_cast<double>(features), [&](Index begin, Index end) {
        Tile sums;
        for (Index part = begin; part < end; ++part) {
            const Index image = part / tiles, first = part % tiles * kTile, count = std::min(kTile, pixels - first);
            const Index start = image * layer.channels * pixels + first * step;
            const float *t = layer.teacher + start, *s = layer.student + start;
            float* out = map + image * pixels + first;
            const Blocks blocks(t, count);
            const Index next = next_tile(first, kTile, layer.channels, pixels, touched);
            if (!layer.channels_last) add_all(t, s, layer.channels, stride, next, blocks, sums);
            for (Index block = 0; block < blocks.number; ++block) {
                const Index at = blocks.start(block);
                if (layer.channels_last)
                    for (Index j = 0; j < blocks.lanes; ++j)
                        add_position(t + (at + j) * step, s + (at + j) * step, layer.channels, sums[block], j);
                finish(sums[block], blocks.lanes, static_cast<float>(eps), out + at);
                if (any_odd(sums[block], blocks.lanes, small_for(eps)))
                    redo_map(t + at * step, s + at * step, layer.channels, stride, step, sums[block], blocks.lanes, eps,
                             out + at);
            }
        }
    });
}

void cosine_map_gradient(const float* teacher, const float* student, const float* grad, Index batch, Index channels,
                         Index pixels, double eps, float* gradient) {
    const Index tiles = (pixels + kTile - 1) / kTile, touched = 3 * batch * channels * pixels;
    parallel(batch * tiles, static_cast<double>(touched), [&](Index begin, Index end) {
        Tile sums;
        alignas(64) float of_t[kTile], of_s[kTile];
        for (Index part = begin; part < end; ++part) {
            const Index image = part / tiles, first = part % tiles * kTile, count = std::min(kTile, pixels - first);
            const Index start = image * channels * pixels + first;
            const float *t = teacher + start, *s = student + start, *g = grad + image * pixels + first;
            const Blocks blocks(t, count);
            const Index next = next_tile(first, kTile, channels, pixels, touched);
            add_all(t, s, channels, pixels, next, blocks, sums);
            for (Index block = 0; block < blocks.number; ++block) {
                const Index at = blocks.start(block);
                gradient_of(sums[block], blocks.lanes, static_cast<float>(eps), g + at, of_t + at, of_s + at);
            }
            for (Index c = 0; c < channels; ++c)
                write_gradient(t + c * pixels, s + c * pixels, of_t, of_s, count, gradient + start + c * pixels);
            for (Index block = 0; block < blocks.number; ++block) {
                const Index at = blocks.start(block);
                if (any_odd(sums[block], blocks.lanes, small_for(eps)))
                    redo_gradient(t + at, s + at, channels, pixels, sums[block], blocks.lanes, eps, g + at,
                                  gradient + start + at);
            }
        }
    });
}

// Features that no cache holds are read once: their products wait in a small place of their own for the lengths.
void head_input(const float* teacher, const float* student, Index batch, Index channels, Index pixels, double eps,
                float* product) {
    const Index touched = 3 * batch * channels * pixels;
    const bool large = touched > kCached;
    const Index tile = large ? std::clamp(kKept / channels / kLanes * kLanes, kLanes, kTile) : kTile;
    const Index tiles = (pixels + tile - 1) / tile;
    const Index pitch = std::min(tile, pixels) + kLanes;  // rows a power of two apart would share the cache's lines
    parallel(batch * tiles, static_cast<double>(touched), [&](Index begin, Index end) {
        Tile sums;
        alignas(64) float scale[kTile];
        const std::unique_ptr<float[]> kept(large ? new float[channels * pitch] : nullptr);
        for (Index part = begin; part < end; ++part) {
            const Index first = part % tiles * tile, count = std::min(tile, pixels - first);
            const Index start = part / tiles * channels * pixels + first;
            const Index next = next_tile(first, tile, channels, pixels, touched);
            const float *t = teacher + start, *s = student + start;
            float* out = product + start;
            const Blocks blocks(t, count);
            add_all(t, s, channels, pixels, next, blocks, sums, kept.get(), pitch);
            for (Index block = 0; block < blocks.number; ++block)
                scales_of(sums[block], blocks.lanes, static_cast<float>(eps), static_cast<float>(channels),
                          scale + blocks.start(block));
            for (Index c = 0; c < channels; ++c)
                if (large)
                    stream_scaled(kept.get() + c * pitch, scale, count, out + c * pixels);
                else
                    write_products(t + c * pixels, s + c * pixels, scale, count, out + c * pixels);
            for (Index block = 0; block < blocks.number; ++block) {
                const Index at = blocks.start(block);
                if (any_odd(sums[block], blocks.lanes, small_for(eps)))
                    redo_products(t + at, s + at, channels, pixels, sums[block], blocks.lanes, eps, out + at);
            }
        }
        if (large) end_stream();
    });
}

}  // namespace edge_ad

// Difference maps and head inputs: norms, products and differences in one pass over the features.
#include "kernels.h"

#include <algorithm>
#include <cmath>

namespace edge_ad {
namespace {

constexpr Index kTile = 256;  // positions summed together: their sums stay in the first-level cache
constexpr Index kLanes = 16;

struct Sums {
    alignas(64) float tt[kTile], ss[kTile], dd[kTile], ts[kTile];
};

// Adds four channels of `count` positions; `stride` floats lie between channels.
EDGE_AD_CLONES
void add_channels4(const float* t, const float* s, Index stride, Index count, Sums& sums) {
    for (Index i = 0; i < count; ++i) {
        float tt = sums.tt[i], ss = sums.ss[i], dd = sums.dd[i], ts = sums.ts[i];
        const float t0 = t[i], t1 = t[i + stride], t2 = t[i + 2 * stride], t3 = t[i + 3 * stride];
        const float s0 = s[i], s1 = s[i + stride], s2 = s[i + 2 * stride], s3 = s[i + 3 * stride];
        const float d0 = t0 - s0, d1 = t1 - s1, d2 = t2 - s2, d3 = t3 - s3;
        tt += t0 * t0 + t1 * t1 + (t2 * t2 + t3 * t3);
        ss += s0 * s0 + s1 * s1 + (s2 * s2 + s3 * s3);
        dd += d0 * d0 + d1 * d1 + (d2 * d2 + d3 * d3);
        ts += t0 * s0 + t1 * s1 + (t2 * s2 + t3 * s3);
        sums.tt[i] = tt, sums.ss[i] = ss, sums.dd[i] = dd, sums.ts[i] = ts;
    }
}

EDGE_AD_CLONES
void add_channel(const float* t, const float* s, Index count, Sums& sums) {
    for (Index i = 0; i < count; ++i) {
        const float d = t[i] - s[i];
        sums.tt[i] += t[i] * t[i];
        sums.ss[i] += s[i] * s[i];
        sums.dd[i] += d * d;
        sums.ts[i] += t[i] * s[i];
    }
}

void add_all(const float* t, const float* s, Index channels, Index stride, Index count, Sums& sums) {
    std::fill_n(sums.tt, count, 0.f), std::fill_n(sums.ss, count, 0.f);
    std::fill_n(sums.dd, count, 0.f), std::fill_n(sums.ts, count, 0.f);
    Index c = 0;
    for (; c + 4 <= channels; c += 4) add_channels4(t + c * stride, s + c * stride, stride, count, sums);
    for (; c < channels; ++c) add_channel(t + c * stride, s + c * stride, count, sums);
}

// The same sums where one position's channels lie together.
EDGE_AD_CLONES
void add_position(const float* t, const float* s, Index channels, Sums& sums, Index i) {
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
        for (Index j = 0; j < half; ++j) tt[j] += tt[j + half], ss[j] += ss[j + half], dd[j] += dd[j + half], ts[j] += ts[j + half];
    sums.tt[i] = tt[0], sums.ss[i] = ss[0], sums.dd[i] = dd[0], sums.ts[i] = ts[0];
}

// |t̂ - ŝ|² / 2 from the sums. Between vectors of like length, |t - s|² - (|t| - |s|)² keeps the digits that
// 1 - cos would cancel; elsewhere the plain form is as good. Comparisons are turned so that NaN passes through.
EDGE_AD_CLONES
void finish(const Sums& sums, Index count, float eps, float* map) {
    for (Index i = 0; i < count; ++i) {
        const float tt = sums.tt[i], ss = sums.ss[i];
        const float t = std::sqrt(tt), s = std::sqrt(ss);
        const float nt = t < eps ? eps : t, ns = s < eps ? eps : s;
        const float gap = nt - ns, both = nt * ns;
        const float near = (sums.dd[i] - gap * gap) / (2.f * both);
        const float plain = 0.5f * (tt / (nt * nt) + ss / (ns * ns)) - sums.ts[i] / both;
        const bool alike = (t >= eps) & (s >= eps) & (t <= 2.f * s) & (s <= 2.f * t);
        const float value = alike ? near : plain;
        map[i] = value < 0.f ? 0.f : value;
    }
}

EDGE_AD_CLONES
void write_products(const float* t, const float* s, const float* scale, Index count, float* out) {
    for (Index i = 0; i < count; ++i) out[i] = t[i] * s[i] * scale[i];
}

}  // namespace

void cosine_map(const Layer& layer, Index batch, float eps, float* map) {
    const Index pixels = layer.height * layer.width, tiles = (pixels + kTile - 1) / kTile;
    const double work = 2.0 * static_cast<double>(batch * layer.channels * pixels);
    parallel(batch * tiles, work, [&](Index begin, Index end) {
        Sums sums;
        for (Index part = begin; part < end; ++part) {
            const Index image = part / tiles, first = part % tiles * kTile, count = std::min(kTile, pixels - first);
            const Index start = image * layer.channels * pixels + first * (layer.channels_last ? layer.channels : 1);
            const float *t = layer.teacher + start, *s = layer.student + start;
            if (layer.channels_last)
                for (Index i = 0; i < count; ++i)
                    add_position(t + i * layer.channels, s + i * layer.channels, layer.channels, sums, i);
            else
                add_all(t, s, layer.channels, pixels, count, sums);
            finish(sums, count, eps, map + image * pixels + first);
        }
    });
}

void head_input(const float* teacher, const float* student, Index batch, Index channels, Index pixels, float eps,
                float* product) {
    const Index tiles = (pixels + kTile - 1) / kTile;
    const double work = 3.0 * static_cast<double>(batch * channels * pixels);
    parallel(batch * tiles, work, [&](Index begin, Index end) {
        Sums sums;
        alignas(64) float scale[kTile];
        for (Index part = begin; part < end; ++part) {
            const Index first = part % tiles * kTile, count = std::min(kTile, pixels - first);
            const Index start = part / tiles * channels * pixels + first;
            add_all(teacher + start, student + start, channels, pixels, count, sums);
            for (Index i = 0; i < count; ++i) {
                const float t = std::sqrt(sums.tt[i]), s = std::sqrt(sums.ss[i]);
                scale[i] = static_cast<float>(channels) / ((t < eps ? eps : t) * (s < eps ? eps : s));
            }
            for (Index c = 0; c < channels; ++c) {
                const Index at = start + c * pixels;
                write_products(teacher + at, student + at, scale, count, product + at);
            }
        }
    });
}

}  // namespace edge_ad

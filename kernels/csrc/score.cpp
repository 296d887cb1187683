// From feature maps to pixel scores and image scores, image by image, so that everything between stays in the cache.
#include "kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

namespace edge_ad {
namespace {

struct Axis {  // bilinear taps along one axis: between[i] of the way from low[i] to high[i]
    std::vector<std::int32_t> low, high;
    std::vector<float> between;

    Axis(Index length, Index out) : low(out), high(out), between(out) {
        const float scale = static_cast<float>(length) / static_cast<float>(out);
        for (Index i = 0; i < out; ++i) {
            const float position = std::max((static_cast<float>(i) + 0.5f) * scale - 0.5f, 0.f);
            low[i] = static_cast<std::int32_t>(std::min<Index>(static_cast<Index>(position), length - 1));
            high[i] = static_cast<std::int32_t>(std::min<Index>(low[i] + 1, length - 1));
            between[i] = position - static_cast<float>(low[i]);
        }
    }
};

EDGE_AD_CLONES
void widen_row(const float* row, const std::int32_t* low, const std::int32_t* high, const float* between, Index out,
               float* wide) {
    for (Index x = 0; x < out; ++x) wide[x] = row[low[x]] * (1.f - between[x]) + row[high[x]] * between[x];
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

// A map with every row at full width; rows of the result are mixed from two of them.
struct Wide {
    Axis down;
    std::vector<float> rows;
    Index width;

    Wide(const float* map, Index height, Index map_width, Index out_height, Index out_width)
        : down(height, out_height), rows(height * out_width), width(out_width) {
        const Axis across(map_width, out_width);
        for (Index y = 0; y < height; ++y)
            widen_row(map + y * map_width, across.low.data(), across.high.data(), across.between.data(), out_width,
                      rows.data() + y * out_width);
    }
    const float* top(Index y) const { return rows.data() + down.low[y] * width; }
    const float* bottom(Index y) const { return rows.data() + down.high[y] * width; }
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

// What is upsampled for one image: weighted sums of the maps that share a size, for upsampling is linear; a product
// upsamples each map alone.
std::vector<Wide> widen(const std::vector<Layer>& layers, Index image, const Score& how) {
    double total = 0;
    for (const double weight : how.weights) total += weight;
    std::vector<Wide> wide;
    std::map<std::pair<Index, Index>, std::vector<float>> sums;
    std::vector<float> map;
    for (std::size_t i = 0; i < layers.size(); ++i) {
        Layer layer = layers[i];
        const Index pixels = layer.height * layer.width, start = image * layer.channels * pixels;
        layer.teacher += start, layer.student += start;
        map.resize(pixels);
        cosine_map(layer, 1, how.eps, map.data());
        if (how.combine == Combine::product) {
            wide.emplace_back(map.data(), layer.height, layer.width, how.height, how.width);
        } else {
            auto& sum = sums[{layer.height, layer.width}];
            sum.resize(pixels);
            const double weight = how.combine == Combine::mean ? how.weights[i] / total : how.weights[i];
            add_scaled(map.data(), static_cast<float>(weight), pixels, sum.data());
        }
    }
    for (const auto& [size, sum] : sums)
        wide.emplace_back(sum.data(), size.first, size.second, how.height, how.width);
    return wide;
}

void write_row(const std::vector<Wide>& wide, const Score& how, Index y, float* row, float* spare) {
    if (how.combine == Combine::product) {
        std::fill_n(row, how.width, 1.f);
        for (std::size_t i = 0; i < wide.size(); ++i) {
            mix_rows(wide[i].top(y), wide[i].bottom(y), wide[i].down.between[y], how.width, spare);
            multiply_power(spare, static_cast<float>(how.weights[i]), how.width, row);
        }
        return;
    }
    mix_rows(wide[0].top(y), wide[0].bottom(y), wide[0].down.between[y], how.width, row);
    for (std::size_t i = 1; i < wide.size(); ++i)
        add_mixed_rows(wide[i].top(y), wide[i].bottom(y), wide[i].down.between[y], how.width, row);
}

float score_image(const std::vector<Layer>& layers, Index image, const Score& how, float* pixel_scores) {
    const std::vector<Wide> wide = widen(layers, image, how);
    const bool whole = pixel_scores != nullptr || !how.gaussian.empty();  // else a row at a time is enough
    std::vector<float> spare(how.width), own(pixel_scores ? 0 : whole ? how.height * how.width : how.width);
    float* map = pixel_scores ? pixel_scores : own.data();
    TopK top(how.k);
    for (Index y = 0; y < how.height; ++y) {
        float* row = whole ? map + y * how.width : map;
        write_row(wide, how, y, row, spare.data());
        if (how.gaussian.empty()) top.add(row, how.width);
    }
    if (!how.gaussian.empty()) {
        blur(how.gaussian, how.height, how.width, map);
        top.add(map, how.height * how.width);
    }
    return top.mean();
}

}  // namespace

void upsample(const float* maps, Index batch, Index height, Index width, Index out_height, Index out_width,
              float* out) {
    parallel(batch, 2.0 * static_cast<double>(batch * out_height * out_width), [&](Index begin, Index end) {
        for (Index image = begin; image < end; ++image) {
            const Wide wide(maps + image * height * width, height, width, out_height, out_width);
            for (Index y = 0; y < out_height; ++y)
                mix_rows(wide.top(y), wide.bottom(y), wide.down.between[y], out_width,
                         out + (image * out_height + y) * out_width);
        }
    });
}

void fused_score(const std::vector<Layer>& layers, Index batch, const Score& how, float* pixel_scores,
                 float* image_score) {
    const Index pixels = how.height * how.width;
    double work = static_cast<double>(batch * pixels);
    for (const Layer& layer : layers) work += 2.0 * static_cast<double>(batch * layer.channels * layer.height * layer.width);
    parallel(batch, work, [&](Index begin, Index end) {
        for (Index image = begin; image < end; ++image)
            image_score[image] = score_image(layers, image, how, pixel_scores ? pixel_scores + image * pixels : nullptr);
    });
}

}  // namespace edge_ad

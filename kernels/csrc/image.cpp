// From a camera's frame to the network's input: Pillow's 8-bit bilinear resize, then a table for the normalisation.
#include "kernels.h"

#include <algorithm>

namespace edge_ad {
namespace {

constexpr int kPrecision = 22;
constexpr std::int32_t kHalf = 1 << (kPrecision - 1);

std::uint8_t clip(std::int32_t sum) { return static_cast<std::uint8_t>(std::clamp(sum >> kPrecision, 0, 255)); }

template <int channels>
void shrink_row(const std::uint8_t* row, const Taps& taps, Index length, Index out, std::uint8_t* small) {
    for (Index x = 0; x < out; ++x) {
        const Index first = taps.first[x], count = std::min(taps.count, length - first);
        const std::int32_t* weight = taps.weight + x * taps.count;
        const std::uint8_t* pixel = row + first * channels;
        std::int32_t sum[channels];
        std::fill_n(sum, channels, kHalf);
        for (Index i = 0; i < count; ++i, pixel += channels)
            for (int c = 0; c < channels; ++c) sum[c] += pixel[c] * weight[i];
        for (int c = 0; c < channels; ++c) small[x * channels + c] = clip(sum[c]);
    }
}

EDGE_AD_CLONES
void add_row(const std::uint8_t* row, std::int32_t weight, Index count, std::int32_t* sums) {
    for (Index i = 0; i < count; ++i) sums[i] += row[i] * weight;
}

}  // namespace

void preprocess(const std::uint8_t* frame, Index row_stride, Index height, Index width, Index channels, bool bgr,
                const Taps& across, const Taps& down, const float* levels, Index out_height, Index out_width,
                float* out) {
    const Index line = out_width * channels;
    std::vector<std::uint8_t> narrow(height * line);
    parallel(height, static_cast<double>(height * width * channels), [&](Index begin, Index end) {
        for (Index y = begin; y < end; ++y) {
            const auto shrink = channels == 3 ? shrink_row<3> : shrink_row<1>;
            shrink(frame + y * row_stride, across, width, out_width, narrow.data() + y * line);
        }
    });
    std::vector<std::int32_t> sums(line);
    const Index pixels = out_height * out_width;
    for (Index y = 0; y < out_height; ++y) {
        const Index first = down.first[y], count = std::min(down.count, height - first);
        std::fill(sums.begin(), sums.end(), kHalf);
        for (Index i = 0; i < count; ++i)
            if (const std::int32_t weight = down.weight[y * down.count + i])
                add_row(narrow.data() + (first + i) * line, weight, line, sums.data());
        for (Index c = 0; c < 3; ++c) {
            const Index source = channels == 1 ? 0 : bgr ? 2 - c : c;
            for (Index x = 0; x < out_width; ++x)
                out[c * pixels + y * out_width + x] = levels[c * 256 + clip(sums[x * channels + source])];
        }
    }
}

}  // namespace edge_ad

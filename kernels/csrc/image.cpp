// From a camera's frame to the network's input: Pillow's 8-bit bilinear resize, then a table for the normalisation.
#include "kernels.h"

#include <algorithm>

namespace edge_ad {
namespace {

constexpr int kPrecision = 22;
constexpr std::int32_t kHalf = 1 << (kPrecision - 1);

std::uint8_t clip(std::int32_t sum) { return static_cast<std::uint8_t>(std::clamp(sum >> kPrecision, 0, 255)); }

constexpr Index kRows = 16;  // shrunk side by side, so that a vector register holds one byte of each

// Byte i of every row next to each other, and back. `stride` bytes between rows.
EDGE_AD_CLONES
void gather_rows(const std::uint8_t* __restrict rows, Index stride, Index count, std::uint8_t* __restrict bytes) {
    for (Index i = 0; i < count; ++i)
        for (Index r = 0; r < kRows; ++r) bytes[i * kRows + r] = rows[r * stride + i];
}

EDGE_AD_CLONES
void spread_rows(const std::uint8_t* __restrict bytes, Index count, Index rows, Index stride,
                 std::uint8_t* __restrict out) {
    for (Index r = 0; r < rows; ++r)
        for (Index i = 0; i < count; ++i) out[r * stride + i] = bytes[i * kRows + r];
}

template <int channels>
__attribute__((always_inline)) inline void shrink(const std::uint8_t* __restrict bytes, const Taps& taps, Index length,
                                                  Index out, std::uint8_t* __restrict small) {
    constexpr Index pixel = channels * kRows;
    for (Index x = 0; x < out; ++x) {
        const Index first = taps.first[x], count = std::min(taps.count, length - first);
        const std::int32_t* weight = taps.weight + x * taps.count;
        for (Index c = 0; c < channels; ++c) {  // one after another: the sums of one stay in a register
            const std::uint8_t* from = bytes + first * pixel + c * kRows;
            std::int32_t sum[kRows];
            for (Index r = 0; r < kRows; ++r) sum[r] = kHalf;
            for (Index i = 0; i < count; ++i, from += pixel)
                for (Index r = 0; r < kRows; ++r) sum[r] += from[r] * weight[i];
            for (Index r = 0; r < kRows; ++r) small[x * pixel + c * kRows + r] = clip(sum[r]);
        }
    }
}

EDGE_AD_CLONES
void shrink_color(const std::uint8_t* bytes, const Taps& taps, Index length, Index out, std::uint8_t* small) {
    shrink<3>(bytes, taps, length, out, small);
}

EDGE_AD_CLONES
void shrink_gray(const std::uint8_t* bytes, const Taps& taps, Index length, Index out, std::uint8_t* small) {
    shrink<1>(bytes, taps, length, out, small);
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
    const Index blocks = (height + kRows - 1) / kRows, row = width * channels;
    parallel(blocks, static_cast<double>(height * row), [&](Index begin, Index end) {
        std::vector<std::uint8_t> last, bytes(row * kRows), small(line * kRows);
        for (Index block = begin; block < end; ++block) {
            const Index y = block * kRows, rows = std::min(kRows, height - y);
            const std::uint8_t* from = frame + y * row_stride;
            Index stride = row_stride;
            if (rows < kRows) {  // the frame has no more: the rest of the block is zero and goes nowhere
                last.assign(row * kRows, 0);
                for (Index r = 0; r < rows; ++r) std::copy_n(from + r * row_stride, row, last.data() + r * row);
                from = last.data(), stride = row;
            }
            gather_rows(from, stride, row, bytes.data());
            (channels == 3 ? shrink_color : shrink_gray)(bytes.data(), across, width, out_width, small.data());
            spread_rows(small.data(), line, rows, line, narrow.data() + y * line);
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

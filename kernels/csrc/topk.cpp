// The mean of the k largest scores, exact, in one pass that keeps a few times k of them.
#include "kernels.h"

#include <algorithm>
#include <functional>
#include <limits>

namespace edge_ad {
namespace {

constexpr Index kBlock = 32;
constexpr Index kSlack = 256;

// Where the first block with a score above the bar or NaN starts, from `start` on; `count` or near it if there is none.
EDGE_AD_CLONES
Index next_above(const float* scores, Index start, Index count, float bar) {
    for (; start + kBlock <= count; start += kBlock) {
        int above = 0;
        for (Index i = 0; i < kBlock; ++i) above |= !(scores[start + i] <= bar);
        if (above) break;
    }
    return start;
}

}  // namespace

TopK::TopK(Index k) : k_(k), bar_(-std::numeric_limits<float>::infinity()) {
    kept_.reserve(static_cast<std::size_t>(2 * k + kSlack + kBlock));
}

void TopK::add(const float* scores, Index count) {
    for (Index start = next_above(scores, 0, count, bar_); start < count;
         start = next_above(scores, start + kBlock, count, bar_)) {
        const Index size = std::min(kBlock, count - start);
        const std::size_t before = kept_.size();
        kept_.resize(before + static_cast<std::size_t>(size));
        float* kept = kept_.data() + before;
        Index number = 0;
        for (Index i = start; i < start + size; ++i) {  // without a branch that can't be foreseen
            kept[number] = scores[i];
            number += scores[i] > bar_;
            nan_ |= scores[i] != scores[i];
        }
        kept_.resize(before + static_cast<std::size_t>(number));
        if (static_cast<Index>(kept_.size()) >= 2 * k_ + kSlack) shrink();
    }
}

void TopK::shrink() {
    if (static_cast<Index>(kept_.size()) <= k_) return;
    std::nth_element(kept_.begin(), kept_.begin() + (k_ - 1), kept_.end(), std::greater<>());
    kept_.resize(static_cast<std::size_t>(k_));
    bar_ = kept_.back();
}

float TopK::mean() {
    if (nan_) return std::numeric_limits<float>::quiet_NaN();
    shrink();
    double sum = 0;
    for (const float score : kept_) sum += score;
    if (static_cast<Index>(kept_.size()) < k_) sum += -std::numeric_limits<double>::infinity();  // none was above it
    return static_cast<float>(sum / static_cast<double>(k_));
}

void topk_mean(const float* scores, Index batch, Index pixels, Index k, float* mean) {
    parallel(batch, static_cast<double>(batch * pixels), [&](Index begin, Index end) {
        for (Index image = begin; image < end; ++image) {
            TopK top(k);
            top.add(scores + image * pixels, pixels);
            mean[image] = top.mean();
        }
    });
}

}  // namespace edge_ad

// The C++ kernels on plain pointers, without Python: module.cpp checks nothing more than edge_ad.kernels.dispatch did.
// Every array is contiguous float32 in the order its comment states. Nothing here prints, aborts or keeps state but
// for the number of threads.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#if defined(__linux__)
#include <features.h>
#endif

// One copy of a function for each instruction set, the best one chosen when the module is loaded. Plain loops inside.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && !defined(EDGE_AD_NO_CLONES)
#if __GNUC__ >= 12
#define EDGE_AD_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define EDGE_AD_CLONES __attribute__((target_clones("fma", "default")))
#endif
#else
#define EDGE_AD_CLONES
#endif

namespace edge_ad {

using Index = std::int64_t;

// threads.cpp
void set_threads(int count);
// Calls body(begin, end) over parts of 0..count, on several threads if `work` (in floats touched) is worth it.
void parallel(Index count, double work, const std::function<void(Index, Index)>& body);

// maps.cpp
struct Layer {  // one pair of feature maps [batch, channels, height, width], or channels last
    const float* teacher;
    const float* student;
    Index channels, height, width;
    bool channels_last;
};
// `read`: how many floats the caller reads, if not only these.
void cosine_map(const Layer& layer, Index batch, double eps, float* map, Index read = 0);
// Gradient of the map in the student's features [batch, channels, pixels], for grad [batch, pixels] of the map.
void cosine_map_gradient(const float* teacher, const float* student, const float* grad, Index batch, Index channels,
                         Index pixels, double eps, float* gradient);
void head_input(const float* teacher, const float* student, Index batch, Index channels, Index pixels, double eps,
                float* product);

// score.cpp
enum class Combine { mean, sum, product };
struct Score {
    Index height, width;
    Combine combine;
    std::vector<double> weights;   // one for each layer
    std::vector<float> gaussian;   // odd number of weights, or none
    Index k;
    double eps;
};
void upsample(const float* maps, Index batch, Index height, Index width, Index out_height, Index out_width, float* out);
// pixel_scores [batch, height, width] may be null; image_score [batch].
void fused_score(const std::vector<Layer>& layers, Index batch, const Score& how, float* pixel_scores,
                 float* image_score);

// topk.cpp
class TopK {  // the k largest of a stream of scores
public:
    explicit TopK(Index k);
    void add(const float* scores, Index count);
    float bar() const { return bar_; }  // scores up to here change nothing any more
    float mean();                       // NaN if any score was

private:
    void shrink();
    Index k_;
    float bar_;
    bool nan_ = false;
    std::vector<float> kept_;
};
void topk_mean(const float* scores, Index batch, Index pixels, Index k, float* mean);

// image.cpp
struct Taps {  // Pillow's fixed-point weights: out pixel i sums weight[i * count + j] * in[first[i] + j]
    const std::int32_t* first;
    const std::int32_t* weight;
    Index count;
};
// frame [height, width, channels] with `row_stride` bytes between rows; levels [3, 256]; out [3, out_height, out_width]
void preprocess(const std::uint8_t* frame, Index row_stride, Index height, Index width, Index channels, bool bgr,
                const Taps& across, const Taps& down, const float* levels, Index out_height, Index out_width,
                float* out);

// defects.cpp
struct Region {
    Index left, top, right, bottom;  // right and bottom are past the end
    Index area;
    float peak;
};
std::vector<Region> find_defects(const float* scores, Index height, Index width, double threshold, Index min_area);

}  // namespace edge_ad

// Prints the image score of fixed features: test_toolchains.py runs it on another processor.
#include "kernels.h"

#include <cmath>
#include <cstdio>

int main() {
    constexpr int channels = 7, side = 3, count = channels * side * side;
    std::vector<float> teacher(count), student(count);
    for (int i = 0; i < count; ++i) {
        teacher[i] = static_cast<float>(std::sin(i));
        student[i] = static_cast<float>(std::cos(3.0 * i));
    }
    const edge_ad::Layer layer{teacher.data(), student.data(), channels, side, side, false};
    const edge_ad::Score how{20, 20, edge_ad::Combine::mean, {1.0}, {}, 5, 1e-6f};
    float score = 0;
    edge_ad::fused_score({layer}, 1, how, nullptr, &score);
    std::printf("%.9g\n", static_cast<double>(score));
}

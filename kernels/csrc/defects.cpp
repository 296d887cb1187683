// 8-connected regions above a threshold, from runs of pixels joined row by row.
#include "kernels.h"

#include <algorithm>
#include <numeric>

namespace edge_ad {
namespace {

struct Run {
    Index row, start, stop;
    float peak;
};

Index root(std::vector<Index>& parent, Index run) {
    while (parent[run] != run) run = parent[run] = parent[parent[run]];
    return run;
}

}  // namespace

std::vector<Region> find_defects(const float* scores, Index height, Index width, double threshold, Index min_area) {
    std::vector<Run> runs;
    std::vector<Index> parent;
    Index before = 0, here = 0;  // runs of the row above start at `before` and end at `here`
    for (Index y = 0; y < height; ++y) {
        const float* row = scores + y * width;
        Index other = before;
        before = here;
        const Index above_end = here;
        for (Index x = 0; x < width; ++x) {
            if (!(row[x] > threshold)) continue;
            Run run{y, x, x, row[x]};
            while (run.stop < width && row[run.stop] > threshold) run.peak = std::max(run.peak, row[run.stop++]);
            x = run.stop;
            const Index index = static_cast<Index>(runs.size());
            runs.push_back(run);
            parent.push_back(index);
            while (other < above_end && runs[other].stop < run.start) ++other;
            for (Index i = other; i < above_end && runs[i].start <= run.stop; ++i)
                parent[root(parent, index)] = root(parent, i);
        }
        here = static_cast<Index>(runs.size());
    }
    std::vector<Index> place(runs.size(), -1);
    std::vector<Region> regions;
    for (std::size_t i = 0; i < runs.size(); ++i) {
        const Run& run = runs[i];
        Index& at = place[root(parent, static_cast<Index>(i))];
        if (at < 0) {
            at = static_cast<Index>(regions.size());
            regions.push_back({run.start, run.row, run.stop, run.row + 1, 0, run.peak});
        }
        Region& region = regions[at];
        region.left = std::min(region.left, run.start);
        region.right = std::max(region.right, run.stop);
        region.bottom = run.row + 1;
        region.area += run.stop - run.start;
        region.peak = std::max(region.peak, run.peak);
    }
    regions.erase(std::remove_if(regions.begin(), regions.end(), [&](const Region& r) { return r.area < min_area; }),
                  regions.end());
    return regions;
}

}  // namespace edge_ad

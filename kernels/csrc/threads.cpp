// Threads that live for one call: nothing survives a fork, and small work stays on the caller's thread.
#include "kernels.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <system_error>
#include <thread>

namespace edge_ad {
namespace {

constexpr double kFloatsPerThread = 1 << 19;  // below this, starting a thread costs more than it saves

std::atomic<int> limit{1};  // threads of all calls together, so that callers on several threads share them
std::atomic<int> extra{0};  // how many are running beside their callers

int take_extra(int wanted) {
    int running = extra.load();
    while (true) {
        const int taken = std::clamp(limit.load() - 1 - running, 0, wanted);
        if (taken == 0 || extra.compare_exchange_weak(running, running + taken)) return taken;
    }
}

}  // namespace

void set_threads(int count) {
    const int cores = static_cast<int>(std::thread::hardware_concurrency());  // 0 if unknown
    limit = cores > 0 ? std::min(count, cores) : count;
}

void parallel(Index count, double work, const std::function<void(Index, Index)>& body) {
    const double useful = std::min({static_cast<double>(count), work / kFloatsPerThread, 1024.0});
    const int taken = useful < 2 ? 0 : take_extra(static_cast<int>(useful) - 1);
    if (taken == 0) {
        if (count > 0) body(0, count);
        return;
    }
    std::vector<std::exception_ptr> errors(taken + 1);
    const auto run = [&](int part) {
        try {
            body(count * part / (taken + 1), count * (part + 1) / (taken + 1));
        } catch (...) {
            errors[part] = std::current_exception();
        }
    };
    std::vector<std::thread> threads;
    threads.reserve(taken);
    for (int part = 1; part <= taken; ++part) {
        try {
            threads.emplace_back(run, part);
        } catch (const std::system_error&) {
            run(part);  // no more threads to be had
        }
    }
    run(0);
    for (auto& thread : threads) thread.join();
    extra -= taken;
    for (const auto& error : errors)
        if (error) std::rethrow_exception(error);
}

}  // namespace edge_ad

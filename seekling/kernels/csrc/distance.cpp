// How far two threads are from each other: the time a line of memory takes from one to the other.
#include "common.h"
#include <atomic>
#include <chrono>
#include <omp.h>
#include <sched.h>

namespace sk {

// Nanoseconds a way, mean of `turns` there and back; 0 where there is one thread only.
SK_API double sk_core_distance(int64_t turns) {
    alignas(64) std::atomic<int64_t> ball{0};
    double nanoseconds = 0;
    auto wait_for = [&](int64_t value) {
        for (int64_t spins = 0; ball.load() != value; spins++)
            if (spins > 10000) sched_yield();
    };
#pragma omp parallel num_threads(2)
    if (omp_get_num_threads() == 2) {
        int me = omp_get_thread_num();
        auto play = [&](int64_t from, int64_t to) {
            for (int64_t i = from; i < to; i++) {
                if (me) {
                    wait_for(2 * i + 1);
                    ball.store(2 * i + 2);
                } else {
                    ball.store(2 * i + 1);
                    wait_for(2 * i + 2);
                }
            }
        };
        play(0, turns / 8);  // until both are awake
        auto start = std::chrono::steady_clock::now();
        play(turns / 8, turns / 8 + turns);
        if (!me) nanoseconds = std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count() / (double)(2 * turns);
    }
    return nanoseconds;
}

}  // namespace sk

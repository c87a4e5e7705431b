// What every kernel file shares: element types, a vectorisable exp, row-parallel loops.
// The same sources are compiled once for each instruction level (see setup.py); no intrinsics, so that they build anywhere.
#pragma once
#include <cstdint>
#include <cstring>
#include <cmath>
#include <algorithm>
#include <vector>

#define SK_API extern "C" __attribute__((visibility("default")))

namespace sk {

struct bf16 { uint16_t bits; };

static inline float load(float v) { return v; }
static inline float load(bf16 v) { uint32_t u = (uint32_t)v.bits << 16; float f; std::memcpy(&f, &u, 4); return f; }
static inline void store(float* p, float v) { *p = v; }
static inline void store(bf16* p, float v) {  // round to nearest, ties to even
    uint32_t u; std::memcpy(&u, &v, 4);
    p->bits = (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

// exp with about 1e-7 relative error, no branches, so that loops over it vectorise; 0 below -87, a huge number above 88.
static inline float fast_exp(float input) {
    float x = std::min(std::max(input, -87.0f), 88.0f);
    float n = std::floor(x * 1.44269504f + 0.5f);
    float r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t e = ((int32_t)n + 127) << 23;
    float s; std::memcpy(&s, &e, 4);
    return input < -87.0f ? 0.0f : p * s;
}

static inline float sigmoid(float x) { return 1.0f / (1.0f + fast_exp(-x)); }

// Ask for `bytes` from here on to be brought near, to be read or written soon; any address will do.  Inlined by force: gcc takes a
// function that only prefetches for one without effect, and drops its calls.
static inline __attribute__((always_inline)) void fetch(const void* from, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch((const char*)from + i, 0, 2);
}
static inline __attribute__((always_inline)) void fetch_to_write(const void* at) { __builtin_prefetch(at, 1, 3); }

// Sums that must not depend on the number of threads are kept in this many partial rows, added in order.
constexpr int64_t PARTS = 16;

}  // namespace sk

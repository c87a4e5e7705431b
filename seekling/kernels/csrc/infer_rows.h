// What happens to one row between two matrix products: norm, rotation, SwiGLU.  All buffers are padded to whole groups of 32
// floats with zeros.
#pragma once
#include "infer_simd.h"
#include "infer_model.h"

namespace sk {

SK_INLINE float inverse_rms(const float* x, int n, float eps) {
    Floats sum = zeros();
    for (int i = 0; i < (n + 15) / 16; i++) {
        Floats v = first_lanes(load16(x + i * 16), n - i * 16, 0.0f);
        sum = fma(v, v, sum);
    }
    return 1.0f / std::sqrt(total(sum) / (float)n + eps);
}

// out = x / rms(x) · weight, zeros up to a whole vector; weight is padded like x.  May run in place.
SK_INLINE void rms_norm_row(const float* x, const float* weight, int n, float eps, float* out) {
    Floats r = all(inverse_rms(x, n, eps));
    for (int i = 0; i < (n + 15) / 16; i++)
        store16(out + i * 16, first_lanes(mul(mul(load16(x + i * 16), r), load16(weight + i * 16)), n - i * 16, 0.0f));
}

// Turn the first `rotary` channels in place; pairs (2i, 2i+1) when interleaved, else (i, i + rotary/2); the result is in
// half-split order for both, as in seekling/model/rope.py.
SK_INLINE void rotate_row(float* x, const float* cos, const float* sin, int rotary, bool interleaved) {
    int half = rotary / 2;
    float out[1024];
    for (int i = 0; i < half; i++) {
        float a = interleaved ? x[2 * i] : x[i], b = interleaved ? x[2 * i + 1] : x[i + half];
        out[i] = a * cos[i] - b * sin[i];
        out[i + half] = b * cos[i] + a * sin[i];
    }
    std::memcpy(x, out, (size_t)rotary * 4);
}

}  // namespace sk

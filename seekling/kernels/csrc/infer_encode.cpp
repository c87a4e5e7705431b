// The encoders of infer_encode.h.  Each looks for the scales that leave the least weighted squared error of its group.
#include "infer_encode.h"

namespace sk {

uint16_t to_half(float v) {
    uint32_t u = bits_of(v), sign = (u >> 16) & 0x8000, e = (u >> 23) & 255, m = u & 0x7fffff;
    if (e >= 143) return (uint16_t)(sign | (e == 255 && m ? 0x7e00 : 0x7c00));
    if (e >= 113) {
        uint32_t h = ((e - 112) << 10) | (m >> 13), rest = m & 0x1fff;
        return (uint16_t)(sign + h + (rest > 0x1000 || (rest == 0x1000 && (h & 1))));
    }
    return (uint16_t)(sign + (uint32_t)std::nearbyint(std::fabs(v) * 16777216.0f));  // subnormal: units of 2^-24
}

int64_t gguf_row_bytes(int format, int inputs) {
    int64_t groups = groups_of(inputs), supers = (groups + 7) / 8;
    switch (format) {
        case Q8: return groups * 34;
        case Q4: return groups * 18;
        case Q4M: return groups * 20;
        case Q4W: return (groups + 1) / 2 * 40;
        case Q4K: return supers * 144;
        case Q6K: return supers * 210;
        default: return 0;
    }
}

namespace {

float through_half(float v) { return half_to_float(to_half(v)); }
void put_half(uint8_t* p, uint16_t v) { std::memcpy(p, &v, 2); }

// ---- four bits: scale · q + minimum ---------------------------------------------------------------------------------------

template <int N> struct Fit {  // of N numbers
    float scale = 0, minimum = 0, error = INFINITY;
    uint8_t q[N] = {};
};

// Numbers 0..15 for a given scale and minimum, and the squared error weighted by `importance`.
template <int N> float code4(const float* x, float scale, float minimum, const float* importance, uint8_t* q) {
    float inverse = scale > 0 ? 1.0f / scale : 0.0f, error = 0;
    for (int i = 0; i < N; i++) {
        float n = std::min(15.0f, std::max(0.0f, std::nearbyint((x[i] - minimum) * inverse)));
        float d = x[i] - (n * scale + minimum);
        q[i] = (uint8_t)n;
        error += d * d * (importance ? importance[i] : 1.0f);
    }
    return error;
}

template <int N> void consider(const float* x, const float* importance, float scale, float minimum, Fit<N>& now, Fit<N>& best) {
    now.scale = scale;
    now.minimum = minimum;
    now.error = code4<N>(x, scale, minimum, importance, now.q);
    if (now.error < best.error) best = now;
}

// Scale and minimum that fit given numbers best (weighted least squares); false where the numbers are all equal.
template <int N> bool refit(const float* x, const uint8_t* q, const float* importance, float* scale, float* minimum) {
    double w = 0, wq = 0, wqq = 0, wx = 0, wqx = 0;
    for (int i = 0; i < N; i++) {
        double u = importance ? importance[i] : 1.0;
        w += u; wq += u * q[i]; wqq += u * q[i] * q[i]; wx += u * x[i]; wqx += u * q[i] * x[i];
    }
    double det = w * wqq - wq * wq;
    if (det <= 1e-12 * w * wqq) return false;
    *scale = (float)((w * wqx - wq * wx) / det);
    *minimum = (float)((wx - *scale * wq) / w);
    return *scale > 0;
}

// The least error over a few shrunken ranges, each refitted once.  `kept` gives what of a number the format keeps, `most` is the
// largest minimum it has.
template <int N, class Kept> Fit<N> fit_minimum(const float* x, const float* importance, float most, Kept kept) {
    Fit<N> best, now;
    float low = x[0], high = x[0];
    for (int i = 1; i < N; i++) { low = std::min(low, x[i]); high = std::max(high, x[i]); }
    low = std::min(low, most);
    for (int shrink = 0; shrink < 5; shrink++) {
        float share = 0.03f * (float)shrink, range = high - low;
        float scale = range * (1 - 2 * share) / 15, minimum = low + range * share;
        consider(x, importance, kept(scale), kept(std::min(minimum, most)), now, best);
        if (refit<N>(x, now.q, importance, &scale, &minimum)) consider(x, importance, kept(scale), kept(std::min(minimum, most)), now, best);
    }
    return best;
}

// As many blocks of Q4_1 as N numbers fill, with one scale and minimum.
template <int N> void encode_q4_1(const float* x, const float* importance, uint8_t* block) {
    Fit<N> fit = fit_minimum<N>(x, importance, INFINITY, through_half);
    for (const uint8_t* q = fit.q; q < fit.q + N; q += GROUP, block += 20) {
        put_half(block, to_half(fit.scale));
        put_half(block + 2, to_half(fit.minimum));
        for (int i = 0; i < 16; i++) block[4 + i] = (uint8_t)(q[i] | q[16 + i] << 4);
    }
}

// Eight groups under a half-precision pair: each group's two numbers of six bits are those, among the nearest, that err least.
void encode_q4_k(const float* x, const float* importance, uint8_t* super) {
    float scales[8], lows[8], most_scale = 0, most_low = 0;
    for (int g = 0; g < 8; g++) {
        Fit<GROUP> fit = fit_minimum<GROUP>(x + g * GROUP, importance ? importance + g * GROUP : nullptr, 0.0f, [](float v) { return v; });
        scales[g] = fit.scale;
        lows[g] = -fit.minimum;
        most_scale = std::max(most_scale, scales[g]);
        most_low = std::max(most_low, lows[g]);
    }
    uint16_t halves[2] = {to_half(most_scale / 63), to_half(most_low / 63)};
    put_half(super, halves[0]);
    put_half(super + 2, halves[1]);
    float unit = half_to_float(halves[0]), low_unit = half_to_float(halves[1]);
    uint8_t *six = super + 4, *numbers = super + 16;
    std::memset(six, 0, 12);
    auto nearest = [](float v, float of) { return of > 0 ? (int)std::min(63.0f, std::nearbyint(v / of)) : 0; };
    for (int g = 0; g < 8; g++) {
        Fit<GROUP> best, now;
        int scale = nearest(scales[g], unit), low = nearest(lows[g], low_unit), found[2] = {scale, low};
        for (int s = std::max(0, scale - 1); s <= std::min(63, scale + 1); s++)
            for (int m = std::max(0, low - 1); m <= std::min(63, low + 1); m++) {
                float before = best.error;
                consider(x + g * GROUP, importance ? importance + g * GROUP : nullptr, unit * (float)s, -(low_unit * (float)m), now, best);
                if (best.error < before) found[0] = s, found[1] = m;
            }
        if (g < 4) {
            six[g] |= (uint8_t)found[0];
            six[4 + g] |= (uint8_t)found[1];
        } else {
            six[4 + g] = (uint8_t)((found[0] & 15) | (found[1] & 15) << 4);
            six[g - 4] |= (uint8_t)(found[0] >> 4 << 6);
            six[g] |= (uint8_t)(found[1] >> 4 << 6);
        }
        uint8_t* out = numbers + g / 2 * GROUP;  // two groups share 32 bytes
        for (int i = 0; i < GROUP; i++) out[i] = (uint8_t)(g % 2 ? out[i] | best.q[i] << 4 : best.q[i]);
    }
}

// ---- six bits: scale · (q − 32) -------------------------------------------------------------------------------------------

// The scale of 16 that leaves the least weighted error among some near the largest number, as llama.cpp looks for it.
float scale_of_sixteen(const float* x, const float* importance) {
    float peak = 0;
    for (int i = 0; i < GROUP / 2; i++)
        if (std::fabs(x[i]) > std::fabs(peak)) peak = x[i];
    if (peak == 0) return 0;
    double best = -1, scale = 0;
    for (int step = -9; step <= 9; step++) {
        float inverse = -(32.0f + 0.1f * (float)step) / peak;
        double xq = 0, qq = 0;
        for (int i = 0; i < GROUP / 2; i++) {
            double w = importance ? importance[i] : 1.0, n = std::min(31.0f, std::max(-32.0f, std::nearbyint(x[i] * inverse)));
            xq += w * x[i] * n;
            qq += w * n * n;
        }
        if (qq > 0 && xq * xq > best * qq) {  // the error that is left falls by xq² / qq
            best = xq * xq / qq;
            scale = xq / qq;
        }
    }
    return (float)scale;
}

void encode_q6_k(const float* x, const float* importance, uint8_t* super) {
    float scales[16], most = 0;
    for (int s = 0; s < 16; s++) {
        scales[s] = scale_of_sixteen(x + s * 16, importance ? importance + s * 16 : nullptr);
        most = std::max(most, std::fabs(scales[s]));
    }
    uint16_t half = to_half(most / 127.0f);
    float unit = half_to_float(half);
    std::memset(super, 0, 192);
    put_half(super + 208, half);
    for (int s = 0; s < 16; s++) {
        float whole = unit > 0 ? std::nearbyint(scales[s] / unit) : 0.0f;
        int8_t kept = (int8_t)std::min(127.0f, std::max(-127.0f, whole));
        super[192 + s] = (uint8_t)kept;
        float scale = unit * (float)kept, inverse = scale != 0 ? 1.0f / scale : 0.0f;
        int g = s / 2;  // in a half of the superblock four groups: the lower four bits of two share a byte, the upper two of all
        uint8_t *low = super + g / 4 * 64 + g % 2 * GROUP + s % 2 * 16, *up = super + 128 + g / 4 * GROUP + s % 2 * 16;
        for (int i = 0; i < 16; i++) {
            float n = std::nearbyint(x[s * 16 + i] * inverse);
            int q = 32 + (int)std::min(31.0f, std::max(-32.0f, n));
            low[i] |= (uint8_t)((q & 15) << (g % 4 < 2 ? 0 : 4));
            up[i] |= (uint8_t)(q >> 4 << g % 4 * 2);
        }
    }
}

}  // namespace

void encode_row(int format, const float* x, const float* importance, int inputs, uint8_t* row) {
    int values = format == Q4M ? GROUP : format == Q4W ? 2 * GROUP : 8 * GROUP, blocks = (inputs + values - 1) / values;
    std::vector<float> filled((size_t)blocks * values, 0.0f), weight(importance ? filled.size() : 0, 0.0f);
    std::copy(x, x + inputs, filled.begin());
    if (importance) std::copy(importance, importance + inputs, weight.begin());
    for (int b = 0; b < blocks; b++) {
        const float *part = filled.data() + b * values, *counts = importance ? weight.data() + b * values : nullptr;
        if (format == Q4M) encode_q4_1<GROUP>(part, counts, row + b * 20);
        else if (format == Q4W) encode_q4_1<2 * GROUP>(part, counts, row + b * 40);
        else if (format == Q4K) encode_q4_k(part, counts, row + b * 144);
        else encode_q6_k(part, counts, row + b * 210);
    }
}

// Rows (count, inputs) as GGUF blocks, row after row.
SK_API void sk_infer_encode(int64_t format, const float* x, const float* importance, int64_t count, int64_t inputs, uint8_t* out) {
    int64_t bytes = gguf_row_bytes((int)format, (int)inputs);
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < count; r++) encode_row((int)format, x + r * inputs, importance, (int)inputs, out + r * bytes);
}

}  // namespace sk

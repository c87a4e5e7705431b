// Weights into the layout of infer_matmul.h: from floats (quantising) or from GGUF blocks (bit for bit the same numbers).
#include "infer_matmul.h"

namespace sk {

namespace {

// A group of 32 weights of one output: numbers as stored, and what belongs to them.
struct Code { uint8_t q[GROUP]; uint16_t scale, minimum; };

uint16_t to_half(float v) {  // round to nearest even; overflow gives infinity
    uint32_t u = bits_of(v), sign = (u >> 16) & 0x8000, e = (u >> 23) & 255, m = u & 0x7fffff;
    if (e >= 143) return (uint16_t)(sign | (e == 255 && m ? 0x7e00 : 0x7c00));
    if (e >= 113) {
        uint32_t h = ((e - 112) << 10) | (m >> 13), rest = m & 0x1fff;
        return (uint16_t)(sign + h + (rest > 0x1000 || (rest == 0x1000 && (h & 1))));
    }
    return (uint16_t)(sign + (uint32_t)std::nearbyint(std::fabs(v) * 16777216.0f));  // subnormal: units of 2^-24
}

template <int F> void place(uint8_t* block, int lane, int g, const Code& c) {
    uint8_t* numbers = block + Layout<F>::at(g) + Layout<F>::line(0, lane / LANES) + lane % LANES * 4;
    uint16_t* scales = (uint16_t*)(block + Layout<F>::at(g) + Layout<F>::numbers);
    if constexpr (F == Q6K) {
        for (int line = 0; line < Layout<F>::lines; line++)
            for (int j = 0; j < 4; j++) {
                const uint8_t* q = c.q + line / 3 * 16 + j;
                numbers[Layout<F>::line(line, 0) + j] = (uint8_t)(q[line % 3 * 4] | (q[12] >> (4 - line % 3 * 2) & 3) << 6);
            }
    } else if constexpr (Layout<F>::nibbles) {
        for (int i = 0; i < GROUP; i += 8)
            for (int j = 0; j < 4; j++) numbers[i / 8 * 128 + j] = (uint8_t)(c.q[i + j] | c.q[i + 4 + j] << 4);
    } else {
        for (int i = 0; i < GROUP; i += 4) std::memcpy(numbers + i / 4 * 128, c.q + i, 4);
    }
    if constexpr (F == Q8 || F == Q4 || F == Q4M) scales[lane] = c.scale;
    if constexpr (F == Q4M) scales[BLOCK + lane] = c.minimum;
}

// ---- from floats -----------------------------------------------------------------------------------------------------------

void code8(const float* x, float scale, Code& c) {  // 128 + nearest whole number of scales
    float inverse = scale > 0 ? 1.0f / scale : 0.0f;
    for (int i = 0; i < GROUP; i++)
        c.q[i] = (uint8_t)(128 + (int)std::min(127.0f, std::max(-127.0f, std::nearbyint(x[i] * inverse))));
}

float largest_magnitude(const float* x, int n) {
    float most = 0;
    for (int i = 0; i < n; i++) most = std::max(most, std::fabs(x[i]));
    return most;
}

// Numbers 0..15 for a given scale and minimum (already rounded to half), and the squared error weighted by `importance`.
float code4(const float* x, float scale, float minimum, const float* importance, uint8_t* q) {
    float inverse = scale > 0 ? 1.0f / scale : 0.0f, error = 0;
    for (int i = 0; i < GROUP; i++) {
        float n = std::min(15.0f, std::max(0.0f, std::nearbyint((x[i] - minimum) * inverse)));
        float d = x[i] - (n * scale + minimum);
        q[i] = (uint8_t)n;
        error += d * d * (importance ? importance[i] : 1.0f);
    }
    return error;
}

// Scale and minimum that fit given numbers best (weighted least squares); false where the numbers are all equal.
bool refit(const float* x, const uint8_t* q, const float* importance, float* scale, float* minimum) {
    double w = 0, wq = 0, wqq = 0, wx = 0, wqx = 0;
    for (int i = 0; i < GROUP; i++) {
        double u = importance ? importance[i] : 1.0;
        w += u; wq += u * q[i]; wqq += u * q[i] * q[i]; wx += u * x[i]; wqx += u * q[i] * x[i];
    }
    double det = w * wqq - wq * wq;
    if (det <= 1e-12 * w * wqq) return false;
    *scale = (float)((w * wqx - wq * wx) / det);
    *minimum = (float)((wx - *scale * wq) / w);
    return *scale > 0;
}

// The least error over a few shrunken ranges, each refitted once.
void code_with_minimum(const float* x, const float* importance, Code& best) {
    float low = x[0], high = x[0], least = INFINITY;
    for (int i = 1; i < GROUP; i++) { low = std::min(low, x[i]); high = std::max(high, x[i]); }
    auto consider = [&](float scale, float minimum) {
        Code c;
        c.scale = to_half(scale);
        c.minimum = to_half(minimum);
        float error = code4(x, half_to_float(c.scale), half_to_float(c.minimum), importance, c.q);
        if (error < least) { least = error; best = c; }
        return c;
    };
    for (int shrink = 0; shrink < 5; shrink++) {
        float share = 0.03f * (float)shrink, range = high - low;
        float scale = range * (1 - 2 * share) / 15, minimum = low + range * share;
        Code c = consider(scale, minimum);
        if (refit(x, c.q, importance, &scale, &minimum)) consider(scale, minimum);
    }
}

// Six bits: the scale of each 16 that leaves the least weighted error among some near the largest number, as llama.cpp looks for it.
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

// 256 inputs of one row, zeros behind its end.
void pack_sixes(const float* x, const float* importance, int groups, int lane, uint8_t* super) {
    float scales[16], most = 0;
    for (int s = 0; s < 2 * groups; s++) {
        scales[s] = scale_of_sixteen(x + s * 16, importance ? importance + s * 16 : nullptr);
        most = std::max(most, std::fabs(scales[s]));
    }
    uint16_t half = to_half(most / 127.0f);
    ((uint16_t*)super)[lane] = half;
    float unit = half_to_float(half);
    for (int g = 0; g < groups; g++) {
        Code c{};
        int8_t* small = (int8_t*)(super + Layout<Q6K>::at(g) + Layout<Q6K>::numbers);
        for (int part = 0; part < 2; part++) {
            float whole = unit > 0 ? std::nearbyint(scales[2 * g + part] / unit) : 0.0f;
            int8_t kept = (int8_t)std::min(127.0f, std::max(-127.0f, whole));
            small[part * BLOCK + lane] = kept;
            float scale = unit * (float)kept, inverse = scale != 0 ? 1.0f / scale : 0.0f;
            for (int i = 0; i < 16; i++) {
                float n = std::nearbyint(x[g * GROUP + part * 16 + i] * inverse);
                c.q[part * 16 + i] = (uint8_t)(32 + (int)std::min(31.0f, std::max(-32.0f, n)));
            }
        }
        place<Q6K>(super, lane, g, c);
    }
}

void pack_floats(int format, const float* x, const float* importance, int inputs, int lane, uint8_t* block) {
    int groups = groups_of(inputs);
    std::vector<float> row((size_t)groups * GROUP, 0.0f);
    std::copy(x, x + inputs, row.begin());
    std::vector<float> weight(importance ? row.size() : 0, 0.0f);  // the padding does not count
    if (importance) std::copy(importance, importance + inputs, weight.begin());
    auto weight_at = [&](int g) { return importance ? weight.data() + g * GROUP : nullptr; };
    if (format == Q6K) {
        for (int g = 0; g < groups; g += 8)
            pack_sixes(row.data() + g * GROUP, weight_at(g), std::min(8, groups - g), lane, block + Layout<Q6K>::super_at(g));
        return;
    }
    float channel = largest_magnitude(x, inputs) / 127.0f;
    if (format == I8) ((float*)(block + Layout<I8>::at(groups)))[lane] = channel;
    for (int g = 0; g < groups; g++) {
        const float* part = row.data() + g * GROUP;
        Code c{};
        if (format == I8) {
            code8(part, channel, c);
            place<I8>(block, lane, g, c);
        } else if (format == Q8) {
            c.scale = to_half(largest_magnitude(part, GROUP) / 127.0f);
            code8(part, half_to_float(c.scale), c);
            place<Q8>(block, lane, g, c);
        } else if (format == Q4M) {
            code_with_minimum(part, weight_at(g), c);
            place<Q4M>(block, lane, g, c);
        } else if (format == BF16) {
            uint8_t* at = block + Layout<BF16>::at(g) + lane / LANES * 64;
            for (int i = 0; i < GROUP; i++) ((uint16_t*)(at + i / 2 * 128))[lane % LANES * 2 + i % 2] = to_bf16(part[i]);
        } else if (format == F32) {
            uint8_t* at = block + Layout<F32>::at(g) + lane / LANES * 64;
            for (int i = 0; i < GROUP; i++) ((float*)(at + i * 128))[lane % LANES] = part[i];
        }
    }
}

// ---- from GGUF blocks --------------------------------------------------------------------------------------------------------

uint16_t half_at(const uint8_t* p) { uint16_t v; std::memcpy(&v, p, 2); return v; }

int blocks_bytes(int format, int inputs) {  // bytes of one GGUF row
    switch (format) {
        case Q8: return inputs / 32 * 34;
        case Q4: return inputs / 32 * 18;
        case Q4M: return inputs / 32 * 20;
        case Q4K: return inputs / 256 * 144;
        case Q6K: return inputs / 256 * 210;
        default: return 0;
    }
}

// Q8_0, Q4_0, Q4_1: four inputs at a time, for a model's start waits for this.
template <int F> void repack_small(const uint8_t* row, int groups, int lane, uint8_t* block) {
    constexpr int header = F == Q4M ? 4 : 2, words = F == Q8 ? 8 : 4, size = header + words * 4;
    constexpr uint32_t low = 0x0f0f0f0fu;
    uint8_t* at = block + lane / LANES * 64 + lane % LANES * 4;
    for (int g = 0; g < groups; g++, row += size, at += Layout<F>::group) {
        uint32_t w[words], lines[words];
        std::memcpy(w, row + header, sizeof w);
        if constexpr (F == Q8) {
            for (int i = 0; i < words; i++) lines[i] = w[i] ^ 0x80808080u;
        } else {  // inputs 0 .. 15 are the low halves of the 16 bytes, 16 .. 31 the high ones; a line takes 4 and the next 4
            lines[0] = (w[0] & low) | (w[1] & low) << 4;
            lines[1] = (w[2] & low) | (w[3] & low) << 4;
            lines[2] = (w[0] >> 4 & low) | (w[1] & ~low);
            lines[3] = (w[2] >> 4 & low) | (w[3] & ~low);
        }
        for (int i = 0; i < words; i++) std::memcpy(at + i * 128, lines + i, 4);
        uint16_t* scales = (uint16_t*)(block + Layout<F>::at(g) + Layout<F>::numbers);
        scales[lane] = half_at(row);
        if constexpr (F == Q4M) scales[BLOCK + lane] = half_at(row + 2);
    }
}

void repack_q4k(const uint8_t* row, int groups, int lane, uint8_t* block) {
    for (int s = 0; s < groups / 8; s++, row += 144) {
        uint16_t* super = (uint16_t*)(block + s * Layout<Q4K>::super);
        super[lane] = half_at(row);
        super[BLOCK + lane] = half_at(row + 2);
        const uint8_t* six = row + 4;
        for (int j = 0; j < 8; j++) {
            uint8_t scale = j < 4 ? six[j] & 63 : (uint8_t)((six[j + 4] & 15) | (six[j - 4] >> 6 << 4));
            uint8_t minimum = j < 4 ? six[j + 4] & 63 : (uint8_t)((six[j + 4] >> 4) | (six[j] >> 6 << 4));
            uint8_t* small = block + Layout<Q4K>::at(s * 8 + j) + Layout<Q4K>::numbers;
            small[lane] = scale;
            small[BLOCK + lane] = minimum;
            Code c{};
            const uint8_t* q = row + 16 + j / 2 * 32;
            for (int i = 0; i < GROUP; i++) c.q[i] = j % 2 ? q[i] >> 4 : q[i] & 15;
            place<Q4K>(block, lane, s * 8 + j, c);
        }
    }
}

// Two groups at a time: their lower four bits are the halves of the same 32 bytes, and a quarter of the superblock shares 32 of upper two.
void repack_q6k(const uint8_t* row, int groups, int lane, uint8_t* block) {
    for (int s = 0; s < groups / 8; s++, row += 210) {
        ((uint16_t*)(block + s * Layout<Q6K>::super))[lane] = half_at(row + 208);
        for (int g = 0; g < 8; g++) {
            const uint8_t *low = row + g / 4 * 64 + g % 2 * 32, *up = row + 128 + g / 4 * 32;
            uint8_t* at = block + Layout<Q6K>::at(s * 8 + g);
            Code c{};
            for (int i = 0; i < GROUP; i++)
                c.q[i] = (uint8_t)((g % 4 < 2 ? low[i] & 15 : low[i] >> 4) | (up[i] >> g % 4 * 2 & 3) << 4);
            for (int part = 0; part < 2; part++) at[Layout<Q6K>::numbers + part * BLOCK + lane] = row[192 + 2 * g + part];
            place<Q6K>(block, lane, s * 8 + g, c);
        }
    }
}

}  // namespace

// Rows first .. first + count of a matrix, from floats (count, inputs); `importance` (inputs) or null weighs the error of Q4M and Q6K.
// `first` must be a multiple of 32.  `data` is the whole matrix, its blocks `step` bytes
// apart, zero where nothing was packed.
SK_API void sk_infer_pack(int64_t format, const float* x, const float* importance, int64_t first, int64_t count, int64_t inputs, uint8_t* data,
                          int64_t step) {
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < (count + BLOCK - 1) / BLOCK; b++)
        for (int64_t lane = 0; lane < BLOCK && b * BLOCK + lane < count; lane++)
            pack_floats((int)format, x + (b * BLOCK + lane) * inputs, importance, (int)inputs, (int)lane, data + (first / BLOCK + b) * step);
}

// The same of weights that are bfloat16 and stay so: a pair of inputs moves as one number, 32 outputs of it side by side.
SK_API void sk_infer_pack_bf16(const uint16_t* x, int64_t first, int64_t count, int64_t inputs, uint8_t* data, int64_t step) {
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < (count + BLOCK - 1) / BLOCK; b++) {
        const uint16_t* from = x + b * BLOCK * inputs;
        uint8_t* block = data + (first / BLOCK + b) * step;
        int lanes = (int)std::min<int64_t>(BLOCK, count - b * BLOCK);
        for (int64_t i = 0; i < inputs; i += GROUP)  // a line of memory from each row, into lines that stay near
            for (int lane = 0; lane < lanes; lane++) {
                uint16_t line[GROUP] = {};
                std::memcpy(line, from + lane * inputs + i, (size_t)std::min<int64_t>(GROUP, inputs - i) * 2);
                for (int pair = 0; pair < GROUP / 2; pair++) std::memcpy(block + (i / 2 + pair) * 128 + lane * 4, line + 2 * pair, 4);
            }
    }
}

SK_API void sk_infer_repack(int64_t format, const uint8_t* rows, int64_t first, int64_t count, int64_t inputs, uint8_t* data,
                            int64_t step) {
    int64_t row = blocks_bytes((int)format, (int)inputs);
    int groups = groups_of((int)inputs);
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < (count + BLOCK - 1) / BLOCK; b++)
        for (int lane = 0; lane < BLOCK && b * BLOCK + lane < count; lane++) {
            const uint8_t* from = rows + (b * BLOCK + lane) * row;
            uint8_t* block = data + (first / BLOCK + b) * step;
            if (format == Q8) repack_small<Q8>(from, groups, lane, block);
            else if (format == Q4) repack_small<Q4>(from, groups, lane, block);
            else if (format == Q4M) repack_small<Q4M>(from, groups, lane, block);
            else if (format == Q4K) repack_q4k(from, groups, lane, block);
            else if (format == Q6K) repack_q6k(from, groups, lane, block);
        }
}

SK_API int64_t sk_infer_block_bytes(int64_t format, int64_t inputs) { return block_bytes((int)format, (int)inputs); }

// Rows of one matrix of a stack (count, inputs): those that `chosen` names, or first .. first + count; floats or bfloat16.
SK_API void sk_infer_dequantise(const Matrix* w, int64_t index, const int64_t* chosen, int64_t first, int64_t count, int64_t half, void* out) {
    Matrix one = *w;
    one.data += index * w->stride;
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < count; r++) {
        int row = (int)(chosen ? chosen[r] : first + r);
        if (half) dequantise_row(one, row, (uint16_t*)out + r * w->inputs);
        else dequantise_row(one, row, (float*)out + r * w->inputs);
    }
}

// y (rows, 32·blocks) = x (rows, padded inputs) Wᵀ: for tests and benchmarks.
SK_API void sk_infer_multiply(const Matrix* w, const float* x, int64_t count, float* y, int64_t repeat) {
    int64_t bytes = row_bytes(w->format, w->inputs), stride = (int64_t)blocks_of(w->outputs) * BLOCK;
    std::vector<uint8_t> memory((size_t)(bytes * count + 64));
    std::vector<const void*> rows((size_t)count);
    for (int64_t r = 0; r < count; r++) {
        rows[(size_t)r] = memory.data() + r * bytes;
        quantise_row(w->format, x + r * padded(w->inputs), w->inputs, memory.data() + r * bytes);
    }
    for (int64_t i = 0; i < repeat; i++)
#pragma omp parallel for schedule(static)
        for (int block = 0; block < blocks_of(w->outputs); block++)
            multiply(*w, 0, block, rows.data(), (int)count, y + block * BLOCK, stride);
}

}  // namespace sk

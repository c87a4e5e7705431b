// Weights into the layout of infer_matmul.h: from floats (quantising) or from GGUF blocks (bit for bit the same numbers).
#include "infer_encode.h"
#include <cfloat>

namespace sk {

namespace {

// The numbers of a group of 32 weights of one output, as stored.
template <int F> void place(uint8_t* block, int lane, int g, const uint8_t* q) {
    uint8_t* numbers = block + Layout<F>::at(g) + Layout<F>::line(0, lane / LANES) + lane % LANES * 4;
    if constexpr (F == Q6K) {
        for (int line = 0; line < Layout<F>::lines; line++)
            for (int j = 0; j < 4; j++) {
                const uint8_t* from = q + line / 3 * 16 + j;
                numbers[Layout<F>::line(line, 0) + j] = (uint8_t)(from[line % 3 * 4] | (from[12] >> (4 - line % 3 * 2) & 3) << 6);
            }
    } else if constexpr (Layout<F>::nibbles) {
        for (int i = 0; i < GROUP; i += 8)
            for (int j = 0; j < 4; j++) numbers[i / 8 * 128 + j] = (uint8_t)(q[i + j] | q[i + 4 + j] << 4);
    } else {
        for (int i = 0; i < GROUP; i += 4) std::memcpy(numbers + i / 4 * 128, q + i, 4);
    }
}

// ---- from floats -----------------------------------------------------------------------------------------------------------

void code8(const float* x, float scale, uint8_t* q) {  // 128 + nearest whole number of scales
    float inverse = scale > 0 ? 1.0f / scale : 0.0f;
    for (int i = 0; i < GROUP; i++)
        q[i] = (uint8_t)(128 + (int)std::min(127.0f, std::max(-127.0f, std::nearbyint(x[i] * inverse))));
}

void pack_floats(int format, const float* x, int inputs, int lane, uint8_t* block) {
    int groups = groups_of(inputs);
    std::vector<float> row((size_t)groups * GROUP, 0.0f);
    std::copy(x, x + inputs, row.begin());
    float channel = largest_magnitude(x, inputs) / 127.0f;
    if (format == I8) ((float*)(block + Layout<I8>::at(groups)))[lane] = channel;
    for (int g = 0; g < groups; g++) {
        const float* part = row.data() + g * GROUP;
        uint8_t q[GROUP];
        if (format == I8) {
            code8(part, channel, q);
            place<I8>(block, lane, g, q);
        } else if (format == Q8) {
            uint16_t scale = to_half(largest_magnitude(part, GROUP) / 127.0f);
            code8(part, half_to_float(scale), q);
            place<Q8>(block, lane, g, q);
            ((uint16_t*)(block + Layout<Q8>::at(g) + Layout<Q8>::numbers))[lane] = scale;
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

// Q8_0, Q4_0, Q4_1 and rows of Q4W, which look like Q4_1: four inputs at a time, for a model's start waits for this.
template <int F> void repack_small(const uint8_t* row, int groups, int lane, uint8_t* block) {
    constexpr int header = Layout<F>::halves ? 4 : 2, words = F == Q8 ? 8 : 4, size = header + words * 4;
    constexpr uint32_t low = 0x0f0f0f0fu;
    for (int g = 0; g < groups; g++, row += size) {
        uint8_t* at = block + Layout<F>::at(g) + lane / LANES * 64 + lane % LANES * 4;
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
        uint16_t* scales = (uint16_t*)(block + Layout<F>::scales_at(g));
        scales[lane] = half_at(row);
        if constexpr (Layout<F>::halves) scales[BLOCK + lane] = half_at(row + 2);
    }
}

void repack_q4k(const uint8_t* row, int groups, int lane, uint8_t* block) {
    for (int s = 0; s < (groups + 7) / 8; s++, row += 144) {
        uint16_t* super = (uint16_t*)(block + Layout<Q4K>::super_at(s * 8));
        super[lane] = half_at(row);
        super[BLOCK + lane] = half_at(row + 2);
        const uint8_t* six = row + 4;
        for (int j = 0; j < 8; j++) {
            uint8_t scale = j < 4 ? six[j] & 63 : (uint8_t)((six[j + 4] & 15) | (six[j - 4] >> 6 << 4));
            uint8_t minimum = j < 4 ? six[j + 4] & 63 : (uint8_t)((six[j + 4] >> 4) | (six[j] >> 6 << 4));
            uint8_t* small = block + Layout<Q4K>::at(s * 8 + j) + Layout<Q4K>::numbers;
            small[lane] = scale;
            small[BLOCK + lane] = minimum;
            uint8_t q[GROUP];
            const uint8_t* both = row + 16 + j / 2 * 32;
            for (int i = 0; i < GROUP; i++) q[i] = j % 2 ? both[i] >> 4 : both[i] & 15;
            place<Q4K>(block, lane, s * 8 + j, q);
        }
    }
}

// Two groups at a time: their lower four bits are the halves of the same 32 bytes, and a quarter of the superblock shares 32 of upper two.
void repack_q6k(const uint8_t* row, int groups, int lane, uint8_t* block) {
    for (int s = 0; s < (groups + 7) / 8; s++, row += 210) {
        ((uint16_t*)(block + Layout<Q6K>::super_at(s * 8)))[lane] = half_at(row + 208);
        for (int g = 0; g < 8; g++) {
            const uint8_t *low = row + g / 4 * 64 + g % 2 * 32, *up = row + 128 + g / 4 * 32;
            uint8_t* at = block + Layout<Q6K>::at(s * 8 + g);
            uint8_t q[GROUP];
            for (int i = 0; i < GROUP; i++)
                q[i] = (uint8_t)((g % 4 < 2 ? low[i] & 15 : low[i] >> 4) | (up[i] >> g % 4 * 2 & 3) << 4);
            for (int part = 0; part < 2; part++) at[Layout<Q6K>::numbers + part * BLOCK + lane] = row[192 + 2 * g + part];
            place<Q6K>(block, lane, s * 8 + g, q);
        }
    }
}

void repack_row(int format, const uint8_t* row, int groups, int lane, uint8_t* block) {
    if (format == Q8) repack_small<Q8>(row, groups, lane, block);
    else if (format == Q4) repack_small<Q4>(row, groups, lane, block);
    else if (format == Q4M) repack_small<Q4M>(row, groups, lane, block);
    else if (format == Q4W) repack_small<Q4W>(row, groups, lane, block);
    else if (format == Q4K) repack_q4k(row, groups, lane, block);
    else if (format == Q6K) repack_q6k(row, groups, lane, block);
}

}  // namespace

// Rows first .. first + count of a matrix, from floats (count, inputs); `importance` (inputs) or null weighs the errors of formats that
// search.  `first` must be a multiple of 32.  `data` is the whole matrix, its blocks `step` bytes apart, zero where nothing was packed.
// Returns how many rows hold something that the format would turn into another number: NaN, or beyond what its scales can be.
SK_API int64_t sk_infer_pack(int64_t format, const float* x, const float* importance, int64_t first, int64_t count, int64_t inputs, uint8_t* data,
                          int64_t step) {
    int64_t damaged = 0;
#pragma omp parallel for schedule(static) reduction(+ : damaged)
    for (int64_t b = 0; b < (count + BLOCK - 1) / BLOCK; b++) {
        uint8_t* block = data + (first / BLOCK + b) * step;
        std::vector<uint8_t> row((size_t)(searched((int)format) ? gguf_row_bytes((int)format, (int)inputs) : 0));
        for (int lane = 0; lane < BLOCK && b * BLOCK + lane < count; lane++) {
            const float* from = x + (b * BLOCK + lane) * inputs;
            damaged += takes_groups((int)format) && !(largest_magnitude(from, (int)inputs) <= (format == I8 ? FLT_MAX : MOST));
            if (row.empty()) {
                pack_floats((int)format, from, (int)inputs, lane, block);
                continue;
            }
            encode_row((int)format, from, importance, (int)inputs, row.data());
            repack_row((int)format, row.data(), groups_of((int)inputs), lane, block);
        }
    }
    return damaged;
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
    int64_t row = gguf_row_bytes((int)format, (int)inputs);
    int groups = groups_of((int)inputs);
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < (count + BLOCK - 1) / BLOCK; b++)
        for (int lane = 0; lane < BLOCK && b * BLOCK + lane < count; lane++) {
            const uint8_t* from = rows + (b * BLOCK + lane) * row;
            uint8_t* block = data + (first / BLOCK + b) * step;
            repack_row((int)format, from, groups, lane, block);
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

// The matrix product of infer_matmul.h: one tile of R rows by B blocks for each format, and the choice among them.
#include "infer_matmul.h"

namespace sk {

namespace {

constexpr int MAX_ROWS = 6;  // rows of a tile: 6 × 2 integer and 6 × 2 float accumulators fill the 32 registers

// ---- scales: what a group's integer dot product is multiplied by, for 16 outputs ---------------------------------------

struct Scales { Floats scale, minimum; };

template <int F> SK_INLINE Scales load_scales(const uint8_t* at, int g) {
    if constexpr (F == Q8 || F == Q4) return {load_half((const uint16_t*)at + g * 16), zeros()};
    else if constexpr (F == Q4M) return {load_half((const uint16_t*)at + g * 32), load_half((const uint16_t*)at + g * 32 + 16)};
    else if constexpr (F == Q4K) {  // superblock: 16 half scales, 16 half minima, then 8 × (16 scales, 16 minima) of 6 bits
        const uint8_t* super = at + (g / 8) * 320;
        const uint8_t* small = super + 64 + (g % 8) * 32;
        Floats minimum = mul(load_half((const uint16_t*)super + 16), load_u8(small + 16));
        return {mul(load_half((const uint16_t*)super), load_u8(small)), sub(zeros(), minimum)};
    } else return {zeros(), zeros()};
}

// ---- the tile ------------------------------------------------------------------------------------------------------------

template <int F> SK_INLINE Ints start_of(const Group& a) {
    if constexpr (F == Q4) return all_ints(a.minus8);
    else if constexpr (F == Q8 || F == I8) return all_ints(a.minus128);
    else return all_ints(0);
}

// Integer dot products of one group: acc[r][b] = Σ w·q.
template <int F, int R, int B>
SK_INLINE void dot_group(Ints (&acc)[R][B], const uint8_t* const (&w)[B], const Group* const (&a)[R], int g) {
    for (int r = 0; r < R; r++)
        for (int b = 0; b < B; b++) acc[r][b] = start_of<F>(a[r][g]);
    if constexpr (Layout<F>::nibbles) {
        for (int line = 0; line < 4; line++) {  // 4 bits: a line holds inputs 8·line .. +4 below and the next four above
            Bytes low[B], high[B];
            for (int b = 0; b < B; b++) {
                Bytes both = load_bytes(w[b] + (g * 4 + line) * 64);
                low[b] = low_nibbles(both);
                high[b] = high_nibbles(both);
            }
            for (int r = 0; r < R; r++) {
                int32_t first = quad_at(a[r][g].q + line * 8), second = quad_at(a[r][g].q + line * 8 + 4);
                for (int b = 0; b < B; b++) acc[r][b] = dot_u4(dot_u4(acc[r][b], low[b], first), high[b], second);
            }
        }
    } else {
        for (int line = 0; line < 8; line++) {
            Bytes bytes[B];
            for (int b = 0; b < B; b++) bytes[b] = load_bytes(w[b] + (g * 8 + line) * 64);
            for (int r = 0; r < R; r++)
                for (int b = 0; b < B; b++) acc[r][b] = dot_u8(acc[r][b], bytes[b], quad_at(a[r][g].q + line * 4));
        }
    }
}

template <int F, int R, int B>
SK_INLINE void sum_groups(Floats (&sum)[R][B], const uint8_t* const (&w)[B], const void* const* rows, int groups) {
    const Group* a[R];
    for (int r = 0; r < R; r++) a[r] = (const Group*)rows[r];
    for (int g = 0; g < groups; g++) {
        Ints acc[R][B];
        dot_group<F, R, B>(acc, w, a, g);
        for (int b = 0; b < B; b++) {
            Scales s = load_scales<F>(w[b] + Layout<F>::numbers(groups), g);
            for (int r = 0; r < R; r++) {
                Floats scale = all(a[r][g].scale);
                if constexpr (F != I8) scale = mul(s.scale, scale);
                sum[r][b] = fma(to_float(acc[r][b]), scale, sum[r][b]);
                if constexpr (Layout<F>::minimum) sum[r][b] = fma(s.minimum, all(a[r][g].scaled_sum), sum[r][b]);
            }
        }
    }
    if constexpr (F == I8)
        for (int b = 0; b < B; b++) {
            Floats scale = load16((const float*)(w[b] + Layout<F>::numbers(groups)));
            for (int r = 0; r < R; r++) sum[r][b] = mul(sum[r][b], scale);
        }
}

template <int F, int R, int B>
SK_INLINE void sum_floats(Floats (&sum)[R][B], const uint8_t* const (&w)[B], const void* const* rows, int groups) {
    for (int line = 0; line < groups * Layout<F>::lines; line++)
        for (int r = 0; r < R; r++)
            for (int b = 0; b < B; b++) {
                if constexpr (F == BF16)
                    sum[r][b] = dot_bf16(sum[r][b], load_bytes(w[b] + line * 64), (uint32_t)quad_at((const uint16_t*)rows[r] + 2 * line));
                else
                    sum[r][b] = fma(load16((const float*)w[b] + line * 16), all(((const float*)rows[r])[line]), sum[r][b]);
            }
}

template <int F, int R, int B>
void tile(const uint8_t* first, int groups, const void* const* rows, float* out, int64_t stride, const float* bias) {
    const uint8_t* w[B];
    for (int b = 0; b < B; b++) w[b] = first + b * Layout<F>::block(groups);
    Floats sum[R][B];
    for (int r = 0; r < R; r++)
        for (int b = 0; b < B; b++) sum[r][b] = zeros();
    if constexpr (F == BF16 || F == F32) sum_floats<F, R, B>(sum, w, rows, groups);
    else sum_groups<F, R, B>(sum, w, rows, groups);
    for (int r = 0; r < R; r++)
        for (int b = 0; b < B; b++) {
            if (bias) sum[r][b] = add(sum[r][b], load16(bias + b * LANES));
            store16(out + r * stride + b * LANES, sum[r][b]);
        }
}

template <int F, int B>
void tiles(const uint8_t* first, int groups, const void* const* rows, int count, float* out, int64_t stride, const float* bias) {
    using Tile = void (*)(const uint8_t*, int, const void* const*, float*, int64_t, const float*);
    static constexpr Tile table[MAX_ROWS] = {tile<F, 1, B>, tile<F, 2, B>, tile<F, 3, B>, tile<F, 4, B>, tile<F, 5, B>, tile<F, 6, B>};
    int passes = (count + MAX_ROWS - 1) / MAX_ROWS;  // even passes: 7 rows are 4 + 3, not 6 + 1
    for (int pass = 0, r = 0; pass < passes; pass++) {
        int n = (count - r + passes - pass - 1) / (passes - pass);
        table[n - 1](first, groups, rows + r, out + r * stride, stride, bias);
        r += n;
    }
}

template <int F>
void multiply_as(const Matrix& w, int index, int first_block, int blocks, const void* const* rows, int count, float* out, int64_t stride) {
    int groups = groups_of(w.inputs);
    const uint8_t* first = w.data + index * w.stride + first_block * Layout<F>::block(groups);
    const float* bias = w.bias ? w.bias + (index * blocks_of(w.outputs) + first_block) * LANES : nullptr;
    if (blocks == 2) tiles<F, 2>(first, groups, rows, count, out, stride, bias);
    else tiles<F, 1>(first, groups, rows, count, out, stride, bias);
}

// ---- one output's weights as floats ------------------------------------------------------------------------------------

template <int F> float weight_at(const uint8_t* block, int groups, int lane, int k) {
    const uint8_t* scales = block + Layout<F>::numbers(groups);
    int g = k / GROUP, i = k % GROUP;
    if constexpr (F == BF16) return float_of((uint32_t)((const uint16_t*)block)[(k / 2) * 32 + lane * 2 + k % 2] << 16);
    else if constexpr (F == F32) return ((const float*)block)[k * 16 + lane];
    else if constexpr (F == I8 || F == Q8) {
        float q = (float)((int)block[(k / 4) * 64 + lane * 4 + k % 4] - 128);
        return q * (F == I8 ? ((const float*)scales)[lane] : half_to_float(((const uint16_t*)scales)[g * 16 + lane]));
    } else {
        uint8_t both = block[(g * 4 + i / 8) * 64 + lane * 4 + i % 4];
        float q = (float)(i % 8 < 4 ? both & 15 : both >> 4);
        float s[16], m[16];
        Scales pair = load_scales<F>(scales, g);
        store16(s, pair.scale);
        store16(m, pair.minimum);
        return F == Q4 ? (q - 8) * s[lane] : q * s[lane] + m[lane];
    }
}

template <int F> void dequantise_as(const Matrix& w, int row, float* out) {
    int groups = groups_of(w.inputs);
    const uint8_t* block = w.data + (row / LANES) * Layout<F>::block(groups);
    for (int k = 0; k < w.inputs; k++) out[k] = weight_at<F>(block, groups, row % LANES, k);
}

// ---- activations ---------------------------------------------------------------------------------------------------------

void quantise_groups(const float* x, int groups, Group* out) {
    for (int g = 0; g < groups; g++, x += GROUP) {
        Floats lo = load16(x), hi = load16(x + 16);
        float most = largest(larger(magnitude(lo), magnitude(hi)));
        Floats inverse = all(most > 0 ? 127.0f / most : 0.0f);
        store_int8(out[g].q, mul(lo, inverse));
        store_int8(out[g].q + 16, mul(hi, inverse));
        int32_t sum = 0;
        for (int i = 0; i < GROUP; i++) sum += out[g].q[i];
        out[g].scale = most / 127.0f;
        out[g].scaled_sum = out[g].scale * (float)sum;
        out[g].minus8 = -8 * sum;
        out[g].minus128 = -128 * sum;
    }
}

}  // namespace

#define SK_FORMATS(CASE) CASE(Q8) CASE(Q4) CASE(Q4M) CASE(I8) CASE(BF16) CASE(F32) CASE(Q4K)

int64_t block_bytes(int format, int inputs) {
    switch (format) {
#define SK_CASE(F) case F: return Layout<F>::block(groups_of(inputs));
        SK_FORMATS(SK_CASE)
#undef SK_CASE
    }
    return 0;
}

bool takes_groups(int format) { return format != BF16 && format != F32; }

int64_t row_bytes(int format, int inputs) {
    int64_t groups = groups_of(inputs);
    return format == F32 ? groups * GROUP * 4 : format == BF16 ? groups * GROUP * 2 : groups * (int64_t)sizeof(Group);
}

void quantise_row(int format, const float* x, int inputs, void* row) {
    int groups = groups_of(inputs);
    if (format == F32) std::memcpy(row, x, (size_t)groups * GROUP * 4);
    else if (format == BF16)
        for (int i = 0; i < groups * 2; i++) store_bf16((uint16_t*)row + i * 16, load16(x + i * 16));
    else quantise_groups(x, groups, (Group*)row);
}

void dequantise_row(const Matrix& w, int row, float* out) {
    switch (w.format) {
#define SK_CASE(F) case F: return dequantise_as<F>(w, row, out);
        SK_FORMATS(SK_CASE)
#undef SK_CASE
    }
}

void multiply(const Matrix& w, int index, int first_block, int blocks, const void* const* rows, int count, float* out, int64_t stride) {
    switch (w.format) {
#define SK_CASE(F) case F: return multiply_as<F>(w, index, first_block, blocks, rows, count, out, stride);
        SK_FORMATS(SK_CASE)
#undef SK_CASE
    }
}

}  // namespace sk

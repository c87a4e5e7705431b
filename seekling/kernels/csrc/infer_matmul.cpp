// The matrix product of infer_matmul.h: one tile of R rows by a block for each format, and the choice among them.
#include "infer_matmul.h"
#include <array>
#include <utility>

namespace sk {

namespace {

// Rows of a tile: 6 × 2 integer and 6 × 2 float accumulators fill 32 registers, where numbers need no integers 12 × 2 do.
#ifdef __AVX512F__
template <int F> constexpr int MAX_ROWS = F == BF16 || F == F32 ? 12 : 6;
#else
template <int F> constexpr int MAX_ROWS = 6;
#endif
constexpr int FAR = 8192;    // bytes between what a single pass reads and what it asks for

// ---- scales: what a group's integer dot product is multiplied by, for one half block ------------------------------------------

struct Scales { Floats scale, minimum; };

template <int F> SK_INLINE Scales load_scales(const uint8_t* block, int g, int half) {
    const uint8_t* at = block + Layout<F>::scales_at(g);
    if constexpr (F == Q8 || F == Q4) return {load_half((const uint16_t*)at + half * 16), zeros()};
    else if constexpr (Layout<F>::halves) return {load_half((const uint16_t*)at + half * 16), load_half((const uint16_t*)at + 32 + half * 16)};
    else if constexpr (F == Q4K) {  // 32 scales and 32 minima of 6 bits, under the half-precision pair of the superblock
        const uint16_t* super = (const uint16_t*)(block + Layout<F>::super_at(g));
        Floats scale = mul(load_half(super + half * 16), load_u8(at + half * 16));
        return {scale, sub(zeros(), mul(load_half(super + 32 + half * 16), load_u8(at + 32 + half * 16)))};
    } else return {zeros(), zeros()};
}

// ---- the tile: R rows by the 32 outputs of a block ----------------------------------------------------------------------------

template <int F> SK_INLINE Ints start_of(const Group& a) {
    if constexpr (F == Q4) return all_ints(a.minus8);
    else if constexpr (F == Q8 || F == I8) return all_ints(16 * a.minus8);
    else return all_ints(0);
}

// Integer dot products of one group: acc[r][half] = Σ w·q.
template <int F, int R> SK_INLINE void dot_group(Ints (&acc)[R][2], const uint8_t* w, const Group* const (&a)[R], int g) {
    for (int r = 0; r < R; r++) acc[r][0] = acc[r][1] = start_of<F>(a[r][g]);
    for (int line = 0; line < Layout<F>::lines; line++) {
        Bytes left = load_bytes(w + line * 128), right = load_bytes(w + line * 128 + 64);
        for (int r = 0; r < R; r++) {
            if constexpr (Layout<F>::nibbles) {  // a line holds inputs 8·line .. +4 in the low halves, the next four in the high
                int32_t first = quad_at(a[r][g].q + line * 8), second = quad_at(a[r][g].q + line * 8 + 4);
                acc[r][0] = dot_u6(dot_u6(acc[r][0], low_nibbles(left), first), high_nibbles(left), second);
                acc[r][1] = dot_u6(dot_u6(acc[r][1], low_nibbles(right), first), high_nibbles(right), second);
            } else {
                int32_t quad = quad_at(a[r][g].q + line * 4);
                acc[r][0] = dot_u8(acc[r][0], left, quad);
                acc[r][1] = dot_u8(acc[r][1], right, quad);
            }
        }
    }
}

// Six bits: 16 inputs have a scale of their own, so that a group takes two sums.
template <int R> SK_INLINE void sum_sixes(Floats (&sum)[R][2], const uint8_t* w, const Group* const (&a)[R], int g) {
    const uint16_t* super = (const uint16_t*)(w + Layout<Q6K>::super_at(g));
    const uint8_t* lines = w + Layout<Q6K>::at(g);
    const int8_t* small = (const int8_t*)(lines + Layout<Q6K>::numbers);
    for (int part = 0; part < 2; part++)
        for (int half = 0; half < 2; half++) {
            Bytes a0 = load_bytes(lines), a1 = load_bytes(lines + 64), a2 = load_bytes(lines + 128);
            Bytes q[4] = {low_six(a0), low_six(a1), low_six(a2), upper_two(a0, a1, a2)};
            lines += 192;
            Floats scale = mul(load_half(super + half * 16), load_s8(small + part * 32 + half * 16));
            for (int r = 0; r < R; r++) {
                Ints acc = all_ints(-32 * a[r][g].sums[part]);
                for (int i = 0; i < 4; i++) acc = dot_u6(acc, q[i], quad_at(a[r][g].q + part * 16 + i * 4));
                sum[r][half] = fma(to_float(acc), mul(scale, all(a[r][g].scale)), sum[r][half]);
            }
        }
}

template <int F, int R>
SK_INLINE void sum_groups(Floats (&sum)[R][2], const uint8_t* w, const void* const* rows, int groups, const uint8_t* ahead, int each) {
    const Group* a[R];
    for (int r = 0; r < R; r++) a[r] = (const Group*)rows[r];
    for (int g = 0; g < groups; g++) {
        if (ahead) fetch(ahead + g * each, each);
        if constexpr (F == Q6K) {
            sum_sixes<R>(sum, w, a, g);
            continue;
        }
        Ints acc[R][2];
        dot_group<F, R>(acc, w + Layout<F>::at(g), a, g);
        for (int half = 0; half < 2; half++) {
            Scales s = load_scales<F>(w, g, half);
            for (int r = 0; r < R; r++) {
                Floats scale = all(a[r][g].scale);
                if constexpr (F != I8) scale = mul(s.scale, scale);
                sum[r][half] = fma(to_float(acc[r][half]), scale, sum[r][half]);
                if constexpr (Layout<F>::minimum) sum[r][half] = fma(s.minimum, all(a[r][g].scaled_sum), sum[r][half]);
            }
        }
    }
    if constexpr (F == I8)
        for (int half = 0; half < 2; half++) {
            Floats scale = load16((const float*)(w + Layout<F>::at(groups)) + half * 16);
            for (int r = 0; r < R; r++) sum[r][half] = mul(sum[r][half], scale);
        }
}

template <int F, int R>
SK_INLINE void sum_floats(Floats (&sum)[R][2], const uint8_t* w, const void* const* rows, int groups, const uint8_t* ahead, int each) {
    int part = each / Layout<F>::lines;  // a line or two at a time: many at once would hold up the sums
    for (int line = 0; line < groups * Layout<F>::lines; line++, w += 128) {
        if (ahead) fetch(ahead + (int64_t)line * part, part);
        for (int r = 0; r < R; r++)
            for (int half = 0; half < 2; half++) {
                if constexpr (F == BF16)
                    sum[r][half] = dot_bf16(sum[r][half], load_bytes(w + half * 64), (uint32_t)quad_at((const uint16_t*)rows[r] + 2 * line));
                else
                    sum[r][half] = fma(load16((const float*)w + half * 16), all(((const float*)rows[r])[line]), sum[r][half]);
            }
    }
}

// `ahead`: memory that is read next, fetched meanwhile, `each` bytes a group; null = leave it to the processor.
template <int F, int R>
void tile(const uint8_t* w, int groups, const void* const* rows, float* out, int64_t stride, const float* bias, const uint8_t* ahead, int each) {
    Floats sum[R][2];
    for (int r = 0; r < R; r++) sum[r][0] = sum[r][1] = zeros();
    if constexpr (F == BF16 || F == F32) sum_floats<F, R>(sum, w, rows, groups, ahead, each);
    else sum_groups<F, R>(sum, w, rows, groups, ahead, each);
    for (int r = 0; r < R; r++)
        for (int half = 0; half < 2; half++) {
            if (bias) sum[r][half] = add(sum[r][half], load16(bias + half * LANES));
            store16(out + r * stride + half * LANES, sum[r][half]);
        }
}

using Tile = void (*)(const uint8_t*, int, const void* const*, float*, int64_t, const float*, const uint8_t*, int);
template <int F, int... R> constexpr std::array<Tile, sizeof...(R)> tiles_of(std::integer_sequence<int, R...>) { return {tile<F, R + 1>...}; }

template <int F>
void multiply_as(const Matrix& w, int index, int block, const void* const* rows, int count, float* out, int64_t stride,
                 const uint8_t* next) {
    static constexpr auto tiles = tiles_of<F>(std::make_integer_sequence<int, MAX_ROWS<F>>());
    int groups = groups_of(w.inputs), passes = (count + MAX_ROWS<F> - 1) / MAX_ROWS<F>;
    const uint8_t* at = block_at(w, index, block);
    const float* bias = w.bias ? w.bias + (index * blocks_of(w.outputs) + block) * BLOCK : nullptr;
    // Several passes: the first brings the block from memory; the last two have it in the cache and fetch the one behind it meanwhile.
    // A single one fetches far ahead of where it reads.  Left alone, the processor loses a quarter to a third here; with one row or
    // two it does well by itself, as long as it reads on where it is.
    int64_t size = Layout<F>::block(groups);
    int fetching = std::max(1, std::min(2, passes - 1)), each = (int)((size / fetching / groups + 63) / 64 * 64);
    const uint8_t* behind = next ? next : at + size;
    for (int pass = 0, r = 0; pass < passes; pass++) {  // even passes: 7 rows are 4 + 3, not 6 + 1
        int n = (count - r + passes - pass - 1) / (passes - pass);
        int64_t part = pass - (passes - fetching);
        const uint8_t* ahead = part >= 0 ? behind + part * each * groups : nullptr;
        if (passes == 1 && !next) ahead = count > 2 ? at + FAR : nullptr;
        tiles[n - 1](at, groups, rows + r, out + r * stride, stride, bias, ahead, each);
        r += n;
    }
}

// ---- one output's weights as floats ------------------------------------------------------------------------------------

// A group of 32 inputs.  Every product below is exact in float32, so that a fused multiply-add gives the same bits.
template <int F> SK_INLINE void group_at(const uint8_t* block, int groups, int lane, int g, float* out) {
    const uint8_t *start = block + Layout<F>::at(g), *at = start + Layout<F>::line(0, lane / LANES) + lane % LANES * 4;
    if constexpr (F == F32)
        for (int i = 0; i < GROUP; i++) std::memcpy(out + i, at + i * 128, 4);
    else if constexpr (F == BF16)
        for (int i = 0; i < GROUP; i += 2) {
            uint32_t pair = (uint32_t)quad_at(at + i / 2 * 128);
            out[i] = float_of(pair << 16);
            out[i + 1] = float_of(pair & 0xffff0000u);
        }
    else if constexpr (F == Q6K) {
        float super = half_to_float(((const uint16_t*)(block + Layout<F>::super_at(g)))[lane]);
        for (int part = 0; part < 2; part++, out += 16) {
            float scale = super * (float)(int8_t)start[Layout<F>::numbers + part * BLOCK + lane];
            for (int j = 0; j < 4; j++) {
                int fourth = 0;
                for (int line = 0; line < 3; line++) {
                    int both = at[Layout<F>::line(part * 3 + line, 0) + j];
                    out[line * 4 + j] = (float)((both & 63) - 32) * scale;
                    fourth = fourth << 2 | both >> 6;
                }
                out[12 + j] = (float)(fourth - 32) * scale;
            }
        }
    } else {
        alignas(64) uint8_t q[GROUP];
        for (int line = 0; line < Layout<F>::lines; line++)
            if constexpr (Layout<F>::nibbles)
                for (int j = 0; j < 4; j++) {
                    q[line * 8 + j] = at[line * 128 + j] & 15;
                    q[line * 8 + 4 + j] = at[line * 128 + j] >> 4;
                }
            else std::memcpy(q + line * 4, at + line * 128, 4);
        const uint8_t* scales = block + Layout<F>::scales_at(g);
        const uint16_t* half = (const uint16_t*)scales;
        float scale, minimum = 0;
        if constexpr (F == I8) scale = ((const float*)(block + Layout<F>::at(groups)))[lane];
        else if constexpr (F == Q4K) {
            const uint16_t* super = (const uint16_t*)(block + Layout<F>::super_at(g));
            scale = half_to_float(super[lane]) * (float)scales[lane];
            minimum = -(half_to_float(super[BLOCK + lane]) * (float)scales[BLOCK + lane]);
        } else scale = half_to_float(half[lane]);
        if constexpr (Layout<F>::halves) minimum = half_to_float(half[BLOCK + lane]);
        constexpr int zero = F == Q8 || F == I8 ? 128 : F == Q4 ? 8 : 0;
        for (int i = 0; i < GROUP; i++) out[i] = (float)((int)q[i] - zero) * scale + minimum;
    }
}

SK_INLINE void put(float* out, const float* values, int count) { std::copy(values, values + count, out); }
SK_INLINE void put(uint16_t* out, const float* values, int count) {
    if (count == GROUP)
        for (int i = 0; i < GROUP; i += LANES) store_bf16(out + i, load16(values + i));
    else
        for (int i = 0; i < count; i++) out[i] = to_bf16(values[i]);
}

template <int F, class T> void dequantise_as(const Matrix& w, int row, T* out) {
    int groups = groups_of(w.inputs);
    const uint8_t* block = w.data + (int64_t)(row / BLOCK) * w.step;
    for (int g = 0; g < groups; g++) {
        alignas(64) float values[GROUP];
        group_at<F>(block, groups, row % BLOCK, g, values);
        put(out + g * GROUP, values, std::min(GROUP, w.inputs - g * GROUP));
    }
}

// ---- activations ---------------------------------------------------------------------------------------------------------

void quantise_groups(const float* x, int groups, Group* out) {
    for (int g = 0; g < groups; g++, x += GROUP) {
        Floats lo = load16(x), hi = load16(x + 16);
        float most = largest_magnitude(lo, hi);
        Floats inverse = all(most > 0 ? 127.0f / most : 0.0f);
        int32_t first = store_int8(out[g].q, mul(lo, inverse)), others = store_int8(out[g].q + 16, mul(hi, inverse)), sum = first + others;
        out[g].scale = most / 127.0f;
        out[g].scaled_sum = out[g].scale * (float)sum;
        out[g].minus8 = -8 * sum;
        out[g].sums[0] = (int16_t)first;
        out[g].sums[1] = (int16_t)others;
    }
}

}  // namespace

#define SK_FORMATS(CASE) CASE(Q8) CASE(Q4) CASE(Q4M) CASE(I8) CASE(BF16) CASE(F32) CASE(Q4K) CASE(Q6K) CASE(Q4W)

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

template <class T> void dequantise_any(const Matrix& w, int row, T* out) {
    switch (w.format) {
#define SK_CASE(F) case F: return dequantise_as<F>(w, row, out);
        SK_FORMATS(SK_CASE)
#undef SK_CASE
    }
}

void dequantise_row(const Matrix& w, int row, float* out) { dequantise_any(w, row, out); }
void dequantise_row(const Matrix& w, int row, uint16_t* out) { dequantise_any(w, row, out); }

void multiply(const Matrix& w, int index, int block, const void* const* rows, int count, float* out, int64_t stride,
              const uint8_t* next) {
    switch (w.format) {
#define SK_CASE(F) case F: return multiply_as<F>(w, index, block, rows, count, out, stride, next);
        SK_FORMATS(SK_CASE)
#undef SK_CASE
    }
}

}  // namespace sk

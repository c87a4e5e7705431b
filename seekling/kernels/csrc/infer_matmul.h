// Packed matrices, quantised activations, and their product for any number of rows.
//
// Every matrix is cut into blocks of 32 output rows.  A block's bytes lie exactly in the order in which the kernel reads them, one
// stream without a jump: for each group of 32 inputs its numbers, then its scales.  The numbers are lines of 64 bytes, for each 4
// inputs (2 for bfloat16, 1 for float32) one line of 16 outputs and one of the other 16, so that a register holds 16 outputs and
// one instruction adds four products to each.
//
// One row's result is always the same sequence of operations: integer dot products inside a group of 32 inputs (exact), then
// the groups in order.  So it depends neither on the other rows of the call, nor on how they are tiled, nor on threads.
#pragma once
#include "infer_simd.h"

namespace sk {

constexpr int GROUP = 32;  // inputs that share a scale; activations are quantised in the same groups
constexpr int LANES = 16;  // outputs in a register
constexpr int BLOCK = 32;  // outputs in a block

enum Format : int32_t {
    Q8 = 0,    // 8 bits, one half-precision scale a group: GGUF Q8_0
    Q4 = 1,    // 4 bits − 8, one half-precision scale a group: GGUF Q4_0
    Q4M = 2,   // 4 bits, half-precision scale and minimum a group: GGUF Q4_1
    I8 = 3,    // 8 bits, one float scale an output row: own int8
    BF16 = 4,
    F32 = 5,
    Q4K = 6,   // 4 bits, groups of 32 with 6-bit scale and minimum under a half-precision pair every 256: GGUF Q4_K
    Q6K = 7,   // 6 bits − 32, groups of 16 with an 8-bit scale under a half-precision one every 256: GGUF Q6_K
    Q4W = 8,   // 4 bits, half-precision scale and minimum every 64: no GGUF type has that
};

struct Matrix {  // mirrored in seekling/kernels/infer.py
    const uint8_t* data;
    const float* bias;  // (stack, outputs padded to blocks) or null
    int64_t stride;     // bytes of one matrix of a stack (experts, heads)
    int32_t format, outputs, inputs;
    int32_t step;       // bytes from block to block: more than one block's where two matrices lie interleaved
    int32_t slot, reserved;  // where adapters keep their change of it (infer_step_adapters.cpp); 0 = they have none
};

// 32 inputs of one row, quantised: value = scale · q.  What a weight's offset adds to the integer dot product is kept with them.
struct Group {
    int8_t q[GROUP];
    float scale;         // largest magnitude / 127
    float scaled_sum;    // scale · Σq, for weights with a minimum
    int32_t minus8;      // −8 · Σq, for weights stored as q + 8
    int16_t sums[2];     // Σq of the first 16 and of the others, for weights that have a scale every 16
};

SK_INLINE int groups_of(int inputs) { return (inputs + GROUP - 1) / GROUP; }
SK_INLINE int blocks_of(int outputs) { return (outputs + BLOCK - 1) / BLOCK; }
SK_INLINE int padded(int n) { return groups_of(n) * GROUP; }

// How a block of a format lies in memory.
template <int F> struct Layout {
    static constexpr bool nibbles = F == Q4 || F == Q4M || F == Q4K || F == Q4W;
    static constexpr bool supers = F == Q4K || F == Q6K;
    static constexpr bool minimum = F == Q4M || F == Q4K || F == Q4W;
    static constexpr bool halves = F == Q4M || F == Q4W;  // scale and minimum in half precision, 32 of each side by side
    // Lines of each half block, a group.  Q6K: of 16 inputs three quads in the lower six bits of one each, the fourth in their upper
    // two; the three lie side by side.
    static constexpr int lines = F == F32 ? 32 : F == BF16 ? 16 : F == Q6K ? 6 : nibbles ? 4 : 8;
    static constexpr int numbers = lines * 128;  // bytes of a group
    SK_INLINE int64_t line(int i, int half) { return F == Q6K ? i / 3 * 384 + half * 192 + i % 3 * 64 : i * 128 + half * 64; }
    static constexpr int scales = F == Q8 || F == Q4 || F == Q4K || F == Q6K ? 64 : halves ? 128 : 0;
    static constexpr int group = numbers + scales;
    static constexpr int header = F == Q4K ? 128 : 64;  // before every 8 groups 32 half scales, of Q4K 32 half minima too
    static constexpr int super = 8 * group + header;
    SK_INLINE int64_t super_at(int g) { return (int64_t)(g / 8) * super; }
    static constexpr int both = 2 * numbers + scales;  // of Q4W two groups with the scales of both behind them
    SK_INLINE int64_t at(int g) {
        if (F == Q4W) return (int64_t)(g / 2) * both + (g % 2) * numbers;
        return supers ? super_at(g) + header + (g % 8) * group : (int64_t)g * group;
    }
    SK_INLINE int64_t scales_at(int g) { return F == Q4W ? (int64_t)(g / 2) * both + 2 * numbers : at(g) + numbers; }
    SK_INLINE int64_t block(int groups) {
        if (F == Q4W) return (int64_t)((groups + 1) / 2) * both;
        return supers ? (int64_t)((groups + 7) / 8) * super : (int64_t)groups * group + (F == I8 ? 128 : 0);
    }
};

int64_t block_bytes(int format, int inputs);           // bytes of one block
int64_t row_bytes(int format, int inputs);             // bytes of one activation row as this format wants it
bool takes_groups(int format);                         // whether activations are Group, else bfloat16 or float
void quantise_row(int format, const float* x, int inputs, void* row);  // x is readable to padded(inputs), zeros at the end
void dequantise_row(const Matrix& w, int row, float* out);             // one output's weights as floats
void dequantise_row(const Matrix& w, int row, uint16_t* out);          // the same rounded to bfloat16

// out[r][0 .. 32) = W[block] · rows[r] (+ bias) of one matrix of a stack; row r lies at rows[r], its result at out + r · stride.
// Lanes beyond `outputs` are written too, as 0.  `next`: the block this thread reads after it, where that is not the one behind it in
// memory; it is asked for meanwhile.
void multiply(const Matrix& w, int index, int block, const void* const* rows, int count, float* out, int64_t stride,
              const uint8_t* next = nullptr);
SK_INLINE const uint8_t* block_at(const Matrix& w, int index, int block) { return w.data + index * w.stride + (int64_t)block * w.step; }

}  // namespace sk

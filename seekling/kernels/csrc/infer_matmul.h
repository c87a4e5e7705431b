// Packed matrices, quantised activations, and their product for any number of rows.
//
// Every matrix is cut into blocks of 16 output rows.  Inside a block the bytes lie in the order in which the kernel reads them:
// for each 4 inputs (2 for bfloat16, 1 for float32) the 16 outputs side by side, so that one register holds 16 outputs and one
// instruction adds four products to each.  A block's quantised numbers come first, its scales after them.
//
// One row's result is always the same sequence of operations: integer dot products inside a group of 32 inputs (exact), then
// the groups in order.  So it depends neither on the other rows of the call, nor on how they are tiled, nor on threads.
#pragma once
#include "infer_simd.h"

namespace sk {

constexpr int GROUP = 32;  // inputs that share a scale; activations are quantised in the same groups
constexpr int LANES = 16;  // outputs in a block

enum Format : int32_t {
    Q8 = 0,    // 8 bits, one half-precision scale a group: GGUF Q8_0
    Q4 = 1,    // 4 bits − 8, one half-precision scale a group: GGUF Q4_0
    Q4M = 2,   // 4 bits, half-precision scale and minimum a group: own int4, GGUF Q4_1
    I8 = 3,    // 8 bits, one float scale an output row: own int8
    BF16 = 4,
    F32 = 5,
    Q4K = 6,   // 4 bits, groups of 32 with 6-bit scale and minimum under a half-precision pair every 256: GGUF Q4_K
};

struct Matrix {  // mirrored in seekling/kernels/infer.py
    const uint8_t* data;
    const float* bias;  // (outputs) or null
    int64_t stride;     // bytes of one matrix of a stack (experts, heads)
    int32_t format, outputs, inputs, reserved;
};

// 32 inputs of one row, quantised: value = scale · q.  What a weight's offset adds to the integer dot product is kept with them.
struct Group {
    int8_t q[GROUP];
    float scale;         // largest magnitude / 127
    float scaled_sum;    // scale · Σq, for weights with a minimum
    int32_t minus8;      // −8 · Σq, for weights stored as q + 8
    int32_t minus128;    // −128 · Σq, for weights stored as q + 128
};

SK_INLINE int groups_of(int inputs) { return (inputs + GROUP - 1) / GROUP; }
SK_INLINE int blocks_of(int outputs) { return (outputs + LANES - 1) / LANES; }
SK_INLINE int padded(int n) { return groups_of(n) * GROUP; }

// How a format lies in memory: 64-byte lines of numbers a group, and the bytes of scales that follow all groups of a block.
template <int F> struct Layout {
    static constexpr bool nibbles = F == Q4 || F == Q4M || F == Q4K;
    static constexpr bool minimum = F == Q4M || F == Q4K;
    static constexpr int lines = F == F32 ? 32 : F == BF16 ? 16 : nibbles ? 4 : 8;
    SK_INLINE int64_t numbers(int groups) { return (int64_t)groups * lines * 64; }
    SK_INLINE int64_t scales(int groups) {
        switch (F) {
            case Q8: case Q4: return (int64_t)groups * 32;
            case Q4M: return (int64_t)groups * 64;
            case Q4K: return (int64_t)((groups + 7) / 8) * (64 + 8 * 32);
            case I8: return 64;
            default: return 0;
        }
    }
    SK_INLINE int64_t block(int groups) { return numbers(groups) + scales(groups); }
};

int64_t block_bytes(int format, int inputs);           // bytes of one block of 16 outputs
int64_t row_bytes(int format, int inputs);             // bytes of one activation row as this format wants it
bool takes_groups(int format);                         // whether activations are Group, else bfloat16 or float
void quantise_row(int format, const float* x, int inputs, void* row);  // x is readable to padded(inputs), zeros at the end
void dequantise_row(const Matrix& w, int row, float* out);             // one output's weights as floats: embeddings, tests

// out[r][0 .. 16·blocks) = W[first block ..] · rows[r] (+ bias), for blocks 1 or 2; row r lies at rows[r], its result at
// out + r · stride.  Lanes beyond `outputs` are written too (as 0): out must have room for whole blocks.
void multiply(const Matrix& w, int index, int first_block, int blocks, const void* const* rows, int count, float* out,
              int64_t stride);

}  // namespace sk

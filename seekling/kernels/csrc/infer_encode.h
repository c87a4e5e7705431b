// Floats as GGUF blocks of the formats whose scales are searched for: Q4_1, Q4_K, Q6_K; and of Q4W as the blocks of Q4_1, two and
// two of which have the same scale and minimum.
#pragma once
#include "infer_matmul.h"

namespace sk {

SK_INLINE bool searched(int format) { return format == Q4M || format == Q4K || format == Q6K || format == Q4W; }
constexpr float MOST = 65504.0f;  // the largest half-precision number: scales are such, and no weight may be larger
uint16_t to_half(float v);                       // nearest, ties to even; infinite beyond its range
int64_t gguf_row_bytes(int format, int inputs);  // of one row, its last block filled up

// One row.  `importance` (inputs) or null: how much an error of each input's weights counts; what fills up the last block then
// does not count.
void encode_row(int format, const float* x, const float* importance, int inputs, uint8_t* row);

}  // namespace sk

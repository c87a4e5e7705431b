// The cache in 8 bits (infer_attention.h): written token by token, opened a page at a time for the bfloat16 kernels.
#include "infer_attention.h"

namespace sk {

namespace {

// Scale of n numbers, and each as `128 + nearest whole number of scales`, handed to put(i, byte).
template <class Put> float code(const float* x, int n, Put put) {
    float most = largest_magnitude(x, n);
    float inverse = most > 0 ? 127.0f / most : 0.0f;
    for (int i = 0; i < n; i++) put(i, (uint8_t)(128 + (int)std::nearbyint(x[i] * inverse)));
    return most / 127.0f;
}

// 16 stored numbers times their scales, as bfloat16.
SK_INLINE void open16(const uint8_t* from, const float* scale, uint16_t* out) {
    store_bf16(out, mul(sub(load_u8(from), all(128.0f)), load16(scale)));
}

}  // namespace

void gqa_store8(uint8_t* head, int slot, const float* k, const float* v, int head_dim) {
    int64_t half = (int64_t)head_channels(head_dim) * PAGE;
    float* scales = (float*)(head + 2 * half);
    scales[slot] = code(k, head_dim, [&](int d, uint8_t q) { head[((d / 2) * PAGE + slot) * 2 + d % 2] = q; });
    scales[PAGE + slot] = code(v, head_dim, [&](int d, uint8_t q) {
        head[half + (((d / 16) * (PAGE / 2) + slot / 2) * 16 + d % 16) * 2 + slot % 2] = q;
    });
    for (int d = head_dim; d < head_channels(head_dim); d++) {  // memory is reused: what lies beside a head stays 0
        head[((d / 2) * PAGE + slot) * 2 + d % 2] = 128;
        head[half + (((d / 16) * (PAGE / 2) + slot / 2) * 16 + d % 16) * 2 + slot % 2] = 128;
    }
}

void gqa_open(const uint8_t* head, int head_dim, uint8_t* out) {
    int channels = head_channels(head_dim);
    int64_t half = (int64_t)channels * PAGE;
    const float* scales = (const float*)(head + 2 * half);
    alignas(64) float key[2 * PAGE], value[PAGE / 2][16];  // a scale for each number of a line
    for (int t = 0; t < PAGE; t++) key[2 * t] = key[2 * t + 1] = scales[t];
    for (int pair = 0; pair < PAGE / 2; pair++)
        for (int i = 0; i < 16; i++) value[pair][i] = scales[PAGE + 2 * pair + i % 2];
    uint16_t* to = (uint16_t*)out;
    for (int64_t i = 0; i < half; i += 16) open16(head + i, key + i % (2 * PAGE), to + i);
    for (int64_t i = 0; i < half; i += 16) open16(head + half + i, value[i / 32 % (PAGE / 2)], to + half + i);
}

void mla_store8(uint8_t* page, int slot, const float* latent, const float* key, int size, int rotary) {
    int row = mla_row(size, rotary);
    uint8_t* to = page + (int64_t)slot * row;
    float* scales = (float*)(page + (int64_t)PAGE * row) + 2 * slot;
    scales[0] = code(latent, size, [&](int i, uint8_t q) { to[i] = q; });
    scales[1] = code(key, rotary, [&](int i, uint8_t q) { to[size + i] = q; });
    for (int i = size + rotary; i < row; i++) to[i] = 128;
}

void mla_open(const uint8_t* page, int latent, int rotary, uint8_t* out) {
    int row = mla_row(latent, rotary);
    const float* scales = (const float*)(page + (int64_t)PAGE * row);
    for (int t = 0; t < PAGE; t++)
        for (int i = 0; i < row; i += 16) {
            float scale[16];
            for (int j = 0; j < 16; j++) scale[j] = scales[2 * t + (i + j >= latent)];
            open16(page + (int64_t)t * row + i, scale, (uint16_t*)out + (int64_t)t * row + i);
        }
}

}  // namespace sk

// Moving tokens to their experts and back: a stable counting sort, a row gather, and a sum of each token's K rows.
#include "common.h"

using namespace sk;

// Sorts the N*K (token, slot) pairs by expert, each expert's range padded to a multiple of `align` places.
// offsets[e..e+1] = the expert's range, place[n*K+k] = where that pair went, token[p] = token at place p, -1 in the padding,
// scale[p] = the pair's weight, 0 in the padding. Indices must lie in 0..E-1; token and scale hold N*K + E*(align-1) places.
SK_API void sk_sort_by_expert(const int64_t* indices, const float* weights, int64_t N, int64_t K, int64_t E, int64_t align,
                              int32_t* token, float* scale, int32_t* place, int64_t* offsets) {
    std::vector<int64_t> count(E, 0), next(E);
    for (int64_t i = 0; i < N * K; i++) count[indices[i]]++;
    offsets[0] = 0;
    for (int64_t e = 0; e < E; e++) {
        next[e] = offsets[e];
        offsets[e + 1] = offsets[e] + (count[e] + align - 1) / align * align;
        for (int64_t p = offsets[e] + count[e]; p < offsets[e + 1]; p++) token[p] = -1, scale[p] = 0.0f;
    }
    for (int64_t i = 0; i < N * K; i++) {
        int64_t p = next[indices[i]]++;
        token[p] = (int32_t)(i / K);
        scale[p] = weights[i];
        place[i] = (int32_t)p;
    }
}

// out[p] = x[token[p]], zeros where token is negative.
SK_API void sk_gather_rows(const char* x, const int32_t* token, char* out, int64_t P, int64_t row_bytes) {
#pragma omp parallel for schedule(static)
    for (int64_t p = 0; p < P; p++) {
        if (token[p] < 0) std::memset(out + p * row_bytes, 0, row_bytes);
        else std::memcpy(out + p * row_bytes, x + (int64_t)token[p] * row_bytes, row_bytes);
    }
}

// out[n] = base[n] + sum_k y[place[n, k]]; base may be null.
template <class T>
static void sum_places(const T* y, const int32_t* place, const T* base, T* out, int64_t N, int64_t K, int64_t D) {
#pragma omp parallel
    {
        std::vector<float> acc(D);
        float* a = acc.data();
#pragma omp for schedule(static)
        for (int64_t n = 0; n < N; n++) {
            if (base) {
                const T* b = base + n * D;
#pragma omp simd
                for (int64_t d = 0; d < D; d++) a[d] = load(b[d]);
            } else std::fill(acc.begin(), acc.end(), 0.0f);
            for (int64_t k = 0; k < K; k++) {
                const T* row = y + (int64_t)place[n * K + k] * D;
#pragma omp simd
                for (int64_t d = 0; d < D; d++) a[d] += load(row[d]);
            }
            T* o = out + n * D;
#pragma omp simd
            for (int64_t d = 0; d < D; d++) store(&o[d], a[d]);
        }
    }
}
SK_API void sk_sum_places_f32(const float* y, const int32_t* place, const float* base, float* out, int64_t N, int64_t K, int64_t D) { sum_places(y, place, base, out, N, K, D); }
SK_API void sk_sum_places_bf16(const bf16* y, const int32_t* place, const bf16* base, bf16* out, int64_t N, int64_t K, int64_t D) { sum_places(y, place, base, out, N, K, D); }

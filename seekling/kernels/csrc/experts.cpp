// Moving tokens to their experts and back: a stable counting sort, a row gather, and a sum of each token's K rows.
#include "common.h"

using namespace sk;

// Sorts the N*K (token, slot) pairs by expert. token[p] = token at sorted place p, place[n*K+k] = where that pair went,
// offsets[e..e+1] = the expert's range of places. Indices must lie in 0..E-1.
SK_API void sk_sort_by_expert(const int64_t* indices, int64_t N, int64_t K, int64_t E, int32_t* token, int32_t* place, int64_t* offsets) {
    std::fill(offsets, offsets + E + 1, 0);
    for (int64_t i = 0; i < N * K; i++) offsets[indices[i] + 1]++;
    for (int64_t e = 0; e < E; e++) offsets[e + 1] += offsets[e];
    std::vector<int64_t> next(offsets, offsets + E);
    for (int64_t i = 0; i < N * K; i++) {
        int64_t p = next[indices[i]]++;
        token[p] = (int32_t)(i / K);
        place[i] = (int32_t)p;
    }
}

SK_API void sk_gather_rows(const char* x, const int32_t* token, char* out, int64_t P, int64_t row_bytes) {
#pragma omp parallel for schedule(static)
    for (int64_t p = 0; p < P; p++) std::memcpy(out + p * row_bytes, x + (int64_t)token[p] * row_bytes, row_bytes);
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

// Shared by the float32 and the bfloat16 attention kernels: sizes, rotation, the span of keys a block of queries sees.
#pragma once
#include "common.h"

namespace sk {

typedef float vec __attribute__((vector_size(64), aligned(4)));
constexpr int64_t W = 16;   // floats a vector
constexpr int64_t QB = 32;  // query rows a block
static inline int64_t pad(int64_t n) { return (n + W - 1) / W * W; }

struct Shape { int64_t B, T, H, N, R, V; float scale; bool interleave; };

// Rotates R channels (pairs 2i, 2i+1 or i, i+R/2) into half-split order.
template <class T>
static inline void rotate_in(const T* x, const float* cos, const float* sin, float* out, int64_t R, bool interleave, float scale) {
    int64_t h = R / 2;
    for (int64_t i = 0; i < h; i++) {
        float a = load(interleave ? x[2 * i] : x[i]), b = load(interleave ? x[2 * i + 1] : x[i + h]);
        out[i] = (a * cos[i] - b * sin[i]) * scale;
        out[i + h] = (b * cos[i] + a * sin[i]) * scale;
    }
}
// Its transpose: gradients in half-split order back to the channels' own places.
template <class F>
static inline void rotate_back(const float* g, const float* cos, const float* sin, int64_t R, bool interleave, float scale, F put) {
    int64_t h = R / 2;
    for (int64_t i = 0; i < h; i++) {
        float a = g[i] * scale, b = g[i + h] * scale;
        put(interleave ? 2 * i : i, a * cos[i] + b * sin[i]);
        put(interleave ? 2 * i + 1 : i + h, b * cos[i] - a * sin[i]);
    }
}

// Keys that a block of query rows can see: [lo, hi), lo at a vector edge.
static inline void span(const int32_t* first, int64_t t0, int64_t rows, int64_t& lo, int64_t& hi) {
    int64_t f = first[t0];
    for (int64_t i = 1; i < rows; i++) f = std::min<int64_t>(f, first[t0 + i]);
    lo = f / W * W;
    hi = t0 + rows;
}

// The shared key's gradient is the sum of what every head gave it, added in head order.
template <class E>
static void sum_heads(const Shape& s, const float* dkr_heads, E* dkr) {
#pragma omp parallel for schedule(static)
    for (int64_t bt = 0; bt < s.B * s.T; bt++) {
        int64_t b = bt / s.T, t = bt % s.T;
        for (int64_t c = 0; c < s.R; c++) {
            float sum = 0;
            for (int64_t h = 0; h < s.H; h++) sum += dkr_heads[((b * s.H + h) * s.T + t) * s.R + c];
            store(&dkr[bt * s.R + c], sum);
        }
    }
}

// Score of a key that may not be seen; exp of it is 0.
constexpr float HIDDEN = -1e30f;
static inline void hide(float* r, int64_t from, int64_t to, int64_t n) {
    for (int64_t j = 0; j < from; j++) r[j] = HIDDEN;
    for (int64_t j = to; j < n; j++) r[j] = HIDDEN;
}

// r = exp((r - top) * scale) over a row of whole vectors; returns its sum, top = the row's largest score.
static inline float exp_row(float* r, int64_t n, float scale, float& top) {
    vec m = *(const vec*)r, total = {};
    for (int64_t j = W; j < n; j += W) { vec v = *(const vec*)(r + j); m = v > m ? v : m; }
    top = m[0];
    for (int64_t l = 1; l < W; l++) top = std::max(top, m[l]);
    for (int64_t j = 0; j < n; j += W) {
#pragma omp simd
        for (int64_t l = 0; l < W; l++) r[j + l] = fast_exp((r[j + l] - top) * scale);
        total += *(const vec*)(r + j);
    }
    float sum = 0;
    for (int64_t l = 0; l < W; l++) sum += total[l];
    return sum;
}

// r = p = exp(r * scale - lse), d = p (d - delta): the softmax's backward step over a row of whole vectors.
static inline void softmax_backward_row(float* r, float* d, int64_t n, float scale, float lse, float delta) {
    for (int64_t j = 0; j < n; j += W)
#pragma omp simd
        for (int64_t l = 0; l < W; l++) { float p = fast_exp(r[j + l] * scale - lse); r[j + l] = p; d[j + l] = p * (d[j + l] - delta); }
}

// C[MR x NV*W] (+)= A[MR x K] B[K x NV*W]; A by strides (so that it may be transposed), B and C rows contiguous.
template <int MR, int NV>
static inline void tile(int64_t K, const float* A, int64_t ar, int64_t ac, const float* B, int64_t ldb, float* C, int64_t ldc, bool add) {
    vec acc[MR][NV];
    for (int i = 0; i < MR; i++)
        for (int j = 0; j < NV; j++) acc[i][j] = add ? *(const vec*)(C + i * ldc + j * W) : vec{};
    for (int64_t k = 0; k < K; k++) {
        vec b[NV];
        for (int j = 0; j < NV; j++) b[j] = *(const vec*)(B + k * ldb + j * W);
        for (int i = 0; i < MR; i++) {
            float a = A[i * ar + k * ac];
            for (int j = 0; j < NV; j++) acc[i][j] += a * b[j];
        }
    }
    for (int i = 0; i < MR; i++)
        for (int j = 0; j < NV; j++) *(vec*)(C + i * ldc + j * W) = acc[i][j];
}

template <int NV>
static inline void panel(int64_t M, int64_t K, const float* A, int64_t ar, int64_t ac, const float* B, int64_t ldb, float* C, int64_t ldc, bool add) {
    constexpr int MR = NV >= 4 ? 4 : NV == 3 ? 6 : NV == 2 ? 8 : 12;
    int64_t i = 0;
    for (; i + MR <= M; i += MR) tile<MR, NV>(K, A + i * ar, ar, ac, B, ldb, C + i * ldc, ldc, add);
    for (; i < M; i++) tile<1, NV>(K, A + i * ar, ar, ac, B, ldb, C + i * ldc, ldc, add);
}

// N is a multiple of W.
static void gemm(int64_t M, int64_t N, int64_t K, const float* A, int64_t ar, int64_t ac, const float* B, int64_t ldb, float* C, int64_t ldc, bool add) {
    int64_t n = 0;
    for (; n + 4 * W <= N; n += 4 * W) panel<4>(M, K, A, ar, ac, B + n, ldb, C + n, ldc, add);
    switch ((N - n) / W) {
        case 3: panel<3>(M, K, A, ar, ac, B + n, ldb, C + n, ldc, add); break;
        case 2: panel<2>(M, K, A, ar, ac, B + n, ldb, C + n, ldc, add); break;
        case 1: panel<1>(M, K, A, ar, ac, B + n, ldb, C + n, ldc, add); break;
    }
}

}  // namespace sk

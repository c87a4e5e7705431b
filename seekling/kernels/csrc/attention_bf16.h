// The attention kernel for processors with bfloat16 dot products: the same steps as attention.cpp, operands in pairs.
//
// A dot instruction multiplies pairs of neighbours along the summed axis, so a right-hand operand is stored as 32-bit words
// that hold two rows each: word[k/2][n] = (B[k][n], B[k+1][n]).  Left-hand operands are plain bfloat16 rows.
// dK and dV are kept transposed, so that score blocks enter as right-hand operands and are never transposed themselves.
#pragma once
#include <immintrin.h>
#include "attention.h"

namespace sk {
namespace dot {

typedef uint32_t word;
static inline int64_t even(int64_t n) { return (n + 1) / 2 * 2; }
static inline uint16_t round_bits(float v) { bf16 b; store(&b, v); return b.bits; }

// C[MR x NV*W] (+)= A[MR x K] B[K x NV*W], K even.
template <int MR, int NV>
static inline void tile(int64_t K, const uint16_t* A, int64_t lda, const word* B, int64_t ldb, float* C, int64_t ldc, bool add) {
    __m512 acc[MR][NV];
    for (int i = 0; i < MR; i++)
        for (int j = 0; j < NV; j++) acc[i][j] = add ? _mm512_loadu_ps(C + i * ldc + j * W) : _mm512_setzero_ps();
    for (int64_t k = 0; k < K / 2; k++) {
        __m512bh b[NV];
        for (int j = 0; j < NV; j++) b[j] = (__m512bh)_mm512_loadu_si512(B + k * ldb + j * W);
        for (int i = 0; i < MR; i++) {
            int32_t pair; std::memcpy(&pair, A + i * lda + 2 * k, 4);
            __m512bh a = (__m512bh)_mm512_set1_epi32(pair);
            for (int j = 0; j < NV; j++) acc[i][j] = _mm512_dpbf16_ps(acc[i][j], a, b[j]);
        }
    }
    for (int i = 0; i < MR; i++)
        for (int j = 0; j < NV; j++) _mm512_storeu_ps(C + i * ldc + j * W, acc[i][j]);
}

template <int NV>
static inline void panel(int64_t M, int64_t K, const uint16_t* A, int64_t lda, const word* B, int64_t ldb, float* C, int64_t ldc, bool add) {
    constexpr int MR = NV >= 4 ? 4 : NV == 3 ? 6 : NV == 2 ? 8 : 12;
    int64_t i = 0;
    for (; i + MR <= M; i += MR) tile<MR, NV>(K, A + i * lda, lda, B, ldb, C + i * ldc, ldc, add);
    for (; i + 4 <= M; i += 4) tile<4, NV>(K, A + i * lda, lda, B, ldb, C + i * ldc, ldc, add);
    for (; i < M; i++) tile<1, NV>(K, A + i * lda, lda, B, ldb, C + i * ldc, ldc, add);
}

// N is a multiple of W.
static void gemm(int64_t M, int64_t N, int64_t K, const uint16_t* A, int64_t lda, const word* B, int64_t ldb, float* C, int64_t ldc, bool add) {
    int64_t n = 0;
    for (; n + 4 * W <= N; n += 4 * W) panel<4>(M, K, A, lda, B + n, ldb, C + n, ldc, add);
    switch ((N - n) / W) {
        case 3: panel<3>(M, K, A, lda, B + n, ldb, C + n, ldc, add); break;
        case 2: panel<2>(M, K, A, lda, B + n, ldb, C + n, ldc, add); break;
        case 1: panel<1>(M, K, A, lda, B + n, ldb, C + n, ldc, add); break;
    }
}

// float32 row -> bfloat16 row; n is a multiple of W here and below.
static inline void to_rows(const float* in, int64_t n, uint16_t* out) {
    for (int64_t j = 0; j < n; j += W) _mm256_storeu_si256((__m256i*)(out + j), (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(in + j)));
}
// Two float32 rows -> one row of words.
static inline void to_words(const float* a, const float* b, int64_t n, word* out) {
    for (int64_t j = 0; j < n; j += W) {
        __m512i lo = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(a + j)));
        __m512i hi = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(b + j)));
        _mm512_storeu_si512(out + j, _mm512_or_si512(lo, _mm512_slli_epi32(hi, 16)));
    }
}

static inline void copy_bits(const bf16* in, int64_t n, uint16_t* out) {
    for (int64_t i = 0; i < n; i++) out[i] = in[i].bits;
}
// out[c][r] = in[r][c] for 32-bit words; reads are strided, writes run along r.
static inline void transpose(const word* in, int64_t rows, int64_t ld, int64_t cols, word* out, int64_t ldo) {
    for (int64_t r0 = 0; r0 < rows; r0 += W)
        for (int64_t c = 0; c < cols; c++)
            for (int64_t r = r0; r < std::min(r0 + W, rows); r++) out[c * ldo + r] = in[r * ld + c];
}
// Rows of halves -> words of two rows each; a missing last row counts as zero.
static inline void pair_rows(const uint16_t* in, int64_t rows, int64_t ld, int64_t cols, word* out, int64_t ldo) {
    for (int64_t r = 0; r + 1 < rows; r += 2)
#pragma omp simd
        for (int64_t c = 0; c < cols; c++) out[r / 2 * ldo + c] = (word)in[r * ld + c] | (word)in[(r + 1) * ld + c] << 16;
    if (rows % 2)
        for (int64_t c = 0; c < cols; c++) out[rows / 2 * ldo + c] = in[(rows - 1) * ld + c];
}

// One head's operands: q, k, v as rows; kt, vt (words of two channels) for S and dP; kw, vw (words of two keys) for dQ and O;
// qt, the queries transposed, for dK.
struct Head {
    int64_t T, P, Pe, Ve, Pp, Vp, Tp;
    std::vector<uint16_t> q, k, v;
    std::vector<word> kt, vt, kw, vw, qw, qt;
    std::vector<float> turned;
    explicit Head(const Shape& s) : T(s.T), P(s.N + s.R), Pe(even(s.N + s.R)), Ve(even(s.V)), Pp(pad(s.N + s.R)), Vp(pad(s.V)), Tp(pad(s.T) + W) {
        q.assign(T * Pe, 0), k.assign(T * Pe, 0), v.assign(T * Ve, 0), turned.assign(s.R, 0);
        kt.assign(Pe / 2 * Tp, 0), vt.assign(Ve / 2 * Tp, 0), kw.assign(Tp / 2 * Pp, 0), vw.assign(Tp / 2 * Vp, 0);
        qw.assign(Tp / 2 * Pe, 0), qt.assign(Pe * (Tp / 2), 0);
    }
    void fill(const Shape& s, const bf16* q_, const bf16* kv, const bf16* kr, const float* cos, const float* sin, int64_t b, int64_t h, bool backward) {
        int64_t q_step = s.H * P, kv_step = s.H * (s.N + s.V);
        for (int64_t t = 0; t < T; t++) {
            const bf16 *qr = q_ + (b * T + t) * q_step + h * P, *kvr = kv + (b * T + t) * kv_step + h * (s.N + s.V);
            __builtin_prefetch(qr + 8 * q_step), __builtin_prefetch(qr + 8 * q_step + 32);
            __builtin_prefetch(kvr + 8 * kv_step), __builtin_prefetch(kvr + 8 * kv_step + 32);
            const float *c = cos + t * (s.R / 2), *sn = sin + t * (s.R / 2);
            uint16_t *qo = &q[t * Pe], *ko = &k[t * Pe];
            copy_bits(qr, s.N, qo), copy_bits(kvr, s.N, ko), copy_bits(kvr + s.N, s.V, &v[t * Ve]);
            rotate_in(qr + s.N, c, sn, turned.data(), s.R, s.interleave, 1.0f);
            for (int64_t i = 0; i < s.R; i++) qo[s.N + i] = round_bits(turned[i]);
            rotate_in(kr + (b * T + t) * s.R, c, sn, turned.data(), s.R, s.interleave, 1.0f);
            for (int64_t i = 0; i < s.R; i++) ko[s.N + i] = round_bits(turned[i]);
        }
        transpose((const word*)k.data(), T, Pe / 2, Pe / 2, kt.data(), Tp);
        pair_rows(v.data(), T, Ve, s.V, vw.data(), Vp);
        if (!backward) return;
        transpose((const word*)v.data(), T, Ve / 2, Ve / 2, vt.data(), Tp);
        pair_rows(k.data(), T, Pe, P, kw.data(), Pp);
        pair_rows(q.data(), T, Pe, P, qw.data(), Pe);
        transpose(qw.data(), (T + 1) / 2, Pe, P, qt.data(), Tp / 2);
    }
};

static void forward(const Shape& s, const bf16* q, const bf16* kv, const bf16* kr, const float* cos, const float* sin, const int32_t* first, bf16* o, float* lse) {
#pragma omp parallel
    {
        Head head(s);
        std::vector<float> S(QB * head.Tp), O(QB * head.Vp);
        std::vector<uint16_t> P16(QB * head.Tp);
#pragma omp for schedule(dynamic, 1)
        for (int64_t bh = 0; bh < s.B * s.H; bh++) {
            int64_t b = bh / s.H, h = bh % s.H;
            head.fill(s, q, kv, kr, cos, sin, b, h, false);
            for (int64_t t0 = 0; t0 < s.T; t0 += QB) {
                int64_t rows = std::min(QB, s.T - t0), lo, hi;
                span(first + b * s.T, t0, rows, lo, hi);
                int64_t n = pad(hi - lo);
                gemm(rows, n, head.Pe, &head.q[t0 * head.Pe], head.Pe, &head.kt[lo], head.Tp, S.data(), n, false);
                float inv[QB];
                for (int64_t i = 0; i < rows; i++) {
                    float* r = &S[i * n];
                    int64_t from = first[b * s.T + t0 + i] - lo, to = t0 + i + 1 - lo;
                    hide(r, from, to, n);
                    float top, sum = exp_row(r, n, s.scale, top);
                    inv[i] = 1.0f / sum;
                    lse[bh * s.T + t0 + i] = top * s.scale + std::log(sum);
                    to_rows(r, n, &P16[i * n]);
                }
                gemm(rows, head.Vp, even(hi - lo), P16.data(), n, &head.vw[lo / 2 * head.Vp], head.Vp, O.data(), head.Vp, false);
                for (int64_t i = 0; i < rows; i++) {
                    bf16* out = o + ((b * s.T + t0 + i) * s.H + h) * s.V;
                    for (int64_t c = 0; c < s.V; c++) store(&out[c], O[i * head.Vp + c] * inv[i]);
                }
            }
        }
    }
}

static void backward(const Shape& s, const bf16* dout, const bf16* q, const bf16* kv, const bf16* kr, const float* cos, const float* sin, const int32_t* first,
                     const bf16* o, const float* lse, bf16* dq, bf16* dkv, bf16* dkr) {
    std::vector<float> dkr_heads(s.B * s.H * s.T * s.R);
#pragma omp parallel
    {
        Head head(s);
        int64_t Pp = head.Pp, Vp = head.Vp, Tp = head.Tp;
        std::vector<float> S(QB * Tp), dS(QB * Tp), dQ(QB * Pp), dKt(Pp * Tp), dVt(Vp * Tp), dK(s.T * Pp), dV(s.T * Vp), last(Tp, 0.0f);
        std::vector<uint16_t> dS16(QB * Tp), dO16(QB * head.Ve, 0), dOt(Vp * QB, 0);
        std::vector<word> Pw(QB / 2 * Tp), dSw(QB / 2 * Tp);
#pragma omp for schedule(dynamic, 1)
        for (int64_t bh = 0; bh < s.B * s.H; bh++) {
            int64_t b = bh / s.H, h = bh % s.H;
            head.fill(s, q, kv, kr, cos, sin, b, h, true);
            std::fill(dKt.begin(), dKt.end(), 0.0f);
            std::fill(dVt.begin(), dVt.end(), 0.0f);
            for (int64_t t0 = 0; t0 < s.T; t0 += QB) {
                int64_t rows = std::min(QB, s.T - t0), lo, hi;
                span(first + b * s.T, t0, rows, lo, hi);
                int64_t n = pad(hi - lo);
                float delta[QB];
                if (rows % 2) for (int64_t c = 0; c < s.V; c++) dOt[c * QB + rows] = 0;
                for (int64_t i = 0; i < rows; i++) {
                    const bf16* gr = dout + ((b * s.T + t0 + i) * s.H + h) * s.V;
                    const bf16* out = o + ((b * s.T + t0 + i) * s.H + h) * s.V;
                    float dot = 0;
#pragma omp simd reduction(+ : dot)
                    for (int64_t c = 0; c < s.V; c++) dot += load(gr[c]) * load(out[c]);
                    copy_bits(gr, s.V, &dO16[i * head.Ve]);
                    for (int64_t c = 0; c < s.V; c++) dOt[c * QB + i] = gr[c].bits;
                    delta[i] = dot;
                }
                gemm(rows, n, head.Pe, &head.q[t0 * head.Pe], head.Pe, &head.kt[lo], Tp, S.data(), n, false);
                gemm(rows, n, head.Ve, dO16.data(), head.Ve, &head.vt[lo], Tp, dS.data(), n, false);
                for (int64_t i = 0; i < rows; i++) {
                    float *r = &S[i * n], *d = &dS[i * n], l = lse[bh * s.T + t0 + i], dl = delta[i];
                    int64_t from = first[b * s.T + t0 + i] - lo, to = t0 + i + 1 - lo;
                    hide(r, from, to, n);
                    softmax_backward_row(r, d, n, s.scale, l, dl);
                    to_rows(d, n, &dS16[i * n]);
                    if (i % 2) {
                        to_words(r - n, r, n, &Pw[i / 2 * n]);
                        to_words(d - n, d, n, &dSw[i / 2 * n]);
                    } else if (i + 1 == rows) {
                        to_words(r, last.data(), n, &Pw[i / 2 * n]);
                        to_words(d, last.data(), n, &dSw[i / 2 * n]);
                    }
                }
                gemm(s.V, n, even(rows), dOt.data(), QB, Pw.data(), n, &dVt[lo], Tp, true);
                gemm(rows, Pp, even(hi - lo), dS16.data(), n, &head.kw[lo / 2 * Pp], Pp, dQ.data(), Pp, false);
                gemm(head.P, n, even(rows), (const uint16_t*)&head.qt[t0 / 2], Tp, dSw.data(), n, &dKt[lo], Tp, true);
                for (int64_t i = 0; i < rows; i++) {
                    int64_t t = t0 + i;
                    bf16* out = dq + ((b * s.T + t) * s.H + h) * head.P;
                    const float* gr = &dQ[i * Pp];
                    for (int64_t c = 0; c < s.N; c++) store(&out[c], gr[c] * s.scale);
                    rotate_back(gr + s.N, cos + t * (s.R / 2), sin + t * (s.R / 2), s.R, s.interleave, s.scale, [&](int64_t c, float v) { store(&out[s.N + c], v); });
                }
            }
            transpose((const word*)dKt.data(), head.P, Tp, s.T, (word*)dK.data(), Pp);
            transpose((const word*)dVt.data(), s.V, Tp, s.T, (word*)dV.data(), Vp);
            for (int64_t t = 0; t < s.T; t++) {
                bf16* out = dkv + ((b * s.T + t) * s.H + h) * (s.N + s.V);
                float* g = &dK[t * Pp];
                for (int64_t c = 0; c < s.N; c++) store(&out[c], g[c] * s.scale);
                for (int64_t c = 0; c < s.V; c++) store(&out[s.N + c], dV[t * Vp + c]);
                float* shared = &dkr_heads[(bh * s.T + t) * s.R];
                rotate_back(g + s.N, cos + t * (s.R / 2), sin + t * (s.R / 2), s.R, s.interleave, s.scale, [&](int64_t c, float v) { shared[c] = v; });
            }
        }
    }
    sum_heads(s, dkr_heads.data(), dkr);
}

}  // namespace dot
}  // namespace sk

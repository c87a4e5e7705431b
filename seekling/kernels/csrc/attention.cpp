// MLA attention for whole rows, forward and backward: rotation, shared key, causal and document mask, softmax, all in one.
//
// Works on blocks of QB query rows of one (sequence, head) against all keys they may see, in float32 registers:
// S = Q Kt, P = softmax S, O = P V; backward recomputes S from the kept log-sum-exp (as FlashAttention does).
// Layouts: q (B, T, H, P), kv (B, T, H, N + V) = [k_nope | v], kr (B, T, R) shared key, o (B, T, H, V); P = N + R.
// q and kr come unrotated; cos and sin are (T, R/2). first[b, t] = first key position that t may see (its document's start).
#include "attention.h"

using namespace sk;

// One head's operands in float32, padded to whole vectors.
struct Head {
    int64_t T, P, Pp, Vp, Tp;
    std::vector<float> q, k, kt, v, vt;
    explicit Head(const Shape& s) : T(s.T), P(s.N + s.R), Pp(pad(s.N + s.R)), Vp(pad(s.V)), Tp(pad(s.T)) {
        q.assign(T * Pp, 0), k.assign(T * Pp, 0), kt.assign(Pp * Tp, 0), v.assign(T * Vp, 0), vt.assign(Vp * Tp, 0);
    }
    template <class E>
    void fill(const Shape& s, const E* q_, const E* kv, const E* kr, const float* cos, const float* sin, int64_t b, int64_t h, bool backward) {
        for (int64_t t = 0; t < T; t++) {
            const E* qr = q_ + ((b * T + t) * s.H + h) * P;
            const E* kvr = kv + ((b * T + t) * s.H + h) * (s.N + s.V);
            const float *c = cos + t * (s.R / 2), *sn = sin + t * (s.R / 2);
            float *qo = &q[t * Pp], *ko = &k[t * Pp], *vo = &v[t * Vp];
            for (int64_t i = 0; i < s.N; i++) qo[i] = load(qr[i]) * s.scale;
            rotate_in(qr + s.N, c, sn, qo + s.N, s.R, s.interleave, s.scale);
            for (int64_t i = 0; i < s.N; i++) ko[i] = load(kvr[i]);
            rotate_in(kr + (b * T + t) * s.R, c, sn, ko + s.N, s.R, s.interleave, 1.0f);
            for (int64_t i = 0; i < s.V; i++) vo[i] = load(kvr[s.N + i]);
        }
        transpose(k.data(), Pp, kt.data(), P);
        if (backward) transpose(v.data(), Vp, vt.data(), s.V);
    }
    void transpose(const float* in, int64_t ld, float* out, int64_t cols) {
        for (int64_t t0 = 0; t0 < T; t0 += W)
            for (int64_t c = 0; c < cols; c++)
                for (int64_t t = t0; t < std::min(t0 + W, T); t++) out[c * Tp + t] = in[t * ld + c];
    }
};

template <class E>
static void forward(const Shape& s, const E* q, const E* kv, const E* kr, const float* cos, const float* sin, const int32_t* first, E* o, float* lse) {
#pragma omp parallel
    {
        Head head(s);
        std::vector<float> S(QB * head.Tp), O(QB * head.Vp);
#pragma omp for schedule(dynamic, 1)
        for (int64_t bh = 0; bh < s.B * s.H; bh++) {
            int64_t b = bh / s.H, h = bh % s.H;
            head.fill(s, q, kv, kr, cos, sin, b, h, false);
            for (int64_t t0 = 0; t0 < s.T; t0 += QB) {
                int64_t rows = std::min(QB, s.T - t0), lo, hi;
                span(first + b * s.T, t0, rows, lo, hi);
                int64_t n = pad(hi - lo);
                float inv[QB];
                gemm(rows, n, head.P, &head.q[t0 * head.Pp], head.Pp, 1, &head.kt[lo], head.Tp, S.data(), n, false);
                for (int64_t i = 0; i < rows; i++) {
                    float* r = &S[i * n];
                    int64_t from = first[b * s.T + t0 + i] - lo, to = t0 + i + 1 - lo;
                    hide(r, from, to, n);
                    float top, sum = exp_row(r, n, 1.0f, top);  // q already carries the scale
                    inv[i] = 1.0f / sum;
                    lse[bh * s.T + t0 + i] = top + std::log(sum);
                }
                gemm(rows, head.Vp, hi - lo, S.data(), n, 1, &head.v[lo * head.Vp], head.Vp, O.data(), head.Vp, false);
                for (int64_t i = 0; i < rows; i++) {
                    E* out = o + ((b * s.T + t0 + i) * s.H + h) * s.V;
                    for (int64_t c = 0; c < s.V; c++) store(&out[c], O[i * head.Vp + c] * inv[i]);
                }
            }
        }
    }
}

template <class E>
static void backward(const Shape& s, const E* dout, const E* q, const E* kv, const E* kr, const float* cos, const float* sin, const int32_t* first,
                     const E* o, const float* lse, E* dq, E* dkv, E* dkr) {
    std::vector<float> dkr_heads(s.B * s.H * s.T * s.R);
#pragma omp parallel
    {
        Head head(s);
        int64_t Pp = head.Pp, Vp = head.Vp;
        std::vector<float> S(QB * head.Tp), dS(QB * head.Tp), dO(QB * Vp, 0), dQ(QB * Pp), dK(s.T * Pp), dV(s.T * Vp);
#pragma omp for schedule(dynamic, 1)
        for (int64_t bh = 0; bh < s.B * s.H; bh++) {
            int64_t b = bh / s.H, h = bh % s.H;
            head.fill(s, q, kv, kr, cos, sin, b, h, true);
            std::fill(dK.begin(), dK.end(), 0.0f);
            std::fill(dV.begin(), dV.end(), 0.0f);
            for (int64_t t0 = 0; t0 < s.T; t0 += QB) {
                int64_t rows = std::min(QB, s.T - t0), lo, hi;
                span(first + b * s.T, t0, rows, lo, hi);
                int64_t n = pad(hi - lo);
                float delta[QB];
                for (int64_t i = 0; i < rows; i++) {
                    const E* g = dout + ((b * s.T + t0 + i) * s.H + h) * s.V;
                    const E* out = o + ((b * s.T + t0 + i) * s.H + h) * s.V;
                    float dot = 0;
                    for (int64_t c = 0; c < s.V; c++) { float v = load(g[c]); dO[i * Vp + c] = v; dot += v * load(out[c]); }
                    delta[i] = dot;
                }
                gemm(rows, n, head.P, &head.q[t0 * Pp], Pp, 1, &head.kt[lo], head.Tp, S.data(), n, false);
                gemm(rows, n, s.V, dO.data(), Vp, 1, &head.vt[lo], head.Tp, dS.data(), n, false);
                for (int64_t i = 0; i < rows; i++) {
                    float *r = &S[i * n], *d = &dS[i * n], l = lse[bh * s.T + t0 + i], dl = delta[i];
                    int64_t from = first[b * s.T + t0 + i] - lo, to = t0 + i + 1 - lo;
                    hide(r, from, to, n);
                    softmax_backward_row(r, d, n, 1.0f, l, dl);
                }
                gemm(hi - lo, Vp, rows, S.data(), 1, n, dO.data(), Vp, &dV[lo * Vp], Vp, true);
                gemm(rows, Pp, hi - lo, dS.data(), n, 1, &head.k[lo * Pp], Pp, dQ.data(), Pp, false);
                gemm(hi - lo, Pp, rows, dS.data(), 1, n, &head.q[t0 * Pp], Pp, &dK[lo * Pp], Pp, true);
                for (int64_t i = 0; i < rows; i++) {
                    int64_t t = t0 + i;
                    E* out = dq + ((b * s.T + t) * s.H + h) * head.P;
                    const float* g = &dQ[i * Pp];
                    for (int64_t c = 0; c < s.N; c++) store(&out[c], g[c] * s.scale);
                    rotate_back(g + s.N, cos + t * (s.R / 2), sin + t * (s.R / 2), s.R, s.interleave, s.scale, [&](int64_t c, float v) { store(&out[s.N + c], v); });
                }
            }
            for (int64_t t = 0; t < s.T; t++) {  // q already carried the scale, so dK needs none
                E* out = dkv + ((b * s.T + t) * s.H + h) * (s.N + s.V);
                for (int64_t c = 0; c < s.N; c++) store(&out[c], dK[t * Pp + c]);
                for (int64_t c = 0; c < s.V; c++) store(&out[s.N + c], dV[t * Vp + c]);
                float* shared = &dkr_heads[(bh * s.T + t) * s.R];
                rotate_back(&dK[t * Pp + s.N], cos + t * (s.R / 2), sin + t * (s.R / 2), s.R, s.interleave, 1.0f, [&](int64_t c, float v) { shared[c] = v; });
            }
        }
    }
    sum_heads(s, dkr_heads.data(), dkr);
}

#ifdef __AVX512BF16__
#include "attention_bf16.h"
static inline void forward(const Shape& s, const bf16* q, const bf16* kv, const bf16* kr, const float* cos, const float* sin, const int32_t* first, bf16* o, float* lse) {
    dot::forward(s, q, kv, kr, cos, sin, first, o, lse);
}
static inline void backward(const Shape& s, const bf16* dout, const bf16* q, const bf16* kv, const bf16* kr, const float* cos, const float* sin, const int32_t* first,
                            const bf16* o, const float* lse, bf16* dq, bf16* dkv, bf16* dkr) {
    dot::backward(s, dout, q, kv, kr, cos, sin, first, o, lse, dq, dkv, dkr);
}
#endif

#define BOTH(E, X) \
    SK_API void sk_mla_forward_##X(const E* q, const E* kv, const E* kr, const float* cos, const float* sin, const int32_t* first, E* o, float* lse, \
                                   int64_t B, int64_t T, int64_t H, int64_t N, int64_t R, int64_t V, float scale, int interleave) { \
        forward(Shape{B, T, H, N, R, V, scale, interleave != 0}, q, kv, kr, cos, sin, first, o, lse); } \
    SK_API void sk_mla_backward_##X(const E* dout, const E* q, const E* kv, const E* kr, const float* cos, const float* sin, const int32_t* first, const E* o, \
                                    const float* lse, E* dq, E* dkv, E* dkr, int64_t B, int64_t T, int64_t H, int64_t N, int64_t R, int64_t V, float scale, int interleave) { \
        backward(Shape{B, T, H, N, R, V, scale, interleave != 0}, dout, q, kv, kr, cos, sin, first, o, lse, dq, dkv, dkr); }
BOTH(float, f32)
BOTH(bf16, bf16)

// Attention over trees of tokens (tree_attention.h), forward and backward: rotation, softmax and both products in one.
#include "tree_attention.h"

using namespace sk;

namespace sk {
namespace tree {

// Operands of one key-value head in float32: keys and values as rows and transposed.
struct Keys {
    int64_t Pp, Tp;
    std::vector<float> k, v, kt, vt;
    Keys(const Shape& s, const Tree& tree) : Pp(pad(s.P)), Tp(pad(tree.widest) + W) {
        k.assign(Tp * Pp, 0), v.assign(Tp * Pp, 0), kt.assign(Pp * Tp, 0), vt.assign(Pp * Tp, 0);
    }
    template <class E>
    void fill(const Shape& s, const Segment& part, int64_t base, int64_t g, const E* k_, const E* v_, const float* cos, const float* sin) {
        for (int64_t t = 0; t < part.length; t++) {
            const int64_t at = ((part.start + t) * s.G + g) * s.P, angle = (part.position + t) * (s.R / 2);
            float *ko = &k[(base + t) * Pp], *vo = &v[(base + t) * Pp];
            rotate_in(k_ + at, cos + angle, sin + angle, ko, s.R, s.interleave, 1.0f);
            for (int64_t c = s.R; c < s.P; c++) ko[c] = load(k_[at + c]);
            for (int64_t c = 0; c < s.P; c++) vo[c] = load(v_[at + c]);
            for (int64_t c = 0; c < s.P; c++) kt[c * Tp + base + t] = ko[c], vt[c * Tp + base + t] = vo[c];
        }
    }
};

template <class E>
static void fill_queries(const Shape& s, const Segment& part, int64_t h, const E* q_, const float* cos, const float* sin, float* q, int64_t Pp) {
    for (int64_t t = 0; t < part.length; t++) {  // they carry the scale
        const int64_t at = ((part.start + t) * s.H + h) * s.P, angle = (part.position + t) * (s.R / 2);
        rotate_in(q_ + at, cos + angle, sin + angle, q + t * Pp, s.R, s.interleave, s.scale);
        for (int64_t c = s.R; c < s.P; c++) q[t * Pp + c] = load(q_[at + c]) * s.scale;
    }
}

template <class E>
static void forward(const Shape& s, const Tree& tree, const E* q, const E* k, const E* v, const float* cos, const float* sin, E* o, float* lse) {
#pragma omp parallel
    {
        Keys keys(s, tree);
        int64_t Pp = keys.Pp, Tp = keys.Tp;
        std::vector<float> own(tree.longest * Pp, 0), S(QB * Tp), O(QB * Pp);
#pragma omp for schedule(dynamic, 1)
        for (int64_t item = 0; item < tree.groups * s.G; item++) {
            int64_t group = item / s.G, g = item % s.G;
            for (int64_t number = tree.first[group]; number < tree.first[group + 1]; number++) {
                const Segment& part = tree.segments[number];
                int64_t base = number == tree.first[group] ? 0 : tree.segments[tree.first[group]].length;
                keys.fill(s, part, base, g, k, v, cos, sin);
                for (int64_t h = g * (s.H / s.G); h < (g + 1) * (s.H / s.G); h++) {
                    fill_queries(s, part, h, q, cos, sin, own.data(), Pp);
                    for (int64_t t0 = 0; t0 < part.length; t0 += QB) {
                        int64_t rows = std::min<int64_t>(QB, part.length - t0);
                        Span seen(base, s.window, t0, rows);
                        int64_t n = seen.size(), lo = seen.lo;
                        float inv[QB];
                        gemm(rows, n, s.P, &own[t0 * Pp], Pp, 1, &keys.kt[lo], Tp, S.data(), n, false);
                        for (int64_t i = 0; i < rows; i++) {
                            float* r = &S[i * n];
                            seen.hide_row(r, i);
                            float top, sum = exp_row(r, n, 1.0f, top);
                            inv[i] = 1.0f / sum;
                            lse[(part.start + t0 + i) * s.H + h] = top + std::log(sum);
                        }
                        gemm(rows, Pp, seen.hi - lo, S.data(), n, 1, &keys.v[lo * Pp], Pp, O.data(), Pp, false);
                        for (int64_t i = 0; i < rows; i++)
                            for (int64_t c = 0; c < s.P; c++) store(&o[((part.start + t0 + i) * s.H + h) * s.P + c], O[i * Pp + c] * inv[i]);
                    }
                }
            }
        }
    }
}

template <class E>
static void backward(const Shape& s, const Tree& tree, const E* dout, const E* q, const E* k, const E* v, const float* cos, const float* sin, const E* o,
                     const float* lse, E* dq, E* dk, E* dv) {
#pragma omp parallel
    {
        Keys keys(s, tree);
        int64_t Pp = keys.Pp, Tp = keys.Tp;
        std::vector<float> own(tree.longest * Pp, 0), S(QB * Tp), dS(QB * Tp), dO(QB * Pp, 0), dQ(QB * Pp), dK(Tp * Pp), dV(Tp * Pp);
        auto flush = [&](const Segment& part, int64_t base, int64_t g) {  // the queries carried the scale, so dK needs none
            for (int64_t t = 0; t < part.length; t++) {
                const int64_t at = ((part.start + t) * s.G + g) * s.P, angle = (part.position + t) * (s.R / 2);
                const float* gr = &dK[(base + t) * Pp];
                rotate_back(gr, cos + angle, sin + angle, s.R, s.interleave, 1.0f, [&](int64_t c, float x) { store(&dk[at + c], x); });
                for (int64_t c = s.R; c < s.P; c++) store(&dk[at + c], gr[c]);
                for (int64_t c = 0; c < s.P; c++) store(&dv[at + c], dV[(base + t) * Pp + c]);
            }
        };
#pragma omp for schedule(dynamic, 1)
        for (int64_t item = 0; item < tree.groups * s.G; item++) {
            int64_t group = item / s.G, g = item % s.G, begin = tree.first[group], end = tree.first[group + 1];
            for (int64_t number = begin; number < end; number++) {
                const Segment& part = tree.segments[number];
                int64_t base = number == begin ? 0 : tree.segments[begin].length;
                keys.fill(s, part, base, g, k, v, cos, sin);
                std::fill(dK.begin() + base * Pp, dK.end(), 0.0f);
                std::fill(dV.begin() + base * Pp, dV.end(), 0.0f);
                for (int64_t h = g * (s.H / s.G); h < (g + 1) * (s.H / s.G); h++) {
                    fill_queries(s, part, h, q, cos, sin, own.data(), Pp);
                    for (int64_t t0 = 0; t0 < part.length; t0 += QB) {
                        int64_t rows = std::min<int64_t>(QB, part.length - t0);
                        Span seen(base, s.window, t0, rows);
                        int64_t n = seen.size(), lo = seen.lo, hi = seen.hi;
                        float delta[QB];
                        for (int64_t i = 0; i < rows; i++) {
                            const int64_t at = ((part.start + t0 + i) * s.H + h) * s.P;
                            float dot = 0;
                            for (int64_t c = 0; c < s.P; c++) { float x = load(dout[at + c]); dO[i * Pp + c] = x; dot += x * load(o[at + c]); }
                            delta[i] = dot;
                        }
                        gemm(rows, n, s.P, &own[t0 * Pp], Pp, 1, &keys.kt[lo], Tp, S.data(), n, false);
                        gemm(rows, n, s.P, dO.data(), Pp, 1, &keys.vt[lo], Tp, dS.data(), n, false);
                        for (int64_t i = 0; i < rows; i++) {
                            seen.hide_row(&S[i * n], i);
                            softmax_backward_row(&S[i * n], &dS[i * n], n, 1.0f, lse[(part.start + t0 + i) * s.H + h], delta[i]);
                        }
                        gemm(hi - lo, Pp, rows, S.data(), 1, n, dO.data(), Pp, &dV[lo * Pp], Pp, true);
                        gemm(rows, Pp, hi - lo, dS.data(), n, 1, &keys.k[lo * Pp], Pp, dQ.data(), Pp, false);
                        gemm(hi - lo, Pp, rows, dS.data(), 1, n, &own[t0 * Pp], Pp, &dK[lo * Pp], Pp, true);
                        for (int64_t i = 0; i < rows; i++) {
                            const int64_t at = ((part.start + t0 + i) * s.H + h) * s.P, angle = (part.position + t0 + i) * (s.R / 2);
                            const float* gr = &dQ[i * Pp];
                            rotate_back(gr, cos + angle, sin + angle, s.R, s.interleave, s.scale, [&](int64_t c, float x) { store(&dq[at + c], x); });
                            for (int64_t c = s.R; c < s.P; c++) store(&dq[at + c], gr[c] * s.scale);
                        }
                    }
                }
                if (number > begin) flush(part, base, g);
            }
            flush(tree.segments[begin], 0, g);
        }
    }
}

}  // namespace tree
}  // namespace sk

#ifdef __AVX512BF16__
#include "tree_attention_bf16.h"
namespace sk {
namespace tree {
static inline void forward(const Shape& s, const Tree& tree, const bf16* q, const bf16* k, const bf16* v, const float* cos, const float* sin, bf16* o, float* lse) {
    dot::forward(s, tree, q, k, v, cos, sin, o, lse);
}
static inline void backward(const Shape& s, const Tree& tree, const bf16* dout, const bf16* q, const bf16* k, const bf16* v, const float* cos, const float* sin, const bf16* o,
                            const float* lse, bf16* dq, bf16* dk, bf16* dv) {
    dot::backward(s, tree, dout, q, k, v, cos, sin, o, lse, dq, dk, dv);
}
}  // namespace tree
}  // namespace sk
#endif

#define BOTH(E, X) \
    SK_API void sk_tree_forward_##X(const E* q, const E* k, const E* v, const float* cos, const float* sin, const int32_t* first, const int32_t* segments, E* o, float* lse, \
                                    int64_t groups, int64_t N, int64_t H, int64_t G, int64_t P, int64_t R, int64_t window, float scale, int interleave) { \
        sk::tree::forward(sk::tree::Shape{N, H, G, P, R, window, scale, interleave != 0}, sk::tree::Tree(groups, first, segments), q, k, v, cos, sin, o, lse); } \
    SK_API void sk_tree_backward_##X(const E* dout, const E* q, const E* k, const E* v, const float* cos, const float* sin, const int32_t* first, const int32_t* segments, \
                                     const E* o, const float* lse, E* dq, E* dk, E* dv, int64_t groups, int64_t N, int64_t H, int64_t G, int64_t P, int64_t R, \
                                     int64_t window, float scale, int interleave) { \
        sk::tree::backward(sk::tree::Shape{N, H, G, P, R, window, scale, interleave != 0}, sk::tree::Tree(groups, first, segments), dout, q, k, v, cos, sin, o, lse, dq, dk, dv); }
BOTH(float, f32)
BOTH(bf16, bf16)

// Attention over trees of tokens for processors with bfloat16 dot products; operands as in attention_bf16.h.
#pragma once
#include "attention_bf16.h"
#include "tree_attention.h"

namespace sk {
namespace tree {
namespace dot {

using namespace sk::dot;

struct Keys {
    int64_t Pe, Pp, Tp;
    std::vector<uint16_t> k, v;
    std::vector<word> kt, vt, kw, vw;
    std::vector<float> turned;
    Keys(const Shape& s, const Tree& tree) : Pe(even(s.P)), Pp(pad(s.P)), Tp(pad(tree.widest) + W) {
        k.assign(Tp * Pe, 0), v.assign(Tp * Pe, 0), turned.assign(s.R, 0);
        kt.assign(Pe / 2 * Tp, 0), vt.assign(Pe / 2 * Tp, 0), kw.assign(Tp / 2 * Pp, 0), vw.assign(Tp / 2 * Pp, 0);
    }
    void fill(const Shape& s, const Segment& part, int64_t base, int64_t g, const bf16* k_, const bf16* v_, const float* cos, const float* sin, bool backward) {
        for (int64_t t = 0; t < part.length; t++) {
            const int64_t at = ((part.start + t) * s.G + g) * s.P, angle = (part.position + t) * (s.R / 2);
            uint16_t* row = &k[(base + t) * Pe];
            rotate_in(k_ + at, cos + angle, sin + angle, turned.data(), s.R, s.interleave, 1.0f);
            for (int64_t c = 0; c < s.R; c++) row[c] = round_bits(turned[c]);
            copy_bits(k_ + at + s.R, s.P - s.R, row + s.R);
            copy_bits(v_ + at, s.P, &v[(base + t) * Pe]);
        }
        int64_t e = base / 2 * 2, n = base + part.length - e;  // a pair of keys may begin in the prefix
        transpose((const word*)&k[base * Pe], part.length, Pe / 2, Pe / 2, &kt[base], Tp);
        pair_rows(&v[e * Pe], n, Pe, s.P, &vw[e / 2 * Pp], Pp);
        if (!backward) return;
        transpose((const word*)&v[base * Pe], part.length, Pe / 2, Pe / 2, &vt[base], Tp);
        pair_rows(&k[e * Pe], n, Pe, s.P, &kw[e / 2 * Pp], Pp);
    }
};

struct Queries {
    int64_t Pe, Tp;
    std::vector<uint16_t> q;
    std::vector<word> qw, qt;
    std::vector<float> turned;
    Queries(const Shape& s, const Tree& tree) : Pe(even(s.P)), Tp(pad(tree.longest) + W) {
        q.assign(Tp * Pe, 0), qw.assign(Tp / 2 * Pe, 0), qt.assign(Pe * (Tp / 2), 0), turned.assign(s.R, 0);
    }
    void fill(const Shape& s, const Segment& part, int64_t h, const bf16* q_, const float* cos, const float* sin, bool backward) {
        for (int64_t t = 0; t < part.length; t++) {
            const int64_t at = ((part.start + t) * s.H + h) * s.P, angle = (part.position + t) * (s.R / 2);
            rotate_in(q_ + at, cos + angle, sin + angle, turned.data(), s.R, s.interleave, 1.0f);
            for (int64_t c = 0; c < s.R; c++) q[t * Pe + c] = round_bits(turned[c]);
            copy_bits(q_ + at + s.R, s.P - s.R, &q[t * Pe + s.R]);
        }
        if (!backward) return;
        pair_rows(q.data(), part.length, Pe, s.P, qw.data(), Pe);
        transpose(qw.data(), (part.length + 1) / 2, Pe, s.P, qt.data(), Tp / 2);
    }
};

static void forward(const Shape& s, const Tree& tree, const bf16* q, const bf16* k, const bf16* v, const float* cos, const float* sin, bf16* o, float* lse) {
#pragma omp parallel
    {
        Keys keys(s, tree);
        Queries own(s, tree);
        std::vector<float> S(QB * keys.Tp), O(QB * keys.Pp);
        std::vector<uint16_t> P16(QB * keys.Tp);
#pragma omp for schedule(dynamic, 1)
        for (int64_t item = 0; item < tree.groups * s.G; item++) {
            int64_t group = item / s.G, g = item % s.G;
            for (int64_t number = tree.first[group]; number < tree.first[group + 1]; number++) {
                const Segment& part = tree.segments[number];
                int64_t base = number == tree.first[group] ? 0 : tree.segments[tree.first[group]].length;
                keys.fill(s, part, base, g, k, v, cos, sin, false);
                for (int64_t h = g * (s.H / s.G); h < (g + 1) * (s.H / s.G); h++) {
                    own.fill(s, part, h, q, cos, sin, false);
                    for (int64_t t0 = 0; t0 < part.length; t0 += QB) {
                        int64_t rows = std::min<int64_t>(QB, part.length - t0);
                        Span seen(base, s.window, t0, rows);
                        int64_t n = seen.size(), lo = seen.lo;
                        gemm(rows, n, own.Pe, &own.q[t0 * own.Pe], own.Pe, &keys.kt[lo], keys.Tp, S.data(), n, false);
                        float inv[QB];
                        for (int64_t i = 0; i < rows; i++) {
                            float* r = &S[i * n];
                            seen.hide_row(r, i);
                            float top, sum = exp_row(r, n, s.scale, top);
                            inv[i] = 1.0f / sum;
                            lse[(part.start + t0 + i) * s.H + h] = top * s.scale + std::log(sum);
                            to_rows(r, n, &P16[i * n]);
                        }
                        gemm(rows, keys.Pp, even(seen.hi - lo), P16.data(), n, &keys.vw[lo / 2 * keys.Pp], keys.Pp, O.data(), keys.Pp, false);
                        for (int64_t i = 0; i < rows; i++) {
                            bf16* out = o + ((part.start + t0 + i) * s.H + h) * s.P;
                            for (int64_t c = 0; c < s.P; c++) store(&out[c], O[i * keys.Pp + c] * inv[i]);
                        }
                    }
                }
            }
        }
    }
}

static void backward(const Shape& s, const Tree& tree, const bf16* dout, const bf16* q, const bf16* k, const bf16* v, const float* cos, const float* sin, const bf16* o,
                     const float* lse, bf16* dq, bf16* dk, bf16* dv) {
#pragma omp parallel
    {
        Keys keys(s, tree);
        Queries own(s, tree);
        int64_t Pp = keys.Pp, Pe = keys.Pe, Tp = keys.Tp;
        std::vector<float> S(QB * Tp), dS(QB * Tp), dQ(QB * Pp), dKt(Pp * Tp), dVt(Pp * Tp), turned(Tp * Pp), last(Tp, 0.0f);
        std::vector<uint16_t> dS16(QB * Tp), dO16(QB * Pe, 0), dOt(Pp * QB, 0);
        std::vector<word> Pw(QB / 2 * Tp), dSw(QB / 2 * Tp);
        auto clear = [&](int64_t base, int64_t length) {  // the sums of these keys
            for (int64_t c = 0; c < Pp; c++) {
                std::fill_n(&dKt[c * Tp + base], length, 0.0f);
                std::fill_n(&dVt[c * Tp + base], length, 0.0f);
            }
        };
        auto flush = [&](const Segment& part, int64_t base, int64_t g) {
            transpose((const word*)&dKt[base], s.P, Tp, part.length, (word*)turned.data(), Pp);
            for (int64_t t = 0; t < part.length; t++) {
                bf16* out = dk + ((part.start + t) * s.G + g) * s.P;
                const float* gr = &turned[t * Pp];
                const int64_t angle = (part.position + t) * (s.R / 2);
                rotate_back(gr, cos + angle, sin + angle, s.R, s.interleave, s.scale, [&](int64_t c, float x) { store(&out[c], x); });
                for (int64_t c = s.R; c < s.P; c++) store(&out[c], gr[c] * s.scale);
            }
            transpose((const word*)&dVt[base], s.P, Tp, part.length, (word*)turned.data(), Pp);
            for (int64_t t = 0; t < part.length; t++)
                for (int64_t c = 0; c < s.P; c++) store(&dv[((part.start + t) * s.G + g) * s.P + c], turned[t * Pp + c]);
        };
#pragma omp for schedule(dynamic, 1)
        for (int64_t item = 0; item < tree.groups * s.G; item++) {
            int64_t group = item / s.G, g = item % s.G, begin = tree.first[group], end = tree.first[group + 1];
            for (int64_t number = begin; number < end; number++) {
                const Segment& part = tree.segments[number];
                int64_t base = number == begin ? 0 : tree.segments[begin].length;
                keys.fill(s, part, base, g, k, v, cos, sin, true);
                clear(base, Tp - base);
                for (int64_t h = g * (s.H / s.G); h < (g + 1) * (s.H / s.G); h++) {
                    own.fill(s, part, h, q, cos, sin, true);
                    for (int64_t t0 = 0; t0 < part.length; t0 += QB) {
                        int64_t rows = std::min<int64_t>(QB, part.length - t0);
                        Span seen(base, s.window, t0, rows);
                        int64_t n = seen.size(), lo = seen.lo;
                        float delta[QB];
                        if (rows % 2) for (int64_t c = 0; c < s.P; c++) dOt[c * QB + rows] = 0;
                        for (int64_t i = 0; i < rows; i++) {
                            const int64_t at = ((part.start + t0 + i) * s.H + h) * s.P;
                            const bf16 *gr = dout + at, *out = o + at;
                            float dot = 0;
#pragma omp simd reduction(+ : dot)
                            for (int64_t c = 0; c < s.P; c++) dot += load(gr[c]) * load(out[c]);
                            copy_bits(gr, s.P, &dO16[i * Pe]);
                            for (int64_t c = 0; c < s.P; c++) dOt[c * QB + i] = gr[c].bits;
                            delta[i] = dot;
                        }
                        gemm(rows, n, Pe, &own.q[t0 * Pe], Pe, &keys.kt[lo], Tp, S.data(), n, false);
                        gemm(rows, n, Pe, dO16.data(), Pe, &keys.vt[lo], Tp, dS.data(), n, false);
                        for (int64_t i = 0; i < rows; i++) {
                            float *r = &S[i * n], *d = &dS[i * n];
                            seen.hide_row(r, i);
                            softmax_backward_row(r, d, n, s.scale, lse[(part.start + t0 + i) * s.H + h], delta[i]);
                            to_rows(d, n, &dS16[i * n]);
                            if (i % 2) {
                                to_words(r - n, r, n, &Pw[i / 2 * n]);
                                to_words(d - n, d, n, &dSw[i / 2 * n]);
                            } else if (i + 1 == rows) {
                                to_words(r, last.data(), n, &Pw[i / 2 * n]);
                                to_words(d, last.data(), n, &dSw[i / 2 * n]);
                            }
                        }
                        gemm(s.P, n, even(rows), dOt.data(), QB, Pw.data(), n, &dVt[lo], Tp, true);
                        gemm(rows, Pp, even(seen.hi - lo), dS16.data(), n, &keys.kw[lo / 2 * Pp], Pp, dQ.data(), Pp, false);
                        gemm(s.P, n, even(rows), (const uint16_t*)&own.qt[t0 / 2], own.Tp, dSw.data(), n, &dKt[lo], Tp, true);
                        for (int64_t i = 0; i < rows; i++) {
                            bf16* out = dq + ((part.start + t0 + i) * s.H + h) * s.P;
                            const float* gr = &dQ[i * Pp];
                            const int64_t angle = (part.position + t0 + i) * (s.R / 2);
                            rotate_back(gr, cos + angle, sin + angle, s.R, s.interleave, s.scale, [&](int64_t c, float x) { store(&out[c], x); });
                            for (int64_t c = s.R; c < s.P; c++) store(&out[c], gr[c] * s.scale);
                        }
                    }
                }
                if (number > begin) flush(part, base, g);
            }
            flush(tree.segments[begin], 0, g);
        }
    }
}

}  // namespace dot
}  // namespace tree
}  // namespace sk

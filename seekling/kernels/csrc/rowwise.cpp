// Row-wise operations: RMSNorm (with the residual add before it), SwiGLU, softmax cross-entropy.
// Every function takes contiguous rows and runs its rows in parallel.
#include "common.h"

using namespace sk;

// total = x + delta (skipped when delta is null), y = w * total / rms(total); keeps 1/rms for the backward pass.
template <class T>
static void rms_norm_forward(const T* x, const T* delta, const float* w, T* total, T* y, float* rstd, int64_t N, int64_t D, float eps) {
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < N; n++) {
        const T* row = x + n * D;
        if (delta) {
            const T* add = delta + n * D;
            T* out = total + n * D;
#pragma omp simd
            for (int64_t d = 0; d < D; d++) store(&out[d], load(row[d]) + load(add[d]));
            row = out;
        }
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t d = 0; d < D; d++) { float v = load(row[d]); sum += v * v; }
        float r = 1.0f / std::sqrt(sum / (float)D + eps);
        rstd[n] = r;
        T* out = y + n * D;
#pragma omp simd
        for (int64_t d = 0; d < D; d++) store(&out[d], load(row[d]) * r * w[d]);
    }
}

// dx = gradient through the norm (+ dtotal when the residual stream has one); dw summed over rows in PARTS ordered parts.
template <class T>
static void rms_norm_backward(const T* dy, const T* dtotal, const T* x, const float* w, const float* rstd, T* dx, float* dw, int64_t N, int64_t D) {
    std::vector<float> parts(PARTS * D, 0.0f);
#pragma omp parallel for schedule(static, 1)
    for (int64_t part = 0; part < PARTS; part++) {
        float* acc = parts.data() + part * D;
        for (int64_t n = N * part / PARTS; n < N * (part + 1) / PARTS; n++) {
            const T *g = dy + n * D, *row = x + n * D;
            float r = rstd[n], dot = 0;
#pragma omp simd reduction(+ : dot)
            for (int64_t d = 0; d < D; d++) dot += load(g[d]) * w[d] * load(row[d]);
            float c = dot * r * r * r / (float)D;
            T* out = dx + n * D;
            if (dtotal) {
                const T* rest = dtotal + n * D;
#pragma omp simd
                for (int64_t d = 0; d < D; d++) {
                    float gd = load(g[d]), xd = load(row[d]);
                    acc[d] += gd * xd * r;
                    store(&out[d], load(rest[d]) + gd * w[d] * r - xd * c);
                }
            } else {
#pragma omp simd
                for (int64_t d = 0; d < D; d++) {
                    float gd = load(g[d]), xd = load(row[d]);
                    acc[d] += gd * xd * r;
                    store(&out[d], gd * w[d] * r - xd * c);
                }
            }
        }
    }
    for (int64_t d = 0; d < D; d++) {
        float sum = 0;
        for (int64_t part = 0; part < PARTS; part++) sum += parts[part * D + d];
        dw[d] = sum;
    }
}

// h = scale_n * silu(gate) * up; gate and up rows have the given stride (they may be halves of one matrix). scale may be null.
template <class T>
static void swiglu_forward(const T* gate, const T* up, int64_t stride, const float* scale, T* h, int64_t N, int64_t M) {
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < N; n++) {
        const T *g = gate + n * stride, *u = up + n * stride;
        T* out = h + n * M;
        float s = scale ? scale[n] : 1.0f;
#pragma omp simd
        for (int64_t m = 0; m < M; m++) { float gv = load(g[m]); store(&out[m], s * gv * sigmoid(gv) * load(u[m])); }
    }
}

// Gradients of the above; also writes h again where asked (it is not kept for the backward pass) and dscale = sum dh*silu*up.
template <class T>
static void swiglu_backward(const T* dh, const T* gate, const T* up, int64_t stride, const float* scale, T* dgate, T* dup, T* h, float* dscale, int64_t N, int64_t M) {
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < N; n++) {
        const T *g = gate + n * stride, *u = up + n * stride, *dr = dh + n * M;
        T *dg = dgate + n * stride, *du = dup + n * stride;
        float s = scale ? scale[n] : 1.0f, ds = 0;
        if (h) {
            T* out = h + n * M;
#pragma omp simd reduction(+ : ds)
            for (int64_t m = 0; m < M; m++) {
                float gv = load(g[m]), uv = load(u[m]), d = load(dr[m]);
                float sg = sigmoid(gv), a = gv * sg;
                ds += d * a * uv;
                d *= s;
                store(&out[m], s * a * uv);
                store(&dg[m], d * uv * (sg + a * (1.0f - sg)));
                store(&du[m], d * a);
            }
        } else {
#pragma omp simd
            for (int64_t m = 0; m < M; m++) {
                float gv = load(g[m]), uv = load(u[m]), d = s * load(dr[m]);
                float sg = sigmoid(gv), a = gv * sg;
                store(&dg[m], d * uv * (sg + a * (1.0f - sg)));
                store(&du[m], d * a);
            }
        }
        if (dscale) dscale[n] = ds;
    }
}

// Returns scale * sum of cross-entropies; logits become scale * (softmax - onehot). Rows whose target is negative become 0.
template <class T>
static double cross_entropy(T* logits, const int64_t* target, int64_t N, int64_t V, float scale) {
    std::vector<double> loss(N, 0.0);
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < N; n++) {
        T* row = logits + n * V;
        int64_t t = target[n];
        if (t < 0) { std::memset((void*)row, 0, V * sizeof(T)); continue; }
        float top = -INFINITY;
#pragma omp simd reduction(max : top)
        for (int64_t v = 0; v < V; v++) top = std::max(top, load(row[v]));
        float goal = load(row[t]), sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t v = 0; v < V; v++) sum += fast_exp(load(row[v]) - top);
        loss[n] = (double)(top - goal) + std::log((double)sum);
        float inv = scale / sum;
        float hit = fast_exp(goal - top) * inv - scale;
#pragma omp simd
        for (int64_t v = 0; v < V; v++) store(&row[v], fast_exp(load(row[v]) - top) * inv);
        store(&row[t], hit);
        if (!(sum < INFINITY) || !(top < INFINITY)) loss[n] = NAN;
    }
    double total = 0;
    for (int64_t n = 0; n < N; n++) total += loss[n];
    return total * scale;
}

// Log-probability of each row's target under softmax(logits * heat), the entropy, and the log of the sum for the backward pass.
template <class T>
static void log_prob(const T* logits, const int64_t* target, float heat, float* logp, float* entropy, float* lse, int64_t N, int64_t V) {
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < N; n++) {
        const T* row = logits + n * V;
        float top = -INFINITY, sum = 0, weighted = 0;
#pragma omp simd reduction(max : top)
        for (int64_t v = 0; v < V; v++) top = std::max(top, load(row[v]));
#pragma omp simd reduction(+ : sum, weighted)
        for (int64_t v = 0; v < V; v++) {
            float x = (load(row[v]) - top) * heat, e = fast_exp(x);
            sum += e;
            weighted += e * x;
        }
        float log_sum = std::log(sum);
        logp[n] = (load(row[target[n]]) - top) * heat - log_sum;
        entropy[n] = log_sum - weighted / sum;
        lse[n] = top * heat + log_sum;
    }
}

// Logits become gradient_n * heat * (onehot - softmax): the gradient of sum gradient_n * logp_n.
template <class T>
static void log_prob_backward(T* logits, const int64_t* target, float heat, const float* lse, const float* gradient, int64_t N, int64_t V) {
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < N; n++) {
        T* row = logits + n * V;
        float g = gradient[n] * heat, l = lse[n], goal = load(row[target[n]]);
#pragma omp simd
        for (int64_t v = 0; v < V; v++) store(&row[v], -g * fast_exp(load(row[v]) * heat - l));
        store(&row[target[n]], g - g * fast_exp(goal * heat - l));
    }
}

#define BOTH(T, S) \
    SK_API void sk_log_prob_##S(const T* logits, const int64_t* target, float* logp, float* entropy, float* lse, int64_t N, int64_t V, float heat) { log_prob(logits, target, heat, logp, entropy, lse, N, V); } \
    SK_API void sk_log_prob_backward_##S(T* logits, const int64_t* target, const float* lse, const float* gradient, int64_t N, int64_t V, float heat) { log_prob_backward(logits, target, heat, lse, gradient, N, V); } \
    SK_API void sk_rms_norm_forward_##S(const T* x, const T* delta, const float* w, T* total, T* y, float* rstd, int64_t N, int64_t D, float eps) { rms_norm_forward(x, delta, w, total, y, rstd, N, D, eps); } \
    SK_API void sk_rms_norm_backward_##S(const T* dy, const T* dtotal, const T* x, const float* w, const float* rstd, T* dx, float* dw, int64_t N, int64_t D) { rms_norm_backward(dy, dtotal, x, w, rstd, dx, dw, N, D); } \
    SK_API void sk_swiglu_forward_##S(const T* gate, const T* up, int64_t stride, const float* scale, T* h, int64_t N, int64_t M) { swiglu_forward(gate, up, stride, scale, h, N, M); } \
    SK_API void sk_swiglu_backward_##S(const T* dh, const T* gate, const T* up, int64_t stride, const float* scale, T* dgate, T* dup, T* h, float* dscale, int64_t N, int64_t M) { swiglu_backward(dh, gate, up, stride, scale, dgate, dup, h, dscale, N, M); } \
    SK_API void sk_cross_entropy_##S(T* logits, const int64_t* target, double* loss, int64_t N, int64_t V, float scale) { *loss = cross_entropy(logits, target, N, V, scale); }
BOTH(float, f32)
BOTH(bf16, bf16)

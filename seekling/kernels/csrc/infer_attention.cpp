// See infer_attention.h.
#include "infer_attention.h"

namespace sk {

namespace {

constexpr float NOTHING = -3.0e38f;  // the largest score of a split of which a query sees no token
constexpr int SPLIT_PAGES = SPLIT / PAGE;

// Scores of R queries against one page: two registers of 16 tokens a query.
template <int R> SK_INLINE void page_scores(const uint8_t* k, int channels, const Query* q, float scale, float (*out)[SPLIT], int at) {
    Floats s[R][2];
    for (int r = 0; r < R; r++) s[r][0] = s[r][1] = zeros();
    for (int pair = 0; pair < channels / 2; pair++) {
        Bytes low = load_bytes(k + pair * 128), high = load_bytes(k + pair * 128 + 64);
        for (int r = 0; r < R; r++) {
            uint32_t both = (uint32_t)quad_at(q[r].q + 2 * pair);
            s[r][0] = dot_bf16(s[r][0], low, both);
            s[r][1] = dot_bf16(s[r][1], high, both);
        }
    }
    for (int r = 0; r < R; r++)
        for (int h = 0; h < 2; h++) store16(out[r] + at + 16 * h, mul(s[r][h], all(scale)));
}

// Softmax's numerators of one query over the split, tokens outside [first, end) exactly 0; returns their sum.
float exponentials(float* score, int from, int tokens, int first, int end, float* most, uint16_t* p) {
    int lo = std::max(0, first - from), hi = std::min(tokens, end - from);
    for (int t = 0; t < std::min(lo, tokens); t++) score[t] = NOTHING;
    for (int t = std::max(hi, 0); t < tokens; t++) score[t] = NOTHING;
    Floats top = all(NOTHING);
    for (int t = 0; t < tokens; t += 16) top = larger(top, load16(score + t));
    *most = largest(top);
    Floats sum = zeros();
    for (int t = 0; t < tokens; t += 16) {
        Floats e = zeros();
        if (t < hi && t + 16 > lo) {
            e = first_lanes(exp16(sub(load16(score + t), all(*most))), hi - t, 0.0f);
            if (t < lo) e = sub(e, first_lanes(e, lo - t, 0.0f));
        }
        sum = add(sum, e);
        store_bf16(p + t, e);
    }
    return total(sum);
}

// out[r] = Σ_t p[r][t]·V[t] for R queries and C blocks of 16 channels, the split's tokens in order.  What lies behind the last of
// them is not looked at: a page that somebody's damaged answer filled with NaN before gives NaN even times 0.
template <int R, int C>
SK_INLINE void weigh_values(const uint8_t* const* v, int tokens, int block, const uint16_t (*p)[SPLIT], Partial* out) {
    Floats sum[R][C];
    for (int r = 0; r < R; r++)
        for (int c = 0; c < C; c++) sum[r][c] = zeros();
    for (int page = 0; page * PAGE < tokens; page++) {
        int here = std::min(PAGE, tokens - page * PAGE);
        for (int pair = 0; pair < (here + 1) / 2; pair++) {
            Bytes values[C];
            for (int c = 0; c < C; c++) values[c] = load_bytes(v[page] + ((block + c) * (PAGE / 2) + pair) * 64);
            if (2 * pair + 1 == here)
                for (int c = 0; c < C; c++) values[c] = low_halves(values[c]);
            for (int r = 0; r < R; r++) {
                uint32_t both = (uint32_t)quad_at(p[r] + page * PAGE + 2 * pair);
                for (int c = 0; c < C; c++) sum[r][c] = dot_bf16(sum[r][c], values[c], both);
            }
        }
    }
    for (int r = 0; r < R; r++)
        for (int c = 0; c < C; c++) store16(out[r].at + (block + c) * 16, sum[r][c]);
}

template <int R> void gqa_tile(const Pages& pages, int head_dim, float scale, const Query* q, int from, Partial* out) {
    alignas(64) float score[R][SPLIT];
    alignas(64) uint16_t p[R][SPLIT];
    const uint8_t* values[SPLIT_PAGES];
    int channels = head_channels(head_dim), last = 0;
    for (int r = 0; r < R; r++) last = std::max(last, q[r].end);
    int count = std::min(SPLIT_PAGES, (last - from + PAGE - 1) / PAGE);
    for (int i = 0; i < count; i++) {
        const uint8_t* page = pages[from / PAGE + i];
        values[i] = page + (int64_t)channels * PAGE * 2;
        fetch(values[i], (int64_t)channels * PAGE * 2);
        if (i + 1 < count) fetch(pages[from / PAGE + i + 1], (int64_t)channels * PAGE * 2);
        page_scores<R>(page, channels, q, scale, score, i * PAGE);
    }
    for (int r = 0; r < R; r++)
        out[r].sum() = exponentials(score[r], from, count * PAGE, q[r].first, q[r].end, &out[r].largest(), p[r]);
    int block = 0;
    int tokens = std::min(SPLIT, last - from);
    for (; block + 2 <= channels / 16; block += 2) weigh_values<R, 2>(values, tokens, block, p, out);
    for (; block < channels / 16; block++) weigh_values<R, 1>(values, tokens, block, p, out);
}

}  // namespace

void merge(Partial into, Partial from) {
    if (from.sum() == 0.0f) return;
    if (into.sum() == 0.0f) {
        std::memcpy(into.at, from.at, (size_t)(from.size + 2) * 4);
        return;
    }
    float most = std::max(into.largest(), from.largest());
    float scales[16] = {into.largest() - most, from.largest() - most};
    store16(scales, exp16(load16(scales)));
    Floats keep = all(scales[0]), take = all(scales[1]);
    for (int i = 0; i < into.size; i += 16)
        store16(into.at + i, fma(load16(from.at + i), take, mul(load16(into.at + i), keep)));
    into.sum() = std::fma(from.sum(), scales[1], into.sum() * scales[0]);
    into.largest() = most;
}

void gqa_store(uint8_t* head, int slot, const float* k, const float* v, int head_dim) {
    int channels = head_channels(head_dim);
    uint16_t* keys = (uint16_t*)head;
    uint16_t* values = keys + (int64_t)channels * PAGE;
    for (int d = 0; d < head_dim; d++) {
        keys[((d / 2) * PAGE + slot) * 2 + d % 2] = to_bf16(k[d]);
        values[(((d / 16) * (PAGE / 2) + slot / 2) * 16 + d % 16) * 2 + slot % 2] = to_bf16(v[d]);
    }
}

void gqa_fetch(const uint8_t* head, int slot, int head_dim) {
    int channels = head_channels(head_dim);
    for (int pair = 0; pair < channels / 2; pair++) fetch_to_write(head + (pair * PAGE + slot) * 4);
    for (int block = 0; block < channels / 16; block++) fetch_to_write(head + channels * PAGE * 2 + (block * (PAGE / 2) + slot / 2) * 64);
}

void gqa_split(const Pages& pages, int head_dim, float scale, const Query* q, int count, int from, Partial* out) {
    switch (count) {
        case 1: return gqa_tile<1>(pages, head_dim, scale, q, from, out);
        case 2: return gqa_tile<2>(pages, head_dim, scale, q, from, out);
        case 3: return gqa_tile<3>(pages, head_dim, scale, q, from, out);
        case 4: return gqa_tile<4>(pages, head_dim, scale, q, from, out);
        case 5: return gqa_tile<5>(pages, head_dim, scale, q, from, out);
        case 6: return gqa_tile<6>(pages, head_dim, scale, q, from, out);
        case 7: return gqa_tile<7>(pages, head_dim, scale, q, from, out);
        default: return gqa_tile<8>(pages, head_dim, scale, q, from, out);
    }
}

// ---- MLA -------------------------------------------------------------------------------------------------------------------

namespace {

// Scores of 16 queries (lanes) against 16 tokens.
SK_INLINE void token_scores(const uint16_t* const* rows, const uint16_t* queries, int size, float scale, float (*out)[16]) {
    constexpr int T = 16;
    Floats s[T];
    for (int t = 0; t < T; t++) s[t] = zeros();
    for (int pair = 0; pair < size / 2; pair++) {
        Bytes q = load_bytes(queries + pair * 32);
        for (int t = 0; t < T; t++) s[t] = dot_bf16(s[t], q, (uint32_t)quad_at(rows[t] + 2 * pair));
    }
    for (int t = 0; t < T; t++) store16(out[t], mul(s[t], all(scale)));
}

// value[query][32 channels] = Σ_t p[t][query]·row[t], for N queries; rows are readable to whole 32 channels.
template <int N> SK_INLINE void weigh_latents(const uint16_t* const* rows, int tokens, int channel, const uint32_t (*p)[16], int lane, Partial* out) {
    Floats sum[N][2];
    for (int i = 0; i < N; i++) sum[i][0] = sum[i][1] = zeros();
    for (int pair = 0; pair < tokens / 2; pair++) {
        Bytes values[2];
        zip32(rows[2 * pair] + channel, rows[2 * pair + 1] + channel, values);
        for (int i = 0; i < N; i++)
            for (int c = 0; c < 2; c++) sum[i][c] = dot_bf16(sum[i][c], values[c], p[pair][lane + i]);
    }
    for (int i = 0; i < N; i++)
        for (int c = 0; c < 2; c++) store16(out[lane + i].at + channel + c * 16, sum[i][c]);
}

}  // namespace

void mla_split(const Pages& pages, int latent, int rotary, float scale, const uint16_t* queries, const int* first, const int* end,
               int count, int from, Partial* out, int begin, int stop) {
    alignas(64) float score[SPLIT][16];
    alignas(64) uint32_t p[SPLIT / 2][16];
    const uint16_t* rows[SPLIT];
    int size = mla_row(latent, rotary), last = 0;
    float low[16], high[16];
    for (int i = 0; i < 16; i++) {
        low[i] = i < count ? (float)first[i] : 0.0f;
        high[i] = i < count ? (float)end[i] : 0.0f;
        if (i < count) last = std::max(last, end[i]);
    }
    int tokens = std::min(SPLIT, (last - from + PAGE - 1) / PAGE * PAGE);
    for (int t = 0; t < tokens; t++)  // behind the last one the first again, whatever lies there, for it is weighed with 0
        rows[t] = (const uint16_t*)pages[(from + (from + t < last ? t : 0)) / PAGE] + (from + t < last ? t : 0) % PAGE * size;
    for (int t = 0; t < tokens; t += 16) token_scores(rows + t, queries, size, scale, score + t);
    // A lane's mask as arithmetic: 1 where first <= token < end, else 0.
    Floats lo = load16(low), hi = load16(high), one = all(1.0f), top = all(NOTHING);
    auto visible = [&](int t) {
        Floats at = all((float)(from + t));
        Floats begun = smaller(larger(add(sub(at, lo), one), zeros()), one), over = smaller(larger(sub(hi, at), zeros()), one);
        return mul(begun, over);
    };
    for (int t = 0; t < tokens; t++) {
        top = larger(top, where(visible(t), load16(score[t]), all(NOTHING)));
    }
    Floats sum = zeros();
    for (int t = 0; t < tokens; t += 2) {
        alignas(64) uint16_t pair[2][16];
        for (int i = 0; i < 2; i++) {
            Floats e = where(visible(t + i), exp16(sub(load16(score[t + i]), top)), zeros());
            sum = add(sum, e);
            store_bf16(pair[i], e);
        }
        store_bytes(p[t / 2], zip_low16(pair[0], pair[1]));
    }
    float sums[16], tops[16];
    store16(sums, sum);
    store16(tops, top);
    for (int i = 0; i < count && !begin; i++) {
        out[i].sum() = sums[i];
        out[i].largest() = tops[i];
    }
    for (int channel = begin; channel < stop; channel += 32) {
        int lane = 0;
        for (; lane + 8 <= count; lane += 8) weigh_latents<8>(rows, tokens, channel, p, lane, out);
        for (; lane < count; lane++) weigh_latents<1>(rows, tokens, channel, p, lane, out);
    }
}

}  // namespace sk

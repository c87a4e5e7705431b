// Attention over pages for the native runner: grouped queries and MLA's absorbed form.
//
// A context is cut into splits of SPLIT tokens at fixed places.  Each split gives (largest score, sum of exponentials, weighted
// sum of values); splits are merged one after another.  A query's result is the same however the splits are shared out.
#pragma once
#include "infer_rows.h"

namespace sk {

// One query's sums over one split, then over all merged so far: value[size], and behind it largest and sum.
struct Partial {
    float* at;
    int size;  // floats of the value, a multiple of 16
    float& largest() const { return at[size]; }
    float& sum() const { return at[size + 1]; }
};
SK_INLINE int partial_floats(int size) { return size + 16; }
void merge(Partial into, Partial from);  // `from` is the split after `into`

struct Pages {
    const uint8_t* pool;
    int64_t page_bytes, offset;  // offset: this layer's part and head
    const int32_t* table;
    const uint8_t* operator[](int page) const { return pool + table[page] * page_bytes + offset; }
};

// ---- GQA: a head's part of a page is K as (channel pairs, PAGE tokens, 2), then V as (channel blocks, token pairs, 16, 2) ---
SK_INLINE int head_channels(int head_dim) { return (head_dim + 15) / 16 * 16; }
SK_INLINE int64_t gqa_head_bytes(int head_dim) { return (int64_t)head_channels(head_dim) * PAGE * 2 * 2; }
void gqa_store(uint8_t* head, int slot, const float* k, const float* v, int head_dim);
void gqa_fetch(const uint8_t* head, int slot, int head_dim);  // brings near what gqa_store will write

// The same as 8 bits, for half the memory: numbers + 128 in the order of above, then a float scale for each token's key, and for
// each token's value.  `gqa_open` makes the bfloat16 form of one head's part of a page.
SK_INLINE int64_t gqa_head_bytes8(int head_dim) { return (int64_t)head_channels(head_dim) * PAGE * 2 + PAGE * 8; }
void gqa_store8(uint8_t* head, int slot, const float* k, const float* v, int head_dim);
void gqa_open(const uint8_t* head, int head_dim, uint8_t* out);

constexpr int QUERIES = 8;  // most queries of one GQA tile

struct Query {
    const uint16_t* q;  // bfloat16, zero beyond head_dim
    int first, end;     // the tokens it may see
};

// Sums of `count` queries of one kv head over tokens [from, from + SPLIT) ∩ what each may see.
void gqa_split(const Pages& pages, int head_dim, float scale, const Query* queries, int count, int from, Partial* out);

// ---- MLA: a page is PAGE rows of (latent, rotated key) in bfloat16; 16 queries (tokens × heads) at once ---------------------
SK_INLINE int mla_row(int latent, int rotary) { return padded(latent + rotary); }
// 8 bits: PAGE rows of numbers + 128, then a float scale for each row's latent and one for its key.
SK_INLINE int64_t mla_page_bytes8(int latent, int rotary) { return (int64_t)PAGE * (mla_row(latent, rotary) + 8); }
void mla_store8(uint8_t* page, int slot, const float* latent, const float* key, int size, int rotary);
void mla_open(const uint8_t* page, int latent, int rotary, uint8_t* out);
// Queries: (row/2, 16 queries, 2) bfloat16.  Of the sums those of channels begin .. stop (whole blocks of 32) are made; the first
// part's also sets sum and largest.
void mla_split(const Pages& pages, int latent, int rotary, float scale, const uint16_t* queries, const int* first, const int* end,
               int count, int from, Partial* out, int begin, int stop);

}  // namespace sk

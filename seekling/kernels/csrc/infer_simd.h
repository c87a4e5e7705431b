// Sixteen lanes at a time: the only file of the inference kernels with intrinsics in it.
//
// Floats, Ints and Bytes are 16 float, 16 int32 and 64 uint8, as one AVX-512 register, two AVX2 registers or a plain array
// (the portable twin, beside each other below).  All three give the same integers; floats differ only where a level has no
// fused multiply-add or no bfloat16 dot product.  No result depends on how many rows or threads share the work.
#pragma once
#include "common.h"
#include <type_traits>
#if defined(__AVX512BW__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace sk {

#define SK_INLINE static inline __attribute__((always_inline))

SK_INLINE uint32_t bits_of(float v) { uint32_t u; std::memcpy(&u, &v, 4); return u; }
SK_INLINE float float_of(uint32_t u) { float v; std::memcpy(&v, &u, 4); return v; }
SK_INLINE uint16_t to_bf16(float v) {
    uint32_t u = bits_of(v);
    if ((u & 0x7fffffff) > 0x7f800000) return (uint16_t)(u >> 16 | 0x40);  // rounding could carry a NaN to 0
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}
SK_INLINE int32_t quad_at(const void* p) { int32_t v; std::memcpy(&v, p, 4); return v; }

// The largest magnitude as its bits, by which NaN is above all: where a maximum of floats would lose one, this keeps it.
SK_INLINE float largest_magnitude(const float* x, int n) {
    uint32_t most = 0;
    for (int i = 0; i < n; i++) {
        uint32_t bits = bits_of(x[i]) & 0x7fffffff;
        most = bits > most ? bits : most;
    }
    return float_of(most);
}

SK_INLINE float half_to_float(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, e = (h >> 10) & 31, m = h & 1023;
    if (e == 0) { float v = (float)m * 5.9604644775390625e-8f; return float_of(bits_of(v) | sign); }  // m · 2^-24
    if (e == 31) return float_of(sign | 0x7f800000u | (m << 13));
    return float_of(sign | ((e + 112) << 23) | (m << 13));
}

#if defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
// ---- AVX-512 ------------------------------------------------------------------------------------------------------
using Floats = __m512;
using Ints = __m512i;
using Bytes = __m512i;

SK_INLINE Floats zeros() { return _mm512_setzero_ps(); }
SK_INLINE Floats all(float v) { return _mm512_set1_ps(v); }
SK_INLINE Floats load16(const float* p) { return _mm512_loadu_ps(p); }
SK_INLINE void store16(float* p, Floats v) { _mm512_storeu_ps(p, v); }
SK_INLINE Floats load_half(const uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
SK_INLINE Floats load_bf16(const uint16_t* p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
}
SK_INLINE Floats load_u8(const uint8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p)));
}
SK_INLINE Floats load_s8(const int8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
}
SK_INLINE void store_bf16(uint16_t* p, Floats v) {
#ifdef __AVX512BF16__
    _mm256_storeu_si256((__m256i*)p, (__m256i)_mm512_cvtneps_pbh(v));
#else
    Ints u = _mm512_castps_si512(v);
    Ints odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    u = _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd), 16);
    _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(u));
#endif
}
SK_INLINE Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
SK_INLINE Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
SK_INLINE Floats sub(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
SK_INLINE Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
SK_INLINE Floats div(Floats a, Floats b) { return _mm512_div_ps(a, b); }
SK_INLINE Floats larger(Floats a, Floats b) { return _mm512_max_ps(a, b); }
SK_INLINE Floats smaller(Floats a, Floats b) { return _mm512_min_ps(a, b); }
SK_INLINE Floats rounded(Floats a) { return _mm512_roundscale_ps(a, 8); }
SK_INLINE Floats power_of_two(Floats n) {  // 2^n for whole n in -126..127
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23));
}
SK_INLINE Floats first_lanes(Floats v, int n, float rest) {  // lanes n.. become `rest`
    return _mm512_mask_mov_ps(_mm512_set1_ps(rest), (__mmask16)(n >= 16 ? 0xffff : n <= 0 ? 0 : (1u << n) - 1), v);
}
SK_INLINE Floats at_least(Floats v, Floats least) {  // lanes below become 0
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(v, least, _CMP_GE_OQ), v);
}
SK_INLINE Floats where(Floats mask, Floats v, Floats rest) {  // v where the mask is not 0
    return _mm512_mask_mov_ps(rest, _mm512_cmp_ps_mask(mask, _mm512_setzero_ps(), _CMP_NEQ_OQ), v);
}
SK_INLINE Ints all_ints(int32_t v) { return _mm512_set1_epi32(v); }
SK_INLINE Floats to_float(Ints v) { return _mm512_cvtepi32_ps(v); }
SK_INLINE int32_t store_int8(int8_t* p, Floats v) {  // rounded; returns their sum
    Ints whole = _mm512_cvtps_epi32(v);
    _mm_storeu_si128((__m128i*)p, _mm512_cvtepi32_epi8(whole));
    return _mm512_reduce_add_epi32(whole);
}
SK_INLINE float largest(Floats v) { return _mm512_reduce_max_ps(v); }
SK_INLINE float largest_magnitude(Floats a, Floats b) {
    Ints m = _mm512_set1_epi32(0x7fffffff), x = _mm512_and_si512(_mm512_castps_si512(a), m), y = _mm512_and_si512(_mm512_castps_si512(b), m);
    return float_of((uint32_t)_mm512_reduce_max_epi32(_mm512_max_epi32(x, y)));
}
SK_INLINE float total(Floats v) {  // in the order of the portable one below
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
SK_INLINE Bytes load_bytes(const void* p) { return _mm512_loadu_si512(p); }
SK_INLINE Bytes low_nibbles(Bytes v) { return _mm512_and_si512(v, _mm512_set1_epi8(15)); }
SK_INLINE Bytes low_halves(Bytes v) { return _mm512_and_si512(v, _mm512_set1_epi32(0xffff)); }  // of each four bytes the first two
SK_INLINE Bytes high_nibbles(Bytes v) { return _mm512_and_si512(_mm512_srli_epi16(v, 4), _mm512_set1_epi8(15)); }
SK_INLINE Bytes low_six(Bytes v) { return _mm512_and_si512(v, _mm512_set1_epi8(63)); }
SK_INLINE Bytes upper_two(Bytes a, Bytes b, Bytes c) {  // of each byte of a, b and c: six bits, a's the highest
    Bytes out = _mm512_and_si512(_mm512_srli_epi16(a, 2), _mm512_set1_epi8(48));
    out = _mm512_or_si512(out, _mm512_and_si512(_mm512_srli_epi16(b, 4), _mm512_set1_epi8(12)));
    return _mm512_or_si512(out, _mm512_and_si512(_mm512_srli_epi16(c, 6), _mm512_set1_epi8(3)));
}

#ifdef __AVX512VNNI__
SK_INLINE Ints dot_u8(Ints acc, Bytes w, int32_t quad) { return _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(quad)); }
SK_INLINE Ints dot_u6(Ints acc, Bytes w, int32_t quad) { return dot_u8(acc, w, quad); }  // w below 64
#else
SK_INLINE Ints dot_u8(Ints acc, Bytes w, int32_t quad) {  // even and odd bytes apart, so that nothing saturates
    Ints a = _mm512_set1_epi32(quad);
    Ints even = _mm512_madd_epi16(_mm512_and_si512(w, _mm512_set1_epi16(255)), _mm512_srai_epi16(_mm512_slli_epi16(a, 8), 8));
    Ints odd = _mm512_madd_epi16(_mm512_srli_epi16(w, 8), _mm512_srai_epi16(a, 8));
    return _mm512_add_epi32(acc, _mm512_add_epi32(even, odd));
}
SK_INLINE Ints dot_u6(Ints acc, Bytes w, int32_t quad) {
    return _mm512_add_epi32(acc, _mm512_madd_epi16(_mm512_maddubs_epi16(w, _mm512_set1_epi32(quad)), _mm512_set1_epi16(1)));
}
#endif
SK_INLINE Floats dot_bf16(Floats acc, Bytes w, uint32_t pair) {  // lane i: acc + w[2i]·pair[0] + w[2i+1]·pair[1]
#ifdef __AVX512BF16__
    return _mm512_dpbf16_ps(acc, (__m512bh)w, (__m512bh)_mm512_set1_epi32((int32_t)pair));
#else
    Floats even = _mm512_castsi512_ps(_mm512_slli_epi32(w, 16));
    Floats odd = _mm512_castsi512_ps(_mm512_and_si512(w, _mm512_set1_epi32((int32_t)0xffff0000)));
    acc = fma(odd, all(float_of(pair & 0xffff0000u)), acc);
    return fma(even, all(float_of(pair << 16)), acc);
#endif
}
SK_INLINE Bytes zip_low16(const uint16_t* a, const uint16_t* b) {  // 16 of each: a0 b0 a1 b1 …
    Ints x = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)a));
    Ints y = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)b));
    return _mm512_or_si512(x, _mm512_slli_epi32(y, 16));
}
SK_INLINE void zip32(const uint16_t* a, const uint16_t* b, Bytes out[2]) {  // 32 of each
    const Ints first = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8,
                                        39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    Bytes x = load_bytes(a), y = load_bytes(b);
    out[0] = _mm512_permutex2var_epi16(x, first, y);
    out[1] = _mm512_permutex2var_epi16(x, _mm512_add_epi16(first, _mm512_set1_epi16(16)), y);
}
SK_INLINE void store_bytes(void* p, Bytes v) { _mm512_storeu_si512(p, v); }

#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
// ---- AVX2: the same lanes as two registers --------------------------------------------------------------------------
struct Floats { __m256 a, b; };
struct Ints { __m256i a, b; };
using Bytes = Ints;

SK_INLINE __m256i avx_load(const void* p) { return _mm256_loadu_si256((const __m256i*)p); }
SK_INLINE Floats zeros() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
SK_INLINE Floats all(float v) { __m256 x = _mm256_set1_ps(v); return {x, x}; }
SK_INLINE Floats load16(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
SK_INLINE void store16(float* p, Floats v) { _mm256_storeu_ps(p, v.a); _mm256_storeu_ps(p + 8, v.b); }
SK_INLINE Floats load_half(const uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 8)))};
}
SK_INLINE __m256 avx_bf16(const uint16_t* p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16));
}
SK_INLINE Floats load_bf16(const uint16_t* p) { return {avx_bf16(p), avx_bf16(p + 8)}; }
SK_INLINE Floats load_u8(const uint8_t* p) {
    __m128i v = _mm_loadu_si128((const __m128i*)p);
    return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(v)), _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(v, 8)))};
}
SK_INLINE Floats load_s8(const int8_t* p) {
    __m128i v = _mm_loadu_si128((const __m128i*)p);
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(v)), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(v, 8)))};
}
SK_INLINE void store_bf16(uint16_t* p, Floats v) {
    float x[16];
    store16(x, v);
    for (int i = 0; i < 16; i++) p[i] = to_bf16(x[i]);
}
SK_INLINE Floats fma(Floats x, Floats y, Floats c) { return {_mm256_fmadd_ps(x.a, y.a, c.a), _mm256_fmadd_ps(x.b, y.b, c.b)}; }
SK_INLINE Floats add(Floats x, Floats y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
SK_INLINE Floats sub(Floats x, Floats y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
SK_INLINE Floats mul(Floats x, Floats y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
SK_INLINE Floats div(Floats x, Floats y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
SK_INLINE Floats larger(Floats x, Floats y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
SK_INLINE Floats smaller(Floats x, Floats y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
SK_INLINE Floats rounded(Floats x) { return {_mm256_round_ps(x.a, 8), _mm256_round_ps(x.b, 8)}; }
SK_INLINE __m256 avx_power(__m256 n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
SK_INLINE Floats power_of_two(Floats n) { return {avx_power(n.a), avx_power(n.b)}; }
SK_INLINE __m256 avx_first(__m256 v, int n, float rest) {
    __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_blendv_ps(_mm256_set1_ps(rest), v, _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane)));
}
SK_INLINE Floats first_lanes(Floats v, int n, float rest) { return {avx_first(v.a, n, rest), avx_first(v.b, n - 8, rest)}; }
SK_INLINE Floats at_least(Floats v, Floats least) {
    return {_mm256_and_ps(v.a, _mm256_cmp_ps(v.a, least.a, _CMP_GE_OQ)), _mm256_and_ps(v.b, _mm256_cmp_ps(v.b, least.b, _CMP_GE_OQ))};
}
SK_INLINE __m256 avx_where(__m256 mask, __m256 v, __m256 rest) {
    return _mm256_blendv_ps(rest, v, _mm256_cmp_ps(mask, _mm256_setzero_ps(), _CMP_NEQ_OQ));
}
SK_INLINE Floats where(Floats mask, Floats v, Floats rest) { return {avx_where(mask.a, v.a, rest.a), avx_where(mask.b, v.b, rest.b)}; }
SK_INLINE Ints all_ints(int32_t v) { __m256i x = _mm256_set1_epi32(v); return {x, x}; }
SK_INLINE Floats to_float(Ints v) { return {_mm256_cvtepi32_ps(v.a), _mm256_cvtepi32_ps(v.b)}; }
SK_INLINE int32_t sum_of_int8(const int8_t* p) {
    int32_t sum = 0;
    for (int i = 0; i < 16; i++) sum += p[i];
    return sum;
}
SK_INLINE int32_t store_int8(int8_t* p, Floats v) {
    __m256i x = _mm256_packs_epi32(_mm256_cvtps_epi32(v.a), _mm256_cvtps_epi32(v.b));  // a0-3 b0-3 a4-7 b4-7
    x = _mm256_permute4x64_epi64(x, 0xd8);
    _mm_storeu_si128((__m128i*)p, _mm_packs_epi16(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1)));
    return sum_of_int8(p);
}
SK_INLINE Bytes load_bytes(const void* p) { return {avx_load(p), avx_load((const char*)p + 32)}; }
SK_INLINE Bytes low_nibbles(Bytes v) {
    __m256i m = _mm256_set1_epi8(15);
    return {_mm256_and_si256(v.a, m), _mm256_and_si256(v.b, m)};
}
SK_INLINE Bytes low_halves(Bytes v) {
    __m256i m = _mm256_set1_epi32(0xffff);
    return {_mm256_and_si256(v.a, m), _mm256_and_si256(v.b, m)};
}
SK_INLINE Bytes high_nibbles(Bytes v) { return low_nibbles({_mm256_srli_epi16(v.a, 4), _mm256_srli_epi16(v.b, 4)}); }
SK_INLINE __m256i avx_bits(__m256i v, int mask) { return _mm256_and_si256(v, _mm256_set1_epi8((char)mask)); }
SK_INLINE Bytes low_six(Bytes v) { return {avx_bits(v.a, 63), avx_bits(v.b, 63)}; }
SK_INLINE __m256i avx_upper_two(__m256i a, __m256i b, __m256i c) {
    __m256i out = _mm256_or_si256(avx_bits(_mm256_srli_epi16(a, 2), 48), avx_bits(_mm256_srli_epi16(b, 4), 12));
    return _mm256_or_si256(out, avx_bits(_mm256_srli_epi16(c, 6), 3));
}
SK_INLINE Bytes upper_two(Bytes x, Bytes y, Bytes z) { return {avx_upper_two(x.a, y.a, z.a), avx_upper_two(x.b, y.b, z.b)}; }
SK_INLINE __m256i avx_dot_u8(__m256i acc, __m256i w, __m256i a) {  // even and odd bytes apart, so that nothing saturates
    __m256i even = _mm256_madd_epi16(_mm256_and_si256(w, _mm256_set1_epi16(255)), _mm256_srai_epi16(_mm256_slli_epi16(a, 8), 8));
    __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(w, 8), _mm256_srai_epi16(a, 8));
    return _mm256_add_epi32(acc, _mm256_add_epi32(even, odd));
}
SK_INLINE Ints dot_u8(Ints acc, Bytes w, int32_t quad) {
    __m256i a = _mm256_set1_epi32(quad);
    return {avx_dot_u8(acc.a, w.a, a), avx_dot_u8(acc.b, w.b, a)};
}
SK_INLINE Ints dot_u6(Ints acc, Bytes w, int32_t quad) {
    __m256i a = _mm256_set1_epi32(quad), one = _mm256_set1_epi16(1);
    return {_mm256_add_epi32(acc.a, _mm256_madd_epi16(_mm256_maddubs_epi16(w.a, a), one)),
            _mm256_add_epi32(acc.b, _mm256_madd_epi16(_mm256_maddubs_epi16(w.b, a), one))};
}
SK_INLINE Floats dot_bf16(Floats acc, Bytes w, uint32_t pair) {
    __m256i mask = _mm256_set1_epi32((int32_t)0xffff0000);
    Floats odd = {_mm256_castsi256_ps(_mm256_and_si256(w.a, mask)), _mm256_castsi256_ps(_mm256_and_si256(w.b, mask))};
    Floats even = {_mm256_castsi256_ps(_mm256_slli_epi32(w.a, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(w.b, 16))};
    return fma(even, all(float_of(pair << 16)), fma(odd, all(float_of(pair & 0xffff0000u)), acc));
}
SK_INLINE __m256i avx_zip(const uint16_t* a, const uint16_t* b) {
    __m256i x = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)a));
    return _mm256_or_si256(x, _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)b)), 16));
}
SK_INLINE Bytes zip_low16(const uint16_t* a, const uint16_t* b) { return {avx_zip(a, b), avx_zip(a + 8, b + 8)}; }
SK_INLINE void store_bytes(void* p, Bytes v) {
    _mm256_storeu_si256((__m256i*)p, v.a);
    _mm256_storeu_si256((__m256i*)((char*)p + 32), v.b);
}

#else
// ---- portable: plain loops; the meaning of every operation above ---------------------------------------------------
struct Floats { float v[16]; };
struct Ints { int32_t v[16]; };
struct Bytes { uint8_t v[64]; };
#define SK_LANES for (int i = 0; i < 16; i++)

SK_INLINE Floats all(float v) { Floats r; SK_LANES r.v[i] = v; return r; }
SK_INLINE Floats zeros() { return all(0.0f); }
SK_INLINE Floats load16(const float* p) { Floats r; std::memcpy(r.v, p, 64); return r; }
SK_INLINE void store16(float* p, Floats v) { std::memcpy(p, v.v, 64); }
SK_INLINE Floats load_half(const uint16_t* p) { Floats r; SK_LANES r.v[i] = half_to_float(p[i]); return r; }
SK_INLINE Floats load_bf16(const uint16_t* p) { Floats r; SK_LANES r.v[i] = float_of((uint32_t)p[i] << 16); return r; }
SK_INLINE Floats load_u8(const uint8_t* p) { Floats r; SK_LANES r.v[i] = p[i]; return r; }
SK_INLINE Floats load_s8(const int8_t* p) { Floats r; SK_LANES r.v[i] = p[i]; return r; }
SK_INLINE void store_bf16(uint16_t* p, Floats v) { SK_LANES p[i] = to_bf16(v.v[i]); }
SK_INLINE Floats fma(Floats a, Floats b, Floats c) { SK_LANES c.v[i] = a.v[i] * b.v[i] + c.v[i]; return c; }
SK_INLINE Floats add(Floats a, Floats b) { SK_LANES a.v[i] += b.v[i]; return a; }
SK_INLINE Floats sub(Floats a, Floats b) { SK_LANES a.v[i] -= b.v[i]; return a; }
SK_INLINE Floats mul(Floats a, Floats b) { SK_LANES a.v[i] *= b.v[i]; return a; }
SK_INLINE Floats div(Floats a, Floats b) { SK_LANES a.v[i] /= b.v[i]; return a; }
SK_INLINE Floats larger(Floats a, Floats b) { SK_LANES a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i]; return a; }
SK_INLINE Floats smaller(Floats a, Floats b) { SK_LANES a.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i]; return a; }
SK_INLINE Floats rounded(Floats a) {  // adding 1.5·2^23 leaves a whole number, rounded to nearest even, for |a| < 2^22
    SK_LANES { float t = a.v[i] + 12582912.0f; a.v[i] = t - 12582912.0f; }
    return a;
}
SK_INLINE Floats power_of_two(Floats n) { SK_LANES n.v[i] = float_of((uint32_t)((int32_t)n.v[i] + 127) << 23); return n; }
SK_INLINE Floats first_lanes(Floats v, int n, float rest) { SK_LANES v.v[i] = i < n ? v.v[i] : rest; return v; }
SK_INLINE Floats where(Floats mask, Floats v, Floats rest) { SK_LANES v.v[i] = mask.v[i] != 0.0f ? v.v[i] : rest.v[i]; return v; }
SK_INLINE Floats at_least(Floats v, Floats least) { SK_LANES v.v[i] = v.v[i] >= least.v[i] ? v.v[i] : 0.0f; return v; }
SK_INLINE Ints all_ints(int32_t v) { Ints r; SK_LANES r.v[i] = v; return r; }
SK_INLINE Floats to_float(Ints v) { Floats r; SK_LANES r.v[i] = (float)v.v[i]; return r; }
SK_INLINE int32_t store_int8(int8_t* p, Floats v) {
    int32_t sum = 0;
    v = rounded(v);
    SK_LANES sum += p[i] = (int8_t)v.v[i];
    return sum;
}
SK_INLINE Bytes load_bytes(const void* p) { Bytes r; std::memcpy(r.v, p, 64); return r; }
SK_INLINE Bytes low_halves(Bytes v) { for (int i = 0; i < 64; i += 4) v.v[i + 2] = v.v[i + 3] = 0; return v; }
SK_INLINE Bytes low_nibbles(Bytes v) { for (int i = 0; i < 64; i++) v.v[i] &= 15; return v; }
SK_INLINE Bytes high_nibbles(Bytes v) { for (int i = 0; i < 64; i++) v.v[i] >>= 4; return v; }
SK_INLINE Bytes low_six(Bytes v) { for (int i = 0; i < 64; i++) v.v[i] &= 63; return v; }
SK_INLINE Bytes upper_two(Bytes a, Bytes b, Bytes c) {
    for (int i = 0; i < 64; i++) a.v[i] = (uint8_t)(a.v[i] >> 6 << 4 | b.v[i] >> 6 << 2 | c.v[i] >> 6);
    return a;
}
SK_INLINE Ints dot_u8(Ints acc, Bytes w, int32_t quad) {
    int8_t a[4];
    std::memcpy(a, &quad, 4);
    SK_LANES acc.v[i] += w.v[4 * i] * a[0] + w.v[4 * i + 1] * a[1] + w.v[4 * i + 2] * a[2] + w.v[4 * i + 3] * a[3];
    return acc;
}
SK_INLINE Ints dot_u6(Ints acc, Bytes w, int32_t quad) { return dot_u8(acc, w, quad); }
SK_INLINE Floats dot_bf16(Floats acc, Bytes w, uint32_t pair) {
    uint16_t x[32];
    std::memcpy(x, w.v, 64);
    float even = float_of(pair << 16), odd = float_of(pair & 0xffff0000u);
    SK_LANES acc.v[i] += float_of((uint32_t)x[2 * i + 1] << 16) * odd;
    SK_LANES acc.v[i] += float_of((uint32_t)x[2 * i] << 16) * even;
    return acc;
}
SK_INLINE Bytes zip_low16(const uint16_t* a, const uint16_t* b) {
    uint16_t x[32];
    SK_LANES { x[2 * i] = a[i]; x[2 * i + 1] = b[i]; }
    Bytes r;
    std::memcpy(r.v, x, 64);
    return r;
}
SK_INLINE void store_bytes(void* p, Bytes v) { std::memcpy(p, v.v, 64); }
#undef SK_LANES
#endif

#if !defined(__AVX512BW__)
SK_INLINE void zip32(const uint16_t* a, const uint16_t* b, Bytes out[2]) {
    out[0] = zip_low16(a, b);
    out[1] = zip_low16(a + 16, b + 16);
}
#endif

// ---- built from the above, one text for all levels -------------------------------------------------------------------

#if !(defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__))
SK_INLINE float total(Floats v) {  // always in this order
    float x[16];
    store16(x, v);
    for (int step = 8; step; step /= 2)
        for (int i = 0; i < step; i++) x[i] += x[i + step];
    return x[0];
}

SK_INLINE float largest_magnitude(Floats a, Floats b) {
    float x[32];
    store16(x, a);
    store16(x + 16, b);
    return largest_magnitude(x, 32);
}

SK_INLINE float largest(Floats v) {
    float x[16];
    store16(x, v);
    for (int step = 8; step; step /= 2)
        for (int i = 0; i < step; i++) x[i] = x[i] > x[i + step] ? x[i] : x[i + step];
    return x[0];
}
#endif

SK_INLINE Floats exp16(Floats x) {  // relative error about 1e-7 (Cephes' polynomial); exp(-87) for all below
    Floats small = all(-87.0f);
    Floats y = smaller(all(88.0f), larger(small, x));  // in this order NaN stays NaN
    Floats n = rounded(mul(y, all(1.44269504f)));
    Floats r = fma(n, all(-0.693359375f), y);
    r = fma(n, all(2.12194440e-4f), r);
    Floats p = all(1.9875691500e-4f);
    p = fma(p, r, all(1.3981999507e-3f));
    p = fma(p, r, all(8.3334519073e-3f));
    p = fma(p, r, all(4.1665795894e-2f));
    p = fma(p, r, all(1.6666665459e-1f));
    p = fma(p, r, all(5.0000001201e-1f));
    p = add(fma(mul(p, r), r, r), all(1.0f));
    return mul(p, power_of_two(n));
}

SK_INLINE Floats silu16(Floats x) { return div(x, add(all(1.0f), exp16(sub(zeros(), x)))); }

}  // namespace sk

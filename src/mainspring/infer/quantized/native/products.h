// Products of tokens with int8 and int4 weights, for one instruction set.
//
// The compiler's target chooses the path: VNNI in 512 or 256 bits, AVX2, or plain loops. All give the same
// integer sums. AVX2 widens to 16 bits before it multiplies: its 8-bit products saturate. VNNI takes one side
// unsigned: 128 is added to the weights, and 128 times a token's sum taken off. int4 codes are unsigned as they
// are stored, 8 too large; 8 times the sum of a token's block is taken off.
//
// Legend: M tokens, N outputs, P inputs in whole blocks of 64, B = P / 64.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

constexpr int64_t BLOCK = 64;
constexpr int COLUMNS = 2;  // of a tile of four tokens: AVX2 has sixteen registers
constexpr int64_t PANEL = 192 * 1024;  // bytes of weights that stay in a core's second-level cache

struct Linear {
    const uint8_t* values;  // int8 [N, P], or int4 codes [N, P / 2]
    const float* scales;    // [N], or [N, B]
    const float* bias;      // [N], or null
    int64_t outputs, inputs, filled;
    int32_t bits, activation;  // activation: 0 none, 1 gelu, 2 gelu by tanh, 3 relu
};

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
using Wide = __m512i;
constexpr bool WIDE_TOKENS = false;
inline Wide zero() { return _mm512_setzero_si512(); }
inline int32_t total(Wide v) { return _mm512_reduce_add_epi32(v); }
#elif defined(__AVX2__)
using Wide = __m256i;
inline Wide zero() { return _mm256_setzero_si256(); }
inline int32_t total(Wide v) {
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}
#if defined(__AVXVNNI__)
constexpr bool WIDE_TOKENS = false;
#else
constexpr bool WIDE_TOKENS = true;  // tokens of int8 layers are kept in 16 bits
#endif
#else
constexpr bool WIDE_TOKENS = false;
#endif

// Keeps a sum in its register: without it GCC multiplies a whole tile before it adds, and runs out of them.
#if defined(__AVX2__)
template <class V>
inline V keep(V sum) {
    asm volatile("" : "+v"(sum));
    return sum;
}
#endif

// Tokens rounded to integers: as int8 layers want them, and as int4 layers do.
struct Tokens {
    std::vector<int8_t> narrow;   // [M, P]
    std::vector<int16_t> wide;    // [M, P]
    std::vector<float> scales;    // [M], or [M, B]
    std::vector<int32_t> sums;    // of the integers, likewise
};

// Rounds columns [0, count) of x by one scale; columns up to `filled` become 0. The same arithmetic as
// kernels.round_tokens.
void round_run(const float* x, int64_t count, int64_t filled, int8_t* narrow, float& scale, int32_t& sum) {
    uint32_t largest = 0;  // of the bits without the sign: NaN and infinity are above all numbers
    for (int64_t k = 0; k < count; ++k) {
        uint32_t bits;
        std::memcpy(&bits, x + k, 4);
        largest = std::max(largest, bits & 0x7fffffffu);
    }
    float size;
    std::memcpy(&size, &largest, 4);
    int32_t s = 0;
    if (largest >= 0x7f800000u || largest == 0) {
        std::memset(narrow, 0, filled);
        scale = largest ? NAN : 0.0f;
    } else {
        const float inverse = 127.0f / size;
        for (int64_t k = 0; k < count; ++k) {
            const float v = std::min(127.0f, std::max(-127.0f, std::nearbyint(x[k] * inverse)));
            const int32_t i = static_cast<int32_t>(v);
            narrow[k] = static_cast<int8_t>(i);
            s += i;
        }
        if (filled > count) std::memset(narrow + count, 0, filled - count);
        scale = size / 127.0f;
    }
    sum = s;
}

void reserve_tokens(const Linear& l, int64_t tokens, Tokens& t) {
    const int64_t runs = l.bits == 8 ? tokens : tokens * (l.filled / BLOCK);
    if (static_cast<int64_t>(t.narrow.size()) < tokens * l.filled) t.narrow.resize(tokens * l.filled);
    if (WIDE_TOKENS && l.bits == 8 && static_cast<int64_t>(t.wide.size()) < tokens * l.filled)
        t.wide.resize(tokens * l.filled);
    if (static_cast<int64_t>(t.scales.size()) < runs) t.scales.resize(runs), t.sums.resize(runs);
}

void round_token(const Linear& l, const float* x, int64_t m, Tokens& t) {
    int8_t* narrow = t.narrow.data() + m * l.filled;
    if (l.bits == 4) {
        const int64_t blocks = l.filled / BLOCK;
        for (int64_t b = 0; b < blocks; ++b) {
            const int64_t count = std::min(BLOCK, l.inputs - b * BLOCK);
            round_run(x + b * BLOCK, count, BLOCK, narrow + b * BLOCK, t.scales[m * blocks + b],
                      t.sums[m * blocks + b]);
        }
        return;
    }
    round_run(x, l.inputs, l.filled, narrow, t.scales[m], t.sums[m]);
    if (WIDE_TOKENS)
        for (int64_t k = 0; k < l.filled; ++k) t.wide[m * l.filled + k] = narrow[k];
}

// Integer sums of R tokens with C rows of weights, from the first of each.
template <int R, int C>
inline void int8_tile(const Tokens& t, int64_t m, const uint8_t* w, int64_t filled, int32_t out[R][C]) {
#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
    const int8_t* x = t.narrow.data() + m * filled;
    const Wide top = _mm512_set1_epi8(static_cast<char>(0x80));
    Wide sums[R][C];
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) sums[r][c] = zero();
    for (int64_t k = 0; k < filled; k += 64) {
        Wide token[R];
        for (int r = 0; r < R; ++r) token[r] = _mm512_loadu_si512(x + r * filled + k);
        for (int c = 0; c < C; ++c) {
            const Wide row = _mm512_xor_si512(_mm512_loadu_si512(w + c * filled + k), top);
            for (int r = 0; r < R; ++r) sums[r][c] = keep(_mm512_dpbusd_epi32(sums[r][c], row, token[r]));
        }
    }
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) out[r][c] = total(sums[r][c]) - 128 * t.sums[m + r];
#elif defined(__AVXVNNI__)
    const int8_t* x = t.narrow.data() + m * filled;
    const Wide top = _mm256_set1_epi8(static_cast<char>(0x80));
    Wide sums[R][C];
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) sums[r][c] = zero();
    for (int64_t k = 0; k < filled; k += 32) {
        Wide row[C];
        for (int c = 0; c < C; ++c)
            row[c] = _mm256_xor_si256(_mm256_loadu_si256((const Wide*)(w + c * filled + k)), top);
        for (int r = 0; r < R; ++r) {
            const Wide token = _mm256_loadu_si256((const Wide*)(x + r * filled + k));
            for (int c = 0; c < C; ++c)
                sums[r][c] = keep(_mm256_dpbusd_avx_epi32(sums[r][c], row[c], token));
        }
    }
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) out[r][c] = total(sums[r][c]) - 128 * t.sums[m + r];
#elif defined(__AVX2__)
    const int16_t* x = t.wide.data() + m * filled;
    Wide sums[R][C];
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) sums[r][c] = zero();
    for (int64_t k = 0; k < filled; k += 16) {
        Wide row[C];
        for (int c = 0; c < C; ++c)
            row[c] = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)(w + c * filled + k)));
        for (int r = 0; r < R; ++r) {
            const Wide token = _mm256_loadu_si256((const Wide*)(x + r * filled + k));
            for (int c = 0; c < C; ++c)
                sums[r][c] = keep(_mm256_add_epi32(sums[r][c], _mm256_madd_epi16(row[c], token)));
        }
    }
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) out[r][c] = total(sums[r][c]);
#else
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) {
            const int8_t* x = t.narrow.data() + (m + r) * filled;
            const int8_t* row = reinterpret_cast<const int8_t*>(w) + c * filled;
            int32_t s = 0;
            for (int64_t k = 0; k < filled; ++k) s += int32_t(x[k]) * int32_t(row[k]);
            out[r][c] = s;
        }
#endif
}

// Sum over a block of codes (8 too large) and of a token: in lanes, to be added up.
#if defined(__AVX2__)
struct Codes {
    __m256i low, high;
};
inline Codes read_codes(const uint8_t* w) {
    const __m256i both = _mm256_loadu_si256((const __m256i*)w), half = _mm256_set1_epi8(15);
    return {_mm256_and_si256(both, half), _mm256_and_si256(_mm256_srli_epi16(both, 4), half)};
}
inline __m256i block_lanes(const Codes& codes, const int8_t* x) {
    const __m256i first = _mm256_loadu_si256((const __m256i*)x);
    const __m256i second = _mm256_loadu_si256((const __m256i*)(x + 32));
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
    const __m256i sums = _mm256_dpbusd_epi32(_mm256_setzero_si256(), codes.low, first);
    return _mm256_dpbusd_epi32(sums, codes.high, second);
#elif defined(__AVXVNNI__)
    const __m256i sums = _mm256_dpbusd_avx_epi32(_mm256_setzero_si256(), codes.low, first);
    return _mm256_dpbusd_avx_epi32(sums, codes.high, second);
#else  // two pairs of products of at most 15 * 127 fit into 16 bits
    const __m256i pairs =
        _mm256_add_epi16(_mm256_maddubs_epi16(codes.low, first), _mm256_maddubs_epi16(codes.high, second));
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#endif
}
#endif
inline int32_t block_sum(const uint8_t* w, const int8_t* x, int32_t token_sum) {
#if defined(__AVX2__)
    const __m256i v = block_lanes(read_codes(w), x);
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1))) - 8 * token_sum;
#else
    int32_t s = 0;
    for (int j = 0; j < 32; ++j) s += (w[j] & 15) * int32_t(x[j]) + (w[j] >> 4) * int32_t(x[j + 32]);
    return s - 8 * token_sum;
#endif
}

// Scaled sums of R tokens with C rows of int4 weights.
template <int R, int C>
inline void int4_tile(const Tokens& t, int64_t m, const uint8_t* w, const float* scales, int64_t filled,
                      float out[R][C]) {
    const int64_t blocks = filled / BLOCK;
    const int8_t* x = t.narrow.data() + m * filled;
    const float* token_scales = t.scales.data() + m * blocks;
    const int32_t* token_sums = t.sums.data() + m * blocks;
#if defined(__AVX2__)
    __m256 sums[R][C];
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) sums[r][c] = _mm256_setzero_ps();
    for (int64_t b = 0; b < blocks; ++b) {
        Codes codes[C];
        __m256 scale[C];
        for (int c = 0; c < C; ++c) {
            codes[c] = read_codes(w + c * filled / 2 + b * 32);
            scale[c] = _mm256_broadcast_ss(scales + c * blocks + b);
        }
        for (int r = 0; r < R; ++r) {
            const __m256 token_scale = _mm256_broadcast_ss(token_scales + r * blocks + b);
            // Once in each of eight lanes: eight times the token's sum.
            const __m256i excess = _mm256_set1_epi32(token_sums[r * blocks + b]);
            for (int c = 0; c < C; ++c) {
                const __m256i exact =
                    _mm256_sub_epi32(block_lanes(codes[c], x + r * filled + b * BLOCK), excess);
                const __m256 lanes = _mm256_cvtepi32_ps(exact);
                sums[r][c] = keep(_mm256_fmadd_ps(lanes, _mm256_mul_ps(token_scale, scale[c]), sums[r][c]));
            }
        }
    }
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) {
            __m128 s = _mm_add_ps(_mm256_castps256_ps128(sums[r][c]), _mm256_extractf128_ps(sums[r][c], 1));
            s = _mm_add_ps(s, _mm_movehl_ps(s, s));
            out[r][c] = _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
        }
#else
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) {
            float s = 0;
            for (int64_t b = 0; b < blocks; ++b)
                s += float(block_sum(w + c * filled / 2 + b * 32, x + r * filled + b * BLOCK,
                                     token_sums[r * blocks + b])) *
                     (token_scales[r * blocks + b] * scales[c * blocks + b]);
            out[r][c] = s;
        }
#endif
}

template <int R, int C>
inline void tile(const Linear& l, const Tokens& t, int64_t m, int64_t n, float* out, int64_t stride) {
    float scaled[R][C];
    if (l.bits == 8) {
        int32_t sums[R][C];
        int8_tile<R, C>(t, m, l.values + n * l.filled, l.filled, sums);
        for (int r = 0; r < R; ++r)
            for (int c = 0; c < C; ++c) scaled[r][c] = float(sums[r][c]) * t.scales[m + r] * l.scales[n + c];
    } else {
        int4_tile<R, C>(t, m, l.values + n * l.filled / 2, l.scales + n * (l.filled / BLOCK), l.filled, scaled);
    }
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c)
            out[(m + r) * stride + n + c] = scaled[r][c] + (l.bias ? l.bias[n + c] : 0.0f);
}

template <int R>
inline void tile_row(const Linear& l, const Tokens& t, int64_t m, int64_t first, int64_t last, float* out,
                     int64_t stride) {
    int64_t n = first;
    for (; n + COLUMNS <= last; n += COLUMNS) tile<R, COLUMNS>(l, t, m, n, out, stride);
    for (; n < last; ++n) tile<R, 1>(l, t, m, n, out, stride);
}

// exp without a library call, so that loops over it become vectors; relative error below 3e-7.
inline float exponential(float x) {
    x = std::min(88.0f, std::max(-87.0f, x));
    const float n = std::nearbyint(x * 1.44269504f);
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, 4);
    return p * power;
}

void activate(float* y, int64_t count, int32_t kind) {
    if (kind == 1) {  // erf by Abramowitz and Stegun, 7.1.26: absolute error below 2e-7
        for (int64_t i = 0; i < count; ++i) {
            const float z = std::fabs(y[i]) * 0.70710678f, q = 1.0f / (1.0f + 0.3275911f * z);
            float p = 1.061405429f;
            p = p * q - 1.453152027f;
            p = p * q + 1.421413741f;
            p = p * q - 0.284496736f;
            p = (p * q + 0.254829592f) * q;
            const float half = 0.5f * p * exponential(-z * z);  // (1 - erf z) / 2
            y[i] = y[i] * (y[i] < 0 ? half : 1.0f - half);
        }
    } else if (kind == 2) {
        for (int64_t i = 0; i < count; ++i) {
            const float u = y[i] * (1.5957691216f + 0.0713548163f * y[i] * y[i]);
            y[i] = y[i] / (1.0f + exponential(-u));
        }
    } else if (kind == 3) {
        for (int64_t i = 0; i < count; ++i) y[i] = y[i] > 0 ? y[i] : (y[i] != y[i] ? y[i] : 0.0f);
    }
}

// Outputs [first, last) of all tokens: four tokens stay in the first-level cache while a panel of weights
// passes, which stays in the second.
void outputs_of(const Linear& l, const Tokens& t, int64_t tokens, int64_t first, int64_t last, float* out,
                int64_t stride) {
    const int64_t row = l.bits == 8 ? l.filled : l.filled / 2;
    const int64_t most = std::max<int64_t>(COLUMNS, PANEL / row / COLUMNS * COLUMNS);
    for (int64_t start = first; start < last; start += most) {
        const int64_t stop = std::min(last, start + most);
        int64_t m = 0;
        for (; m + 4 <= tokens; m += 4) tile_row<4>(l, t, m, start, stop, out, stride);
        for (; m + 2 <= tokens; m += 2) tile_row<2>(l, t, m, start, stop, out, stride);
        for (; m < tokens; ++m) tile_row<1>(l, t, m, start, stop, out, stride);
        if (l.activation)
            for (m = 0; m < tokens; ++m) activate(out + m * stride + start, stop - start, l.activation);
    }
}

}  // namespace

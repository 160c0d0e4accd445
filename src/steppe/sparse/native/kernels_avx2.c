/* AVX2: eight weights at a time, spread by a table of shuffles. */
#include "gather.h"

#define VF __m256
#define LANES 8
#define MOST 2
#define V_ZERO() _mm256_setzero_ps()
#define V_LOAD(p) _mm256_loadu_ps(p)
#define V_FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define V_SUM(v) sum(v)
#define V_GATHER(x, columns) gather(x, columns)

/* For each byte of bits, where its lanes come from, as pairs of bytes; 0x80 gives zero. */
static uint8_t pairs[256][16];
/* The same as single bytes, for elements of one byte and as indices of four-byte lanes. */
static uint8_t singles[256][8];

static void make_tables(void) {
  for (int bits = 0; bits < 256; bits++)
    for (int lane = 0, from = 0; lane < 8; lane++) {
      int there = bits >> lane & 1;
      singles[bits][lane] = there ? (uint8_t)from : 0x80;
      pairs[bits][2 * lane] = there ? (uint8_t)(2 * from) : 0x80;
      pairs[bits][2 * lane + 1] = there ? (uint8_t)(2 * from + 1) : 0x80;
      from += there;
    }
}

static inline float sum(__m256 v) {
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

static inline __m256 gather(const float *x, const uint16_t *columns) {
  return _mm256_set_m128(four(x, four_columns(columns + 4)), four(x, four_columns(columns)));
}

static inline __m256 eight_f32(uint32_t bits, const float *p) {
  /* the sign bit of an index, from 0x80, keeps zeros out */
  __m256i from = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)singles[bits]));
  __m256 spread = _mm256_permutevar8x32_ps(_mm256_loadu_ps(p), from);
  return _mm256_andnot_ps(_mm256_castsi256_ps(_mm256_srai_epi32(from, 31)), spread);
}

static inline __m128i eight_pairs(uint32_t bits, const uint16_t *p) {
  return _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)p),
                          _mm_loadu_si128((const __m128i *)pairs[bits]));
}

static inline __m256 wide_bf16(__m128i halves) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}

static inline __m256 eight_bf16(uint32_t bits, const uint16_t *p) {
  return wide_bf16(eight_pairs(bits, p));
}

static inline __m256 eight_f16(uint32_t bits, const uint16_t *p) {
  return _mm256_cvtph_ps(eight_pairs(bits, p));
}

static inline __m256 eight_i8(uint32_t bits, const int8_t *p) {
  __m128i spread = _mm_shuffle_epi8(_mm_loadl_epi64((const __m128i *)p),
                                    _mm_loadl_epi64((const __m128i *)singles[bits]));
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(spread));
}

#define EXPAND(EIGHT, bits, p, w)                                        \
  do {                                                                   \
    const uint32_t all = (bits);                                         \
    (w)[0] = EIGHT(all & 0xff, p);                                       \
    (w)[1] = EIGHT(all >> 8 & 0xff, (p) + sps_count_bits(all & 0xff));   \
    (w)[2] = EIGHT(all >> 16 & 0xff, (p) + sps_count_bits(all & 0xffff)); \
    (w)[3] = EIGHT(all >> 24, (p) + sps_count_bits(all & 0xffffff));     \
  } while (0)
#define EXPAND_F32(bits, p, w) EXPAND(eight_f32, bits, p, w)
#define EXPAND_BF16(bits, p, w) EXPAND(eight_bf16, bits, p, w)
#define EXPAND_F16(bits, p, w) EXPAND(eight_f16, bits, p, w)
#define EXPAND_I8(bits, p, w) EXPAND(eight_i8, bits, p, w)

#define HALVES(p) _mm_loadu_si128((const __m128i *)(p))
#define LOAD_F32(p) _mm256_loadu_ps(p)
#define LOAD_BF16(p) wide_bf16(HALVES(p))
#define LOAD_F16(p) _mm256_cvtph_ps(HALVES(p))
#define LOAD_I8(p) \
  _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(p))))
#define ONE_F32(v) (v)
#define ONE_BF16(v) sps_from_bf16(v)
#define ONE_F16(v) _cvtsh_ss(v)
#define ONE_I8(v) ((float)(v))

#include "bits_template.h"
#include "index_template.h"

SPS_BITS(bits_f32, float, EXPAND_F32)
SPS_BITS(bits_bf16, uint16_t, EXPAND_BF16)
SPS_BITS(bits_f16, uint16_t, EXPAND_F16)
SPS_BITS(bits_i8, int8_t, EXPAND_I8)
#define SPREAD(EIGHT, STORE, bits, p, out)                                   \
  do {                                                                       \
    const uint32_t all = (bits);                                             \
    STORE((out), EIGHT(all & 0xff, p));                                      \
    STORE((out) + 8, EIGHT(all >> 8 & 0xff, (p) + sps_count_bits(all & 0xff))); \
    STORE((out) + 16, EIGHT(all >> 16 & 0xff, (p) + sps_count_bits(all & 0xffff))); \
    STORE((out) + 24, EIGHT(all >> 24, (p) + sps_count_bits(all & 0xffffff))); \
  } while (0)
#define STORE_PAIRS(out, v) _mm_storeu_si128((__m128i *)(out), v)
#define SPREAD_2(bits, p, out) SPREAD(eight_pairs, STORE_PAIRS, bits, p, out)
#define SPREAD_4(bits, p, out) SPREAD(eight_f32, _mm256_storeu_ps, bits, p, out)
SPS_UNPACK(unpack2, uint16_t, SPREAD_2)
SPS_UNPACK(unpack4, float, SPREAD_4)
SPS_INDEX(index_f32, float, LOAD_F32, ONE_F32)
SPS_INDEX(index_bf16, uint16_t, LOAD_BF16, ONE_BF16)
SPS_INDEX(index_f16, uint16_t, LOAD_F16, ONE_F16)
SPS_INDEX(index_i8, int8_t, LOAD_I8, ONE_I8)

static int works(void) {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
  if (!__builtin_cpu_supports("bmi") || !__builtin_cpu_supports("bmi2")) return 0;
  if (!__builtin_cpu_supports("popcnt")) return 0;
  make_tables();
  return 1;
}

static void widen_f16(const uint16_t *from, float *to, int64_t count) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) _mm256_storeu_ps(to + i, _mm256_cvtph_ps(HALVES(from + i)));
  for (; i < count; i++) to[i] = _cvtsh_ss(from[i]);
}

const sps_kernels sps_avx2 = {
    .name = "avx2",
    .works = works,
    .bits = {bits_f32, bits_bf16, bits_f16, bits_i8},
    .index = {index_f32, index_bf16, index_f16, index_i8},
    .unpack2 = unpack2,
    .unpack4 = unpack4,
    .widen_f16 = widen_f16,
};

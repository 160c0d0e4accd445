/* AVX-512 with VBMI2 and BF16: 32 halves are spread at once, and multiplied in pairs. */
#include "avx512.h"

static inline __m512i spread(uint32_t bits, const uint16_t *p) {
  return _mm512_maskz_expand_epi16(bits, _mm512_loadu_si512(p));
}

#define EXPAND_F32(bits, p, w) EXPAND_32(LOAD_F32, bits, p, w)
#define EXPAND_BF16(bits, p, w)                                      \
  do {                                                               \
    const __m512i both = spread(bits, p);                            \
    (w)[0] = wide_bf16(_mm512_castsi512_si256(both));                \
    (w)[1] = wide_bf16(_mm512_extracti64x4_epi64(both, 1));          \
  } while (0)
#define EXPAND_F16(bits, p, w)                                       \
  do {                                                               \
    const __m512i both = spread(bits, p);                            \
    (w)[0] = _mm512_cvtph_ps(_mm512_castsi512_si256(both));          \
    (w)[1] = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(both, 1));    \
  } while (0)
#define EXPAND_I8(bits, p, w)                                                                  \
  do {                                                                                         \
    const __m256i both = _mm256_maskz_expand_epi8(bits, _mm256_loadu_si256((const void *)(p))); \
    (w)[0] = wide_i8(_mm256_castsi256_si128(both));                                            \
    (w)[1] = wide_i8(_mm256_extracti128_si256(both, 1));                                       \
  } while (0)

#include "bits_template.h"
#include "index_template.h"

SPS_BITS(bits_f32, float, EXPAND_F32)
SPS_BITS(bits_bf16, uint16_t, EXPAND_BF16)
SPS_BITS(bits_f16, uint16_t, EXPAND_F16)
SPS_BITS(bits_i8, int8_t, EXPAND_I8)
#define SPREAD_2(bits, p, out) _mm512_storeu_si512((out), spread(bits, p))
SPS_UNPACK(unpack2, uint16_t, SPREAD_2)
SPS_UNPACK(unpack4, float, SPREAD_4)
SPS_INDEX(index_f32, float, LOAD_F32, ONE_F32)
SPS_INDEX(index_bf16, uint16_t, LOAD_BF16, ONE_BF16)
SPS_INDEX(index_f16, uint16_t, LOAD_F16, ONE_F16)
SPS_INDEX(index_i8, int8_t, LOAD_I8, ONE_I8)

/* bfloat16 values with bfloat16 inputs: products of pairs, summed in float32. */
SPS_INLINE void bits_x16_tokens(const sps_bits *matrix, const sps_inputs *in, int64_t group,
                                int64_t token, const int count, float *sums) {
  const int64_t chunks = sps_up(matrix->columns, SPS_CHUNK);
  const uint32_t *bits = matrix->bits + group * chunks * SPS_ROWS;
  const uint16_t *p = (const uint16_t *)matrix->values + matrix->offsets[group];
  const uint16_t *x = in->x16 + token * in->stride;
  __m512 total[SPS_ROWS][MOST];
  for (int row = 0; row < SPS_ROWS; row++)
    for (int t = 0; t < count; t++) total[row][t] = V_ZERO();
  for (int64_t chunk = 0; chunk < chunks; chunk++, bits += SPS_ROWS, x += SPS_CHUNK) {
    __builtin_prefetch((const char *)p + 1024);
    for (int row = 0; row < SPS_ROWS; row++) {
      const __m512bh w = (__m512bh)spread(bits[row], p);
      p += sps_count_bits(bits[row]);
      for (int t = 0; t < count; t++) {
        const __m512bh own = (__m512bh)_mm512_loadu_si512(x + t * in->stride);
        total[row][t] = _mm512_dpbf16_ps(total[row][t], w, own);
      }
    }
  }
  for (int t = 0; t < count; t++)
    for (int row = 0; row < SPS_ROWS; row++)
      sums[(token + t) * SPS_ROWS + row] = V_SUM(total[row][t]);
}
SPS_BY_TOKENS(bits_x16)

static int works(void) {
  return basics_work() && __builtin_cpu_supports("avx512vbmi2") &&
         __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
}

const sps_kernels sps_avx512vbmi2 = {
    .name = "avx512vbmi2",
    .works = works,
    .bits = {bits_f32, bits_bf16, bits_f16, bits_i8},
    .bits_x16 = bits_x16,
    .index = {index_f32, index_bf16, index_f16, index_i8},
    .unpack2 = unpack2,
    .unpack4 = unpack4,
    .widen_f16 = widen_f16,
};

/* What the two AVX-512 files share: vectors of 16 floats. */
#include "gather.h"

#define VF __m512
#define LANES 16
#define MOST 4
#define V_ZERO() _mm512_setzero_ps()
#define V_LOAD(p) _mm512_loadu_ps(p)
#define V_FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define V_SUM(v) _mm512_reduce_add_ps(v)
#define V_GATHER(x, columns) gather(x, columns)

static inline __m512 gather(const float *x, const uint16_t *columns) {
  __m512 v = _mm512_castps128_ps512(four(x, four_columns(columns)));
  v = _mm512_insertf32x4(v, four(x, four_columns(columns + 4)), 1);
  v = _mm512_insertf32x4(v, four(x, four_columns(columns + 8)), 2);
  return _mm512_insertf32x4(v, four(x, four_columns(columns + 12)), 3);
}

static inline __m512 wide_bf16(__m256i halves) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

static inline __m512 wide_i8(__m128i bytes) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
}

#define HALVES(p) _mm256_loadu_si256((const __m256i *)(p))
#define BYTES(p) _mm_loadu_si128((const __m128i *)(p))
#define LOAD_F32(p) _mm512_loadu_ps(p)
#define LOAD_BF16(p) wide_bf16(HALVES(p))
#define LOAD_F16(p) _mm512_cvtph_ps(HALVES(p))
#define LOAD_I8(p) wide_i8(BYTES(p))
#define ONE_F32(v) (v)
#define ONE_BF16(v) sps_from_bf16(v)
#define ONE_F16(v) _cvtsh_ss(v)
#define ONE_I8(v) ((float)(v))

/* Each half of a chunk is 16 values, spread over the lanes of its bits. */
#define EXPAND_32(LOAD, bits, p, w)                                                             \
  do {                                                                                          \
    const uint32_t all = (bits);                                                                \
    (w)[0] = _mm512_maskz_expand_ps((__mmask16)all, LOAD(p));                                   \
    (w)[1] = _mm512_maskz_expand_ps((__mmask16)(all >> 16),                                     \
                                    LOAD((p) + sps_count_bits(all & 0xffff)));                  \
  } while (0)

#define SPREAD_4(bits, p, out)                       \
  do {                                               \
    __m512 halves[2];                                \
    EXPAND_32(LOAD_F32, bits, p, halves);            \
    _mm512_storeu_ps((out), halves[0]);              \
    _mm512_storeu_ps((out) + 16, halves[1]);         \
  } while (0)

static void widen_f16(const uint16_t *from, float *to, int64_t count) {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) _mm512_storeu_ps(to + i, _mm512_cvtph_ps(HALVES(from + i)));
  for (; i < count; i++) to[i] = _cvtsh_ss(from[i]);
}

static inline int basics_work(void) {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
         __builtin_cpu_supports("popcnt") &&
         __builtin_cpu_supports("fma");
}

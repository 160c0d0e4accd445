/* AVX-512 with the expansion of four-byte lanes only: the processors before Ice Lake. */
#include "avx512.h"

#define EXPAND_F32(bits, p, w) EXPAND_32(LOAD_F32, bits, p, w)
#define EXPAND_BF16(bits, p, w) EXPAND_32(LOAD_BF16, bits, p, w)
#define EXPAND_F16(bits, p, w) EXPAND_32(LOAD_F16, bits, p, w)
#define EXPAND_I8(bits, p, w) EXPAND_32(LOAD_I8, bits, p, w)

#include "bits_template.h"
#include "index_template.h"

SPS_BITS(bits_f32, float, EXPAND_F32)
SPS_BITS(bits_bf16, uint16_t, EXPAND_BF16)
SPS_BITS(bits_f16, uint16_t, EXPAND_F16)
SPS_BITS(bits_i8, int8_t, EXPAND_I8)
/* Elements of two bytes by way of four. */
#define WIDE(p) _mm512_cvtepu16_epi32(HALVES(p))
#define SPREAD_2(bits, p, out)                                                                 \
  do {                                                                                         \
    const uint32_t all = (bits);                                                               \
    const __m512i low = _mm512_maskz_expand_epi32((__mmask16)all, WIDE(p));                    \
    const __m512i high = _mm512_maskz_expand_epi32((__mmask16)(all >> 16),                     \
                                                   WIDE((p) + sps_count_bits(all & 0xffff)));  \
    _mm256_storeu_si256((__m256i *)(out), _mm512_cvtepi32_epi16(low));                         \
    _mm256_storeu_si256((__m256i *)((out) + 16), _mm512_cvtepi32_epi16(high));                 \
  } while (0)
SPS_UNPACK(unpack2, uint16_t, SPREAD_2)
SPS_UNPACK(unpack4, float, SPREAD_4)
SPS_INDEX(index_f32, float, LOAD_F32, ONE_F32)
SPS_INDEX(index_bf16, uint16_t, LOAD_BF16, ONE_BF16)
SPS_INDEX(index_f16, uint16_t, LOAD_F16, ONE_F16)
SPS_INDEX(index_i8, int8_t, LOAD_I8, ONE_I8)

static int works(void) { return basics_work(); }

const sps_kernels sps_avx512 = {
    .name = "avx512",
    .works = works,
    .bits = {bits_f32, bits_bf16, bits_f16, bits_i8},
    .index = {index_f32, index_bf16, index_f16, index_i8},
    .unpack2 = unpack2,
    .unpack4 = unpack4,
    .widen_f16 = widen_f16,
};

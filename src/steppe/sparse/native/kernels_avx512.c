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
    .widen_f16 = widen_f16,
};

/* Plain C: a chunk is spread over 32 floats, which a compiler multiplies with what vectors there
 * are. */
#include "internal.h"

#define ONE_F32(v) (v)
#define ONE_BF16(v) sps_from_bf16(v)
#define ONE_F16(v) sps_from_f16(v)
#define ONE_I8(v) ((float)(v))

#define SPREAD(NAME, TYPE, ONE)                                                                  \
  static void NAME(const sps_bits *matrix, const sps_inputs *in, int64_t group, float *sums) {   \
    const int64_t chunks = sps_up(matrix->columns, SPS_CHUNK);                                   \
    const uint32_t *bits = matrix->bits + group * chunks * SPS_ROWS;                             \
    const TYPE *p = (const TYPE *)matrix->values + matrix->offsets[group];                       \
    memset(sums, 0, (size_t)in->tokens * SPS_ROWS * sizeof(float));                              \
    for (int64_t chunk = 0; chunk < chunks; chunk++, bits += SPS_ROWS)                           \
      for (int row = 0; row < SPS_ROWS; row++) {                                                 \
        float w[SPS_CHUNK] = {0};                                                                \
        for (uint32_t left = bits[row]; left; left &= left - 1)                                  \
          w[__builtin_ctz(left)] = ONE(*p++);                                                    \
        for (int64_t token = 0; token < in->tokens; token++) {                                   \
          const float *x = in->x + token * in->stride + chunk * SPS_CHUNK;                       \
          float total[8] = {0};                                                                  \
          for (int part = 0; part < SPS_CHUNK; part += 8)                                        \
            for (int lane = 0; lane < 8; lane++) total[lane] += w[part + lane] * x[part + lane]; \
          sums[token * SPS_ROWS + row] += ((total[0] + total[1]) + (total[2] + total[3])) +      \
                                          ((total[4] + total[5]) + (total[6] + total[7]));       \
        }                                                                                        \
      }                                                                                          \
  }

#include "index_template.h"

SPREAD(bits_f32, float, ONE_F32)
SPREAD(bits_bf16, uint16_t, ONE_BF16)
SPREAD(bits_f16, uint16_t, ONE_F16)
SPREAD(bits_i8, int8_t, ONE_I8)
SPS_INDEX(index_f32, float, , ONE_F32)
SPS_INDEX(index_bf16, uint16_t, , ONE_BF16)
SPS_INDEX(index_f16, uint16_t, , ONE_F16)
SPS_INDEX(index_i8, int8_t, , ONE_I8)

static int works(void) { return 1; }

static void widen_f16(const uint16_t *from, float *to, int64_t count) {
  for (int64_t i = 0; i < count; i++) to[i] = sps_from_f16(from[i]);
}

const sps_kernels sps_portable = {
    .name = "portable",
    .works = works,
    .bits = {bits_f32, bits_bf16, bits_f16, bits_i8},
    .index = {index_f32, index_bf16, index_f16, index_i8},
    .widen_f16 = widen_f16,
};

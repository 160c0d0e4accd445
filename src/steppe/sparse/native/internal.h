/* What the files of this folder share: the table of kernels that an instruction set fills. */
#ifndef STEPPE_SPARSE_INTERNAL_H
#define STEPPE_SPARSE_INTERNAL_H

#include <stddef.h>
#include <string.h>

#include "steppe_sparse.h"

#define SPS_MOST_TOKENS 16 /* that one reading of a matrix serves */

/* Inputs made ready. Columns are padded with zeros to whole chunks in x and x16. */
typedef struct {
  const float *x;        /* [tokens][stride] */
  const uint16_t *x16;   /* the same as bfloat16, or NULL where they are of another type */
  const float *by_column; /* [columns][width]: tokens beside each other; NULL for one token */
  int64_t tokens, stride, width;
} sps_inputs;

/* One group of rows: sums[token][SPS_ROWS], without scale and bias. */
typedef void (*sps_bits_kernel)(const sps_bits *, const sps_inputs *, int64_t group, float *sums);
/* Entries first to last of one tile of a row, added to sums[token]. x begins at that tile. */
typedef void (*sps_index_kernel)(const sps_index *, const sps_inputs *, int64_t tile,
                                 int64_t first, int64_t last, float *sums);

/* The whole chunks of one group, as elements of 2 or 4 bytes; out[row] is NULL for rows that are
 * not wanted. Returns where the next value lies. */
typedef int64_t (*sps_unpack_kernel)(const sps_bits *, int64_t group, void *const out[SPS_ROWS]);

typedef struct {
  const char *name;
  int (*works)(void);
  sps_bits_kernel bits[4];   /* by enum sps_dtype */
  sps_bits_kernel bits_x16;  /* bfloat16 values with bfloat16 inputs; NULL: none */
  sps_index_kernel index[4]; /* by enum sps_dtype */
  sps_unpack_kernel unpack2, unpack4; /* NULL: one value after the other */
  void (*widen_f16)(const uint16_t *from, float *to, int64_t count);
} sps_kernels;

/* The table of the instruction set in use. */
const sps_kernels *sps_kernels_in_use(void);

/* Bit patterns <-> floats. */
static inline float sps_from_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

static inline uint32_t sps_to_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return bits;
}

static inline float sps_from_bf16(uint16_t half) { return sps_from_bits((uint32_t)half << 16); }

static inline uint16_t sps_to_bf16(float value) {
  uint32_t bits = sps_to_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((bits >> 16) | 0x40u);
  return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

static inline float sps_from_f16(uint16_t half) {
  uint32_t sign = (uint32_t)(half & 0x8000u) << 16, rest = half & 0x7fffu;
  if (rest >= 0x7c00u) return sps_from_bits(sign | 0x7f800000u | ((rest & 0x3ffu) << 13));
  if (rest >= 0x400u) return sps_from_bits(sign | ((rest << 13) + 0x38000000u));
  /* below the smallest normal: an integer times 2^-24 */
  return sps_from_bits(sign | sps_to_bits((float)rest * 0x1p-24f));
}

static inline uint16_t sps_to_f16(float value) {
  uint32_t bits = sps_to_bits(value), sign = (bits >> 16) & 0x8000u, rest = bits & 0x7fffffffu;
  if (rest > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
  if (rest >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* rounds beyond the largest */
  if (rest < 0x38800000u) {
    /* an integer times 2^-24: adding 0.5 leaves it, rounded, in the lowest bits */
    float shifted = sps_from_bits(rest) + 0.5f;
    return (uint16_t)(sign | (sps_to_bits(shifted) - 0x3f000000u));
  }
  return (uint16_t)(sign | ((rest - 0x38000000u + 0xfffu + ((rest >> 13) & 1u)) >> 13));
}

static inline float sps_value(const void *values, int32_t type, int64_t at) {
  switch (type) {
    case SPS_F32: return ((const float *)values)[at];
    case SPS_BF16: return sps_from_bf16(((const uint16_t *)values)[at]);
    case SPS_F16: return sps_from_f16(((const uint16_t *)values)[at]);
    default: return (float)((const int8_t *)values)[at];
  }
}

static inline int64_t sps_element(int32_t type) {
  return type == SPS_F32 ? 4 : type == SPS_I8 ? 1 : 2;
}

static inline int64_t sps_up(int64_t count, int64_t by) { return (count + by - 1) / by; }

static inline int sps_count_bits(uint32_t bits) { return __builtin_popcount(bits); }

/* Work on items 0 to count; threads take `grain` of them at a time. */
void sps_for(int64_t count, int64_t grain, int32_t threads,
             void (*work)(void *context, int64_t first, int64_t last), void *context);

#endif

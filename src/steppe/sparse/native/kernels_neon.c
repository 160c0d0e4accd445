/* NEON (arm64): eight weights at a time, spread by a table of byte shuffles. */
#include <arm_neon.h>

#include "internal.h"

#define VF float32x4_t
#define LANES 4
#define MOST 4
#define V_ZERO() vdupq_n_f32(0.0f)
#define V_LOAD(p) vld1q_f32(p)
#define V_FMA(a, b, c) vfmaq_f32(c, a, b)
#define V_SUM(v) vaddvq_f32(v)

/* For each byte of bits, where its lanes come from, as pairs of bytes; 0xff gives zero. */
static uint8_t pairs[256][16];
static uint8_t singles[256][8];
/* For each four bits, the same as fours of bytes. */
static uint8_t fours[16][16];

static void make_tables(void) {
  for (int bits = 0; bits < 256; bits++)
    for (int lane = 0, from = 0; lane < 8; lane++) {
      int there = bits >> lane & 1;
      singles[bits][lane] = there ? (uint8_t)from : 0xff;
      for (int byte = 0; byte < 2; byte++)
        pairs[bits][2 * lane + byte] = there ? (uint8_t)(2 * from + byte) : 0xff;
      if (bits < 16 && lane < 4)
        for (int byte = 0; byte < 4; byte++)
          fours[bits][4 * lane + byte] = there ? (uint8_t)(4 * from + byte) : 0xff;
      from += there;
    }
}

static inline float32x4_t four_f32(uint32_t bits, const float *p) {
  uint8x16_t four = vreinterpretq_u8_f32(vld1q_f32(p));
  return vreinterpretq_f32_u8(vqtbl1q_u8(four, vld1q_u8(fours[bits])));
}

static inline uint16x8_t eight_pairs(uint32_t bits, const uint16_t *p) {
  uint8x16_t eight = vreinterpretq_u8_u16(vld1q_u16(p));
  return vreinterpretq_u16_u8(vqtbl1q_u8(eight, vld1q_u8(pairs[bits])));
}

static inline float32x4_t wide_bf16(uint16x4_t halves) {
  return vreinterpretq_f32_u32(vshll_n_u16(halves, 16));
}

static inline float32x4_t wide_f16(uint16x4_t halves) {
  return vcvt_f32_f16(vreinterpret_f16_u16(halves));
}

static inline int16x8_t eight_i8(uint32_t bits, const int8_t *p) {
  int8x16_t eight = vcombine_s8(vld1_s8(p), vdup_n_s8(0));
  return vmovl_s8(vqtbl1_s8(eight, vld1_u8(singles[bits])));
}

static inline float32x4_t wide_i16(int16x4_t numbers) {
  return vcvtq_f32_s32(vmovl_s16(numbers));
}

#define EXPAND_F32(bits, p, w)                                                           \
  do {                                                                                   \
    const uint32_t all = (bits);                                                         \
    for (int part = 0; part < 8; part++)                                                 \
      (w)[part] = four_f32(all >> (4 * part) & 0xf,                                      \
                           (p) + sps_count_bits(all & ((1u << (4 * part)) - 1u)));       \
  } while (0)
#define EXPAND_8(EIGHT, VECTOR, WIDE, LOW, HIGH, bits, p, w)                             \
  do {                                                                                   \
    const uint32_t all = (bits);                                                         \
    for (int part = 0; part < 4; part++) {                                               \
      const VECTOR eight = EIGHT(all >> (8 * part) & 0xff,                               \
                                 (p) + sps_count_bits(all & ((1u << (8 * part)) - 1u))); \
      (w)[2 * part] = WIDE(LOW(eight));                                                  \
      (w)[2 * part + 1] = WIDE(HIGH(eight));                                             \
    }                                                                                    \
  } while (0)
#define EXPAND_BF16(bits, p, w) \
  EXPAND_8(eight_pairs, uint16x8_t, wide_bf16, vget_low_u16, vget_high_u16, bits, p, w)
#define EXPAND_F16(bits, p, w) \
  EXPAND_8(eight_pairs, uint16x8_t, wide_f16, vget_low_u16, vget_high_u16, bits, p, w)
#define EXPAND_I8(bits, p, w) \
  EXPAND_8(eight_i8, int16x8_t, wide_i16, vget_low_s16, vget_high_s16, bits, p, w)
#define ONE_F32(v) (v)
#define ONE_BF16(v) sps_from_bf16(v)
#define ONE_F16(v) sps_from_f16(v)
#define ONE_I8(v) ((float)(v))

#include "bits_template.h"
#include "index_template.h"

SPS_BITS(bits_f32, float, EXPAND_F32)
SPS_BITS(bits_bf16, uint16_t, EXPAND_BF16)
SPS_BITS(bits_f16, uint16_t, EXPAND_F16)
SPS_BITS(bits_i8, int8_t, EXPAND_I8)
#define SPREAD_2(bits, p, out)                                                               \
  do {                                                                                       \
    const uint32_t all = (bits);                                                             \
    for (int part = 0; part < 4; part++)                                                     \
      vst1q_u16((out) + 8 * part,                                                            \
                eight_pairs(all >> (8 * part) & 0xff,                                        \
                            (p) + sps_count_bits(all & ((1u << (8 * part)) - 1u))));         \
  } while (0)
#define SPREAD_4(bits, p, out)                                                               \
  do {                                                                                       \
    float32x4_t own[8];                                                                      \
    EXPAND_F32(bits, p, own);                                                                \
    for (int part = 0; part < 8; part++) vst1q_f32((out) + 4 * part, own[part]);             \
  } while (0)
SPS_UNPACK(unpack2, uint16_t, SPREAD_2)
SPS_UNPACK(unpack4, float, SPREAD_4)
SPS_INDEX(index_f32, float, , ONE_F32)
SPS_INDEX(index_bf16, uint16_t, , ONE_BF16)
SPS_INDEX(index_f16, uint16_t, , ONE_F16)
SPS_INDEX(index_i8, int8_t, , ONE_I8)

static int works(void) {
  make_tables();
  return 1;
}

static void widen_f16(const uint16_t *from, float *to, int64_t count) {
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) vst1q_f32(to + i, wide_f16(vld1_u16(from + i)));
  for (; i < count; i++) to[i] = sps_from_f16(from[i]);
}

const sps_kernels sps_neon = {
    .name = "neon",
    .works = works,
    .bits = {bits_f32, bits_bf16, bits_f16, bits_i8},
    .index = {index_f32, index_bf16, index_f16, index_i8},
    .unpack2 = unpack2,
    .unpack4 = unpack4,
    .widen_f16 = widen_f16,
};

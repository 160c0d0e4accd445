/* What the kernels of x86-64 share. */
#include <immintrin.h>

#include "internal.h"

/* Four elements by four loads: faster than a gather instruction, which takes a cycle and more for
 * each element (Zen 4: 0.34 ns against 0.2). */
static inline __m128 four(const float *x, uint64_t columns) {
  __m128 v = _mm_load_ss(x + (columns & 0xffff));
  v = _mm_insert_ps(v, _mm_load_ss(x + (columns >> 16 & 0xffff)), 0x10);
  v = _mm_insert_ps(v, _mm_load_ss(x + (columns >> 32 & 0xffff)), 0x20);
  return _mm_insert_ps(v, _mm_load_ss(x + (columns >> 48)), 0x30);
}

static inline uint64_t four_columns(const uint16_t *columns) {
  uint64_t packed;
  memcpy(&packed, columns, 8);
  return packed;
}

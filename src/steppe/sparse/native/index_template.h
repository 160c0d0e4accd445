/* Products of one row in the index layout, for the vectors of bits_template.h and
 *
 *   V_GATHER(x, columns)   x at LANES columns (uint16); not defined: one after the other
 *
 * SPS_INDEX(NAME, TYPE, LOAD, ONE) makes the kernel NAME; LOAD(p) widens LANES values, ONE(v) one.
 */
#ifdef V_GATHER
#define SPS_INDEX_VECTORS(TYPE, LOAD)                                                            \
  {                                                                                              \
    VF one = V_ZERO(), two = V_ZERO();                                                           \
    for (; at + 2 * LANES <= last; at += 2 * LANES) {                                            \
      __builtin_prefetch((const char *)(values + at) + 1024);                                    \
      __builtin_prefetch((const char *)(columns + at) + 1024);                                   \
      one = V_FMA(LOAD(values + at), V_GATHER(x, columns + at), one);                            \
      two = V_FMA(LOAD(values + at + LANES), V_GATHER(x, columns + at + LANES), two);            \
    }                                                                                            \
    for (; at + LANES <= last; at += LANES)                                                      \
      one = V_FMA(LOAD(values + at), V_GATHER(x, columns + at), one);                            \
    total[0] = V_SUM(one) + V_SUM(two);                                                          \
  }
#else
#define SPS_INDEX_VECTORS(TYPE, LOAD)
#endif

/* Tokens lie beside each other, so that one weight multiplies a vector of them; four entries in
 * turns, so that no sum waits for the one before. */
#define SPS_INDEX_WIDTH(NAME, TYPE, ONE, WIDTH)                                                  \
  static void NAME##_##WIDTH(const TYPE *values, const uint16_t *columns, const float *x,        \
                             int64_t first, int64_t last, float *sums, int64_t tokens) {         \
    typedef float beside __attribute__((vector_size(4 * WIDTH), aligned(4)));                    \
    beside a = {0}, b = {0}, c = {0}, d = {0};                                                   \
    int64_t at = first;                                                                          \
    for (; at + 4 <= last; at += 4) {                                                            \
      a += ONE(values[at]) * *(const beside *)(x + (int64_t)columns[at] * WIDTH);                \
      b += ONE(values[at + 1]) * *(const beside *)(x + (int64_t)columns[at + 1] * WIDTH);        \
      c += ONE(values[at + 2]) * *(const beside *)(x + (int64_t)columns[at + 2] * WIDTH);        \
      d += ONE(values[at + 3]) * *(const beside *)(x + (int64_t)columns[at + 3] * WIDTH);        \
    }                                                                                            \
    for (; at < last; at++)                                                                      \
      a += ONE(values[at]) * *(const beside *)(x + (int64_t)columns[at] * WIDTH);                \
    a = (a + b) + (c + d);                                                                       \
    for (int64_t t = 0; t < tokens; t++) sums[t] += a[t];                                        \
  }

#define SPS_INDEX(NAME, TYPE, LOAD, ONE)                                                         \
  SPS_INDEX_WIDTH(NAME, TYPE, ONE, 4)                                                            \
  SPS_INDEX_WIDTH(NAME, TYPE, ONE, 8)                                                            \
  SPS_INDEX_WIDTH(NAME, TYPE, ONE, 16)                                                           \
  static void NAME(const sps_index *matrix, const sps_inputs *in, int64_t tile, int64_t first,   \
                   int64_t last, float *sums) {                                                  \
    const TYPE *values = (const TYPE *)matrix->values;                                           \
    const uint16_t *columns = matrix->columns_of;                                                \
    if (in->by_column) {                                                                         \
      const float *x = in->by_column + tile * SPS_TILE * in->width;                              \
      if (in->width == 4) NAME##_4(values, columns, x, first, last, sums, in->tokens);           \
      else if (in->width == 8) NAME##_8(values, columns, x, first, last, sums, in->tokens);      \
      else NAME##_16(values, columns, x, first, last, sums, in->tokens);                         \
      return;                                                                                    \
    }                                                                                            \
    const float *x = in->x + tile * SPS_TILE;                                                    \
    float total[4] = {0};                                                                        \
    int64_t at = first;                                                                          \
    SPS_INDEX_VECTORS(TYPE, LOAD)                                                                \
    for (; at + 4 <= last; at += 4)                                                              \
      for (int turn = 0; turn < 4; turn++)                                                       \
        total[turn] += ONE(values[at + turn]) * x[columns[at + turn]];                           \
    for (; at < last; at++) total[0] += ONE(values[at]) * x[columns[at]];                        \
    sums[0] += (total[0] + total[1]) + (total[2] + total[3]);                                    \
  }

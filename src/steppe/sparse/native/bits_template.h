/* Products of four rows in the bits layout, for the vectors that the including file defines:
 *
 *   VF, LANES              a vector of floats, and how many
 *   V_ZERO(), V_LOAD(p), V_FMA(a, b, c) = a * b + c, V_SUM(v)
 *   MOST                   tokens whose sums fit into the registers, 2 or 4
 *
 * SPS_BITS(NAME, TYPE, EXPAND) makes the kernel NAME for values of TYPE; EXPAND(bits, p, w) puts
 * the 32 weights of a chunk into w[32 / LANES]; it may read 64 bytes behind p.
 * SPS_UNPACK(NAME, TYPE, SPREAD) makes the kernel that unpacks; SPREAD(bits, p, out) writes the 32
 * elements of a chunk.
 */
#define SPS_PARTS (SPS_CHUNK / LANES)
#define SPS_INLINE static inline __attribute__((always_inline))

#define SPS_BITS(NAME, TYPE, EXPAND)                                                             \
  SPS_INLINE void NAME##_tokens(const sps_bits *matrix, const sps_inputs *in, int64_t group,     \
                                int64_t token, const int count, float *sums) {                   \
    const int64_t chunks = sps_up(matrix->columns, SPS_CHUNK);                                   \
    const uint32_t *bits = matrix->bits + group * chunks * SPS_ROWS;                             \
    const TYPE *p = (const TYPE *)matrix->values + matrix->offsets[group];                       \
    const float *x = in->x + token * in->stride;                                                 \
    VF total[SPS_ROWS][MOST];                                                                    \
    for (int row = 0; row < SPS_ROWS; row++)                                                     \
      for (int t = 0; t < count; t++) total[row][t] = V_ZERO();                                  \
    for (int64_t chunk = 0; chunk < chunks; chunk++, bits += SPS_ROWS, x += SPS_CHUNK) {         \
      __builtin_prefetch((const char *)p + 1024);                                                \
      for (int row = 0; row < SPS_ROWS; row++) {                                                 \
        VF w[SPS_PARTS];                                                                         \
        EXPAND(bits[row], p, w);                                                                 \
        p += sps_count_bits(bits[row]);                                                          \
        for (int t = 0; t < count; t++)                                                          \
          for (int part = 0; part < SPS_PARTS; part++)                                           \
            total[row][t] =                                                                      \
                V_FMA(w[part], V_LOAD(x + t * in->stride + part * LANES), total[row][t]);        \
      }                                                                                          \
    }                                                                                            \
    for (int t = 0; t < count; t++)                                                              \
      for (int row = 0; row < SPS_ROWS; row++)                                                   \
        sums[(token + t) * SPS_ROWS + row] = V_SUM(total[row][t]);                               \
  }                                                                                              \
  SPS_BY_TOKENS(NAME)

/* As many tokens at once as there are registers for, then the rest. */
#define SPS_BY_TOKENS(NAME)                                                                      \
  static void NAME(const sps_bits *matrix, const sps_inputs *in, int64_t group, float *sums) {   \
    int64_t token = 0;                                                                           \
    for (; token + MOST <= in->tokens; token += MOST)                                            \
      NAME##_tokens(matrix, in, group, token, MOST, sums);                                       \
    for (; MOST > 2 && token + 2 <= in->tokens; token += 2)                                      \
      NAME##_tokens(matrix, in, group, token, 2, sums);                                          \
    for (; token < in->tokens; token++) NAME##_tokens(matrix, in, group, token, 1, sums);        \
  }

#define SPS_UNPACK(NAME, TYPE, SPREAD)                                                           \
  static int64_t NAME(const sps_bits *matrix, int64_t group, void *const out[SPS_ROWS]) {        \
    const int64_t chunks = sps_up(matrix->columns, SPS_CHUNK);                                   \
    const uint32_t *bits = matrix->bits + group * chunks * SPS_ROWS;                             \
    const TYPE *values = (const TYPE *)matrix->values, *p = values + matrix->offsets[group];     \
    for (int64_t chunk = 0; chunk < matrix->columns / SPS_CHUNK; chunk++)                        \
      for (int row = 0; row < SPS_ROWS; row++, bits++) {                                         \
        if (out[row]) SPREAD(*bits, p, (TYPE *)out[row] + chunk * SPS_CHUNK);                    \
        p += sps_count_bits(*bits);                                                              \
      }                                                                                          \
    return p - values;                                                                           \
  }

/* Random matrices through every function, in buffers of exactly the size that the header asks for.
 *
 *   driver INSTRUCTION_SET SEED CASES
 *
 * Weights and inputs are small multiples of 1/8, so that sums are exact in float32 and in double:
 * what is expected is known to the last bit, but for one rounding into a half.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "steppe_sparse.h"

static uint64_t state;
static const char *where = "";

static uint64_t drawn(uint64_t below) {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return (state >> 11) % below;
}

static int chance(int percent) { return drawn(100) < (uint64_t)percent; }

static void fail(const char *what, long at) {
  fprintf(stderr, "%s: %s at %ld\n", where, what, at);
  exit(1);
}

static void need(int code) {
  if (code != SPS_OK) fail("code", code);
}

static void *room(int64_t bytes) { return calloc(1, (size_t)bytes); }

static int64_t up(int64_t count, int64_t by) { return (count + by - 1) / by; }

/* ---- numbers of a type */

static int64_t size_of(int type) { return type == SPS_F32 ? 4 : type == SPS_I8 ? 1 : 2; }

static uint16_t to_f16(double value) {
  int exponent;
  const uint16_t sign = signbit(value) ? 0x8000 : 0;
  if (isnan(value)) return 0x7e00;
  if (isinf(value)) return sign | 0x7c00;
  if (value == 0) return sign;
  const double fraction = frexp(fabs(value), &exponent); /* exact, normal ones only */
  return sign | (uint16_t)((exponent + 14) << 10) | (uint16_t)((fraction * 2 - 1) * 1024);
}

static double from_f16(uint16_t half) {
  const double sign = half & 0x8000 ? -1 : 1, fraction = half & 0x3ff;
  const int exponent = half >> 10 & 0x1f;
  if (exponent == 31) return fraction ? NAN : sign * INFINITY;
  if (exponent == 0) return sign * ldexp(fraction, -24);
  return sign * ldexp(1024 + fraction, exponent - 25);
}

static void put(void *to, int type, int64_t at, double value) {
  const float narrow = (float)value;
  uint32_t bits;
  memcpy(&bits, &narrow, 4);
  if (type == SPS_F32) memcpy((char *)to + 4 * at, &bits, 4);
  else if (type == SPS_BF16) ((uint16_t *)to)[at] = (uint16_t)(bits >> 16);
  else if (type == SPS_F16) ((uint16_t *)to)[at] = to_f16(value);
  else ((int8_t *)to)[at] = (int8_t)value;
}

static double get(const void *from, int type, int64_t at) {
  if (type == SPS_F32) return ((const float *)from)[at];
  if (type == SPS_F16) return from_f16(((const uint16_t *)from)[at]);
  if (type == SPS_I8) return ((const int8_t *)from)[at];
  const uint32_t bits = (uint32_t)((const uint16_t *)from)[at] << 16;
  float wide;
  memcpy(&wide, &bits, 4);
  return wide;
}

static double number(int type, int strange) {
  if (type != SPS_I8 && strange && chance(2)) {
    const double all[] = {INFINITY, -INFINITY, NAN};
    return all[drawn(3)];
  }
  return type == SPS_I8 ? (double)drawn(255) - 127 : ((double)drawn(127) - 63) / 8;
}

/* ---- a matrix, as it is given and in both layouts */

typedef struct {
  int64_t rows, columns, kept;
  int type;
  double *dense; /* without scale */
  char *plain;   /* the same in its own type */
  float *scale;
  sps_source source;
  sps_bits bits;
  sps_index index;
} matrix;

static int64_t some_columns(void) {
  if (chance(2)) return SPS_TILE + (int64_t)drawn(3000);
  return chance(50) ? 1 + (int64_t)drawn(40) : 1 + (int64_t)drawn(300);
}

static void draw(matrix *m, int strange) {
  const int64_t density = (int64_t)drawn(101);
  const int zeros_kept = chance(50); /* a mask may keep a zero */
  m->type = (int)drawn(4);
  m->columns = some_columns();
  m->rows = m->columns > 1000 ? 1 + (int64_t)drawn(6) : 1 + (int64_t)drawn(23);
  const int64_t all = m->rows * m->columns, empty = (int64_t)drawn((uint64_t)m->rows);
  const int64_t size = size_of(m->type), percent = m->columns > 1000 ? density / 50 : density;
  m->dense = room(all * 8);
  m->plain = room(all * size);
  uint8_t *mask = room(up(all, 8));
  char *values = room(all * size);
  int64_t *row_starts = room((m->rows + 1) * 8);
  m->kept = 0;
  for (int64_t i = 0; i < all; i++) {
    if (i % m->columns == 0) row_starts[i / m->columns] = m->kept;
    if (i / m->columns == empty || !chance((int)percent)) continue;
    double value = chance(5) ? -0.0 : number(m->type, strange);
    put(m->plain, m->type, i, value);
    m->dense[i] = get(m->plain, m->type, i);
    int zero = m->type == SPS_I8 ? value == 0 : value == 0 && !signbit(value);
    if (zero && !zeros_kept) continue;
    mask[i / 8] |= (uint8_t)(128 >> i % 8);
    put(values, m->type, m->kept++, value);
  }
  row_starts[m->rows] = m->kept;
  m->scale = m->type == SPS_I8 ? room(m->rows * 4) : NULL;
  for (int64_t row = 0; m->scale && row < m->rows; row++)
    m->scale[row] = ldexpf(1, (int)drawn(5) - 2);
  m->source = (sps_source){m->rows, m->columns, (int32_t)size, m->plain, NULL, NULL};
  if (chance(50)) {
    char *exact = malloc((size_t)(m->kept * size));
    memcpy(exact, values, (size_t)(m->kept * size));
    m->source.source = exact, m->source.mask = mask, m->source.row_starts = row_starts;
  } else {
    free(mask), free(row_starts);
  }
  free(values);
}

static void pack(matrix *m, int threads) {
  const int64_t tiles = up(m->columns, SPS_TILE), groups = up(m->rows, SPS_ROWS);
  const int64_t size = size_of(m->type);
  int64_t *counts = room(tiles * m->rows * 8), *offsets = room((groups + 1) * 8);
  int64_t *starts = room(tiles * (m->rows + 1) * 8), sum = 0;
  sps_source counted = m->source;
  counted.row_starts = NULL;
  need(sps_count(&counted, counts, threads));
  for (int64_t tile = 0; tile < tiles; tile++)
    for (int64_t row = 0; row <= m->rows; row++) {
      starts[tile * (m->rows + 1) + row] = sum;
      if (row == m->rows) continue;
      sum += counts[tile * m->rows + row];
      offsets[row / SPS_ROWS + 1] += counts[tile * m->rows + row];
    }
  for (int64_t group = 0; group < groups; group++) offsets[group + 1] += offsets[group];
  if (m->source.mask && sum != m->kept) fail("count", sum);
  uint32_t *bits = room(groups * up(m->columns, SPS_CHUNK) * SPS_ROWS * 4);
  void *values = room(sum * size + SPS_PADDING);
  need(sps_bits_pack(&m->source, offsets, bits, values, threads));
  m->bits = (sps_bits){m->rows, m->columns, m->type, bits, values, offsets, m->scale};
  uint16_t *columns = room(sum * 2 + SPS_PADDING);
  values = room(sum * size + SPS_PADDING);
  need(sps_index_pack(&m->source, starts, columns, values, threads));
  m->index = (sps_index){m->rows, m->columns, m->type, starts, columns, values, m->scale};
  free(counts);
}

static void unpack(const matrix *m, int index, int threads) {
  const int64_t first = (int64_t)drawn((uint64_t)m->rows + 1);
  const int64_t last = first + (int64_t)drawn((uint64_t)(m->rows - first) + 1);
  const int64_t all = (last - first) * m->columns, size = m->scale ? 4 : size_of(m->type);
  char *out = malloc((size_t)(all * size));
  memset(out, 0x55, (size_t)(all * size));
  if (index) need(sps_index_unpack(&m->index, first, last, out, threads));
  else need(sps_bits_unpack(&m->bits, first, last, out, threads));
  for (int64_t i = 0; i < all; i++) {
    const int64_t from = first * m->columns + i;
    const float scaled = (float)m->dense[from] * (m->scale ? m->scale[from / m->columns] : 1);
    const void *expected = m->scale ? (const void *)&scaled : m->plain + from * size;
    if (memcmp(out + i * size, expected, (size_t)size)) fail("unpacked", from);
  }
  free(out);
}

/* ---- a product */

static void compare(double y, double expected, int type, int64_t at) {
  if (type == SPS_F16 && fabs(expected) >= 65520) expected = copysign(INFINITY, expected);
  const double rounding = type == SPS_F32 ? 0 : type == SPS_BF16 ? 0x1p-8 : 0x1p-11;
  if (isnan(expected) ? isnan(y) : isinf(expected) ? y == expected
                                 : fabs(y - expected) <= rounding * fabs(expected))
    return;
  fprintf(stderr, "got %.9g, expected %.9g: ", y, expected);
  fail("product", (long)at);
}

static void multiply(const matrix *m, int index, int strange, int threads) {
  const int64_t tokens = chance(40) ? 1 : 1 + (int64_t)drawn(35);
  const int64_t xs = m->columns + (int64_t)drawn(4), ys = m->rows + (int64_t)drawn(4);
  const int xt = (int)drawn(3), yt = (int)drawn(3), bt = (int)drawn(3), odd = (int)drawn(4);
  const int64_t x_all = odd + (tokens - 1) * xs + m->columns, y_all = (tokens - 1) * ys + m->rows;
  char *x = room(x_all * size_of(xt)), *y = room(y_all * size_of(yt));
  char *bias = chance(50) ? room(m->rows * size_of(bt)) : NULL;
  for (int64_t i = 0; i < x_all; i++) put(x, xt, i, number(xt, strange && chance(10)));
  for (int64_t i = 0; i < y_all; i++) put(y, yt, i, 77);
  for (int64_t i = 0; bias && i < m->rows; i++) put(bias, bt, i, number(bt, 0));
  const sps_call call = {tokens, x + odd * size_of(xt), xs, y, ys, bias, xt, yt, bt, threads};
  need(index ? sps_index_linear(&m->index, &call) : sps_bits_linear(&m->bits, &call));
  for (int64_t i = 0; i < y_all; i++) {
    const int64_t token = i / ys, row = i % ys;
    double sum = 0;
    for (int64_t c = 0; row < m->rows && c < m->columns; c++)
      sum += m->dense[row * m->columns + c] * get(x, xt, odd + token * xs + c);
    if (row < m->rows) sum = sum * (m->scale ? m->scale[row] : 1) + (bias ? get(bias, bt, row) : 0);
    compare(get(y, yt, i), row < m->rows ? sum : 77, yt, i);
  }
  free(x), free(y), free(bias);
}

static void forget(matrix *m) {
  if (m->source.mask) {
    free((void *)m->source.source), free((void *)m->source.mask);
    free((void *)m->source.row_starts);
  }
  free(m->dense), free(m->plain), free(m->scale);
  free((void *)m->bits.bits), free((void *)m->bits.values), free((void *)m->bits.offsets);
  free((void *)m->index.starts), free((void *)m->index.columns_of), free((void *)m->index.values);
}

/* Threads one after the other: what they share is looked at elsewhere. */
static void in_turns(void (*work)(void *), void *context, unsigned threads, unsigned flags) {
  (void)flags;
  for (unsigned i = 0; i < threads; i++) work(context);
}

int main(int count, char **arguments) {
  if (count != 4) return 2;
  if (sps_abi() != SPS_ABI || sps_use("none") != SPS_UNKNOWN) return 2;
  if (sps_use(arguments[1]) != SPS_OK) return 3;
  sps_parallel(in_turns);
  const long seed = atol(arguments[2]), cases = atol(arguments[3]);
  static char text[128];
  where = text;
  for (long i = 0; i < cases; i++) {
    state = (uint64_t)(seed * 1000003 + i) * 0x9e3779b97f4a7c15u | 1;
    for (int warm = 0; warm < 8; warm++) drawn(2);
    const int strange = chance(40), threads = 1 + (int)drawn(3);
    matrix m = {0};
    draw(&m, strange);
    snprintf(text, sizeof text, "%s, case %ld: %ld x %ld, type %d", arguments[1], i,
             (long)m.rows, (long)m.columns, m.type);
    pack(&m, threads);
    for (int index = 0; index < 2; index++) {
      unpack(&m, index, threads);
      multiply(&m, index, strange, threads);
    }
    forget(&m);
  }
  printf("%ld cases\n", cases);
  return 0;
}

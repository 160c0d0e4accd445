/* From dense rows, or from bits and values as they lie on disk, into the two layouts and back. */
#include "internal.h"

/* The pattern of one element; zero means that it is not kept. */
static inline uint32_t pattern(const void *values, int32_t size, int64_t at) {
  if (size == 4) return ((const uint32_t *)values)[at];
  if (size == 2) return ((const uint16_t *)values)[at];
  return ((const uint8_t *)values)[at];
}

static inline void put(void *values, int32_t size, int64_t at, uint32_t bits) {
  if (size == 4) ((uint32_t *)values)[at] = bits;
  else if (size == 2) ((uint16_t *)values)[at] = (uint16_t)bits;
  else ((uint8_t *)values)[at] = (uint8_t)bits;
}

/* Whether an entry is kept, and where its pattern lies. */
typedef struct {
  const sps_source *source;
  int64_t weight; /* of the entry to come, counted over the whole matrix */
  int64_t next;   /* with a mask: its place among the kept values */
} reader;

static reader read_row(const sps_source *source, int64_t row) {
  return (reader){source, row * source->columns, source->mask && source->row_starts
                                                     ? source->row_starts[row]
                                                     : 0};
}

static inline int next_is_kept(reader *own, int64_t *at) {
  const int64_t weight = own->weight++;
  if (!own->source->mask) {
    *at = weight;
    return pattern(own->source->source, own->source->size, weight) != 0;
  }
  *at = own->next;
  const int kept = own->source->mask[weight >> 3] >> (7 - (weight & 7)) & 1;
  own->next += kept;
  return kept;
}

typedef struct {
  const sps_source *source;
  int64_t *counts;
  const int64_t *places; /* offsets or starts */
  void *shape;           /* bits or columns */
  void *values;
} packing;

static void count_rows(void *context, int64_t first, int64_t last) {
  const packing *all = context;
  const sps_source *source = all->source;
  for (int64_t row = first; row < last; row++) {
    reader own = read_row(source, row);
    int64_t at;
    for (int64_t tile = 0; tile * SPS_TILE < source->columns; tile++) {
      const int64_t end = (tile + 1) * SPS_TILE;
      int64_t count = 0;
      for (int64_t c = tile * SPS_TILE; c < end && c < source->columns; c++)
        count += next_is_kept(&own, &at);
      all->counts[tile * source->rows + row] = count;
    }
  }
}

int32_t sps_count(const sps_source *source, int64_t *counts, int32_t threads) {
  packing all = {.source = source, .counts = counts};
  sps_for(source->rows, source->rows / 32 + 1, threads, count_rows, &all);
  return SPS_OK;
}

static void pack_groups(void *context, int64_t first, int64_t last) {
  const packing *all = context;
  const sps_source *source = all->source;
  const int64_t chunks = sps_up(source->columns, SPS_CHUNK);
  for (int64_t group = first; group < last; group++) {
    reader readers[SPS_ROWS];
    int64_t to = all->places[group], at;
    for (int row = 0; row < SPS_ROWS && group * SPS_ROWS + row < source->rows; row++)
      readers[row] = read_row(source, group * SPS_ROWS + row);
    for (int64_t chunk = 0; chunk < chunks; chunk++)
      for (int row = 0; row < SPS_ROWS && group * SPS_ROWS + row < source->rows; row++) {
        uint32_t bits = 0;
        for (int c = 0; c < SPS_CHUNK && chunk * SPS_CHUNK + c < source->columns; c++)
          if (next_is_kept(&readers[row], &at)) {
            bits |= 1u << c;
            put(all->values, source->size, to++, pattern(source->source, source->size, at));
          }
        ((uint32_t *)all->shape)[(group * chunks + chunk) * SPS_ROWS + row] = bits;
      }
  }
}

int32_t sps_bits_pack(const sps_source *source, const int64_t *offsets, uint32_t *bits,
                      void *values, int32_t threads) {
  packing all = {.source = source, .places = offsets, .shape = bits, .values = values};
  const int64_t groups = sps_up(source->rows, SPS_ROWS);
  sps_for(groups, groups / 32 + 1, threads, pack_groups, &all);
  return SPS_OK;
}

static void pack_rows(void *context, int64_t first, int64_t last) {
  const packing *all = context;
  const sps_source *source = all->source;
  for (int64_t row = first; row < last; row++) {
    reader own = read_row(source, row);
    int64_t at;
    for (int64_t c = 0, to = 0; c < source->columns; c++) {
      if (c % SPS_TILE == 0) to = all->places[c / SPS_TILE * (source->rows + 1) + row];
      if (!next_is_kept(&own, &at)) continue;
      ((uint16_t *)all->shape)[to] = (uint16_t)(c % SPS_TILE);
      put(all->values, source->size, to++, pattern(source->source, source->size, at));
    }
  }
}

int32_t sps_index_pack(const sps_source *source, const int64_t *starts, uint16_t *columns,
                       void *values, int32_t threads) {
  packing all = {.source = source, .places = starts, .shape = columns, .values = values};
  sps_for(source->rows, source->rows / 32 + 1, threads, pack_rows, &all);
  return SPS_OK;
}

/* ---- back to dense */

typedef struct {
  const void *matrix;
  int64_t first, last;
  void *out;
} unpacking;

/* One entry in its own type; of int8, what it stands for. */
static inline void put_dense(void *out, int64_t to, const void *values, int32_t type, int64_t at,
                             float scale) {
  if (type == SPS_I8) ((float *)out)[to] = (float)((const int8_t *)values)[at] * scale;
  else put(out, (int32_t)sps_element(type), to, pattern(values, (int32_t)sps_element(type), at));
}

static int64_t dense_element(int32_t type) { return type == SPS_I8 ? 4 : sps_element(type); }

/* Chunks of a group from `begin` on, one value after the other; `at` is the first. */
static void group_out(const unpacking *all, int64_t group, int64_t begin, int64_t at) {
  const sps_bits *matrix = all->matrix;
  const int64_t chunks = sps_up(matrix->columns, SPS_CHUNK);
  const uint32_t *bits = matrix->bits + group * chunks * SPS_ROWS;
  for (int64_t chunk = begin; chunk < chunks; chunk++)
    for (int lane = 0; lane < SPS_ROWS; lane++) {
      const int64_t row = group * SPS_ROWS + lane;
      uint32_t left = bits[chunk * SPS_ROWS + lane];
      if (row < all->first || row >= all->last) {
        at += sps_count_bits(left);
        continue;
      }
      const int64_t to = (row - all->first) * matrix->columns + chunk * SPS_CHUNK;
      const float scale = matrix->scale ? matrix->scale[row] : 1.0f;
      for (; left; left &= left - 1)
        put_dense(all->out, to + __builtin_ctz(left), matrix->values, matrix->value_type, at++,
                  scale);
    }
}

static void bits_groups_out(const unpacking *all, int64_t first, int64_t last) {
  const sps_bits *matrix = all->matrix;
  const int64_t element = dense_element(matrix->value_type);
  const sps_kernels *own = sps_kernels_in_use();
  const sps_unpack_kernel fast =
      matrix->value_type == SPS_I8 ? NULL : element == 2 ? own->unpack2 : own->unpack4;
  for (int64_t group = first; group < last; group++) {
    void *out[SPS_ROWS];
    int64_t begin = 0, at = matrix->offsets[group];
    for (int lane = 0; lane < SPS_ROWS; lane++) {
      const int64_t row = group * SPS_ROWS + lane;
      out[lane] = row < all->first || row >= all->last
                      ? NULL
                      : (char *)all->out + (row - all->first) * matrix->columns * element;
    }
    if (fast) {
      at = fast(matrix, group, out);
      begin = matrix->columns / SPS_CHUNK;
    }
    group_out(all, group, begin, at);
  }
}

static void from_group(void *context, int64_t first, int64_t last) {
  const int64_t skipped = ((const unpacking *)context)->first / SPS_ROWS;
  bits_groups_out(context, first + skipped, last + skipped);
}

int32_t sps_bits_unpack(const sps_bits *matrix, int64_t first, int64_t last, void *out,
                        int32_t threads) {
  unpacking all = {matrix, first, last, out};
  const size_t element = (size_t)dense_element(matrix->value_type);
  memset(out, 0, (size_t)(last - first) * (size_t)matrix->columns * element);
  const int64_t groups = sps_up(last, SPS_ROWS) - first / SPS_ROWS;
  if (last > first) sps_for(groups, groups / 32 + 1, threads, from_group, &all);
  return SPS_OK;
}

static void index_rows_out(void *context, int64_t first, int64_t last) {
  const unpacking *all = context;
  const sps_index *matrix = all->matrix;
  for (int64_t out = first; out < last; out++) {
    const int64_t row = all->first + out;
    const float scale = matrix->scale ? matrix->scale[row] : 1.0f;
    for (int64_t tile = 0; tile * SPS_TILE < matrix->columns; tile++) {
      const int64_t *starts = matrix->starts + tile * (matrix->rows + 1) + row;
      const int64_t to = out * matrix->columns + tile * SPS_TILE;
      for (int64_t at = starts[0]; at < starts[1]; at++)
        put_dense(all->out, to + matrix->columns_of[at], matrix->values, matrix->value_type, at,
                  scale);
    }
  }
}

int32_t sps_index_unpack(const sps_index *matrix, int64_t first, int64_t last, void *out,
                         int32_t threads) {
  unpacking all = {matrix, first, last, out};
  const size_t element = (size_t)dense_element(matrix->value_type);
  memset(out, 0, (size_t)(last - first) * (size_t)matrix->columns * element);
  if (last > first) sps_for(last - first, (last - first) / 32 + 1, threads, index_rows_out, &all);
  return SPS_OK;
}

/* Products with sparse matrices on a processor: y = x W^T + b, W sparse, exact.
 *
 * Plain C with pointers and sizes, so that it compiles in seconds without the headers of Python or
 * torch. Each function returns 0, or a code below. Nothing is allocated but scratch that is freed.
 *
 * Two layouts. Rows go four to a group; the last group's missing rows are empty.
 *
 * bits:   bits[group][chunk][4]   uint32, one for each of 4 rows: bit j is column 32 * chunk + j
 *         values[...]             what is kept: group by group, in it chunk by chunk, row by row,
 *                                 column by column; followed by SPS_PADDING bytes that may be read
 *         offsets[groups + 1]     of each group's first value
 *
 * index:  starts[tile][rows + 1]  int64, of each row's first entry; a tile is 4096 columns,
 *                                 whose inputs the first cache holds
 *         columns[...]            uint16, within the tile, increasing in a row; SPS_PADDING after
 *         values[...]             as many, SPS_PADDING bytes after
 *
 * Kept is what has a bit set, so that -0.0 survives.
 */
#ifndef STEPPE_SPARSE_H
#define STEPPE_SPARSE_H

#include <stdint.h>

#define SPS_ABI 1
#define SPS_PADDING 128 /* bytes behind values and columns */
#define SPS_ROWS 4      /* rows in a group */
#define SPS_CHUNK 32    /* columns in a chunk */
#define SPS_TILE 4096   /* columns in a tile of the index layout */

enum sps_dtype { SPS_F32 = 0, SPS_BF16 = 1, SPS_F16 = 2, SPS_I8 = 3 };
enum sps_code { SPS_OK = 0, SPS_MEMORY = 1, SPS_UNKNOWN = 2 };

typedef struct {
  int64_t rows, columns;
  int32_t value_type;      /* enum sps_dtype */
  const uint32_t *bits;
  const void *values;
  const int64_t *offsets;
  const float *scale;      /* of each row, for SPS_I8; else NULL */
} sps_bits;

typedef struct {
  int64_t rows, columns;
  int32_t value_type;
  const int64_t *starts;
  const uint16_t *columns_of;
  const void *values;
  const float *scale;
} sps_index;

/* y[token][row] = sum over columns of x[token][column] * W[row][column] + bias[row], summed in
 * float32, rounded once to y's type. Strides count elements. x_type, y_type, bias_type: SPS_F32,
 * SPS_BF16, SPS_F16. */
typedef struct {
  int64_t tokens;
  const void *x;
  int64_t x_stride;
  void *y;
  int64_t y_stride;
  const void *bias;        /* NULL: none */
  int32_t x_type, y_type, bias_type;
  int32_t threads;         /* at most this many */
} sps_call;

int32_t sps_abi(void);

/* Which instruction sets were compiled in and work here, best first, comma-separated. */
const char *sps_instruction_sets(void);
/* Use this one from now on; SPS_UNKNOWN where it does not work here. */
int32_t sps_use(const char *instruction_set);

/* GOMP_parallel of the OpenMP library that torch uses, so that both share its threads. NULL: one
 * thread does all. */
void sps_parallel(void (*gomp_parallel)(void (*)(void *), void *, unsigned, unsigned));

int32_t sps_bits_linear(const sps_bits *matrix, const sps_call *call);
int32_t sps_index_linear(const sps_index *matrix, const sps_call *call);

/* Rows first to last of the dense matrix, in the values' own type (SPS_I8: float32, scaled);
 * out[row - first][column], contiguous. */
int32_t sps_bits_unpack(const sps_bits *matrix, int64_t first, int64_t last, void *out,
                        int32_t threads);
int32_t sps_index_unpack(const sps_index *matrix, int64_t first, int64_t last, void *out,
                         int32_t threads);

/* Packing. source: dense rows (mask NULL), or the kept values in row order with one bit per
 * weight in mask (eight to a byte, the first weight in the highest bit), as `compact` stores them.
 * size: bytes of an element, 1, 2 or 4. */
typedef struct {
  int64_t rows, columns;
  int32_t size;
  const void *source;
  const uint8_t *mask;
  const int64_t *row_starts; /* [rows + 1], of each row's first value in source; with a mask only */
} sps_source;

/* How many entries are kept in each row of each tile: counts[tile][rows]. row_starts is not read. */
int32_t sps_count(const sps_source *source, int64_t *counts, int32_t threads);
/* offsets, starts: from the counts, as above. The caller gives zeroed outputs with their padding. */
int32_t sps_bits_pack(const sps_source *source, const int64_t *offsets, uint32_t *bits,
                      void *values, int32_t threads);
int32_t sps_index_pack(const sps_source *source, const int64_t *starts, uint16_t *columns,
                       void *values, int32_t threads);

#endif

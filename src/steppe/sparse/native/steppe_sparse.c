/* The calls: which kernels, inputs made ready, threads, outputs. */
#include "internal.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>

#ifdef SPS_WITH_AVX512VBMI2
extern const sps_kernels sps_avx512vbmi2;
#endif
#ifdef SPS_WITH_AVX512
extern const sps_kernels sps_avx512;
#endif
#ifdef SPS_WITH_AVX2
extern const sps_kernels sps_avx2;
#endif
#ifdef SPS_WITH_NEON
extern const sps_kernels sps_neon;
#endif
extern const sps_kernels sps_portable;

#define SPS_WEIGHTS_OF_A_THREAD 32768
#define SPS_BLOCK 64 /* rows of the index layout that are summed side by side */

static const sps_kernels *const compiled[] = {
#ifdef SPS_WITH_AVX512VBMI2
    &sps_avx512vbmi2,
#endif
#ifdef SPS_WITH_AVX512
    &sps_avx512,
#endif
#ifdef SPS_WITH_AVX2
    &sps_avx2,
#endif
#ifdef SPS_WITH_NEON
    &sps_neon,
#endif
    &sps_portable,
};
#define COMPILED ((int)(sizeof compiled / sizeof *compiled))

static _Atomic(const sps_kernels *) chosen;
static void (*parallel)(void (*)(void *), void *, unsigned, unsigned);

int32_t sps_abi(void) { return SPS_ABI; }

const char *sps_instruction_sets(void) {
  static _Thread_local char names[128];
  names[0] = 0;
  for (int i = 0; i < COMPILED; i++)
    if (compiled[i]->works()) {
      if (names[0]) strcat(names, ",");
      strcat(names, compiled[i]->name);
    }
  return names;
}

int32_t sps_use(const char *instruction_set) {
  for (int i = 0; i < COMPILED; i++)
    if (!strcmp(compiled[i]->name, instruction_set) && compiled[i]->works()) {
      chosen = compiled[i];
      return SPS_OK;
    }
  return SPS_UNKNOWN;
}

const sps_kernels *sps_kernels_in_use(void) {
  const sps_kernels *now = chosen;
  for (int i = 0; !now; i++)
    if (compiled[i]->works()) chosen = now = compiled[i];
  return now;
}

void sps_parallel(void (*gomp_parallel)(void (*)(void *), void *, unsigned, unsigned)) {
  parallel = gomp_parallel;
}

typedef struct {
  int64_t count, grain;
  atomic_llong next;
  void (*work)(void *, int64_t, int64_t);
  void *context;
} share;

static void take(void *shared) {
  share *all = shared;
  for (;;) {
    int64_t first = atomic_fetch_add(&all->next, all->grain);
    if (first >= all->count) return;
    int64_t last = first + all->grain;
    all->work(all->context, first, last < all->count ? last : all->count);
  }
}

void sps_for(int64_t count, int64_t grain, int32_t threads,
             void (*work)(void *, int64_t, int64_t), void *context) {
  if (grain < 1) grain = 1;
  if (threads > sps_up(count, grain)) threads = (int32_t)sps_up(count, grain);
  if (threads < 2 || !parallel) {
    work(context, 0, count);
    return;
  }
  share all = {.count = count, .grain = grain, .work = work, .context = context};
  atomic_init(&all.next, 0);
  parallel(take, &all, (unsigned)threads, 0);
}

/* Waking a thread takes as long as some ten thousand weights. */
static int32_t worth(int64_t weights, int32_t threads) {
  const int64_t most = weights / SPS_WEIGHTS_OF_A_THREAD + 1;
  return most < threads ? (int32_t)most : threads;
}

/* ---- inputs */

static void widen(const sps_kernels *own, const void *from, int32_t type, float *to,
                  int64_t count) {
  if (type == SPS_F32) {
    memcpy(to, from, (size_t)count * sizeof(float));
  } else if (type == SPS_F16) {
    own->widen_f16(from, to, count);
  } else {
    const uint16_t *halves = from;
    for (int64_t i = 0; i < count; i++) to[i] = sps_from_bf16(halves[i]);
  }
}

static const void *row_of(const sps_call *call, int64_t token) {
  return (const char *)call->x + token * call->x_stride * sps_element(call->x_type);
}

/* One block of memory, aligned for vectors. */
static void *scratch(int64_t bytes) {
  return aligned_alloc(64, (size_t)(sps_up(bytes ? bytes : 1, 64) * 64));
}

/* Inputs as the bits kernels read them; what is allocated comes back. */
static void *ready_for_bits(const sps_kernels *own, int32_t value_type, int64_t columns,
                            const sps_call *call, sps_inputs *in) {
  const int halves = own->bits_x16 && value_type == SPS_BF16 && call->x_type == SPS_BF16;
  const int64_t size = halves ? 2 : 4;
  void *block = NULL;
  if (columns % SPS_CHUNK || (!halves && call->x_type != SPS_F32)) {
    const int64_t padded = sps_up(columns, SPS_CHUNK) * SPS_CHUNK;
    if (!(block = scratch(in->tokens * padded * size))) return NULL;
    for (int64_t token = 0; token < in->tokens; token++) {
      char *to = (char *)block + token * padded * size;
      if (halves) memcpy(to, row_of(call, token), (size_t)columns * 2);
      else widen(own, row_of(call, token), call->x_type, (float *)to, columns);
      memset(to + columns * size, 0, (size_t)((padded - columns) * size));
    }
    in->stride = padded;
  } else {
    in->stride = call->x_stride;
  }
  const void *x = block ? block : call->x;
  if (halves) in->x16 = x;
  else in->x = x;
  return block ? block : (void *)-1;
}

/* Inputs as the index kernels read them: for several tokens these lie beside each other. */
static void *ready_for_index(const sps_kernels *own, int64_t columns, const sps_call *call,
                             sps_inputs *in) {
  const int64_t tokens = in->tokens;
  in->width = tokens == 1 ? 0 : tokens <= 4 ? 4 : tokens <= 8 ? 8 : 16;
  const int64_t turned = in->width * columns;
  float *block = scratch((turned + tokens * columns) * 4);
  if (!block) return NULL;
  float *rows = block + turned;
  for (int64_t token = 0; token < tokens; token++)
    widen(own, row_of(call, token), call->x_type, rows + token * columns, columns);
  in->x = rows;
  in->stride = columns;
  if (in->width) {
    for (int64_t column = 0; column < columns; column++)
      for (int64_t t = 0; t < in->width; t++)
        block[column * in->width + t] = t < tokens ? rows[t * columns + column] : 0.0f;
    in->by_column = block;
  }
  return block;
}

/* ---- outputs */

static void store(const sps_call *call, int64_t token, int64_t row, float sum, const float *scale) {
  if (scale) sum *= scale[row];
  if (call->bias) sum += sps_value(call->bias, call->bias_type, row);
  const int64_t at = token * call->y_stride + row;
  if (call->y_type == SPS_F32) ((float *)call->y)[at] = sum;
  else ((uint16_t *)call->y)[at] = call->y_type == SPS_BF16 ? sps_to_bf16(sum) : sps_to_f16(sum);
}

typedef struct {
  const sps_kernels *own;
  const void *matrix;
  const sps_call *call; /* of these tokens */
  const sps_inputs *in;
  const int32_t *wrong; /* columns with an input that is not finite, in turns of tokens */
  int64_t wrongs;
} product;

static sps_call part_of(const sps_call *call, int64_t first, int64_t last) {
  sps_call part = *call;
  part.tokens = last - first;
  part.x = row_of(call, first);
  part.y = (char *)call->y + first * call->y_stride * sps_element(call->y_type);
  return part;
}

static void bits_groups(void *context, int64_t first, int64_t last) {
  const product *all = context;
  const sps_bits *matrix = all->matrix;
  sps_bits_kernel kernel = all->in->x16 ? all->own->bits_x16 : all->own->bits[matrix->value_type];
  float sums[SPS_MOST_TOKENS * SPS_ROWS];
  for (int64_t group = first; group < last; group++) {
    kernel(matrix, all->in, group, sums);
    for (int64_t token = 0; token < all->in->tokens; token++)
      for (int64_t row = group * SPS_ROWS; row < (group + 1) * SPS_ROWS; row++)
        if (row < matrix->rows)
          store(all->call, token, row, sums[token * SPS_ROWS + row % SPS_ROWS], matrix->scale);
  }
}

int32_t sps_bits_linear(const sps_bits *matrix, const sps_call *call) {
  const sps_kernels *own = sps_kernels_in_use();
  const int64_t groups = sps_up(matrix->rows, SPS_ROWS);
  for (int64_t first = 0; first < call->tokens; first += SPS_MOST_TOKENS) {
    const int64_t left = call->tokens - first;
    const sps_call part =
        part_of(call, first, first + (left < SPS_MOST_TOKENS ? left : SPS_MOST_TOKENS));
    sps_inputs in = {.tokens = part.tokens};
    void *block = ready_for_bits(own, matrix->value_type, matrix->columns, &part, &in);
    if (!block) return SPS_MEMORY;
    product all = {.own = own, .matrix = matrix, .call = &part, .in = &in};
    const int32_t threads = worth(matrix->rows * matrix->columns, part.threads);
    sps_for(groups, groups / (8 * (threads > 0 ? threads : 1)) + 1, threads, bits_groups, &all);
    if (block != (void *)-1) free(block);
  }
  return SPS_OK;
}

/* A zero times an infinity or a NaN is NaN in a dense product, so it is one here: for each such
 * input the row must keep its column. */
static int keeps(const sps_index *matrix, int64_t row, int64_t column) {
  const int64_t *starts = matrix->starts + column / SPS_TILE * (matrix->rows + 1);
  int64_t low = starts[row], high = starts[row + 1];
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (matrix->columns_of[middle] < column % SPS_TILE) low = middle + 1;
    else high = middle;
  }
  return low < starts[row + 1] && matrix->columns_of[low] == column % SPS_TILE;
}

static void mark_wrong(const product *all, int64_t row, float *sums) {
  for (int64_t i = 0; i < all->wrongs; i++) {
    const int64_t column = all->wrong[i];
    if (keeps(all->matrix, row, column)) continue;
    for (int64_t token = 0; token < all->in->tokens; token++)
      if (!isfinite(all->in->x[token * all->in->stride + column])) sums[token] = NAN;
  }
}

/* Some rows, tile by tile, so that the inputs of a tile stay in the first cache. */
static void index_block(const product *all, int64_t first, int64_t last) {
  const sps_index *matrix = all->matrix;
  const sps_index_kernel kernel = all->own->index[matrix->value_type];
  const int64_t tiles = sps_up(matrix->columns, SPS_TILE);
  float sums[SPS_BLOCK][SPS_MOST_TOKENS] = {{0}};
  for (int64_t tile = 0; tile < tiles; tile++) {
    const int64_t *starts = matrix->starts + tile * (matrix->rows + 1);
    for (int64_t row = first; row < last; row++)
      kernel(matrix, all->in, tile, starts[row], starts[row + 1], sums[row - first]);
  }
  for (int64_t row = first; row < last; row++) {
    mark_wrong(all, row, sums[row - first]);
    for (int64_t token = 0; token < all->in->tokens; token++)
      store(all->call, token, row, sums[row - first][token], matrix->scale);
  }
}

static void index_rows(void *context, int64_t first, int64_t last) {
  for (; first < last; first += SPS_BLOCK)
    index_block(context, first, first + SPS_BLOCK < last ? first + SPS_BLOCK : last);
}

/* The columns in which some token's input is not finite. */
static int32_t *not_finite(const sps_inputs *in, int64_t columns, int64_t *count) {
  uint32_t any = 0; /* in bits, so that a compiler makes vectors of it */
  *count = 0;
  for (int64_t i = 0; i < in->tokens * columns; i++)
    any |= (sps_to_bits(in->x[i]) & 0x7f800000u) == 0x7f800000u;
  int32_t *wrong = malloc(any ? (size_t)columns * sizeof *wrong : 1);
  for (int64_t column = 0; any && wrong && column < columns; column++)
    for (int64_t token = 0; token < in->tokens; token++)
      if (!isfinite(in->x[token * in->stride + column])) {
        wrong[(*count)++] = (int32_t)column;
        break;
      }
  return wrong;
}

int32_t sps_index_linear(const sps_index *matrix, const sps_call *call) {
  const sps_kernels *own = sps_kernels_in_use();
  for (int64_t first = 0; first < call->tokens; first += SPS_MOST_TOKENS) {
    const int64_t left = call->tokens - first;
    const sps_call part =
        part_of(call, first, first + (left < SPS_MOST_TOKENS ? left : SPS_MOST_TOKENS));
    sps_inputs in = {.tokens = part.tokens};
    void *block = ready_for_index(own, matrix->columns, &part, &in);
    if (!block) return SPS_MEMORY;
    product all = {.own = own, .matrix = matrix, .call = &part, .in = &in};
    int32_t *wrong = not_finite(&in, matrix->columns, &all.wrongs);
    all.wrong = wrong;
    if (wrong) {
      const int32_t threads = worth(matrix->starts[matrix->rows] * 8, part.threads);
      const int64_t grain = matrix->rows / (8 * (threads > 0 ? threads : 1)) + 1;
      sps_for(matrix->rows, grain, threads, index_rows, &all);
    }
    free(block);
    if (!wrong) return SPS_MEMORY;
    free(wrong);
  }
  return SPS_OK;
}

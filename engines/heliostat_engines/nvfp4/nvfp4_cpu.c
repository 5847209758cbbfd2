/* NVFP4 of contiguous rows in one pass, by the definition in format.py and to the same bits.
 *
 * Compiled where it runs (see cpu.py), without fast-math: every division and rounding is
 * IEEE's. A value is rounded to k mantissa bits, ties to even, by adding and subtracting a
 * multiple of its power of two, as in nvfp4._round_to_e2m1.
 */
#include <stdint.h>
#include <string.h>

#define BLOCK 16
#define TILE 16 /* blocks whose scales are computed together */
#define MINIMUM_WORK 1024 /* blocks below which a second thread costs more than it gains */

static const float E2M1_MAX = 6.0f, E4M3_MAX = 448.0f, E4M3_TINY = 0x1p-9f;
static const uint32_t MAGNITUDE = 0x7FFFFFFF, EXPONENT = 0x7F800000;

static inline float as_float(uint32_t bits) { float f; memcpy(&f, &bits, 4); return f; }
static inline uint32_t as_bits(float f) { uint32_t bits; memcpy(&bits, &f, 4); return bits; }

static inline float load(const void *values, int64_t index, int is_bf16) {
  return is_bf16 ? as_float((uint32_t)((const uint16_t *)values)[index] << 16)
                 : ((const float *)values)[index];
}

/* Adding this to a value rounds the sum's last bits to `mantissa_bits` bits of the value, ties to
 * even; subtracting it again leaves the value rounded. Below least_power steps stay the same. */
static inline float rounding_step(float value, float least_power, uint32_t mantissa_bits) {
  uint32_t power = as_bits(value) & EXPONENT, least = as_bits(least_power);
  return as_float((power > least ? power : least) + ((23 - mantissa_bits) << 23 | 1 << 22));
}

static inline float to_e2m1(float scaled) {
  scaled = scaled < -E2M1_MAX ? -E2M1_MAX : scaled; /* NaN passes both comparisons */
  scaled = scaled > E2M1_MAX ? E2M1_MAX : scaled;
  float step = rounding_step(scaled, 1.0f, 1);
  return (scaled + step) - step;
}

static inline float block_scale_of(uint32_t amax_bits, float global_scale) {
  float wanted = as_float(amax_bits) / (E2M1_MAX * global_scale);
  float clamped = wanted < E4M3_TINY ? E4M3_TINY : wanted;
  clamped = clamped > E4M3_MAX ? E4M3_MAX : clamped;
  clamped = wanted > 0.0f ? clamped : 1.0f; /* NaN is not */
  float step = rounding_step(clamped, 0x1p-6f, 3);
  return (clamped + step) - step;
}

static inline uint8_t e4m3_bits(float scale) {
  int32_t normal = (int32_t)(as_bits(scale) >> 20) - (120 << 3);
  return (uint8_t)(scale < 0x1p-6f ? (int32_t)(scale * 0x1p9f) : normal);
}

/* A code is the magnitude's rank in {0, .5, 1, 1.5, 2, 3, 4, 6}: how many half powers it holds,
 * which stand in the sum's last bits, and two for each power of two above 1. */
static inline uint32_t e2m1_code(float scaled) {
  uint32_t bits = as_bits(scaled) & MAGNITUDE, most = as_bits(E2M1_MAX);
  float magnitude = as_float(bits < most ? bits : most);
  float step = rounding_step(magnitude, 1.0f, 1);
  uint32_t half_powers = as_bits(magnitude + step) - as_bits(step);
  uint32_t powers_above_one = (as_bits(step) >> 23) - (127 + 22);
  return (half_powers + 2 * powers_above_one) | (as_bits(scaled) >> 28 & 8);
}

static inline void scales_of(const void *values, int64_t first, int64_t count, int is_bf16,
                             float global_scale, float *block_scales) {
  for (int64_t block = 0; block < count; block++) {
    uint32_t amax = 0;
    for (int i = 0; i < BLOCK; i++) {
      uint32_t bits = as_bits(load(values, (first + block) * BLOCK + i, is_bf16)) & MAGNITUDE;
      amax = bits > amax ? bits : amax;
    }
    block_scales[block] = as_float(amax);
  }
  for (int64_t block = 0; block < count; block++)
    block_scales[block] = block_scale_of(as_bits(block_scales[block]), global_scale);
}

/* What is stored needs no rounding: a block scale times a code has six significant bits. */
static inline void store_exact(void *out, int64_t index, float value, int is_bf16) {
  if (is_bf16)
    ((uint16_t *)out)[index] = (uint16_t)(as_bits(value) >> 16);
  else
    ((float *)out)[index] = value;
}

static inline void fake_quantise_tile(const void *values, int64_t first, int64_t count,
                                      int is_bf16, float global_scale, void *out) {
  float scales[TILE];
  scales_of(values, first, count, is_bf16, global_scale, scales);
  for (int64_t block = 0; block < count; block++) {
    float full_scale = scales[block] * global_scale;
    int64_t start = (first + block) * BLOCK;
    for (int i = 0; i < BLOCK; i++) {
      float scaled = load(values, start + i, is_bf16) / full_scale;
      store_exact(out, start + i, to_e2m1(scaled) * scales[block], is_bf16);
    }
  }
}

static inline void quantise_tile(const void *values, int64_t first, int64_t count, int is_bf16,
                                 float global_scale, uint8_t *codes, uint8_t *block_scales) {
  float scales[TILE];
  scales_of(values, first, count, is_bf16, global_scale, scales);
  for (int64_t block = 0; block < count; block++) {
    float full_scale = scales[block] * global_scale;
    int64_t start = (first + block) * BLOCK;
    uint32_t wide[BLOCK];
    for (int i = 0; i < BLOCK; i++)
      wide[i] = e2m1_code(load(values, start + i, is_bf16) / full_scale);
    for (int i = 0; i < BLOCK / 2; i++)
      codes[start / 2 + i] = (uint8_t)(wide[2 * i] | wide[2 * i + 1] << 4);
    block_scales[first + block] = e4m3_bits(scales[block]);
  }
}

/* To nearest, ties to even; NaN becomes torch's. */
static inline uint16_t to_bf16(float value) {
  uint32_t bits = as_bits(value);
  uint32_t rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
  return (uint16_t)(value != value ? 0x7FC0 : rounded);
}

void scale_and_add_bf16(uint16_t *product, int64_t count, float scale, const uint16_t *bias,
                        int64_t width) {
#pragma omp parallel for schedule(static) if (count > MINIMUM_WORK * BLOCK)
  for (int64_t row = 0; row < count / width; row++)
    for (int64_t i = 0; i < width; i++) {
      float scaled = load(&(uint16_t){to_bf16(load(product, row * width + i, 1) * scale)}, 0, 1);
      product[row * width + i] = to_bf16(scaled + load(bias, i, 1));
    }
}

void scale_and_add_f32(float *product, int64_t count, float scale, const float *bias,
                       int64_t width) {
#pragma omp parallel for schedule(static) if (count > MINIMUM_WORK * BLOCK)
  for (int64_t row = 0; row < count / width; row++)
    for (int64_t i = 0; i < width; i++)
      product[row * width + i] = product[row * width + i] * scale + bias[i];
}

/* The loops over tiles stand here, where the type of the values is a constant: the compiler moves
 * a parallel loop into a function of its own, which would otherwise test the type at each value. */
#define FOR_EACH_TILE(count, call)                                                           \
  int64_t blocks = (count) / BLOCK;                                                          \
  _Pragma("omp parallel for schedule(static) if (blocks > MINIMUM_WORK)")                    \
  for (int64_t first = 0; first < blocks; first += TILE) {                                   \
    int64_t tile = blocks - first < TILE ? blocks - first : TILE;                            \
    call;                                                                                    \
  }

/* count: how many values, a multiple of BLOCK.
 * amax: the bits of the largest magnitude; at least infinity's if a value is NaN or infinite. */
#define ENTRY_POINTS(suffix, is_bf16)                                                        \
  void fake_quantise_##suffix(const void *values, int64_t count, float global_scale,         \
                              void *out) {                                                   \
    FOR_EACH_TILE(count,                                                                     \
                  fake_quantise_tile(values, first, tile, is_bf16, global_scale, out))       \
  }                                                                                          \
  void quantise_##suffix(const void *values, int64_t count, float global_scale,              \
                         uint8_t *codes, uint8_t *block_scales) {                            \
    FOR_EACH_TILE(count, quantise_tile(values, first, tile, is_bf16, global_scale, codes,    \
                                       block_scales))                                        \
  }                                                                                          \
  uint32_t amax_##suffix(const void *values, int64_t count) {                                \
    uint32_t amax = 0;                                                                       \
    _Pragma("omp parallel for schedule(static) reduction(max : amax)                         \
            if (count > MINIMUM_WORK * BLOCK)")                                              \
    for (int64_t i = 0; i < count; i++) {                                                    \
      uint32_t bits = as_bits(load(values, i, is_bf16)) & MAGNITUDE;                         \
      amax = bits > amax ? bits : amax;                                                      \
    }                                                                                        \
    return amax;                                                                             \
  }

ENTRY_POINTS(bf16, 1)
ENTRY_POINTS(f32, 0)

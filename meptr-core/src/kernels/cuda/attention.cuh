// Attention over heads that keeps scores on the chip (Dao 2023, https://arxiv.org/abs/2307.08691).
//
// A block computes 128 queries of one head, 16 per warp, and passes over keys and values 64 at a time.
// 16-bit values are multiplied as they are; f32 as two f16 terms (f16_split.cuh), with a scale per query
// and key and one per tile of values. Attention weights, up to 1, have a fixed scale.
#pragma once

#include "dtypes.cuh"
#include "f16_split.cuh"
#include "tensor_cores.cuh"

namespace attention {

constexpr int QUERIES = 128, KEYS = 64, THREADS = 256;
constexpr float WEIGHT_SCALE = 16384.0f; // an attention weight of 1 becomes 2^14

// Tensor core operand of a dtype: the dtype of its terms, and their number.
template <typename T> struct Operand {
    using Term = T;
    static constexpr int TERMS = 1;
};
template <> struct Operand<float> {
    using Term = __half;
    static constexpr int TERMS = 2;
};

__device__ __forceinline__ unsigned pack_pair(float x, float y, __half) {
    return bits(__floats2half2_rn(x, y));
}
__device__ __forceinline__ unsigned pack_pair(float x, float y, __nv_bfloat16) {
    __nv_bfloat162 both = __floats2bfloat162_rn(x, y);
    return *reinterpret_cast<unsigned *>(&both);
}

// Stores two values as operands; 16-bit values are not scaled.
template <typename T>
__device__ __forceinline__ void store_terms(unsigned *first, unsigned *second, float x, float y,
                                            float factor) {
    if constexpr (Operand<T>::TERMS == 2) {
        SplitPair both = split(x, y, factor);
        *first = both.first;
        *second = both.second;
    } else {
        *first = pack_pair(x, y, T());
    }
}

// Keys or values: rows of `WIDTH` 16-bit values of each term.
template <typename T, int WIDTH> struct Tile {
    static constexpr int UNITS = WIDTH / 8; // units of 16 bytes in a row of one term
    uint4 units[Operand<T>::TERMS * KEYS * UNITS];

    // Swizzled, so that no two of 8 rows have a unit in the same bank.
    __device__ __forceinline__ uint4 *unit(int row, int term, int index) {
        int swizzle = UNITS >= 8 ? row & 7 : (row * UNITS / 8) & (UNITS - 1);
        return &units[(term * KEYS + row) * UNITS + (index ^ swizzle)];
    }

    __device__ __forceinline__ void store(int row, int index, const Eight &x, float factor) {
        if constexpr (Operand<T>::TERMS == 2) {
            SplitEight both = split_eight(x, factor);
            *unit(row, 0, index) = both.first;
            *unit(row, 1, index) = both.second;
        } else {
            const float *n = x.values;
            *unit(row, 0, index) =
                make_uint4(pack_pair(n[0], n[1], T()), pack_pair(n[2], n[3], T()),
                           pack_pair(n[4], n[5], T()), pack_pair(n[6], n[7], T()));
        }
    }
};

template <typename T, int WIDTH> struct Shared {
    Tile<T, WIDTH> keys, values;
    float key_scales[KEYS];
    int max_value[2]; // bits of the largest magnitude; of this tile and of the next
};

// Loads 8 values of a projection and adds the bias; zeros beyond the width or the last step.
template <typename T>
__device__ __forceinline__ Eight load(const T *x, const T *bias, bool is_inside) {
    Eight sum = {};
    if (!is_inside) return sum;
    constexpr int COUNT = 16 / sizeof(T);
#pragma unroll
    for (int part = 0; part < 8 / COUNT; part++) {
        Pack<T, COUNT> here = reinterpret_cast<const Pack<T, COUNT> *>(x)[part];
        Pack<T, COUNT> added = reinterpret_cast<const Pack<T, COUNT> *>(bias)[part];
#pragma unroll
        for (int n = 0; n < COUNT; n++) {
            sum.values[part * COUNT + n] = to_float(here.values[n]) + to_float(added.values[n]);
        }
    }
    return sum;
}

// Accumulators; for f32 the small products of terms are apart: the tensor cores truncate sums instead
// of rounding them, and truncate less of short ones.
struct Accumulators {
    float large[4] = {}, small[4] = {};

    template <typename T>
    __device__ __forceinline__ void add(T, const unsigned (*left)[4], const unsigned (*right)[2]) {
        typename Operand<T>::Term term{};
        multiply_add(term, large, left[0], right[0]);
        if constexpr (Operand<T>::TERMS == 2) {
            multiply_add(term, small, left[0], right[1]);
            multiply_add(term, small, left[1], right[0]);
        }
    }

    __device__ __forceinline__ float sum(int n) const { return large[n] + small[n]; }
};

// - x: (batch * time, 3, heads, width) before the bias (3, heads, width) is added; queries scaled
// - lengths: steps of each row of the batch that are attended to, 1 to `time`
// - out: (batch * time, heads, width)
//
// `width` is a multiple of 8 and at most `WIDTH`. A grid of (time / 128, heads, batch).
template <typename T, int WIDTH>
__device__ void attention(const T *x, const T *bias, const unsigned *lengths, T *out, unsigned time,
                       unsigned width, uint4 *memory) {
    constexpr bool IS_SPLIT = Operand<T>::TERMS == 2;
    constexpr int TERMS = Operand<T>::TERMS, DEEP = WIDTH / 16, WIDE = WIDTH / 8;
    constexpr int FETCHED = KEYS * WIDE / THREADS; // units of a tile that a thread brings in
    Shared<T, WIDTH> &shared = *reinterpret_cast<Shared<T, WIDTH> *>(memory);
    const unsigned heads = gridDim.y, head = blockIdx.y, row_step = 3 * heads * width;
    const unsigned length = lengths[blockIdx.z];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    x += size_t(blockIdx.z) * time * row_step + head * width;
    bias += head * width;

    // Queries of rows `lane / 4` and `lane / 4 + 8`, as operands.
    const unsigned first_query = blockIdx.x * QUERIES + warp * 16;
    unsigned query[DEEP][TERMS][4];
    float query_scales[2] = {1.0f, 1.0f};
#pragma unroll
    for (int half = 0; half < 2; half++) {
        unsigned step = first_query + half * 8 + lane / 4;
        float values[DEEP * 4], most = 0.0f;
#pragma unroll
        for (int n = 0; n < DEEP * 4; n++) {
            unsigned column = n / 2 * 8 + lane % 4 * 2 + n % 2;
            bool is_inside = step < time && column < width;
            values[n] = is_inside ? to_float(x[size_t(step) * row_step + column])
                                        + to_float(bias[column])
                                  : 0.0f;
            most = fmaxf(most, fabsf(values[n]));
        }
        float factor = 1.0f;
        if constexpr (IS_SPLIT) {
            Scale scale = scale_of(max_of_lanes<4>(most));
            factor = scale.factor;
            query_scales[half] = scale.inverse;
        }
#pragma unroll
        for (int n = 0; n < DEEP * 2; n++) {
            store_terms<T>(&query[n / 2][0][n % 2 * 2 + half],
                           &query[n / 2][TERMS - 1][n % 2 * 2 + half], values[2 * n],
                           values[2 * n + 1], factor);
        }
    }

    Eight keys[FETCHED], values[FETCHED];
    auto fetch = [&](unsigned first) {
#pragma unroll
        for (int n = 0; n < FETCHED; n++) {
            unsigned at = n * THREADS + threadIdx.x, step = first + at / WIDE, column = at % WIDE * 8;
            bool is_inside = step < length && column < width;
            const T *from = x + size_t(step) * row_step + column, *added = bias + column;
            keys[n] = load(from + heads * width, added + heads * width, is_inside);
            values[n] = load(from + 2 * heads * width, added + 2 * heads * width, is_inside);
        }
    };

    float output[WIDE][4] = {};
    float max_score[2] = {-INFINITY, -INFINITY}, weight_sum[2] = {};
    if (threadIdx.x < 2) shared.max_value[threadIdx.x] = 0;
    __syncthreads();
    fetch(0);
    for (unsigned first = 0, number = 0; first < length; first += KEYS, number++) {
        if constexpr (IS_SPLIT) {
            float most = 0.0f;
#pragma unroll
            for (int n = 0; n < FETCHED; n++) most = fmaxf(most, max_abs(values[n]));
            most = max_of_lanes<32>(most);
            if (lane == 0) atomicMax(&shared.max_value[number % 2], __float_as_int(most));
        }
        __syncthreads(); // every warp has finished the last tile
        // No warp reads or raises the other value between this barrier and the next.
        if (threadIdx.x == 0) shared.max_value[(number + 1) % 2] = 0;
        Scale value_scale = {1.0f, 1.0f};
        if constexpr (IS_SPLIT) {
            value_scale = scale_of(__int_as_float(shared.max_value[number % 2]));
        }
#pragma unroll
        for (int n = 0; n < FETCHED; n++) {
            unsigned at = n * THREADS + threadIdx.x;
            float factor = 1.0f;
            if constexpr (IS_SPLIT) {
                Scale scale = scale_of(max_of_lanes<WIDE>(max_abs(keys[n])));
                factor = scale.factor;
                if (at % WIDE == 0) shared.key_scales[at / WIDE] = scale.inverse;
            }
            shared.keys.store(at / WIDE, at % WIDE, keys[n], factor);
            shared.values.store(at / WIDE, at % WIDE, values[n], value_scale.factor);
        }
        __syncthreads();
        if (first + KEYS < length) fetch(first + KEYS);
        if (first_query >= time) continue; // this warp only helped to load the tile

        // Scores of 16 queries and 64 keys.
        float scores[KEYS / 8][4];
#pragma unroll
        for (int n = 0; n < KEYS / 8; n += 2) {
            Accumulators here[2];
#pragma unroll
            for (int deep = 0; deep < DEEP; deep++) {
                unsigned right[2][TERMS][2];
#pragma unroll
                for (int term = 0; term < TERMS; term++) {
                    unsigned both[4];
                    int row = n * 8 + lane / 16 * 8 + lane % 8;
                    load_matrices(both, shared.keys.unit(row, term, deep * 2 + lane / 8 % 2));
#pragma unroll
                    for (int i = 0; i < 4; i++) right[i / 2][term][i % 2] = both[i];
                }
                here[0].add(T(), query[deep], right[0]);
                here[1].add(T(), query[deep], right[1]);
            }
#pragma unroll
            for (int i = 0; i < 8; i++) scores[n + i / 4][i % 4] = here[i / 4].sum(i % 4);
        }
        // Weights relative to the largest score so far.
        float new_max[2] = {max_score[0], max_score[1]};
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int key = n * 8 + lane % 4 * 2 + i % 2;
                float &score = scores[n][i];
                if constexpr (IS_SPLIT) score *= query_scales[i / 2] * shared.key_scales[key];
                if (first + key >= length) score = -INFINITY;
                new_max[i / 2] = fmaxf(new_max[i / 2], score);
            }
        }
        float rescale[2]; // of the sums so far
#pragma unroll
        for (int half = 0; half < 2; half++) {
            new_max[half] = max_of_lanes<4>(new_max[half]);
            rescale[half] = expf(max_score[half] - new_max[half]);
            max_score[half] = new_max[half];
            weight_sum[half] *= rescale[half];
        }
        unsigned weights[KEYS / 16][TERMS][4];
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float low = expf(scores[n][half * 2] - max_score[half]);
                float high = expf(scores[n][half * 2 + 1] - max_score[half]);
                weight_sum[half] += low + high;
                unsigned(&here)[TERMS][4] = weights[n / 2];
                store_terms<T>(&here[0][n % 2 * 2 + half], &here[TERMS - 1][n % 2 * 2 + half], low,
                               high, WEIGHT_SCALE);
            }
        }
        // Weighted sums of the values.
        float unscaled = IS_SPLIT ? value_scale.inverse / WEIGHT_SCALE : 1.0f;
#pragma unroll
        for (int n = 0; n < WIDE; n += 2) {
            Accumulators here[2];
#pragma unroll
            for (int deep = 0; deep < KEYS / 16; deep++) {
                unsigned right[2][TERMS][2];
#pragma unroll
                for (int term = 0; term < TERMS; term++) {
                    unsigned both[4];
                    load_transposed_matrices(
                        both, shared.values.unit(deep * 16 + lane % 16, term, n + lane / 16));
#pragma unroll
                    for (int i = 0; i < 4; i++) right[i / 2][term][i % 2] = both[i];
                }
                here[0].add(T(), weights[deep], right[0]);
                here[1].add(T(), weights[deep], right[1]);
            }
#pragma unroll
            for (int i = 0; i < 8; i++) {
                float &sum = output[n + i / 4][i % 4];
                sum = fmaf(sum, rescale[i % 4 / 2], here[i / 4].sum(i % 4) * unscaled);
            }
        }
    }

#pragma unroll
    for (int half = 0; half < 2; half++) {
        unsigned step = first_query + half * 8 + lane / 4;
        float scale = 1.0f / sum_of_lanes<4>(weight_sum[half]);
        if (step >= time) continue;
        T *into = out + (size_t(blockIdx.z) * time + step) * heads * width + head * width;
#pragma unroll
        for (int n = 0; n < WIDE; n++) {
            unsigned column = n * 8 + lane % 4 * 2;
            if (column >= width) continue;
            Pack<T, 2> both = {{from_float<T>(output[n][half * 2] * scale),
                                from_float<T>(output[n][half * 2 + 1] * scale)}};
            reinterpret_cast<Pack<T, 2> *>(into + column)[0] = both;
        }
    }
}

} // namespace attention

#define ATTENTION(T, NAME, WIDTH)                                                                   \
    extern "C" __global__ void __launch_bounds__(attention::THREADS)                                \
        attention_##NAME##_##WIDTH(const T *x, const T *bias, const unsigned *lengths, T *out,      \
                                   unsigned time, unsigned width) {                                 \
        extern __shared__ uint4 shared[];                                                           \
        attention::attention<T, WIDTH>(x, bias, lengths, out, time, width, shared);                 \
    }
#define ATTENTION_ALL(WIDTH)                                                                        \
    ATTENTION(float, f32, WIDTH)                                                                    \
    ATTENTION(__half, f16, WIDTH)                                                                   \
    ATTENTION(__nv_bfloat16, bf16, WIDTH)
ATTENTION_ALL(32)
ATTENTION_ALL(64)
ATTENTION_ALL(128)

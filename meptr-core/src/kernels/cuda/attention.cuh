// Attention over heads that keeps scores on the chip (Dao 2023, https://arxiv.org/abs/2307.08691).
//
// A block reads 128 queries of one head, 16 to a warp, and passes over the keys and values 64 at a
// time. 16 bits are multiplied as they are; f32 in two pieces of f16 each (pieces.cuh), with a scale
// for each query and key and one for a tile of values; shares, up to 1, have a fixed one.
#pragma once

#include "numbers.cuh"
#include "pieces.cuh"
#include "tensor_cores.cuh"

namespace attention {

constexpr int QUERIES = 128, KEYS = 64, THREADS = 256;
constexpr float SHARE_SCALE = 16384.0f; // of a share: 1 becomes 2^14

// What the tensor cores multiply for numbers of a type, and how many pieces of each.
template <typename T> struct Factor {
    using Piece = T;
    static constexpr int PIECES = 1;
};
template <> struct Factor<float> {
    using Piece = __half;
    static constexpr int PIECES = 2;
};

__device__ __forceinline__ unsigned two(float x, float y, __half) {
    return bits(__floats2half2_rn(x, y));
}
__device__ __forceinline__ unsigned two(float x, float y, __nv_bfloat16) {
    __nv_bfloat162 both = __floats2bfloat162_rn(x, y);
    return *reinterpret_cast<unsigned *>(&both);
}

// Two numbers as factors; 16 bits are not scaled.
template <typename T>
__device__ __forceinline__ void cut(unsigned *first, unsigned *second, float x, float y,
                                    float factor) {
    if constexpr (Factor<T>::PIECES == 2) {
        TwoPieces both = pieces(x, y, factor);
        *first = both.first;
        *second = both.second;
    } else {
        *first = two(x, y, T());
    }
}

// Keys or values: rows of `WIDTH` halves of each piece.
template <typename T, int WIDTH> struct Tile {
    static constexpr int UNITS = WIDTH / 8; // of 16 bytes, of a row of one piece
    uint4 units[Factor<T>::PIECES * KEYS * UNITS];

    // No two of 8 rows have a unit in the same bank.
    __device__ __forceinline__ uint4 *unit(int row, int piece, int number) {
        int turn = UNITS >= 8 ? row & 7 : (row * UNITS / 8) & (UNITS - 1);
        return &units[(piece * KEYS + row) * UNITS + (number ^ turn)];
    }

    __device__ __forceinline__ void store(int row, int number, const Eight &x, float factor) {
        if constexpr (Factor<T>::PIECES == 2) {
            TwoUnits both = ::units(x, factor);
            *unit(row, 0, number) = both.first;
            *unit(row, 1, number) = both.second;
        } else {
            const float *n = x.numbers;
            *unit(row, 0, number) = make_uint4(two(n[0], n[1], T()), two(n[2], n[3], T()),
                                               two(n[4], n[5], T()), two(n[6], n[7], T()));
        }
    }
};

template <typename T, int WIDTH> struct Shared {
    Tile<T, WIDTH> keys, values;
    float key_scales[KEYS];
    int largest_value[2]; // its bits; of this tile and of the next
};

// 8 numbers of a product and of the bias; none beyond the width or for a step that is not there.
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
            sum.numbers[part * COUNT + n] = to_float(here.numbers[n]) + to_float(added.numbers[n]);
        }
    }
    return sum;
}

// Sums of products, of those of f32 the small products of pieces apart: the tensor cores cut sums off
// instead of rounding them, and cut less off short ones.
struct Sums {
    float large[4] = {}, small[4] = {};

    template <typename T>
    __device__ __forceinline__ void add(T, const unsigned (*left)[4], const unsigned (*right)[2]) {
        typename Factor<T>::Piece kind{};
        multiply_add(kind, large, left[0], right[0]);
        if constexpr (Factor<T>::PIECES == 2) {
            multiply_add(kind, small, left[0], right[1]);
            multiply_add(kind, small, left[1], right[0]);
        }
    }

    __device__ __forceinline__ float of(int n) const { return large[n] + small[n]; }
};

// - x: (batch * time, 3, heads, width) without its bias (3, heads, width); queries scaled
// - lengths: steps of each row of the batch that are attended to, 1 to `time`
// - out: (batch * time, heads, width)
//
// `width` is a multiple of 8 and at most `WIDTH`. A grid of (time / 128, heads, batch).
template <typename T, int WIDTH>
__device__ void attend(const T *x, const T *bias, const unsigned *lengths, T *out, unsigned time,
                       unsigned width, uint4 *memory) {
    constexpr bool IS_CUT = Factor<T>::PIECES == 2;
    constexpr int PIECES = Factor<T>::PIECES, DEEP = WIDTH / 16, WIDE = WIDTH / 8;
    constexpr int FETCHED = KEYS * WIDE / THREADS; // units of a tile that a thread brings in
    Shared<T, WIDTH> &shared = *reinterpret_cast<Shared<T, WIDTH> *>(memory);
    const unsigned heads = gridDim.y, head = blockIdx.y, row_step = 3 * heads * width;
    const unsigned length = lengths[blockIdx.z];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    x += size_t(blockIdx.z) * time * row_step + head * width;
    bias += head * width;

    // Queries: of rows `lane / 4` and 8 further, as factors.
    const unsigned first_query = blockIdx.x * QUERIES + warp * 16;
    unsigned query[DEEP][PIECES][4];
    float query_scales[2] = {1.0f, 1.0f};
#pragma unroll
    for (int half = 0; half < 2; half++) {
        unsigned step = first_query + half * 8 + lane / 4;
        float numbers[DEEP * 4], most = 0.0f;
#pragma unroll
        for (int n = 0; n < DEEP * 4; n++) {
            unsigned column = n / 2 * 8 + lane % 4 * 2 + n % 2;
            bool is_inside = step < time && column < width;
            numbers[n] = is_inside ? to_float(x[size_t(step) * row_step + column])
                                         + to_float(bias[column])
                                   : 0.0f;
            most = fmaxf(most, fabsf(numbers[n]));
        }
        float factor = 1.0f;
        if constexpr (IS_CUT) {
            Scale scale = scale_of(largest_of_lanes<4>(most));
            factor = scale.factor;
            query_scales[half] = scale.inverse;
        }
#pragma unroll
        for (int n = 0; n < DEEP * 2; n++) {
            cut<T>(&query[n / 2][0][n % 2 * 2 + half], &query[n / 2][PIECES - 1][n % 2 * 2 + half],
                   numbers[2 * n], numbers[2 * n + 1], factor);
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

    float read[WIDE][4] = {};
    float largest_score[2] = {-INFINITY, -INFINITY}, share_sum[2] = {};
    if (threadIdx.x < 2) shared.largest_value[threadIdx.x] = 0;
    __syncthreads();
    fetch(0);
    for (unsigned first = 0, number = 0; first < length; first += KEYS, number++) {
        if constexpr (IS_CUT) {
            float most = 0.0f;
#pragma unroll
            for (int n = 0; n < FETCHED; n++) most = fmaxf(most, largest(values[n]));
            most = largest_of_lanes<32>(most);
            if (lane == 0) atomicMax(&shared.largest_value[number % 2], __float_as_int(most));
        }
        __syncthreads(); // every warp is done with the last tile
        // No warp reads or raises the other value between this barrier and the next.
        if (threadIdx.x == 0) shared.largest_value[(number + 1) % 2] = 0;
        Scale value_scale = {1.0f, 1.0f};
        if constexpr (IS_CUT) {
            value_scale = scale_of(__int_as_float(shared.largest_value[number % 2]));
        }
#pragma unroll
        for (int n = 0; n < FETCHED; n++) {
            unsigned at = n * THREADS + threadIdx.x;
            float factor = 1.0f;
            if constexpr (IS_CUT) {
                Scale scale = scale_of(largest_of_lanes<WIDE>(largest(keys[n])));
                factor = scale.factor;
                if (at % WIDE == 0) shared.key_scales[at / WIDE] = scale.inverse;
            }
            shared.keys.store(at / WIDE, at % WIDE, keys[n], factor);
            shared.values.store(at / WIDE, at % WIDE, values[n], value_scale.factor);
        }
        __syncthreads();
        if (first + KEYS < length) fetch(first + KEYS);
        if (first_query >= time) continue; // it only helped to bring the tile in

        // Scores of 16 queries and 64 keys.
        float scores[KEYS / 8][4];
#pragma unroll
        for (int n = 0; n < KEYS / 8; n += 2) {
            Sums here[2];
#pragma unroll
            for (int deep = 0; deep < DEEP; deep++) {
                unsigned right[2][PIECES][2];
#pragma unroll
                for (int piece = 0; piece < PIECES; piece++) {
                    unsigned both[4];
                    int row = n * 8 + lane / 16 * 8 + lane % 8;
                    load_matrices(both, shared.keys.unit(row, piece, deep * 2 + lane / 8 % 2));
#pragma unroll
                    for (int i = 0; i < 4; i++) right[i / 2][piece][i % 2] = both[i];
                }
                here[0].add(T(), query[deep], right[0]);
                here[1].add(T(), query[deep], right[1]);
            }
#pragma unroll
            for (int i = 0; i < 8; i++) scores[n + i / 4][i % 4] = here[i / 4].of(i % 4);
        }
        // Shares, of the largest score so far.
        float largest_here[2] = {largest_score[0], largest_score[1]};
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int key = n * 8 + lane % 4 * 2 + i % 2;
                float &score = scores[n][i];
                if constexpr (IS_CUT) score *= query_scales[i / 2] * shared.key_scales[key];
                if (first + key >= length) score = -INFINITY;
                largest_here[i / 2] = fmaxf(largest_here[i / 2], score);
            }
        }
        float shrinks[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            largest_here[half] = largest_of_lanes<4>(largest_here[half]);
            shrinks[half] = expf(largest_score[half] - largest_here[half]);
            largest_score[half] = largest_here[half];
            share_sum[half] *= shrinks[half];
        }
        unsigned shares[KEYS / 16][PIECES][4];
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float low = expf(scores[n][half * 2] - largest_score[half]);
                float high = expf(scores[n][half * 2 + 1] - largest_score[half]);
                share_sum[half] += low + high;
                unsigned(&here)[PIECES][4] = shares[n / 2];
                cut<T>(&here[0][n % 2 * 2 + half], &here[PIECES - 1][n % 2 * 2 + half], low, high,
                       SHARE_SCALE);
            }
        }
        // What they read.
        float unscaled = IS_CUT ? value_scale.inverse / SHARE_SCALE : 1.0f;
#pragma unroll
        for (int n = 0; n < WIDE; n += 2) {
            Sums here[2];
#pragma unroll
            for (int deep = 0; deep < KEYS / 16; deep++) {
                unsigned right[2][PIECES][2];
#pragma unroll
                for (int piece = 0; piece < PIECES; piece++) {
                    unsigned both[4];
                    load_turned_matrices(
                        both, shared.values.unit(deep * 16 + lane % 16, piece, n + lane / 16));
#pragma unroll
                    for (int i = 0; i < 4; i++) right[i / 2][piece][i % 2] = both[i];
                }
                here[0].add(T(), shares[deep], right[0]);
                here[1].add(T(), shares[deep], right[1]);
            }
#pragma unroll
            for (int i = 0; i < 8; i++) {
                float &sum = read[n + i / 4][i % 4];
                sum = fmaf(sum, shrinks[i % 4 / 2], here[i / 4].of(i % 4) * unscaled);
            }
        }
    }

#pragma unroll
    for (int half = 0; half < 2; half++) {
        unsigned step = first_query + half * 8 + lane / 4;
        float scale = 1.0f / sum_of_lanes<4>(share_sum[half]);
        if (step >= time) continue;
        T *into = out + (size_t(blockIdx.z) * time + step) * heads * width + head * width;
#pragma unroll
        for (int n = 0; n < WIDE; n++) {
            unsigned column = n * 8 + lane % 4 * 2;
            if (column >= width) continue;
            Pack<T, 2> both = {{of_float<T>(read[n][half * 2] * scale),
                                of_float<T>(read[n][half * 2 + 1] * scale)}};
            reinterpret_cast<Pack<T, 2> *>(into + column)[0] = both;
        }
    }
}

} // namespace attention

#define ATTEND(T, NAME, WIDTH)                                                                      \
    extern "C" __global__ void __launch_bounds__(attention::THREADS)                                \
        attend_##NAME##_##WIDTH(const T *x, const T *bias, const unsigned *lengths, T *out,         \
                                unsigned time, unsigned width) {                                    \
        extern __shared__ uint4 shared[];                                                           \
        attention::attend<T, WIDTH>(x, bias, lengths, out, time, width, shared);                    \
    }
#define ATTEND_ALL(WIDTH)                                                                           \
    ATTEND(float, f32, WIDTH)                                                                       \
    ATTEND(__half, f16, WIDTH)                                                                      \
    ATTEND(__nv_bfloat16, bf16, WIDTH)
ATTEND_ALL(32)
ATTEND_ALL(64)
ATTEND_ALL(128)

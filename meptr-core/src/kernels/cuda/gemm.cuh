// GEMM of f32 on tensor cores, each value as two f16 terms.
//
// A block computes `SIDE` x `SIDE` outputs, each of its warps `SIDE / 2` x 32. The depth is taken 32 at a
// time; the 32 values of a row share a scale. While one stage is multiplied, the next is split into terms
// in the other half of shared memory, and the one after it is being loaded.
#pragma once

#include "dtypes.cuh"
#include "f16_split.cuh"
#include "tensor_cores.cuh"

namespace gemm {

constexpr int DEPTH = 32;
constexpr int STEPS = DEPTH / 16; // multiplications of depth 16 per stage
constexpr int RIGHTS = 4;         // multiplications of 8 columns per warp

// Rows of an operand, 32 values deep: of each row 8 units of 8 f16 values, those of the first term, then
// of the second.
template <int SIDE> struct Tile {
    uint4 units[SIDE * 8];
    float scales[SIDE];

    // Swizzled: 8 rows have a unit in 8 different positions of 128 bytes, and so have two adjacent rows
    // four units, so that no two lanes access the same bank.
    __device__ __forceinline__ uint4 *unit(int row, int term, int index) {
        int swizzle = (row & 1) << 2 | (row >> 1 & 3);
        return &units[row * 8 + ((term * 4 + index) ^ swizzle)];
    }
};

template <int SIDE> struct Stage {
    Tile<SIDE> left, right;
};

// Part of an operand's rows that one of `2 SIDE` threads loads: of two rows, the same 8 of each 32
// values. The rows start at row `first`, `step` values apart; there are `rows` in all.
template <int SIDE> struct Source {
    const float *from[2];
    bool is_inside[2];

    __device__ __forceinline__ Source(const float *x, size_t step, unsigned first, unsigned rows) {
#pragma unroll
        for (int n = 0; n < 2; n++) {
            unsigned row = first + n * SIDE / 2 + threadIdx.x / 4;
            is_inside[n] = row < rows;
            from[n] = x + (is_inside[n] ? row * step : 0) + threadIdx.x % 4 * 8;
        }
    }

    // The depth is a multiple of 4.
    __device__ __forceinline__ Eight load(int n, unsigned start, unsigned depth) const {
        float4 low = make_float4(0, 0, 0, 0), high = low;
        unsigned at = start + threadIdx.x % 4 * 8;
        if (is_inside[n] && at < depth) {
            low = *reinterpret_cast<const float4 *>(from[n] + start);
            if (at + 4 < depth) high = *reinterpret_cast<const float4 *>(from[n] + start + 4);
        }
        return {{low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w}};
    }
};

template <int SIDE> __device__ __forceinline__ void store(Tile<SIDE> &tile, int n, const Eight &x) {
    int row = n * SIDE / 2 + threadIdx.x / 4, index = threadIdx.x % 4;
    Scale scale = scale_of(max_of_lanes<4>(max_abs(x)));
    SplitEight two = split_eight(x, scale.factor);
    *tile.unit(row, 0, index) = two.first;
    *tile.unit(row, 1, index) = two.second;
    if (index == 0) tile.scales[row] = scale.inverse;
}

// Accumulates 16 x 32 sums over one stage, and undoes the scales of their terms.
template <int SIDE>
__device__ __forceinline__ void multiply(float (&sums)[RIGHTS][4], Tile<SIDE> &left_tile, int row,
                                         const unsigned (&right)[2][STEPS][RIGHTS][2],
                                         const float (&scales)[RIGHTS][2]) {
    int lane = threadIdx.x % 32;
    unsigned left[2][STEPS][4];
#pragma unroll
    for (int term = 0; term < 2; term++) {
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            load_matrices(left[term][step],
                          left_tile.unit(row + lane % 16, term, step * 2 + lane / 16));
        }
    }
    float here[RIGHTS][4] = {};
    // Small products first: the smaller a sum is when it is truncated, the less is lost.
#pragma unroll
    for (int pass = 0; pass < 3; pass++) {
        int of_left = pass == 1, of_right = pass == 0;
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
#pragma unroll
            for (int n = 0; n < RIGHTS; n++) {
                multiply_add(__half(), here[n], left[of_left][step], right[of_right][step][n]);
            }
        }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float scale = left_tile.scales[row + half * 8 + lane / 4];
#pragma unroll
        for (int n = 0; n < RIGHTS; n++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float &sum = sums[n][half * 2 + i];
                sum = fmaf(here[n][half * 2 + i], scale * scales[n][i], sum);
            }
        }
    }
}

// `activation(x weight^T + bias) + residual` of each group; bias and residual may be null.
//
// - x: rows of `depth` values `x_step` apart, groups `x_group` apart; rows may overlap
// - weight: (groups, columns, depth), bias: (groups, columns)
// - residual, out: (rows, groups, columns)
//
// `depth`, `columns`, `x_step` and `x_group` are multiples of 4, addresses of 16. A grid of
// (columns / SIDE, rows / SIDE, groups), blocks of `2 SIDE`.
template <int SIDE>
__device__ __forceinline__ void gemm_tile(const float *x, const float *weight, const float *bias,
                                          const float *residual, float *out, unsigned rows,
                                          unsigned columns, unsigned depth, unsigned x_step,
                                          unsigned x_group, int activation, uint4 *shared) {
    constexpr int LEFTS = SIDE / 32; // multiplications of 16 rows per warp
    Stage<SIDE> *stages = reinterpret_cast<Stage<SIDE> *>(shared);
    unsigned group = blockIdx.z, first_row = blockIdx.y * SIDE, first_column = blockIdx.x * SIDE;
    Source<SIDE> left(x + size_t(group) * x_group, x_step, first_row, rows);
    Source<SIDE> right(weight + size_t(group) * columns * depth, depth, first_column, columns);
    // Loaded a whole stage ahead.
    Eight fetched[4];
    auto fetch = [&](int n, unsigned start) {
        fetched[n] = (n < 2 ? left : right).load(n % 2, start, depth);
    };
    auto split_into = [&](int n, Stage<SIDE> &stage) {
        store(n < 2 ? stage.left : stage.right, n % 2, fetched[n]);
    };

    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int warp_row = warp % 2 * (SIDE / 2), warp_column = warp / 2 * 32;
    float sums[LEFTS][RIGHTS][4] = {};
#pragma unroll
    for (int n = 0; n < 4; n++) {
        fetch(n, 0);
        split_into(n, stages[0]);
        fetch(n, DEPTH);
    }
    __syncthreads();
    for (unsigned start = 0, number = 0; start < depth; start += DEPTH, number++) {
        Stage<SIDE> &now = stages[number % 2], &next = stages[(number + 1) % 2];
        unsigned right_terms[2][STEPS][RIGHTS][2];
        float scales[RIGHTS][2];
#pragma unroll
        for (int n = 0; n < RIGHTS; n++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                scales[n][i] = now.right.scales[warp_column + n * 8 + lane % 4 * 2 + i];
            }
        }
#pragma unroll
        for (int term = 0; term < 2; term++) {
#pragma unroll
            for (int step = 0; step < STEPS; step++) {
#pragma unroll
                for (int n = 0; n < RIGHTS; n += 2) {
                    unsigned two[4];
                    int row = warp_column + n * 8 + lane / 16 * 8 + lane % 8;
                    load_matrices(two, now.right.unit(row, term, step * 2 + lane / 8 % 2));
                    right_terms[term][step][n][0] = two[0];
                    right_terms[term][step][n][1] = two[1];
                    right_terms[term][step][n + 1][0] = two[2];
                    right_terms[term][step][n + 1][1] = two[3];
                }
            }
        }
#pragma unroll
        for (int m = 0; m < LEFTS; m++) {
            multiply(sums[m], now.left, warp_row + m * 16, right_terms, scales);
#pragma unroll
            for (int n = m * 4 / LEFTS; n < (m + 1) * 4 / LEFTS; n++) {
                split_into(n, next);
                fetch(n, start + 2 * DEPTH);
            }
        }
        __syncthreads();
    }

    size_t step = size_t(gridDim.z) * columns;
#pragma unroll
    for (int m = 0; m < LEFTS; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            unsigned row = first_row + warp_row + m * 16 + half * 8 + lane / 4;
#pragma unroll
            for (int n = 0; n < RIGHTS; n++) {
                unsigned column = first_column + warp_column + n * 8 + lane % 4 * 2;
                if (row >= rows || column >= columns) continue;
                float2 here = make_float2(sums[m][n][half * 2], sums[m][n][half * 2 + 1]);
                size_t at = row * step + size_t(group) * columns + column;
                if (bias) {
                    const float *added = bias + size_t(group) * columns + column;
                    here.x += added[0];
                    here.y += added[1];
                }
                here.x = activated(here.x, activation);
                here.y = activated(here.y, activation);
                if (residual) {
                    float2 more = *reinterpret_cast<const float2 *>(residual + at);
                    here.x += more.x;
                    here.y += more.y;
                }
                *reinterpret_cast<float2 *>(out + at) = here;
            }
        }
    }
}

} // namespace gemm

// Large tiles, and small ones for GEMMs that leave most multiprocessors idle in large tiles.
#define GEMM(SIDE, BLOCKS)                                                                          \
    extern "C" __global__ void __launch_bounds__(2 * SIDE, BLOCKS)                                  \
        gemm_##SIDE(const float *x, const float *weight, const float *bias, const float *residual,  \
                    float *out, unsigned rows, unsigned columns, unsigned depth, unsigned x_step,   \
                    unsigned x_group, int activation) {                                             \
        extern __shared__ uint4 shared[];                                                           \
        gemm::gemm_tile<SIDE>(x, weight, bias, residual, out, rows, columns, depth, x_step,         \
                              x_group, activation, shared);                                         \
    }
GEMM(128, 1)
GEMM(64, 3)

// Tensor core instructions of one warp.
#pragma once

#include "dtypes.cuh"

// Loads four 8 x 8 matrices of 16-bit values from shared memory, as they lie or transposed. Lane `l`
// addresses row `l % 8` of matrix `l / 8`, and gets two adjacent values of row `l / 4` of each: columns
// `2 (l % 4)` and the next.
#define LOAD_MATRICES(NAME, TRANS)                                                                   \
    __device__ __forceinline__ void NAME(unsigned (&to)[4], const void *row) {                      \
        unsigned from = static_cast<unsigned>(__cvta_generic_to_shared(row));                       \
        asm volatile("ldmatrix.sync.aligned.m8n8.x4" TRANS ".shared.b16 {%0, %1, %2, %3}, [%4];"     \
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])                           \
                     : "r"(from)                                                                    \
                     : "memory");                                                                   \
    }
LOAD_MATRICES(load_matrices, "")
LOAD_MATRICES(load_transposed_matrices, ".trans")

// Accumulates the product of a 16 x 16 and a 16 x 8 matrix. Lane `l` holds, two adjacent values per
// register,
//
// - left: rows `l / 4` and `l / 4 + 8` of columns `2 (l % 4)`, then the same rows 8 columns further;
// - right, two registers: rows `2 (l % 4)` and `2 (l % 4) + 8` of column `l / 4`;
// - sums: columns `2 (l % 4)` and the next of row `l / 4`, then of row `l / 4 + 8`.
#define MULTIPLY_ADD(T, NAME)                                                                       \
    __device__ __forceinline__ void multiply_add(T, float (&sums)[4], const unsigned (&left)[4],    \
                                                 const unsigned *right) {                           \
        asm("mma.sync.aligned.m16n8k16.row.col.f32." NAME "." NAME ".f32 "                          \
            "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                       \
            : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])                            \
            : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1])); \
    }
MULTIPLY_ADD(__half, "f16")
MULTIPLY_ADD(__nv_bfloat16, "bf16")

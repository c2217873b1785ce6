// What one warp asks of the tensor cores, and the pieces that they multiply f32 in.
#pragma once

#include "numbers.cuh"

// Four matrices of 8 x 8 numbers of 16 bits from shared memory, each as it lies or turned over. Lane `l`
// names row `l % 8` of matrix `l / 8`, and gets two neighbours of row `l / 4` of each: numbers
// `2 (l % 4)` and the next.
#define LOAD_MATRICES(NAME, TURN)                                                                   \
    __device__ __forceinline__ void NAME(unsigned (&to)[4], const void *row) {                      \
        unsigned from = static_cast<unsigned>(__cvta_generic_to_shared(row));                       \
        asm volatile("ldmatrix.sync.aligned.m8n8.x4" TURN ".shared.b16 {%0, %1, %2, %3}, [%4];"     \
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])                           \
                     : "r"(from)                                                                    \
                     : "memory");                                                                   \
    }
LOAD_MATRICES(load_matrices, "")
LOAD_MATRICES(load_turned_matrices, ".trans")

// Adds the product of 16 x 16 and 16 x 8 numbers. Lane `l` holds, in two neighbours a register,
//
// - left: rows `l / 4` and 8 further, of columns `2 (l % 4)`, then the same rows 8 columns further;
// - right, two registers: rows `2 (l % 4)` and 8 further, of column `l / 4`;
// - sums: columns `2 (l % 4)` and the next of row `l / 4`, then of the row 8 further.
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

// Data types: kernels load and store float, half or bf16, and compute in float.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ __half from_float<__half>(float x) { return __float2half_rn(x); }
template <> __device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
    return __float2bfloat16_rn(x);
}

// Values of one vector load.
template <typename T, int COUNT> struct alignas(sizeof(T) * COUNT) Pack { T values[COUNT]; };

// As `activation_code` in `launch.rs`.
enum Activation { NONE = 0, GELU = 1, QUICK_GELU = 2 };

__device__ __forceinline__ float activated(float x, int activation) {
    switch (activation) {
    case GELU: return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
    case QUICK_GELU: return x / (1.0f + expf(-1.702f * x));
    default: return x;
    }
}

// Sum over `LANES` adjacent lanes of a warp.
template <int LANES> __device__ __forceinline__ float sum_of_lanes(float x) {
#pragma unroll
    for (int step = LANES / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

// Maximum over `LANES` adjacent lanes of a warp.
template <int LANES> __device__ __forceinline__ float max_of_lanes(float x) {
#pragma unroll
    for (int step = LANES / 2; step > 0; step /= 2) {
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
    }
    return x;
}

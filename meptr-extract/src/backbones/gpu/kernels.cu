// What stands between the matrix products of the frozen backbones, each in one pass over memory.
//
// Every kernel exists for float, __half and __nv_bfloat16 (suffixes f32, f16, bf16) and computes in
// float. Sizes are checked by the callers, in mod.rs, where each kernel's shapes are stated.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace {

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T> __device__ __forceinline__ T of_float(float x);
template <> __device__ __forceinline__ float of_float<float>(float x) { return x; }
template <> __device__ __forceinline__ __half of_float<__half>(float x) { return __float2half_rn(x); }
template <> __device__ __forceinline__ __nv_bfloat16 of_float<__nv_bfloat16>(float x) {
    return __float2bfloat16_rn(x);
}

// As many numbers as a thread reads at a time.
template <typename T, int COUNT> struct alignas(sizeof(T) * COUNT) Pack { T numbers[COUNT]; };

enum Activation { NONE = 0, GELU = 1, QUICK_GELU = 2 };

__device__ __forceinline__ float activated(float x, int activation) {
    switch (activation) {
    case GELU: return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
    case QUICK_GELU: return x / (1.0f + expf(-1.702f * x));
    default: return x;
    }
}

__device__ __forceinline__ float sum_of_warp(float x) {
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

__device__ __forceinline__ float largest_of_warp(float x) {
    for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
    return x;
}

template <typename T, int COUNT>
__device__ void add_bias(T *x, const T *bias, int activation, unsigned packs, unsigned columns) {
    using Packed = Pack<T, COUNT>;
    unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= packs) return;
    Packed here = reinterpret_cast<Packed *>(x)[at];
    Packed added = reinterpret_cast<const Packed *>(bias)[at % columns];
    for (int n = 0; n < COUNT; n++) {
        float sum = to_float(here.numbers[n]) + to_float(added.numbers[n]);
        here.numbers[n] = of_float<T>(activated(sum, activation));
    }
    reinterpret_cast<Packed *>(x)[at] = here;
}

template <typename T, int COUNT>
__device__ void add_residual(T *x, const T *bias, const T *residual, unsigned packs,
                             unsigned columns) {
    using Packed = Pack<T, COUNT>;
    unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= packs) return;
    Packed here = reinterpret_cast<Packed *>(x)[at];
    Packed added = reinterpret_cast<const Packed *>(bias)[at % columns];
    Packed more = reinterpret_cast<const Packed *>(residual)[at];
    for (int n = 0; n < COUNT; n++) {
        float sum = to_float(here.numbers[n]) + to_float(added.numbers[n]);
        here.numbers[n] = of_float<T>(sum + to_float(more.numbers[n]));
    }
    reinterpret_cast<Packed *>(x)[at] = here;
}

// Turns two dimensions over: (outer, first, second, inner) to (outer, kept, first, inner), of the
// second one only the first `kept`.
template <typename T, int COUNT>
__device__ void swap_middle(const T *x, T *out, unsigned packs, unsigned first, unsigned second,
                            unsigned kept, unsigned inner) {
    using Packed = Pack<T, COUNT>;
    unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= packs) return;
    unsigned i = at % inner, rest = at / inner;
    unsigned a = rest % first;
    rest /= first;
    unsigned b = rest % kept, outer = rest / kept;
    unsigned from = ((outer * first + a) * second + b) * inner + i;
    reinterpret_cast<Packed *>(out)[at] = reinterpret_cast<const Packed *>(x)[from];
}

// (batch, time, 3, heads, inner) plus bias (3, heads, inner) to (3, batch, heads, padded, inner); steps
// from `time` on are 0.
template <typename T, int COUNT>
__device__ void split_heads(const T *x, const T *bias, T *out, unsigned packs, unsigned batch,
                            unsigned time, unsigned padded, unsigned heads, unsigned inner) {
    using Packed = Pack<T, COUNT>;
    unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= packs) return;
    unsigned i = at % inner, rest = at / inner;
    unsigned step = rest % padded;
    rest /= padded;
    unsigned head = rest % heads;
    rest /= heads;
    unsigned row = rest % batch, part = rest / batch;
    unsigned column = (part * heads + head) * inner + i;
    Packed here;
    for (int n = 0; n < COUNT; n++) here.numbers[n] = of_float<T>(0.0f);
    if (step < time) {
        size_t from = size_t(row * time + step) * 3 * heads * inner + column;
        here = reinterpret_cast<const Packed *>(x)[from];
        Packed added = reinterpret_cast<const Packed *>(bias)[column];
        for (int n = 0; n < COUNT; n++) {
            here.numbers[n] = of_float<T>(to_float(here.numbers[n]) + to_float(added.numbers[n]));
        }
    }
    reinterpret_cast<Packed *>(out)[at] = here;
}

// Windows of (steps, groups, inner), each group's (count, kernel, inner) side by side.
template <typename T, int COUNT>
__device__ void windows(const T *x, T *out, unsigned packs, unsigned groups, unsigned count,
                        unsigned kernel, unsigned stride, unsigned inner) {
    using Packed = Pack<T, COUNT>;
    unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= packs) return;
    unsigned i = at % inner, rest = at / inner;
    unsigned k = rest % kernel;
    rest /= kernel;
    unsigned window = rest % count, group = rest / count;
    unsigned from = ((window * stride + k) * groups + group) * inner + i;
    reinterpret_cast<Packed *>(out)[at] = reinterpret_cast<const Packed *>(x)[from];
}

// One warp a row, which stays in the first-level cache between the passes. Row `r` is number
// `first + r` of rows of which `rows_each` in a row have one length; beyond it they become 0.
template <typename T, int COUNT>
__device__ void softmax(T *x, const unsigned *lengths, unsigned first, unsigned rows,
                        unsigned rows_each, unsigned packs) {
    using Packed = Pack<T, COUNT>;
    unsigned row = (blockIdx.x * blockDim.x + threadIdx.x) / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    Packed *numbers = reinterpret_cast<Packed *>(x) + size_t(row) * packs;
    unsigned length = lengths[(first + row) / rows_each];
    float largest = -INFINITY, sum = 0.0f;
    for (unsigned at = lane; at < packs; at += 32) {
        Packed here = numbers[at];
        for (int n = 0; n < COUNT; n++) {
            if (at * COUNT + n < length) largest = fmaxf(largest, to_float(here.numbers[n]));
        }
    }
    largest = largest_of_warp(largest);
    for (unsigned at = lane; at < packs; at += 32) {
        Packed here = numbers[at];
        for (int n = 0; n < COUNT; n++) {
            if (at * COUNT + n < length) sum += expf(to_float(here.numbers[n]) - largest);
        }
    }
    float scale = 1.0f / sum_of_warp(sum);
    for (unsigned at = lane; at < packs; at += 32) {
        Packed here = numbers[at];
        for (int n = 0; n < COUNT; n++) {
            float share = expf(to_float(here.numbers[n]) - largest) * scale;
            here.numbers[n] = of_float<T>(at * COUNT + n < length ? share : 0.0f);
        }
        numbers[at] = here;
    }
}

template <typename T, int COUNT>
__device__ void layer_norm(const T *x, const T *weight, const T *bias, T *out, unsigned rows,
                           unsigned packs, float eps, int activation) {
    using Packed = Pack<T, COUNT>;
    unsigned row = (blockIdx.x * blockDim.x + threadIdx.x) / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    const Packed *from = reinterpret_cast<const Packed *>(x) + size_t(row) * packs;
    Packed *into = reinterpret_cast<Packed *>(out) + size_t(row) * packs;
    float sum = 0.0f, squares = 0.0f, width = packs * COUNT;
    for (unsigned at = lane; at < packs; at += 32) {
        Packed here = from[at];
        for (int n = 0; n < COUNT; n++) sum += to_float(here.numbers[n]);
    }
    float mean = sum_of_warp(sum) / width;
    for (unsigned at = lane; at < packs; at += 32) {
        Packed here = from[at];
        for (int n = 0; n < COUNT; n++) {
            float off = to_float(here.numbers[n]) - mean;
            squares += off * off;
        }
    }
    float scale = rsqrtf(sum_of_warp(squares) / width + eps);
    for (unsigned at = lane; at < packs; at += 32) {
        Packed here = from[at];
        Packed weights = reinterpret_cast<const Packed *>(weight)[at];
        Packed added = reinterpret_cast<const Packed *>(bias)[at];
        for (int n = 0; n < COUNT; n++) {
            float normed = (to_float(here.numbers[n]) - mean) * scale;
            normed = normed * to_float(weights.numbers[n]) + to_float(added.numbers[n]);
            here.numbers[n] = of_float<T>(activated(normed, activation));
        }
        into[at] = here;
    }
}

} // namespace

// Wide forms read 16 bytes at a time, narrow ones one number; sizes of the innermost dimension
// count in these.
#define FOR_TYPE_AND_COUNT(T, NAME, COUNT)                                                          \
    extern "C" __global__ void add_bias_##NAME(T *x, const T *bias, int activation, unsigned packs, \
                                               unsigned columns) {                                  \
        add_bias<T, COUNT>(x, bias, activation, packs, columns);                                    \
    }                                                                                               \
    extern "C" __global__ void add_residual_##NAME(T *x, const T *bias, const T *residual,          \
                                                   unsigned packs, unsigned columns) {              \
        add_residual<T, COUNT>(x, bias, residual, packs, columns);                                  \
    }                                                                                               \
    extern "C" __global__ void swap_middle_##NAME(const T *x, T *out, unsigned packs,               \
                                                  unsigned first, unsigned second, unsigned kept,   \
                                                  unsigned inner) {                                 \
        swap_middle<T, COUNT>(x, out, packs, first, second, kept, inner);                           \
    }                                                                                               \
    extern "C" __global__ void split_heads_##NAME(const T *x, const T *bias, T *out,                \
                                                  unsigned packs, unsigned batch, unsigned time,    \
                                                  unsigned padded, unsigned heads,                  \
                                                  unsigned inner) {                                 \
        split_heads<T, COUNT>(x, bias, out, packs, batch, time, padded, heads, inner);              \
    }                                                                                               \
    extern "C" __global__ void windows_##NAME(const T *x, T *out, unsigned packs, unsigned groups,  \
                                              unsigned count, unsigned kernel, unsigned stride,     \
                                              unsigned inner) {                                     \
        windows<T, COUNT>(x, out, packs, groups, count, kernel, stride, inner);                     \
    }                                                                                               \
    extern "C" __global__ void softmax_##NAME(T *x, const unsigned *lengths, unsigned first,        \
                                              unsigned rows, unsigned rows_each, unsigned packs) {  \
        softmax<T, COUNT>(x, lengths, first, rows, rows_each, packs);                               \
    }                                                                                               \
    extern "C" __global__ void layer_norm_##NAME(const T *x, const T *weight, const T *bias,        \
                                                 T *out, unsigned rows, unsigned packs, float eps,  \
                                                 int activation) {                                  \
        layer_norm<T, COUNT>(x, weight, bias, out, rows, packs, eps, activation);                   \
    }

#define FOR_TYPE(T, NAME)                                                                           \
    FOR_TYPE_AND_COUNT(T, NAME##_wide, (16 / sizeof(T)))                                            \
    FOR_TYPE_AND_COUNT(T, NAME##_narrow, 1)

FOR_TYPE(float, f32)
FOR_TYPE(__half, f16)
FOR_TYPE(__nv_bfloat16, bf16)

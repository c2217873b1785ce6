// Translation unit of all kernels. This file itself has the operations between the GEMMs of the frozen
// backbones, each in one pass over memory.
//
// Each of these exists for float, __half and __nv_bfloat16 (suffixes f32, f16, bf16) and computes in
// float. The Rust callers in `elementwise.rs` check sizes and state the shapes.

#include "attention.cuh"
#include "dtypes.cuh"
#include "gemm.cuh"
#include "resize.cuh"

namespace {

template <typename T, int COUNT>
__device__ void add_bias(T *x, const T *bias, int activation, unsigned packs, unsigned columns) {
    using Packed = Pack<T, COUNT>;
    unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= packs) return;
    Packed here = reinterpret_cast<Packed *>(x)[at];
    Packed added = reinterpret_cast<const Packed *>(bias)[at % columns];
    for (int n = 0; n < COUNT; n++) {
        float sum = to_float(here.values[n]) + to_float(added.values[n]);
        here.values[n] = from_float<T>(activated(sum, activation));
    }
    reinterpret_cast<Packed *>(x)[at] = here;
}

template <typename T, int COUNT>
__device__ void add_bias_residual(T *x, const T *bias, const T *residual, unsigned packs,
                             unsigned columns) {
    using Packed = Pack<T, COUNT>;
    unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= packs) return;
    Packed here = reinterpret_cast<Packed *>(x)[at];
    Packed added = reinterpret_cast<const Packed *>(bias)[at % columns];
    Packed more = reinterpret_cast<const Packed *>(residual)[at];
    for (int n = 0; n < COUNT; n++) {
        float sum = to_float(here.values[n]) + to_float(added.values[n]);
        here.values[n] = from_float<T>(sum + to_float(more.values[n]));
    }
    reinterpret_cast<Packed *>(x)[at] = here;
}

// Transposes the middle dimensions: (outer, first, second, inner) to (outer, second, first, inner).
template <typename T, int COUNT>
__device__ void transpose_12(const T *x, T *out, unsigned packs, unsigned first, unsigned second,
                            unsigned inner) {
    using Packed = Pack<T, COUNT>;
    unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= packs) return;
    unsigned i = at % inner, rest = at / inner;
    unsigned a = rest % first;
    rest /= first;
    unsigned b = rest % second, outer = rest / second;
    unsigned from = ((outer * first + a) * second + b) * inner + i;
    reinterpret_cast<Packed *>(out)[at] = reinterpret_cast<const Packed *>(x)[from];
}

// im2col of (steps, groups, inner): each group's windows, (count, kernel, inner).
template <typename T, int COUNT>
__device__ void im2col_1d(const T *x, T *out, unsigned packs, unsigned groups, unsigned count,
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

// One warp per row, which stays in the first-level cache between the passes.
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
        for (int n = 0; n < COUNT; n++) sum += to_float(here.values[n]);
    }
    float mean = sum_of_lanes<32>(sum) / width;
    for (unsigned at = lane; at < packs; at += 32) {
        Packed here = from[at];
        for (int n = 0; n < COUNT; n++) {
            float off = to_float(here.values[n]) - mean;
            squares += off * off;
        }
    }
    float scale = rsqrtf(sum_of_lanes<32>(squares) / width + eps);
    for (unsigned at = lane; at < packs; at += 32) {
        Packed here = from[at];
        Packed weights = reinterpret_cast<const Packed *>(weight)[at];
        Packed added = reinterpret_cast<const Packed *>(bias)[at];
        for (int n = 0; n < COUNT; n++) {
            float normed = (to_float(here.values[n]) - mean) * scale;
            normed = normed * to_float(weights.values[n]) + to_float(added.values[n]);
            here.values[n] = from_float<T>(activated(normed, activation));
        }
        into[at] = here;
    }
}

} // namespace

// Wide forms access 16 bytes at a time, narrow ones one value; sizes of the innermost dimension count
// these accesses.
#define FOR_TYPE_AND_COUNT(T, NAME, COUNT)                                                          \
    extern "C" __global__ void add_bias_##NAME(T *x, const T *bias, int activation, unsigned packs, \
                                               unsigned columns) {                                  \
        add_bias<T, COUNT>(x, bias, activation, packs, columns);                                    \
    }                                                                                               \
    extern "C" __global__ void add_bias_residual_##NAME(T *x, const T *bias, const T *residual,          \
                                                   unsigned packs, unsigned columns) {              \
        add_bias_residual<T, COUNT>(x, bias, residual, packs, columns);                                  \
    }                                                                                               \
    extern "C" __global__ void transpose_12_##NAME(const T *x, T *out, unsigned packs,               \
                                                  unsigned first, unsigned second,                  \
                                                  unsigned inner) {                                 \
        transpose_12<T, COUNT>(x, out, packs, first, second, inner);                                 \
    }                                                                                               \
    extern "C" __global__ void im2col_1d_##NAME(const T *x, T *out, unsigned packs, unsigned groups,  \
                                              unsigned count, unsigned kernel, unsigned stride,     \
                                              unsigned inner) {                                     \
        im2col_1d<T, COUNT>(x, out, packs, groups, count, kernel, stride, inner);                     \
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

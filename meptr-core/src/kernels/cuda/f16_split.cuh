// Splits f32 into two f16 terms, for tensor cores.
//
// Values that share a scale (32 depths of a row, say) are multiplied with a power of two, so that the
// largest is 2^14 to 2^15. The first term is the scaled value rounded to f16, the second the remainder
// rounded to f16. Each has 11 bits and a sign, so their sum is exact to 2^-24 of the value, or to 2^-40 of
// the largest one. A product takes three products of terms; the fourth, of the two small terms, is below
// 2^-24 of it. Values that are not finite give NaN.
//
// The tensor cores truncate sums instead of rounding them. They get short sums only, which are
// accumulated outside of them.
#pragma once

#include "dtypes.cuh"

// Eight adjacent values of a row.
struct Eight {
    float values[8];
};

// Largest magnitude.
__device__ __forceinline__ float max_abs(const Eight &x) {
    float most = 0.0f;
#pragma unroll
    for (int n = 0; n < 8; n++) most = fmaxf(most, fabsf(x.values[n]));
    return most;
}

// A power of two and its inverse.
struct Scale {
    float factor, inverse;
};

// Scale that brings a magnitude to 2^14 or more, below 2^15.
__device__ __forceinline__ Scale scale_of(float magnitude) {
    unsigned exponent = __float_as_uint(magnitude) >> 23;
    if (exponent < 15) exponent = 15; // below 2^-112, the limit of the inverse
    return {__uint_as_float((268 - exponent) << 23), __uint_as_float((exponent - 14) << 23)};
}

// Two terms of two adjacent values, two f16 per word.
struct SplitPair {
    unsigned first, second;
};

__device__ __forceinline__ unsigned bits(__half2 x) { return *reinterpret_cast<unsigned *>(&x); }

__device__ __forceinline__ SplitPair split(float x, float y, float factor) {
    x *= factor;
    y *= factor;
    __half2 first = __floats2half2_rn(x, y);
    float2 back = __half22float2(first);
    return {bits(first), bits(__floats2half2_rn(x - back.x, y - back.y))};
}

// Two terms of eight values, 16 bytes each.
struct SplitEight {
    uint4 first, second;
};

__device__ __forceinline__ SplitEight split_eight(const Eight &x, float factor) {
    SplitPair two[4];
#pragma unroll
    for (int n = 0; n < 4; n++) two[n] = split(x.values[2 * n], x.values[2 * n + 1], factor);
    return {make_uint4(two[0].first, two[1].first, two[2].first, two[3].first),
            make_uint4(two[0].second, two[1].second, two[2].second, two[3].second)};
}

// f32 as two pieces of f16, for tensor cores.
//
// Numbers that share a power of two as their scale (a piece of a row, say) are multiplied with it, so that
// the largest is 2^14 to 2^15; the first piece is that rounded to f16, the second what is left, rounded
// to f16. Both have 11 bits and a sign, so together they are the number to 2^-24 of itself, or to 2^-40
// of the largest one. A product takes three products of pieces; the fourth, of the two small ones, is
// below 2^-24 of it. Of numbers that are not finite NaN comes out.
//
// The tensor cores cut sums off instead of rounding them, so that they are given short sums only, which
// are added up outside of them.
#pragma once

#include "numbers.cuh"

// Eight neighbours of a row.
struct Eight {
    float numbers[8];
};

__device__ __forceinline__ float largest(const Eight &x) {
    float most = 0.0f;
#pragma unroll
    for (int n = 0; n < 8; n++) most = fmaxf(most, fabsf(x.numbers[n]));
    return most;
}

// A power of two and its inverse.
struct Scale {
    float factor, inverse;
};

// That brings a number of this size to 2^14 or more, below 2^15.
__device__ __forceinline__ Scale scale_of(float largest) {
    unsigned exponent = __float_as_uint(largest) >> 23;
    if (exponent < 15) exponent = 15; // below 2^-112: what the inverse can still be
    return {__uint_as_float((268 - exponent) << 23), __uint_as_float((exponent - 14) << 23)};
}

// Two neighbours' pieces.
struct TwoPieces {
    unsigned first, second;
};

__device__ __forceinline__ unsigned bits(__half2 x) { return *reinterpret_cast<unsigned *>(&x); }

__device__ __forceinline__ TwoPieces pieces(float x, float y, float factor) {
    x *= factor;
    y *= factor;
    __half2 first = __floats2half2_rn(x, y);
    float2 back = __half22float2(first);
    return {bits(first), bits(__floats2half2_rn(x - back.x, y - back.y))};
}

// The pieces of eight numbers, 16 bytes of each.
struct TwoUnits {
    uint4 first, second;
};

__device__ __forceinline__ TwoUnits units(const Eight &x, float factor) {
    TwoPieces two[4];
#pragma unroll
    for (int n = 0; n < 4; n++) two[n] = pieces(x.numbers[2 * n], x.numbers[2 * n + 1], factor);
    return {make_uint4(two[0].first, two[1].first, two[2].first, two[3].first),
            make_uint4(two[0].second, two[1].second, two[2].second, two[3].second)};
}

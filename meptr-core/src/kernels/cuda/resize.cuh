// Pictures of 8 bits to the inputs of networks, in the whole numbers that Pillow and OpenCV compute
// with, so that the results equal the processor's bit for bit.
#pragma once

namespace pictures {

// A part of a frame on its way to CLIP, as the host writes it into a table of u32.
struct Part {
    unsigned frame[2]; // address of the frame's pixels, 3 bytes each
    unsigned frame_width, left, top;
    unsigned narrowed[2];          // where its narrowed rows begin
    unsigned first_row, rows;      // that are narrowed, of the part
    unsigned columns, lines;       // of the result
    unsigned margins[2];           // left and above of it, black
    unsigned across, down;         // where the taps lie in the table
    unsigned most_across, most_down; // weights that are kept of each
};

__device__ __forceinline__ size_t wide(const unsigned (&halves)[2]) {
    return size_t(halves[1]) << 32 | halves[0];
}

// Taps of one axis in the table: start and count of each, then `most` weights of each.
struct Taps {
    const unsigned *first;
    const int *weights;
    unsigned count;

    __device__ __forceinline__ Taps(const unsigned *table, unsigned axis, unsigned all,
                                    unsigned most, unsigned at)
        : first(table + axis + 2 * at), weights(reinterpret_cast<const int *>(table) + axis + 2 * all
                                                + at * most),
          count(first[1]) {}
};

// A sum of weights with 22 bits behind the point, to a byte.
__device__ __forceinline__ unsigned char rounded(int sum) {
    return static_cast<unsigned char>(min(max((sum + (1 << 21)) >> 22, 0), 255));
}

// One of the four pixels around a sampling position.
struct Pair {
    unsigned first, second, weights[2];
};

enum Blending { SHARES_OF_32 = 0, SHARES_OF_2048 = 1, MEAN = 2 };
constexpr unsigned OUTSIDE = 0xffffffffu;

__device__ __forceinline__ unsigned char blended(const int (&corners)[4], const Pair &column,
                                                 const Pair &row, int blending) {
    int across[2] = {int(column.weights[0]), int(column.weights[1])};
    int down[2] = {int(row.weights[0]), int(row.weights[1])};
    int upper = corners[0] * across[0] + corners[1] * across[1];
    int lower = corners[2] * across[0] + corners[3] * across[1];
    switch (blending) {
    case SHARES_OF_32: return static_cast<unsigned char>((upper * down[0] + lower * down[1] + 512) / 1024);
    case SHARES_OF_2048:
        return static_cast<unsigned char>(
            ((down[0] * (upper >> 4) >> 16) + (down[1] * (lower >> 4) >> 16) + 2) >> 2);
    default:
        return static_cast<unsigned char>((corners[0] + corners[1] + corners[2] + corners[3] + 2) >> 2);
    }
}

} // namespace pictures

// The pass across of all parts. A grid of (rows * columns / 256, parts).
extern "C" __global__ void narrow_parts(const unsigned *table, unsigned char *narrowed) {
    using namespace pictures;
    const Part &part = reinterpret_cast<const Part *>(table)[blockIdx.y];
    unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= part.rows * part.columns) return;
    unsigned x = at % part.columns, row = at / part.columns + part.first_row;
    Taps taps(table, part.across, part.columns, part.most_across, x);
    const unsigned char *pixels = reinterpret_cast<const unsigned char *>(wide(part.frame));
    pixels += (size_t(part.top + row) * part.frame_width + part.left + taps.first[0]) * 3;
    int sums[3] = {};
    for (unsigned n = 0; n < taps.count; n++) {
        for (int c = 0; c < 3; c++) sums[c] += pixels[n * 3 + c] * taps.weights[n];
    }
    unsigned char *into = narrowed + wide(part.narrowed) + size_t(at) * 3;
    for (int c = 0; c < 3; c++) into[c] = rounded(sums[c]);
}

// The pass down of all parts, and the network's number of each byte: (parts, 3, height, width).
// `values` (3, 256) are bits of floats in the table. A grid of (height * width / 256, parts).
extern "C" __global__ void lower_parts(const unsigned *table, const unsigned char *narrowed,
                                       float *out, unsigned values, unsigned width,
                                       unsigned height) {
    using namespace pictures;
    const Part &part = reinterpret_cast<const Part *>(table)[blockIdx.y];
    unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= width * height) return;
    unsigned x = at % width - part.margins[0], y = at / width - part.margins[1]; // wraps in a margin
    unsigned char bytes[3] = {};
    if (x < part.columns && y < part.lines) {
        Taps taps(table, part.down, part.lines, part.most_down, y);
        size_t first = size_t(taps.first[0] - part.first_row) * part.columns + x;
        const unsigned char *pixels = narrowed + wide(part.narrowed) + first * 3;
        int sums[3] = {};
        for (unsigned n = 0; n < taps.count; n++) {
            for (int c = 0; c < 3; c++) {
                sums[c] += pixels[size_t(n) * part.columns * 3 + c] * taps.weights[n];
            }
        }
        for (int c = 0; c < 3; c++) bytes[c] = rounded(sums[c]);
    }
    for (unsigned c = 0; c < 3; c++) {
        size_t into = (size_t(blockIdx.y) * 3 + c) * width * height + at;
        out[into] = __uint_as_float(table[values + c * 256 + bytes[c]]);
    }
}

// A picture of (height, width, 3) bytes sampled from a frame: of each column and then of each row
// the two pixels around it in `pairs`; `fill` where one of the two has none.
extern "C" __global__ void sample_pairs(const unsigned char *frame, const unsigned *pairs,
                                        unsigned char *out, unsigned frame_width, unsigned width,
                                        unsigned height, unsigned fill, int blending) {
    using namespace pictures;
    unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= width * height) return;
    const Pair &column = reinterpret_cast<const Pair *>(pairs)[at % width];
    const Pair &row = reinterpret_cast<const Pair *>(pairs)[width + at / width];
    bool is_outside = column.first == OUTSIDE || row.first == OUTSIDE;
    for (int c = 0; c < 3; c++) {
        unsigned char byte = static_cast<unsigned char>(fill);
        if (!is_outside) {
            auto pixel = [&](unsigned y, unsigned x) {
                return int(frame[(size_t(y) * frame_width + x) * 3 + c]);
            };
            int corners[4] = {pixel(row.first, column.first), pixel(row.first, column.second),
                              pixel(row.second, column.first), pixel(row.second, column.second)};
            byte = blended(corners, column, row, blending);
        }
        out[size_t(at) * 3 + c] = byte;
    }
}

// Resizing and sampling of 8-bit images in the integer arithmetic of Pillow and OpenCV, so that results
// equal the CPU's bit for bit.
#pragma once

namespace resize {

// A crop of an image, as the host writes it into a table of u32 (`crop_table` in resize.rs).
struct Crop {
    unsigned frame[2];               // address of the image's pixels, 3 bytes each
    unsigned frame_width, left, top; // pixels of an image row; first column and row of the crop
    unsigned narrowed[2];            // offset of its rows between the passes
    unsigned first_row, rows;        // rows of the crop that the pass down reads
    unsigned columns, lines;         // of the result
    unsigned margins[2];             // black columns before and rows above the result
    unsigned across, down;           // indices of the taps in the table
    unsigned most_across, most_down; // weights stored per tap
};

__device__ __forceinline__ size_t wide(const unsigned (&halves)[2]) {
    return size_t(halves[1]) << 32 | halves[0];
}

// One tap of an axis in the table: start and count of all taps come first, then `most` weights each.
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

// Rounds a sum with 22 fraction bits to a byte.
__device__ __forceinline__ unsigned char rounded(int sum) {
    return static_cast<unsigned char>(min(max((sum + (1 << 21)) >> 22, 0), 255));
}

// Two pixels along an axis around a sampling position, and their weights.
struct BilinearTap {
    unsigned first, second, weights[2];
};

// As `Blending` in bilinear.rs.
enum Blending { WEIGHTS_32 = 0, WEIGHTS_2048 = 1, MEAN = 2 };
constexpr unsigned OUTSIDE = 0xffffffffu;

__device__ __forceinline__ unsigned char blend(const int (&corners)[4], const BilinearTap &column,
                                               const BilinearTap &row, int blending) {
    int across[2] = {int(column.weights[0]), int(column.weights[1])};
    int down[2] = {int(row.weights[0]), int(row.weights[1])};
    int upper = corners[0] * across[0] + corners[1] * across[1];
    int lower = corners[2] * across[0] + corners[3] * across[1];
    switch (blending) {
    case WEIGHTS_32: return static_cast<unsigned char>((upper * down[0] + lower * down[1] + 512) / 1024);
    case WEIGHTS_2048:
        return static_cast<unsigned char>(
            ((down[0] * (upper >> 4) >> 16) + (down[1] * (lower >> 4) >> 16) + 2) >> 2);
    default:
        return static_cast<unsigned char>((corners[0] + corners[1] + corners[2] + corners[3] + 2) >> 2);
    }
}

} // namespace resize

// Pass across of all crops. A grid of (rows * columns / 256, crops).
extern "C" __global__ void resize_across(const unsigned *table, unsigned char *narrowed) {
    using namespace resize;
    const Crop &crop = reinterpret_cast<const Crop *>(table)[blockIdx.y];
    unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= crop.rows * crop.columns) return;
    unsigned x = at % crop.columns, row = at / crop.columns + crop.first_row;
    Taps taps(table, crop.across, crop.columns, crop.most_across, x);
    const unsigned char *pixels = reinterpret_cast<const unsigned char *>(wide(crop.frame));
    pixels += (size_t(crop.top + row) * crop.frame_width + crop.left + taps.first[0]) * 3;
    int sums[3] = {};
    for (unsigned n = 0; n < taps.count; n++) {
        for (int c = 0; c < 3; c++) sums[c] += pixels[n * 3 + c] * taps.weights[n];
    }
    unsigned char *into = narrowed + wide(crop.narrowed) + size_t(at) * 3;
    for (int c = 0; c < 3; c++) into[c] = rounded(sums[c]);
}

// Pass down of all crops, and the network's input value of each byte: (crops, 3, height, width).
// `values` is the index of (3, 256) floats in the table. A grid of (height * width / 256, crops).
extern "C" __global__ void resize_down(const unsigned *table, const unsigned char *narrowed,
                                       float *out, unsigned values, unsigned width,
                                       unsigned height) {
    using namespace resize;
    const Crop &crop = reinterpret_cast<const Crop *>(table)[blockIdx.y];
    unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= width * height) return;
    unsigned x = at % width - crop.margins[0], y = at / width - crop.margins[1]; // wraps in a margin
    unsigned char bytes[3] = {};
    if (x < crop.columns && y < crop.lines) {
        Taps taps(table, crop.down, crop.lines, crop.most_down, y);
        size_t first = size_t(taps.first[0] - crop.first_row) * crop.columns + x;
        const unsigned char *pixels = narrowed + wide(crop.narrowed) + first * 3;
        int sums[3] = {};
        for (unsigned n = 0; n < taps.count; n++) {
            for (int c = 0; c < 3; c++) {
                sums[c] += pixels[size_t(n) * crop.columns * 3 + c] * taps.weights[n];
            }
        }
        for (int c = 0; c < 3; c++) bytes[c] = rounded(sums[c]);
    }
    for (unsigned c = 0; c < 3; c++) {
        size_t into = (size_t(blockIdx.y) * 3 + c) * width * height + at;
        out[into] = __uint_as_float(table[values + c * 256 + bytes[c]]);
    }
}

// Samples an image of (height, width, 3) bytes from a frame. `taps` holds a tap of each column, then of
// each row; pixels outside the frame get `fill`.
extern "C" __global__ void sample_bilinear(const unsigned char *frame, const unsigned *taps,
                                           unsigned char *out, unsigned frame_width, unsigned width,
                                           unsigned height, unsigned fill, int blending) {
    using namespace resize;
    unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= width * height) return;
    const BilinearTap &column = reinterpret_cast<const BilinearTap *>(taps)[at % width];
    const BilinearTap &row = reinterpret_cast<const BilinearTap *>(taps)[width + at / width];
    bool is_outside = column.first == OUTSIDE || row.first == OUTSIDE;
    for (int c = 0; c < 3; c++) {
        unsigned char byte = static_cast<unsigned char>(fill);
        if (!is_outside) {
            auto pixel = [&](unsigned y, unsigned x) {
                return int(frame[(size_t(y) * frame_width + x) * 3 + c]);
            };
            int corners[4] = {pixel(row.first, column.first), pixel(row.first, column.second),
                              pixel(row.second, column.first), pixel(row.second, column.second)};
            byte = blend(corners, column, row, blending);
        }
        out[size_t(at) * 3 + c] = byte;
    }
}

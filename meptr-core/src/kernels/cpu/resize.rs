//! Bicubic resizing, equal to Pillow bit for bit.

use std::ops::Range;

use crate::kernels::bicubic::{BicubicTaps, WEIGHT_BITS, bicubic_taps};

/// An 8-bit RGB image, rows from the top, no padding.
#[derive(Debug, Clone, Copy)]
pub struct RgbPixels<'a> {
    /// `(height, width, 3)`.
    pub bytes: &'a [u8],
    /// Pixels of a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

impl<'a> RgbPixels<'a> {
    fn row(&self, y: usize) -> &'a [u8] {
        &self.bytes[y * self.width * 3..(y + 1) * self.width * 3]
    }
}

/// Resizes `image` to `width` by `height` and returns the part `columns` by `rows` of the result,
/// `(rows, columns, 3)`.
///
/// Antialiased bicubic (a = -0.5), first across, then down, each pass with 22-bit fixed-point
/// weights and rounded to 8 bits: `Image.resize(.., Resampling.BICUBIC)` of Pillow 11. Only the
/// requested part is computed, so an image of extreme shape costs no more than an ordinary one.
///
/// Pillow 13 goes down first where that is cheaper, which differs by up to 20 levels in tall images;
/// the reference ran with an older one, and the weights were trained on its pixels.
///
/// # Panics
/// When the part is empty or does not lie in the resized image.
pub fn resize_part(
    image: RgbPixels,
    [width, height]: [usize; 2],
    columns: Range<usize>,
    rows: Range<usize>,
) -> Vec<u8> {
    assert!(columns.start < columns.end && columns.end <= width, "columns of the result");
    assert!(rows.start < rows.end && rows.end <= height, "rows of the result");
    let down = bicubic_taps(image.height, height, rows);
    let first = down.iter().map(|taps| taps.start).min().unwrap_or_default();
    let end = down.iter().map(|taps| taps.start + taps.weights.len()).max().unwrap_or_default();
    let across = bicubic_taps(image.width, width, columns);
    let row_length = across.len() * 3;
    let mut narrowed = Vec::with_capacity((end - first) * row_length);
    for y in first..end {
        resize_row(image.row(y), &across, &mut narrowed);
    }
    let mut data = Vec::with_capacity(down.len() * row_length);
    let mut sums = vec![0; row_length];
    for taps in &down {
        sums.fill(0);
        let rows = narrowed[(taps.start - first) * row_length..].chunks_exact(row_length);
        for (row, weight) in rows.zip(&taps.weights) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += i32::from(*value) * weight;
            }
        }
        data.extend(sums.iter().map(|sum| round_to_byte(*sum)));
    }
    data
}

/// Resizes one row across and appends it to `into`.
fn resize_row(row: &[u8], across: &[BicubicTaps], into: &mut Vec<u8>) {
    for taps in across {
        let pixels = row[taps.start * 3..].chunks_exact(3);
        let mut sums = [0i32; 3];
        for (pixel, weight) in pixels.zip(&taps.weights) {
            for (sum, value) in sums.iter_mut().zip(pixel) {
                *sum += i32::from(*value) * weight;
            }
        }
        into.extend_from_slice(&sums.map(round_to_byte));
    }
}

fn round_to_byte(sum: i32) -> u8 {
    ((sum + (1 << (WEIGHT_BITS - 1))) >> WEIGHT_BITS).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(width: usize, height: usize) -> Vec<u8> {
        (0..width * height * 3).map(|i| (i * i / 7 + i * 13) as u8).collect()
    }

    #[test]
    fn an_image_of_the_target_size_is_unchanged() {
        let bytes = noise(9, 7);
        let image = RgbPixels { bytes: &bytes, width: 9, height: 7 };
        assert_eq!(resize_part(image, [9, 7], 0..9, 0..7), bytes);
    }

    #[test]
    fn a_part_equals_that_part_of_the_whole() {
        let bytes = noise(17, 23);
        let image = RgbPixels { bytes: &bytes, width: 17, height: 23 };
        for [width, height] in [[31, 50], [5, 4], [17, 3]] {
            let whole = resize_part(image, [width, height], 0..width, 0..height);
            let part = resize_part(image, [width, height], 2..5, 1..3);
            let rows = whole.chunks_exact(width * 3).skip(1).take(2);
            let expected: Vec<u8> = rows.flat_map(|row| row[2 * 3..5 * 3].to_vec()).collect();
            assert_eq!(part, expected);
        }
    }

    #[test]
    fn one_colour_stays_one_colour() {
        let bytes = [200, 0, 255].repeat(3);
        let image = RgbPixels { bytes: &bytes, width: 3, height: 1 };
        let found = resize_part(image, [4000, 900], 7..11, 880..890);
        assert_eq!(found, [200, 0, 255].repeat(40));
    }
}

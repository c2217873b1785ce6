//! Bicubic resizing, to the bit as Pillow does it.

use std::ops::Range;

use super::RgbImage;

/// Fraction bits of the weights, as in Pillow: 32 minus 8 for the pixel and 2 for overshoot.
const WEIGHT_BITS: u32 = 22;

/// Resizes `image` to `width` by `height` and returns the part `columns` by `rows` of the result.
///
/// Antialiased bicubic (a = -0.5), first across, then down, each pass with 22-bit fixed-point
/// weights and rounded to 8 bits: `Image.resize(.., Resampling.BICUBIC)` of Pillow 11. Only the
/// asked part is computed, so a picture of extreme shape costs no more than an ordinary one.
///
/// Pillow 13 goes down first where that is cheaper, which differs by up to 20 levels in tall
/// pictures; the reference ran with an older one, and trained weights saw its pixels.
///
/// # Panics
/// When the part is empty or does not lie in the resized picture.
pub(super) fn resize_part(
    image: &RgbImage,
    (width, height): (usize, usize),
    columns: Range<usize>,
    rows: Range<usize>,
) -> RgbImage {
    assert!(columns.start < columns.end && columns.end <= width, "columns of the result");
    assert!(rows.start < rows.end && rows.end <= height, "rows of the result");
    let down = taps(image.height(), height, rows);
    let first = down.iter().map(|taps| taps.start).min().unwrap_or_default();
    let end = down.iter().map(|taps| taps.start + taps.weights.len()).max().unwrap_or_default();
    let across = taps(image.width(), width, columns);
    let row_length = across.len() * 3;
    let mut narrowed = Vec::with_capacity((end - first) * row_length);
    for y in first..end {
        narrow_row(image.row(y), &across, &mut narrowed);
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
        data.extend(sums.iter().map(|sum| round(*sum)));
    }
    RgbImage::new(across.len(), down.len(), data)
}

/// The input pixels that one output pixel is a weighted sum of, and their weights in fixed point.
#[derive(Debug)]
pub(crate) struct Taps {
    pub(crate) start: usize,
    pub(crate) weights: Vec<i32>,
}

/// Those of a part of the output pixels of one axis.
pub(super) fn taps(input: usize, output: usize, part: Range<usize>) -> Vec<Taps> {
    if input == output {
        let copied = |at| Taps { start: at, weights: vec![1 << WEIGHT_BITS] };
        return part.map(copied).collect(); // Pillow skips the pass
    }
    let scale = input as f64 / output as f64;
    let spread = scale.max(1.0); // the kernel widens when the picture shrinks
    let support = 2.0 * spread;
    let one = |at: usize| {
        let centre = (at as f64 + 0.5) * scale;
        let start = (centre - support + 0.5).max(0.0) as usize;
        let end = ((centre + support + 0.5) as usize).min(input);
        let weight = |x: usize| bicubic((x as f64 - centre + 0.5) * (1.0 / spread));
        let weights: Vec<f64> = (start..end).map(weight).collect();
        let sum: f64 = weights.iter().sum();
        Taps { start, weights: weights.into_iter().map(|weight| fixed(weight / sum)).collect() }
    };
    part.map(one).collect()
}

/// Keys' cubic convolution kernel with a = -0.5.
fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// Nearest fixed-point value, halves away from zero.
fn fixed(weight: f64) -> i32 {
    (weight * f64::from(1 << WEIGHT_BITS)).round() as i32
}

/// The pass across of one row, appended to `into`.
fn narrow_row(row: &[u8], across: &[Taps], into: &mut Vec<u8>) {
    for taps in across {
        let pixels = row[taps.start * 3..].chunks_exact(3);
        let mut sums = [0i32; 3];
        for (pixel, weight) in pixels.zip(&taps.weights) {
            for (sum, value) in sums.iter_mut().zip(pixel) {
                *sum += i32::from(*value) * weight;
            }
        }
        into.extend_from_slice(&sums.map(round));
    }
}

fn round(sum: i32) -> u8 {
    ((sum + (1 << (WEIGHT_BITS - 1))) >> WEIGHT_BITS).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: usize, height: usize) -> RgbImage {
        let data = (0..width * height * 3).map(|i| (i * i / 7 + i * 13) as u8).collect();
        RgbImage::new(width, height, data)
    }

    #[test]
    fn a_picture_of_that_size_stays_as_it_is() {
        let image = picture(9, 7);
        assert_eq!(resize_part(&image, (9, 7), 0..9, 0..7), image);
    }

    #[test]
    fn a_part_equals_that_part_of_the_whole() {
        for (width, height) in [(31, 50), (5, 4), (17, 3)] {
            let whole = resize_part(&picture(17, 23), (width, height), 0..width, 0..height);
            let part = resize_part(&picture(17, 23), (width, height), 2..5, 1..3);
            assert_eq!(Some(part), whole.crop(2, 1, 5, 3));
        }
    }

    #[test]
    fn one_colour_stays_one_colour() {
        let image = RgbImage::new(3, 1, [200, 0, 255].repeat(3));
        let found = resize_part(&image, (4000, 900), 7..11, 880..890);
        assert_eq!(found.data(), [200, 0, 255].repeat(40));
    }
}

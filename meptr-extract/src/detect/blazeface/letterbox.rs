//! Letterbox of an image: the network's square input, and coordinates back in the image.

use super::warp::PerspectiveWarp;
use crate::RgbImage;
#[cfg(any(test, feature = "cuda"))]
use meptr_core::kernels::bilinear::{BilinearTap, Blending, SamplingTable};

/// Letterbox: the centred square around an image, of its longer side.
///
/// Sampled as by OpenCV's `warpPerspective`: bilinear, at positions rounded to 1/32 pixel, without
/// antialiasing, black outside the image. The output pixel (u, v) samples the image at
/// `(left + u * side / size, top + v * side / size)`, both counted from pixel centres. A position
/// half-way between two steps is rounded as OpenCV rounds it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Letterbox {
    /// Side of the square, in pixels of the image.
    pub side: f32,
    /// Left edge of the square in the image, at most 0.
    pub left: f32,
    /// Upper edge of the square in the image, at most 0.
    pub top: f32,
}

/// OpenCV's resolution of sampling positions: 32 steps to a pixel.
const STEPS: i64 = 32;

impl Letterbox {
    /// Letterbox of an image of that size.
    pub fn around(width: usize, height: usize) -> Self {
        let side = width.max(height) as f32;
        Self { side, left: (width as f32 - side) / 2.0, top: (height as f32 - side) / 2.0 }
    }

    /// Samples the image into a square of `size` pixels a side: `size * size * 3` bytes.
    pub fn sample(&self, image: &RgbImage, size: usize) -> Vec<u8> {
        if self.has_ties(size) {
            return self.sample_each(image, size);
        }
        let columns = taps(self.positions(self.left, size), image.width());
        let rows = taps(self.positions(self.top, size), image.height());
        let mut square = vec![0; size * size * 3];
        for (row, line) in rows.iter().zip(square.chunks_exact_mut(size * 3)) {
            let Some(upper) = row.place.map(|y| image.row(y)) else { continue };
            let lower = if row.shares[1] > 0 { image.row(row.next) } else { upper };
            for (column, pixel) in columns.iter().zip(line.as_chunks_mut::<3>().0) {
                if let Some(x) = column.place {
                    *pixel = blend([upper, lower], row.shares, [x, column.next], column.shares);
                }
            }
        }
        square
    }

    /// Samples pixel by pixel, for squares in which a pixel's column may depend on its row, too.
    fn sample_each(&self, image: &RgbImage, size: usize) -> Vec<u8> {
        let warp = PerspectiveWarp::of_square([self.left, self.top], self.side, size);
        let mut square = vec![0; size * size * 3];
        for (at, pixel) in square.as_chunks_mut::<3>().0.iter_mut().enumerate() {
            let [x, y] = warp.position(at % size, at / size, STEPS);
            let (column, row) = (tap(x, image.width()), tap(y, image.height()));
            if let (Some(x), Some(y)) = (column.place, row.place) {
                let rows = [image.row(y), image.row(row.next)];
                *pixel = blend(rows, row.shares, [x, column.next], column.shares);
            }
        }
        square
    }

    /// Whether a position lies half-way between two steps, in a square of `size` pixels a side.
    pub(crate) fn has_ties(&self, size: usize) -> bool {
        let is_tie = |position: f64| ((position - position.floor()) - 0.5).abs() < 1e-6;
        [self.left, self.top].into_iter().any(|start| self.positions(start, size).any(is_tie))
    }

    /// Table with which the GPU kernel computes [`Letterbox::sample`], for images of that size
    /// without ties.
    #[cfg(any(test, feature = "cuda"))]
    pub(crate) fn sampling(&self, (width, height): (usize, usize), size: usize) -> SamplingTable {
        let pair = |tap: Tap| {
            tap.place.map(|place| BilinearTap { indices: [place, tap.next], weights: tap.shares })
        };
        let pairs = |start: f32, end: usize| {
            taps(self.positions(start, size), end).into_iter().map(pair).collect()
        };
        SamplingTable {
            columns: pairs(self.left, width),
            rows: pairs(self.top, height),
            blending: Blending::Weights32,
            fill: 0,
        }
    }

    /// Converts a point of the unit square to pixels of the image.
    pub fn to_picture(&self, point: [f32; 2]) -> [f32; 2] {
        [point[0] * self.side + self.left, point[1] * self.side + self.top]
    }

    /// Sampling positions along one axis, in 1/32 pixel.
    fn positions(&self, start: f32, size: usize) -> impl Iterator<Item = f64> {
        let step = f64::from(self.side) / size as f64;
        let start = f64::from(start);
        (0..size).map(move |index| (start + index as f64 * step) * STEPS as f64)
    }
}

/// Two neighbouring pixels along an axis, and their interpolation weights in 1/32.
///
/// Pixels outside the image are black and have weight 0.
#[derive(Debug, Clone, Copy)]
struct Tap {
    place: Option<usize>, // none where both are outside
    next: usize,
    shares: [u32; 2],
}

fn tap(position: i64, end: usize) -> Tap {
    let (first, share) = (position.div_euclid(STEPS), position.rem_euclid(STEPS) as u32);
    let inside = |place: i64| usize::try_from(place).ok().filter(|place| *place < end);
    let shares = [STEPS as u32 - share, share];
    match (inside(first), inside(first + 1)) {
        (Some(place), Some(next)) => Tap { place: Some(place), next, shares },
        (Some(place), None) => Tap { place: Some(place), next: place, shares: [shares[0], 0] },
        (None, Some(place)) => Tap { place: Some(place), next: place, shares: [0, shares[1]] },
        (None, None) => Tap { place: None, next: 0, shares },
    }
}

fn taps(positions: impl Iterator<Item = f64>, end: usize) -> Vec<Tap> {
    positions.map(|position| tap(position.round() as i64, end)).collect()
}

/// Interpolates one pixel from two rows and two columns.
#[inline(always)]
fn blend(rows: [&[u8]; 2], down: [u32; 2], columns: [usize; 2], across: [u32; 2]) -> [u8; 3] {
    let [upper, lower] = rows.map(|row| {
        let [left, right] = columns.map(|x| &row[x * 3..x * 3 + 3]);
        let value = |c: usize| u32::from(left[c]) * across[0] + u32::from(right[c]) * across[1];
        [value(0), value(1), value(2)]
    });
    let whole = (STEPS * STEPS) as u32;
    std::array::from_fn(|c| ((upper[c] * down[0] + lower[c] * down[1] + whole / 2) / whole) as u8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};

    use super::*;

    #[test]
    fn a_square_picture_of_the_right_size_stays_as_it_is() {
        let image = RgbImage::new(4, 4, (0..48).collect());
        assert_eq!(Letterbox::around(4, 4).sample(&image, 4), image.data());
    }

    #[test]
    fn a_wide_picture_gets_black_bars_above_and_below() {
        let image = RgbImage::new(4, 2, vec![200; 24]);
        let letterbox = Letterbox::around(4, 2);
        assert_eq!(letterbox, Letterbox { side: 4.0, left: 0.0, top: -1.0 });
        let square = letterbox.sample(&image, 4);
        let rows: Vec<u8> = square.iter().step_by(12).copied().collect();
        assert_eq!(rows, [0, 200, 200, 0]);
    }

    /// The pixel at (x, y), black outside the picture.
    fn pixel(image: &RgbImage, x: i64, y: i64) -> [u8; 3] {
        if x < 0 || y < 0 || x >= image.width() as i64 || y >= image.height() as i64 {
            return [0; 3];
        }
        let row = image.row(y as usize);
        std::array::from_fn(|channel| row[x as usize * 3 + channel])
    }

    proptest! {
        #[test]
        fn every_pixel_is_the_weighted_mean_of_four(
            width in 1usize..60, height in 1usize..60, size in 1usize..40,
        ) {
            let bytes = (0..width * height * 3).map(|n| (n * 7919 % 251) as u8).collect();
            let image = RgbImage::new(width, height, bytes);
            let letterbox = Letterbox::around(width, height);
            let square = letterbox.sample(&image, size);
            if letterbox.has_ties(size) {
                return Ok(()); // see `ties_fall_as_in_opencv`
            }
            prop_assert_eq!(&letterbox.sampling((width, height), size).apply(image.data(), width), &square);
            let places = |start| {
                letterbox.positions(start, size).map(|x| x.round() as i64).collect::<Vec<_>>()
            };
            let (columns, rows) = (places(letterbox.left), places(letterbox.top));
            for (index, found) in square.chunks_exact(3).enumerate() {
                let (column, row) = (columns[index % size], rows[index / size]);
                let (x, y) = (column.div_euclid(STEPS), row.div_euclid(STEPS));
                let (right, lower) = (column.rem_euclid(STEPS), row.rem_euclid(STEPS));
                for (channel, found) in found.iter().enumerate() {
                    let value = |x, y| i64::from(pixel(&image, x, y)[channel]);
                    let upper_row = value(x, y) * (STEPS - right) + value(x + 1, y) * right;
                    let lower_row = value(x, y + 1) * (STEPS - right) + value(x + 1, y + 1) * right;
                    let sum = upper_row * (STEPS - lower) + lower_row * lower;
                    prop_assert_eq!(i64::from(*found), (sum + 512) / 1024);
                }
            }
        }
    }

    /// Hashes of what OpenCV 4.11 makes of pictures of the bytes `n * 7919 % 251`.
    #[test]
    fn ties_fall_as_in_opencv() {
        for (width, height, size, expected) in [
            (97, 61, 192, "ddb349c23d4f6856"),
            (97, 61, 128, "f4faed29dcde280f"),
            (333, 200, 192, "04fd9762d00e0812"),
            (333, 200, 128, "6364c5c8c7771f3f"),
            (301, 1101, 192, "8a362c616d4171df"),
            (301, 1101, 128, "4406bf00b70ee186"),
            (853, 480, 192, "4753ea03e50a72f8"),
            (853, 480, 128, "dafe640d2222a594"),
        ] {
            let bytes = (0..width * height * 3).map(|n| (n * 7919 % 251) as u8).collect();
            let letterbox = Letterbox::around(width, height);
            let square = letterbox.sample(&RgbImage::new(width, height, bytes), size);
            let hash: String =
                Sha256::digest(square)[..8].iter().map(|byte| format!("{byte:02x}")).collect();
            assert!(letterbox.has_ties(size));
            assert_eq!(hash, expected, "{width} x {height} to {size}");
        }
    }

    #[test]
    fn points_return_to_where_they_were() {
        let letterbox = Letterbox::around(1280, 720);
        assert_eq!(letterbox.to_picture([0.5, 0.5]), [640.0, 360.0]);
        assert_eq!(letterbox.to_picture([0.0, 0.0]), [0.0, -280.0]);
    }

    #[test]
    fn the_narrowest_pictures_are_sampled() {
        for (width, height) in [(1, 1), (1, 500), (3000, 1)] {
            let image = RgbImage::new(width, height, vec![9; width * height * 3]);
            let square = Letterbox::around(width, height).sample(&image, 192);
            assert_eq!(square.len(), 192 * 192 * 3);
        }
    }
}

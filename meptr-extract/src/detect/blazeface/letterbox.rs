//! From a picture to the square that the network sees, and back.

use crate::RgbImage;

/// The square of the longer side around a picture, centred.
///
/// Sampled as OpenCV's `warpPerspective` does it: bilinear, at positions rounded to 1/32 pixel,
/// without smoothing, with black outside. The output pixel (u, v) looks at the picture's
/// `(left + u * side / size, top + v * side / size)`, both counted from the middle of a pixel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Letterbox {
    /// Side of the square, in pixels of the picture.
    pub side: f32,
    /// Left edge of the square in the picture, at most 0.
    pub left: f32,
    /// Upper edge of the square in the picture, at most 0.
    pub top: f32,
}

/// OpenCV's resolution of sampling positions: 32 steps to a pixel.
const STEPS: i64 = 32;

impl Letterbox {
    /// The square around a picture of that size.
    pub fn around(width: usize, height: usize) -> Self {
        let side = width.max(height) as f32;
        Self { side, left: (width as f32 - side) / 2.0, top: (height as f32 - side) / 2.0 }
    }

    /// The picture in a square of `size` pixels a side: `size * size * 3` bytes.
    pub fn sample(&self, image: &RgbImage, size: usize) -> Vec<u8> {
        let columns = self.positions(self.left, size);
        let rows = self.positions(self.top, size);
        let mut square = Vec::with_capacity(size * size * 3);
        for row in rows {
            for &column in &columns {
                square.extend(interpolate(image, column, row));
            }
        }
        square
    }

    /// A point of the unit square as a point of the picture, in pixels.
    pub fn to_picture(&self, point: [f32; 2]) -> [f32; 2] {
        [point[0] * self.side + self.left, point[1] * self.side + self.top]
    }

    /// Sampling positions along one axis, in 1/32 pixel.
    fn positions(&self, start: f32, size: usize) -> Vec<i64> {
        let step = f64::from(self.side) / size as f64;
        let position = |index| f64::from(start) + index as f64 * step;
        (0..size).map(|index| (position(index) * STEPS as f64).round_ties_even() as i64).collect()
    }
}

fn interpolate(image: &RgbImage, column: i64, row: i64) -> [u8; 3] {
    let (x, right_share) = (column.div_euclid(STEPS), column.rem_euclid(STEPS));
    let (y, lower_share) = (row.div_euclid(STEPS), row.rem_euclid(STEPS));
    let (left_share, upper_share) = (STEPS - right_share, STEPS - lower_share);
    let corners = [
        (pixel(image, x, y), left_share * upper_share),
        (pixel(image, x + 1, y), right_share * upper_share),
        (pixel(image, x, y + 1), left_share * lower_share),
        (pixel(image, x + 1, y + 1), right_share * lower_share),
    ];
    std::array::from_fn(|channel| {
        let sum: i64 = corners.iter().map(|(pixel, share)| i64::from(pixel[channel]) * share).sum();
        let whole = STEPS * STEPS;
        ((sum + whole / 2) / whole) as u8
    })
}

/// The pixel at (x, y), black outside the picture.
fn pixel(image: &RgbImage, x: i64, y: i64) -> [u8; 3] {
    let inside = |position: i64, end: usize| usize::try_from(position).ok().filter(|at| *at < end);
    match (inside(x, image.width()), inside(y, image.height())) {
        (Some(x), Some(y)) => {
            let row = image.row(y);
            [row[x * 3], row[x * 3 + 1], row[x * 3 + 2]]
        }
        _ => [0; 3],
    }
}

#[cfg(test)]
mod tests {
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

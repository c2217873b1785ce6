//! Orientation of stored frames.

use serde::{Deserialize, Serialize};

use crate::RgbImage;

/// Rotation by quarter turns with or without mirroring: one of eight.
///
/// Applied as: exchange rows and columns if `transpose`, then mirror left-right if `flip_x`, then
/// top-bottom if `flip_y`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orientation {
    transpose: bool,
    flip_x: bool,
    flip_y: bool,
}

impl Orientation {
    /// Reads a display matrix: nine native-endian `i32`, `a b u c d v x y w`, with
    /// `x' = a x + c y`, `y' = b x + d y` (FFmpeg, `libavutil/display.h`), snapped to quarter turns.
    ///
    /// `None` when `bytes` is no such matrix or turns nothing into anything (all four zero).
    pub fn from_display_matrix(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < 36 {
            return None;
        }
        let entry = |i: usize| {
            let word: [u8; 4] = bytes[4 * i..4 * i + 4].try_into().expect("four bytes");
            i64::from(i32::from_ne_bytes(word))
        };
        let (a, b, c, d) = (entry(0), entry(1), entry(3), entry(4));
        if a == 0 && b == 0 && c == 0 && d == 0 {
            return None;
        }
        let transpose = b.abs() + c.abs() > a.abs() + d.abs();
        let (to_x, to_y) = if transpose { (c, b) } else { (a, d) };
        Some(Self { transpose, flip_x: to_x < 0, flip_y: to_y < 0 })
    }

    /// Whether the upright picture is a mirror image of the stored one.
    pub fn is_mirrored(self) -> bool {
        self.transpose ^ self.flip_x ^ self.flip_y
    }

    /// Counter-clockwise turn in degrees, 0, 90, 180 or 270; of a mirrored picture, the turn that
    /// follows after it was mirrored left-right.
    pub fn rotation_degrees(self) -> u16 {
        let flip_x = self.flip_x ^ (self.is_mirrored() && !self.transpose);
        let flip_y = self.flip_y ^ (self.is_mirrored() && self.transpose);
        match (self.transpose, flip_x, flip_y) {
            (false, false, _) => 0,
            (false, true, _) => 180,
            (true, _, true) => 90,
            (true, _, false) => 270,
        }
    }

    /// Turns a stored frame upright.
    pub fn apply(self, image: RgbImage) -> RgbImage {
        if self == Self::default() {
            return image;
        }
        let (width, height) = match self.transpose {
            true => (image.height(), image.width()),
            false => (image.width(), image.height()),
        };
        let mut data = Vec::with_capacity(image.data().len());
        for y in 0..height {
            let y = if self.flip_y { height - 1 - y } else { y };
            for x in 0..width {
                let x = if self.flip_x { width - 1 - x } else { x };
                let (column, row) = if self.transpose { (y, x) } else { (x, y) };
                data.extend_from_slice(&image.row(row)[3 * column..3 * column + 3]);
            }
        }
        RgbImage::new(width, height, data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(a: i32, b: i32, c: i32, d: i32) -> Orientation {
        let one = 1 << 16;
        let entries = [a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30];
        let bytes: Vec<u8> = entries.iter().flat_map(|entry: &i32| entry.to_ne_bytes()).collect();
        Orientation::from_display_matrix(&bytes).unwrap()
    }

    /// Red values of a 3 x 2 picture `1 2 3 / 4 5 6` after turning, row by row.
    fn turned(orientation: Orientation) -> Vec<Vec<u8>> {
        let data = (1..=6u8).flat_map(|value| [value, 0, 0]).collect();
        let image = orientation.apply(RgbImage::new(3, 2, data));
        let red = |y| image.row(y).iter().step_by(3).copied().collect();
        (0..image.height()).map(red).collect()
    }

    #[test]
    fn every_orientation_moves_the_pixels_as_its_matrix_says() {
        let cases: [(Orientation, u16, bool, &[&[u8]]); 8] = [
            (matrix(1, 0, 0, 1), 0, false, &[&[1, 2, 3], &[4, 5, 6]]),
            (matrix(0, -1, 1, 0), 90, false, &[&[3, 6], &[2, 5], &[1, 4]]),
            (matrix(-1, 0, 0, -1), 180, false, &[&[6, 5, 4], &[3, 2, 1]]),
            (matrix(0, 1, -1, 0), 270, false, &[&[4, 1], &[5, 2], &[6, 3]]),
            (matrix(-1, 0, 0, 1), 0, true, &[&[3, 2, 1], &[6, 5, 4]]),
            (matrix(1, 0, 0, -1), 180, true, &[&[4, 5, 6], &[1, 2, 3]]),
            (matrix(0, 1, 1, 0), 90, true, &[&[1, 4], &[2, 5], &[3, 6]]),
            (matrix(0, -1, -1, 0), 270, true, &[&[6, 3], &[5, 2], &[4, 1]]),
        ];
        for (orientation, degrees, mirrored, rows) in cases {
            assert_eq!(turned(orientation), rows, "{orientation:?}");
            assert_eq!(orientation.rotation_degrees(), degrees, "{orientation:?}");
            assert_eq!(orientation.is_mirrored(), mirrored, "{orientation:?}");
        }
    }

    #[test]
    fn what_is_no_matrix_is_not_read_as_one() {
        assert_eq!(Orientation::from_display_matrix(&[0; 35]), None);
        assert_eq!(Orientation::from_display_matrix(&[0; 36]), None);
    }

    #[test]
    fn slanted_matrices_snap_to_the_nearest_quarter_turn() {
        let entries = [1000, 65000, 0, -65000, 900, 0, 0, 0, 1 << 30];
        let bytes: Vec<u8> = entries.iter().flat_map(|entry: &i32| entry.to_ne_bytes()).collect();
        assert_eq!(
            Orientation::from_display_matrix(&bytes).map(Orientation::rotation_degrees),
            Some(270)
        );
    }
}

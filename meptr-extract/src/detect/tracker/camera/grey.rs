//! Grey images, and their reduction to half the size.

use crate::RgbImage;
use crate::detect::scaling::resize;

/// OpenCV's weights of red, green and blue in 1/2^15, in the order of the image's channels: the
/// reference passes RGB images to a function that expects BGR.
const SHARES: [u32; 3] = [3735, 19235, 9798];
const SHARE_BITS: u32 = 15;

/// Image with one byte per pixel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GreyImage {
    width: usize,
    height: usize,
    data: Vec<u8>,
}

impl GreyImage {
    /// Wraps `data`, rows from the top.
    ///
    /// # Panics
    /// When `data` does not hold exactly `width * height` bytes, or none.
    pub fn new(width: usize, height: usize, data: Vec<u8>) -> Self {
        assert!(!data.is_empty() && data.len() == width * height, "a picture of its size");
        Self { width, height, data }
    }

    /// Converts an image to grey, half as wide and high, rounded down: OpenCV's `cvtColor` and `resize`.
    /// `None` when that has no pixel.
    pub fn halved(image: &RgbImage) -> Option<Self> {
        let (width, height) = (image.width() / 2, image.height() / 2);
        if width == 0 || height == 0 {
            return None;
        }
        let grey = |pixel: &[u8]| {
            let sum: u32 = pixel.iter().zip(SHARES).map(|(&v, share)| u32::from(v) * share).sum();
            ((sum + (1 << (SHARE_BITS - 1))) >> SHARE_BITS) as u8
        };
        let grey: Vec<u8> = image.data().chunks_exact(3).map(grey).collect();
        let size = [image.width(), image.height()];
        Some(Self::new(width, height, resize::<1>(&grey, size, [width, height])))
    }

    /// Pixels in a row, at least 1.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows, at least 1.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The bytes of one row.
    pub fn row(&self, y: usize) -> &[u8] {
        &self.data[y * self.width..(y + 1) * self.width]
    }

    /// Image half as wide and high, rounded up, each pixel the mean of 5x5 with weights 1, 4, 6, 4, 1
    /// in both directions: OpenCV's `pyrDown`.
    pub(super) fn pyr_down(&self) -> Self {
        let (width, height) = (self.width.div_ceil(2), self.height.div_ceil(2));
        let weigh = |v: [u32; 5]| v[0] + v[4] + 4 * (v[1] + v[3]) + 6 * v[2];
        let mut data = Vec::with_capacity(width * height);
        let mut sums = vec![0; self.width + 4];
        for y in 0..height {
            let rows: [&[u8]; 5] =
                std::array::from_fn(|k| self.row(reflect((2 * y + k) as isize - 2, self.height)));
            for x in 0..self.width {
                sums[x + 2] = weigh(rows.map(|row| u32::from(row[x])));
            }
            for (outside, place) in [(-2, 0), (-1, 1), (0, self.width + 2), (1, self.width + 3)] {
                let x = if outside < 0 { outside } else { self.width as isize + outside };
                sums[place] = sums[reflect(x, self.width) + 2];
            }
            let across = |x: usize| weigh(std::array::from_fn(|k| sums[2 * x + k]));
            data.extend((0..width).map(|x| ((across(x) + 128) >> 8) as u8));
        }
        Self::new(width, height, data)
    }
}

/// Index inside `0..length` for one outside, reflected at the edge pixel (OpenCV's
/// `BORDER_REFLECT_101`).
pub(super) fn reflect(place: isize, length: usize) -> usize {
    let period = 2 * (length as isize - 1);
    if period == 0 {
        return 0;
    }
    let place = place.rem_euclid(period);
    place.min(period - place) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_channel_counts_as_blue() {
        let grey = |pixel: [u8; 3]| GreyImage::halved(&RgbImage::new(2, 2, pixel.repeat(4)));
        let value = |pixel| grey(pixel).map(|grey| grey.row(0)[0]);
        assert_eq!([[255, 0, 0], [0, 255, 0], [0, 0, 255]].map(value), [29, 150, 76].map(Some));
        assert_eq!(value([99; 3]), Some(99));
        assert_eq!(GreyImage::halved(&RgbImage::new(1, 2, vec![0; 6])), None);
    }

    #[test]
    fn places_outside_are_mirrored_any_number_of_times() {
        let places: Vec<usize> = (-4..7).map(|place| reflect(place, 3)).collect();
        assert_eq!(places, [0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2]);
        assert_eq!([reflect(-5, 1), reflect(5, 1)], [0, 0]);
    }

    #[test]
    fn smoothing_keeps_a_flat_picture_of_any_size() {
        for (width, height) in [(1, 1), (1, 7), (2, 2), (9, 4)] {
            let half = GreyImage::new(width, height, vec![77; width * height]).pyr_down();
            assert_eq!((half.width, half.height), (width.div_ceil(2), height.div_ceil(2)));
            assert!(half.data.iter().all(|value| *value == 77));
        }
    }
}

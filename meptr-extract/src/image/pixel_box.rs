//! Pixel ranges of images.

use super::RgbImage;

/// Whole pixels `x1..x2`, `y1..y2` of a frame, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PixelBox {
    /// First column.
    pub x1: usize,
    /// First row.
    pub y1: usize,
    /// One past the last column.
    pub x2: usize,
    /// One past the last row.
    pub y2: usize,
}

impl PixelBox {
    /// All pixels of a frame.
    pub fn whole(width: usize, height: usize) -> Self {
        Self { x1: 0, y1: 0, x2: width, y2: height }
    }

    /// Copies the pixels of `image`.
    ///
    /// # Panics
    /// When the box reaches beyond the image.
    pub fn crop(&self, image: &RgbImage) -> RgbImage {
        image.crop(self.x1, self.y1, self.x2, self.y2).expect("the box lies in its own frame")
    }
}

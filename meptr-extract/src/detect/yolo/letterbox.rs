//! Letterbox of an image: the network's input, and boxes back in the image.

use super::super::BoundingBox;
use super::super::scaling::resize;
#[cfg(any(test, feature = "cuda"))]
use super::super::scaling::sampling;
use crate::RgbImage;
#[cfg(any(test, feature = "cuda"))]
use meptr_core::kernels::bilinear::SamplingTable;

/// Grey of the border.
const BORDER: u8 = 114;
/// Largest stride of the network, of which the input's sides are multiples.
const STRIDE: usize = 32;

/// Letterbox: an image scaled to at most `size` pixels a side, padded with grey, as in Ultralytics.
///
/// The padding is as small as the network's stride allows (`minimal`), or makes a square. Scaling
/// is OpenCV's bilinear `resize`, in the same fixed-point arithmetic.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct YoloLetterbox {
    picture: [usize; 2],
    scaled: [usize; 2],
    input: [usize; 2],
    /// Border on the left and above.
    border: [usize; 2],
}

impl YoloLetterbox {
    /// Letterbox of an image of that size.
    pub fn new(width: usize, height: usize, size: usize, minimal: bool) -> Self {
        let picture = [width, height];
        let gain = gain(picture, [size, size]);
        let scaled = picture.map(|side| ((side as f64 * gain).round_ties_even() as usize).max(1));
        let border = scaled.map(|side| size - side).map(|b| if minimal { b % STRIDE } else { b });
        let before = border.map(|border| (border as f64 / 2.0 - 0.1).round_ties_even() as usize);
        let input = [scaled[0] + border[0], scaled[1] + border[1]];
        Self { picture, scaled, input, border: before }
    }

    /// Columns and rows of the network's input.
    pub fn input_size(&self) -> [usize; 2] {
        self.input
    }

    /// Network input: rows from the top, three bytes a pixel, in the image's order of channels.
    ///
    /// # Panics
    /// When the image has another size than the letterbox was made for.
    pub fn sample(&self, image: &RgbImage) -> Vec<u8> {
        assert_eq!([image.width(), image.height()], self.picture, "the letterbox's own picture");
        let scaled = resize::<3>(image.data(), self.picture, self.scaled);
        let mut input = vec![BORDER; self.input[0] * self.input[1] * 3];
        for (y, row) in scaled.chunks_exact(self.scaled[0] * 3).enumerate() {
            let start = ((y + self.border[1]) * self.input[0] + self.border[0]) * 3;
            input[start..start + row.len()].copy_from_slice(row);
        }
        input
    }

    /// Table with which the GPU kernel computes [`YoloLetterbox::sample`].
    #[cfg(any(test, feature = "cuda"))]
    pub(crate) fn sampling(&self) -> SamplingTable {
        let (pairs, blending) = sampling(self.picture, self.scaled);
        let [columns, rows] = [0, 1].map(|axis| {
            let mut bordered = vec![None; self.input[axis]];
            let into = bordered[self.border[axis]..].iter_mut();
            into.zip(&pairs[axis]).for_each(|(into, pair)| *into = Some(*pair));
            bordered
        });
        SamplingTable { columns, rows, blending, fill: BORDER }
    }

    /// Converts a box of the input to a box of the image, clipped to the image.
    pub fn to_picture(&self, bounds: &BoundingBox) -> BoundingBox {
        let gain = gain(self.picture, self.input);
        let border = |axis: usize| {
            let rest = self.input[axis] as f64 - self.picture[axis] as f64 * gain;
            (rest / 2.0 - 0.1).round_ties_even() as f32
        };
        let [x, y] = [border(0), border(1)];
        let back = |edge: f32, border: f32| (edge - border) / gain as f32;
        BoundingBox {
            x1: back(bounds.x1, x),
            y1: back(bounds.y1, y),
            x2: back(bounds.x2, x),
            y2: back(bounds.y2, y),
        }
        .clamped(self.picture[0], self.picture[1])
    }
}

/// Scale at which an image fits.
fn gain(picture: [usize; 2], into: [usize; 2]) -> f64 {
    let ratio = |axis: usize| into[axis] as f64 / picture[axis] as f64;
    ratio(0).min(ratio(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_those_of_the_original() {
        let size = |width, height, minimal| YoloLetterbox::new(width, height, 640, minimal).input;
        assert_eq!(size(1280, 720, true), [640, 384]);
        assert_eq!(size(810, 1080, true), [480, 640]);
        assert_eq!(size(640, 272, true), [640, 288]);
        assert_eq!(size(640, 272, false), [640, 640]);
        assert_eq!(size(3000, 1, true), [640, 32]);
    }

    #[test]
    fn the_border_is_grey() {
        let image = RgbImage::new(64, 2, vec![7; 64 * 2 * 3]);
        let letterbox = YoloLetterbox::new(64, 2, 64, true);
        assert_eq!((letterbox.input, letterbox.border), ([64, 32], [0, 15]));
        let rows: Vec<u8> = letterbox.sample(&image).iter().step_by(64 * 3).copied().collect();
        assert_eq!(rows[14..18], [114, 7, 7, 114]);
    }

    proptest! {
        #[test]
        fn a_gpu_is_told_to_sample_the_same(
            (width, height) in prop_oneof![
                (1usize..90, 1usize..90), Just((128, 64)), Just((64, 128)), Just((64, 33)),
            ],
            minimal: bool,
            seed: u32,
        ) {
            let bytes = (0..width * height * 3).map(|at| (at as u32 ^ seed).wrapping_mul(2_654_435_761) as u8 >> 1);
            let image = RgbImage::new(width, height, bytes.collect());
            let letterbox = YoloLetterbox::new(width, height, 64, minimal);
            prop_assert_eq!(letterbox.sampling().apply(image.data(), image.width()), letterbox.sample(&image));
        }

        #[test]
        fn every_picture_fits_and_boxes_come_back_inside(
            width in 1usize..3000, height in 1usize..3000, minimal: bool,
            edges in prop::array::uniform4(-100.0f32..800.0),
        ) {
            let letterbox = YoloLetterbox::new(width, height, 640, minimal);
            for axis in [0, 1] {
                prop_assert!(letterbox.input[axis] <= 640);
                prop_assert_eq!(letterbox.input[axis] % STRIDE, 0);
                prop_assert!(letterbox.border[axis] + letterbox.scaled[axis] <= letterbox.input[axis]);
            }
            let [x1, y1, x2, y2] = edges;
            let found = letterbox.to_picture(&BoundingBox::new(x1, y1, x2, y2));
            prop_assert!(found.x1 >= 0.0 && found.x2 <= width as f32);
            prop_assert!(found.y1 >= 0.0 && found.y2 <= height as f32);
        }
    }
}

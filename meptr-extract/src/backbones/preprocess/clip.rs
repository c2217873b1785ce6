//! Pictures to the input of CLIP.

use std::path::Path;

use candle::{Device, Tensor};
use rayon::prelude::*;
use serde::Deserialize;

use super::RgbImage;
use super::resize::resize_part;
#[cfg(feature = "cuda")]
use super::resize::taps;
use crate::backbones::folder::{read_json, unusable};
use crate::detect::PixelBox;
#[cfg(feature = "cuda")]
use crate::gpu;
use crate::{Error, Result};

/// Prepares pictures as a `preprocessor_config.json` of CLIP asks for.
///
/// The shorter side is resized to `size` (Pillow's antialiased bicubic, rounded to 8 bits between
/// its passes), the centre cut out (black where the picture does not reach), and each value `v`
/// turned into `(v * rescale_factor - mean) / std` of its channel. Equal to the processor of
/// transformers 4.52 that works with Pillow.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipInput {
    shorter_side: usize,
    width: usize,
    height: usize,
    /// The network's input for each of the 256 values of each channel.
    values: [[f32; 256]; 3],
}

#[derive(Deserialize)]
#[serde(default)]
struct PreprocessorConfig {
    do_resize: bool,
    size: Size,
    resample: u32,
    do_center_crop: bool,
    crop_size: Size,
    do_rescale: bool,
    rescale_factor: f64,
    do_normalize: bool,
    image_mean: [f32; 3],
    image_std: [f32; 3],
}

/// Older files give a number, newer ones name it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Size {
    Number(usize),
    ShorterSide { shortest_edge: usize },
    Sides { height: usize, width: usize },
}

impl Default for PreprocessorConfig {
    fn default() -> Self {
        Self {
            do_resize: true,
            size: Size::Number(224),
            resample: 3,
            do_center_crop: true,
            crop_size: Size::Number(224),
            do_rescale: true,
            rescale_factor: 1.0 / 255.0,
            do_normalize: true,
            image_mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
            image_std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
        }
    }
}

impl ClipInput {
    /// Reads `preprocessor_config.json` of a folder.
    ///
    /// # Errors
    /// When the file is missing or broken, or asks for steps other than those above.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("preprocessor_config.json");
        let what = "picture preprocessor configuration";
        let config: PreprocessorConfig = read_json(&path, what)?;
        Self::from_config(&config).map_err(|why| unusable(&path, what, why))
    }

    /// The recipe of the published models, for pictures of `size` by `size` pixels.
    ///
    /// # Panics
    /// When `size` is 0.
    pub fn new(size: usize) -> Self {
        let (number, crop) = (Size::Number(size), Size::Number(size));
        let config = PreprocessorConfig { size: number, crop_size: crop, ..Default::default() };
        Self::from_config(&config).expect("a size above 0")
    }

    fn from_config(config: &PreprocessorConfig) -> Result<Self, &'static str> {
        let steps =
            [config.do_resize, config.do_center_crop, config.do_rescale, config.do_normalize];
        if steps.contains(&false) {
            return Err(
                "one of `do_resize`, `do_center_crop`, `do_rescale`, `do_normalize` is off",
            );
        }
        if config.resample != 3 {
            return Err("`resample` is not 3 (bicubic)");
        }
        let (Size::Number(shorter_side) | Size::ShorterSide { shortest_edge: shorter_side }) =
            config.size
        else {
            return Err("`size` must be a number or `shortest_edge`");
        };
        let (width, height) = match config.crop_size {
            Size::Number(side) => (side, side),
            Size::Sides { height, width } => (width, height),
            Size::ShorterSide { .. } => return Err("`crop_size` must be `height` and `width`"),
        };
        let sides = [shorter_side, width, height];
        if sides.into_iter().any(|side| side == 0 || side > 4096) {
            return Err("`size` and `crop_size` must be 1 to 4096");
        }
        let values = [0, 1, 2].map(|channel| {
            let (mean, std) = (config.image_mean[channel], config.image_std[channel]);
            std::array::from_fn(|byte| ((byte as f64 * config.rescale_factor) as f32 - mean) / std)
        });
        Ok(Self { shorter_side, width, height, values })
    }

    /// The network's input of some pictures of any sizes: `(pictures, 3, height, width)`, f32.
    ///
    /// # Errors
    /// When there is no picture or the device has no memory for them.
    pub fn prepare(&self, images: &[RgbImage], device: &Device) -> Result<Tensor> {
        let whole = |image: &RgbImage| PixelBox::whole(image.width(), image.height());
        let parts: Vec<_> = images.iter().map(|image| (image, whole(image))).collect();
        self.prepare_parts(&parts, device)
    }

    /// The same of parts of pictures, on GPUs without copies of them.
    ///
    /// # Errors
    /// As [`ClipInput::prepare`].
    ///
    /// # Panics
    /// When a box was made for a smaller picture.
    pub fn prepare_parts(
        &self,
        parts: &[(&RgbImage, PixelBox)],
        device: &Device,
    ) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if device.is_cuda() {
            let parts: Vec<gpu::Part> =
                parts.iter().map(|(image, bounds)| self.part(image, bounds)).collect();
            return gpu::resize_parts(&parts, (self.width, self.height), &self.values, device)
                .map_err(Error::doing("preparing pictures on the device"));
        }
        let mut data = vec![0.0; parts.len() * 3 * self.width * self.height];
        let inputs = data.par_chunks_mut(3 * self.width * self.height);
        inputs.zip(parts).for_each(|(input, (image, bounds))| {
            let cut = self.cut(&bounds.crop(image));
            let pixels = cut.data().as_chunks::<3>().0;
            let channels = input.chunks_exact_mut(self.width * self.height).zip(&self.values);
            for (channel, (numbers, values)) in channels.enumerate() {
                for (number, pixel) in numbers.iter_mut().zip(pixels) {
                    *number = values[usize::from(pixel[channel])];
                }
            }
        });
        Tensor::from_vec(data, (parts.len(), 3, self.height, self.width), device)
            .map_err(Error::doing("handing the pictures to the device"))
    }

    /// Columns and rows that a picture is resized to.
    fn resized(&self, width: usize, height: usize) -> (usize, usize) {
        let longer_side = self.shorter_side * width.max(height) / width.min(height);
        match width <= height {
            true => (self.shorter_side, longer_side),
            false => (longer_side, self.shorter_side),
        }
    }

    /// What a GPU needs to know to resize and cut a part.
    #[cfg(feature = "cuda")]
    fn part<'a>(&self, image: &'a RgbImage, bounds: &PixelBox) -> gpu::Part<'a> {
        let (width, height) = (bounds.x2 - bounds.x1, bounds.y2 - bounds.y1);
        let size = self.resized(width, height);
        let axis = |from, to, cut| {
            let centre = Centre::of(to, cut);
            gpu::Axis { taps: taps(from, to, centre.source()), margin: centre.margin }
        };
        gpu::Part {
            image,
            start: [bounds.x1, bounds.y1],
            across: axis(width, size.0, self.width),
            down: axis(height, size.1, self.height),
        }
    }

    /// Resizes, then cuts out the centre.
    fn cut(&self, image: &RgbImage) -> RgbImage {
        let size = self.resized(image.width(), image.height());
        let (across, down) = (Centre::of(size.0, self.width), Centre::of(size.1, self.height));
        let part = resize_part(image, size, across.source(), down.source());
        if (part.width(), part.height()) == (self.width, self.height) {
            return part;
        }
        let mut data = vec![0; self.width * self.height * 3];
        for y in 0..part.height() {
            let start = ((y + down.margin) * self.width + across.margin) * 3;
            data[start..start + part.width() * 3].copy_from_slice(part.row(y));
        }
        RgbImage::new(self.width, self.height, data)
    }
}

/// Where the centre of one side comes from, and how much is left free before it.
struct Centre {
    start: usize,
    length: usize,
    margin: usize,
}

impl Centre {
    fn of(side: usize, cut: usize) -> Self {
        Self {
            start: side.saturating_sub(cut) / 2,
            length: side.min(cut),
            margin: cut.saturating_sub(side).div_ceil(2),
        }
    }

    fn source(&self) -> std::ops::Range<usize> {
        self.start..self.start + self.length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> Result<ClipInput, &'static str> {
        ClipInput::from_config(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn sizes_are_read_in_both_spellings() {
        let newer = r#"{"size": {"shortest_edge": 30}, "crop_size": {"height": 20, "width": 10}}"#;
        let newer = config(newer).unwrap();
        assert_eq!((newer.shorter_side, newer.width, newer.height), (30, 10, 20));
        assert_eq!(config(r#"{"size": 64, "crop_size": 64}"#), Ok(ClipInput::new(64)));
    }

    #[test]
    fn steps_we_do_not_take_are_refused() {
        for json in [
            r#"{"do_resize": false}"#,
            r#"{"resample": 2}"#,
            r#"{"size": {"height": 3, "width": 3}}"#,
            r#"{"crop_size": 0}"#,
        ] {
            assert!(config(json).is_err(), "{json}");
        }
    }

    #[test]
    fn any_shape_of_picture_comes_out_at_the_size() {
        for (width, height) in [(1, 1), (1, 8000), (8000, 1), (223, 225), (4320, 7680)] {
            let image = RgbImage::new(width, height, vec![9; width * height * 3]);
            let tensor = ClipInput::new(224).prepare(&[image], &Device::Cpu).unwrap();
            assert_eq!(tensor.dims(), [1, 3, 224, 224]);
        }
    }

    #[test]
    fn a_picture_smaller_than_the_cut_gets_a_black_margin() {
        let input = config(r#"{"size": 2, "crop_size": 5}"#).unwrap();
        let cut = input.cut(&RgbImage::new(2, 2, vec![7; 12]));
        let lit: Vec<usize> = (0..25).filter(|pixel| cut.data()[pixel * 3] == 7).collect();
        assert_eq!(lit, [12, 13, 17, 18]);
    }
}

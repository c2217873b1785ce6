//! Preprocessing of images for CLIP.

use std::path::Path;

use candle::{Device, Tensor};
use rayon::prelude::*;
use serde::Deserialize;

use meptr_core::kernels::cpu::resize::{RgbPixels, resize_part};
#[cfg(feature = "cuda")]
use meptr_core::kernels::{bicubic::bicubic_taps, cuda};

use crate::backbones::checkpoint_folder::{read_json, unusable};
use crate::image::{PixelBox, RgbImage};
use crate::{Error, Result};

/// Preprocesses images by the `preprocessor_config.json` of a CLIP checkpoint.
///
/// The shorter side is resized to `size` (Pillow's antialiased bicubic, rounded to 8 bits between
/// its passes), the centre is cropped (black beyond the image), and each value `v` becomes
/// `(v * rescale_factor - mean) / std` of its channel. Equal to the slow image processor of
/// transformers 4.52, which works with Pillow.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipPreprocessor {
    shorter_side: usize,
    width: usize,
    height: usize,
    /// Input value of each byte, per channel.
    values: [[f32; 256]; 3],
}

#[derive(Deserialize)]
#[serde(default)]
struct ClipPreprocessorConfig {
    do_resize: bool,
    size: ConfigSize,
    resample: u32,
    do_center_crop: bool,
    crop_size: ConfigSize,
    do_rescale: bool,
    rescale_factor: f64,
    do_normalize: bool,
    image_mean: [f32; 3],
    image_std: [f32; 3],
}

/// ConfigSize in a configuration: a number in older files, an object in newer ones.
#[derive(Deserialize)]
#[serde(untagged)]
enum ConfigSize {
    Number(usize),
    ShorterSide { shortest_edge: usize },
    Sides { height: usize, width: usize },
}

impl Default for ClipPreprocessorConfig {
    fn default() -> Self {
        Self {
            do_resize: true,
            size: ConfigSize::Number(224),
            resample: 3,
            do_center_crop: true,
            crop_size: ConfigSize::Number(224),
            do_rescale: true,
            rescale_factor: 1.0 / 255.0,
            do_normalize: true,
            image_mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
            image_std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
        }
    }
}

impl ClipPreprocessor {
    /// Reads `preprocessor_config.json` of a folder.
    ///
    /// # Errors
    /// When the file is missing or broken, or asks for steps other than those above.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("preprocessor_config.json");
        let what = "image preprocessor configuration";
        let config: ClipPreprocessorConfig = read_json(&path, what)?;
        Self::from_config(&config).map_err(|why| unusable(&path, what, why))
    }

    /// Preprocessor of the published models, for an input of `size` by `size` pixels.
    ///
    /// # Panics
    /// When `size` is 0.
    pub fn new(size: usize) -> Self {
        let (number, crop) = (ConfigSize::Number(size), ConfigSize::Number(size));
        let config = ClipPreprocessorConfig { size: number, crop_size: crop, ..Default::default() };
        Self::from_config(&config).expect("a size above 0")
    }

    fn from_config(config: &ClipPreprocessorConfig) -> Result<Self, &'static str> {
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
        let (ConfigSize::Number(shorter_side)
        | ConfigSize::ShorterSide { shortest_edge: shorter_side }) = config.size
        else {
            return Err("`size` must be a number or `shortest_edge`");
        };
        let (width, height) = match config.crop_size {
            ConfigSize::Number(side) => (side, side),
            ConfigSize::Sides { height, width } => (width, height),
            ConfigSize::ShorterSide { .. } => {
                return Err("`crop_size` must be `height` and `width`");
            }
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

    /// Makes the network's input of images of any size: `(images, 3, height, width)`, f32.
    ///
    /// # Errors
    /// When there is no image or the device has no memory left.
    pub fn prepare(&self, images: &[RgbImage], device: &Device) -> Result<Tensor> {
        let whole = |image: &RgbImage| PixelBox::whole(image.width(), image.height());
        let crops: Vec<_> = images.iter().map(|image| (image, whole(image))).collect();
        self.prepare_crops(&crops, device)
    }

    /// Makes the network's input of crops of images, on GPUs without copying the crops:
    /// `(crops, 3, height, width)`, f32.
    ///
    /// # Errors
    /// As [`ClipPreprocessor::prepare`].
    ///
    /// # Panics
    /// When a box reaches beyond its image.
    pub fn prepare_crops(
        &self,
        crops: &[(&RgbImage, PixelBox)],
        device: &Device,
    ) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if device.is_cuda() {
            return self
                .prepare_on_gpu(crops, device)
                .map_err(Error::doing("preprocessing images on the device"));
        }
        let mut data = vec![0.0; crops.len() * 3 * self.width * self.height];
        let inputs = data.par_chunks_mut(3 * self.width * self.height);
        inputs.zip(crops).for_each(|(input, (image, bounds))| {
            let resized = self.resize_and_crop(&bounds.crop(image));
            let pixels = resized.data().as_chunks::<3>().0;
            let channels = input.chunks_exact_mut(self.width * self.height).zip(&self.values);
            for (channel, (input, values)) in channels.enumerate() {
                for (value, pixel) in input.iter_mut().zip(pixels) {
                    *value = values[usize::from(pixel[channel])];
                }
            }
        });
        Tensor::from_vec(data, (crops.len(), 3, self.height, self.width), device)
            .map_err(Error::doing("copying the images to the device"))
    }

    /// Columns and rows that an image is resized to.
    fn resized_size(&self, width: usize, height: usize) -> [usize; 2] {
        let longer_side = self.shorter_side * width.max(height) / width.min(height);
        match width <= height {
            true => [self.shorter_side, longer_side],
            false => [longer_side, self.shorter_side],
        }
    }

    #[cfg(feature = "cuda")]
    fn prepare_on_gpu(
        &self,
        crops: &[(&RgbImage, PixelBox)],
        device: &Device,
    ) -> candle::Result<Tensor> {
        let sources = crops.iter().map(|(image, bounds)| self.resize_source(image, bounds, device));
        let sources = sources.collect::<candle::Result<Vec<_>>>()?;
        cuda::resize_crops(&sources, [self.width, self.height], &self.values, device)
    }

    /// Description of a crop for the GPU kernel.
    #[cfg(feature = "cuda")]
    fn resize_source(
        &self,
        image: &RgbImage,
        bounds: &PixelBox,
        device: &Device,
    ) -> candle::Result<cuda::ResizeSource> {
        let size = [bounds.x2 - bounds.x1, bounds.y2 - bounds.y1];
        let resized = self.resized_size(size[0], size[1]);
        let target = [self.width, self.height];
        let [across, down] = [0, 1].map(|axis| {
            let centre = CenterCrop::new(resized[axis], target[axis]);
            let taps = bicubic_taps(size[axis], resized[axis], centre.source());
            cuda::ResizeAxis { taps, margin: centre.margin }
        });
        Ok(cuda::ResizeSource {
            image: image.on_device(device)?,
            image_width: image.width(),
            start: [bounds.x1, bounds.y1],
            across,
            down,
        })
    }

    /// Resizes, then crops the centre.
    fn resize_and_crop(&self, image: &RgbImage) -> RgbImage {
        let (width, height) = (image.width(), image.height());
        let size = self.resized_size(width, height);
        let across = CenterCrop::new(size[0], self.width);
        let down = CenterCrop::new(size[1], self.height);
        let pixels = RgbPixels { bytes: image.data(), width, height };
        let resized = resize_part(pixels, size, across.source(), down.source());
        if [across.length, down.length] == [self.width, self.height] {
            return RgbImage::new(self.width, self.height, resized);
        }
        let mut data = vec![0; self.width * self.height * 3];
        for (y, row) in resized.chunks_exact(across.length * 3).enumerate() {
            let start = ((y + down.margin) * self.width + across.margin) * 3;
            data[start..start + row.len()].copy_from_slice(row);
        }
        RgbImage::new(self.width, self.height, data)
    }
}

/// Centre crop of one side: the range that is kept, and the black margin before it.
struct CenterCrop {
    start: usize,
    length: usize,
    margin: usize,
}

impl CenterCrop {
    fn new(side: usize, target: usize) -> Self {
        Self {
            start: side.saturating_sub(target) / 2,
            length: side.min(target),
            margin: target.saturating_sub(side).div_ceil(2),
        }
    }

    fn source(&self) -> std::ops::Range<usize> {
        self.start..self.start + self.length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> Result<ClipPreprocessor, &'static str> {
        ClipPreprocessor::from_config(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn sizes_are_read_in_both_spellings() {
        let newer = r#"{"size": {"shortest_edge": 30}, "crop_size": {"height": 20, "width": 10}}"#;
        let newer = config(newer).unwrap();
        assert_eq!((newer.shorter_side, newer.width, newer.height), (30, 10, 20));
        assert_eq!(config(r#"{"size": 64, "crop_size": 64}"#), Ok(ClipPreprocessor::new(64)));
    }

    #[test]
    fn unsupported_steps_are_refused() {
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
    fn any_shape_of_image_gets_the_target_size() {
        for (width, height) in [(1, 1), (1, 8000), (8000, 1), (223, 225), (4320, 7680)] {
            let image = RgbImage::new(width, height, vec![9; width * height * 3]);
            let tensor = ClipPreprocessor::new(224).prepare(&[image], &Device::Cpu).unwrap();
            assert_eq!(tensor.dims(), [1, 3, 224, 224]);
        }
    }

    #[test]
    fn an_image_smaller_than_the_crop_gets_a_black_margin() {
        let input = config(r#"{"size": 2, "crop_size": 5}"#).unwrap();
        let cropped = input.resize_and_crop(&RgbImage::new(2, 2, vec![7; 12]));
        let lit: Vec<usize> = (0..25).filter(|pixel| cropped.data()[pixel * 3] == 7).collect();
        assert_eq!(lit, [12, 13, 17, 18]);
    }
}

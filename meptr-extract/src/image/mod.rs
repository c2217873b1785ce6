//! Images in memory.

mod pixel_box;

use std::sync::Arc;
#[cfg(feature = "cuda")]
use std::sync::OnceLock;

#[cfg(feature = "cuda")]
use candle::{Device, Tensor};
#[cfg(feature = "cuda")]
use meptr_core::kernels::cuda::SampleSource;

pub use pixel_box::PixelBox;

/// 8-bit RGB image, rows from the top, without padding; clones share the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RgbImage {
    width: usize,
    height: usize,
    data: Arc<Vec<u8>>,
    #[cfg(feature = "cuda")]
    on_gpu: OnGpu,
}

/// Copy of an image's bytes on a GPU, made on first use.
#[cfg(feature = "cuda")]
#[derive(Debug, Clone, Default)]
struct OnGpu(Arc<OnceLock<Tensor>>);

#[cfg(feature = "cuda")]
impl PartialEq for OnGpu {
    fn eq(&self, _: &Self) -> bool {
        true // only a copy
    }
}

#[cfg(feature = "cuda")]
impl Eq for OnGpu {}

impl RgbImage {
    /// Image of `data`, three bytes per pixel.
    ///
    /// # Panics
    /// When `data` does not hold exactly `width * height * 3` bytes, or none.
    pub fn new(width: usize, height: usize, data: Vec<u8>) -> Self {
        assert!(!data.is_empty() && data.len() == width * height * 3, "an image of its size");
        Self {
            width,
            height,
            data: Arc::new(data),
            #[cfg(feature = "cuda")]
            on_gpu: OnGpu::default(),
        }
    }

    /// All bytes on a GPU, u8, copied once and kept as long as the image.
    #[cfg(feature = "cuda")]
    pub(crate) fn on_device(&self, device: &Device) -> candle::Result<Tensor> {
        if let Some(copy) = self.on_gpu.0.get().filter(|copy| copy.device().same_device(device)) {
            return Ok(copy.clone());
        }
        let copy = Tensor::from_slice(self.data(), self.data.len(), device)?;
        let _ = self.on_gpu.0.set(copy.clone()); // the copy on another GPU stays
        Ok(copy)
    }

    /// Pixels per row, at least 1.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows, at least 1.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Pixels per row, and rows.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    /// All bytes, `width * height * 3`.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// The bytes of one row, `width * 3`.
    pub fn row(&self, y: usize) -> &[u8] {
        &self.data[y * self.width * 3..(y + 1) * self.width * 3]
    }

    /// Copies the pixels `x1..x2`, `y1..y2`; `None` when these hold no pixel of the image.
    ///
    /// Edges beyond the image are clamped.
    pub fn crop(&self, x1: usize, y1: usize, x2: usize, y2: usize) -> Option<Self> {
        let (x2, y2) = (x2.min(self.width), y2.min(self.height));
        if x1 >= x2 || y1 >= y2 {
            return None;
        }
        let mut data = Vec::with_capacity((x2 - x1) * (y2 - y1) * 3);
        for y in y1..y2 {
            data.extend_from_slice(&self.row(y)[x1 * 3..x2 * 3]);
        }
        Some(Self::new(x2 - x1, y2 - y1, data))
    }
}

/// Images on a GPU, as its sampling kernel takes them.
#[cfg(feature = "cuda")]
pub(crate) fn sample_sources(
    images: &[&RgbImage],
    device: &Device,
) -> candle::Result<Vec<SampleSource>> {
    let source = |image: &&RgbImage| {
        Ok(SampleSource { image: image.on_device(device)?, width: image.width() })
    };
    images.iter().map(source).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crop_holds_the_named_pixels() {
        let image = RgbImage::new(3, 2, (0..18).collect());
        let crop = image.crop(1, 1, 9, 9).unwrap();
        assert_eq!((crop.width(), crop.height()), (2, 1));
        assert_eq!(crop.data(), [12, 13, 14, 15, 16, 17]);
        assert_eq!(image.crop(3, 0, 4, 1), None);
        assert_eq!(image.crop(2, 0, 2, 1), None);
    }
}

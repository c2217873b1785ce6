//! Detection of faces, as in MediaPipe.

use candle::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use meptr_core::device::BatchSize;
#[cfg(feature = "cuda")]
use meptr_core::kernels::cuda;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::blazeface::{FullRange, Letterbox, RawOutput, ShortRange};
use super::{BoundingBox, Detection, Detector, weighted_nms};
use crate::{Error, Result, RgbImage};

/// IoU from which on proposals are merged to one face.
const MIN_MERGED_IOU: f32 = 0.3;
/// Absolute value to which logits are clamped before the sigmoid.
const MAX_LOGIT: f32 = 100.0;
/// Values per anchor: box and six keypoints.
const VALUES: usize = 16;
/// Approximate peak of bytes per image on the device.
const BYTES_PER_PICTURE: u64 = 20 << 20;
/// Images per batch on a GPU with enough free memory.
const MAX_BATCH: usize = 64;

/// The two face detectors of MediaPipe.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaceModel {
    /// Faces within about five metres; the reference's choice.
    #[default]
    FullRange,
    /// Faces within about two metres, as in front of a webcam.
    ShortRange,
}

impl FaceModel {
    /// Published weights, a safetensors file in f16; part of the program.
    pub(crate) fn weights(self) -> &'static [u8] {
        match self {
            Self::FullRange => {
                include_bytes!("../../../weights/face_detector/full_range.safetensors")
            }
            Self::ShortRange => {
                include_bytes!("../../../weights/face_detector/short_range.safetensors")
            }
        }
    }

    /// Side of the network's input, in pixels.
    pub fn input_size(self) -> usize {
        match self {
            Self::FullRange => FullRange::INPUT_SIZE,
            Self::ShortRange => ShortRange::INPUT_SIZE,
        }
    }

    /// Lowest score of a face; fixed in MediaPipe's graphs.
    pub fn min_score(self) -> f32 {
        match self {
            Self::FullRange => 0.6,
            Self::ShortRange => 0.5,
        }
    }

    /// Centres (x, y) of the anchors in the unit square, in the order of the network's output.
    pub fn anchors(self) -> Vec<[f32; 2]> {
        let grids: &[(usize, usize)] = match self {
            Self::FullRange => &[(48, 1)],
            Self::ShortRange => &[(16, 2), (8, 6)],
        };
        let mut anchors = Vec::new();
        for &(cells, anchors_per_cell) in grids {
            let middle = |cell: usize| (cell as f32 + 0.5) / cells as f32;
            for cell in 0..cells * cells {
                let center = [middle(cell % cells), middle(cell / cells)];
                anchors.extend(std::iter::repeat_n(center, anchors_per_cell));
            }
        }
        anchors
    }
}

/// MediaPipe's face detection: letterbox, [`blazeface`](super::blazeface), weighted merging.
///
/// Every detection has six keypoints: right eye, left eye, nose, mouth, right ear, left ear.
#[derive(Debug)]
pub struct FaceDetector {
    model: FaceModel,
    network: Network,
    anchors: Vec<[f32; 2]>,
    batch: BatchSize,
    device: Device,
}

#[derive(Debug)]
enum Network {
    FullRange(Box<FullRange>),
    ShortRange(Box<ShortRange>),
}

impl FaceDetector {
    /// Loads the weights of [`FullRange`] or [`ShortRange`].
    ///
    /// # Errors
    /// When one is missing or has another shape.
    pub fn load(model: FaceModel, vb: VarBuilder) -> candle::Result<Self> {
        let device = vb.device().clone();
        let network = match model {
            FaceModel::FullRange => Network::FullRange(Box::new(FullRange::load(vb)?)),
            FaceModel::ShortRange => Network::ShortRange(Box::new(ShortRange::load(vb)?)),
        };
        let batch = BatchSize::fitting(&device, BYTES_PER_PICTURE, 1, MAX_BATCH);
        Ok(Self { model, network, anchors: model.anchors(), batch, device })
    }

    /// Loads the published weights, which are part of the program.
    ///
    /// # Errors
    /// When the device has no memory for them.
    pub fn bundled(model: FaceModel, device: &Device) -> Result<Self> {
        VarBuilder::from_slice_safetensors(model.weights(), DType::F32, device)
            .and_then(|vb| Self::load(model, vb))
            .map_err(Error::doing("loading the face detector"))
    }

    /// Output of the network for letterboxed images.
    ///
    /// - `squares`: `(batch, size, size, 3)`, u8, RGB, with the model's input size
    ///
    /// # Errors
    /// When the shape differs or the device fails.
    pub fn raw_output(&self, squares: &Tensor) -> candle::Result<RawOutput> {
        match &self.network {
            Network::FullRange(network) => network.forward(squares),
            Network::ShortRange(network) => network.forward(squares),
        }
    }

    fn detect_batch(&self, images: &[&RgbImage]) -> candle::Result<Vec<Vec<Detection>>> {
        let RawOutput { regressors, scores } = self.raw_output(&self.letterboxed(images)?)?;
        let regressors: Vec<Vec<f32>> = regressors.flatten_from(1)?.to_vec2()?;
        let scores: Vec<Vec<f32>> = scores.to_vec2()?;
        Ok(images
            .iter()
            .zip(regressors.iter().zip(&scores))
            .map(|(image, (regressors, scores))| {
                weighted_nms(self.proposals(regressors, scores), MIN_MERGED_IOU)
                    .into_iter()
                    .map(|face| in_pixels(&face, image))
                    .collect()
            })
            .collect())
    }

    /// Letterboxes images, as the input of [`FaceDetector::raw_output`], on the device.
    ///
    /// # Errors
    /// When the device fails.
    pub fn letterboxed(&self, images: &[&RgbImage]) -> candle::Result<Tensor> {
        #[cfg(feature = "cuda")]
        if self.device.is_cuda() {
            let size = self.model.input_size();
            let of_one_size = images.chunk_by(|a, b| a.size() == b.size()).map(|images| {
                let (width, height) = images[0].size();
                let letterbox = Letterbox::around(width, height);
                if letterbox.has_ties(size) {
                    return self.letterboxed_on_cpu(images);
                }
                let sources = crate::image::sample_sources(images, &self.device)?;
                let table = letterbox.sampling((width, height), size);
                cuda::sample(&sources, &table, &self.device)
            });
            return Tensor::cat(&of_one_size.collect::<candle::Result<Vec<_>>>()?, 0);
        }
        self.letterboxed_on_cpu(images)
    }

    /// Like [`Self::letterboxed`], sampled on the CPU.
    fn letterboxed_on_cpu(&self, images: &[&RgbImage]) -> candle::Result<Tensor> {
        let size = self.model.input_size();
        let mut squares = Vec::with_capacity(images.len() * size * size * 3);
        for image in images {
            let letterbox = Letterbox::around(image.width(), image.height());
            squares.extend_from_slice(&letterbox.sample(image, size));
        }
        Tensor::from_vec(squares, (images.len(), size, size, 3), &self.device)
    }

    /// Proposals of the anchors of one image, in the unit square of the letterbox.
    fn proposals(&self, regressors: &[f32], scores: &[f32]) -> Vec<Detection> {
        let size = self.model.input_size() as f32;
        let score = |logit: f32| 1.0 / (1.0 + (-logit.clamp(-MAX_LOGIT, MAX_LOGIT)).exp());
        let anchors = self.anchors.iter().zip(regressors.chunks_exact(VALUES));
        anchors
            .zip(scores.iter().map(|logit| score(*logit)))
            .filter(|(_, score)| *score >= self.model.min_score())
            .map(|((anchor, values), score)| {
                let point =
                    |at: usize| [values[at] / size + anchor[0], values[at + 1] / size + anchor[1]];
                let bounds = BoundingBox::around(point(0), values[2] / size, values[3] / size);
                let keypoints = (4..VALUES).step_by(2).map(point).collect();
                Detection { bounds, score, keypoints }
            })
            .filter(|face| face.bounds.x2 >= face.bounds.x1 && face.bounds.y2 >= face.bounds.y1)
            .collect()
    }
}

impl Detector for FaceDetector {
    fn detect(&self, images: &[&RgbImage]) -> Result<Vec<Vec<Detection>>> {
        let batch = |images: &[&RgbImage]| {
            self.detect_batch(images).map_err(Error::doing("detecting faces"))
        };
        if self.device.is_cpu() {
            // One image per task, so that all threads are busy.
            let found: Result<Vec<_>> = images.par_chunks(1).map(batch).collect();
            return Ok(found?.concat());
        }
        let found = self.batch.run(images.len(), |range| batch(&images[range]))?;
        Ok(found.into_iter().flatten().collect())
    }
}

/// Converts a detection from the unit square of the letterbox to pixels of the image.
///
/// MediaPipe returns corner and size relative to the image, as f32, and the reference computes pixels
/// from those. The same roundings are made here, because the pixels are then truncated.
fn in_pixels(face: &Detection, image: &RgbImage) -> Detection {
    let letterbox = Letterbox::around(image.width(), image.height());
    let (width, height) = (image.width() as f32, image.height() as f32);
    let relative = |point: [f32; 2]| {
        let [x, y] = letterbox.to_picture(point);
        [x / width, y / height]
    };
    let [x_min, y_min] = relative([face.bounds.x1, face.bounds.y1]);
    let [x_max, y_max] = relative([face.bounds.x2, face.bounds.y2]);
    let end = |min: f32, max: f32, size: f32| {
        ((f64::from(min) + f64::from(max - min)) * f64::from(size)) as f32
    };
    let bounds = BoundingBox {
        x1: x_min * width,
        y1: y_min * height,
        x2: end(x_min, x_max, width),
        y2: end(y_min, y_max, height),
    };
    let pixels = |point: &[f32; 2]| letterbox.to_picture(*point);
    Detection { bounds, score: face.score, keypoints: face.keypoints.iter().map(pixels).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_networks_come_with_the_program() -> Result<()> {
        for model in [FaceModel::FullRange, FaceModel::ShortRange] {
            let detector = FaceDetector::bundled(model, &Device::Cpu)?;
            assert_eq!(detector.detect(&[])?, Vec::<Vec<Detection>>::new());
        }
        Ok(())
    }

    #[test]
    fn nothing_is_found_where_nothing_is() -> Result<()> {
        let detector = FaceDetector::bundled(FaceModel::FullRange, &Device::Cpu)?;
        let sizes = [(1, 1), (1, 900), (641, 3), (4097, 2161)];
        let images = sizes.map(|(w, h)| RgbImage::new(w, h, vec![127; w * h * 3]));
        let found = detector.detect(&images.each_ref())?;
        assert_eq!(found, vec![Vec::new(); sizes.len()]);
        Ok(())
    }

    #[test]
    fn a_proposal_is_read_relative_to_its_anchor() -> Result<()> {
        let detector = FaceDetector::bundled(FaceModel::FullRange, &Device::Cpu)?;
        let mut scores = vec![-200.0; 48 * 48];
        let mut regressors = vec![0.0; 48 * 48 * VALUES];
        let anchor = 48 + 2; // second row, third column
        scores[anchor] = 200.0;
        regressors[anchor * VALUES..][..6].copy_from_slice(&[96.0, 0.0, 19.2, 38.4, 9.6, -9.6]);
        scores[0] = 5.0;
        regressors[2] = -1.0; // a width below 0
        let found = detector.proposals(&regressors, &scores);
        assert_eq!(found.len(), 1);
        let center = [2.5 / 48.0 + 0.5, 1.5 / 48.0];
        assert_eq!(found[0].bounds, BoundingBox::around(center, 0.1, 0.2));
        assert_eq!(found[0].keypoints[0], [2.5 / 48.0 + 0.05, 1.5 / 48.0 - 0.05]);
        assert_eq!(found[0].score, 1.0);
        Ok(())
    }

    #[test]
    fn a_face_at_the_border_keeps_its_part_outside() {
        let image = RgbImage::new(200, 100, vec![0; 200 * 100 * 3]);
        let bounds = BoundingBox::new(-0.125, 0.25, 0.25, 0.5);
        let face = Detection { bounds, score: 0.9, keypoints: vec![[0.5, 0.5]] };
        let found = in_pixels(&face, &image);
        assert_eq!(found.bounds, BoundingBox::new(-25.0, 0.0, 50.0, 50.0));
        assert_eq!(found.keypoints, [[100.0, 50.0]]);
    }
}

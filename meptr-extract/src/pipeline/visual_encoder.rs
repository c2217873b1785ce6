//! Visual encoder: detection of faces and bodies, crops, and CLIP.

use std::collections::HashMap;
use std::path::Path;

use candle::{Device, Tensor};
use candle_nn::VarBuilder;
use meptr_core::bundle::Bundle;
use meptr_core::device::BatchSize;
use meptr_core::weights::load_file;

use super::compute_target::ComputeTarget;
use super::fallback::{AvailableDetectors, choose_crops};
use super::timings::StepTimings;
use super::visual_features::VisualFeatures;
use crate::backbones::{ClipPreprocessor, ClipVision, FromCheckpoint};
use crate::detect::tracker::BotSort;
use crate::detect::{
    BodyConfig, BodyDetector, BoundingBox, Crop, Detection, Detector, FaceDetector, FaceModel,
    FrameBoxes, yolo,
};
use crate::image::PixelBox;
use crate::load_errors::{COLLECTED, LoadErrors};
use crate::{Error, Result, RgbImage};

/// Crops per batch of CLIP; limits the memory of its activations.
const MAX_BATCH: usize = 128;
/// Crops per batch of CLIP on a GPU with enough free memory.
const MAX_GPU_BATCH: usize = 1024;

/// CLIP, its preprocessing, and the detectors.
#[derive(Debug)]
pub(super) struct VisualEncoder {
    input: ClipPreprocessor,
    model: ClipVision,
    /// Crops per batch.
    batch: BatchSize,
    faces: Option<Box<dyn Detector>>,
    bodies: Option<Box<dyn Detector>>,
    device: Device,
}

impl VisualEncoder {
    pub(super) fn open(bundle: &Bundle, target: &ComputeTarget) -> Result<Self> {
        let device = &target.device;
        let parts = &bundle.manifest().parts;
        let folder = bundle.path(&parts.clip.folder);
        let mut errors = LoadErrors::default();
        let model = errors.collect(ClipVision::open(&folder, device, target.precision))?;
        let faces = parts.face_detector.as_ref().map(|part| -> Result<Box<dyn Detector>> {
            let path = bundle.path(&part.file);
            let model = face_model(&path, &part.kind)?;
            Ok(Box::new(load_file(&path, device, |_| false, |vb| FaceDetector::load(model, vb))?))
        });
        let bodies = parts.body_detector.as_ref().map(|part| -> Result<Box<dyn Detector>> {
            let path = bundle.path(&part.file);
            let config = body_config(&path, &part.config)?;
            let load = |vb: VarBuilder| BodyDetector::load(&config, vb);
            Ok(Box::new(load_file(&path, device, yolo::may_be_left, load)?))
        });
        let faces = errors.collect(faces.transpose())?;
        let bodies = errors.collect(bodies.transpose())?;
        errors.finish()?;
        let model = model.expect(COLLECTED);
        Ok(Self {
            input: ClipPreprocessor::open(&folder)?,
            batch: BatchSize::fitting(device, model.bytes_per_image(), MAX_BATCH, MAX_GPU_BATCH),
            model,
            faces: faces.expect(COLLECTED),
            bodies: bodies.expect(COLLECTED),
            device: device.clone(),
        })
    }

    /// Whether it computes on a GPU.
    pub(super) fn is_on_gpu(&self) -> bool {
        !self.device.is_cpu()
    }

    fn available_detectors(&self) -> AvailableDetectors {
        AvailableDetectors { face: self.faces.is_some(), body: self.bodies.is_some() }
    }

    /// Replaces the face detector.
    pub(super) fn set_face_detector(&mut self, detector: Box<dyn Detector>) {
        self.faces = Some(detector);
    }

    /// Replaces the body detector.
    pub(super) fn set_body_detector(&mut self, detector: Box<dyn Detector>) {
        self.bodies = Some(detector);
    }

    /// Releases the pages of mapped weights until the next video.
    pub(super) fn release(&self) {
        self.model.release();
    }

    /// Detects, crops and encodes frames, in their order. `tracker`, if there is one, has tracked the
    /// bodies of the frames before.
    pub(super) fn encode(
        &self,
        frames: &[&RgbImage],
        tracker: Option<&mut BotSort>,
        timings: &mut StepTimings,
    ) -> Result<VisualFeatures> {
        let boxes = self.detect(frames, tracker, timings)?;
        let (crops, fallbacks) = choose_crops(&boxes, self.available_detectors());
        let (distinct, row_of_crop) = distinct_crops(&crops);
        let rows = timings.time("clip", || self.encode_crops(frames, &distinct))?;
        Ok(VisualFeatures { boxes, crops, fallbacks, rows, row_of_crop })
    }

    /// Faces and bodies of frames.
    fn detect(
        &self,
        frames: &[&RgbImage],
        tracker: Option<&mut BotSort>,
        timings: &mut StepTimings,
    ) -> Result<Vec<FrameBoxes>> {
        let faces = timings.time("faces", || detect_if_any(self.faces.as_deref(), frames))?;
        let bodies = timings.time("bodies", || detect_if_any(self.bodies.as_deref(), frames))?;
        let bodies = match tracker.filter(|_| self.bodies.is_some()) {
            Some(tracker) => timings.time("body tracking", || tracker.track(frames, bodies)),
            None => bodies,
        };
        let detections = frames.iter().zip(faces.into_iter().zip(bodies));
        let boxes = detections.map(|(frame, (faces, bodies))| FrameBoxes {
            width: frame.width(),
            height: frame.height(),
            faces: bounds(faces),
            bodies: bounds(bodies),
        });
        Ok(boxes.collect())
    }

    /// CLIP features of crops, each given by its frame and pixels, `(crops, width)`, f32.
    fn encode_crops(&self, frames: &[&RgbImage], crops: &[(usize, PixelBox)]) -> Result<Tensor> {
        let rows = self.batch.run(crops.len(), |batch| {
            let batch = crops[batch].iter();
            let parts: Vec<_> = batch.map(|(frame, bounds)| (frames[*frame], *bounds)).collect();
            let pixels = self.input.prepare_crops(&parts, &self.device)?;
            self.model.forward(&pixels).map_err(Error::doing("running CLIP"))
        })?;
        Tensor::cat(&rows, 0).map_err(Error::doing("joining the features of crops"))
    }
}

fn face_model(path: &Path, kind: &str) -> Result<FaceModel> {
    match kind {
        "full_range" => Ok(FaceModel::FullRange),
        "short_range" => Ok(FaceModel::ShortRange),
        _ => {
            let why = format!("its kind `{kind}` is neither `full_range` nor `short_range`");
            Err(Error::BackboneFile { path: path.to_owned(), what: "face detector", why })
        }
    }
}

fn body_config(path: &Path, config: &serde_json::Value) -> Result<BodyConfig> {
    serde_json::from_value(config.clone()).map_err(|error| Error::BackboneFile {
        path: path.to_owned(),
        what: "body detector (its configuration in the manifest)",
        why: error.to_string(),
    })
}

/// Detections of each frame; none without a detector.
fn detect_if_any(
    detector: Option<&dyn Detector>,
    frames: &[&RgbImage],
) -> Result<Vec<Vec<Detection>>> {
    match detector {
        Some(detector) => detector.detect(frames),
        None => Ok(vec![Vec::new(); frames.len()]),
    }
}

fn bounds(detections: Vec<Detection>) -> Vec<BoundingBox> {
    detections.into_iter().map(|detection| detection.bounds).collect()
}

/// Distinct crops, and the index of each crop among them: a whole frame that is used as face, body and
/// scene is encoded once.
fn distinct_crops(crops: &[Crop]) -> (Vec<(usize, PixelBox)>, Vec<u32>) {
    let mut rows = HashMap::new();
    let mut distinct = Vec::new();
    let row_of_crop = crops.iter().map(|crop| {
        let key = (crop.frame, crop.bounds);
        *rows.entry(key).or_insert_with(|| {
            distinct.push(key);
            distinct.len() as u32 - 1
        })
    });
    let row_of_crop = row_of_crop.collect();
    (distinct, row_of_crop)
}

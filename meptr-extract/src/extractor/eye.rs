//! Pictures: faces and bodies found, cut out, and read by CLIP.

use std::collections::HashMap;
use std::path::Path;

use candle::{Device, Tensor};
use candle_nn::VarBuilder;
use meptr_core::Modality;
use meptr_core::bundle::Bundle;
use meptr_core::device::BatchSize;
use meptr_core::weights::load_file;

use super::Place;
use super::steps::Steps;
use crate::backbones::{ClipPreprocessor, ClipVision, FromCheckpoint};
use crate::detect::tracker::BotSort;
use crate::detect::{
    BodyConfig, BodyDetector, Crop, CropSource, Detector, FaceDetector, FaceModel, FrameBoxes,
    crops, yolo,
};
use crate::image::PixelBox;
use crate::unfit::{NOTED, Unfit};
use crate::{Error, Result, RgbImage};

/// Crops that go through CLIP together; bounds the memory of its activations.
const MAX_BATCH: usize = 128;
/// The same on a GPU with memory to spare.
const MAX_GPU_BATCH: usize = 1024;

/// CLIP with its preparation, and the detectors of the bundle.
#[derive(Debug)]
pub(super) struct Eye {
    input: ClipPreprocessor,
    model: ClipVision,
    /// Crops that CLIP reads at a time.
    batch: BatchSize,
    faces: Option<Box<dyn Detector>>,
    bodies: Option<Box<dyn Detector>>,
    device: Device,
}

/// What was seen in some frames.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Faces and bodies of each frame.
    pub boxes: Vec<FrameBoxes>,
    /// What was cut out, in the reference's order; `frame` counts within `boxes`.
    pub crops: Vec<Crop>,
    /// CLIP's features, `(different crops, width)`.
    rows: Tensor,
    /// For each crop, its row.
    row_of: Vec<u32>,
}

impl Eye {
    pub(super) fn open(bundle: &Bundle, Place { device, precision }: &Place) -> Result<Self> {
        let parts = &bundle.manifest().parts;
        let folder = bundle.path(&parts.clip.folder);
        let mut unfit = Unfit::default();
        let model = unfit.note(ClipVision::open(&folder, device, *precision))?;
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
        let faces = unfit.note(faces.transpose())?;
        let bodies = unfit.note(bodies.transpose())?;
        unfit.finish()?;
        let model = model.expect(NOTED);
        Ok(Self {
            input: ClipPreprocessor::open(&folder)?,
            batch: BatchSize::fitting(device, model.bytes_per_image(), MAX_BATCH, MAX_GPU_BATCH),
            model,
            faces: faces.expect(NOTED),
            bodies: bodies.expect(NOTED),
            device: device.clone(),
        })
    }

    /// Whether it computes on a GPU.
    pub(super) fn is_on_gpu(&self) -> bool {
        !self.device.is_cpu()
    }

    /// Whether there is a face detector, and whether there is a body detector.
    pub(super) fn detectors(&self) -> [bool; 2] {
        [self.faces.is_some(), self.bodies.is_some()]
    }

    /// Finds faces with another detector than the bundle's.
    pub(super) fn set_face_detector(&mut self, detector: Box<dyn Detector>) {
        self.faces = Some(detector);
    }

    /// Finds bodies with another detector than the bundle's.
    pub(super) fn set_body_detector(&mut self, detector: Box<dyn Detector>) {
        self.bodies = Some(detector);
    }

    /// Lets go of the weights until the next video, where they are mapped.
    pub(super) fn release(&self) {
        self.model.release();
    }

    /// Looks at frames, in their order; `tracker`, if there is one, has followed the bodies of those
    /// before.
    pub(super) fn look(
        &self,
        frames: &[&RgbImage],
        tracker: Option<&mut BotSort>,
        steps: &mut Steps,
    ) -> Result<Seen> {
        let boxes_of = |detector: &Option<Box<dyn Detector>>| match detector {
            Some(detector) => detector.detect(frames),
            None => Ok(vec![Vec::new(); frames.len()]),
        };
        let faces = steps.time("faces", || boxes_of(&self.faces))?;
        let bodies = steps.time("bodies", || boxes_of(&self.bodies))?;
        let bodies = match tracker.filter(|_| self.bodies.is_some()) {
            Some(tracker) => steps.time("following bodies", || tracker.follow(frames, bodies)),
            None => bodies,
        };
        let boxes: Vec<FrameBoxes> = frames
            .iter()
            .zip(faces.into_iter().zip(bodies))
            .map(|(frame, (faces, bodies))| FrameBoxes {
                width: frame.width(),
                height: frame.height(),
                faces: faces.into_iter().map(|face| face.bounds).collect(),
                bodies: bodies.into_iter().map(|body| body.bounds).collect(),
            })
            .collect();
        let mut crops = crops(&boxes);
        if self.bodies.is_none() {
            add_missing_bodies(&boxes, &mut crops);
        }
        let (distinct, row_of) = distinct(&crops);
        let rows = steps.time("clip", || self.features(frames, &distinct))?;
        Ok(Seen { boxes, crops, rows, row_of })
    }

    /// CLIP's features of some crops, `(crops, width)`.
    fn features(&self, frames: &[&RgbImage], crops: &[(usize, PixelBox)]) -> Result<Tensor> {
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

/// Without a body detector, the whole of a frame with faces stands for their bodies: nothing is
/// known about bodies then, while a detector that finds none says that there are none.
fn add_missing_bodies(boxes: &[FrameBoxes], crops: &mut Vec<Crop>) {
    let with_faces = boxes.iter().enumerate().filter(|(_, boxes)| !boxes.faces.is_empty());
    crops.extend(with_faces.map(|(frame, boxes)| Crop {
        frame,
        modality: Modality::Body,
        bounds: PixelBox::whole(boxes.width, boxes.height),
        source: CropSource::Frame,
    }));
    crops.sort_by_key(|crop| crop.frame);
}

/// The different crops of frames, and which of them each crop is: where a whole frame stands in
/// for a face and a body, it is read once.
fn distinct(crops: &[Crop]) -> (Vec<(usize, PixelBox)>, Vec<u32>) {
    let mut rows = HashMap::new();
    let mut distinct = Vec::new();
    let row_of = crops.iter().map(|crop| {
        let key = (crop.frame, crop.bounds);
        *rows.entry(key).or_insert_with(|| {
            distinct.push(key);
            distinct.len() as u32 - 1
        })
    });
    let row_of = row_of.collect();
    (distinct, row_of)
}

impl Seen {
    /// CLIP's features of some crops, by their places, `(1, crops, width)`; `None` without any.
    ///
    /// # Errors
    /// When the device has no memory for them.
    ///
    /// # Panics
    /// When there is no such crop.
    pub fn features(&self, places: &[usize]) -> Result<Option<Tensor>> {
        let rows: Vec<u32> = places.iter().map(|place| self.row_of[*place]).collect();
        if rows.is_empty() {
            return Ok(None);
        }
        let select = || {
            let count = rows.len();
            let rows = Tensor::from_vec(rows, count, self.rows.device())?;
            self.rows.index_select(&rows, 0)?.unsqueeze(0)
        };
        select().map(Some).map_err(Error::doing("choosing the features of crops"))
    }

    /// Places of the crops of a modality.
    pub fn places(&self, modality: Modality) -> impl Iterator<Item = usize> {
        let crops = self.crops.iter().enumerate();
        crops.filter(move |(_, crop)| crop.modality == modality).map(|(place, _)| place)
    }

    /// Why there are no crops of a visual modality in frames that were looked at.
    pub(crate) fn why_absent(modality: Modality) -> &'static str {
        match modality {
            Modality::Body => "no body was found around any face",
            _ => "no face holds a pixel of the picture",
        }
    }

    /// Adds what was seen in the frames that follow.
    pub(super) fn append(&mut self, next: Self) -> Result<()> {
        let frames = self.boxes.len();
        let rows = self.rows.dim(0).map_err(Error::doing("counting features"))? as u32;
        self.rows = Tensor::cat(&[&self.rows, &next.rows], 0)
            .map_err(Error::doing("joining the features of crops"))?;
        self.boxes.extend(next.boxes);
        let crops = next.crops.into_iter();
        self.crops.extend(crops.map(|crop| Crop { frame: crop.frame + frames, ..crop }));
        self.row_of.extend(next.row_of.into_iter().map(|row| row + rows));
        Ok(())
    }
}

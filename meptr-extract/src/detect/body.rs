//! Detection of bodies, as in Ultralytics.

use candle::{DType, Device, Tensor, bail};
use candle_nn::VarBuilder;
use meptr_core::device::BatchSize;
#[cfg(feature = "cuda")]
use meptr_core::kernels::cuda;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::yolo::{Yolo, YoloConfig, YoloLetterbox};
use super::{BoundingBox, Detection, Detector, nms};
use crate::{Error, Result, RgbImage};

/// Longer side of the network's input, pixels.
const INPUT_SIZE: usize = 640;
/// Lowest score of a detection; low, because the tracker of the reference makes the choice.
const MIN_SCORE: f32 = 0.01;
/// Largest IoU of two detections that are both kept.
const MAX_IOU: f32 = 0.5;
/// Detections per image, at most.
const MAX_DETECTIONS: usize = 300;
/// Images per batch; limits the memory to about 500 MB for the largest network.
const MAX_BATCH: usize = 8;
/// Images per batch on a GPU with enough free memory.
const MAX_GPU_BATCH: usize = 32;
/// Approximate peak of bytes per image on a GPU, where a convolution copies its input with im2col.
const BYTES_PER_PICTURE: u64 = 256 << 20;

/// Body detector: its network, and its class of persons.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BodyConfig {
    /// Size of the network.
    pub network: YoloConfig,
    /// Names of the classes in their order; empty when the file does not state them.
    #[serde(default)]
    pub class_names: Vec<String>,
    /// Class of persons.
    #[serde(default)]
    pub person: PersonClass,
}

/// Class of persons, by index or name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PersonClass {
    /// Index among the classes, from 0.
    Index(usize),
    /// Name among `class_names`.
    Name(String),
}

impl Default for PersonClass {
    fn default() -> Self {
        Self::Index(0)
    }
}

impl BodyConfig {
    /// Index of the class of persons; `None` when there is none.
    pub fn person_index(&self) -> Option<usize> {
        let index = match &self.person {
            PersonClass::Index(index) => Some(*index),
            PersonClass::Name(name) => self.class_names.iter().position(|known| known == name),
        };
        index.filter(|index| *index < self.network.classes)
    }
}

/// Ultralytics' detection of persons: letterbox, [`Yolo`], NMS.
///
/// Images are RGB, but the network is given BGR: the reference passes RGB arrays to a library that
/// expects BGR and swaps the channels.
#[derive(Debug)]
pub struct BodyDetector {
    network: Yolo,
    person: usize,
    batch: BatchSize,
    device: Device,
}

impl BodyDetector {
    /// Loads the weights of [`Yolo`].
    ///
    /// # Errors
    /// When one is missing or has another shape, or the configuration has no class of persons.
    pub fn load(config: &BodyConfig, vb: VarBuilder) -> candle::Result<Self> {
        let Some(person) = config.person_index() else {
            bail!("the body detector has no class {:?} of persons", config.person);
        };
        let problems = config.network.problems();
        if !problems.is_empty() {
            bail!("the network of the body detector: {}", problems.join("; "));
        }
        let device = vb.device().clone();
        let batch = BatchSize::fitting(&device, BYTES_PER_PICTURE, MAX_BATCH, MAX_GPU_BATCH);
        Ok(Self { network: Yolo::load(&config.network, vb)?, person, batch, device })
    }

    /// Output of the network for letterboxed images of one size, see [`Yolo::forward`].
    ///
    /// - `inputs`: `(batch, height, width, 3)`, u8, RGB
    ///
    /// # Errors
    /// When the shape differs or the device fails.
    pub fn raw_output(&self, inputs: &Tensor) -> candle::Result<Tensor> {
        if inputs.device().is_cpu() {
            return self.network.forward(&pictures_on_cpu(inputs)?);
        }
        let channels = inputs.to_dtype(DType::F32)?.affine(1.0 / 255.0, 0.0)?.chunk(3, 3)?;
        let [red, green, blue] = &channels[..] else { bail!("three channels, not {inputs:?}") };
        let pictures = Tensor::cat(&[blue, green, red], 3)?.permute((0, 3, 1, 2))?.contiguous()?;
        self.network.forward(&pictures)
    }

    fn detect_batch(&self, images: &[&RgbImage]) -> candle::Result<Vec<Vec<Detection>>> {
        let first = images.first().expect("a batch has images");
        let letterbox = YoloLetterbox::new(first.width(), first.height(), INPUT_SIZE, true);
        let inputs = self.letterboxed(images, &letterbox)?;
        let output = self.raw_output(&inputs)?.to_device(&Device::Cpu)?;
        (0..images.len())
            .map(|index| persons(&output.get(index)?, self.person, &letterbox))
            .collect()
    }

    /// Letterboxes images of one size, as the input of [`BodyDetector::raw_output`], on the device.
    ///
    /// # Errors
    /// When the device fails.
    pub fn letterboxed(
        &self,
        images: &[&RgbImage],
        letterbox: &YoloLetterbox,
    ) -> candle::Result<Tensor> {
        #[cfg(feature = "cuda")]
        if self.device.is_cuda() {
            let sources = crate::image::sample_sources(images, &self.device)?;
            return cuda::sample(&sources, &letterbox.sampling(), &self.device);
        }
        let [width, height] = letterbox.input_size();
        let inputs: Vec<Vec<u8>> = images.par_iter().map(|image| letterbox.sample(image)).collect();
        Tensor::from_vec(inputs.concat(), (images.len(), height, width, 3), &self.device)
    }
}

impl Detector for BodyDetector {
    fn detect(&self, images: &[&RgbImage]) -> Result<Vec<Vec<Detection>>> {
        let mut found = Vec::with_capacity(images.len());
        for same in images.chunk_by(|a, b| a.size() == b.size()) {
            let batches = self.batch.run(same.len(), |batch| {
                self.detect_batch(&same[batch]).map_err(Error::doing("detecting bodies"))
            })?;
            found.extend(batches.into_iter().flatten());
        }
        Ok(found)
    }
}

/// Converts bytes `(batch, height, width, 3)` to the network's input, BGR in 0 to 1, `(batch, 3,
/// height, width)` over channels-last memory, the layout of the CPU kernels.
fn pictures_on_cpu(inputs: &Tensor) -> candle::Result<Tensor> {
    let dims = inputs.dims4()?;
    if dims.3 != 3 {
        bail!("three channels, not {inputs:?}");
    }
    let bytes: Vec<u8> = inputs.flatten_all()?.to_vec1()?;
    let mut values = vec![0.0; bytes.len()];
    let task = 3 << 14;
    values.par_chunks_mut(task).zip(bytes.par_chunks(task)).for_each(|(values, bytes)| {
        for (values, bytes) in values.chunks_exact_mut(3).zip(bytes.chunks_exact(3)) {
            for (value, byte) in values.iter_mut().zip(bytes.iter().rev()) {
                *value = f32::from(*byte) * (1.0 / 255.0);
            }
        }
    });
    Tensor::from_vec(values, dims, inputs.device())?.permute((0, 3, 1, 2))
}

/// Persons of one image, best first, in pixels of the image.
///
/// - `output`: `(4 + classes, anchors)`, f32, as [`BodyDetector::raw_output`] gives it
/// - `person`: the class of persons
/// - `letterbox`: the letterbox of the image
///
/// # Errors
/// When the shape differs.
pub fn persons(
    output: &Tensor,
    person: usize,
    letterbox: &YoloLetterbox,
) -> candle::Result<Vec<Detection>> {
    let rows: Vec<Vec<f32>> = output.to_vec2()?;
    let [xs, ys, widths, heights, classes @ ..] = &rows[..] else {
        bail!("no boxes in {output:?}")
    };
    let Some(scores) = classes.get(person) else { bail!("no class {person} in {output:?}") };
    let is_person = |anchor: usize| {
        let score = scores[anchor];
        score > MIN_SCORE && classes.iter().all(|class| class[anchor] <= score)
    };
    let persons = (0..xs.len()).filter(|anchor| is_person(*anchor)).map(|anchor| {
        let center = [xs[anchor], ys[anchor]];
        let bounds = BoundingBox::around(center, widths[anchor], heights[anchor]);
        Detection { bounds, score: scores[anchor], keypoints: Vec::new() }
    });
    let mut persons = nms(persons.collect(), MAX_IOU);
    persons.truncate(MAX_DETECTIONS);
    for person in &mut persons {
        person.bounds = letterbox.to_picture(&person.bounds);
    }
    Ok(persons)
}

#[cfg(test)]
mod tests {
    use meptr_core::weights::generate;

    use super::*;

    fn config(classes: usize, person: PersonClass) -> BodyConfig {
        let network =
            YoloConfig { width_multiple: 0.125, depth_multiple: 0.33, max_channels: 64, classes };
        let class_names = ["car", "person"].map(str::to_owned).to_vec();
        BodyConfig { network, class_names, person }
    }

    #[test]
    fn persons_are_found_by_name_or_place() {
        let by_name = |name: &str| config(2, PersonClass::Name(name.into())).person_index();
        assert_eq!((by_name("person"), by_name("tree")), (Some(1), None));
        let by_place = |index| config(2, PersonClass::Index(index)).person_index();
        assert_eq!((by_place(0), by_place(2)), (Some(0), None));
        let read: BodyConfig = serde_json::from_str(
            r#"{"network": {"width_multiple": 0.25, "depth_multiple": 0.33, "max_channels": 1024,
                "classes": 80}, "class_names": ["person"], "person": "person"}"#,
        )
        .unwrap();
        assert_eq!((read.person_index(), read.network), (Some(0), YoloConfig::nano(80)));
    }

    #[test]
    fn a_network_without_persons_is_refused() {
        let refused = generate(1, &Device::Cpu, |vb| {
            BodyDetector::load(&config(2, PersonClass::Index(5)), vb)
        });
        assert!(refused.is_err());
    }

    #[test]
    fn only_anchors_whose_best_class_is_a_person_count() -> candle::Result<()> {
        let output = [
            [20f32, 21.0, 100.0, 300.0, 500.0],
            [20.0, 20.0, 100.0, 300.0, 500.0],
            [10.0, 10.0, 20.0, 0.0, 20.0],
            [10.0, 10.0, 20.0, 0.0, 20.0],
            [0.1, 0.1, 0.9, 0.0, 0.0],    // cars
            [0.5, 0.6, 0.8, 0.02, 0.009], // persons
        ];
        let output = Tensor::new(&output, &Device::Cpu)?;
        let letterbox = YoloLetterbox::new(1280, 1280, 640, true);
        assert!(persons(&output, 2, &letterbox).is_err(), "there is no such class");
        let no_boxes = Tensor::zeros((3, 5), candle::DType::F32, &Device::Cpu)?;
        assert!(persons(&no_boxes, 0, &letterbox).is_err());
        let persons = persons(&output, 1, &letterbox)?;
        let scores: Vec<f32> = persons.iter().map(|person| person.score).collect();
        assert_eq!(scores, [0.6, 0.02]);
        assert_eq!(persons[0].bounds, BoundingBox::new(32.0, 30.0, 52.0, 50.0));
        Ok(())
    }

    #[test]
    fn pictures_of_any_size_keep_their_order() -> Result<()> {
        let (detector, _) = generate(1, &Device::Cpu, |vb| {
            BodyDetector::load(&config(1, PersonClass::Index(0)), vb)
        })
        .map_err(Error::doing("making a network"))?;
        let images: Vec<RgbImage> = [(33, 17), (33, 17), (1, 90), (33, 17)]
            .map(|(w, h)| RgbImage::new(w, h, (0..w * h * 3).map(|n| n as u8).collect()))
            .to_vec();
        let images: Vec<&RgbImage> = images.iter().collect();
        let found = detector.detect(&images)?;
        assert_eq!(found.len(), 4);
        assert_eq!(found[0], found[3]);
        assert_eq!(detector.detect(&[])?.len(), 0);
        Ok(())
    }
}

//! Whole videos through the program as users run it, against the reference at every step.
//!
//! Source of the data: the reference application's own extractors, cropping, heads and fusion on
//! the CPU in f32, with small generated backbones and heads of real size; body boxes and transcript
//! are given. It comes with clips that are not ours to pass on, so the test is ignored unless
//! `scripts/test.sh` runs with a `MEPTR_GOLDEN` that names a folder with them.
//!
//! Numbers of frames, crops (bytes of every one), token ids and lengths are equal. Values differ by
//! at most 1e-3 (as the data's index suggests for long chains) of the largest of a tensor, or of 1;
//! pixels and sound, with nothing long before them, by 1e-5. Found on two cores with AVX-512: pixels
//! of the first rows and sound equal, features off by 4e-6, vectors by 1e-5, results by 7e-7.

use crate::golden;
use crate::support;
use crate::support::e2e_bundle;
use crate::support::taken;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use candle::{DType, Device, Tensor};
use e2e_bundle::CaseBundle;
use golden::Case;
use meptr_core::bundle::Bundle;
use meptr_core::models::{FusionInput, ModalityInput, ScoreTransform};
use meptr_core::{Modality, PerModality, Precision, VideoPrediction};
use meptr_extract::RgbImage;
use meptr_extract::backbones::{BertTokenizer, ClipPreprocessor};
use meptr_extract::decode::{DecodeOptions, Event, Limits, Reader};
use meptr_extract::detect::{BoundingBox, Crop, Detection, Detector};
use meptr_extract::pipeline::{ExtractRequest, Extractor, TranscriptChoice};
use meptr_extract::predictor::Scorer;
use meptr_extract::progress::Unwatched;
use meptr_extract::windows::WindowPlan;
use meptr_extract::{DeviceChoice, Predictor, PredictorOptions, Request};
use sha2::{Digest, Sha256};
use support::{clip, list, number, numbers};
use taken::{Outcome, Taken, whole};

const LONG_CHAIN: f32 = 1e-3;
const INPUT: f32 = 1e-5;
/// Most that bf16 may move a probability or a trait score.
const BF16: f32 = 0.05;

#[test]
#[ignore = "needs MEPTR_GOLDEN: clips that are not ours to pass on"]
fn whole_runs_equal_the_reference() -> Result<()> {
    let runs = runs()?;
    ensure!(!runs.is_empty(), "no case in {}", golden::root().join("e2e").display());
    let files = CaseBundle::build(&golden::root())?;
    for run in &runs {
        let bundle = files.open(ScoreTransform::Logits)?;
        run.check_steps(&bundle)?;
        let demo = run.check_prediction(&bundle)?;
        let rounded = Outcome::of_row(whole(&run.predict(&bundle, Precision::Bf16)?)?)?;
        let [logits, probabilities, traits] = rounded.differences(&demo)?;
        eprintln!(
            "{}: bf16 moves emotion logits by {logits:.4}, probabilities by {probabilities:.4}, \
             trait scores by {traits:.4}",
            run.case.name
        );
        ensure!(probabilities < BF16 && traits < BF16, "bf16 is off by {probabilities}, {traits}");
        let bundle = files.open(ScoreTransform::Scores)?;
        let raw = run.check_prediction(&bundle)?;
        let [logits, probabilities, traits] = raw.differences(&demo)?;
        eprintln!(
            "{}: `scores` instead of `logits` moves emotion logits by {logits:.4}, probabilities \
             by {probabilities:.4}, trait scores by {traits:.4}",
            run.case.name
        );
    }
    Ok(())
}

/// A case with its clip.
struct Run {
    case: Case,
    video: PathBuf,
}

/// The bodies that a case supplies: the same boxes at every frame. The reference did not track
/// them; with a score of 0, neither does our tracker.
#[derive(Debug, Clone)]
struct SuppliedBodies(Vec<Detection>);

impl Detector for SuppliedBodies {
    fn detect(&self, images: &[&RgbImage]) -> meptr_extract::Result<Vec<Vec<Detection>>> {
        Ok(vec![self.0.clone(); images.len()])
    }
}

/// The cases of whole runs; front ends alone have no tensors.
fn runs() -> Result<Vec<Run>> {
    let files = golden::json_files("e2e")?.into_iter();
    let files = files.filter(|json| json.with_extension("safetensors").exists());
    let cases: Vec<Case> = files.map(|json| Case::open(&json)).collect::<Result<_>>()?;
    let cases = cases.into_iter().filter(|case| case.json.get("video").is_some());
    cases.map(|case| Ok(Run { video: clip(&case)?.context("its clip")?, case })).collect()
}

impl Run {
    fn request(&self) -> ExtractRequest {
        let text = self.case.json["transcript"].as_str().unwrap_or_default().to_owned();
        ExtractRequest { transcript: TranscriptChoice::Text(text), ..ExtractRequest::default() }
    }

    fn bodies(&self) -> Result<Box<dyn Detector>> {
        let boxes = list(&self.case.json["body_boxes_supplied_per_frame"])?.iter().map(|edges| {
            let edges = numbers(edges)?;
            let bounds = BoundingBox::new(edges[0], edges[1], edges[2], edges[3]);
            Ok(Detection { bounds, score: 0.0, keypoints: Vec::new() })
        });
        Ok(Box::new(SuppliedBodies(boxes.collect::<Result<_>>()?)))
    }

    /// Compares with a tensor of the case; the difference may be `tolerance` times its largest
    /// value, or times 1.
    fn close(&self, name: &str, found: &Tensor, tolerance: f32) -> Result<()> {
        self.close_to(name, found, self.case.tensor(name)?, tolerance)
    }

    fn close_to(
        &self,
        name: &str,
        found: &Tensor,
        expected: &Tensor,
        tolerance: f32,
    ) -> Result<()> {
        let largest = expected.to_dtype(DType::F32)?.abs()?.max_all()?.to_scalar::<f32>()?;
        let what = format!("{} {name}", self.case.name);
        let off = golden::ensure_close(&what, found, expected, tolerance * largest.max(1.0))?;
        eprintln!("{what}: {:?} off by {off:.1e}, largest value {largest:.2}", found.dims());
        Ok(())
    }

    /// Every step of the extractor and of the heads.
    fn check_steps(&self, bundle: &Bundle) -> Result<()> {
        let mut extractor = Extractor::open(bundle, &Device::Cpu, Limits::default(), false)?;
        extractor.set_body_detector(self.bodies()?);
        let (taken, _) = Taken::of(&extractor, &self.video, &self.request())?;
        let (frames, waveform) = self.decoded()?;
        self.check_pictures(bundle, &taken, &frames)?;
        self.check_sound_and_words(bundle, &taken, &waveform)?;
        let scorer = Scorer::open(bundle, &Device::Cpu)?;
        for modality in Modality::ALL {
            let features = taken.features(modality)?;
            let is_expected = self.case.tensors.contains_key(&format!("{modality}.fused_vector"));
            ensure!(features.is_some() == is_expected, "{modality}: there is {features:?}");
            let Some(features) = features else { continue };
            let head = scorer.head(modality, &features)?;
            let fed = ScoreTransform::Logits.apply(&head.trait_scores)?;
            for (name, found) in [
                ("emotion_logits", &head.emotion_logits),
                ("personality_scores", &head.trait_scores),
                ("fused_vector", &head.vector),
                ("personality_as_fed_to_fusion", &fed),
            ] {
                self.close(&format!("{modality}.{name}"), found, LONG_CHAIN)?;
            }
        }
        Ok(())
    }

    /// The frames and the sound as the extractor gets them.
    fn decoded(&self) -> Result<(Vec<RgbImage>, Vec<f32>)> {
        let (mut indices, mut frames, mut waveform) = (Vec::new(), Vec::new(), Vec::new());
        for event in Reader::open(&self.video, WindowPlan::Whole, &DecodeOptions::default())? {
            match event? {
                Event::Frame { index, image, .. } => {
                    indices.push(index);
                    frames.push(image);
                }
                Event::Audio { samples, .. } => waveform.extend(samples),
                Event::Restart { .. } => {
                    indices.clear();
                    frames.clear();
                }
                Event::Subtitle(_) | Event::End(_) => {}
            }
        }
        ensure!(indices == self.sampled_frames()?, "frames {indices:?}");
        Ok((frames, waveform))
    }

    fn sampled_frames(&self) -> Result<Vec<usize>> {
        list(&self.case.json["sampled_frames"])?.iter().map(|n| Ok(number(n)? as usize)).collect()
    }

    fn check_pictures(&self, bundle: &Bundle, taken: &Taken, frames: &[RgbImage]) -> Result<()> {
        let visual = taken.visual.as_ref().context("there are frames")?;
        let chosen: Vec<usize> = visual.frames.iter().map(|one| one.index as usize).collect();
        ensure!(chosen == self.sampled_frames()?, "frames {chosen:?}");
        let features = visual.features.as_ref().context("there are features")?;
        let image = |crop: &Crop| crop.bounds.crop(&frames[crop.frame]);
        let expected = list(&self.case.json["crops_in_processing_order"])?;
        ensure!(features.crops.len() == expected.len(), "{} crops", features.crops.len());
        for (index, (crop, expected)) in features.crops.iter().zip(expected).enumerate() {
            let image = image(crop);
            let size = (image.width() as u64, image.height() as u64);
            let expected_size = (expected["width"].as_u64(), expected["height"].as_u64());
            ensure!((Some(size.0), Some(size.1)) == expected_size, "crop {index}: {size:?}");
            let hash = hex_start(image.data());
            ensure!(Some(&*hash) == expected["sha256_16"].as_str(), "bytes of crop {index}");
        }
        eprintln!("{}: all {} crops equal to the byte", self.case.name, expected.len());
        let input = ClipPreprocessor::open(&bundle.path(&bundle.manifest().parts.clip.folder))?;
        for modality in [Modality::Body, Modality::Face, Modality::Scene] {
            let crops = features.crops.iter().filter(|crop| crop.modality == modality);
            let images: Vec<RgbImage> = crops.map(image).collect();
            let rows = self.case.json["tensor_rows"][modality.name()].as_u64().unwrap_or(0);
            ensure!(images.len() as u64 == rows, "{} {modality} rows", images.len());
            let Some(sequence) = taken.features(modality)? else { continue };
            let pixels = input.prepare(&images, &Device::Cpu)?;
            self.close(&format!("{modality}.pixel_values_row0"), &pixels.get(0)?, INPUT)?;
            let means = pixels.to_dtype(DType::F64)?.flatten_from(1)?.mean(1)?;
            let means = means.to_dtype(DType::F32)?;
            self.close(&format!("{modality}.pixel_values_mean_per_row"), &means, INPUT)?;
            self.close(&format!("{modality}.clip_features"), &sequence.squeeze(0)?, LONG_CHAIN)?;
        }
        Ok(())
    }

    fn check_sound_and_words(
        &self,
        bundle: &Bundle,
        taken: &Taken,
        waveform: &[f32],
    ) -> Result<()> {
        if let Some(heard) = taken.features(Modality::Audio)? {
            let waveform = Tensor::new(waveform, &Device::Cpu)?;
            self.close("audio.waveform_16k_mono", &waveform, INPUT)?;
            let steps = self.case.json["wav2vec2_frames"].as_u64();
            ensure!(steps == Some(heard.dim(1)? as u64), "{} steps of sound", heard.dim(1)?);
            let first = heard.narrow(1, 0, heard.dim(1)?.min(8))?;
            self.close("audio.wav2vec2_hidden_first8", &first, LONG_CHAIN)?;
            self.close("audio.wav2vec2_hidden_mean", &heard.mean(1)?, LONG_CHAIN)?;
        }
        if let Some(read) = taken.features(Modality::Text)? {
            let folder = bundle.path(&bundle.manifest().parts.bert.folder);
            let text = self.case.json["transcript"].as_str().context("there is a transcript")?;
            let ids =
                BertTokenizer::open(&folder, 512)?.tokens(text)?.context("there are words")?;
            let ids: Vec<i64> = ids.into_iter().map(i64::from).collect();
            let expected = self.case.tensor("text.input_ids")?.flatten_all()?.to_vec1::<i64>()?;
            ensure!(ids == expected, "token ids {ids:?}");
            self.close("text.bert_last_hidden_state", &read, LONG_CHAIN)?;
        }
        Ok(())
    }

    /// The program's answer.
    fn predict(&self, bundle: &Bundle, precision: Precision) -> Result<VideoPrediction> {
        let options =
            PredictorOptions { device: DeviceChoice::Cpu, precision, ..Default::default() };
        let mut predictor = Predictor::open_with(&bundle.path(""), &options)?;
        predictor.set_body_detector(self.bodies()?);
        let request = Request { extract: self.request(), ..Request::default() };
        Ok(predictor.predict_with(&self.video, &request, &Unwatched)?)
    }

    /// Compares the prediction with the stored one (`logits`, as the application does it) or the
    /// fusion model on the stored values of each modality (`scores`).
    fn check_prediction(&self, bundle: &Bundle) -> Result<Outcome> {
        let prediction = self.predict(bundle, Precision::F32)?;
        let row = whole(&prediction)?;
        let indices: Vec<usize> = row.frames.iter().map(|frame| frame.index as usize).collect();
        ensure!(indices == self.sampled_frames()?, "frames {indices:?}");
        let found = Outcome::of_row(row)?;
        let transform = bundle.manifest().parts.fusion.config.score_transform;
        let input = self.stored_input(match transform {
            ScoreTransform::Logits => "personality_as_fed_to_fusion",
            ScoreTransform::Scores => "personality_scores",
        })?;
        let fused = Outcome::of_model(bundle, &input)?;
        let name = |part: &str| format!("{part}, by fusion of stored values, {transform:?}");
        self.close_to(&name("emotion_logits"), &found.logits, &fused.logits, LONG_CHAIN)?;
        self.close_to(&name("personality"), &found.traits, &fused.traits, LONG_CHAIN)?;
        if transform == ScoreTransform::Logits {
            let logits = found.logits.unsqueeze(0)?;
            self.close("available_modalities.emotion_logits", &logits, LONG_CHAIN)?;
            let all = input.iter().all(|(_, part)| part.is_some());
            // The application's own answer is about all five, or there is none.
            let sets: &[&str] =
                if all { &["available_modalities", "final"] } else { &["available_modalities"] };
            for set in sets {
                let name = format!("{set}.emotion_probabilities");
                self.close(&name, &found.probabilities, LONG_CHAIN)?;
                self.close(&format!("{set}.personality_scores"), &found.traits, LONG_CHAIN)?;
            }
        }
        Ok(found)
    }

    fn stored_input(&self, traits: &str) -> Result<FusionInput> {
        PerModality::try_from_fn(|modality| {
            let stored = |name: &str| self.case.tensor(&format!("{modality}.{name}")).cloned();
            if !self.case.tensors.contains_key(&format!("{modality}.fused_vector")) {
                return Ok(None);
            }
            Ok(Some(ModalityInput {
                vector: stored("fused_vector")?,
                emotion_logits: Some(stored("emotion_logits")?),
                trait_values: Some(stored(traits)?),
                is_present: None,
            }))
        })
    }
}

/// The first 16 hexadecimal digits of the SHA-256 of some bytes.
fn hex_start(bytes: &[u8]) -> String {
    Sha256::digest(bytes)[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

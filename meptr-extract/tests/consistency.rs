//! The program agrees with itself on the bundled sample: the one call does what its parts do, a
//! window over everything is the whole, and what is missing is not there.

use crate::clips;
use crate::support::taken;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Result, bail, ensure};
use candle::Device;
use clips::{Audio, Clip, Video};
use meptr_core::bundle::Bundle;
use meptr_core::models::FusionInput;
use meptr_core::{Modality, PerModality};
use meptr_extract::decode::Limits;
use meptr_extract::detect::{BoundingBox, Detection, Detector, link_persons};
use meptr_extract::pipeline::{ExtractRequest, Extractor, TranscriptChoice};
use meptr_extract::predictor::{HeadScores, Scorer};
use meptr_extract::progress::Unwatched;
use meptr_extract::windows::SlidingWindow;
use meptr_extract::{DeviceChoice, Predictor, PredictorOptions, Request, RgbImage};
use taken::{Outcome, Taken, whole};

/// The demo bundle, opened by part and as a whole, and what its parts make of the sample.
struct Setting {
    bundle: Bundle,
    extractor: Extractor,
    scorer: Scorer,
    predictor: Predictor,
    sample: Taken,
}

impl Setting {
    /// The one that all tests share.
    fn get() -> &'static Self {
        static SETTING: OnceLock<Setting> = OnceLock::new();
        SETTING.get_or_init(|| Self::open().expect("the demo bundle reads the sample"))
    }

    fn open() -> Result<Self> {
        let folder = in_repository("weights/demo");
        let bundle = Bundle::open(&folder)?;
        let options = PredictorOptions { device: DeviceChoice::Cpu, ..Default::default() };
        let extractor = Extractor::open(&bundle, &Device::Cpu, Limits::default(), false)?;
        Ok(Self {
            sample: Taken::of(&extractor, &sample(), &ExtractRequest::default())?.0,
            extractor,
            scorer: Scorer::open(&bundle, &Device::Cpu)?,
            predictor: Predictor::open_with(&folder, &options)?,
            bundle,
        })
    }

    /// Prediction of the fusion model on some features, computed part by part.
    fn by_hand(&self, taken: &Taken) -> Result<(FusionInput, Outcome)> {
        let input = taken.fusion_input(&self.scorer, &self.bundle)?;
        let outcome = Outcome::of_model(&self.bundle, &input)?;
        Ok((input, outcome))
    }

    fn in_one_call(&self, video: &Path, extract: &ExtractRequest) -> Result<Outcome> {
        let request = Request { extract: extract.clone(), ..Request::default() };
        let prediction = self.predictor.predict_with(video, &request, &Unwatched)?;
        ensure!(prediction.predictions.len() == 1, "more than one row");
        Outcome::of_row(whole(&prediction)?)
    }
}

fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn sample() -> PathBuf {
    in_repository("samples/portrait.mp4")
}

fn there(input: &FusionInput) -> Vec<Modality> {
    input.iter().filter(|(_, part)| part.is_some()).map(|(modality, _)| modality).collect()
}

#[test]
fn one_call_does_what_its_parts_do() -> Result<()> {
    let setting = Setting::get();
    let (input, by_hand) = setting.by_hand(&setting.sample)?;
    ensure!(there(&input) == Modality::ALL, "{:?}", there(&input));
    let together = setting.in_one_call(&sample(), &ExtractRequest::default())?;
    ensure!(together.differences(&by_hand)? == [0.0; 3], "{together:?}, not {by_hand:?}");
    Ok(())
}

#[test]
fn a_window_over_everything_gives_the_features_of_the_whole() -> Result<()> {
    let setting = Setting::get();
    let windowing = SlidingWindow { window_seconds: 3600.0, hop_seconds: 3600.0 };
    let request = ExtractRequest { window: Some(windowing), ..ExtractRequest::default() };
    let (window, extraction) = Taken::of(&setting.extractor, &sample(), &request)?;
    ensure!(extraction.windows.len() == 1, "{:?}", extraction.windows);
    for modality in Modality::ALL {
        let both = (setting.sample.features(modality)?, window.features(modality)?);
        let (Some(whole), Some(window)) = both else { bail!("no {modality}: {both:?}") };
        ensure!(whole.dims() == window.dims(), "{modality}: {:?}", window.dims());
        let off = (whole - window)?.abs()?.max_all()?.to_scalar::<f32>()?;
        ensure!(off == 0.0, "{modality}: off by {off}");
    }
    Ok(())
}

#[test]
fn what_a_video_lacks_is_not_in_the_fusion() -> Result<()> {
    let setting = Setting::get();
    let folder = tempfile::tempdir()?;
    let sound = folder.path().join("sound.wav");
    let pictures = folder.path().join("pictures.mkv");
    let both = folder.path().join("both.mkv");
    Clip::of_audio(Audio::pcm(16_000, 1, 1.5)).write(&sound)?;
    Clip::of_video(Video::mpeg4(160, 120, 3)).write(&pictures)?;
    let clip = Clip::of_video(Video::mpeg4(160, 120, 3));
    Clip { audio: Some(Audio::pcm(16_000, 1, 0.5)), ..clip }.write(&both)?;
    let found = ExtractRequest::default();
    let words = TranscriptChoice::Text("Good day".to_owned());
    let words = ExtractRequest { transcript: words, ..ExtractRequest::default() };
    for (video, request, expected) in [
        (&both, &words, &Modality::ALL[..]),
        (&both, &found, &[Modality::Body, Modality::Face, Modality::Scene, Modality::Audio]),
        (&pictures, &words, &[Modality::Body, Modality::Face, Modality::Scene, Modality::Text]),
        (&pictures, &found, &[Modality::Body, Modality::Face, Modality::Scene]),
        (&sound, &words, &[Modality::Audio, Modality::Text]),
        (&sound, &found, &[Modality::Audio]),
    ] {
        let (taken, _) = Taken::of(&setting.extractor, video, request)?;
        let (input, by_hand) = setting.by_hand(&taken)?;
        ensure!(there(&input) == expected, "{}: {:?}", video.display(), there(&input));
        let together = setting.in_one_call(video, request)?;
        ensure!(together.differences(&by_hand)? == [0.0; 3], "{}", video.display());
    }
    Ok(())
}

#[test]
fn each_modality_can_be_left_out_of_the_fusion_and_counts() -> Result<()> {
    let setting = Setting::get();
    let (all, complete) = setting.by_hand(&setting.sample)?;
    let heads = PerModality::try_from_fn(|modality| -> Result<Option<HeadScores>> {
        let Some(features) = setting.sample.features(modality)? else { return Ok(None) };
        Ok(Some(setting.scorer.head(modality, &features)?))
    })?;
    for left_out in Modality::ALL {
        let mut heads = heads.clone();
        heads[left_out] = None;
        let found = Outcome::of_scores(&setting.scorer.fuse(&heads)?)?;
        let input = PerModality::from_fn(|m| all[m].clone().filter(|_| m != left_out));
        let expected = Outcome::of_model(&setting.bundle, &input)?;
        ensure!(found.differences(&expected)? == [0.0; 3], "without {left_out}");
        ensure!(found.differences(&complete)?[0] > 0.0, "{left_out} counts for nothing");
    }
    Ok(())
}

/// Finds the same in every picture.
#[derive(Debug, Clone)]
struct Everywhere(Vec<Detection>);

impl Detector for Everywhere {
    fn detect(&self, images: &[&RgbImage]) -> meptr_extract::Result<Vec<Vec<Detection>>> {
        Ok(vec![self.0.clone(); images.len()])
    }
}

fn detection([x1, y1, x2, y2]: [f32; 4], score: f32) -> Detection {
    let bounds = BoundingBox::new(x1, y1, x2, y2);
    Detection { bounds, score, keypoints: Vec::new() }
}

/// The demo bundle with other detectors, on a clip of three pictures of 640x400.
fn seen_with(faces: Vec<Detection>, bodies: Vec<Detection>, is_tracked: bool) -> Result<Taken> {
    let folder = tempfile::tempdir()?;
    let clip = folder.path().join("clip.mkv");
    Clip::of_video(Video::mpeg4(640, 400, 3)).write(&clip)?;
    let bundle = &Setting::get().bundle;
    let mut extractor = Extractor::open(bundle, &Device::Cpu, Limits::default(), false)?;
    extractor.set_face_detector(Box::new(Everywhere(faces)));
    extractor.set_body_detector(Box::new(Everywhere(bodies)));
    if !is_tracked {
        extractor.set_body_tracking(None);
    }
    Ok(Taken::of(&extractor, &clip, &ExtractRequest::default())?.0)
}

/// In rows of twenty; those of the first and last row and column reach over the edge.
#[test]
fn two_hundred_people_in_every_picture_are_all_seen() -> Result<()> {
    let place = |at: usize| ((at % 20) as f32 * 32.0, (at / 20) as f32 * 40.0);
    let around = |at: usize, margin: f32| {
        let (x, y) = place(at);
        [x - 2.0 + margin, y - 2.0 + margin, x + 34.0 - margin, y + 42.0 - margin]
    };
    let faces = (0..200).map(|at| detection(around(at, 4.0), 0.9)).collect();
    let bodies = (0..200).map(|at| detection(around(at, 0.0), 0.9)).collect();
    let taken = seen_with(faces, bodies, true)?;
    let seen = taken.visual.as_ref().and_then(|visual| visual.features.as_ref());
    let seen = seen.ok_or_else(|| anyhow::anyhow!("nothing was seen"))?;
    for modality in [Modality::Face, Modality::Body] {
        ensure!(seen.crop_indices(modality).count() == 600, "{modality}");
        let Some(features) = taken.features(modality)? else { bail!("no {modality}") };
        let sum = features.sum_all()?.to_scalar::<f32>()?;
        ensure!(features.dim(1)? == 600 && sum.is_finite(), "{modality}: {features:?}");
    }
    let people = link_persons(&seen.crops);
    ensure!(people.len() == 200, "{} people", people.len());
    ensure!(people.iter().all(|person| person.appearances.len() == 3), "{people:?}");
    Ok(())
}

/// Detections too unlikely for a track of their own are replaced by tracks of other bodies.
#[test]
fn bodies_of_another_detector_are_tracked_unless_they_must_not_be() -> Result<()> {
    let bodies = vec![
        detection([10.0, 20.0, 200.0, 390.0], 0.9),
        detection([300.5, 0.0, 500.0, 90.0], 0.05),
    ];
    for (is_tracked, expected) in [(true, &bodies[..1]), (false, &bodies[..])] {
        let taken = seen_with(Vec::new(), bodies.clone(), is_tracked)?;
        let seen = taken.visual.and_then(|visual| visual.features);
        let seen = seen.ok_or_else(|| anyhow::anyhow!("nothing was seen"))?;
        for frame in &seen.boxes {
            ensure!(frame.bodies.len() == expected.len(), "{:?}", frame.bodies);
            let bounds = expected.iter().map(|body| body.bounds);
            let are_same = frame.bodies.iter().copied().eq(bounds);
            ensure!(is_tracked || are_same, "{:?}", frame.bodies);
        }
    }
    Ok(())
}

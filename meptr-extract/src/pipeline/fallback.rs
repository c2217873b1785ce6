//! Fall-back rules of all modalities: the input that is used where the usual one is missing.
//!
//! | modality | usual input | fall-backs, in this order | absent when |
//! | --- | --- | --- | --- |
//! | face | detected faces | largest body of a frame without faces; whole frame | no frames; all faces outside the frame |
//! | body | first body around a face | largest body of a frame without faces; whole frame | no frames; no body around any face |
//! | body, without a body detector | - | whole frame, in every frame | no frames |
//! | scene | whole frame | none | no frames |
//! | audio | the sound | none | no sound; silent; shorter than one step of the encoder |
//! | text | transcript of the caller | file beside the video ([`SIDECAR_EXTENSIONS`]); embedded subtitles; speech recognition | none of these has words |
//!
//! The rules for faces and bodies are the reference's, frame by frame ([`crops()`]); the one without a
//! body detector is our own. A [`FallbackReport`] is made where they are applied, and stays with the
//! crops to explain them in the result. An absent modality has a reason in the result.
//!
//! The device has a fall-back too: `auto` is the first GPU, else the CPU, see
//! [`DeviceChoice`](meptr_core::DeviceChoice).

use meptr_core::Modality;

use crate::detect::{Crop, CropSource, FrameBoxes};

/// Extensions of transcripts beside a video, in order of precedence.
pub const SIDECAR_EXTENSIONS: [&str; 3] = ["txt", "srt", "vtt"];

/// Detectors that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AvailableDetectors {
    /// Whether faces are detected.
    pub face: bool,
    /// Whether bodies are detected.
    pub body: bool,
}

/// Circumstances under which crops were chosen, to explain their fall-backs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FallbackReport {
    /// Detectors that the crops come from.
    pub detectors: AvailableDetectors,
}

impl FallbackReport {
    /// Explanation of the fall-backs among some crops of a modality, given by their sources; `None`
    /// without any.
    pub fn explain(&self, modality: Modality, sources: &[CropSource]) -> Option<String> {
        let substitutes = match modality {
            Modality::Face | Modality::Body if sources.contains(&CropSource::Frame) => {
                "whole frames"
            }
            Modality::Face if sources.contains(&CropSource::Body) => "bodies",
            _ => return None,
        };
        let is_detected = match modality {
            Modality::Face => self.detectors.face,
            _ => self.detectors.body,
        };
        let cause = match (is_detected, sources.contains(&CropSource::Detected)) {
            (false, _) => format!("the weights hold no {modality} detector"),
            (true, true) => format!("no {modality} was found in some frames"),
            (true, false) => format!("no {modality} was found"),
        };
        Some(format!("{cause}: {substitutes} are used instead"))
    }
}

/// Crops of all frames by the reference's rules, in its order of processing.
///
/// Of each frame, first the scene: the whole of it. Then each face, followed by the first body that
/// contains the face's centre, if any does. In a frame without faces, the largest body (by area) is
/// used as body and as face; without bodies too, the whole frame is.
///
/// Boxes are truncated to whole pixels and cut off at the edges of the frame; a box that then holds no
/// pixel gives no crop. So a modality can have fewer crops than there are frames, or more.
pub fn crops(frames: &[FrameBoxes]) -> Vec<Crop> {
    frames.iter().enumerate().flat_map(|(index, boxes)| frame_crops(index, boxes)).collect()
}

/// Crops of all frames, with fall-backs for missing detectors, and the report on them.
pub(super) fn choose_crops(
    frames: &[FrameBoxes],
    detectors: AvailableDetectors,
) -> (Vec<Crop>, FallbackReport) {
    let mut crops = crops(frames);
    if !detectors.body {
        add_missing_bodies(frames, &mut crops);
    }
    (crops, FallbackReport { detectors })
}

fn frame_crops(frame: usize, boxes: &FrameBoxes) -> Vec<Crop> {
    let mut crops = boxes.detected_crops(frame);
    if boxes.faces.is_empty() {
        let (bounds, body_source, face_source) = match boxes.largest_body() {
            Some(body) => (body, CropSource::Detected, CropSource::Body),
            None => (boxes.whole(), CropSource::Frame, CropSource::Frame),
        };
        crops.push(Crop { frame, modality: Modality::Body, bounds, source: body_source });
        crops.push(Crop { frame, modality: Modality::Face, bounds, source: face_source });
    }
    crops
}

/// Adds the whole of each frame with faces as a body. Without a body detector nothing is known about
/// bodies, while a detector that finds none states that there are none.
fn add_missing_bodies(frames: &[FrameBoxes], crops: &mut Vec<Crop>) {
    let with_faces = frames.iter().enumerate().filter(|(_, boxes)| !boxes.faces.is_empty());
    crops.extend(with_faces.map(|(frame, boxes)| Crop {
        frame,
        modality: Modality::Body,
        bounds: boxes.whole(),
        source: CropSource::Frame,
    }));
    crops.sort_by_key(|crop| crop.frame);
}

/// Whether a crop shows everybody in its frame: a whole frame that is used instead of bodies.
pub(crate) fn shows_everybody(crop: &Crop) -> bool {
    crop.source == CropSource::Frame
}

/// The first transcript that there is.
pub(super) fn first_transcript<T>(
    given_or_sidecar: Option<T>,
    embedded: Option<T>,
    recognised: Option<T>,
) -> Option<T> {
    given_or_sidecar.or(embedded).or(recognised)
}

/// Whether speech is recognised while the video is decoded: there can be no other transcript.
pub(super) fn recognises_while_decoding(has_transcript: bool, has_subtitles: bool) -> bool {
    !has_transcript && !has_subtitles
}

/// Whether speech is recognised in a pass of its own, after the video was decoded: the subtitles that
/// were expected to give the transcript hold no words.
pub(super) fn recognises_after_decoding(has_transcript: bool, has_subtitles: bool) -> bool {
    !has_transcript && has_subtitles
}

/// Reason for a modality of which the file holds nothing.
pub(crate) fn missing_input(modality: Modality) -> &'static str {
    match modality {
        Modality::Text => "no transcript was given or found",
        Modality::Audio => "there is no sound",
        Modality::Body | Modality::Face | Modality::Scene => "there are no pictures",
    }
}

/// Reason for a visual modality without crops in a video that has frames.
pub(crate) fn missing_crops(modality: Modality) -> &'static str {
    match modality {
        Modality::Body => "no body was found around any face",
        _ => "no face holds a pixel of the picture",
    }
}

/// Reason for a chunk of sound that cannot be encoded; `None` when it can.
pub(super) fn unusable_sound(
    is_too_short: bool,
    is_silent: impl FnOnce() -> bool,
) -> Option<&'static str> {
    if is_too_short {
        return Some("the sound is too short");
    }
    is_silent().then_some("the sound is silent")
}

/// Reason for a video without a transcript; `has_recognition` says whether Whisper was used.
pub(super) fn missing_transcript(has_recognition: bool) -> &'static str {
    match has_recognition {
        true => "no words were given, found or recognised",
        false => "no words were given or found, and speech recognition is off",
    }
}

/// Reason for windows without text, because the transcript has no times.
pub(super) const UNTIMED_TRANSCRIPT: &str =
    "the transcript has no times, so it cannot be divided into windows";

/// Reason for a window without words.
pub(super) const NO_WORDS: &str = "nothing is said";

/// Reason for a modality that the fusion model does not use.
pub(crate) const NOT_FUSED: &str = "the fusion model was trained without it";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::CropSource::{Body, Detected, Frame};
    use super::*;
    use crate::RgbImage;
    use crate::detect::BoundingBox;
    use crate::image::PixelBox;

    type Edges = [f32; 4];

    fn boxes(faces: &[Edges], bodies: &[Edges]) -> FrameBoxes {
        let all = |edges: &[Edges]| {
            edges.iter().map(|&[x1, y1, x2, y2]| BoundingBox::new(x1, y1, x2, y2)).collect()
        };
        FrameBoxes { width: 100, height: 50, faces: all(faces), bodies: all(bodies) }
    }

    /// The crops after the scene, as modality, source and edges.
    fn found(faces: &[Edges], bodies: &[Edges]) -> Vec<(Modality, CropSource, [usize; 4])> {
        let crops = crops(&[boxes(faces, bodies)]);
        assert_eq!(crops[0].modality, Modality::Scene);
        assert_eq!(crops[0].bounds, PixelBox::whole(100, 50));
        let edges = |b: PixelBox| [b.x1, b.y1, b.x2, b.y2];
        crops[1..].iter().map(|crop| (crop.modality, crop.source, edges(crop.bounds))).collect()
    }

    const FACE: Edges = [10.9, 5.2, 20.9, 15.9];
    const AROUND: Edges = [5.0, 0.0, 40.7, 50.0];
    const ASIDE: Edges = [50.0, 0.0, 99.0, 50.0];

    #[test]
    fn every_face_takes_the_first_body_around_it() {
        let face = (Modality::Face, Detected, [10, 5, 20, 15]);
        let body = (Modality::Body, Detected, [5, 0, 40, 50]);
        let larger = [0.0, 0.0, 100.0, 50.0];
        let other_face = (Modality::Face, Detected, [70, 5, 80, 15]);
        let other_body = (Modality::Body, Detected, [50, 0, 99, 50]);
        type Row<'a> = (&'a [Edges], &'a [Edges], Vec<(Modality, CropSource, [usize; 4])>);
        let table: [Row; 6] = [
            (&[FACE], &[AROUND], vec![face, body]),
            (&[FACE], &[ASIDE, AROUND, larger], vec![face, body]),
            (&[FACE], &[ASIDE], vec![face]),
            (&[FACE], &[], vec![face]),
            (&[FACE, FACE], &[AROUND], vec![face, body, face, body]),
            (
                &[FACE, [70.0, 5.0, 80.0, 15.0]],
                &[ASIDE, AROUND],
                vec![face, body, other_face, other_body],
            ),
        ];
        for (faces, bodies, expected) in table {
            assert_eq!(found(faces, bodies), expected, "{faces:?} with {bodies:?}");
        }
    }

    #[test]
    fn without_a_face_the_largest_body_or_the_frame_is_used() {
        let small = [0.0, 0.0, 10.0, 10.0];
        let bounds = [50, 0, 99, 50];
        let substitutes = [(Modality::Body, Detected, bounds), (Modality::Face, Body, bounds)];
        assert_eq!(found(&[], &[small, ASIDE, AROUND]), substitutes);
        assert_eq!(found(&[], &[ASIDE, ASIDE]), substitutes);
        let bounds = [0, 0, 100, 50];
        let frame = [(Modality::Body, Frame, bounds), (Modality::Face, Frame, bounds)];
        assert_eq!(found(&[], &[]), frame);
        assert_eq!(found(&[], &[[7.0, 7.0, 7.5, 7.5]]), frame); // holds no pixel
    }

    #[test]
    fn the_centre_is_compared_in_whole_pixels_edges_included() {
        // The centre of the truncated face is (15, 10).
        assert_eq!(found(&[FACE], &[[0.0, 0.0, 15.9, 10.9]]).len(), 2);
        assert_eq!(found(&[FACE], &[[15.9, 10.9, 30.0, 30.0]]).len(), 2);
        assert_eq!(found(&[FACE], &[[16.0, 0.0, 30.0, 30.0]]).len(), 1);
        assert_eq!(found(&[FACE], &[[0.0, 0.0, 14.9, 30.0]]).len(), 1);
    }

    #[test]
    fn boxes_end_at_the_border() {
        let face = found(&[[-8.5, -3.0, 10.0, 10.0]], &[]);
        assert_eq!(face, [(Modality::Face, Detected, [0, 0, 10, 10])]);
        let face = found(&[[90.2, 40.0, 130.0, 1e9]], &[[60.0, -9.0, 1e9, 60.0]]);
        assert_eq!(face[0], (Modality::Face, Detected, [90, 40, 100, 50]));
        assert_eq!(face[1], (Modality::Body, Detected, [60, 0, 100, 50]));
        // Outside, or smaller than a pixel: a face was found, so there is no fall-back.
        for nothing in [[-9.0, 0.0, -3.0, 9.0], [120.0, 0.0, 130.0, 9.0], [4.2, 4.2, 4.9, 9.0]] {
            assert_eq!(found(&[nothing], &[]), [], "{nothing:?}");
        }
    }

    #[test]
    fn frames_keep_their_order_and_may_differ_in_size() {
        let mut second = boxes(&[FACE], &[]);
        (second.width, second.height) = (15, 12);
        let crops = crops(&[boxes(&[], &[]), second]);
        let frames: Vec<usize> = crops.iter().map(|crop| crop.frame).collect();
        assert_eq!(frames, [0, 0, 0, 1, 1]);
        assert_eq!(crops[4].bounds, PixelBox { x1: 10, y1: 5, x2: 15, y2: 12 });
        assert_eq!(super::crops(&[]), []);
    }

    #[test]
    fn without_a_body_detector_whole_frames_are_bodies() {
        let detectors = AvailableDetectors { face: true, body: false };
        let (crops, _) = choose_crops(&[boxes(&[FACE], &[]), boxes(&[], &[])], detectors);
        let bodies = crops.iter().filter(|crop| crop.modality == Modality::Body);
        let bodies: Vec<_> = bodies.map(|crop| (crop.frame, crop.source)).collect();
        assert_eq!(bodies, [(0, Frame), (1, Frame)]);
    }

    #[test]
    fn fall_backs_are_explained_by_what_is_missing() {
        let explain = |face, body, modality, sources: &[CropSource]| {
            let report = FallbackReport { detectors: AvailableDetectors { face, body } };
            report.explain(modality, sources)
        };
        let found = explain(true, false, Modality::Body, &[Frame]).unwrap();
        assert_eq!(found, "the weights hold no body detector: whole frames are used instead");
        let found = explain(true, true, Modality::Face, &[Detected, Body]).unwrap();
        assert_eq!(found, "no face was found in some frames: bodies are used instead");
        let found = explain(true, true, Modality::Face, &[Frame, Body]).unwrap();
        assert_eq!(found, "no face was found: whole frames are used instead");
        assert_eq!(explain(true, true, Modality::Face, &[Detected]), None);
        assert_eq!(explain(true, true, Modality::Scene, &[Detected]), None);
    }

    #[test]
    fn transcripts_have_an_order_and_recognition_runs_once_at_most() {
        assert_eq!(first_transcript(None, Some(2), Some(3)), Some(2));
        assert_eq!(first_transcript(Some(1), Some(2), None), Some(1));
        for (has_transcript, has_subtitles) in
            [(false, false), (false, true), (true, false), (true, true)]
        {
            let during = recognises_while_decoding(has_transcript, has_subtitles);
            let after = recognises_after_decoding(has_transcript, has_subtitles);
            assert!(!(during && after));
            assert_eq!(during || after, !has_transcript);
        }
    }

    fn any_boxes() -> impl Strategy<Value = Vec<Edges>> {
        prop::collection::vec(prop::array::uniform4(-50.0f32..200.0), 0..8)
    }

    proptest! {
        #[test]
        fn every_crop_lies_in_its_frame_and_holds_a_pixel(
            faces in any_boxes(), bodies in any_boxes(), width in 1usize..120, height in 1usize..120
        ) {
            let frame = FrameBoxes { width, height, ..boxes(&faces, &bodies) };
            let image = RgbImage::new(width, height, vec![0; width * height * 3]);
            for crop in crops(&[frame]) {
                let PixelBox { x1, y1, x2, y2 } = crop.bounds;
                prop_assert!(x1 < x2 && x2 <= width && y1 < y2 && y2 <= height);
                prop_assert_eq!(crop.bounds.crop(&image).width(), x2 - x1);
            }
        }
    }
}

//! Tracker: association of detections with tracks, and life cycle of tracks.

use serde::{Deserialize, Serialize};

use super::super::{BoundingBox, Detection};
use super::assignment::assign;
use super::camera::CameraMotion;
use super::kalman::{KalmanBox, Warp};
use crate::RgbImage;

/// Largest distance (1 - IoU) of a low-score detection from its track.
const MAX_DISTANCE_OF_LOW_SCORE: f32 = 0.5;
/// Largest distance of the second detection of a new track.
const MAX_DISTANCE_OF_UNCONFIRMED: f32 = 0.7;
/// Distance below which two tracks are duplicates, of which the younger is removed.
const MAX_DUPLICATE_DISTANCE: f32 = 0.15;

/// Thresholds of [`BotSort`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BotSortConfig {
    /// Detections from this score on are associated first.
    pub high_score: f32,
    /// Detections above this score may still continue a track.
    pub low_score: f32,
    /// Detections from this score on may start a track.
    pub new_track_score: f32,
    /// Frames after which a track without detections is removed.
    pub buffer_frames: usize,
    /// Largest distance of a high-score detection from its track, 0 to 1.
    pub max_distance: f32,
    /// Whether the IoU is multiplied by the score of the detection.
    pub weigh_by_score: bool,
    /// Whether tracks are compensated for camera motion, see [`super::camera`]: `gmc_method`
    /// `sparseOptFlow` if true, `none` if false.
    pub follows_camera: bool,
}

impl Default for BotSortConfig {
    /// Ultralytics' `botsort.yaml`.
    fn default() -> Self {
        Self {
            high_score: 0.25,
            low_score: 0.1,
            new_track_score: 0.25,
            buffer_frames: 30,
            max_distance: 0.8,
            weigh_by_score: true,
            follows_camera: true,
        }
    }
}

/// A tracked object in one frame.
#[derive(Debug, Clone, PartialEq)]
pub struct TrackedBox {
    /// Id of the track, from 1.
    pub id: usize,
    /// Box, smoothed over the frames; may extend beyond the frame.
    pub bounds: BoundingBox,
    /// Score of its detection in this frame.
    pub score: f32,
    /// Index of that detection among those of this frame.
    pub detection: usize,
}

/// BoT-SORT tracker of the objects of a clip.
#[derive(Debug, Clone)]
pub struct BotSort {
    config: BotSortConfig,
    frame: usize,
    /// Tracks created so far.
    created: usize,
    /// In the order of the output.
    tracked: Vec<Track>,
    lost: Vec<Track>,
    camera: CameraMotion,
}

#[derive(Debug, Clone)]
struct Track {
    id: usize,
    kalman: KalmanBox,
    is_lost: bool,
    /// Lost for too long.
    is_expired: bool,
    /// Detected at least twice, or in the first frame.
    is_confirmed: bool,
    first_frame: usize,
    last_frame: usize,
    score: f32,
    detection: usize,
}

impl Track {
    fn distance(&self, bounds: &BoundingBox) -> f32 {
        1.0 - self.kalman.bounds().iou(bounds)
    }

    fn update(&mut self, index: usize, detection: &Detection, frame: usize) {
        self.kalman.update(&detection.bounds);
        (self.score, self.detection) = (detection.score, index);
        self.last_frame = frame;
        self.is_lost = false;
        self.is_confirmed = true;
    }
}

impl BotSort {
    /// A tracker without tracks.
    pub fn new(config: BotSortConfig) -> Self {
        let (tracked, lost) = (Vec::new(), Vec::new());
        Self { config, frame: 0, created: 0, tracked, lost, camera: CameraMotion::default() }
    }

    /// Processes the detections of the next frame; returns the confirmed tracks that are detected in it.
    ///
    /// `warp` is the motion of the camera since the last frame; `None`: it did not move.
    pub fn update(&mut self, detections: &[Detection], warp: Option<&Warp>) -> Vec<TrackedBox> {
        self.frame += 1;
        let config = &self.config;
        let indices = 0..detections.len();
        let (high, others): (Vec<usize>, Vec<usize>) =
            indices.partition(|index| detections[*index].score >= config.high_score);
        let low = others.into_iter().filter(|index| detections[*index].score > config.low_score);
        let low: Vec<usize> = low.collect();

        let tracked = std::mem::take(&mut self.tracked);
        let lost = std::mem::take(&mut self.lost);
        let mut order: Vec<usize> = tracked.iter().map(|track| track.id).collect();
        let (confirmed, mut unconfirmed): (Vec<_>, Vec<_>) =
            tracked.into_iter().partition(|track| track.is_confirmed);
        let mut pool: Vec<Track> = confirmed.into_iter().chain(lost).collect();
        self.predict(&mut pool, &mut unconfirmed, warp);

        let max_distance = self.config.max_distance;
        let weigh = self.config.weigh_by_score;
        let was_lost: Vec<bool> = pool.iter().map(|track| track.is_lost).collect();
        let first = Round { detections, candidates: &high, max_distance, weigh };
        let (unmatched, rest) = first.associate(&mut pool, |_| true, self.frame);

        let max_distance = MAX_DISTANCE_OF_LOW_SCORE;
        let second = Round { detections, candidates: &low, max_distance, weigh: false };
        let is_left = |index: usize| unmatched.contains(&index) && !was_lost[index];
        let (unmatched, _) = second.associate(&mut pool, is_left, self.frame);
        for index in unmatched {
            pool[index].is_lost = true;
        }

        let max_distance = MAX_DISTANCE_OF_UNCONFIRMED;
        let third = Round { detections, candidates: &rest, max_distance, weigh };
        let (unmatched, rest) = third.associate(&mut unconfirmed, |_| true, self.frame);
        let mut index = 0;
        unconfirmed.retain(|_| {
            index += 1;
            !unmatched.contains(&(index - 1))
        });

        let created = self.new_tracks(detections, &rest);
        order.extend(created.iter().map(|track| track.id));
        let tracks = pool.into_iter().chain(unconfirmed).chain(created).collect();
        self.update_lists(tracks, &order);
        self.output()
    }

    /// Predicts all tracks in the new frame.
    fn predict(&self, pool: &mut [Track], unconfirmed: &mut [Track], warp: Option<&Warp>) {
        for track in pool.iter_mut() {
            if track.is_lost {
                track.kalman.zero_size_velocity();
            }
            track.kalman.predict();
        }
        if let Some(warp) = warp {
            pool.iter_mut().chain(unconfirmed).for_each(|track| track.kalman.warp(warp));
        }
    }

    fn new_tracks(&mut self, detections: &[Detection], rest: &[usize]) -> Vec<Track> {
        let new = rest.iter().filter(|at| detections[**at].score >= self.config.new_track_score);
        let mut created = Vec::new();
        for &detection in new {
            self.created += 1;
            created.push(Track {
                id: self.created,
                kalman: KalmanBox::init(&detections[detection].bounds),
                is_lost: false,
                is_expired: false,
                is_confirmed: self.frame == 1,
                first_frame: self.frame,
                last_frame: self.frame,
                score: detections[detection].score,
                detection,
            });
        }
        created
    }

    /// Divides the tracks into tracked and lost ones, and removes expired ones and duplicates. `order`
    /// holds the ids in the order of the output.
    fn update_lists(&mut self, tracks: Vec<Track>, order: &[usize]) {
        let (lost, mut tracked): (Vec<_>, Vec<_>) =
            tracks.into_iter().partition(|track| track.is_lost);
        // In the order of creation; those found again last.
        tracked
            .sort_by_key(|track| order.iter().position(|id| *id == track.id).unwrap_or(usize::MAX));
        // As in the original, an expired track is removed a frame later. In that frame it may still be
        // found; but it stays expired, and is removed as soon as it is lost again.
        let mut lost: Vec<Track> = lost.into_iter().filter(|track| !track.is_expired).collect();
        for track in &mut lost {
            track.is_expired = self.frame - track.last_frame > self.config.buffer_frames.max(1);
        }
        lost.sort_by_key(|track| track.last_frame);

        let mut duplicates = Vec::new();
        for one in &tracked {
            for two in &lost {
                if one.distance(&two.kalman.bounds()) < MAX_DUPLICATE_DISTANCE {
                    let age = |track: &Track| track.last_frame - track.first_frame;
                    duplicates.push(if age(one) > age(two) { two.id } else { one.id });
                }
            }
        }
        tracked.retain(|track| !duplicates.contains(&track.id));
        lost.retain(|track| !duplicates.contains(&track.id));
        (self.tracked, self.lost) = (tracked, lost);
    }

    fn output(&self) -> Vec<TrackedBox> {
        let confirmed = self.tracked.iter().filter(|track| track.is_confirmed);
        confirmed
            .map(|track| TrackedBox {
                id: track.id,
                bounds: track.kalman.bounds(),
                score: track.score,
                detection: track.detection,
            })
            .collect()
    }

    /// Tracks the detections of the next frames, and returns the boxes that the reference uses: those
    /// of the tracker in frames where it has any track, else the detections.
    ///
    /// - `images`: the frames, from which the motion of the camera is estimated
    /// - `detections`: those of each frame
    pub fn track(
        &mut self,
        images: &[&RgbImage],
        detections: Vec<Vec<Detection>>,
    ) -> Vec<Vec<Detection>> {
        let track_frame = |(image, detections): (&&RgbImage, Vec<Detection>)| {
            let warp = self.config.follows_camera.then(|| self.camera.next(image));
            let tracks = self.update(&detections, warp.as_ref());
            if tracks.is_empty() {
                return detections;
            }
            let tracked = |track: &TrackedBox| Detection {
                bounds: track.bounds,
                score: track.score,
                keypoints: detections[track.detection].keypoints.clone(),
            };
            tracks.iter().map(tracked).collect()
        };
        images.iter().zip(detections).map(track_frame).collect()
    }
}

/// One round of association.
struct Round<'a> {
    detections: &'a [Detection],
    /// The detections that take part.
    candidates: &'a [usize],
    max_distance: f32,
    weigh: bool,
}

impl Round<'_> {
    /// Assigns detections to the tracks that take part, and updates these; returns the unmatched
    /// tracks and detections.
    fn associate(
        &self,
        tracks: &mut [Track],
        takes_part: impl Fn(usize) -> bool,
        frame: usize,
    ) -> (Vec<usize>, Vec<usize>) {
        let mut unmatched: Vec<usize> =
            (0..tracks.len()).filter(|index| takes_part(*index)).collect();
        let cost = |track: &Track, candidate: &usize| {
            let detection = &self.detections[*candidate];
            let iou = 1.0 - track.distance(&detection.bounds);
            1.0 - if self.weigh { iou * detection.score } else { iou }
        };
        let row = |index: &usize| {
            self.candidates.iter().map(|candidate| cost(&tracks[*index], candidate)).collect()
        };
        let costs: Vec<Vec<f32>> = unmatched.iter().map(row).collect();
        let pairs = assign(&costs, self.max_distance);

        let mut rest = self.candidates.to_vec();
        for &(row, column) in &pairs {
            let detection = self.candidates[column];
            tracks[unmatched[row]].update(detection, &self.detections[detection], frame);
            rest.retain(|left| *left != detection);
        }
        let mut row = 0;
        unmatched.retain(|_| {
            row += 1;
            pairs.iter().all(|(paired, _)| *paired != row - 1)
        });
        (unmatched, rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detection(x: f32, score: f32) -> Detection {
        let bounds = BoundingBox::new(x, 10.0, x + 50.0, 110.0);
        Detection { bounds, score, keypoints: Vec::new() }
    }

    fn ids(tracks: &[TrackedBox]) -> Vec<usize> {
        tracks.iter().map(|track| track.id).collect()
    }

    #[test]
    fn two_things_keep_their_ids_whatever_their_order() {
        let mut tracker = BotSort::new(BotSortConfig::default());
        assert_eq!(
            ids(&tracker.update(&[detection(0.0, 0.9), detection(200.0, 0.8)], None)),
            [1, 2]
        );
        let tracks = tracker.update(&[detection(203.0, 0.9), detection(3.0, 0.8)], None);
        assert_eq!(ids(&tracks), [1, 2]);
        assert_eq!(tracks[0].detection, 1);
    }

    #[test]
    fn a_later_track_counts_once_it_is_seen_again() {
        let mut tracker = BotSort::new(BotSortConfig::default());
        assert_eq!(tracker.update(&[], None), []);
        assert_eq!(tracker.update(&[detection(0.0, 0.9)], None), []);
        assert_eq!(ids(&tracker.update(&[detection(0.0, 0.9)], None)), [1]);
    }

    #[test]
    fn a_thing_hidden_for_a_while_is_known_again() {
        let mut tracker = BotSort::new(BotSortConfig::default());
        tracker.update(&[detection(0.0, 0.9)], None);
        for _ in 0..29 {
            assert_eq!(tracker.update(&[], None), []);
        }
        assert_eq!(ids(&tracker.update(&[detection(0.0, 0.9)], None)), [1]);
        for _ in 0..32 {
            tracker.update(&[], None);
        }
        tracker.update(&[detection(0.0, 0.9)], None);
        assert_eq!(ids(&tracker.update(&[detection(0.0, 0.9)], None)), [2]);
    }

    #[test]
    fn unlikely_detections_continue_a_track_but_start_none() {
        let mut tracker = BotSort::new(BotSortConfig::default());
        assert_eq!(tracker.update(&[detection(0.0, 0.2)], None), []);
        let mut tracker = BotSort::new(BotSortConfig::default());
        tracker.update(&[detection(0.0, 0.9)], None);
        assert_eq!(ids(&tracker.update(&[detection(0.0, 0.2)], None)), [1]);
    }

    #[test]
    fn detections_are_kept_where_nothing_is_tracked() {
        let frames =
            [vec![detection(0.0, 0.05)], vec![detection(0.0, 0.05), detection(90.0, 0.06)]];
        let image = RgbImage::new(2, 2, vec![0; 12]);
        let track = |frames: Vec<Vec<Detection>>| {
            let images = vec![&image; frames.len()];
            BotSort::new(BotSortConfig::default()).track(&images, frames)
        };
        assert_eq!(track(frames.to_vec()), frames);
        let frames = vec![vec![detection(0.0, 0.9), detection(300.0, 0.05)]];
        assert_eq!(track(frames)[0], [detection(0.0, 0.9)]);
    }
}

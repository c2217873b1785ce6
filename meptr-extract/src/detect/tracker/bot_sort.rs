//! The tracker: association of detections with tracks, birth and death of tracks.

use serde::{Deserialize, Serialize};

use super::super::{BoundingBox, Detection};
use super::assignment::assign;
use super::camera::CameraMotion;
use super::kalman::{MovingBox, Warp};
use crate::RgbImage;

/// Most distance (1 - overlap) of an unlikely detection from its track.
const MAX_DISTANCE_OF_UNLIKELY: f32 = 0.5;
/// Most distance of the second detection of a track that has been seen once.
const MAX_DISTANCE_OF_UNCONFIRMED: f32 = 0.7;
/// Tracks closer than this are one thing, and the younger one goes.
const MIN_DISTANCE_OF_TRACKS: f32 = 0.15;

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
    /// Frames after which a track that is not seen is forgotten.
    pub buffer_frames: usize,
    /// Most distance of a likely detection from its track, 0 to 1.
    pub max_distance: f32,
    /// Whether the overlap counts less for a less likely detection.
    pub weigh_by_score: bool,
    /// Whether the motion of the camera is taken out of the tracks, see [`super::camera`]: the
    /// `gmc_method` `sparseOptFlow`; without, it is `none`, and the camera is taken to stand still.
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

/// A thing at one frame.
#[derive(Debug, Clone, PartialEq)]
pub struct TrackedBox {
    /// The same for the same thing at all frames, from 1.
    pub id: usize,
    /// Where it is, smoothed over the frames; may reach beyond the frame.
    pub bounds: BoundingBox,
    /// Score of its detection at this frame.
    pub score: f32,
    /// Place of that detection among those of this frame.
    pub detection: usize,
}

/// The tracker.
#[derive(Debug, Clone)]
pub struct BotSort {
    config: BotSortConfig,
    frame: usize,
    born: usize,
    /// In the order of the output.
    tracked: Vec<Track>,
    lost: Vec<Track>,
    camera: CameraMotion,
}

#[derive(Debug, Clone)]
struct Track {
    id: usize,
    moving: MovingBox,
    is_lost: bool,
    /// Not seen for too long.
    is_over: bool,
    /// Seen at least twice, or at the first frame.
    is_confirmed: bool,
    first_frame: usize,
    last_frame: usize,
    score: f32,
    detection: usize,
}

impl Track {
    fn distance(&self, bounds: &BoundingBox) -> f32 {
        1.0 - self.moving.bounds().iou(bounds)
    }

    fn see(&mut self, detection: usize, seen: &Detection, frame: usize) {
        self.moving.see(&seen.bounds);
        (self.score, self.detection) = (seen.score, detection);
        self.last_frame = frame;
        self.is_lost = false;
        self.is_confirmed = true;
    }
}

impl BotSort {
    /// A tracker that has seen nothing.
    pub fn new(config: BotSortConfig) -> Self {
        let (tracked, lost) = (Vec::new(), Vec::new());
        Self { config, frame: 0, born: 0, tracked, lost, camera: CameraMotion::default() }
    }

    /// Takes the detections of the next frame; gives the things that are confirmed and seen there.
    ///
    /// `warp` tells how the camera moved since the last frame; without it, it stood still.
    pub fn update(&mut self, detections: &[Detection], warp: Option<&Warp>) -> Vec<TrackedBox> {
        self.frame += 1;
        let likely = |score: f32| score >= self.config.high_score;
        let unlikely = |score: f32| score > self.config.low_score && !likely(score);
        let all = || 0..detections.len();
        let likely: Vec<usize> = all().filter(|index| likely(detections[*index].score)).collect();
        let unlikely: Vec<usize> =
            all().filter(|index| unlikely(detections[*index].score)).collect();

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
        let first = Round { detections, candidates: &likely, max_distance, weigh };
        let (unseen, rest) = first.associate(&mut pool, |_| true, self.frame);

        let max_distance = MAX_DISTANCE_OF_UNLIKELY;
        let second = Round { detections, candidates: &unlikely, max_distance, weigh: false };
        let is_left = |index: usize| unseen.contains(&index) && !was_lost[index];
        let (unseen, _) = second.associate(&mut pool, is_left, self.frame);
        for index in unseen {
            pool[index].is_lost = true;
        }

        let max_distance = MAX_DISTANCE_OF_UNCONFIRMED;
        let third = Round { detections, candidates: &rest, max_distance, weigh };
        let (unseen, rest) = third.associate(&mut unconfirmed, |_| true, self.frame);
        let mut index = 0;
        unconfirmed.retain(|_| {
            index += 1;
            !unseen.contains(&(index - 1))
        });

        let born = self.new_tracks(detections, &rest);
        order.extend(born.iter().map(|track| track.id));
        self.sort_out(pool, unconfirmed, born, &order);
        self.output()
    }

    /// Moves all tracks to the new frame.
    fn predict(&self, pool: &mut [Track], unconfirmed: &mut [Track], warp: Option<&Warp>) {
        for track in pool.iter_mut() {
            if track.is_lost {
                track.moving.stop_growing();
            }
            track.moving.advance();
        }
        if let Some(warp) = warp {
            pool.iter_mut().chain(unconfirmed).for_each(|track| track.moving.warp(warp));
        }
    }

    fn new_tracks(&mut self, detections: &[Detection], rest: &[usize]) -> Vec<Track> {
        let likely = rest.iter().filter(|at| detections[**at].score >= self.config.new_track_score);
        let mut born = Vec::new();
        for &detection in likely {
            self.born += 1;
            born.push(Track {
                id: self.born,
                moving: MovingBox::seen_at(&detections[detection].bounds),
                is_lost: false,
                is_over: false,
                is_confirmed: self.frame == 1,
                first_frame: self.frame,
                last_frame: self.frame,
                score: detections[detection].score,
                detection,
            });
        }
        born
    }

    /// Divides the tracks into those seen and those lost, forgets the old, and joins the doubles.
    fn sort_out(
        &mut self,
        pool: Vec<Track>,
        unconfirmed: Vec<Track>,
        born: Vec<Track>,
        order: &[usize],
    ) {
        let all = pool.into_iter().chain(unconfirmed).chain(born);
        let (lost, mut tracked): (Vec<_>, Vec<_>) = all.partition(|track| track.is_lost);
        // As they came in; those found again last.
        tracked
            .sort_by_key(|track| order.iter().position(|id| *id == track.id).unwrap_or(usize::MAX));
        // As in the original, which takes from the lost what was over a frame ago: for that frame, a
        // track may still be found; but it is over for good, and goes as soon as it is lost again.
        let mut lost: Vec<Track> = lost.into_iter().filter(|track| !track.is_over).collect();
        for track in &mut lost {
            track.is_over = self.frame - track.last_frame > self.config.buffer_frames.max(1);
        }
        lost.sort_by_key(|track| track.last_frame);

        let mut doubles = Vec::new();
        for one in &tracked {
            for two in &lost {
                if one.distance(&two.moving.bounds()) < MIN_DISTANCE_OF_TRACKS {
                    let age = |track: &Track| track.last_frame - track.first_frame;
                    doubles.push(if age(one) > age(two) { two.id } else { one.id });
                }
            }
        }
        tracked.retain(|track| !doubles.contains(&track.id));
        lost.retain(|track| !doubles.contains(&track.id));
        (self.tracked, self.lost) = (tracked, lost);
    }

    fn output(&self) -> Vec<TrackedBox> {
        let confirmed = self.tracked.iter().filter(|track| track.is_confirmed);
        confirmed
            .map(|track| TrackedBox {
                id: track.id,
                bounds: track.moving.bounds(),
                score: track.score,
                detection: track.detection,
            })
            .collect()
    }

    /// The detections of the next frames as the reference sees them: where the tracker follows
    /// anything at all, its boxes stand in place of the detections.
    ///
    /// - `images`: the frames, where the camera's motion is read from
    /// - `detections`: those of each frame
    pub fn follow(
        &mut self,
        images: &[&RgbImage],
        detections: Vec<Vec<Detection>>,
    ) -> Vec<Vec<Detection>> {
        let follow_frame = |(image, detections): (&&RgbImage, Vec<Detection>)| {
            let warp = self.config.follows_camera.then(|| self.camera.next(image));
            let tracks = self.update(&detections, warp.as_ref());
            if tracks.is_empty() {
                return detections;
            }
            let place = |track: &TrackedBox| Detection {
                bounds: track.bounds,
                score: track.score,
                keypoints: detections[track.detection].keypoints.clone(),
            };
            tracks.iter().map(place).collect()
        };
        images.iter().zip(detections).map(follow_frame).collect()
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
    /// Shows the tracks that take part their detections; gives the tracks and detections left.
    fn associate(
        &self,
        tracks: &mut [Track],
        takes_part: impl Fn(usize) -> bool,
        frame: usize,
    ) -> (Vec<usize>, Vec<usize>) {
        let mut unseen: Vec<usize> = (0..tracks.len()).filter(|index| takes_part(*index)).collect();
        let cost = |track: &Track, candidate: &usize| {
            let detection = &self.detections[*candidate];
            let overlap = 1.0 - track.distance(&detection.bounds);
            1.0 - if self.weigh { overlap * detection.score } else { overlap }
        };
        let row = |index: &usize| {
            self.candidates.iter().map(|candidate| cost(&tracks[*index], candidate)).collect()
        };
        let costs: Vec<Vec<f32>> = unseen.iter().map(row).collect();
        let pairs = assign(&costs, self.max_distance);

        let mut rest = self.candidates.to_vec();
        for &(row, column) in &pairs {
            let detection = self.candidates[column];
            tracks[unseen[row]].see(detection, &self.detections[detection], frame);
            rest.retain(|left| *left != detection);
        }
        let mut row = 0;
        unseen.retain(|_| {
            row += 1;
            pairs.iter().all(|(paired, _)| *paired != row - 1)
        });
        (unseen, rest)
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
    fn detections_stand_where_nothing_is_followed() {
        let frames =
            [vec![detection(0.0, 0.05)], vec![detection(0.0, 0.05), detection(90.0, 0.06)]];
        let image = RgbImage::new(2, 2, vec![0; 12]);
        let follow = |frames: Vec<Vec<Detection>>| {
            let images = vec![&image; frames.len()];
            BotSort::new(BotSortConfig::default()).follow(&images, frames)
        };
        assert_eq!(follow(frames.to_vec()), frames);
        let frames = vec![vec![detection(0.0, 0.9), detection(300.0, 0.05)]];
        assert_eq!(follow(frames)[0], [detection(0.0, 0.9)]);
    }
}

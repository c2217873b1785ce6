//! Non-maximum suppression (NMS): one detection per object, out of the many that a network proposes.

use super::{BoundingBox, Detection};

/// Greedy NMS: keeps the best of every group of overlapping detections.
///
/// Takes the detections by descending score (equal scores in their order) and drops each whose IoU
/// with one taken before is above `max_iou`.
pub fn nms(mut detections: Vec<Detection>, max_iou: f32) -> Vec<Detection> {
    sort_by_score(&mut detections);
    let mut kept: Vec<Detection> = Vec::new();
    for detection in detections {
        if kept.iter().all(|better| better.bounds.iou(&detection.bounds) <= max_iou) {
            kept.push(detection);
        }
    }
    kept
}

/// Weighted NMS: merges every group of overlapping detections into one.
///
/// The best detection left forms a group with all whose IoU with it is above `min_iou`. Box and
/// keypoints become their means weighted by score; the score is the best one. As in MediaPipe
/// (`NonMaxSuppressionCalculator`, algorithm `WEIGHTED`).
pub fn weighted_nms(mut detections: Vec<Detection>, min_iou: f32) -> Vec<Detection> {
    sort_by_score(&mut detections);
    let mut merged = Vec::new();
    while !detections.is_empty() {
        let best = detections.remove(0);
        let (mut group, rest): (Vec<_>, Vec<_>) =
            detections.into_iter().partition(|other| best.bounds.iou(&other.bounds) > min_iou);
        group.insert(0, best); // separately: a box without area has no overlap with itself
        merged.push(weighted_mean(&group));
        detections = rest;
    }
    merged
}

fn sort_by_score(detections: &mut [Detection]) {
    detections.sort_by(|a, b| b.score.total_cmp(&a.score));
}

/// Mean of a group, weighted by score; the first detection is the best.
fn weighted_mean(group: &[Detection]) -> Detection {
    let total: f32 = group.iter().map(|detection| detection.score).sum();
    let mean = |value: &dyn Fn(&Detection) -> f32| {
        group.iter().map(|detection| value(detection) * detection.score).sum::<f32>() / total
    };
    let keypoint = |index: usize| {
        [mean(&|found| found.keypoints[index][0]), mean(&|found| found.keypoints[index][1])]
    };
    Detection {
        bounds: BoundingBox {
            x1: mean(&|found| found.bounds.x1),
            y1: mean(&|found| found.bounds.y1),
            x2: mean(&|found| found.bounds.x2),
            y2: mean(&|found| found.bounds.y2),
        },
        score: group[0].score,
        keypoints: (0..group[0].keypoints.len()).map(keypoint).collect(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn detection(x: f32, y: f32, size: f32, score: f32) -> Detection {
        let bounds = BoundingBox::new(x, y, x + size, y + size);
        Detection { bounds, score, keypoints: vec![[x, y]] }
    }

    #[test]
    fn the_best_of_a_group_stays() {
        let kept = nms(
            vec![
                detection(0.0, 0.0, 10.0, 0.5),
                detection(1.0, 1.0, 10.0, 0.9),
                detection(50.0, 0.0, 10.0, 0.1),
            ],
            0.5,
        );
        let scores: Vec<f32> = kept.iter().map(|detection| detection.score).collect();
        assert_eq!(scores, [0.9, 0.1]);
    }

    #[test]
    fn a_merged_group_lies_at_its_weighted_mean() {
        let merged = weighted_nms(
            vec![detection(4.0, 0.0, 10.0, 0.25), detection(0.0, 0.0, 10.0, 0.75)],
            0.3,
        );
        assert_eq!(merged.len(), 1);
        assert_eq!(merged[0].bounds, BoundingBox::new(1.0, 0.0, 11.0, 10.0));
        assert_eq!((merged[0].score, merged[0].keypoints[0]), (0.75, [1.0, 0.0]));
    }

    #[test]
    fn boxes_without_area_are_left_alone() {
        let points = vec![detection(1.0, 1.0, 0.0, 0.5), detection(1.0, 1.0, 0.0, 0.4)];
        assert_eq!(weighted_nms(points.clone(), 0.3), points);
        assert_eq!(nms(points.clone(), 0.3), points);
        assert_eq!(weighted_nms(Vec::new(), 0.3), []);
    }

    #[test]
    fn two_hundred_faces_stay_two_hundred() {
        let crowd: Vec<Detection> = (0..200)
            .map(|n| detection((n % 20) as f32 * 12.0, (n / 20) as f32 * 12.0, 10.0, 0.7))
            .collect();
        assert_eq!(weighted_nms(crowd.clone(), 0.3).len(), 200);
        assert_eq!(nms(crowd, 0.3).len(), 200);
    }

    fn any_detections() -> impl Strategy<Value = Vec<Detection>> {
        let one = (-20.0f32..100.0, -20.0f32..100.0, 0.0f32..60.0, 0.01f32..1.0);
        prop::collection::vec(
            one.prop_map(|(x, y, size, score)| detection(x, y, size, score)),
            0..40,
        )
    }

    proptest! {
        #[test]
        fn what_is_kept_was_there_and_does_not_overlap(detections in any_detections()) {
            let kept = nms(detections.clone(), 0.5);
            prop_assert_eq!(kept.is_empty(), detections.is_empty());
            for (index, one) in kept.iter().enumerate() {
                prop_assert!(detections.contains(one));
                prop_assert!(kept[..index].iter().all(|two| two.bounds.iou(&one.bounds) <= 0.5));
                prop_assert!(kept[..index].iter().all(|two| two.score >= one.score));
            }
        }

        #[test]
        fn merging_stays_within_the_boxes_it_merges(detections in any_detections()) {
            let merged = weighted_nms(detections.clone(), 0.3);
            prop_assert_eq!(merged.is_empty(), detections.is_empty());
            let left = detections.iter().map(|d| d.bounds.x1).fold(f32::INFINITY, f32::min);
            let right = detections.iter().map(|d| d.bounds.x2).fold(-f32::INFINITY, f32::max);
            for one in &merged {
                prop_assert!(one.bounds.x1 >= left - 1e-3 && one.bounds.x2 <= right + 1e-3);
                prop_assert!(detections.iter().any(|d| d.score == one.score));
            }
        }
    }
}

//! Size of a YOLOv8 network.

use meptr_core::convert::YoloShape;
use serde::{Deserialize, Serialize};

use crate::backbones::checkpoint_folder::Problems;

/// Largest `width_multiple` and `depth_multiple`: the largest network of the family has 1.25.
const MAX_MULTIPLE: f64 = 16.0;

/// Size of a network of the family.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct YoloConfig {
    /// Channels relative to the full network, above 0.
    pub width_multiple: f64,
    /// Repeated blocks relative to the full network, above 0.
    pub depth_multiple: f64,
    /// Channels per layer at most, before `width_multiple` is applied.
    pub max_channels: usize,
    /// Classes of objects, at least 1.
    pub classes: usize,
}

impl YoloConfig {
    /// YOLOv8n.
    pub fn nano(classes: usize) -> Self {
        Self { width_multiple: 0.25, depth_multiple: 0.33, max_channels: 1024, classes }
    }

    /// YOLOv8s.
    pub fn small(classes: usize) -> Self {
        Self { width_multiple: 0.5, depth_multiple: 0.33, max_channels: 1024, classes }
    }

    /// YOLOv8m.
    pub fn medium(classes: usize) -> Self {
        Self { width_multiple: 0.75, depth_multiple: 0.67, max_channels: 768, classes }
    }

    /// YOLOv8l.
    pub fn large(classes: usize) -> Self {
        Self { width_multiple: 1.0, depth_multiple: 1.0, max_channels: 512, classes }
    }

    /// YOLOv8x.
    pub fn extra_large(classes: usize) -> Self {
        Self { width_multiple: 1.25, depth_multiple: 1.0, max_channels: 512, classes }
    }

    /// Infers the size of the network from the shapes of its weights.
    pub fn of_shape(shape: YoloShape) -> Self {
        Self {
            width_multiple: shape.stem_width as f64 / 64.0,
            depth_multiple: shape.stage_2_blocks as f64 / 6.0,
            max_channels: shape.deepest_width * 64 / shape.stem_width.max(1),
            classes: shape.classes,
        }
    }

    /// Invalid values, found before memory is allocated for them.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Problems::default();
        for (name, multiple) in
            [("width_multiple", self.width_multiple), ("depth_multiple", self.depth_multiple)]
        {
            problems.require(
                multiple > 0.0 && multiple <= MAX_MULTIPLE,
                format!("`{name}` is {multiple}, not above 0 and up to {MAX_MULTIPLE}"),
            );
        }
        problems.require_sizes(&[("max_channels", self.max_channels), ("classes", self.classes)]);
        problems.into_vec()
    }

    /// Channels of a layer that has `full` in the full network: a multiple of 8.
    pub(super) fn channels(&self, full: usize) -> usize {
        let channels = full.min(self.max_channels) as f64 * self.width_multiple;
        (channels / 8.0).ceil() as usize * 8
    }

    /// Blocks of a layer that has `full` in the full network, at least 1.
    pub(super) fn blocks(&self, full: usize) -> usize {
        ((full as f64 * self.depth_multiple).round_ties_even() as usize).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_tell_the_member_of_the_family() {
        for make in [
            YoloConfig::nano,
            YoloConfig::small,
            YoloConfig::medium,
            YoloConfig::large,
            YoloConfig::extra_large,
        ] {
            let config = make(3);
            let found = YoloConfig::of_shape(YoloShape {
                stem_width: config.channels(64),
                deepest_width: config.channels(1024),
                stage_2_blocks: config.blocks(6),
                classes: 3,
            });
            for full in [64, 128, 256, 512, 1024] {
                assert_eq!(found.channels(full), config.channels(full));
            }
            assert_eq!([3, 6].map(|f| found.blocks(f)), [3, 6].map(|f| config.blocks(f)));
        }
    }

    #[test]
    fn sizes_that_no_network_has_are_named() {
        assert!(YoloConfig::extra_large(80).problems().is_empty());
        let huge = YoloConfig { max_channels: usize::MAX, ..YoloConfig::nano(0) };
        let huge = YoloConfig { width_multiple: f64::NAN, depth_multiple: 1e300, ..huge };
        let problems = huge.problems();
        for name in ["width_multiple", "depth_multiple", "max_channels", "classes"] {
            assert!(problems.iter().any(|one| one.contains(name)), "{name}: {problems:?}");
        }
    }

    #[test]
    fn the_family_has_its_published_sizes() {
        let table = [
            (YoloConfig::nano(80), [16, 128, 256], [1, 2]),
            (YoloConfig::small(80), [32, 256, 512], [1, 2]),
            (YoloConfig::medium(80), [48, 384, 576], [2, 4]),
            (YoloConfig::large(80), [64, 512, 512], [3, 6]),
            (YoloConfig::extra_large(80), [80, 640, 640], [3, 6]),
        ];
        for (config, channels, blocks) in table {
            assert_eq!([64, 512, 1024].map(|full| config.channels(full)), channels);
            assert_eq!([3, 6].map(|full| config.blocks(full)), blocks);
        }
    }
}

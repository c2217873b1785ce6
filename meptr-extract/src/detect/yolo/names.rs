//! Names of the weights, in two conventions.

use candle_nn::VarBuilder;

/// Layers of the published conversions for Candle, by the number of the layer at Ultralytics;
/// layers without weights are empty.
const CANDLE_LAYERS: [&str; 23] = [
    "net.b1.0", "net.b1.1", "net.b2.0", "net.b2.1", "net.b2.2", "net.b3.0", "net.b3.1", "net.b4.0",
    "net.b4.1", "net.b5.0", "", "", "fpn.n1", "", "", "fpn.n2", "fpn.n3", "", "fpn.n4", "fpn.n5",
    "", "fpn.n6", "head",
];

/// Naming convention of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    /// `model.4.m.0.cv1.conv.weight`
    Ultralytics,
    /// `net.b2.2.bottleneck.0.cv1.conv.weight`
    Candle,
}

impl Names {
    /// Convention of the weights.
    pub(super) fn of(vb: &VarBuilder) -> Self {
        let is_candle = vb.contains_tensor(&format!("{}.conv.weight", CANDLE_LAYERS[0]));
        if is_candle { Self::Candle } else { Self::Ultralytics }
    }

    /// Prefix of a layer.
    pub(super) fn layer(self, number: usize) -> String {
        match self {
            Self::Ultralytics => format!("model.{number}"),
            Self::Candle => CANDLE_LAYERS[number].to_owned(),
        }
    }

    /// Prefix of a block's list of inner blocks.
    pub(super) fn inner_blocks(self) -> &'static str {
        match self {
            Self::Ultralytics => "m",
            Self::Candle => "bottleneck",
        }
    }
}

/// Tensors of a training checkpoint that a detector does not use: counters of BatchNorm.
pub fn may_be_left(name: &str) -> bool {
    name.ends_with(".num_batches_tracked")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_name_the_same_layers() {
        assert_eq!(Names::Ultralytics.layer(4), "model.4");
        assert_eq!(Names::Candle.layer(4), "net.b2.2");
        assert_eq!(
            (Names::Candle.layer(9), Names::Candle.layer(12)),
            ("net.b5.0".into(), "fpn.n1".into())
        );
        assert_eq!(
            (Names::Candle.layer(21), Names::Candle.layer(22)),
            ("fpn.n6".into(), "head".into())
        );
        assert!(may_be_left("model.0.bn.num_batches_tracked"));
    }
}

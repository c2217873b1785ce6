//! Shape of the stage-3 model, its ablations, and the transform of trait scores at its input.

use candle::{DType, Result, Tensor};
use serde::{Deserialize, Serialize};

use crate::models::config::MAX_WIDTH;
use crate::{Modality, PerModality};

/// Shape of the stage-3 model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FusionConfig {
    /// Width of every node and of both tasks' vectors, even.
    pub hidden_dim: usize,
    /// Attention heads, which divide `hidden_dim`.
    pub num_heads: usize,
    /// Probability of dropout, 0 to 1.
    pub dropout: f32,
    /// Width of each modality's vector.
    #[serde(default = "published_input_dims")]
    pub input_dims: PerModality<usize>,
    /// Parts left out.
    #[serde(default)]
    pub ablation: Ablation,
    /// Transform of each modality's trait scores.
    #[serde(default)]
    pub score_transform: ScoreTransform,
}

impl FusionConfig {
    /// The published run: width 256, 8 heads, dropout 0.2, without the trait guide bank.
    pub fn published() -> Self {
        Self {
            hidden_dim: 256,
            num_heads: 8,
            dropout: 0.2,
            input_dims: published_input_dims(),
            ablation: Ablation { disable_guide_pkl: true, ..Ablation::default() },
            score_transform: ScoreTransform::Scores,
        }
    }

    /// Everything that makes no sense, by the keys where it stands.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let (width, heads) = (self.hidden_dim, self.num_heads);
        if !(2..=MAX_WIDTH).contains(&width) || width % 2 == 1 {
            problems.push(format!("`hidden_dim` {width} is not even, or not 2 to {MAX_WIDTH}"));
        }
        if heads == 0 || !width.is_multiple_of(heads) {
            problems.push(format!("`num_heads` {heads} does not divide `hidden_dim` {width}"));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            problems.push(format!("`dropout` {} is not 0 to 1, and below 1", self.dropout));
        }
        let is_wrong = |(_, width): &(Modality, &usize)| !(1..=MAX_WIDTH).contains(*width);
        problems.extend(self.input_dims.iter().filter(is_wrong).map(|(modality, width)| {
            format!("`input_dims.{modality}` {width} is not 1 to {MAX_WIDTH}")
        }));
        problems
    }
}

fn published_input_dims() -> PerModality<usize> {
    PerModality { body: 2048, face: 1024, scene: 1536, audio: 512, text: 512 }
}

/// Parts of the stage-3 model that are left out, for ablation studies.
///
/// Parameters of a part left out do not exist, except that `disable_guide_emo` and
/// `disable_guide_pkl` keep theirs, as do disabled modalities.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ablation {
    /// Modalities that never become nodes.
    pub disabled_modalities: Vec<Modality>,
    /// The tasks read the projected modalities instead of the graph's output.
    pub disable_graph_attn: bool,
    /// Both tasks' vectors are the mean of the context.
    pub disable_cross_attn: bool,
    /// The modalities' emotion logits are not used.
    pub disable_emo_logit_proj: bool,
    /// The modalities' trait scores are not used.
    pub disable_pkl_logit_proj: bool,
    /// The emotion head decides without its guide bank.
    pub disable_guide_emo: bool,
    /// The trait head decides without its guide bank.
    pub disable_guide_pkl: bool,
    /// Neither guide bank exists.
    pub disable_guide_bank: bool,
}

/// Transform of a modality's trait scores at the input of the stage-3 model.
///
/// A bundle says which one its fusion model was trained with; prediction uses the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScoreTransform {
    /// As they are.
    #[default]
    Scores,
    /// `ln(p / (1 - p))` with `p` clamped to `1e-4..=1 - 1e-4`, as in the authors' demo. A row
    /// with any score outside `0..=1` stays as it is.
    Logits,
}

impl ScoreTransform {
    /// Transforms trait scores.
    ///
    /// - `scores`: `(rows, 5)`, f32
    /// - returns the same shape, f32
    ///
    /// # Errors
    /// When the device has no memory left.
    pub fn apply(self, scores: &Tensor) -> Result<Tensor> {
        if self == Self::Scores {
            return Ok(scores.clone());
        }
        let clamped = scores.clamp(1e-4, 1.0 - 1e-4)?;
        let logits = (clamped.log()? - (1.0 - &clamped)?.log()?)?;
        let inside = (scores.ge(0.0)? * scores.le(1.0)?)?.to_dtype(DType::F32)?;
        let all_inside = inside.min_keepdim(1)?.gt(0.0)?.broadcast_as(scores.shape())?;
        all_inside.where_cond(&logits, scores)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle::Device;

    #[test]
    fn logits_are_clamped_and_rows_outside_the_unit_range_stay() -> Result<()> {
        let scores = [[0.5_f32, 0.0, 1.0, 0.25, 0.75], [0.5, 0.5, 0.5, 1.01, 0.5]];
        let tensor = Tensor::new(&scores, &Device::Cpu)?;
        let found = ScoreTransform::Logits.apply(&tensor)?.to_vec2::<f32>()?;
        let edge = (0.9999_f64 / 0.0001).ln() as f32;
        let expected = [0.0, -edge, edge, -(3.0_f32.ln()), 3.0_f32.ln()];
        for (found, expected) in found[0].iter().zip(expected) {
            assert!((found - expected).abs() < 1e-3, "{found} is not {expected}");
        }
        assert_eq!(found[1], scores[1]);
        assert_eq!(ScoreTransform::Scores.apply(&tensor)?.to_vec2::<f32>()?, scores);
        Ok(())
    }

    #[test]
    fn the_reference_s_json_is_ours() {
        let json = r#"{"hidden_dim": 32, "num_heads": 8, "dropout": 0.2,
            "ablation": {"disabled_modalities": ["audio", "text"], "disable_guide_pkl": true}}"#;
        let config: FusionConfig = serde_json::from_str(json).unwrap();
        assert_eq!(config.input_dims, published_input_dims());
        assert_eq!(config.ablation.disabled_modalities, [Modality::Audio, Modality::Text]);
        assert!(config.ablation.disable_guide_pkl && !config.ablation.disable_guide_emo);
        assert!(serde_json::from_str::<FusionConfig>(&json.replace("dropout", "drop")).is_err());
    }
}

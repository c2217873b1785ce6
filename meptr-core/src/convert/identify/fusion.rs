//! Stage 3.

use serde_json::{Value as Json, json};

use super::{Assumed, Basis, Identified, Model, Shapes, number_under};
use crate::convert::error::Result;
use crate::models::{Ablation, FusionConfig};
use crate::{Modality, PerModality};

/// Reads the stage-3 configuration off the shapes.
///
/// # Errors
/// When a tensor that every ablation keeps is missing.
pub(super) fn identify(shapes: &Shapes, config: Option<&Json>) -> Result<Identified> {
    let published = FusionConfig::published();
    let mut input_dims = PerModality::<usize>::default();
    for modality in Modality::ALL {
        input_dims[modality] = shapes.dim(&format!("projectors.{modality}.0.proj.0.weight"), 1)?;
    }
    let mut found = FusionConfig {
        hidden_dim: shapes.dim("emo_query", 2)?,
        input_dims,
        ablation: Ablation {
            disable_graph_attn: !shapes.has("graph_attn.a"),
            disable_cross_attn: !shapes.has("cross_attn.in_proj_weight"),
            disable_emo_logit_proj: !shapes.has("emo_logit_proj.weight"),
            disable_pkl_logit_proj: !shapes.has("per_logit_proj.weight"),
            disable_guide_bank: !shapes.has("guide_bank_emo.embeddings"),
            ..Ablation::default()
        },
        ..published.clone()
    };
    let as_published = FusionConfig { ablation: published.ablation.clone(), ..found.clone() };
    let parts_are_whole = found.ablation == Ablation::default();
    let basis = if as_published == published && parts_are_whole {
        found = published;
        Basis::Published
    } else {
        Basis::Guess
    };
    let from_file = flags_of_file(config, &mut found);
    let flag_basis = if from_file { Basis::File } else { basis };
    let heads_basis = match number_under(config, &["num_heads", "tr_heads"]) {
        Some(heads) => {
            found.num_heads = heads;
            Basis::File
        }
        None => basis,
    };
    let mut assumed = Vec::new();
    let mut assume = |key: &str, value, basis| {
        assumed.push(Assumed { key: key.to_owned(), value, basis });
    };
    if !found.ablation.disable_cross_attn {
        assume("num_heads", json!(found.num_heads), heads_basis);
    }
    if !found.ablation.disable_guide_bank {
        assume("ablation.disable_guide_emo", json!(found.ablation.disable_guide_emo), flag_basis);
        assume("ablation.disable_guide_pkl", json!(found.ablation.disable_guide_pkl), flag_basis);
    }
    assume("ablation.disabled_modalities", json!(found.ablation.disabled_modalities), flag_basis);
    // No file says which of the two it was trained with.
    assume("score_transform", json!(found.score_transform), basis);
    Ok(Identified { model: Model::Fusion(found), modality: None, assumed })
}

/// Takes over what leaves no trace in the shapes, when the file's configuration says it.
fn flags_of_file(config: Option<&Json>, found: &mut FusionConfig) -> bool {
    let Some(config) = config else { return false };
    let flags = config.get("ablation").unwrap_or(config);
    let flag = |key: &str| flags.get(key).and_then(Json::as_bool);
    let (emotion, personality) = (flag("disable_guide_emo"), flag("disable_guide_pkl"));
    let disabled = flags.get("disabled_modalities").cloned();
    let disabled = disabled.and_then(|list| serde_json::from_value::<Vec<Modality>>(list).ok());
    let says = emotion.is_some() || personality.is_some() || disabled.is_some();
    let any = says || config.get("ablation").is_some();
    if any {
        found.ablation.disable_guide_emo = emotion.unwrap_or(false);
        found.ablation.disable_guide_pkl = personality.unwrap_or(false);
        found.ablation.disabled_modalities = disabled.unwrap_or_default();
    }
    if let Some(dropout) = config.get("dropout").and_then(Json::as_f64) {
        found.dropout = dropout as f32;
    }
    any
}

//! Models of stages 1 and 2.

use serde_json::Value as Json;

use super::assumptions::Unrecorded;
use super::stage_config::StageConfig;
use super::{Basis, Identified, Shapes, number_under, unknown};
use crate::convert::error::Result;
use crate::models::{
    AudioConfig, CrossTaskConfig, EncoderConfig, HeadConfig, HiddenActivation, OutputActivation,
    SequenceConfig, TransformerFusionConfig, UnimodalConfig,
};
use crate::{Modality, Task};

const GUESSED_HEADS: usize = 8;
const AUDIO_HEADS: &str = "fusion.attention.heads";

/// Reads a head's configuration off the shapes and completes it: by the file's configuration, else
/// by the published one that the shapes fit exactly, else by that of the modality as a guess.
///
/// # Errors
/// When the names are not those of a head, or one of them is missing.
pub(super) fn identify(
    shapes: &Shapes,
    config: Option<&Json>,
    modality: Option<Modality>,
) -> Result<Identified> {
    let recorded = recorded(shapes)?;
    let unrecorded = Unrecorded::new(shapes);
    let modality = modality.or(recorded.is_audio().then_some(Modality::Audio));
    let fit =
        |candidate: &HeadConfig| unrecorded.matching(&recorded, &recorded.same_stage_of(candidate));
    let published = Modality::ALL
        .into_iter()
        .filter(|candidate| modality.is_none_or(|modality| modality == *candidate))
        .find_map(|candidate| Some((candidate, fit(&HeadConfig::published(candidate))?)));
    let in_file = config.and_then(|json| HeadConfig::from_reference_json(json).ok());
    let (mut found, modality, basis) = match (in_file.as_ref().and_then(fit), published) {
        (Some(found), published) => {
            let is_text = config.is_some_and(|json| json.get("input_dim").is_some());
            let known = modality.or(is_text.then_some(Modality::Text));
            (found, known.or(published.map(|(modality, _)| modality)), Basis::File)
        }
        (None, Some((modality, found))) => (found, Some(modality), Basis::Published),
        (None, None) => {
            let like = HeadConfig::published(modality.unwrap_or(Modality::Face));
            (
                unrecorded.completed(&recorded, &recorded.same_stage_of(&like)),
                modality,
                Basis::Guess,
            )
        }
    };
    let mut assumed = unrecorded.list(&found, basis);
    // The authors' audio file says it among much else, so its configuration need not be ours.
    let in_file = number_under(config, &["tr_heads", "num_heads"]);
    let entry = assumed.iter_mut().find(|assumed| assumed.key == AUDIO_HEADS);
    if let (Some(in_file), Some(entry)) = (in_file, entry) {
        (entry.value, entry.basis) = (in_file.into(), Basis::File);
        found.set_attention_heads(in_file);
    }
    Ok(Identified { model: found.into(), modality, assumed })
}

/// Reads the kind of model, its widths and depths off the names and shapes.
fn recorded(shapes: &Shapes) -> Result<StageConfig> {
    if shapes.has("mha_e2p.in_proj_weight") {
        return Ok(StageConfig::CrossTask(HeadConfig {
            emotion: audio(&shapes.below("emo_enc"))?,
            personality: audio(&shapes.below("per_enc"))?,
            fusion: CrossTaskConfig::Attention {
                width: shapes.dim("mha_e2p.out_proj.weight", 0)?,
                heads: guessed_heads(shapes.dim("mha_e2p.out_proj.weight", 0)?),
                dropout: 0.0,
            },
        }));
    }
    if shapes.has("emotion_personality_fc_out.0.weight") {
        return Ok(StageConfig::CrossTask(HeadConfig {
            emotion: sequence(&shapes.below("emo_model"), Task::Emotion)?,
            personality: sequence(&shapes.below("per_model"), Task::Personality)?,
            fusion: CrossTaskConfig::Transformer(transformer_fusion(shapes)?),
        }));
    }
    let (task, config) = if shapes.has("emotion_fc_out.0.weight") {
        (Task::Emotion, sequence(shapes, Task::Emotion)?)
    } else if shapes.has("personality_fc_out.0.weight") {
        (Task::Personality, sequence(shapes, Task::Personality)?)
    } else if shapes.has("input_proj.weight") && shapes.has("fc.weight") {
        (Task::Emotion, audio(shapes)?)
    } else if shapes.has("input_proj.weight") && shapes.has("head.weight") {
        (Task::Personality, audio(shapes)?)
    } else {
        let names: Vec<&str> = shapes.names().take(3).collect();
        return Err(unknown(format!("no model has names such as `{}`", names.join("`, `"))));
    };
    Ok(StageConfig::Unimodal(task, config))
}

fn audio(shapes: &Shapes) -> Result<UnimodalConfig> {
    Ok(UnimodalConfig::Audio(AudioConfig {
        input_width: shapes.dim("input_proj.weight", 1)?,
        width: shapes.dim("input_proj.weight", 0)?,
        layers: shapes.count("blocks"),
        dropout: 0.0,
    }))
}

fn sequence(shapes: &Shapes, task: Task) -> Result<UnimodalConfig> {
    let (projection, encoder, head) = match task {
        Task::Emotion => ("emo_proj.0.weight", "emotion_encoder", "emotion_fc_out.0.weight"),
        Task::Personality => {
            ("per_proj.0.weight", "personality_encoder", "personality_fc_out.0.weight")
        }
    };
    let width = shapes.dim(projection, 0)?;
    let layers = shapes.count(encoder);
    let mamba = format!("{encoder}.0.in_proj.weight");
    Ok(UnimodalConfig::Sequence(SequenceConfig {
        input_width: shapes.dim(projection, 1)?,
        width,
        head_width: shapes.dim(head, 0)?,
        encoder: if shapes.has(&mamba) {
            EncoderConfig::Mamba { inner_width: shapes.dim(&mamba, 0)?, layers }
        } else {
            shapes.dim(&format!("{encoder}.0.self_attention.in_proj_weight"), 0)?;
            let positions = shapes.has(&format!("{encoder}.0.positional_encoding.pe"));
            EncoderConfig::Transformer { heads: guessed_heads(width), layers, positions }
        },
        activation: OutputActivation::None,
        dropout: 0.0,
    }))
}

fn transformer_fusion(shapes: &Shapes) -> Result<TransformerFusionConfig> {
    let width = shapes.dim("emo_proj.0.weight", 0)?;
    Ok(TransformerFusionConfig {
        width,
        head_width: shapes.dim("emotion_personality_fc_out.0.weight", 0)?,
        heads: guessed_heads(width),
        layers: shapes.count("emotion_to_personality_attn"),
        positions: shapes.has("emotion_to_personality_attn.0.positional_encoding.pe"),
        activation: OutputActivation::Sigmoid,
        hidden_activation: HiddenActivation::Gelu,
        dropout: 0.0,
    })
}

/// The largest usual number of heads that divides a width.
fn guessed_heads(width: usize) -> usize {
    (1..=GUESSED_HEADS).rev().find(|heads| width.is_multiple_of(*heads)).unwrap_or(1)
}

//! Identification of the model that a table of tensors belongs to, and of its configuration.
//!
//! Widths, depths, kinds of encoder and the parts that exist are read off names and shapes. What
//! leaves no trace there (attention heads, activations, positions without a stored table, the
//! modality of a body, face or scene head) comes from the file's own configuration, else from the
//! published configuration that the shapes fit exactly, else it is a guess; [`Assumed`] says which.

mod assumptions;
mod fusion;
mod head;
mod shapes;
mod stage_config;

use serde::Serialize;
use serde_json::Value as Json;

use super::error::{CheckpointError, Result};
use crate::models::{FusionConfig, HeadConfig, UnimodalConfig};
use crate::{Modality, Task};

pub use shapes::Shapes;

/// A model that was recognised.
#[derive(Debug, Clone, PartialEq)]
pub enum Model {
    /// Stage 3.
    Fusion(FusionConfig),
    /// Stage 2 with both of its stage-1 models inside.
    Head(HeadConfig),
    /// Stage 1 alone.
    Unimodal {
        /// Task of the model.
        task: Task,
        /// Its shape.
        config: UnimodalConfig,
    },
    /// A YOLOv8 detector.
    Yolo(YoloShape),
    /// A frozen model of the Hub, whose configuration is the `config.json` beside its weights.
    Backbone(Backbone),
}

impl Model {
    /// The configuration as JSON, in which [`Assumed::key`] names places; null for a backbone.
    pub fn config_json(&self) -> Json {
        let json = match self {
            Self::Fusion(config) => serde_json::to_value(config),
            Self::Head(config) => serde_json::to_value(config),
            Self::Unimodal { config, .. } => serde_json::to_value(config),
            Self::Yolo(shape) => serde_json::to_value(shape),
            Self::Backbone(_) => Ok(Json::Null),
        };
        json.expect("configurations are made of numbers, flags and names")
    }
}

/// Configuration of a YOLOv8 detector, read off its shapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct YoloShape {
    /// Channels after the first convolution: 64 times the width factor.
    pub stem_width: usize,
    /// Channels of the deepest layers: 16 times as many, but for a bound.
    pub deepest_width: usize,
    /// Bottlenecks in the second stage: 6 times the depth factor.
    pub stage_2_blocks: usize,
    /// Number of classes.
    pub classes: usize,
}

/// The architectures of the frozen models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // names of architectures
pub enum Backbone {
    Clip,
    Bert,
    Wav2Vec2,
    Whisper,
}

/// A value of the configuration that the shapes do not tell.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Assumed {
    /// Key in the configuration as JSON, such as `fusion.transformer.heads`.
    pub key: String,
    /// Value that was taken.
    pub value: Json,
    /// Source of the value.
    pub basis: Basis,
}

/// Source of an assumed value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// The caller.
    Given,
    /// The configuration in the file.
    File,
    /// The published configuration, which the shapes fit exactly.
    Published,
    /// None: the value must be asked for.
    Guess,
}

/// A model, and how much of its configuration is certain.
#[derive(Debug, Clone, PartialEq)]
pub struct Identified {
    /// Kind of model, with its configuration.
    pub model: Model,
    /// Modality; `None` for stage 3, for detectors and backbones, and where it must be asked.
    pub modality: Option<Modality>,
    /// Configuration values that the shapes do not show.
    pub assumed: Vec<Assumed>,
}

/// Recognises a model by the names and shapes of its tensors.
///
/// - `config`: the configuration in the file, in the reference's own form, if it has one
/// - `modality`: what a head reads, if the caller knows
///
/// # Errors
/// [`CheckpointError::UnknownModel`] when no model has such names; [`CheckpointError::Unsupported`]
/// for the single-task fusion models, which no bundle can use.
pub fn identify(
    shapes: &Shapes,
    config: Option<&Json>,
    modality: Option<Modality>,
) -> Result<Identified> {
    if let Some(model) = backbone(shapes).or_else(|| yolo(shapes)) {
        return Ok(Identified { model, modality: None, assumed: Vec::new() });
    }
    if shapes.has("emo_query") {
        return fusion::identify(shapes, config);
    }
    if shapes.has("query") && shapes.has("projectors.body.0.proj.0.weight") {
        return Err(CheckpointError::unsupported(
            "a fusion model of one task; predictions need the one for both tasks",
        ));
    }
    head::identify(shapes, config, modality)
}

fn backbone(shapes: &Shapes) -> Option<Model> {
    let marks = [
        (Backbone::Clip, "vision_model.embeddings.patch_embedding.weight"),
        (Backbone::Whisper, "decoder.embed_positions.weight"),
        (Backbone::Wav2Vec2, "feature_extractor.conv_layers.0.conv.weight"),
        (Backbone::Bert, "embeddings.word_embeddings.weight"),
    ];
    let found = marks.iter().find(|(_, mark)| shapes.names().any(|name| name.ends_with(mark)))?;
    Some(Model::Backbone(found.0))
}

/// Knows the names of Ultralytics and those of the published conversions for Candle.
fn yolo(shapes: &Shapes) -> Option<Model> {
    let ultralytics = || {
        let head = shapes.last("model")?; // layers without weights have no index
        Some(["model.0", "model.7", "model.4.m", &format!("model.{head}")].map(str::to_owned))
    };
    let candle = || ["net.b1.0", "net.b4.0", "net.b2.2.bottleneck", "head"].map(str::to_owned);
    let [stem, deepest, blocks, head] = ultralytics().unwrap_or_else(candle);
    let stem_width = shapes.dim(&format!("{stem}.conv.weight"), 0).ok()?;
    let deepest_width = shapes.dim(&format!("{deepest}.conv.weight"), 0);
    Some(Model::Yolo(YoloShape {
        stem_width,
        deepest_width: deepest_width.unwrap_or(16 * stem_width),
        stage_2_blocks: shapes.count(&blocks),
        classes: shapes.dim(&format!("{head}.cv3.0.2.weight"), 0).ok()?,
    }))
}

fn unknown(problem: impl Into<String>) -> CheckpointError {
    CheckpointError::UnknownModel { problems: vec![problem.into()] }
}

/// The first whole number under one of `keys`, at any depth of a configuration.
fn number_under(config: Option<&Json>, keys: &[&str]) -> Option<usize> {
    let object = config?.as_object()?;
    let here = keys.iter().find_map(|key| object.get(*key)?.as_u64());
    let here = here.and_then(|number| usize::try_from(number).ok());
    here.or_else(|| object.values().find_map(|value| number_under(Some(value), keys)))
}

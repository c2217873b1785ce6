//! CLIP's vision tower.

use std::sync::Arc;

use candle::{DType, Result, Tensor};
use meptr_core::kernels::Activation;
use meptr_core::weights::{FrozenBuilder, MappedFile};
use serde::Deserialize;

use super::checkpoint_folder::{CheckpointConfig, Problems};
use super::from_checkpoint::FromCheckpoint;
use super::layers::{
    FrozenLayerNorm, FrozenLinear, LayerNames, TransformerEncoder, TransformerEncoderConfig,
};

/// `config.json` of a CLIP model; other keys are ignored.
///
/// Missing keys have the values of ViT-B/32, as in transformers.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct ClipConfig {
    /// Must be `clip`.
    pub model_type: String,
    /// Width of the image features.
    pub projection_dim: usize,
    /// The vision tower.
    pub vision_config: ClipVisionConfig,
}

/// Vision tower's part of a [`ClipConfig`].
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct ClipVisionConfig {
    /// Width of the sequence.
    pub hidden_size: usize,
    /// Width inside the feed-forward blocks.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Attention heads, a divisor of `hidden_size`.
    pub num_attention_heads: usize,
    /// Must be 3.
    pub num_channels: usize,
    /// Side of the square image in pixels.
    pub image_size: usize,
    /// Side of one patch in pixels.
    pub patch_size: usize,
    /// Activation of the feed-forward blocks.
    pub hidden_act: Activation,
    /// Added to the variance in every layer norm.
    pub layer_norm_eps: f64,
}

impl ClipConfig {
    /// `openai/clip-vit-base-patch32`: 224 pixels, 512 features.
    pub fn vit_base_patch32() -> Self {
        Self {
            model_type: "clip".into(),
            projection_dim: 512,
            vision_config: ClipVisionConfig::default(),
        }
    }
}

impl Default for ClipConfig {
    fn default() -> Self {
        Self::vit_base_patch32()
    }
}

impl Default for ClipVisionConfig {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: 224,
            patch_size: 32,
            hidden_act: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
        }
    }
}

impl CheckpointConfig for ClipConfig {
    fn problems(&self) -> Vec<String> {
        let vision = &self.vision_config;
        let mut problems = Problems::default();
        problems.require(
            self.model_type == "clip",
            format!("`model_type` is `{}`, not `clip`", self.model_type),
        );
        problems.require_encoder(
            vision.hidden_size,
            vision.num_hidden_layers,
            vision.num_attention_heads,
        );
        problems.require_sizes(&[
            ("projection_dim", self.projection_dim),
            ("intermediate_size", vision.intermediate_size),
            ("image_size", vision.image_size),
            ("patch_size", vision.patch_size),
        ]);
        problems.require(
            vision.num_channels == 3,
            format!("`num_channels` is {}, not 3", vision.num_channels),
        );
        problems.require(
            vision.image_size >= vision.patch_size,
            format!("`image_size` {} holds no patch of `patch_size`", vision.image_size),
        );
        problems.into_vec()
    }
}

/// Images per batch on the CPU: activations between the GEMMs then stay in the cache, and their memory
/// is not returned to the system and allocated again for every layer.
const CPU_BATCH: usize = 16;

const LAYER_NAMES: LayerNames = LayerNames {
    query: "self_attn.q_proj",
    key: "self_attn.k_proj",
    value: "self_attn.v_proj",
    attention_output: "self_attn.out_proj",
    attention_norm: "layer_norm1",
    fc1: "mlp.fc1",
    fc2: "mlp.fc2",
    feed_forward_norm: "layer_norm2",
};

/// CLIP's vision tower with its projection, a vision transformer.
///
/// Radford et al. 2021, <https://arxiv.org/abs/2103.00020>. The state of the class token after the
/// last layer, normalised and projected, is the image's feature vector; it is not scaled to length 1.
///
/// Weights: `vision_model.embeddings.{class_embedding, patch_embedding.weight,
/// position_embedding.weight}`, `vision_model.{pre_layrnorm, post_layernorm}` (the first one's
/// spelling is upstream's), `vision_model.encoder.layers.N` and `visual_projection.weight`.
#[derive(Debug)]
pub struct ClipVision {
    config: ClipConfig,
    file: Option<Arc<MappedFile>>,
    patch_embedding: FrozenLinear,
    class_embedding: Tensor,
    position_embedding: Tensor,
    pre_norm: FrozenLayerNorm,
    encoder: TransformerEncoder,
    post_norm: FrozenLayerNorm,
    projection: FrozenLinear,
}

impl ClipVision {
    /// Builds the tower of the weights in `vb`.
    ///
    /// # Errors
    /// When the configuration is unsupported or a weight is missing or misshapen.
    pub fn load<'a>(config: &ClipConfig, vb: impl Into<FrozenBuilder<'a>>) -> Result<Self> {
        let vb = vb.into();
        config.check()?;
        let vision = &config.vision_config;
        let (width, eps) = (vision.hidden_size, vision.layer_norm_eps);
        let patches = (vision.image_size / vision.patch_size).pow(2);
        let encoder = TransformerEncoderConfig {
            width,
            heads: vision.num_attention_heads,
            feed_forward_width: vision.intermediate_size,
            layers: vision.num_hidden_layers,
            norm_eps: eps,
            activation: vision.hidden_act,
            pre_norm: true,
            key_has_bias: true,
        };
        let side = vision.patch_size;
        let tower = vb.pp("vision_model");
        let embeddings = tower.pp("embeddings");
        Ok(Self {
            config: config.clone(),
            file: vb.file(),
            patch_embedding: FrozenLinear::new(
                embeddings.matrix((width, 3, side, side), "patch_embedding.weight")?,
                None,
                vb.products(),
            )?,
            class_embedding: embeddings.get(width, "class_embedding")?,
            position_embedding: embeddings
                .get((patches + 1, width), "position_embedding.weight")?,
            pre_norm: FrozenLayerNorm::load(width, eps, &tower.pp("pre_layrnorm"))?,
            encoder: TransformerEncoder::load(&encoder, &LAYER_NAMES, &tower.pp("encoder.layers"))?,
            post_norm: FrozenLayerNorm::load(width, eps, &tower.pp("post_layernorm"))?,
            projection: FrozenLinear::load_no_bias(
                width,
                config.projection_dim,
                &vb.pp("visual_projection"),
            )?,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &ClipConfig {
        &self.config
    }

    /// Computes the feature vectors of some images.
    ///
    /// - `pixel_values`: `(images, 3, image_size, image_size)`, normalised
    /// - returns `(images, projection_dim)`, f32, not scaled to length 1
    ///
    /// # Errors
    /// When the shape differs from the above.
    pub fn forward(&self, pixel_values: &Tensor) -> Result<Tensor> {
        let size = self.config.vision_config.image_size;
        let (images, channels, height, width) = pixel_values.dims4()?;
        if (channels, height, width) != (3, size, size) {
            candle::bail!("images of 3 x {size} x {size}, not {:?}", pixel_values.dims());
        }
        let pixel_values = pixel_values.to_dtype(self.projection.dtype())?;
        if !pixel_values.device().is_cpu() || images <= CPU_BATCH {
            return self.forward_batch(&pixel_values);
        }
        let batches = (0..images).step_by(CPU_BATCH).map(|start| {
            self.forward_batch(&pixel_values.narrow(0, start, CPU_BATCH.min(images - start))?)
        });
        Tensor::cat(&batches.collect::<Result<Vec<_>>>()?, 0)
    }

    fn forward_batch(&self, pixel_values: &Tensor) -> Result<Tensor> {
        let images = pixel_values.dim(0)?;
        let hidden = self.embed(pixel_values)?;
        let lengths = vec![hidden.dim(1)?; images];
        let class = self.encoder.forward_first(self.pre_norm.forward(&hidden)?, &lengths)?;
        let normed = self.post_norm.forward(&class)?;
        self.projection.forward(&normed)?.to_dtype(DType::F32)
    }

    /// Peak memory per image on the device, in bytes, roughly: its pixels, as given and cut into
    /// patches, and the widest layer of the encoder.
    pub fn bytes_per_image(&self) -> u64 {
        let vision = &self.config.vision_config;
        let pixels = 3 * vision.image_size * vision.image_size;
        let tokens = 1 + (vision.image_size / vision.patch_size).pow(2);
        let layer = tokens * (10 * vision.hidden_size + 2 * vision.intermediate_size);
        let scores = 2 * vision.num_attention_heads * tokens * tokens;
        4 * (3 * pixels + layer + scores) as u64
    }

    /// Embeds class token and patches with their positions, `(images, 1 + patches, hidden_size)`.
    fn embed(&self, pixel_values: &Tensor) -> Result<Tensor> {
        let vision = &self.config.vision_config;
        let images = pixel_values.dim(0)?;
        let (side, width) = (vision.patch_size, vision.hidden_size);
        let across = vision.image_size / side;
        // Patches do not overlap, so their convolution is one GEMM of rearranged pixels.
        let pixels = pixel_values
            .narrow(2, 0, across * side)?
            .narrow(3, 0, across * side)?
            .reshape(&[images, 3, across, side, across, side])?
            .permute([0, 2, 4, 1, 3, 5])?
            .reshape((images * across * across, 3 * side * side))?;
        let patches = self.patch_embedding.forward(&pixels)?;
        let patches = patches.reshape((images, across * across, width))?;
        let class = self.class_embedding.broadcast_as((images, 1, width))?;
        Tensor::cat(&[&class, &patches], 1)?.broadcast_add(&self.position_embedding)
    }
}

impl FromCheckpoint for ClipVision {
    type Config = ClipConfig;
    const CONFIG_NAME: &'static str = "CLIP configuration";

    fn from_weights(config: &ClipConfig, vb: FrozenBuilder) -> Result<Self> {
        Self::load(config, vb)
    }

    // The text tower, both towers' position indices and the temperature.
    fn is_unused(name: &str) -> bool {
        name.starts_with("text_model.")
            || name == "text_projection.weight"
            || name == "logit_scale"
            || name == "vision_model.embeddings.position_ids"
    }

    fn mapped_file(&self) -> Option<&MappedFile> {
        self.file.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsupported_options_are_refused_by_name() {
        let refused = |json: &str| serde_json::from_str::<ClipConfig>(json).unwrap().problems();
        assert!(refused("{}").is_empty());
        assert!(refused(r#"{"model_type": "siglip"}"#)[0].contains("siglip"));
        assert!(refused(r#"{"vision_config": {"num_channels": 1}}"#)[0].contains("num_channels"));
        assert!(refused(r#"{"vision_config": {"num_attention_heads": 0}}"#)[0].contains("heads"));
        let relu =
            serde_json::from_str::<ClipConfig>(r#"{"vision_config": {"hidden_act": "relu"}}"#);
        assert!(relu.unwrap_err().to_string().contains("relu"));
    }
}

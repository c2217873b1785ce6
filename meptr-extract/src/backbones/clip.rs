//! CLIP's picture tower.

use std::path::Path;
use std::sync::Arc;

use candle::{DType, Device, Result, Tensor};
use meptr_core::Precision;
use meptr_core::weights::{FrozenBuilder, MappedFile};
use serde::Deserialize;

use super::encoder::{Activation, Encoder, EncoderConfig, LayerNames, NormPlace};
use super::folder::{self, FolderConfig, Problems};
use super::layer_norm::LayerNorm;
use super::linear::Linear;

/// `config.json` of a CLIP model; keys that we do not name are ignored.
///
/// Keys that a file leaves out have the values of ViT-B/32, as in the library that writes them.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct ClipConfig {
    /// Must be `clip`.
    pub model_type: String,
    /// Width of the picture features.
    pub projection_dim: usize,
    /// The picture tower.
    pub vision_config: ClipVisionConfig,
}

/// The picture tower's part of a [`ClipConfig`].
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
    /// Side of the square picture in pixels.
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

impl FolderConfig for ClipConfig {
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

/// Pictures that go through the layers together on the CPU: what stands between the products then
/// stays in its cache, and is not given back to the system and fetched again for every layer.
const AT_ONCE_ON_CPU: usize = 16;

const LAYER_NAMES: LayerNames = LayerNames {
    query: "self_attn.q_proj",
    key: "self_attn.k_proj",
    value: "self_attn.v_proj",
    attention_output: "self_attn.out_proj",
    attention_norm: "layer_norm1",
    inner: "mlp.fc1",
    outer: "mlp.fc2",
    feed_forward_norm: "layer_norm2",
};

/// CLIP's picture tower with its projection, a vision transformer.
///
/// Radford et al. 2021, <https://arxiv.org/abs/2103.00020>. The state of the class token after the
/// last layer, normed and projected, is the picture's feature vector; it is not scaled to length 1.
///
/// Weights: `vision_model.embeddings.{class_embedding, patch_embedding.weight,
/// position_embedding.weight}`, `vision_model.{pre_layrnorm, post_layernorm}` (the first one's
/// spelling is upstream's), `vision_model.encoder.layers.N` and `visual_projection.weight`.
#[derive(Debug)]
pub struct ClipVision {
    config: ClipConfig,
    file: Option<Arc<MappedFile>>,
    patch_embedding: Linear,
    class_embedding: Tensor,
    position_embedding: Tensor,
    pre_norm: LayerNorm,
    encoder: Encoder,
    post_norm: LayerNorm,
    projection: Linear,
}

impl ClipVision {
    /// Reads `config.json` and `model.safetensors` of a folder.
    ///
    /// # Errors
    /// When a file is missing or broken, asks for something we do not compute, or holds tensors
    /// that do not fit the configuration.
    pub fn open(folder: &Path, device: &Device) -> crate::Result<Self> {
        Self::open_as(folder, device, Precision::F32)
    }

    /// The same, computing with other numbers; features are f32 all the same.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_as(folder: &Path, device: &Device, precision: Precision) -> crate::Result<Self> {
        let place = (device, precision);
        folder::open(folder, "CLIP configuration", place, Self::may_be_left, |config, vb| {
            Self::load(config, vb)
        })
    }

    /// Builds the tower of the weights in `vb`.
    ///
    /// # Errors
    /// When the configuration cannot be computed or a weight is missing or misshapen.
    pub fn load<'a>(config: &ClipConfig, vb: impl Into<FrozenBuilder<'a>>) -> Result<Self> {
        let vb = vb.into();
        config.check()?;
        let vision = &config.vision_config;
        let (width, eps) = (vision.hidden_size, vision.layer_norm_eps);
        let patches = (vision.image_size / vision.patch_size).pow(2);
        let encoder = EncoderConfig {
            width,
            heads: vision.num_attention_heads,
            inner_width: vision.intermediate_size,
            layers: vision.num_hidden_layers,
            norm_eps: eps,
            activation: vision.hidden_act,
            norm_place: NormPlace::BeforeBranch,
            key_has_bias: true,
        };
        let side = vision.patch_size;
        let tower = vb.pp("vision_model");
        let embeddings = tower.pp("embeddings");
        Ok(Self {
            config: config.clone(),
            file: vb.file(),
            patch_embedding: Linear::of(
                embeddings.matrix((width, 3, side, side), "patch_embedding.weight")?,
                None,
                vb.products(),
            )?,
            class_embedding: embeddings.get(width, "class_embedding")?,
            position_embedding: embeddings
                .get((patches + 1, width), "position_embedding.weight")?,
            pre_norm: LayerNorm::load(width, eps, &tower.pp("pre_layrnorm"))?,
            encoder: Encoder::load(&encoder, &LAYER_NAMES, &tower.pp("encoder.layers"))?,
            post_norm: LayerNorm::load(width, eps, &tower.pp("post_layernorm"))?,
            projection: Linear::load_without_bias(
                width,
                config.projection_dim,
                &vb.pp("visual_projection"),
            )?,
        })
    }

    /// True for tensors of published checkpoints that the picture tower does not use: the text
    /// tower, both towers' position indices and the temperature.
    pub fn may_be_left(name: &str) -> bool {
        name.starts_with("text_model.")
            || name == "text_projection.weight"
            || name == "logit_scale"
            || name == "vision_model.embeddings.position_ids"
    }

    /// Lets go of the weights that were read so far, where they are mapped: the system fetches
    /// them again when they are asked for.
    pub fn release(&self) {
        if let Some(file) = &self.file {
            file.release();
        }
    }

    /// The configuration.
    pub fn config(&self) -> &ClipConfig {
        &self.config
    }

    /// The feature vectors of some pictures.
    ///
    /// - `pixel_values`: `(pictures, 3, image_size, image_size)`, normalised
    /// - returns `(pictures, projection_dim)`, f32, not of length 1
    ///
    /// # Errors
    /// When the shape differs from the above.
    pub fn forward(&self, pixel_values: &Tensor) -> Result<Tensor> {
        let size = self.config.vision_config.image_size;
        let (pictures, channels, height, width) = pixel_values.dims4()?;
        if (channels, height, width) != (3, size, size) {
            candle::bail!("pictures of 3 x {size} x {size}, not {:?}", pixel_values.dims());
        }
        let pixel_values = pixel_values.to_dtype(self.projection.dtype())?;
        if !pixel_values.device().is_cpu() || pictures <= AT_ONCE_ON_CPU {
            return self.look(&pixel_values);
        }
        let part = |start: usize| {
            self.look(&pixel_values.narrow(0, start, AT_ONCE_ON_CPU.min(pictures - start))?)
        };
        let parts: Result<Vec<Tensor>> = (0..pictures).step_by(AT_ONCE_ON_CPU).map(part).collect();
        Tensor::cat(&parts?, 0)
    }

    fn look(&self, pixel_values: &Tensor) -> Result<Tensor> {
        let pictures = pixel_values.dim(0)?;
        let hidden = self.embed(pixel_values)?;
        let lengths = vec![hidden.dim(1)?; pictures];
        let class = self.encoder.forward_first(self.pre_norm.forward(&hidden)?, &lengths)?;
        let normed = self.post_norm.forward(&class)?;
        self.projection.forward(&normed)?.to_dtype(DType::F32)
    }

    /// Bytes that a picture takes on the device at the fullest moment, roughly: its pixels as they
    /// come and cut up, and the widest layer of the encoder.
    pub fn bytes_per_picture(&self) -> u64 {
        let vision = &self.config.vision_config;
        let pixels = 3 * vision.image_size * vision.image_size;
        let tokens = 1 + (vision.image_size / vision.patch_size).pow(2);
        let layer = tokens * (10 * vision.hidden_size + 2 * vision.intermediate_size);
        let scores = 2 * vision.num_attention_heads * tokens * tokens;
        4 * (3 * pixels + layer + scores) as u64
    }

    /// Class token and patches with their positions, `(pictures, 1 + patches, hidden_size)`.
    fn embed(&self, pixel_values: &Tensor) -> Result<Tensor> {
        let vision = &self.config.vision_config;
        let pictures = pixel_values.dim(0)?;
        let (side, width) = (vision.patch_size, vision.hidden_size);
        let across = vision.image_size / side;
        // Patches do not overlap, so their convolution is one product of cut-up pixels.
        let pixels = pixel_values
            .narrow(2, 0, across * side)?
            .narrow(3, 0, across * side)?
            .reshape(&[pictures, 3, across, side, across, side])?
            .permute([0, 2, 4, 1, 3, 5])?
            .reshape((pictures * across * across, 3 * side * side))?;
        let patches = self.patch_embedding.forward(&pixels)?;
        let patches = patches.reshape((pictures, across * across, width))?;
        let class = self.class_embedding.broadcast_as((pictures, 1, width))?;
        Tensor::cat(&[&class, &patches], 1)?.broadcast_add(&self.position_embedding)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_we_do_not_compute_is_refused_by_name() {
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

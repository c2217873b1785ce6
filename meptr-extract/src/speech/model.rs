//! Whisper network: audio encoder and text decoder.

use candle::{D, DType, Device, Result, Tensor};
use candle_nn::{LayerNorm, Linear, Module, VarBuilder, layer_norm, linear, linear_no_bias, ops};

use meptr_core::weights::FrozenBuilder;

use super::config::WhisperConfig;
use super::encoder::Encoder;

/// Whisper, an encoder of log-mel windows and a decoder of tokens.
///
/// Radford et al. 2022, section 2.2, <https://arxiv.org/abs/2212.04356>; numerically that of
/// transformers. `candle_transformers::models::whisper` is not used: it takes GELU in the tanh
/// form, fixes the inner width to `4 d_model`, and decodes each token from the first one again.
///
/// Weights, with `d = d_model`: `model.encoder` (`conv1`, `conv2`, `embed_positions`, `layers.N`,
/// `layer_norm`) and `model.decoder` (`embed_tokens.weight` `(vocab_size, d)`, which also is the
/// output projection, `embed_positions`, `layers.N`, `layer_norm`).
#[derive(Debug, Clone)]
pub struct WhisperModel {
    encoder: Encoder,
    decoder: Decoder,
}

/// Keys and values, `(batch, heads, time, d_head)` each.
type KeysValues = (Tensor, Tensor);

impl WhisperModel {
    /// Loads all tensors from `vb`.
    ///
    /// # Errors
    /// When a tensor is missing or of another shape.
    pub fn load<'a>(config: &WhisperConfig, vb: impl Into<FrozenBuilder<'a>>) -> Result<Self> {
        let vb = vb.into().pp("model");
        Ok(Self {
            encoder: Encoder::load(config, vb.pp("encoder"))?,
            decoder: Decoder::load(config, (*vb.pp("decoder")).clone())?,
        })
    }

    /// Encodes windows.
    ///
    /// - `features`: `(batch, num_mel_bins, 2 max_source_positions)`, f32, from
    ///   [`LogMel`](super::LogMel)
    /// - returns `(batch, max_source_positions, d_model)`, of the weights' type
    ///
    /// # Errors
    /// When the shape differs from the above.
    pub fn encode(&self, features: &Tensor) -> Result<Tensor> {
        self.encoder.forward(features)
    }

    /// Starts decoding of encoded windows, the output of [`encode`](Self::encode); row `i` decodes window
    /// `i`.
    ///
    /// # Errors
    /// When the shape is not that of encoded windows.
    pub fn start_decoding(&self, encoded: &Tensor) -> Result<DecoderState<'_>> {
        let cross_cache = self
            .decoder
            .layers
            .iter()
            .map(|layer| layer.encoder_attn.keys_values(encoded))
            .collect::<Result<_>>()?;
        let mut decoding = DecoderState {
            decoder: &self.decoder,
            device: encoded.device().clone(),
            cross_cache,
            rows: Vec::new(),
            self_cache: Vec::new(),
        };
        let rows: Vec<usize> = (0..encoded.dim(0)?).collect();
        decoding.reset(&rows)?;
        Ok(decoding)
    }
}

/// State of the decoder over some encoded windows: keys and values of the windows and of the tokens so
/// far.
#[derive(Debug)]
pub struct DecoderState<'a> {
    decoder: &'a Decoder,
    device: Device,
    /// Keys and values of all encoded windows, per layer.
    cross_cache: Vec<KeysValues>,
    /// Keys and values of the window of each row, per layer.
    rows: Vec<KeysValues>,
    /// Keys and values of the tokens so far, per layer.
    self_cache: Vec<Option<KeysValues>>,
}

impl DecoderState<'_> {
    /// Clears all tokens; from now on row `i` decodes window `windows[i]`.
    ///
    /// # Errors
    /// When there is no such window.
    pub fn reset(&mut self, windows: &[usize]) -> Result<()> {
        let index: Vec<u32> = windows.iter().map(|window| *window as u32).collect();
        let index = Tensor::new(index, &self.device)?;
        self.self_cache = vec![None; self.cross_cache.len()];
        self.rows = self
            .cross_cache
            .iter()
            .map(|(keys, values)| {
                Ok((keys.index_select(&index, 0)?, values.index_select(&index, 0)?))
            })
            .collect::<Result<_>>()?;
        Ok(())
    }

    /// Appends the same number of tokens to every row; returns each row's logits for the next token,
    /// `vocab_size` values.
    ///
    /// # Errors
    /// When rows differ in length, a token is not in the vocabulary, or the decoder is full.
    pub fn feed(&mut self, tokens: &[Vec<u32>]) -> Result<Vec<Vec<f32>>> {
        let count = tokens.first().map_or(0, Vec::len);
        if count == 0 || tokens.iter().any(|row| row.len() != count) {
            candle::bail!("rows of tokens must be of one length, at least 1");
        }
        let tokens = Tensor::new(tokens.concat(), &self.device)?.reshape((tokens.len(), count))?;
        let logits = self.decoder.forward(&tokens, &self.rows, &mut self.self_cache)?;
        logits.to_dtype(DType::F32)?.to_vec2()
    }
}

#[derive(Debug, Clone)]
struct Decoder {
    embed_tokens: Tensor,    // (vocab_size, d)
    embed_positions: Tensor, // (max_target_positions, d)
    embedding_scale: f64,
    layers: Vec<DecoderLayer>,
    layer_norm: LayerNorm,
}

impl Decoder {
    fn load(config: &WhisperConfig, vb: VarBuilder) -> Result<Self> {
        let d = config.d_model;
        Ok(Self {
            embed_tokens: vb.get((config.vocab_size, d), "embed_tokens.weight")?,
            embed_positions: vb.get((config.max_target_positions, d), "embed_positions.weight")?,
            embedding_scale: if config.scale_embedding { (d as f64).sqrt() } else { 1.0 },
            layers: (0..config.decoder_layers)
                .map(|layer| DecoderLayer::load(config, vb.pp(format!("layers.{layer}"))))
                .collect::<Result<_>>()?,
            layer_norm: layer_norm(d, 1e-5, vb.pp("layer_norm"))?,
        })
    }

    /// Logits after the last of `tokens` `(batch, n)`; `(batch, vocab_size)`.
    fn forward(
        &self,
        tokens: &Tensor,
        cross_cache: &[KeysValues],
        self_cache: &mut [Option<KeysValues>],
    ) -> Result<Tensor> {
        let (batch, count) = tokens.dims2()?;
        let past = match self_cache.first() {
            Some(Some((keys, _))) => keys.dim(2)?,
            _ => 0,
        };
        let embedded = self.embed_tokens.index_select(&tokens.flatten_all()?, 0)?;
        let embedded = (embedded.reshape((batch, count, ()))? * self.embedding_scale)?;
        let mut x = embedded.broadcast_add(&self.embed_positions.narrow(0, past, count)?)?;
        let mask = match count {
            1 => None,
            _ => Some(causal_mask(past, count, x.device())?.to_dtype(x.dtype())?),
        };
        for ((layer, cross_cache), self_cache) in
            self.layers.iter().zip(cross_cache).zip(self_cache)
        {
            x = layer.forward(&x, cross_cache, self_cache, mask.as_ref())?;
        }
        let last = self.layer_norm.forward(&x.narrow(1, count - 1, 1)?.squeeze(1)?)?;
        last.matmul(&self.embed_tokens.t()?)
    }
}

/// Softmax over the last dimension, accumulated in f32, as the GPU kernel does.
fn softmax(scores: &Tensor) -> Result<Tensor> {
    if scores.device().is_cpu() && scores.dtype() != DType::F32 {
        let exact = ops::softmax_last_dim(&scores.to_dtype(DType::F32)?)?;
        return exact.to_dtype(scores.dtype());
    }
    ops::softmax_last_dim(scores)
}

/// Causal mask: 0 at earlier tokens, minus infinity at later ones; `(count, past + count)`.
fn causal_mask(past: usize, count: usize, device: &Device) -> Result<Tensor> {
    let allowed = |row: usize, column: usize| column <= past + row;
    let values: Vec<f32> = (0..count)
        .flat_map(|row| {
            (0..past + count)
                .map(move |column| if allowed(row, column) { 0.0 } else { f32::NEG_INFINITY })
        })
        .collect();
    Tensor::from_vec(values, (count, past + count), device)
}

#[derive(Debug, Clone)]
struct DecoderLayer {
    self_attn: Attention,
    self_attn_layer_norm: LayerNorm,
    encoder_attn: Attention,
    encoder_attn_layer_norm: LayerNorm,
    feed_forward: FeedForward,
}

impl DecoderLayer {
    fn load(config: &WhisperConfig, vb: VarBuilder) -> Result<Self> {
        let (d, heads) = (config.d_model, config.decoder_attention_heads);
        Ok(Self {
            self_attn: Attention::load(d, heads, vb.pp("self_attn"))?,
            self_attn_layer_norm: layer_norm(d, 1e-5, vb.pp("self_attn_layer_norm"))?,
            encoder_attn: Attention::load(d, heads, vb.pp("encoder_attn"))?,
            encoder_attn_layer_norm: layer_norm(d, 1e-5, vb.pp("encoder_attn_layer_norm"))?,
            feed_forward: FeedForward::load(d, config.decoder_ffn_dim, vb)?,
        })
    }

    fn forward(
        &self,
        x: &Tensor,
        cross_cache: &KeysValues,
        self_cache: &mut Option<KeysValues>,
        mask: Option<&Tensor>,
    ) -> Result<Tensor> {
        let normed = self.self_attn_layer_norm.forward(x)?;
        let (mut keys, mut values) = self.self_attn.keys_values(&normed)?;
        if let Some((past_keys, past_values)) = self_cache.take() {
            keys = Tensor::cat(&[&past_keys, &keys], 2)?;
            values = Tensor::cat(&[&past_values, &values], 2)?;
        }
        let so_far = self_cache.insert((keys, values));
        let x = (x + self.self_attn.forward(&normed, so_far, mask)?)?;
        let normed = self.encoder_attn_layer_norm.forward(&x)?;
        let x = (&x + self.encoder_attn.forward(&normed, cross_cache, None)?)?;
        self.feed_forward.forward(&x)
    }
}

/// `x + fc2(gelu(fc1(norm(x))))`, GELU in its exact form.
#[derive(Debug, Clone)]
struct FeedForward {
    fc1: Linear,
    fc2: Linear,
    final_layer_norm: LayerNorm,
}

impl FeedForward {
    fn load(d: usize, inner: usize, vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            fc1: linear(d, inner, vb.pp("fc1"))?,
            fc2: linear(inner, d, vb.pp("fc2"))?,
            final_layer_norm: layer_norm(d, 1e-5, vb.pp("final_layer_norm"))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let inner = self.fc1.forward(&self.final_layer_norm.forward(x)?)?.gelu_erf()?;
        x + self.fc2.forward(&inner)?
    }
}

#[derive(Debug, Clone)]
struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    heads: usize,
}

impl Attention {
    fn load(d: usize, heads: usize, vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            q_proj: linear(d, d, vb.pp("q_proj"))?,
            k_proj: linear_no_bias(d, d, vb.pp("k_proj"))?,
            v_proj: linear(d, d, vb.pp("v_proj"))?,
            out_proj: linear(d, d, vb.pp("out_proj"))?,
            heads,
        })
    }

    fn keys_values(&self, x: &Tensor) -> Result<KeysValues> {
        let keys = self.split_heads(&self.k_proj.forward(x)?)?;
        Ok((keys, self.split_heads(&self.v_proj.forward(x)?)?))
    }

    fn forward(
        &self,
        x: &Tensor,
        (keys, values): &KeysValues,
        mask: Option<&Tensor>,
    ) -> Result<Tensor> {
        let scale = 1.0 / ((x.dim(D::Minus1)? / self.heads) as f64).sqrt();
        let query = self.split_heads(&(self.q_proj.forward(x)? * scale)?)?;
        let mut scores = query.matmul(&keys.t()?)?; // (batch, heads, own time, other time)
        if let Some(mask) = mask {
            scores = scores.broadcast_add(mask)?;
        }
        let read = softmax(&scores)?.matmul(values)?;
        self.out_proj.forward(&read.transpose(1, 2)?.flatten_from(2)?)
    }

    fn split_heads(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, time, d) = x.dims3()?;
        x.reshape((batch, time, self.heads, d / self.heads))?.transpose(1, 2)?.contiguous()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny() -> (WhisperConfig, WhisperModel) {
        let config = WhisperConfig {
            d_model: 16,
            num_mel_bins: 8,
            vocab_size: 30,
            max_source_positions: 10,
            max_target_positions: 12,
            encoder_layers: 1,
            encoder_attention_heads: 2,
            encoder_ffn_dim: 24,
            decoder_layers: 2,
            decoder_attention_heads: 4,
            decoder_ffn_dim: 40,
            ..WhisperConfig::large_v3_turbo()
        };
        let load = |vb: VarBuilder| WhisperModel::load(&config, vb);
        let (model, _) = meptr_core::weights::generate(5, &Device::Cpu, load).unwrap();
        (config, model)
    }

    fn encoded(config: &WhisperConfig, model: &WhisperModel) -> Tensor {
        let count = 2 * config.num_mel_bins * config.window_frames();
        let values: Vec<f32> = (0..count).map(|index| (index as f32 * 0.7).sin()).collect();
        let shape = (2, config.num_mel_bins, config.window_frames());
        model.encode(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
    }

    #[test]
    fn feeding_tokens_together_or_one_by_one_gives_the_same_logits() {
        let (config, model) = tiny();
        let mut decoding = model.start_decoding(&encoded(&config, &model)).unwrap();
        let together = decoding.feed(&[vec![3, 1, 4], vec![1, 5, 9]]).unwrap();
        decoding.reset(&[1]).unwrap();
        decoding.feed(&[vec![1, 5]]).unwrap();
        let alone = decoding.feed(&[vec![9]]).unwrap();
        let difference = together[1].iter().zip(&alone[0]).map(|(a, b)| (a - b).abs());
        assert!(difference.fold(0.0, f32::max) < 1e-5);
    }

    #[test]
    fn a_full_decoder_and_uneven_rows_are_errors() {
        let (config, model) = tiny();
        let mut decoding = model.start_decoding(&encoded(&config, &model)).unwrap();
        assert!(decoding.feed(&[vec![1], vec![1, 2]]).is_err());
        assert!(decoding.feed(&[vec![1; 12], vec![2; 12]]).is_ok());
        assert!(decoding.feed(&[vec![1], vec![2]]).is_err());
    }
}

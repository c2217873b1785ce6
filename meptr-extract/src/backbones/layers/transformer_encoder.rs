//! Transformer encoder of the frozen backbones.
//!
//! CLIP, BERT, Wav2Vec2 and Whisper's encoder run the same layers; they differ in the position of the
//! norms, the activation and the names of the weights. Forward only: no result carries gradients.

use candle::{D, Device, Result, Tensor};
use meptr_core::Precision;
use meptr_core::kernels::cpu::{self, AttentionArgs};
#[cfg(feature = "cuda")]
use meptr_core::kernels::cuda;
use meptr_core::kernels::{Activation, ops};
use meptr_core::weights::{FrozenBuilder, Numbers};

use super::{FrozenLayerNorm, FrozenLinear};

/// Most attention scores held at a time on devices without an attention kernel.
const MAX_SCORES: usize = 1 << 28;

/// Shape of a [`TransformerEncoder`].
#[derive(Debug, Clone)]
pub(crate) struct TransformerEncoderConfig {
    /// Width of the sequence, a multiple of `heads`.
    pub(crate) width: usize,
    pub(crate) heads: usize,
    /// Width between the two layers of a feed-forward block.
    pub(crate) feed_forward_width: usize,
    pub(crate) layers: usize,
    pub(crate) norm_eps: f64,
    pub(crate) activation: Activation,
    /// Pre-norm, `x + branch(norm(x))`; else post-norm, `norm(x + branch(x))`.
    pub(crate) pre_norm: bool,
    /// Whether the key projection has a bias.
    pub(crate) key_has_bias: bool,
}

/// Names of one layer's weights in a checkpoint.
#[derive(Debug)]
pub(crate) struct LayerNames {
    pub(crate) query: &'static str,
    pub(crate) key: &'static str,
    pub(crate) value: &'static str,
    pub(crate) attention_output: &'static str,
    pub(crate) attention_norm: &'static str,
    /// First layer of the feed-forward block.
    pub(crate) fc1: &'static str,
    /// Second layer of the feed-forward block.
    pub(crate) fc2: &'static str,
    pub(crate) feed_forward_norm: &'static str,
}

/// A stack of transformer layers (Vaswani et al. 2017, <https://arxiv.org/abs/1706.03762>).
#[derive(Debug, Clone)]
pub(crate) struct TransformerEncoder {
    layers: Vec<EncoderLayer>,
}

impl TransformerEncoder {
    /// Loads layer `n` from `vb.pp(n)`.
    pub(crate) fn load(
        config: &TransformerEncoderConfig,
        names: &LayerNames,
        vb: &FrozenBuilder,
    ) -> Result<Self> {
        let layer = |index| EncoderLayer::load(config, names, &vb.pp(index));
        Ok(Self { layers: (0..config.layers).map(layer).collect::<Result<_>>()? })
    }

    /// Runs all layers.
    ///
    /// - `hidden`: `(batch, time, width)`
    /// - `lengths`: real steps of each row, 1 to `time`; later steps are padding, never attended to,
    ///   and their results are unspecified
    /// - returns `(batch, time, width)`, without a norm after the last layer
    pub(crate) fn forward(&self, hidden: Tensor, lengths: &[usize]) -> Result<Tensor> {
        let (batch, time, width) = hidden.dims3()?;
        self.run(hidden, lengths, OutputSteps::All)?.reshape((batch, time, width))
    }

    /// Runs all layers for the first step of each row, `(batch, width)`; the last layer computes no
    /// other step.
    pub(crate) fn forward_first(&self, hidden: Tensor, lengths: &[usize]) -> Result<Tensor> {
        self.run(hidden, lengths, OutputSteps::First)
    }

    fn run(&self, hidden: Tensor, lengths: &[usize], last: OutputSteps) -> Result<Tensor> {
        let (batch, time, width) = hidden.dims3()?;
        let lengths = &SequenceLengths::new(lengths, &hidden)?;
        let mut hidden = hidden.reshape((batch * time, width))?;
        for (number, layer) in self.layers.iter().enumerate() {
            let is_last = number + 1 == self.layers.len();
            hidden =
                layer.forward(hidden, lengths, if is_last { last } else { OutputSteps::All })?;
        }
        Ok(hidden)
    }
}

/// Steps that a layer computes.
#[derive(Debug, Clone, Copy)]
enum OutputSteps {
    All,
    /// First step of each row.
    First,
}

impl OutputSteps {
    /// Selects the steps from `(rows, width)`, which holds all steps of `batch` rows.
    fn select(self, x: &Tensor, batch: usize) -> Result<Tensor> {
        let (rows, width) = x.dims2()?;
        match self {
            Self::All => Ok(x.clone()),
            Self::First => x
                .reshape((batch, rows / batch, width))?
                .narrow(1, 0, 1)?
                .contiguous()?
                .reshape((batch, width)),
        }
    }
}

/// Real steps of each row of a batch.
#[derive(Debug)]
struct SequenceLengths<'a> {
    each: &'a [usize],
    /// `(batch,)`, u32, on the device of the sequence.
    #[cfg(feature = "cuda")]
    on_device: Tensor,
}

impl<'a> SequenceLengths<'a> {
    /// Checks the lengths of `hidden`, `(batch, time, width)`.
    fn new(each: &'a [usize], hidden: &Tensor) -> Result<Self> {
        let (batch, time, _) = hidden.dims3()?;
        if each.len() != batch || each.iter().any(|length| !(1..=time).contains(length)) {
            candle::bail!("lengths {each:?} do not fit a batch of {batch} rows of {time} steps");
        }
        #[cfg(feature = "cuda")]
        let counts: Vec<u32> = each.iter().map(|length| *length as u32).collect();
        Ok(Self {
            each,
            #[cfg(feature = "cuda")]
            on_device: Tensor::new(counts, hidden.device())?,
        })
    }
}

#[derive(Debug, Clone)]
struct EncoderLayer {
    attention: SelfAttention,
    attention_norm: FrozenLayerNorm,
    fc1: FrozenLinear,
    fc2: FrozenLinear,
    feed_forward_norm: FrozenLayerNorm,
    activation: Activation,
    pre_norm: bool,
}

impl EncoderLayer {
    fn load(
        config: &TransformerEncoderConfig,
        names: &LayerNames,
        vb: &FrozenBuilder,
    ) -> Result<Self> {
        let (width, feed_forward, eps) = (config.width, config.feed_forward_width, config.norm_eps);
        Ok(Self {
            attention: SelfAttention::load(config, names, vb)?,
            attention_norm: FrozenLayerNorm::load(width, eps, &vb.pp(names.attention_norm))?,
            fc1: FrozenLinear::load(width, feed_forward, &vb.pp(names.fc1))?,
            fc2: FrozenLinear::load(feed_forward, width, &vb.pp(names.fc2))?,
            feed_forward_norm: FrozenLayerNorm::load(width, eps, &vb.pp(names.feed_forward_norm))?,
            activation: config.activation,
            pre_norm: config.pre_norm,
        })
    }

    /// Runs the layer on `(rows, width)`, which holds all steps of all rows; returns some steps.
    fn forward(
        &self,
        hidden: Tensor,
        lengths: &SequenceLengths,
        steps: OutputSteps,
    ) -> Result<Tensor> {
        let (norm, feed_norm) = (&self.attention_norm, &self.feed_forward_norm);
        if self.pre_norm {
            let attended = self.attention.attend(&norm.forward(&hidden)?, lengths)?;
            let hidden = self.project_attended(&attended, &hidden, lengths, steps)?;
            return self.feed_forward(&feed_norm.forward(&hidden)?, &hidden);
        }
        let attended = self.attention.attend(&hidden, lengths)?;
        let hidden = norm.forward(&self.project_attended(&attended, &hidden, lengths, steps)?)?;
        feed_norm.forward(&self.feed_forward(&hidden, &hidden)?)
    }

    /// `hidden` plus the output projection of the attention, for some steps.
    fn project_attended(
        &self,
        attended: &Tensor,
        hidden: &Tensor,
        lengths: &SequenceLengths,
        steps: OutputSteps,
    ) -> Result<Tensor> {
        let batch = lengths.each.len();
        let (attended, hidden) = (steps.select(attended, batch)?, steps.select(hidden, batch)?);
        self.attention.output.forward_residual(&attended, &hidden)
    }

    fn feed_forward(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        self.fc2.forward_residual(&self.fc1.forward_activated(x, self.activation)?, residual)
    }
}

/// Multi-head self-attention with one GEMM for queries, keys and values.
///
/// On the CPU in f32 it never holds all scores.
#[derive(Debug, Clone)]
struct SelfAttention {
    query_key_value: FrozenLinear,
    output: FrozenLinear,
    heads: usize,
    /// Precision of the factors of f32 attention on the CPU.
    precision: Precision,
}

impl SelfAttention {
    fn load(
        config: &TransformerEncoderConfig,
        names: &LayerNames,
        vb: &FrozenBuilder,
    ) -> Result<Self> {
        let width = config.width;
        let [query, value, output] = [names.query, names.value, names.attention_output]
            .map(|name| FrozenLinear::load(width, width, &vb.pp(name)));
        let key = match config.key_has_bias {
            true => FrozenLinear::load(width, width, &vb.pp(names.key))?,
            false => FrozenLinear::load_no_bias(width, width, &vb.pp(names.key))?,
        };
        // Scaling the queries at load saves a pass over the scores of every call.
        let scale = 1.0 / ((width / config.heads) as f64).sqrt();
        Ok(Self {
            query_key_value: FrozenLinear::stacked(vec![query?.scaled(scale)?, key, value?])?,
            output: output?,
            heads: config.heads,
            precision: vb.products(),
        })
    }

    /// Attention before the output projection, `(rows, width)` to `(rows, width)`.
    fn attend(&self, x: &Tensor, lengths: &SequenceLengths) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if cuda::supports_attention(x, x.dim(1)? / self.heads) {
            let (query_key_value, bias) = self.query_key_value.forward_without_bias(x)?;
            return cuda::attention(&query_key_value, bias, &lengths.on_device, self.heads);
        }
        let lengths = lengths.each;
        let query_key_value = self.query_key_value.forward(x)?;
        match ops::is_contiguous_cpu_f32(&query_key_value) {
            true => self.attend_on_cpu(&query_key_value, lengths),
            false => self.attend_with_candle(&query_key_value, lengths),
        }
    }

    /// `(rows, 3 width)` to `(rows, width)`.
    fn attend_on_cpu(&self, query_key_value: &Tensor, lengths: &[usize]) -> Result<Tensor> {
        let (rows, width) = query_key_value.dims2()?;
        let width = width / 3;
        let args = AttentionArgs {
            query_key_value: &Numbers::of(query_key_value)?,
            time: rows / lengths.len(),
            lengths,
            heads: self.heads,
            head_width: width / self.heads,
        };
        let attended = cpu::attention(self.precision, args);
        Tensor::from_vec(attended, (rows, width), &Device::Cpu)
    }

    /// `(rows, 3 width)` to `(rows, width)` in Candle's operations, which every device has.
    fn attend_with_candle(&self, query_key_value: &Tensor, lengths: &[usize]) -> Result<Tensor> {
        let (rows, width) = query_key_value.dims2()?;
        let (batch, heads, head_width) = (lengths.len(), self.heads, width / 3 / self.heads);
        let query_key_value = query_key_value
            .reshape((batch, rows / batch, 3, heads, head_width))?
            .permute((2, 0, 3, 1, 4))?; // (3, batch, heads, time, head_width), a view
        attend_batch(&query_key_value, lengths)?.reshape((rows, width / 3))
    }
}

/// Attention of each row over its real steps: `(3, batch, heads, time, head_width)` to
/// `(batch, time, heads * head_width)`.
fn attend_batch(query_key_value: &Tensor, lengths: &[usize]) -> Result<Tensor> {
    let [query, key, value] =
        [0, 1, 2].map(|index| query_key_value.narrow(0, index, 1)?.squeeze(0)?.contiguous());
    let (query, key, value) = (query?, key?, value?);
    let time = query.dim(2)?;
    if lengths.iter().all(|length| *length == time) {
        return attend(&query, &key, &value, MAX_SCORES);
    }
    let rows = lengths.iter().enumerate().map(|(index, length)| -> Result<Tensor> {
        let query = row_steps(&query, index, time)?;
        let (key, value) = (row_steps(&key, index, *length)?, row_steps(&value, index, *length)?);
        attend(&query, &key, &value, MAX_SCORES)
    });
    Tensor::cat(&rows.collect::<Result<Vec<_>>>()?, 0)
}

/// First `steps` steps of one row of `(batch, heads, time, head_width)`.
fn row_steps(x: &Tensor, row: usize, steps: usize) -> Result<Tensor> {
    x.narrow(0, row, 1)?.narrow(2, 0, steps)?.contiguous()
}

/// Computes `softmax(query key^T) value` in blocks of queries, so that at most `max_scores` scores
/// (and at least one query's) exist at a time.
///
/// - `query`: `(batch, heads, queries, head_width)`, already scaled
/// - `key`, `value`: `(batch, heads, keys, head_width)`
/// - returns `(batch, queries, heads * head_width)`
fn attend(query: &Tensor, key: &Tensor, value: &Tensor, max_scores: usize) -> Result<Tensor> {
    let (batch, heads, queries, _) = query.dims4()?;
    let key = key.t()?;
    let step = (max_scores / (batch * heads * key.dim(D::Minus1)?)).max(1);
    let blocks: Result<Vec<Tensor>> = (0..queries)
        .step_by(step)
        .map(|start| {
            let query = query.narrow(2, start, step.min(queries - start))?;
            let scores = ops::matmul_f32_sums(&query, &key)?; // (batch, heads, block, keys)
            let weights = ops::softmax_inplace(scores)?;
            ops::matmul_f32_sums(&weights, value)?.transpose(1, 2)?.flatten_from(2)
        })
        .collect();
    match blocks?.as_slice() {
        [all] => Ok(all.clone()),
        blocks => Tensor::cat(blocks, 1),
    }
}

#[cfg(test)]
mod tests {
    use candle::DType;

    use super::*;

    fn wave(shape: &[usize]) -> Tensor {
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|i| ((i * i + 7 * i) as f32 * 0.37).sin()).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn difference(a: &Tensor, b: &Tensor) -> f32 {
        let d = (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
        d.to_dtype(DType::F32).unwrap().to_scalar().unwrap()
    }

    #[test]
    fn blocks_of_queries_do_not_change_the_attention() {
        let (query, key, value) = (wave(&[1, 3, 11, 4]), wave(&[1, 3, 7, 4]), wave(&[1, 3, 7, 4]));
        let whole = attend(&query, &key, &value, usize::MAX).unwrap();
        for max_scores in [0, 3 * 7, 3 * 7 * 4, 3 * 7 * 10] {
            let blocked = attend(&query, &key, &value, max_scores).unwrap();
            assert!(difference(&whole, &blocked) < 1e-6, "{max_scores}");
        }
    }

    #[test]
    fn attention_in_candles_operations_equals_the_cpu_kernel() {
        let (encoder, _) = meptr_core::weights::generate(5, &Device::Cpu, |vb| {
            TransformerEncoder::load(&CONFIG, &NAMES, &vb.into())
        })
        .unwrap();
        let attention = &encoder.layers[0].attention;
        for lengths in [[7, 7, 7], [7, 3, 1]] {
            let query_key_value = wave(&[3 * 7, 3 * 8]);
            let found = attention.attend_on_cpu(&query_key_value, &lengths).unwrap();
            let other = attention.attend_with_candle(&query_key_value, &lengths).unwrap();
            assert!(difference(&found, &other) < 1e-6, "{lengths:?}");
        }
    }

    const CONFIG: TransformerEncoderConfig = TransformerEncoderConfig {
        width: 8,
        heads: 2,
        feed_forward_width: 12,
        layers: 2,
        norm_eps: 1e-5,
        activation: Activation::Gelu,
        pre_norm: false,
        key_has_bias: true,
    };
    const NAMES: LayerNames = LayerNames {
        query: "q",
        key: "k",
        value: "v",
        attention_output: "o",
        attention_norm: "n1",
        fc1: "f1",
        fc2: "f2",
        feed_forward_norm: "n2",
    };

    #[test]
    fn a_batch_equals_its_rows() {
        let (encoder, _) = meptr_core::weights::generate(3, &Device::Cpu, |vb| {
            TransformerEncoder::load(&CONFIG, &NAMES, &vb.into())
        })
        .unwrap();
        let hidden = wave(&[3, 5, 8]);
        let lengths = [5, 2, 1];
        let batch = encoder.forward(hidden.clone(), &lengths).unwrap();
        for (row, length) in lengths.into_iter().enumerate() {
            let real = hidden.narrow(0, row, 1).unwrap().narrow(1, 0, length).unwrap();
            let single = encoder.forward(real.contiguous().unwrap(), &[length]).unwrap();
            let found = batch.narrow(0, row, 1).unwrap().narrow(1, 0, length).unwrap();
            assert!(difference(&single, &found) < 1e-6, "row {row}");
        }
        let first = encoder.forward_first(hidden.clone(), &lengths).unwrap();
        let expected = batch.narrow(1, 0, 1).unwrap().squeeze(1).unwrap();
        assert!(difference(&first, &expected) < 1e-6);
        assert!(encoder.forward(hidden, &[5, 0, 1]).is_err());
    }
}

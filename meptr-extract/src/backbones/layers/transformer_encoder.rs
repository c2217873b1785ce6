//! The transformer encoder that the frozen backbones share.
//!
//! CLIP, BERT, Wav2Vec2 and Whisper's encoder run the same blocks and differ in where the norms stand, in the
//! activation and in the names of the weights. Forward only: nothing here carries gradients.

use candle::{D, Device, Result, Tensor};
use meptr_core::Precision;
use meptr_core::weights::{FrozenBuilder, Numbers};
use serde::Deserialize;

use super::layer_norm::LayerNorm;
use super::linear::Linear;
use super::ops;
#[cfg(feature = "cuda")]
use crate::gpu;
use crate::product::{self, Attend};

/// Largest number of attention scores held at a time where we have no kernels of our own.
const MAX_SCORES: usize = 1 << 28;

/// The activation between the two layers of a feed-forward block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x (1 + erf(x / sqrt(2))) / 2`.
    Gelu,
    /// `x sigmoid(1.702 x)`.
    QuickGelu,
}

/// Sizes of an encoder.
#[derive(Debug, Clone)]
pub(crate) struct EncoderConfig {
    /// Width of the sequence, a multiple of `heads`.
    pub(crate) width: usize,
    pub(crate) heads: usize,
    /// Width between the two layers of the feed-forward block.
    pub(crate) inner_width: usize,
    pub(crate) layers: usize,
    pub(crate) norm_eps: f64,
    pub(crate) activation: Activation,
    pub(crate) norm_place: NormPlace,
    /// Whether the keys of the attention have a bias.
    pub(crate) key_has_bias: bool,
}

/// Where a layer norm stands relative to the branch it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NormPlace {
    /// `x + branch(norm(x))`.
    BeforeBranch,
    /// `norm(x + branch(x))`.
    AfterResidual,
}

/// What a checkpoint calls the parts of one layer.
#[derive(Debug)]
pub(crate) struct LayerNames {
    pub(crate) query: &'static str,
    pub(crate) key: &'static str,
    pub(crate) value: &'static str,
    pub(crate) attention_output: &'static str,
    pub(crate) attention_norm: &'static str,
    pub(crate) inner: &'static str,
    pub(crate) outer: &'static str,
    pub(crate) feed_forward_norm: &'static str,
}

/// A stack of transformer layers (Vaswani et al. 2017, <https://arxiv.org/abs/1706.03762>).
#[derive(Debug, Clone)]
pub(crate) struct Encoder {
    layers: Vec<Layer>,
}

impl Encoder {
    /// Takes layer `n` from below `vb.pp(n)`.
    pub(crate) fn load(
        config: &EncoderConfig,
        names: &LayerNames,
        vb: &FrozenBuilder,
    ) -> Result<Self> {
        let layer = |index| Layer::load(config, names, &vb.pp(index));
        Ok(Self { layers: (0..config.layers).map(layer).collect::<Result<_>>()? })
    }

    /// Runs all layers.
    ///
    /// - `hidden`: `(batch, time, width)`
    /// - `lengths`: per row the number of real steps, 1 to `time`; later steps are never attended
    ///   to, and what is returned for them has no meaning
    /// - returns `(batch, time, width)`, no norm after the last layer
    pub(crate) fn forward(&self, hidden: Tensor, lengths: &[usize]) -> Result<Tensor> {
        let (batch, time, width) = hidden.dims3()?;
        self.run(hidden, lengths, Steps::All)?.reshape((batch, time, width))
    }

    /// The same for the first step of each row alone, `(batch, width)`: the last layer computes no
    /// other.
    pub(crate) fn forward_first(&self, hidden: Tensor, lengths: &[usize]) -> Result<Tensor> {
        self.run(hidden, lengths, Steps::First)
    }

    fn run(&self, hidden: Tensor, lengths: &[usize], last: Steps) -> Result<Tensor> {
        let (batch, time, width) = hidden.dims3()?;
        let lengths = &Lengths::of(lengths, &hidden)?;
        let mut hidden = hidden.reshape((batch * time, width))?;
        for (number, layer) in self.layers.iter().enumerate() {
            let is_last = number + 1 == self.layers.len();
            hidden = layer.forward(hidden, lengths, if is_last { last } else { Steps::All })?;
        }
        Ok(hidden)
    }
}

/// Which steps a layer computes.
#[derive(Debug, Clone, Copy)]
enum Steps {
    All,
    /// The first of each row.
    First,
}

impl Steps {
    /// Those of `(rows, width)`, rows being all steps of `batch` entries.
    fn of(self, x: &Tensor, batch: usize) -> Result<Tensor> {
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

/// Per row of a batch the number of real steps.
#[derive(Debug)]
struct Lengths<'a> {
    each: &'a [usize],
    /// The same, u32, on the device of the sequence.
    #[cfg(feature = "cuda")]
    on_device: Tensor,
}

impl<'a> Lengths<'a> {
    /// Those of `hidden`, `(batch, time, width)`.
    fn of(each: &'a [usize], hidden: &Tensor) -> Result<Self> {
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
struct Layer {
    attention: Attention,
    attention_norm: LayerNorm,
    inner: Linear,
    outer: Linear,
    feed_forward_norm: LayerNorm,
    activation: Activation,
    norm_place: NormPlace,
}

impl Layer {
    fn load(config: &EncoderConfig, names: &LayerNames, vb: &FrozenBuilder) -> Result<Self> {
        let (width, eps) = (config.width, config.norm_eps);
        Ok(Self {
            attention: Attention::load(config, names, vb)?,
            attention_norm: LayerNorm::load(width, eps, &vb.pp(names.attention_norm))?,
            inner: Linear::load(width, config.inner_width, &vb.pp(names.inner))?,
            outer: Linear::load(config.inner_width, width, &vb.pp(names.outer))?,
            feed_forward_norm: LayerNorm::load(width, eps, &vb.pp(names.feed_forward_norm))?,
            activation: config.activation,
            norm_place: config.norm_place,
        })
    }

    /// `(rows, width)` to the same for some steps, rows being all steps of all batch entries.
    fn forward(&self, hidden: Tensor, lengths: &Lengths, steps: Steps) -> Result<Tensor> {
        let (norm, feed_norm) = (&self.attention_norm, &self.feed_forward_norm);
        match self.norm_place {
            NormPlace::BeforeBranch => {
                let read = self.attention.attend(&norm.forward(&hidden)?, lengths)?;
                let hidden = self.add_read(&read, &hidden, lengths, steps)?;
                self.feed_forward(&feed_norm.forward(&hidden)?, &hidden)
            }
            NormPlace::AfterResidual => {
                let read = self.attention.attend(&hidden, lengths)?;
                let hidden = norm.forward(&self.add_read(&read, &hidden, lengths, steps)?)?;
                feed_norm.forward(&self.feed_forward(&hidden, &hidden)?)
            }
        }
    }

    /// `hidden` plus what was read, of some steps.
    fn add_read(
        &self,
        read: &Tensor,
        hidden: &Tensor,
        lengths: &Lengths,
        steps: Steps,
    ) -> Result<Tensor> {
        let of = |x: &Tensor| steps.of(x, lengths.each.len());
        self.attention.output.forward_plus(&of(read)?, &of(hidden)?)
    }

    fn feed_forward(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        self.outer.forward_plus(&self.inner.forward_activated(x, self.activation)?, residual)
    }
}

/// Multi-head self-attention with one product for queries, keys and values.
///
/// On the CPU in f32 it never holds all scores.
#[derive(Debug, Clone)]
struct Attention {
    query_key_value: Linear,
    output: Linear,
    heads: usize,
    /// That of the factors of products of f32 on the CPU.
    precision: Precision,
}

impl Attention {
    fn load(config: &EncoderConfig, names: &LayerNames, vb: &FrozenBuilder) -> Result<Self> {
        let width = config.width;
        let part = |name: &str| Linear::load(width, width, &vb.pp(name));
        // Scaling the queries at load spares a pass over the scores of every call.
        let scale = 1.0 / ((width / config.heads) as f64).sqrt();
        let key = if config.key_has_bias {
            part(names.key)?
        } else {
            Linear::load_without_bias(width, width, &vb.pp(names.key))?
        };
        let (query, value) = (part(names.query)?, part(names.value)?);
        Ok(Self {
            query_key_value: Linear::stacked(vec![query.scaled(scale)?, key, value])?,
            output: part(names.attention_output)?,
            heads: config.heads,
            precision: vb.products(),
        })
    }

    /// `(rows, width)` to what the steps read, `(rows, width)`, before the layer that follows.
    fn attend(&self, x: &Tensor, lengths: &Lengths) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if gpu::attends(x, x.dim(1)? / self.heads) {
            let (query_key_value, bias) = self.query_key_value.forward_apart(x)?;
            return gpu::attend(&query_key_value, bias, &lengths.on_device, self.heads);
        }
        let lengths = lengths.each;
        let query_key_value = self.query_key_value.forward(x)?;
        match ops::is_plain_cpu(&query_key_value) {
            true => self.attend_on_cpu(&query_key_value, lengths),
            false => self.attend_elsewhere(&query_key_value, lengths),
        }
    }

    /// `(rows, 3 width)` to `(rows, width)`.
    fn attend_on_cpu(&self, query_key_value: &Tensor, lengths: &[usize]) -> Result<Tensor> {
        let (rows, width) = query_key_value.dims2()?;
        let width = width / 3;
        let attend = Attend {
            query_key_value: &Numbers::of(query_key_value)?,
            time: rows / lengths.len(),
            lengths,
            heads: self.heads,
            head_width: width / self.heads,
        };
        let read = product::attend(self.precision, attend);
        Tensor::from_vec(read, (rows, width), &Device::Cpu)
    }

    /// The same in operations that Candle has for every device.
    fn attend_elsewhere(&self, query_key_value: &Tensor, lengths: &[usize]) -> Result<Tensor> {
        let (rows, width) = query_key_value.dims2()?;
        let (batch, heads, head_width) = (lengths.len(), self.heads, width / 3 / self.heads);
        let query_key_value = query_key_value
            .reshape((batch, rows / batch, 3, heads, head_width))?
            .permute((2, 0, 3, 1, 4))?; // (3, batch, heads, time, head_width), a view
        attend_batch(&query_key_value, lengths)?.reshape((rows, width / 3))
    }
}

/// `(3, batch, heads, time, head_width)` to `(batch, time, heads * head_width)`.
fn attend_batch(query_key_value: &Tensor, lengths: &[usize]) -> Result<Tensor> {
    let part = |index| query_key_value.narrow(0, index, 1)?.squeeze(0)?.contiguous();
    let (query, key, value) = (part(0)?, part(1)?, part(2)?);
    let time = query.dim(2)?;
    if lengths.iter().all(|length| *length == time) {
        return attend(&query, &key, &value, MAX_SCORES);
    }
    let one = |(index, real): (usize, &usize)| -> Result<Tensor> {
        let row =
            |part: &Tensor, steps| part.narrow(0, index, 1)?.narrow(2, 0, steps)?.contiguous();
        attend(&row(&query, time)?, &row(&key, *real)?, &row(&value, *real)?, MAX_SCORES)
    };
    let read: Result<Vec<Tensor>> = lengths.iter().enumerate().map(one).collect();
    Tensor::cat(&read?, 0)
}

/// `softmax(query key^T) value`, in blocks of queries so that at most `max_scores` scores (and at
/// least one query's) exist at a time.
///
/// `query` is `(batch, heads, queries, head_width)`, already scaled; `key` and `value` are
/// `(batch, heads, keys, head_width)`; returns `(batch, queries, heads * head_width)`.
fn attend(query: &Tensor, key: &Tensor, value: &Tensor, max_scores: usize) -> Result<Tensor> {
    let (batch, heads, queries, _) = query.dims4()?;
    let key = key.t()?;
    let step = (max_scores / (batch * heads * key.dim(D::Minus1)?)).max(1);
    let blocks: Result<Vec<Tensor>> = (0..queries)
        .step_by(step)
        .map(|start| {
            let query = query.narrow(2, start, step.min(queries - start))?;
            let scores = ops::softmax(ops::matmul(&query, &key)?)?; // (batch, heads, block, keys)
            ops::matmul(&scores, value)?.transpose(1, 2)?.flatten_from(2)
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
    fn the_attention_of_other_devices_equals_that_of_the_cpu() {
        let (encoder, _) = meptr_core::weights::generate(5, &Device::Cpu, |vb| {
            Encoder::load(&CONFIG, &NAMES, &vb.into())
        })
        .unwrap();
        let attention = &encoder.layers[0].attention;
        for lengths in [[7, 7, 7], [7, 3, 1]] {
            let query_key_value = wave(&[3 * 7, 3 * 8]);
            let found = attention.attend_on_cpu(&query_key_value, &lengths).unwrap();
            let other = attention.attend_elsewhere(&query_key_value, &lengths).unwrap();
            assert!(difference(&found, &other) < 1e-6, "{lengths:?}");
        }
    }

    const CONFIG: EncoderConfig = EncoderConfig {
        width: 8,
        heads: 2,
        inner_width: 12,
        layers: 2,
        norm_eps: 1e-5,
        activation: Activation::Gelu,
        norm_place: NormPlace::AfterResidual,
        key_has_bias: true,
    };
    const NAMES: LayerNames = LayerNames {
        query: "q",
        key: "k",
        value: "v",
        attention_output: "o",
        attention_norm: "n1",
        inner: "f1",
        outer: "f2",
        feed_forward_norm: "n2",
    };

    #[test]
    fn a_batch_equals_its_rows() {
        let (encoder, _) = meptr_core::weights::generate(3, &Device::Cpu, |vb| {
            Encoder::load(&CONFIG, &NAMES, &vb.into())
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

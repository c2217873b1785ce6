//! Products with frozen weights.

use candle::{DType, Device, Result, Tensor};
use meptr_core::Precision;
use meptr_core::weights::{FrozenBuilder, Matrix, Numbers};

use super::encoder::Activation;
use super::ops;
#[cfg(feature = "cuda")]
use crate::gpu::{self, Product};
use crate::product::{self, Ending, Part, Rows};

/// `x W^T + b`, of one layer or of several with the same input side by side.
///
/// Weights: `weight` `(outputs, inputs)`, `bias` `(outputs,)`.
#[derive(Debug, Clone)]
pub(crate) struct Linear(Form);

#[derive(Debug, Clone)]
enum Form {
    /// On the CPU in f32, with the weights where they lie.
    OnCpu(Vec<Layer>),
    /// Everywhere else: `(outputs, inputs)` and `(outputs,)`.
    Elsewhere(Tensor, Tensor),
}

/// `scale (x W^T) + b`.
#[derive(Debug, Clone)]
struct Layer {
    weight: Matrix,
    bias: Vec<f32>,
    scale: f32,
    /// That of the factors.
    precision: Precision,
}

impl Linear {
    /// A layer with a bias.
    pub(crate) fn load(inputs: usize, outputs: usize, vb: &FrozenBuilder) -> Result<Self> {
        let weight = vb.matrix((outputs, inputs), "weight")?;
        Self::of(weight, Some(vb.get(outputs, "bias")?), vb.products())
    }

    /// A layer without.
    pub(super) fn load_without_bias(
        inputs: usize,
        outputs: usize,
        vb: &FrozenBuilder,
    ) -> Result<Self> {
        Self::of(vb.matrix((outputs, inputs), "weight")?, None, vb.products())
    }

    /// A layer of these weights; without a bias it is 0. On the CPU its product has factors of
    /// `precision`.
    pub(super) fn of(weight: Matrix, bias: Option<Tensor>, precision: Precision) -> Result<Self> {
        if weight.is_on_cpu() {
            let bias = match bias {
                Some(bias) => bias.to_vec1()?,
                None => vec![0.0; weight.rows()],
            };
            return Ok(Self(Form::OnCpu(vec![Layer { weight, bias, scale: 1.0, precision }])));
        }
        let weight = weight.tensor()?;
        let bias = match bias {
            Some(bias) => bias,
            None => Tensor::zeros(weight.dim(0)?, weight.dtype(), weight.device())?,
        };
        Ok(Self(Form::Elsewhere(weight, bias)))
    }

    /// The same with everything multiplied.
    pub(super) fn scaled(self, scale: f64) -> Result<Self> {
        Ok(Self(match self.0 {
            Form::OnCpu(mut layers) => {
                for layer in &mut layers {
                    layer.scale *= scale as f32;
                    layer.bias.iter_mut().for_each(|bias| *bias *= scale as f32);
                }
                Form::OnCpu(layers)
            }
            Form::Elsewhere(weight, bias) => Form::Elsewhere((weight * scale)?, (bias * scale)?),
        }))
    }

    /// Layers with the same input, their outputs side by side.
    pub(super) fn stacked(layers: Vec<Self>) -> Result<Self> {
        let (mut on_cpu, mut weights, mut biases) = (Vec::new(), Vec::new(), Vec::new());
        for layer in layers {
            match layer.0 {
                Form::OnCpu(mut layers) => on_cpu.append(&mut layers),
                Form::Elsewhere(weight, bias) => {
                    weights.push(weight);
                    biases.push(bias);
                }
            }
        }
        Ok(Self(if weights.is_empty() {
            Form::OnCpu(on_cpu)
        } else {
            Form::Elsewhere(Tensor::cat(&weights, 0)?, Tensor::cat(&biases, 0)?)
        }))
    }

    /// The type of its input and output.
    pub(super) fn dtype(&self) -> DType {
        match &self.0 {
            Form::OnCpu(_) => DType::F32,
            Form::Elsewhere(weight, _) => weight.dtype(),
        }
    }

    /// `x` is `(rows, inputs)`; returns `(rows, outputs)`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match &self.0 {
            Form::OnCpu(layers) => multiply(x, layers, Ending::Linear),
            Form::Elsewhere(weight, bias) => multiply_elsewhere(x, weight, bias, None, None),
        }
    }

    /// The same, and an activation.
    pub(super) fn forward_activated(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        match &self.0 {
            Form::OnCpu(layers) => multiply(x, layers, Ending::Activated(activation)),
            Form::Elsewhere(weight, bias) => {
                multiply_elsewhere(x, weight, bias, Some(activation), None)
            }
        }
    }

    /// The product without the bias, and the bias, for what adds it with its own next step.
    #[cfg(feature = "cuda")]
    pub(super) fn forward_apart(&self, x: &Tensor) -> Result<(Tensor, &Tensor)> {
        match &self.0 {
            Form::OnCpu(_) => candle::bail!("the processor adds biases with the product"),
            Form::Elsewhere(weight, bias) => {
                let product = Product::of_rows(x, weight)?;
                match product.is_fast()? {
                    true => Ok((product.run(gpu::Ending::default())?, bias)),
                    false => Ok((x.matmul(&weight.t()?)?, bias)),
                }
            }
        }
    }

    /// The same, and `residual` `(rows, outputs)` added.
    pub(super) fn forward_plus(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        match &self.0 {
            Form::OnCpu(layers) => {
                let residual = residual.contiguous()?;
                multiply(x, layers, Ending::Plus(&Numbers::of(&residual)?))
            }
            Form::Elsewhere(weight, bias) => {
                multiply_elsewhere(x, weight, bias, None, Some(residual))
            }
        }
    }
}

/// `activation(x W^T + b)`, or `x W^T + b + residual`.
fn multiply_elsewhere(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    activation: Option<Activation>,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let product = Product::of_rows(x, weight)?
        && product.is_fast()?
    {
        return product.run(gpu::Ending { bias: Some(bias), activation, residual });
    }
    let product = ops::matmul(x, &weight.t()?)?;
    match residual {
        None => ops::biased(product, bias, activation),
        Some(residual) => ops::biased_plus(product, bias, residual),
    }
}

fn multiply(x: &Tensor, layers: &[Layer], ending: Ending) -> Result<Tensor> {
    let (count, step) = x.dims2()?;
    let outputs = layers.iter().map(|layer| layer.bias.len()).sum::<usize>();
    let fits =
        |layer: &Layer| (layer.weight.rows(), layer.weight.columns()) == (layer.bias.len(), step);
    if !layers.iter().all(fits) {
        candle::bail!("{:?} cannot be multiplied with weights of other widths", x.dims());
    }
    if let Ending::Plus(residual) = ending
        && residual.len() != count * outputs
    {
        candle::bail!("a residual of {} for {count} x {outputs} numbers", residual.len());
    }
    let x = x.contiguous()?;
    let weights: Vec<Numbers> =
        layers.iter().map(|layer| layer.weight.numbers()).collect::<Result<_>>()?;
    let parts: Vec<Part> = layers
        .iter()
        .zip(&weights)
        .map(|(layer, weight)| Part {
            offset: 0,
            weight,
            depth: step,
            bias: &layer.bias,
            scale: layer.scale,
        })
        .collect();
    let rows = Rows { numbers: &Numbers::of(&x)?, step, count };
    let precision = layers.first().map_or(Precision::F32, |layer| layer.precision);
    let product = product::multiply(precision, rows, &parts, ending);
    Tensor::from_vec(product, (count, outputs), &Device::Cpu)
}

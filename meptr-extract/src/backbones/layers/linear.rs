//! Linear layers with frozen weights.

use candle::{DType, Device, Result, Tensor};
use meptr_core::Precision;
use meptr_core::kernels::cpu::{Epilogue, GemmArgs, GemmRows, GemmWeights, gemm};
#[cfg(feature = "cuda")]
use meptr_core::kernels::cuda::{CudaEpilogue, CudaGemm};
use meptr_core::kernels::{Activation, ops};
use meptr_core::weights::{FrozenBuilder, Matrix, Numbers};

/// `x W^T + b` without gradient, of one layer or of several with the same input side by side.
///
/// Weights: `weight` `(outputs, inputs)`, `bias` `(outputs,)`. The trainable layer is
/// `meptr_core::nn::Linear`.
#[derive(Debug, Clone)]
pub(crate) struct FrozenLinear(Weights);

#[derive(Debug, Clone)]
enum Weights {
    /// f32 on the CPU, where they lie in the file.
    Cpu(Vec<CpuWeights>),
    /// Any other device or dtype: `(outputs, inputs)` and `(outputs,)`.
    Tensors(Tensor, Tensor),
}

/// Weights of `scale (x W^T) + b`.
#[derive(Debug, Clone)]
struct CpuWeights {
    weight: Matrix,
    bias: Vec<f32>,
    scale: f32,
    /// Precision of the GEMM's factors.
    precision: Precision,
}

impl FrozenLinear {
    /// Loads a layer with a bias.
    pub(crate) fn load(inputs: usize, outputs: usize, vb: &FrozenBuilder) -> Result<Self> {
        let weight = vb.matrix((outputs, inputs), "weight")?;
        Self::new(weight, Some(vb.get(outputs, "bias")?), vb.products())
    }

    /// Loads a layer without a bias.
    pub(crate) fn load_no_bias(inputs: usize, outputs: usize, vb: &FrozenBuilder) -> Result<Self> {
        Self::new(vb.matrix((outputs, inputs), "weight")?, None, vb.products())
    }

    /// Makes a layer of these weights; a missing bias is 0.
    ///
    /// `precision`: that of the GEMM's factors on the CPU.
    pub(crate) fn new(weight: Matrix, bias: Option<Tensor>, precision: Precision) -> Result<Self> {
        if weight.is_on_cpu() {
            let bias = match bias {
                Some(bias) => bias.to_vec1()?,
                None => vec![0.0; weight.rows()],
            };
            return Ok(Self(Weights::Cpu(vec![CpuWeights {
                weight,
                bias,
                scale: 1.0,
                precision,
            }])));
        }
        let weight = weight.tensor()?;
        let bias = match bias {
            Some(bias) => bias,
            None => Tensor::zeros(weight.dim(0)?, weight.dtype(), weight.device())?,
        };
        Ok(Self(Weights::Tensors(weight, bias)))
    }

    /// Multiplies weight and bias by `scale`.
    pub(crate) fn scaled(self, scale: f64) -> Result<Self> {
        Ok(Self(match self.0 {
            Weights::Cpu(mut layers) => {
                for layer in &mut layers {
                    layer.scale *= scale as f32;
                    layer.bias.iter_mut().for_each(|bias| *bias *= scale as f32);
                }
                Weights::Cpu(layers)
            }
            Weights::Tensors(weight, bias) => Weights::Tensors((weight * scale)?, (bias * scale)?),
        }))
    }

    /// Joins layers with the same input; their outputs stand side by side.
    pub(crate) fn stacked(layers: Vec<Self>) -> Result<Self> {
        let (mut on_cpu, mut weights, mut biases) = (Vec::new(), Vec::new(), Vec::new());
        for layer in layers {
            match layer.0 {
                Weights::Cpu(mut layers) => on_cpu.append(&mut layers),
                Weights::Tensors(weight, bias) => {
                    weights.push(weight);
                    biases.push(bias);
                }
            }
        }
        Ok(Self(if weights.is_empty() {
            Weights::Cpu(on_cpu)
        } else {
            Weights::Tensors(Tensor::cat(&weights, 0)?, Tensor::cat(&biases, 0)?)
        }))
    }

    /// Data type of input and output.
    pub(crate) fn dtype(&self) -> DType {
        match &self.0 {
            Weights::Cpu(_) => DType::F32,
            Weights::Tensors(weight, _) => weight.dtype(),
        }
    }

    /// Maps `(rows, inputs)` to `(rows, outputs)`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match &self.0 {
            Weights::Cpu(layers) => forward_on_cpu(x, layers, Epilogue::Identity),
            Weights::Tensors(weight, bias) => forward_tensors(x, weight, bias, None, None),
        }
    }

    /// Maps `(rows, inputs)` to `(rows, outputs)` and applies an activation.
    pub(crate) fn forward_activated(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        match &self.0 {
            Weights::Cpu(layers) => forward_on_cpu(x, layers, Epilogue::Activation(activation)),
            Weights::Tensors(weight, bias) => {
                forward_tensors(x, weight, bias, Some(activation), None)
            }
        }
    }

    /// Output before the bias is added, and the bias, for a next kernel that adds it.
    #[cfg(feature = "cuda")]
    pub(crate) fn forward_without_bias(&self, x: &Tensor) -> Result<(Tensor, &Tensor)> {
        match &self.0 {
            Weights::Cpu(_) => candle::bail!("the CPU adds biases in the GEMM"),
            Weights::Tensors(weight, bias) => {
                let gemm = CudaGemm::of_rows(x, weight)?;
                match gemm.is_fast()? {
                    true => Ok((gemm.run(CudaEpilogue::default())?, bias)),
                    false => Ok((x.matmul(&weight.t()?)?, bias)),
                }
            }
        }
    }

    /// Maps `(rows, inputs)` to `(rows, outputs)` and adds `residual`, `(rows, outputs)`.
    pub(crate) fn forward_residual(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        match &self.0 {
            Weights::Cpu(layers) => {
                let residual = residual.contiguous()?;
                forward_on_cpu(x, layers, Epilogue::Residual(&Numbers::of(&residual)?))
            }
            Weights::Tensors(weight, bias) => {
                forward_tensors(x, weight, bias, None, Some(residual))
            }
        }
    }
}

/// `activation(x W^T + b)`, or `x W^T + b + residual`.
fn forward_tensors(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    activation: Option<Activation>,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let gemm = CudaGemm::of_rows(x, weight)?
        && gemm.is_fast()?
    {
        return gemm.run(CudaEpilogue { bias: Some(bias), activation, residual });
    }
    let y = ops::matmul_f32_sums(x, &weight.t()?)?;
    match residual {
        None => ops::add_bias(y, bias, activation),
        Some(residual) => ops::add_bias_residual(y, bias, residual),
    }
}

fn forward_on_cpu(x: &Tensor, layers: &[CpuWeights], epilogue: Epilogue) -> Result<Tensor> {
    let (count, depth) = x.dims2()?;
    let outputs = layers.iter().map(|layer| layer.bias.len()).sum::<usize>();
    let fits = |layer: &CpuWeights| {
        (layer.weight.rows(), layer.weight.columns()) == (layer.bias.len(), depth)
    };
    if !layers.iter().all(fits) {
        candle::bail!("{:?} cannot be multiplied with weights of other widths", x.dims());
    }
    if let Epilogue::Residual(residual) = epilogue
        && residual.len() != count * outputs
    {
        candle::bail!("a residual of {} values for {count} x {outputs}", residual.len());
    }
    let x = x.contiguous()?;
    let values: Vec<Numbers> =
        layers.iter().map(|layer| layer.weight.numbers()).collect::<Result<_>>()?;
    let weights: Vec<GemmWeights> = layers
        .iter()
        .zip(&values)
        .map(|(layer, weight)| GemmWeights {
            offset: 0,
            weight,
            depth,
            bias: &layer.bias,
            scale: layer.scale,
        })
        .collect();
    let rows = GemmRows { values: &Numbers::of(&x)?, stride: depth, count };
    let precision = layers.first().map_or(Precision::F32, |layer| layer.precision);
    let y = gemm(precision, GemmArgs { rows, weights: &weights, epilogue });
    Tensor::from_vec(y, (count, outputs), &Device::Cpu)
}

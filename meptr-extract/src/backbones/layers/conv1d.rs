//! 1D convolutions with frozen weights, along the steps of a sequence.

use candle::{DType, Device, Result, Tensor};
use meptr_core::Precision;
use meptr_core::kernels::cpu::{Epilogue, GemmArgs, GemmRows, GemmWeights, gemm};
#[cfg(feature = "cuda")]
use meptr_core::kernels::cuda::{self, CudaEpilogue, CudaGemm};
use meptr_core::kernels::{Activation, ops};
use meptr_core::weights::Numbers;

/// Most values of an im2col copy: 256 MB of f32.
const MAX_IM2COL: usize = 1 << 26;

/// A 1D convolution without padding and without gradient, as a GEMM over its windows.
///
/// The windows of a contiguous sequence are rows that overlap in memory, so the CPU multiplies them
/// where they lie; other devices copy them first (im2col), unless their kernel needs no copy.
#[derive(Debug, Clone)]
pub(crate) struct Conv1d {
    /// `(groups, outputs / groups, kernel * inputs / groups)`, contiguous.
    weight: Tensor,
    /// `(outputs,)`.
    bias: Tensor,
    kernel: usize,
    stride: usize,
    /// Precision of the GEMM's factors on the CPU, where `weight` is f32.
    precision: Precision,
}

impl Conv1d {
    /// Packs the weights.
    ///
    /// - `weight`: `(outputs, inputs / groups, kernel)`, as in checkpoints
    /// - `bias`: `(outputs,)`; a missing bias is 0
    /// - `precision`: that of the GEMM's factors, where it runs in f32 on the CPU
    pub(crate) fn new(
        weight: &Tensor,
        bias: Option<Tensor>,
        groups: usize,
        stride: usize,
        precision: Precision,
    ) -> Result<Self> {
        let (outputs, inputs, kernel) = weight.dims3()?;
        let bias = match bias {
            Some(bias) => bias,
            None => Tensor::zeros(outputs, weight.dtype(), weight.device())?,
        };
        let weight = weight.transpose(1, 2)?.contiguous()?.reshape((
            groups,
            outputs / groups,
            kernel * inputs,
        ))?;
        Ok(Self { weight, bias, kernel, stride, precision })
    }

    /// Steps of a window.
    pub(crate) fn kernel(&self) -> usize {
        self.kernel
    }

    /// Steps from one window to the next.
    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// Convolves `(steps, inputs)` to `((steps - kernel) / stride + 1, outputs)`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, None)
    }

    /// Like [`Self::forward`], with an activation.
    pub(crate) fn forward_activated(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        self.run(x, Some(activation))
    }

    fn run(&self, x: &Tensor, activation: Option<Activation>) -> Result<Tensor> {
        let (steps, inputs) = x.dims2()?;
        let (groups, _, depth) = self.weight.dims3()?;
        if steps < self.kernel || inputs * self.kernel != groups * depth {
            candle::bail!("{:?} has no windows for kernels {:?}", x.dims(), self.weight.dims());
        }
        #[cfg(feature = "cuda")]
        if cuda::supports(x) && x.dtype() == DType::F32 {
            let x = self.by_groups(x)?;
            let gemm = CudaGemm::of_windows(&x, &self.weight, self.stride)?;
            if gemm.is_fast()? {
                let bias = Some(&self.bias);
                return gemm.run(CudaEpilogue { bias, activation, residual: None });
            }
        }
        if x.device().is_cpu() && x.dtype() == DType::F32 {
            return self.run_on_cpu(x, activation);
        }
        let y = self.run_im2col(&x.contiguous()?)?; // (groups, windows, outputs / groups)
        let y = match groups {
            1 => y.squeeze(0)?,
            _ => ops::transpose_12(&y.unsqueeze(0)?)?.squeeze(0)?.flatten_from(1)?,
        };
        ops::add_bias(y, &self.bias, activation)
    }

    /// Transposes `(steps, inputs)` to `(groups, steps, inputs / groups)`, contiguous.
    fn by_groups(&self, x: &Tensor) -> Result<Tensor> {
        let (steps, inputs) = x.dims2()?;
        match self.weight.dim(0)? {
            1 => x.contiguous()?.unsqueeze(0),
            groups => {
                let x = x.contiguous()?.reshape((1, steps, groups, inputs / groups))?;
                ops::transpose_12(&x)?.squeeze(0)
            }
        }
    }

    fn run_on_cpu(&self, x: &Tensor, activation: Option<Activation>) -> Result<Tensor> {
        let (steps, inputs) = x.dims2()?;
        let (groups, outputs, depth) = self.weight.dims3()?;
        let x = self.by_groups(x)?;
        let count = (steps - self.kernel) / self.stride + 1;
        let (weight, bias) = (Numbers::of(&self.weight)?, Numbers::of(&self.bias)?);
        let weights: Vec<GemmWeights> = weight
            .chunks_exact(outputs * depth)
            .zip(bias.chunks_exact(outputs))
            .enumerate()
            .map(|(group, (weight, bias))| GemmWeights {
                offset: group * steps * inputs / groups,
                weight,
                depth,
                bias,
                scale: 1.0,
            })
            .collect();
        let values = Numbers::of(&x)?;
        let rows = GemmRows { values: &values, stride: self.stride * inputs / groups, count };
        let epilogue = activation.map_or(Epilogue::Identity, Epilogue::Activation);
        let y = gemm(self.precision, GemmArgs { rows, weights: &weights, epilogue });
        Tensor::from_vec(y, (count, groups * outputs), &Device::Cpu)
    }

    /// GEMM over copied windows: contiguous `(steps, inputs)` to
    /// `(groups, windows, outputs / groups)`.
    fn run_im2col(&self, x: &Tensor) -> Result<Tensor> {
        let (groups, _, depth) = self.weight.dims3()?;
        let windows = (x.dim(0)? - self.kernel) / self.stride + 1;
        let block = (MAX_IM2COL / (groups * depth)).max(1);
        let blocks = (0..windows).step_by(block).map(|start| -> Result<Tensor> {
            let steps = (block.min(windows - start) - 1) * self.stride + self.kernel;
            let x = x.narrow(0, start * self.stride, steps)?;
            let columns = ops::im2col_1d(&x, groups, self.kernel, self.stride)?;
            ops::matmul_f32_sums(&columns, &self.weight.t()?)
        });
        match blocks.collect::<Result<Vec<_>>>()?.as_slice() {
            [all] => Ok(all.clone()),
            blocks => Tensor::cat(blocks, 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(shape: &[usize]) -> Tensor {
        let count: usize = shape.iter().product();
        let values: Vec<f32> =
            (0..count).map(|i| ((i * i + 3 * i) as f32 * 0.3).sin() * 4.0).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    /// f64 takes the im2col copy.
    #[test]
    fn windows_in_place_equal_im2col() {
        for (groups, steps, channels, kernel, stride) in [
            (1, 9, 3, 3, 2),
            (4, 12, 2, 5, 1),
            (1, 900, 2, 3, 2),
            (2, 700, 3, 2, 1),
            (1, 3, 5, 3, 1),
        ] {
            let x = wave(&[steps, groups * channels]);
            let (weight, bias) = (wave(&[6 * groups, channels, kernel]), wave(&[6 * groups]));
            let of = |weight: &Tensor, bias: Tensor| {
                Conv1d::new(weight, Some(bias), groups, stride, Precision::F32).unwrap()
            };
            let found = of(&weight, bias.clone());
            let wide = |x: &Tensor| x.to_dtype(DType::F64).unwrap();
            let exact = of(&wide(&weight), wide(&bias));
            for activation in [None, Some(Activation::Gelu)] {
                let (found, exact) =
                    (found.run(&x, activation).unwrap(), exact.run(&wide(&x), activation).unwrap());
                assert_eq!(found.dims(), exact.dims());
                let off = (wide(&found) - exact).unwrap().abs().unwrap().max_all().unwrap();
                assert!(off.to_scalar::<f64>().unwrap() < 1e-4, "off by {off}");
            }
        }
        let weight = wave(&[1, 1, 3]);
        let convolution = Conv1d::new(&weight, None, 1, 1, Precision::F32).unwrap();
        assert!(convolution.forward(&wave(&[2, 1])).is_err());
    }
}

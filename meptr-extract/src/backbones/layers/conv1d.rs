//! Convolutions along the steps of a sequence.

use candle::{DType, Device, Result, Tensor};
use meptr_core::Precision;
use meptr_core::weights::Numbers;

use super::encoder::Activation;
use super::ops;
#[cfg(feature = "cuda")]
use crate::gpu::{self, Product};
use crate::product::{self, Ending, Part, Rows};

/// Numbers copied at a time: 256 MB of f32.
const MAX_COPIED: usize = 1 << 26;

/// A convolution along the steps of a sequence, without padding, as a product over its windows.
///
/// The windows of a contiguous sequence are rows that overlap in memory, so the CPU multiplies them
/// where they lie; elsewhere they are copied out first.
#[derive(Debug, Clone)]
pub(crate) struct Convolution {
    /// `(groups, outputs / groups, kernel * inputs / groups)`, contiguous.
    weight: Tensor,
    /// `(outputs,)`.
    bias: Tensor,
    kernel: usize,
    stride: usize,
    /// That of the product's factors on the CPU, where `weight` is f32.
    precision: Precision,
}

impl Convolution {
    /// - `weight`: `(outputs, inputs / groups, kernel)`, as checkpoints have it
    /// - `bias`: `(outputs,)`, without one it is 0
    /// - `precision`: that of the factors of the product, where it is one of f32 on the CPU
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

    /// Steps that a window spans.
    pub(super) fn kernel(&self) -> usize {
        self.kernel
    }

    /// Steps from one window to the next.
    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    /// The convolution and its bias: `(steps, inputs)` to
    /// `((steps - kernel) / stride + 1, outputs)`.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, None)
    }

    /// The same, and an activation.
    pub(crate) fn forward_activated(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        self.run(x, Some(activation))
    }

    fn run(&self, x: &Tensor, activation: Option<Activation>) -> Result<Tensor> {
        let (steps, inputs) = x.dims2()?;
        let (groups, outputs, depth) = self.weight.dims3()?;
        if steps < self.kernel || inputs * self.kernel != groups * depth {
            candle::bail!("{:?} has no windows for kernels {:?}", x.dims(), self.weight.dims());
        }
        let grouped = || match groups {
            1 => x.contiguous()?.unsqueeze(0),
            _ => {
                let x = x.contiguous()?.reshape((1, steps, groups, inputs / groups))?;
                ops::swap_middle(&x)?.squeeze(0)
            }
        }; // (groups, steps, inputs / groups)
        #[cfg(feature = "cuda")]
        if gpu::takes(x) && x.dtype() == DType::F32 {
            let x = grouped()?;
            let product = Product::of_windows(&x, &self.weight, self.stride)?;
            if product.is_fast()? {
                return product.run(gpu::Ending {
                    bias: Some(&self.bias),
                    activation,
                    residual: None,
                });
            }
        }
        if !x.device().is_cpu() || x.dtype() != DType::F32 {
            let product = self.copying(&x.contiguous()?)?; // (groups, windows, outputs / groups)
            let product = match groups {
                1 => product.squeeze(0)?,
                _ => ops::swap_middle(&product.unsqueeze(0)?)?.squeeze(0)?.flatten_from(1)?,
            };
            return ops::biased(product, &self.bias, activation);
        }
        let grouped = grouped()?;
        let count = (steps - self.kernel) / self.stride + 1;
        let (weight, bias) = (Numbers::of(&self.weight)?, Numbers::of(&self.bias)?);
        let parts: Vec<Part> = weight
            .chunks_exact(outputs * depth)
            .zip(bias.chunks_exact(outputs))
            .enumerate()
            .map(|(group, (weight, bias))| Part {
                offset: group * steps * inputs / groups,
                weight,
                depth,
                bias,
                scale: 1.0,
            })
            .collect();
        let numbers = Numbers::of(&grouped)?;
        let rows = Rows { numbers: &numbers, step: self.stride * inputs / groups, count };
        let ending = activation.map_or(Ending::Linear, Ending::Activated);
        let product = product::multiply(self.precision, rows, &parts, ending);
        Tensor::from_vec(product, (count, groups * outputs), &Device::Cpu)
    }

    /// The product over windows that are copied out: contiguous `(steps, inputs)` to
    /// `(groups, windows, outputs / groups)`.
    fn copying(&self, x: &Tensor) -> Result<Tensor> {
        let (groups, _, depth) = self.weight.dims3()?;
        let windows = (x.dim(0)? - self.kernel) / self.stride + 1;
        let at_once = (MAX_COPIED / (groups * depth)).max(1);
        let product = |start: usize| -> Result<Tensor> {
            let steps = (at_once.min(windows - start) - 1) * self.stride + self.kernel;
            let x = x.narrow(0, start * self.stride, steps)?;
            let copied = ops::windows(&x, groups, self.kernel, self.stride)?;
            ops::matmul(&copied, &self.weight.t()?)
        };
        let blocks: Result<Vec<Tensor>> = (0..windows).step_by(at_once).map(product).collect();
        match blocks?.as_slice() {
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

    /// f64 takes the windows that are copied out.
    #[test]
    fn windows_are_multiplied_as_if_copied_out() {
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
                Convolution::new(weight, Some(bias), groups, stride, Precision::F32).unwrap()
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
        let convolution = Convolution::new(&weight, None, 1, 1, Precision::F32).unwrap();
        assert!(convolution.forward(&wave(&[2, 1])).is_err());
    }
}

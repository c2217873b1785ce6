//! Gradients by parameter name: of one loss, their norm, and weighted sums of several.

use std::collections::{BTreeMap, BTreeSet};

use candle::{DType, Result, Tensor, Var};
use meptr_core::kernels::cpu::slices::{self, CHUNK};
use rayon::prelude::*;

use super::grad_norm::Measured;

/// A gradient for each parameter that a loss depends on, by the parameter's name.
///
/// Parameters the loss does not reach are absent, which is not the same as a gradient of 0: an
/// optimiser leaves them alone altogether.
pub type Gradients = BTreeMap<String, Tensor>;

/// Gradients of a scalar; its graph stays, so that another scalar of the same graph can follow.
///
/// # Errors
/// When `loss` is no scalar or holds an operation without a gradient.
pub fn gradients_of(loss: &Tensor, parameters: &BTreeMap<String, Var>) -> Result<Gradients> {
    let mut store = loss.backward()?;
    let reached = |(name, parameter): (&String, &Var)| {
        store.remove(parameter).map(|gradient| (name.clone(), gradient))
    };
    Ok(parameters.iter().filter_map(reached).collect())
}

/// Euclidean norm of all gradients together.
///
/// # Errors
/// When a gradient is not f32 or the device fails.
pub fn norm_of(gradients: &Gradients) -> Result<f32> {
    if is_elsewhere(gradients) {
        return Ok(squares_on_device(gradients)?.to_scalar::<f64>()?.sqrt() as f32);
    }
    let squares = gradients.values().map(squares_of).sum::<Result<f64>>()?;
    Ok(squares.sqrt() as f32)
}

/// Sum of the squares of one gradient on the processor.
pub(super) fn squares_of(gradient: &Tensor) -> Result<f64> {
    // In f64 and chunk by chunk, so that the sum depends neither on size nor on cores.
    let of_chunk = |chunk: &[f32]| dot(chunk, chunk);
    slices::read_f32(gradient, |values| match values.len() <= CHUNK {
        true => of_chunk(values),
        false => {
            let chunks: Vec<f64> = values.par_chunks(CHUNK).map(of_chunk).collect();
            chunks.iter().sum::<f64>()
        }
    })
}

/// The values of losses, and the norms of their gradients; from a GPU in one transfer.
///
/// # Errors
/// When a loss is no number of type f32, or as [`norm_of`].
pub fn measure(losses: &[(&Tensor, &Gradients)]) -> Result<Vec<Measured>> {
    if !losses.iter().any(|(_, gradients)| is_elsewhere(gradients)) {
        let measured = |(loss, gradients): &(&Tensor, &Gradients)| {
            Ok(Measured { loss: loss.to_scalar()?, gradient_norm: norm_of(gradients)? })
        };
        return losses.iter().map(measured).collect();
    }
    measure_on_device(losses)
}

fn measure_on_device(losses: &[(&Tensor, &Gradients)]) -> Result<Vec<Measured>> {
    let mut numbers = Vec::with_capacity(2 * losses.len());
    for (loss, gradients) in losses {
        let loss = loss.to_dtype(DType::F64)?;
        let squares = match gradients.is_empty() {
            true => loss.zeros_like()?,
            false => squares_on_device(gradients)?,
        };
        numbers.extend([loss, squares]);
    }
    if numbers.is_empty() {
        return Ok(Vec::new());
    }
    let numbers = Tensor::stack(&numbers, 0)?.to_vec1::<f64>()?;
    let measured = numbers.chunks_exact(2).map(|numbers| Measured {
        loss: numbers[0] as f32,
        gradient_norm: numbers[1].sqrt() as f32,
    });
    Ok(measured.collect())
}

/// Whether gradients are on a GPU, where they stay.
fn is_elsewhere(gradients: &Gradients) -> bool {
    gradients.values().any(|gradient| !gradient.device().is_cpu())
}

/// Squares that are summed together on a device.
const ROW: usize = 1024;

/// Sum of the squares of all gradients, in f64, where they are.
fn squares_on_device(gradients: &Gradients) -> Result<Tensor> {
    let flat: Result<Vec<Tensor>> = gradients.values().map(Tensor::flatten_all).collect();
    let squares = Tensor::cat(&flat?, 0)?.to_dtype(DType::F64)?.sqr()?;
    // Row by row first: a sum over everything runs on a single core of a GPU.
    let count = squares.elem_count();
    let in_rows = count / ROW * ROW;
    let mut sums = Vec::new();
    if in_rows > 0 {
        sums.push(squares.narrow(0, 0, in_rows)?.reshape(((), ROW))?.sum(1)?);
    }
    if in_rows < count {
        sums.push(squares.narrow(0, in_rows, count - in_rows)?);
    }
    Tensor::cat(&sums, 0)?.sum_all()
}

/// `sum_i a_i b_i` in f64, in lanes, so that no addition waits for the one before.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f64 {
    const LANES: usize = 8;
    let (lanes_a, lanes_b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = lanes_a.remainder().iter().zip(lanes_b.remainder());
    let rest: f64 = rest.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    let mut sums = [0.0; LANES];
    for (a, b) in lanes_a.zip(lanes_b) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += f64::from(*a) * f64::from(*b);
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// `sum_k weight_k gradients_k`, over every parameter that any of them reaches.
///
/// # Errors
/// When gradients of one parameter differ in shape, when one is not f32 or the device fails.
pub fn weighted_sum(parts: &[(f32, Gradients)]) -> Result<Gradients> {
    let names: BTreeSet<&String> =
        parts.iter().flat_map(|(_, gradients)| gradients.keys()).collect();
    if parts.iter().any(|(_, gradients)| is_elsewhere(gradients)) {
        return weighted_sum_on_device(parts);
    }
    let sum_of = |name: &String| -> Result<(String, Tensor)> {
        let mut parts =
            parts.iter().filter_map(|(weight, gradients)| Some((*weight, gradients.get(name)?)));
        let (weight, first) = parts.next().expect("the name comes from one of the parts");
        let mut sum = slices::read_f32(first, |values| -> Vec<f32> {
            values.iter().map(|value| weight * value).collect()
        })?;
        for (weight, gradient) in parts {
            if gradient.dims() != first.dims() {
                candle::bail!("the gradients of `{name}` differ in shape");
            }
            let add = |(sum, values): (&mut [f32], &[f32])| {
                sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += weight * value);
            };
            slices::read_f32(gradient, |values| match values.len() <= CHUNK {
                true => add((&mut sum, values)),
                false => sum.par_chunks_mut(CHUNK).zip(values.par_chunks(CHUNK)).for_each(add),
            })?;
        }
        Ok((name.clone(), Tensor::from_vec(sum, first.shape(), first.device())?))
    };
    names.into_iter().map(sum_of).collect()
}

fn weighted_sum_on_device(parts: &[(f32, Gradients)]) -> Result<Gradients> {
    let mut sums = Gradients::new();
    for (weight, gradients) in parts {
        for (name, gradient) in gradients {
            let weighted = (gradient * f64::from(*weight))?;
            let sum = match sums.remove(name) {
                Some(sum) => (sum + weighted)?,
                None => weighted,
            };
            sums.insert(name.clone(), sum);
        }
    }
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use candle::Device;

    use super::*;

    fn parameters() -> Result<BTreeMap<String, Var>> {
        let var = |values: &[f32]| Var::new(values, &Device::Cpu);
        let named = [("a", var(&[1.0, 2.0])?), ("b", var(&[3.0])?), ("c", var(&[4.0])?)];
        Ok(named.into_iter().map(|(name, var)| (name.to_owned(), var)).collect())
    }

    #[test]
    fn one_graph_gives_the_gradients_of_several_losses() -> Result<()> {
        let parameters = parameters()?;
        let first = parameters["a"].sqr()?.sum_all()?;
        let second = (parameters["a"].sum_all()? * parameters["b"].sum_all()?)?;
        let of_first = gradients_of(&first, &parameters)?;
        let of_second = gradients_of(&second, &parameters)?;
        assert!(!of_first.contains_key("b") && !of_second.contains_key("c"));
        assert_eq!(norm_of(&of_first)?, 20.0f32.sqrt()); // (2, 4)
        assert_eq!(norm_of(&of_second)?, 27.0f32.sqrt()); // (3, 3), 3

        let both = weighted_sum(&[(0.5, of_first), (2.0, of_second)])?;
        assert_eq!(both["a"].to_vec1::<f32>()?, [7.0, 8.0]);
        assert_eq!(both["b"].to_vec1::<f32>()?, [6.0]);
        Ok(())
    }

    /// Computes on the CPU what a GPU would.
    #[test]
    fn on_a_device_all_is_the_same() -> Result<()> {
        let gradients = |factor: f32, names: &[&str]| -> Result<Gradients> {
            let values: Vec<f32> = (0..6000).map(|i| (i as f32 * factor).sin()).collect();
            let tensor = Tensor::from_vec(values, (50, 120), &Device::Cpu)?;
            names.iter().map(|name| Ok(((*name).to_owned(), tensor.clone()))).collect()
        };
        let (first, second) = (gradients(0.3, &["a", "b"])?, gradients(2.0, &["b", "c"])?);
        let near = |found: f32, expected: f32| {
            assert!((found - expected).abs() <= 1e-6 * expected.abs(), "{found} is not {expected}");
        };
        let (loss, none) = (Tensor::new(0.7f32, &Device::Cpu)?, Gradients::new());
        let losses = [(&loss, &first), (&loss, &second), (&loss, &none)];
        let found = measure_on_device(&losses)?;
        for (found, expected) in found.iter().zip(measure(&losses)?) {
            near(found.loss, expected.loss);
            near(found.gradient_norm, expected.gradient_norm);
        }
        let parts = [(0.5, first), (3.0, second)];
        let (found, expected) = (weighted_sum_on_device(&parts)?, weighted_sum(&parts)?);
        assert!(found.keys().eq(expected.keys()));
        for (found, expected) in found.values().zip(expected.values()) {
            let pairs = found.flatten_all()?.to_vec1::<f32>()?.into_iter();
            for (found, expected) in pairs.zip(expected.flatten_all()?.to_vec1::<f32>()?) {
                assert!((found - expected).abs() < 1e-6, "{found} is not {expected}");
            }
        }
        Ok(())
    }
}

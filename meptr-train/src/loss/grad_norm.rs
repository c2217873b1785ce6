//! Gradients by parameter name: of one loss, their norm, and weighted sums of several.

use std::collections::{BTreeMap, BTreeSet};

use candle::{Result, Tensor, Var};
use rayon::prelude::*;

use crate::host::{self, CHUNK};

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
    let mut sum = 0.0;
    for gradient in gradients.values() {
        // In f64 and chunk by chunk, so that the sum depends neither on size nor on cores.
        let chunks: Vec<f64> = host::read(gradient, |values| {
            values.par_chunks(CHUNK).map(|chunk| chunk.iter().map(squared).sum::<f64>()).collect()
        })?;
        sum += chunks.iter().sum::<f64>();
    }
    Ok(sum.sqrt() as f32)
}

fn squared(value: &f32) -> f64 {
    f64::from(*value) * f64::from(*value)
}

/// `sum_k weight_k gradients_k`, over every parameter that any of them reaches.
///
/// # Errors
/// When gradients of one parameter differ in shape, when one is not f32 or the device fails.
pub fn weighted_sum(parts: &[(f32, Gradients)]) -> Result<Gradients> {
    let names: BTreeSet<&String> =
        parts.iter().flat_map(|(_, gradients)| gradients.keys()).collect();
    let sum_of = |name: &String| -> Result<(String, Tensor)> {
        let mut parts =
            parts.iter().filter_map(|(weight, gradients)| Some((*weight, gradients.get(name)?)));
        let (weight, first) = parts.next().expect("the name comes from one of the parts");
        let mut sum = host::read(first, |values| -> Vec<f32> {
            values.iter().map(|value| weight * value).collect()
        })?;
        for (weight, gradient) in parts {
            if gradient.dims() != first.dims() {
                candle::bail!("the gradients of `{name}` differ in shape");
            }
            host::read(gradient, |values| {
                sum.par_chunks_mut(CHUNK).zip(values.par_chunks(CHUNK)).for_each(
                    |(sum, values)| {
                        sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += weight * value);
                    },
                );
            })?;
        }
        Ok((name.clone(), Tensor::from_vec(sum, first.shape(), first.device())?))
    };
    names.into_iter().map(sum_of).collect()
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
}

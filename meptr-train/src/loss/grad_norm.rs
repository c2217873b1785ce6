//! Gradients by parameter name: of one loss, their norm, and weighted sums of several.

use std::collections::BTreeMap;

use candle::{D, DType, Result, Tensor, Var};

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
/// When the device fails.
pub fn norm_of(gradients: &Gradients) -> Result<f32> {
    let mut sum = 0.0;
    for gradient in gradients.values() {
        let gradient = gradient.flatten_to(gradient.rank().saturating_sub(2))?;
        // Row by row in f32, then in f64: one f32 sum over a large matrix loses digits.
        let rows = gradient.sqr()?.sum(D::Minus1)?.to_dtype(DType::F64)?;
        sum += rows.sum_all()?.to_scalar::<f64>()?;
    }
    Ok(sum.sqrt() as f32)
}

/// `sum_k weight_k gradients_k`, over every parameter that any of them reaches.
///
/// # Errors
/// When the device fails.
pub fn weighted_sum(parts: &[(f32, Gradients)]) -> Result<Gradients> {
    let mut sum = Gradients::new();
    for (weight, gradients) in parts {
        for (name, gradient) in gradients {
            let gradient = (gradient * f64::from(*weight))?;
            let gradient = match sum.remove(name) {
                None => gradient,
                Some(others) => (others + gradient)?,
            };
            sum.insert(name.clone(), gradient);
        }
    }
    Ok(sum)
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

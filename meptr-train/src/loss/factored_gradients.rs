//! Gradients of losses whose large weights' gradients stay products of two factors.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use candle::{Result, Tensor, TensorId, Var};
use meptr_core::nn::{GradientFactors, GradientTape};

use super::grad_norm::Measured;
use super::gradients::{self, Gradients, gradients_of, squares_of, weighted_sum};
use meptr_core::kernels::cpu::{matmul, parallel, slices};

/// Gradients of one loss: some as they are, others as sums of products.
#[derive(Debug, Clone)]
pub struct FactoredGradients {
    /// Gradients of Candle's backward pass.
    plain: Gradients,
    /// Factors of the gradients that went to the tape.
    products: BTreeMap<String, Vec<GradientFactors>>,
}

/// Gradients of a scalar, as [`gradients_of`], with those that the tape of its forward pass got; its
/// other variables, which are not to be trained, count for nothing.
///
/// # Errors
/// As there.
pub fn gradients_on(
    tape: &GradientTape,
    loss: &Tensor,
    parameters: &BTreeMap<String, Var>,
) -> Result<FactoredGradients> {
    drop(tape.take());
    let plain = gradients_of(loss, parameters)?;
    let mut products: BTreeMap<String, Vec<GradientFactors>> = BTreeMap::new();
    let taken = tape.take();
    if !taken.is_empty() {
        let names: BTreeMap<String, TensorId> =
            parameters.iter().map(|(name, parameter)| (name.clone(), parameter.id())).collect();
        for product in taken {
            let found = names.iter().find(|(_, id)| **id == product.weight_use.weight);
            let Some((name, _)) = found else {
                continue; // a variable that is not to be trained
            };
            products.entry(name.clone()).or_default().push(product);
        }
    }
    Ok(FactoredGradients { plain, products })
}

/// Gradients of several losses of one graph, their values, and the norms of their gradients,
/// without the matrices where their factors are smaller; on the processor, losses share the cores.
///
/// With `D` the gradients of a layer's outputs and `X` its inputs, `(rows, ..)` each, the squares
/// of `D^T X` sum up to `sum_ij (D D^T)_ij (X X^T)_ij`.
///
/// # Errors
/// When a loss is no number of type f32, or as [`gradients_on`].
pub fn measured_gradients(
    tape: &GradientTape,
    losses: &[&Tensor],
    parameters: &BTreeMap<String, Var>,
) -> Result<Vec<(Measured, FactoredGradients)>> {
    if losses.iter().any(|loss| !loss.device().is_cpu()) {
        let gradients = losses.iter().map(|loss| gradients_on(tape, loss, parameters));
        let gradients = gradients.collect::<Result<Vec<_>>>()?;
        let of_losses: Vec<_> =
            losses.iter().zip(&gradients).map(|(loss, of)| (*loss, &of.plain)).collect();
        return Ok(gradients::measure(&of_losses)?.into_iter().zip(gradients).collect());
    }
    let inputs = InputSquares::default();
    let measured = parallel::map(losses.to_vec(), |loss| -> Result<_> {
        let gradients = gradients_on(tape, loss, parameters)?;
        let gradient_norm = gradients.squares(parameters, &inputs)?.sqrt() as f32;
        Ok((Measured { loss: loss.to_scalar()?, gradient_norm }, gradients))
    });
    measured.into_iter().collect()
}

/// `sum_k weight_k gradients_k`, over every parameter that any of them reaches.
///
/// # Errors
/// As [`weighted_sum`].
pub fn sum_of(
    parts: &[(f32, FactoredGradients)],
    parameters: &BTreeMap<String, Var>,
) -> Result<Gradients> {
    let plain: Vec<_> = parts.iter().map(|(weight, part)| (*weight, part.plain.clone())).collect();
    let mut sums = match &plain[..] {
        [(1.0, _)] => {
            plain.into_iter().map(|(_, gradients)| gradients).collect::<Vec<_>>().remove(0)
        }
        _ => weighted_sum(&plain)?,
    };
    let mut names: Vec<&String> =
        parts.iter().flat_map(|(_, gradients)| gradients.products.keys()).collect();
    names.sort_unstable_by_key(|name| (Reverse(parameters[*name].elem_count()), *name));
    names.dedup();
    let products = parallel::map(names, |name| -> Result<_> {
        let terms = parts.iter().flat_map(|(weight, part)| {
            let products = part.products.get(name).into_iter().flatten();
            products.map(|product| (*weight, product))
        });
        Ok((name, matrix(&terms.collect::<Vec<_>>(), &parameters[name])?))
    });
    for product in products {
        let (name, product) = product?;
        let sum = match sums.remove(name) {
            Some(plain) => (product + plain)?,
            None => product,
        };
        sums.insert(name.clone(), sum);
    }
    Ok(sums)
}

/// `X X^T` of the inputs of each use of a weight; they are the same for every loss.
#[derive(Debug, Default)]
struct InputSquares(Mutex<BTreeMap<usize, Arc<OnceLock<Tensor>>>>);

impl InputSquares {
    fn of(&self, GradientFactors { weight_use, input, .. }: &GradientFactors) -> Result<Tensor> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let square = Arc::clone(known.entry(weight_use.call).or_default());
        drop(known); // others go on while this one is computed
        if let Some(square) = square.get() {
            return Ok(square.clone());
        }
        let computed = matmul(input, &input.t()?)?;
        Ok(square.get_or_init(|| computed).clone())
    }
}

impl FactoredGradients {
    /// Sum of the squares of all gradients.
    fn squares(&self, parameters: &BTreeMap<String, Var>, inputs: &InputSquares) -> Result<f64> {
        let mut squares = 0.0;
        for (name, gradient) in &self.plain {
            if !self.products.contains_key(name) {
                squares += squares_of(gradient)?;
            }
        }
        for (name, products) in &self.products {
            squares += match are_apart(products) && !self.plain.contains_key(name) {
                true => squares_of_products(products, inputs)?,
                false => squares_of(&self.matrix(name, &parameters[name])?)?,
            };
        }
        Ok(squares)
    }

    /// The gradient of one parameter, as a matrix.
    fn matrix(&self, name: &str, parameter: &Var) -> Result<Tensor> {
        let products = self.products.get(name).into_iter().flatten();
        let sum = matrix(&products.map(|product| (1.0, product)).collect::<Vec<_>>(), parameter)?;
        match self.plain.get(name) {
            Some(plain) => sum + plain,
            None => Ok(sum),
        }
    }
}

/// Whether no two products are terms of the same rows.
fn are_apart(products: &[GradientFactors]) -> bool {
    let mut rows = products.iter().map(|product| {
        let first = product.weight_use.first_row;
        (first, product.output_gradient.dims().last().map_or(first, |count| first + count))
    });
    let mut rows: Vec<(usize, usize)> = rows.by_ref().collect();
    rows.sort_unstable();
    rows.windows(2).all(|pair| pair[0].1 <= pair[1].0)
}

/// Sum of the squares of products of rows apart.
fn squares_of_products(products: &[GradientFactors], inputs: &InputSquares) -> Result<f64> {
    let mut squares = 0.0;
    for of_use in products {
        let GradientFactors { input, output_gradient, .. } = of_use;
        let (rows, outputs) = output_gradient.dims2()?;
        if rows >= outputs.min(input.dim(1)?) {
            squares += squares_of(&matmul(&output_gradient.t()?, input)?)?;
            continue;
        }
        let of_input = inputs.of(of_use)?;
        let of_output = matmul(output_gradient, &output_gradient.t()?)?; // (rows, rows)
        let sum = slices::read_f32(&of_input, |inputs| {
            slices::read_f32(&of_output, |outputs| gradients::dot(inputs, outputs))
        })??;
        squares += sum.max(0.0); // as a sum of squares, but for rounding
    }
    Ok(squares)
}

/// `sum_k weight_k output_gradient_k^T input_k`, each in its rows of a matrix like `parameter`.
fn matrix(terms: &[(f32, &GradientFactors)], parameter: &Var) -> Result<Tensor> {
    let mut blocks: BTreeMap<usize, BTreeMap<usize, (Tensor, &Tensor)>> = BTreeMap::new();
    for (weight, GradientFactors { weight_use, input, output_gradient }) in terms {
        let weighted = match *weight {
            1.0 => output_gradient.clone(),
            weight => (output_gradient * f64::from(weight))?,
        };
        let block = blocks.entry(weight_use.first_row).or_default();
        let sum = match block.remove(&weight_use.call) {
            Some((sum, _)) => (sum + weighted)?, // the input is the same
            None => weighted,
        };
        block.insert(weight_use.call, (sum, input));
    }
    let rows = parameter.dim(0)?;
    let mut sum: Option<Tensor> = None;
    let mut pieces: Vec<Tensor> = Vec::new();
    let mut next = 0;
    for (first, calls) in blocks {
        let products = calls.into_values().map(|(output, input)| matmul(&output.t()?, input));
        let block = products.reduce(|sum, product| sum? + product?);
        let Some(block) = block.transpose()? else { continue };
        if first < next {
            // Rows that overlap others: rare enough to be added as a matrix of their own.
            let alone = placed(&block, first, rows)?;
            sum = Some(sum.map_or(Ok(alone.clone()), |sum| sum + alone)?);
            continue;
        }
        if first > next {
            pieces.push(zeros(first - next, &block)?);
        }
        next = first + block.dim(0)?;
        pieces.push(block);
    }
    if next < rows {
        pieces.push(zeros(rows - next, parameter)?);
    }
    let whole = match &pieces[..] {
        [whole] => whole.clone(),
        pieces => Tensor::cat(pieces, 0)?,
    };
    match sum {
        Some(sum) => sum + whole,
        None => Ok(whole),
    }
}

/// A block of rows in a matrix of zeros.
fn placed(block: &Tensor, first: usize, rows: usize) -> Result<Tensor> {
    block.pad_with_zeros(0, first, rows - first - block.dim(0)?)
}

fn zeros(rows: usize, like: &Tensor) -> Result<Tensor> {
    Tensor::zeros((rows, like.dim(1)?), like.dtype(), like.device())
}

#[cfg(test)]
mod tests {
    use candle::{DType, Device};
    use candle_nn::VarBuilder;
    use meptr_core::nn::{Linear, Mode, MultiHeadAttention};
    use meptr_core::rng::SeedStreams;
    use meptr_core::weights::Trainable;

    use super::*;
    use crate::loss::norm_of;

    struct Layers {
        first: Linear,
        attention: MultiHeadAttention,
        last: Linear,
    }

    impl Layers {
        fn load(vb: &VarBuilder) -> Result<Self> {
            Ok(Self {
                first: Linear::load(9, 8, vb.pp("first"))?,
                attention: MultiHeadAttention::load(8, 2, 0.0, vb.pp("attention"))?,
                last: Linear::load_no_bias(8, 8, vb.pp("last"))?,
            })
        }

        /// Two losses; of the second, one weight is used twice and one without the tape.
        fn losses(&self, mode: &mut Mode) -> Result<[Tensor; 2]> {
            let x = Tensor::arange(0f32, 4.0 * 3.0 * 9.0, &Device::Cpu)?.reshape((4, 3, 9))?;
            let h = self.first.forward_in(&x.sin()?, mode)?;
            let read = self.attention.forward(&h, &h, &h, None, mode)?;
            let twice = self.last.forward_in(&self.last.forward_in(&read, mode)?, mode)?;
            let both = (&twice + self.last.forward(&read)?)?;
            Ok([read.sqr()?.mean_all()?, both.sin()?.mean_all()?])
        }
    }

    #[test]
    fn norms_and_sums_equal_those_of_whole_gradients() -> Result<()> {
        let trainable = Trainable::new(SeedStreams::new(4));
        let layers = Layers::load(&trainable.builder(&Device::Cpu))?;
        let parameters = trainable.by_name();
        let tape = GradientTape::default();
        let mut taped = Mode::Taped(SeedStreams::new(1).stream("dropout"), tape.clone());
        let losses = layers.losses(&mut taped)?;
        let plain = layers.losses(&mut Mode::Eval)?;
        let of = |losses: &[Tensor; 2]| -> Result<Vec<FactoredGradients>> {
            losses.iter().map(|loss| gradients_on(&tape, loss, &parameters)).collect()
        };
        let (found, expected) = (of(&losses)?, of(&plain)?);
        assert!(found.iter().all(|gradients| gradients.products.contains_key("first.weight")));
        assert!(expected.iter().all(|gradients| gradients.products.is_empty()));
        let measured = measured_gradients(&tape, &losses.each_ref(), &parameters)?;
        for ((found, _), expected) in measured.iter().zip(&expected) {
            let norm = norm_of(&expected.plain)?;
            assert!((found.gradient_norm - norm).abs() < 1e-5 * norm, "{found:?}, not {norm}");
        }
        for weights in [[1.0, 0.0], [0.3, 2.0]] {
            let sum = |parts: &[FactoredGradients]| {
                let parts = weights.into_iter().zip(parts.iter().cloned());
                sum_of(&parts.collect::<Vec<_>>(), &parameters)
            };
            let (found, expected) = (sum(&found)?, sum(&expected)?);
            assert!(found.keys().eq(expected.keys()));
            for (name, expected) in &expected {
                let off = (&found[name] - expected)?.abs()?.to_dtype(DType::F32)?;
                let off = off.flatten_all()?.max(0)?.to_scalar::<f32>()?;
                assert!(off < 1e-6, "{name}: off by {off}");
            }
        }
        Ok(())
    }

    #[test]
    fn rows_without_a_term_are_zero_and_overlapping_ones_add_up() -> Result<()> {
        let parameter = Var::zeros((5, 2), DType::F32, &Device::Cpu)?;
        let ones =
            |rows: usize, columns: usize| Tensor::ones((rows, columns), DType::F32, &Device::Cpu);
        let term = |first_row: usize, outputs: usize, call: usize| -> Result<GradientFactors> {
            let weight_use = meptr_core::nn::WeightUse { weight: parameter.id(), first_row, call };
            Ok(GradientFactors {
                weight_use,
                input: ones(3, 2)?,
                output_gradient: ones(3, outputs)?,
            })
        };
        let (middle, lower) = (term(1, 2, 0)?, term(2, 2, 1)?);
        assert!(!are_apart(&[middle.clone(), lower.clone()]));
        let found = matrix(&[(1.0, &middle), (2.0, &lower)], &parameter)?.to_vec2::<f32>()?;
        assert_eq!(found, [[0.0; 2], [3.0; 2], [9.0; 2], [6.0; 2], [0.0; 2]]);
        Ok(())
    }
}

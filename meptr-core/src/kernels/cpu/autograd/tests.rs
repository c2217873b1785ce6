//! Fused operations against Candle's own: values and gradients, of odd sizes, of views that are not
//! contiguous, and of sizes that split over several cores.

use candle::{D, Device, Result, Shape, Tensor, Var};
use proptest::prelude::*;

use super::*;
use crate::nn::GradientTape;
use crate::weights::generated_tensor;

/// Values without a pattern, f64.
fn values(name: &str, dims: &[usize]) -> Result<Tensor> {
    generated_tensor(name, &Shape::from(dims), 3, &Device::Cpu)?.to_dtype(DType::F64)? * 3.0
}

/// A variable of these dimensions and, of it, a view of them that is not contiguous.
fn transposed(name: &str, dims: &[usize]) -> Result<(Var, Tensor)> {
    let mut turned = dims.to_vec();
    let last = turned.len() - 1;
    turned.swap(last - 1, last);
    let variable = Var::from_tensor(&values(name, &turned)?)?;
    let view = variable.as_tensor().transpose(last - 1, last)?;
    Ok((variable, view))
}

fn variable(name: &str, dims: &[usize]) -> Result<Var> {
    Var::from_tensor(&values(name, dims)?)
}

/// Factors of 0 and 1.5, as dropout has them, and a mask whose first column is real.
fn zero_or(value: f32, count: usize) -> Vec<f32> {
    (0..count).map(|index| if index * 7 % 5 < 2 { 0.0 } else { value }).collect()
}

fn mask(rows: usize, columns: usize) -> Result<Tensor> {
    let mut values = zero_or(1.0, rows * columns);
    values.iter_mut().step_by(columns).for_each(|value| *value = 1.0);
    Tensor::from_vec(values, (rows, columns), &Device::Cpu)?.to_dtype(DType::F64)
}

fn factors(scales: &Option<Vec<f32>>, dims: &[usize]) -> Result<Tensor> {
    let scales = scales.clone().unwrap_or_else(|| vec![1.0; dims.iter().product()]);
    Tensor::from_vec(scales, dims, &Device::Cpu)?.to_dtype(DType::F64)
}

fn softmax_of(x: &Tensor) -> Result<Tensor> {
    let exp = x.broadcast_sub(&x.detach().max_keepdim(D::Minus1)?)?.exp()?;
    exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)
}

fn masked_softmax_of(x: &Tensor, mask: &Tensor) -> Result<Tensor> {
    softmax_of(&x.broadcast_add(&mask.affine(1e30, -1e30)?)?)?.broadcast_mul(mask)
}

/// Values and gradients equal those of the plain operations.
fn check(variables: &[&Var], fused: &Tensor, plain: &Tensor) -> Result<()> {
    assert_near("value", fused, plain)?;
    let weights = values("loss", plain.dims())?;
    let gradients_of = |output: &Tensor| (output * &weights)?.sum_all()?.backward();
    let (found, expected) = (gradients_of(fused)?, gradients_of(plain)?);
    for (index, variable) in variables.iter().enumerate() {
        let gradient = |of: &candle::backprop::GradStore| of.get(variable).cloned();
        let found = gradient(&found).expect("the fused form reaches every variable");
        let expected = gradient(&expected).expect("so does the plain one");
        assert_near(&format!("gradient of input {index}"), &found, &expected)?;
    }
    Ok(())
}

fn assert_near(what: &str, found: &Tensor, expected: &Tensor) -> Result<()> {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let scale = expected.abs()?.flatten_all()?.max(0)?.to_scalar::<f64>()?.max(1.0);
    let off = (found - expected)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f64>()?;
    assert!(off <= 1e-10 * scale, "{what}: off by {off}"); // sums in another order
    Ok(())
}

fn check_layer_norm(rows: usize, width: usize) -> Result<()> {
    let (x, view) = transposed("x", &[rows, width])?;
    let (weight, bias) = (variable("weight", &[width])?, variable("bias", &[width])?);
    let centred = view.broadcast_sub(&view.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let plain = centred.broadcast_div(&(variance + 1e-5)?.sqrt()?)?;
    let plain = plain.broadcast_mul(&weight)?.broadcast_add(&bias)?;
    check(&[&x, &weight, &bias], &layer_norm(&view, &weight, &bias, 1e-5)?, &plain)
}

fn check_relu_dropout(rows: usize, width: usize) -> Result<()> {
    let (x, view) = transposed("x", &[rows, width])?;
    let positive = view.detach().gt(0.0)?.to_dtype(DType::F64)?;
    for scales in [None, Some(zero_or(1.5, rows * width))] {
        let factor = factors(&scales, &[rows, width])?;
        let rectified = ((&view * &positive)? * &factor)?;
        check(&[&x], &relu_dropout(&view, scales.clone(), true)?, &rectified)?;
        check(&[&x], &relu_dropout(&view, scales, false)?, &(&view * &factor)?)?;
    }
    Ok(())
}

fn check_linear(rows: usize, inputs: usize, outputs: usize) -> Result<()> {
    let (x, view) = transposed("x", &[rows, inputs])?;
    let (weight, bias) = (variable("weight", &[3 * outputs, inputs])?, variable("b", &[outputs])?);
    let part = weight.narrow(0, outputs, outputs)?;
    let product = view.matmul(&part.t()?)?;
    let with_bias = product.broadcast_add(&bias)?;
    let all = WeightRows { first: 0, count: outputs };
    check(&[&x, &weight], &linear(&view, &part, all, None, None)?, &product)?;
    let found = linear(&view, &part, all, Some(&bias), None)?;
    check(&[&x, &weight, &bias], &found, &with_bias)?;

    // With a tape, the weight's gradient is the product of the taped factors.
    let tape = GradientTape::default();
    let sink = tape.sink(&weight, outputs);
    let second = WeightRows { first: outputs, count: outputs };
    let taped = linear(&view, &weight, second, Some(&bias), Some(sink))?;
    check(&[&x, &bias], &taped, &with_bias)?;
    let [factors] = &tape.take()[..] else { panic!("one layer, one backward pass") };
    assert_eq!((factors.weight_use.weight, factors.weight_use.first_row), (weight.id(), outputs));
    let loss = (with_bias * values("loss", &[rows, outputs])?)?.sum_all()?;
    let expected =
        loss.backward()?.get(&weight).expect("a gradient").narrow(0, outputs, outputs)?;
    assert_near("taped", &factors.output_gradient.t()?.matmul(&factors.input)?, &expected)
}

fn check_attention(rows: usize, steps: usize, others: usize, heads: usize) -> Result<()> {
    let width = heads * 3;
    let (key, key_view) = transposed("key", &[rows, others, width])?;
    let (value, value_view) = transposed("value", &[rows, others, width])?;
    let split = |x: &Tensor, steps: usize| {
        let x = x.broadcast_as((rows, steps, width))?.contiguous()?;
        x.reshape((rows, steps, heads, 3))?.transpose(1, 2)?.contiguous()
    };
    for (query_rows, is_masked) in [(rows, false), (1, true)] {
        let (query, query_view) = transposed("query", &[query_rows, steps, width])?;
        let mask = if is_masked {
            mask(rows, others)?
        } else {
            values("m", &[rows, others])?.ones_like()?
        };
        let scales = is_masked.then(|| zero_or(1.5, rows * heads * steps * others));
        let (q, k) = (split(&query_view, steps)?, split(&key_view, others)?);
        let scores = (q.matmul(&k.t()?)? / 3f64.sqrt())?;
        let weights = masked_softmax_of(&scores, &mask.unsqueeze(1)?.unsqueeze(1)?)?;
        let weights = (weights * factors(&scales, &[rows, heads, steps, others])?)?;
        let plain =
            weights.matmul(&split(&value_view, others)?)?.transpose(1, 2)?.flatten_from(2)?;
        let mask = is_masked.then_some(&mask);
        let found = attention([&query_view, &key_view, &value_view], heads, mask, scales)?;
        check(&[&query, &key, &value], &found, &plain)?;
    }
    Ok(())
}

fn check_graph(rows: usize, nodes: usize, width: usize) -> Result<()> {
    let (values, view) = transposed("values", &[rows, nodes, width])?;
    let a = variable("a", &[2 * width, 1])?;
    let own = view.broadcast_matmul(&a.narrow(0, 0, width)?)?;
    let other = view.broadcast_matmul(&a.narrow(0, width, width)?)?.transpose(1, 2)?;
    let sums = own.broadcast_add(&other)?;
    let slopes = sums.detach().gt(0.0)?.to_dtype(DType::F64)?.affine(0.8, 0.2)?;
    let scores = (sums * slopes)?;
    for is_masked in [false, true] {
        let mask = if is_masked {
            mask(rows, nodes)?
        } else {
            view.detach().narrow(2, 0, 1)?.squeeze(2)?.ones_like()?
        };
        let scales = is_masked.then(|| zero_or(1.5, rows * nodes * nodes));
        let weights = masked_softmax_of(&scores, &mask.unsqueeze(1)?)?;
        let weights = (weights * factors(&scales, &[rows, nodes, nodes])?)?;
        let plain = weights.matmul(&view.contiguous()?)?;
        let found = graph_attention(&view, &a, 0.2, is_masked.then_some(&mask), scales)?;
        check(&[&values, &a], &found, &plain)?;
    }
    Ok(())
}

#[test]
fn splitting_over_cores_changes_nothing() -> Result<()> {
    check_layer_norm(301, 130)?;
    check_relu_dropout(301, 130)?;
    check_linear(301, 65, 130)?;
    check_attention(67, 3, 7, 5)?;
    check_graph(131, 5, 67)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn fused_operations_equal_what_they_replace(
        rows in 1usize..6, width in 1usize..40, nodes in 1usize..7, heads in 1usize..4
    ) {
        // A row of one value has no variance: its gradient is 0 but for rounding.
        if width > 2 { check_layer_norm(rows, width).unwrap(); }
        check_relu_dropout(rows, width).unwrap();
        check_linear(rows, width, nodes).unwrap();
        check_attention(rows, heads, nodes, heads).unwrap();
        check_graph(rows, nodes, width).unwrap();
        let (x, view) = transposed("x", &[rows, width]).unwrap();
        check(&[&x], &softmax(&view).unwrap(), &softmax_of(&view).unwrap()).unwrap();
    }
}

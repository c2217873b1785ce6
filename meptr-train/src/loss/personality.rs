//! Regression losses for trait scores.
//!
//! Each compares two tensors of one shape, says one number for all their elements and is symmetric
//! in its arguments. With `d = truth - prediction`:
//!
//! | name | formula |
//! |---|---|
//! | `ccc` | `1 - 2 cov / (var + var + (mean - mean)^2)`, Lin 1989, variances over `n - 1` |
//! | `mae`, `mse`, `rmse` | mean of `abs(d)`, of `d^2`, and the root of the latter |
//! | `logcosh` | mean of `ln(cosh(d))` |
//! | `bell` | mean of `300 (1 - exp(-d^2 / 162))` |
//! | `gl` | mean of `600 (1 - exp(-d^2 / 64))` |
//!
//! and `A_B` is the sum of `A` and `B`.

use candle::{Result, Tensor};
use serde::{Deserialize, Serialize};

/// Loss between true and predicted trait scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // the module's table says what each is
pub enum PersonalityLoss {
    Ccc,
    Mae,
    Mse,
    Rmse,
    Logcosh,
    Bell,
    Gl,
    RmseBell,
    RmseLogcosh,
    RmseGl,
    RmseBellLogcosh,
    RmseBellGl,
    BellLogcosh,
    BellGl,
    BellLogcoshGl,
    LogcoshGl,
}

impl PersonalityLoss {
    /// Every loss.
    pub const ALL: [Self; 16] = [
        Self::Ccc,
        Self::Mae,
        Self::Mse,
        Self::Rmse,
        Self::Logcosh,
        Self::Bell,
        Self::Gl,
        Self::RmseBell,
        Self::RmseLogcosh,
        Self::RmseGl,
        Self::RmseBellLogcosh,
        Self::RmseBellGl,
        Self::BellLogcosh,
        Self::BellGl,
        Self::BellLogcoshGl,
        Self::LogcoshGl,
    ];

    /// The loss over all elements of two tensors.
    ///
    /// - `truth`, `prediction`: of one shape, f32, any range
    /// - returns a scalar; NaN when a value is NaN, when there is no element, and for `ccc` also
    ///   when there is only one or when both tensors hold one and the same value throughout
    ///
    /// The gradient is finite wherever the value is, but for the sums with `rmse` at
    /// `prediction == truth`, where the root has none.
    ///
    /// # Errors
    /// When the shapes differ.
    pub fn between(self, truth: &Tensor, prediction: &Tensor) -> Result<Tensor> {
        let mut sum = Tensor::zeros((), truth.dtype(), truth.device())?;
        for term in self.terms() {
            sum = (sum + term(truth, prediction)?)?;
        }
        Ok(sum)
    }

    fn terms(self) -> &'static [Term] {
        match self {
            Self::Ccc => &[ccc],
            Self::Mae => &[mae],
            Self::Mse => &[mse],
            Self::Rmse => &[rmse],
            Self::Logcosh => &[logcosh],
            Self::Bell => &[bell],
            Self::Gl => &[gl],
            Self::RmseBell => &[rmse, bell],
            Self::RmseLogcosh => &[rmse, logcosh],
            Self::RmseGl => &[rmse, gl],
            Self::RmseBellLogcosh => &[rmse, bell, logcosh],
            Self::RmseBellGl => &[rmse, bell, gl],
            Self::BellLogcosh => &[bell, logcosh],
            Self::BellGl => &[bell, gl],
            Self::BellLogcoshGl => &[bell, logcosh, gl],
            Self::LogcoshGl => &[logcosh, gl],
        }
    }
}

type Term = fn(&Tensor, &Tensor) -> Result<Tensor>;

/// Added to the denominator of the correlation inside, as the reference does.
const CORRELATION_EPS: f64 = 1e-8;

/// Without spread on one side, the gradient is that without [`CORRELATION_EPS`]; the reference's is
/// NaN, which would end a training.
fn ccc(truth: &Tensor, prediction: &Tensor) -> Result<Tensor> {
    let truth = truth.flatten_all()?;
    let prediction = prediction.flatten_all()?;
    let degrees_of_freedom = truth.elem_count() as f64 - 1.0;
    let (truth_mean, prediction_mean) = (truth.mean_all()?, prediction.mean_all()?);
    let truth = truth.broadcast_sub(&truth_mean)?;
    let prediction = prediction.broadcast_sub(&prediction_mean)?;
    let over_freedom = |sum: Tensor| sum / degrees_of_freedom;
    let covariance = over_freedom((&truth * &prediction)?.sum_all()?)?;
    let (truth_squares, prediction_squares) =
        (truth.sqr()?.sum_all()?, prediction.sqr()?.sum_all()?);
    let variances = over_freedom((&truth_squares + &prediction_squares)?)?;
    let shift = (truth_mean - prediction_mean)?.sqr()?;
    let has_spread = truth_squares.minimum(&prediction_squares)?.gt(0f64)?;
    let ones = truth_squares.ones_like()?;
    let root = |squares: &Tensor| has_spread.where_cond(squares, &ones)?.sqrt();
    let spread = (root(&truth_squares)? * root(&prediction_squares)?)?;
    let share = has_spread.where_cond(&(&spread / (&spread + CORRELATION_EPS)?)?, &ones)?;
    let covariance = (covariance * share)?;
    1.0 - ((covariance * 2.0)? / (variances + shift)?)?
}

fn mae(truth: &Tensor, prediction: &Tensor) -> Result<Tensor> {
    absolute(&(prediction - truth)?)?.mean_all()
}

fn mse(truth: &Tensor, prediction: &Tensor) -> Result<Tensor> {
    (prediction - truth)?.sqr()?.mean_all()
}

fn rmse(truth: &Tensor, prediction: &Tensor) -> Result<Tensor> {
    mse(truth, prediction)?.sqrt()
}

/// As `abs(d) + ln(1 + exp(-2 abs(d))) - ln(2)`: the literal form overflows above 89.
fn logcosh(truth: &Tensor, prediction: &Tensor) -> Result<Tensor> {
    let distance = absolute(&(prediction - truth)?)?;
    let tail = ((&distance * -2.0)?.exp()? + 1.0)?.log()?;
    ((distance + tail)? - std::f64::consts::LN_2)?.mean_all()
}

fn bell(truth: &Tensor, prediction: &Tensor) -> Result<Tensor> {
    saturating(truth, prediction, 300.0, 162.0)
}

fn gl(truth: &Tensor, prediction: &Tensor) -> Result<Tensor> {
    saturating(truth, prediction, 600.0, 64.0)
}

/// Mean of `height (1 - exp(-d^2 / width))`.
fn saturating(truth: &Tensor, prediction: &Tensor, height: f64, width: f64) -> Result<Tensor> {
    let kernel = ((prediction - truth)?.sqr()? / -width)?.exp()?;
    ((1.0 - kernel)? * height)?.mean_all()
}

/// Absolute value with the gradient 0 at 0 and at NaN, where Candle's own has 1 and -1.
pub(crate) fn absolute(x: &Tensor) -> Result<Tensor> {
    x * x.detach().sign()?
}

#[cfg(test)]
mod tests {
    use candle::{Device, Var};
    use proptest::prelude::*;

    use super::*;

    fn value(loss: PersonalityLoss, truth: &[f32], prediction: &[f32]) -> f32 {
        let tensor = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap();
        loss.between(&tensor(truth), &tensor(prediction)).unwrap().to_scalar().unwrap()
    }

    #[test]
    fn constant_predictions_have_a_finite_gradient() -> Result<()> {
        let truth = Tensor::new(&[0.1f32, 0.5, 0.9], &Device::Cpu)?;
        let prediction = Var::new(&[0.4f32, 0.4, 0.4], &Device::Cpu)?;
        let loss = PersonalityLoss::Ccc.between(&truth, &prediction)?;
        let gradients = loss.backward()?;
        let gradient: Vec<f32> = gradients.get(&prediction).unwrap().to_vec1()?;
        assert!(gradient.iter().all(|slope| slope.is_finite()), "{gradient:?}");
        Ok(())
    }

    #[test]
    fn names_are_those_of_the_reference() {
        let names: Vec<String> = PersonalityLoss::ALL
            .iter()
            .map(|loss| serde_json::to_value(loss).unwrap().as_str().unwrap().to_owned())
            .collect();
        assert_eq!(names[0], "ccc");
        assert_eq!(names[14], "bell_logcosh_gl");
        assert_eq!(names[15], "logcosh_gl");
    }

    #[test]
    fn the_gradient_is_that_of_finite_differences() -> Result<()> {
        let truth = [0.2f32, 0.7, 0.4, 0.9, 0.05];
        let start = [0.6f32, 0.3, 0.45, 0.1, 0.5];
        for loss in PersonalityLoss::ALL {
            let prediction = Var::new(&start, &Device::Cpu)?;
            let gradients =
                loss.between(&Tensor::new(&truth, &Device::Cpu)?, &prediction)?.backward()?;
            let gradient: Vec<f32> = gradients.get(&prediction).unwrap().to_vec1()?;
            for (index, slope) in gradient.into_iter().enumerate() {
                let moved = |step: f32| {
                    let mut prediction = start;
                    prediction[index] += step;
                    value(loss, &truth, &prediction)
                };
                let difference = (moved(0.01) - moved(-0.01)) / 0.02;
                assert!((slope - difference).abs() < 5e-3, "{loss:?}: {slope} is not {difference}");
            }
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn finite_input_gives_a_finite_symmetric_loss(
            pairs in prop::collection::vec((-1e6f32..1e6, -1e6f32..1e6), 2..20)
        ) {
            let (truth, prediction): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            for loss in PersonalityLoss::ALL {
                let found = value(loss, &truth, &prediction);
                prop_assert!(found.is_finite(), "{loss:?} gives {found}");
                prop_assert!(found >= -1e-6, "{loss:?} gives {found}");
                let swapped = value(loss, &prediction, &truth);
                prop_assert!((found - swapped).abs() <= 1e-5 * found.abs().max(1.0));
            }
        }
    }
}

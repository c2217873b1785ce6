//! Weight gradients as pairs of factors.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, ThreadId};

use candle::{Tensor, TensorId};

use crate::kernels::cpu::autograd::FactorSink;

/// Record of the factors of weight gradients that layers produce during a backward pass.
///
/// The gradient of a weight `(outputs, inputs)` over a batch of `rows` is the matrix product of
/// `(outputs, rows)` and `(rows, inputs)`, both much smaller than the gradient when rows are few.
/// Norms and weighted sums of the gradients of several losses follow from the factors without the
/// full matrices: `TapedGradients` in the losses of `meptr-train`.
///
/// Clones share their content; backward passes on several threads do not mix. A weight used with a
/// tape gets no gradient from Candle's backward pass.
#[derive(Debug, Clone, Default)]
pub struct GradientTape(Arc<TapeState>);

#[derive(Debug, Default)]
struct TapeState {
    factors: Mutex<Vec<(ThreadId, GradientFactors)>>,
    calls: AtomicUsize,
}

/// A term of a weight's gradient, `output_gradient^T input`.
#[derive(Debug, Clone)]
pub struct GradientFactors {
    /// Weight and forward call that the term belongs to.
    pub weight_use: WeightUse,
    /// Input of the layer, `(rows, inputs)`.
    pub input: Tensor,
    /// Gradient of the layer's output, `(rows, outputs)`.
    pub output_gradient: Tensor,
}

/// Use of a weight in a forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WeightUse {
    /// The variable.
    pub weight: TensorId,
    /// First row of the variable that the layer used; there are as many as outputs.
    pub first_row: usize,
    /// Number of the forward call; terms with equal numbers have the same input.
    pub call: usize,
}

impl GradientTape {
    /// Takes the factors that backward passes of this thread recorded since its last call, in their
    /// order.
    pub fn take(&self) -> Vec<GradientFactors> {
        let thread = thread::current().id();
        let mut factors = self.0.factors.lock().unwrap_or_else(PoisonError::into_inner);
        factors.extract_if(.., |(by, _)| *by == thread).map(|(_, factors)| factors).collect()
    }

    /// Recorder for one use of a weight, its rows from `first_row` on.
    pub(crate) fn sink(&self, weight: &Tensor, first_row: usize) -> FactorSink {
        let call = self.0.calls.fetch_add(1, Ordering::Relaxed);
        let (tape, weight_use) = (self.clone(), WeightUse { weight: weight.id(), first_row, call });
        Box::new(move |input, output_gradient| {
            tape.record(GradientFactors { weight_use, input, output_gradient });
        })
    }

    fn record(&self, factors: GradientFactors) {
        let mut all = self.0.factors.lock().unwrap_or_else(PoisonError::into_inner);
        all.push((thread::current().id(), factors));
    }
}

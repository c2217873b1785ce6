//! Gradients of weights as the two factors they are products of.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, ThreadId};

use candle::{Tensor, TensorId};

/// Where layers leave the factors of their weights' gradients during a backward pass.
///
/// The gradient of a weight `(outputs, inputs)` over a batch of `rows` is a product of a matrix
/// `(outputs, rows)` and one `(rows, inputs)`, both much smaller than it as long as rows are few.
/// Norms and weighted sums of the gradients of several losses follow from the factors without
/// these matrices; see `loss::grad_norm` of `meptr-train`.
///
/// Clones share what they hold; backward passes on several threads do not mix. A weight used on a tape gets no gradient from Candle's backward
/// pass.
#[derive(Debug, Clone, Default)]
pub struct Tape(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    products: Mutex<Vec<(ThreadId, Product)>>,
    calls: AtomicUsize,
}

/// A term of a weight's gradient, `output_gradient^T input`.
#[derive(Debug, Clone)]
pub struct Product {
    /// Which weight.
    pub place: Place,
    /// `(rows, inputs)`: what the layer read.
    pub input: Tensor,
    /// `(rows, outputs)`: the gradient of what it gave.
    pub output_gradient: Tensor,
}

/// The use of a weight in a forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The variable.
    pub weight: TensorId,
    /// First of the variable's rows that the layer used; there are as many as outputs.
    pub first_row: usize,
    /// Number of the use; with the same number, the input is the same.
    pub call: usize,
}

impl Place {
    pub(super) fn with(self, input: Tensor, output_gradient: Tensor) -> Product {
        Product { place: self, input, output_gradient }
    }
}

impl Tape {
    /// What backward passes of this thread have left since its last call, in their order.
    pub fn take(&self) -> Vec<Product> {
        let thread = thread::current().id();
        let mut products = self.0.products.lock().unwrap_or_else(PoisonError::into_inner);
        products.extract_if(.., |(by, _)| *by == thread).map(|(_, product)| product).collect()
    }

    pub(super) fn keep(&self, product: Product) {
        self.0
            .products
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((thread::current().id(), product));
    }

    pub(super) fn place(&self, weight: &Tensor, first_row: usize) -> Place {
        let call = self.0.calls.fetch_add(1, Ordering::Relaxed);
        Place { weight: weight.id(), first_row, call }
    }
}

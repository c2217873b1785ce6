//! Layers with gradients, shared by prediction and training.
//!
//! Every layer is made of operations that carry gradients. Candle's fused layer norm and softmax
//! do not (they return tensors without a backward link, and do not complain), so none of them
//! appears here; on the CPU the fused operations of [`kernels::cpu`](crate::kernels::cpu) do.
//! All tensors are f32; none leaves the device during a forward pass.

mod attention;
mod gradient_tape;
mod graph_attention;
mod layer_norm;
mod linear;
mod mamba;
mod mode;
pub mod ops;
mod transformer;

pub use attention::{AttentionMemory, MultiHeadAttention};
pub use gradient_tape::{GradientFactors, GradientTape, WeightUse};
pub use graph_attention::GraphAttention;
pub use layer_norm::LayerNorm;
pub use linear::Linear;
pub use mamba::MambaBlock;
pub use mode::Mode;
pub use transformer::{TransformerLayer, TransformerLayerConfig};

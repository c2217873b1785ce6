//! Layers with gradients, shared by prediction and training.
//!
//! Every layer is made of operations that carry gradients. Candle's fused layer norm and softmax
//! do not (they return tensors without a backward link, and do not complain), so none of them
//! appears here; on the processor, fused ones of our own do.
//! All tensors are f32; nothing leaves the device during a forward pass.

mod attention;
mod fused;
mod graph_attention;
mod host;
mod layer_norm;
mod linear;
mod mamba;
mod mode;
pub mod ops;
mod product;
mod tape;
mod transformer;

pub use attention::{AttentionMemory, MultiHeadAttention};
pub use graph_attention::GraphAttention;
pub use layer_norm::LayerNorm;
pub use linear::Linear;
pub use mamba::MambaBlock;
pub use mode::Mode;
pub use product::product;
pub use tape::{Place, Product, Tape};
pub use transformer::{TransformerLayer, TransformerLayerConfig};

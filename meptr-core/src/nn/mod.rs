//! Layers with gradients, shared by prediction and training.

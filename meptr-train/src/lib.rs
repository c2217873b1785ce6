//! From stored features to trained weights.

//! The binary `meptr`, driven as a user would, on clips that the tests write.

mod bad_input;
mod predict;
mod stopping;
mod support;
mod weights;

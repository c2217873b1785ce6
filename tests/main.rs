//! The binary `meptr`, driven as a user would.

mod extract;

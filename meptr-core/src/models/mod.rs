//! The models of the three stages.

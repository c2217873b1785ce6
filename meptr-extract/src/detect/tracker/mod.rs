//! Tracking of detections from frame to frame.
//!
//! BoT-SORT as ultralytics 8.3.177 runs it by default: Aharon et al. 2022, "BoT-SORT: Robust
//! Associations Multi-Pedestrian Tracking", <https://arxiv.org/abs/2206.14651>, without appearance
//! features; two rounds of association as in ByteTrack, <https://arxiv.org/abs/2110.06864>.

mod assignment;
mod bot_sort;
pub mod camera;
mod kalman;

pub use bot_sort::{BotSort, BotSortConfig, TrackedBox};
pub use kalman::Warp;

pub(super) use assignment::assign;

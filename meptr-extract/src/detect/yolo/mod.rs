//! YOLOv8, the anchor-free single-shot detector of Ultralytics, in any of its sizes.
//!
//! Source: the model description `yolov8.yaml` of ultralytics 8.3.177. Weights come under the names
//! of that package (`model.0.conv.weight`) or of the published conversions for Candle
//! (`net.b1.0.conv.weight`); BatchNorm is folded into the convolutions at load.

mod config;
mod layers;
mod letterbox;
mod names;
mod network;

pub use config::YoloConfig;
pub use letterbox::YoloLetterbox;
pub use names::may_be_left;
pub use network::Yolo;

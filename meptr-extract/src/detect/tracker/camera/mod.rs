//! Motion of the camera from one frame to the next.
//!
//! Corners of the last frame are tracked into this one. The translation, rotation and scale that most
//! of them agree on is that of the camera; objects that move on their own are outliers. This is the
//! `sparseOptFlow` of Ultralytics 8.3.177 (`trackers/utils/gmc.py`, on images of half the size,
//! the default of `botsort.yaml`), which calls OpenCV. Rules and fixed-point arithmetic are
//! OpenCV's, so warps agree within 1e-4 pixel.

mod corners;
mod flow;
mod grey;
mod motion;
mod similarity;

pub use corners::corners;
pub use flow::{Pyramid, flow};
pub use grey::GreyImage;
pub use motion::CameraMotion;
pub use similarity::similarity;

//! How the camera moved from one frame to the next.
//!
//! Corners of the last frame are looked for in this one, and the shift, turn and zoom that most of
//! them agree on is the camera's; things that move on their own are outvoted. This is the
//! `sparseOptFlow` of Ultralytics 8.3.177 (`trackers/utils/gmc.py`, on pictures of half the size,
//! the default of `botsort.yaml`), which calls OpenCV: the same rules with the same numbers, so
//! that warps agree within 1e-4 pixel.

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

//! Who is in a picture: faces, bodies and the regions of a frame that the backbones look at.

pub mod blazeface;
mod body;
mod convolution;
mod crop;
mod detector;
mod face;
mod nms;
mod person_linking;
mod scaling;
pub mod tracker;
pub mod yolo;

pub use body::{BodyConfig, BodyDetector, PersonClass, persons};
pub use crop::{Crop, CropSource, FrameBoxes, PixelBox, crops};
pub use detector::{BoundingBox, Detection, Detector};
pub use face::{FaceDetector, FaceModel};
pub use nms::{merge_overlaps, suppress_overlaps};
pub use person_linking::{Crowd, Person, Sighting, largest_person, people};

//! Who is in a picture: faces, bodies and the regions of a frame that the backbones look at.

pub mod blazeface;
mod body;
mod crop;
mod detector;
mod face;
mod people;
mod scaling;
mod suppression;
pub mod tracker;
pub mod yolo;

pub use body::{BodyConfig, BodyDetector, PersonClass, persons};
pub use crop::{Crop, CropSource, FrameBoxes, crops};
pub use detector::{BoundingBox, Detection, Detector};
pub use face::{FaceDetector, FaceModel};
pub use people::{Crowd, Person, Sighting, largest_person, people};
pub use suppression::{merge_overlaps, suppress_overlaps};

//! Detection of faces and bodies, tracking, crops, and linking of crops to persons.

pub mod blazeface;
mod body;
mod crop;
mod detector;
mod face;
mod nms;
mod person_linking;
mod scaling;
pub mod tracker;
pub mod yolo;

pub use body::{BodyConfig, BodyDetector, PersonClass, persons};
pub use crop::{Crop, CropSource, FrameBoxes};
pub use detector::{BoundingBox, Detection, Detector};
pub use face::{FaceDetector, FaceModel};
pub use nms::{nms, weighted_nms};
pub use person_linking::{Appearance, Person, PersonLinker, largest_person, link_persons};

//! Creation of weight bundles: from parts of the Hub and converted files ([`assemble()`]), or from seeded
//! random weights ([`init_bundle`]).

mod assemble;
mod backbone_folder;
mod face_detector;
mod model_file;
mod preset;
mod random;
mod staging;
mod tokenizer;

pub use assemble::{Source, Sources, assemble};
pub use backbone_folder::{FolderKind, check_folder};
pub use model_file::kind_and_config;
pub use preset::Preset;
pub use random::init_bundle;

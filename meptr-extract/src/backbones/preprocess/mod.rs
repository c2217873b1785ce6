//! Preprocessing: from images, audio and text to the inputs of the backbones.

mod bert;
mod clip;
mod wav2vec2;

pub use bert::BertTokenizer;
pub(crate) use bert::read_tokenizer;
pub use clip::ClipPreprocessor;
pub use wav2vec2::Wav2Vec2Preprocessor;

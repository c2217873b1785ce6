//! The five modalities, and one value for each of them.

use std::ops::{Index, IndexMut};

use serde::{Deserialize, Serialize};

/// Channel through which a person is seen or heard. The order is fixed: that of every weight file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Modality {
    /// Crops of bodies, through CLIP.
    Body,
    /// Crops of faces, through CLIP.
    Face,
    /// Whole frames, through CLIP.
    Scene,
    /// The sound track, through Wav2Vec2.
    Audio,
    /// Spoken words, through BERT.
    Text,
}

impl Modality {
    /// Number of modalities.
    pub const COUNT: usize = 5;

    /// All modalities, in order.
    pub const ALL: [Self; Self::COUNT] =
        [Self::Body, Self::Face, Self::Scene, Self::Audio, Self::Text];

    /// The modality of a [`name`](Self::name).
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|modality| modality.name() == name)
    }

    /// Name in lower case, as in weight files and results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Body => "body",
            Self::Face => "face",
            Self::Scene => "scene",
            Self::Audio => "audio",
            Self::Text => "text",
        }
    }
}

impl std::fmt::Display for Modality {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// One `T` for each modality; as JSON, an object with the modalities' names as keys.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // the names say it
pub struct PerModality<T> {
    pub body: T,
    pub face: T,
    pub scene: T,
    pub audio: T,
    pub text: T,
}

impl<T> PerModality<T> {
    /// Makes each value from its modality.
    pub fn from_fn(mut make: impl FnMut(Modality) -> T) -> Self {
        Self {
            body: make(Modality::Body),
            face: make(Modality::Face),
            scene: make(Modality::Scene),
            audio: make(Modality::Audio),
            text: make(Modality::Text),
        }
    }

    /// Makes each value from its modality, up to the first failure.
    ///
    /// # Errors
    /// The first one `make` returns.
    pub fn try_from_fn<E>(mut make: impl FnMut(Modality) -> Result<T, E>) -> Result<Self, E> {
        Ok(Self {
            body: make(Modality::Body)?,
            face: make(Modality::Face)?,
            scene: make(Modality::Scene)?,
            audio: make(Modality::Audio)?,
            text: make(Modality::Text)?,
        })
    }

    /// Makes each value from its modality and another value, in the fixed order.
    pub fn map<U>(self, mut make: impl FnMut(Modality, T) -> U) -> PerModality<U> {
        PerModality {
            body: make(Modality::Body, self.body),
            face: make(Modality::Face, self.face),
            scene: make(Modality::Scene, self.scene),
            audio: make(Modality::Audio, self.audio),
            text: make(Modality::Text, self.text),
        }
    }

    /// Modalities with their values, in the fixed order.
    pub fn iter(&self) -> impl Iterator<Item = (Modality, &T)> {
        Modality::ALL.into_iter().map(|modality| (modality, &self[modality]))
    }
}

impl<T> Index<Modality> for PerModality<T> {
    type Output = T;

    fn index(&self, modality: Modality) -> &T {
        match modality {
            Modality::Body => &self.body,
            Modality::Face => &self.face,
            Modality::Scene => &self.scene,
            Modality::Audio => &self.audio,
            Modality::Text => &self.text,
        }
    }
}

impl<T> IndexMut<Modality> for PerModality<T> {
    fn index_mut(&mut self, modality: Modality) -> &mut T {
        match modality {
            Modality::Body => &mut self.body,
            Modality::Face => &mut self.face,
            Modality::Scene => &mut self.scene,
            Modality::Audio => &mut self.audio,
            Modality::Text => &mut self.text,
        }
    }
}

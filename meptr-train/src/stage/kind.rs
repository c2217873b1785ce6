//! Names of the three training stages.

use serde::Serialize;

/// A training stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// One modality, one task.
    Stage1,
    /// One modality, both tasks.
    Stage2,
    /// All modalities.
    Stage3,
}

impl Stage {
    /// All stages, in order.
    pub const ALL: [Self; 3] = [Self::Stage1, Self::Stage2, Self::Stage3];

    /// Name in reports, and of the stage's folder in a run.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stage1 => "stage1",
            Self::Stage2 => "stage2",
            Self::Stage3 => "stage3",
        }
    }
}

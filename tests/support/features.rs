//! Two small corpora whose features are made up, in a store as if the demo weights had made them.
//!
//! The first has emotion labels, the second traits. Every clip has one emotion and one level of all
//! traits, which its features tell in one number each, under noise.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use candle::{Device, Tensor};
use meptr_core::rng::{RandomStream, SeedStreams};
use meptr_core::store::{
    Provenance, SequenceRecord, SourceFile, Storage, Store, VideoRecord, weights_digests,
    write_features,
};
use meptr_core::{Bundle, Emotion, Modality, PerModality, PersonalityTrait};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../weights/demo");

/// Splits with their numbers of clips.
const SPLITS: [(&str, usize); 3] = [("train", 28), ("dev", 14), ("test", 14)];

/// Corpora, store and whatever else a test puts there.
pub(crate) struct Features {
    folder: PathBuf,
    lacking: Option<Modality>,
    /// Takes the folder away.
    _guard: Option<tempfile::TempDir>,
}

impl Features {
    /// In a folder that goes away with the test.
    pub(crate) fn new() -> Result<Self> {
        Self::without(None)
    }

    /// Features of clips that all lack a modality.
    pub(crate) fn without(lacking: Option<Modality>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        Self { folder: folder.path().to_owned(), lacking, _guard: Some(folder) }.filled()
    }

    /// In a folder that stays until the tests run again, for several tests.
    pub(crate) fn shared() -> Result<Self> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("training");
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => std::fs::create_dir_all(&folder)?,
        }
        Self { folder, lacking: None, _guard: None }.filled()
    }

    fn filled(self) -> Result<Self> {
        let features = self;
        let demo = Bundle::open(DEMO.as_ref())?;
        let weights = weights_digests(demo.manifest());
        let widths = PerModality::from_fn(|modality| {
            demo.manifest().parts.heads[modality].config.input_width()
        });
        for corpus in ["moods", "traits"] {
            let mut toml = format!("name = \"{corpus}\"\nbase = \"{corpus}\"\n[splits]\n");
            std::fs::create_dir_all(features.at(corpus))?;
            for (split, count) in SPLITS {
                toml += &format!("{split} = \"{split}.csv\"\n");
                let mut tables = [head(true), head(false)];
                for number in 0..count {
                    let clip = Clip::new(corpus, split, number);
                    tables[0] += &clip.row(true);
                    tables[1] += &clip.row(false);
                    features.write(corpus, split, &clip, &weights, &widths)?;
                }
                let [moods, traits] = tables;
                let (own, hidden) =
                    if corpus == "moods" { (moods, traits) } else { (traits, moods) };
                std::fs::write(features.at(&format!("{corpus}/{split}.csv")), own)?;
                std::fs::write(features.at(&format!("{corpus}/hidden-{split}.csv")), hidden)?;
            }
            std::fs::write(features.at(&format!("{corpus}.toml")), toml)?;
        }
        std::fs::write(features.at("train.toml"), EXPERIMENT)?;
        Ok(features)
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Path of the features of a clip.
    pub(crate) fn stored(&self, corpus: &str, split: &str, number: usize) -> PathBuf {
        Store::at(self.at("store")).path(corpus, split, &name(split, number))
    }

    fn write(
        &self,
        corpus: &str,
        split: &str,
        clip: &Clip,
        weights: &BTreeMap<String, String>,
        widths: &PerModality<usize>,
    ) -> Result<()> {
        let path = Store::at(self.at("store")).path(corpus, split, &clip.name);
        let seeds = SeedStreams::new(1);
        let mut noise = seeds.stream(&format!("{corpus} {split} {}", clip.name));
        // One clip in seven says nothing.
        let is_there = |modality| {
            self.lacking != Some(modality) && (modality != Modality::Text || clip.number % 7 != 3)
        };
        let steps = 2 + clip.number % 2;
        let record = VideoRecord {
            schema: VideoRecord::SCHEMA.to_owned(),
            video: clip.name.clone(),
            provenance: Provenance {
                video: SourceFile { bytes: 1, modified_ns: None, sha256: String::new() },
                audio: None,
                text_sha256: None,
                weights: weights.clone(),
                settings_sha256: String::new(),
            },
            duration_seconds: 1.0,
            frames: Vec::new(),
            modalities: PerModality::from_fn(|modality| match is_there(modality) {
                true => SequenceRecord { pieces: vec![steps], ..SequenceRecord::default() },
                false => SequenceRecord::absent("silence"),
            }),
        };
        let sequences = PerModality::try_from_fn(|modality| {
            let sequence = clip.sequence(steps, widths[modality], &mut noise)?;
            Ok::<_, anyhow::Error>(is_there(modality).then_some(sequence))
        })?;
        write_features(&path, &record, &sequences, Storage::F32)?;
        Ok(())
    }
}

struct Clip {
    name: String,
    number: usize,
    emotion: usize,
    level: f32,
}

impl Clip {
    fn new(corpus: &str, split: &str, number: usize) -> Self {
        let shift = corpus.len() + split.len();
        let level = ((number * 3 + shift) % 10) as f32 / 9.0;
        let emotion = (number + shift) % Emotion::COUNT;
        Self { name: name(split, number), number, emotion, level }
    }

    fn sequence(&self, steps: usize, width: usize, noise: &mut RandomStream) -> Result<Tensor> {
        let mut values = Vec::new();
        for _ in 0..steps {
            for place in 0..width {
                let signal = match place {
                    place if place == self.emotion => 2.0,
                    Emotion::COUNT => self.level * 3.0,
                    _ => 0.0,
                };
                values.push(signal + 0.3 * noise.normal() as f32);
            }
        }
        Ok(Tensor::from_vec(values, (steps, width), &Device::Cpu)?)
    }

    fn row(&self, has_emotions: bool) -> String {
        let labels: Vec<String> = match has_emotions {
            true => {
                (0..Emotion::COUNT).map(|one| u8::from(one == self.emotion).to_string()).collect()
            }
            false => vec![self.level.to_string(); PersonalityTrait::COUNT],
        };
        format!("{},said,{}\n", self.name, labels.join(","))
    }
}

fn name(split: &str, number: usize) -> String {
    format!("{split}-{number}")
}

fn head(has_emotions: bool) -> String {
    let names: Vec<String> = match has_emotions {
        true => Emotion::ALL.map(|one| one.name().to_owned()).to_vec(),
        false => PersonalityTrait::ALL.map(|one| one.name().to_lowercase()).to_vec(),
    };
    format!("video_name,text,{}\n", names.join(","))
}

/// Narrow models, few epochs.
const EXPERIMENT: &str = "\
store = \"store\"
corpora = [\"moods.toml\", \"traits.toml\"]
[stage1]
models.width_divisor = 32
training = { max_epochs = 3, batch_size = 8, learning_rate = 0.01 }
[stage2]
models.width_divisor = 32
training = { max_epochs = 3, batch_size = 8, learning_rate = 0.01 }
[stage3]
model = { hidden_dim = 16, num_heads = 2, dropout = 0.1 }
training = { max_epochs = 12, batch_size = 16, learning_rate = 0.01 }
";

//! The model card of a bundle, as the Hugging Face Hub shows it.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::manifest::{Manifest, Origin, TrainingStatus};

/// What a card says that the manifest does not.
#[derive(Debug, Clone, Default)]
pub struct CardOptions {
    /// `OWNER/NAME` under which the bundle will be published.
    pub repository: Option<String>,
    /// What was measured (metric and data), and the result.
    pub scores: Vec<(String, String)>,
}

const INTENDED_USE: &str = "\
For research on how such systems behave, on recordings whose makers and subjects agreed to it.
Apparent emotions and apparent personality are what raters said they saw, not what a person feels or
is; errors differ between groups of people. Do not use results to decide anything about a person.

**In the European Union, inferring emotions of people at work and in education is prohibited**
(Regulation (EU) 2024/1689, Article 5(1)(f)), except for medical or safety reasons; other emotion
recognition is high-risk, and people must be told that it is in use (Article 50(3)).
";

/// The text of `README.md`: what the bundle is and is worth, its parts with their licences, scores,
/// use, and what it must not be used for.
pub fn model_card(manifest: &Manifest, options: &CardOptions) -> String {
    let mut card = front_matter(manifest);
    let standing = match manifest.status {
        TrainingStatus::Untrained => "**Untrained: random numbers. Results mean nothing.**\n\n",
        TrainingStatus::Demonstration => {
            "**Trained on synthetic data. Results mean nothing about people.**\n\n"
        }
        TrainingStatus::Trained => "",
    };
    let Manifest { name, about, .. } = manifest;
    let _ = writeln!(card, "# {name}\n\n{about}\n\n{standing}## Intended use\n\n{INTENDED_USE}");
    card.push_str(&usage(options.repository.as_deref().unwrap_or("OWNER/NAME")));
    card.push_str(&parts(manifest));
    card.push_str("## Scores\n\n");
    if options.scores.is_empty() {
        card.push_str("None were given.\n");
    } else {
        card.push_str("| measured | result |\n| --- | --- |\n");
        for (metric, value) in &options.scores {
            let _ = writeln!(card, "| {} | {} |", cell(metric), cell(value));
        }
    }
    card
}

fn front_matter(manifest: &Manifest) -> String {
    let origins = manifest.origins();
    let licences: BTreeSet<&str> =
        origins.iter().map(|(_, origin)| origin.licence.as_str()).collect();
    let licence = match licences.first().copied() {
        Some(one @ ("MIT" | "Apache-2.0" | "AGPL-3.0")) if licences.len() == 1 => {
            format!("license: {}\n", one.to_ascii_lowercase())
        }
        _ => "license: other\nlicense_name: by-part\nlicense_link: README.md\n".to_owned(),
    };
    let bases: BTreeSet<&str> =
        origins.iter().filter_map(|(_, origin)| hub_repository(origin)).collect();
    let mut text =
        format!("---\n{licence}library_name: meptr\npipeline_tag: video-classification\n");
    text.push_str("tags:\n- emotion-recognition\n- personality-traits\n- multimodal\n");
    if !bases.is_empty() {
        text.push_str("base_model:\n");
        bases.iter().for_each(|base| text.push_str(&format!("- {base}\n")));
    }
    text.push_str("---\n\n");
    text
}

/// `OWNER/NAME` of a part that was taken from the Hub.
fn hub_repository(origin: &Origin) -> Option<&str> {
    let (repository, commit) = origin.source.split_once('@')?;
    let is_name = |text: &str| {
        text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte))
    };
    (commit.len() == 40 && repository.contains('/') && is_name(repository)).then_some(repository)
}

fn usage(repository: &str) -> String {
    format!(
        "## Use\n\n```sh\nmeptr weights pull {repository}\n\
         meptr predict --weights {repository} video.mp4\n```\n\n"
    )
}

fn parts(manifest: &Manifest) -> String {
    let mut text = "## Parts and licences\n\n| part | model | from | licence |\n\
                    | --- | --- | --- | --- |\n"
        .to_owned();
    let origins = manifest.origins();
    for (part, origin) in &origins {
        let Origin { name, source, licence } = origin;
        let mark = if origin.is_non_commercial() { " (**non-commercial**)" } else { "" };
        let _ = writeln!(
            text,
            "| {part} | {} | {} | {}{mark} |",
            cell(name),
            cell(source),
            cell(licence)
        );
    }
    text.push_str(
        "\nEach part keeps its own licence; the bundle can be used as far as all of them allow.\n",
    );
    let limited = origins.iter().filter(|(_, origin)| origin.is_non_commercial());
    let limited: Vec<&str> = limited.map(|(part, _)| part.as_str()).collect();
    if !limited.is_empty() {
        let _ = writeln!(text, "**Not for commercial use**, because of: {}.", limited.join(", "));
    }
    let _ = writeln!(
        text,
        "\n`manifest.json` lists all files ({:.1} MB) with their SHA-256.\n",
        manifest.bytes() as f64 / 1e6
    );
    text
}

/// Text that cannot end a table's cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace(['\r', '\n'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demo() -> Manifest {
        let text = include_str!("../../../weights/demo/manifest.json");
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_card_names_licences_scores_and_what_is_forbidden() {
        let mut manifest = demo();
        let wav2vec2 = &mut manifest.parts.wav2vec2.origin;
        wav2vec2.licence = "CC-BY-NC-SA-4.0".to_owned();
        wav2vec2.source = format!("audeering/some-model@{}", "01".repeat(20));
        let scores = vec![("CCC | test".to_owned(), "0.4".to_owned())];
        let options = CardOptions { repository: Some("ann/heads".to_owned()), scores };
        let card = model_card(&manifest, &options);
        for expected in [
            "license: other\n",
            "base_model:\n- audeering/some-model\n",
            "meptr weights pull ann/heads\n",
            "CC-BY-NC-SA-4.0 (**non-commercial**) |",
            "**Not for commercial use**, because of: wav2vec2.",
            "| CCC \\| test | 0.4 |",
            "Article 5(1)(f)",
            "Trained on synthetic data. Results mean nothing about people",
        ] {
            assert!(card.contains(expected), "no {expected:?} in\n{card}");
        }
        assert!(model_card(&manifest, &CardOptions::default()).contains("None were given"));
    }
}

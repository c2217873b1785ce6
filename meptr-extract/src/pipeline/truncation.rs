//! Detection of files that end before their stated length.

use crate::decode::MediaInfo;

/// Note about a file whose frames and sound end much earlier than the container states: by more than
/// half a second and 2 %.
///
/// `last_cue` is the end of the last subtitle in seconds, which may be later than that of the frames
/// and the sound. Raw AAC is exempt, because FFmpeg only estimates its length; some containers count
/// the length from zero, not from the first timestamp.
pub(super) fn truncation_note(media: &MediaInfo, end: f64, last_cue: f64) -> Option<String> {
    let stated = media.duration_seconds.filter(|_| media.container != "aac")?;
    let missing = stated - media.start_seconds.max(0.0) - end.max(last_cue);
    (missing > 0.5 + 0.02 * stated).then(|| {
        format!(
            "the file states a length of {stated:.1} s, but its frames and sound end at {end:.1} s; \
             it may be cut off"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn media(container: &str, duration_seconds: Option<f64>, start_seconds: f64) -> MediaInfo {
        let container = container.to_owned();
        let (video, audio, subtitles) = (None, None, Vec::new());
        MediaInfo { container, duration_seconds, start_seconds, video, audio, subtitles }
    }

    fn note(container: &str, stated: f64, start: f64) -> Option<String> {
        truncation_note(&media(container, Some(stated), start), 3.0, 0.0)
    }

    #[test]
    fn much_less_than_the_container_states_is_told() {
        assert!(note("mp3", 8.0, 0.0).is_some_and(|note| note.contains("8.0 s")));
        assert_eq!(note("mp3", 3.4, 0.0), None);
        assert_eq!(note("matroska,webm", 3603.0, 3600.0), None, "it counts from zero");
        assert_eq!(note("aac", 8.0, 0.0), None, "an estimate");
        assert_eq!(truncation_note(&media("flv", None, 0.0), 3.0, 0.0), None);
        let late_subtitle = truncation_note(&media("flv", Some(8.0), 0.0), 3.0, 7.9);
        assert_eq!(late_subtitle, None, "a late subtitle");
    }
}

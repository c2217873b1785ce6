//! Transcription of clips of any length to segments with times: windows, languages, context.

use candle::Result;

use super::config::{HOP_SAMPLES, SAMPLE_RATE_HZ};
use super::decoding::{DecodingResult, DecodingTask, LogitsSource};
use super::{repetition, segment, tokens::SpecialTokens};

/// Encoder of windows of some clips: Whisper, or a script in tests.
pub(super) trait WindowEncoder {
    /// Decoder of encoded windows.
    type Source<'a>: LogitsSource
    where
        Self: 'a;

    /// Encodes windows, each given by its clip and its first frame.
    ///
    /// # Errors
    /// When the computation fails.
    fn encode(&self, windows: &[(usize, usize)]) -> Result<Self::Source<'_>>;
}

/// A segment as tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenSegment {
    /// From the start of the clip.
    pub start_seconds: f64,
    /// From the start of the clip, not before `start_seconds`.
    pub end_seconds: f64,
    /// Text and timestamps (the latter count from the start of the window).
    pub tokens: Vec<u32>,
    /// Mean natural log-probability per token of its window, at most 0.
    pub average_log_probability: f64,
    /// Probability that its window is silent, 0 to 1.
    pub no_speech_probability: f64,
}

/// Transcription of a clip, as tokens.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TokenTranscript {
    /// Token of the language; none for an English-only model, or if the clip is empty.
    pub language: Option<u32>,
    /// Segments by time.
    pub segments: Vec<TokenSegment>,
}

/// Transcribes clips of the given numbers of frames, each of 10 ms.
///
/// A clip is encoded in windows of `window_frames`, each starting where the last complete segment of
/// the one before ended; the first one decides the language unless it is given. Windows of different
/// clips are decoded together. Every window advances, so this ends with any output of the model.
///
/// # Errors
/// When the computation fails.
pub(super) fn transcribe_clips(
    encoder: &impl WindowEncoder,
    clip_frames: &[usize],
    window_frames: usize,
    language: Option<u32>,
    task: DecodingTask<'_>,
) -> Result<Vec<TokenTranscript>> {
    let start = |frames: &usize| Clip { frames: *frames, language, ..Clip::default() };
    let mut clips: Vec<Clip> = clip_frames.iter().map(start).collect();
    let config = task.config;
    let batch = if config.condition_on_previous_text { 1 } else { config.batch_size.max(1) };
    loop {
        let open = clips.iter().enumerate().filter(|(_, clip)| clip.seek < clip.frames);
        let open: Vec<usize> = open.map(|(index, _)| index).take(batch).collect();
        if open.is_empty() {
            break;
        }
        let windows: Vec<(usize, usize)> =
            open.iter().map(|index| (*index, clips[*index].seek)).collect();
        let mut source = encoder.encode(&windows)?;
        detect_languages(&mut source, task.tokens, &open, &mut clips)?;
        let prompts: Vec<Vec<u32>> = open.iter().map(|index| clips[*index].prompt(&task)).collect();
        let seeds: Vec<u64> = windows.iter().map(|(_, seek)| *seek as u64).collect();
        let results = task.decode(&mut source, &prompts, &seeds)?;
        for (index, result) in open.iter().zip(results) {
            clips[*index].add(result, window_frames, &task);
        }
    }
    Ok(clips.into_iter().map(|clip| clip.finish(&task)).collect())
}

/// Detects the language of every clip that has none yet: the most probable language token after the
/// start of the transcript, on its first window.
fn detect_languages(
    source: &mut impl LogitsSource,
    tokens: &SpecialTokens,
    open: &[usize],
    clips: &mut [Clip],
) -> Result<()> {
    let unknown: Vec<usize> =
        (0..open.len()).filter(|row| clips[open[*row]].language.is_none()).collect();
    if unknown.is_empty() || !tokens.is_multilingual() {
        return Ok(());
    }
    source.reset(&unknown)?;
    let logits = source.feed(&vec![vec![tokens.start_of_transcript]; unknown.len()])?;
    for (row, logits) in unknown.iter().zip(logits) {
        let logit = |token: u32| logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
        let mut languages: Vec<u32> = tokens.languages.values().copied().collect();
        languages.sort_unstable();
        let likelier =
            |best: u32, token: u32| if logit(token) > logit(best) { token } else { best };
        clips[open[*row]].language = languages.into_iter().reduce(likelier);
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Clip {
    frames: usize,
    seek: usize,
    language: Option<u32>,
    segments: Vec<TokenSegment>,
    context: Vec<u32>, // text of the windows before, for the prompt of the next
}

impl Clip {
    fn prompt(&self, task: &DecodingTask<'_>) -> Vec<u32> {
        let (tokens, config) = (task.tokens, task.config);
        let prompt = tokens.prompt(self.language, config.task, config.timestamps);
        match tokens.previous {
            Some(previous) if config.condition_on_previous_text && !self.context.is_empty() => {
                let most = (task.capacity / 2).saturating_sub(1);
                let context = &self.context[self.context.len().saturating_sub(most)..];
                [&[previous], context, &prompt[..]].concat()
            }
            _ => prompt,
        }
    }

    fn add(&mut self, result: DecodingResult, window_frames: usize, task: &DecodingTask<'_>) {
        let left = window_frames.min(self.frames - self.seek);
        let seconds = |frames: usize| (frames * HOP_SAMPLES) as f64 / SAMPLE_RATE_HZ as f64;
        // The next window may start where this one ends, so no time may lie beyond it.
        let (offset, end) = (seconds(self.seek), seconds(self.seek + left));
        if result.is_silence(task.config) {
            self.seek += left.max(1);
            return;
        }
        let (phrases, advance) =
            segment::split_phrases(&result.tokens, task.tokens.first_timestamp, left);
        for phrase in phrases {
            let start_seconds = (offset + phrase.start_seconds).min(end);
            self.context.extend(without_open_start(&phrase.tokens, task.tokens));
            self.segments.push(TokenSegment {
                start_seconds,
                end_seconds: (offset + phrase.end_seconds).min(end).max(start_seconds),
                tokens: phrase.tokens,
                average_log_probability: result.average_log_probability,
                no_speech_probability: result.no_speech_probability,
            });
        }
        if result.temperature > 0.5 {
            self.context.clear(); // text sampled at random would mislead the next window
        }
        self.seek += advance;
    }

    fn finish(self, task: &DecodingTask<'_>) -> TokenTranscript {
        let segments = match task.config.max_repeats {
            Some(max_repeats) => without_loops(self.segments, max_repeats, task.tokens),
            None => self.segments,
        };
        TokenTranscript { language: self.language, segments }
    }
}

/// Tokens of a segment that ends in a pair of timestamps, without the second one.
fn without_open_start<'a>(phrase: &'a [u32], tokens: &SpecialTokens) -> &'a [u32] {
    match phrase {
        [rest @ .., end, next]
            if !rest.is_empty() && tokens.is_timestamp(*end) && tokens.is_timestamp(*next) =>
        {
            &phrase[..phrase.len() - 1]
        }
        _ => phrase,
    }
}

/// Limits repetitions of a phrase at the end of a segment, and of equal segments in a row.
fn without_loops(
    mut segments: Vec<TokenSegment>,
    max_repeats: usize,
    tokens: &SpecialTokens,
) -> Vec<TokenSegment> {
    for segment in &mut segments {
        let is_time = |token: &&u32| tokens.is_timestamp(**token);
        let before = segment.tokens.iter().take_while(is_time).count();
        let after = segment.tokens[before..].iter().rev().take_while(is_time).count();
        let (rest, ending) = segment.tokens.split_at(segment.tokens.len() - after);
        let (start, text) = rest.split_at(before);
        segment.tokens = [start, repetition::shorten_loop(text, max_repeats), ending].concat();
    }
    let texts: Vec<Vec<u32>> =
        segments.iter().map(|segment| tokens.text_of(&segment.tokens)).collect();
    let keep = repetition::keep_in_row(&texts, max_repeats);
    segments.into_iter().zip(keep).filter_map(|(segment, keep)| keep.then_some(segment)).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use meptr_core::rng::{RandomStream, SeedStreams};
    use proptest::prelude::*;

    use super::super::config::TranscribeConfig;
    use super::super::decoding::tests::Scripted;
    use super::super::tokens::tests::tokens;
    use super::*;

    /// 1 s: 50 timestamps.
    const WINDOW: usize = 100;

    fn run<L: WindowEncoder>(
        encoder: &L,
        clips: &[usize],
        config: &TranscribeConfig,
    ) -> Vec<TokenTranscript> {
        let tokens = tokens();
        let bytes_of = |said: &[u32]| said.iter().map(|token| *token as u8).collect();
        let task = DecodingTask { tokens: &tokens, config, capacity: 64, bytes_of: &bytes_of };
        transcribe_clips(encoder, clips, WINDOW, Some(12), task).unwrap()
    }

    /// Gives window after window the next script, and records the windows.
    struct Script {
        windows: Vec<Vec<u32>>,
        encoded: RefCell<Vec<(usize, usize)>>,
    }

    impl WindowEncoder for Script {
        type Source<'a> = Scripted;

        fn encode(&self, windows: &[(usize, usize)]) -> Result<Scripted> {
            let mut encoded = self.encoded.borrow_mut();
            let said = |at: usize| self.windows.get(at).cloned().unwrap_or_default();
            let scripts = (0..windows.len()).map(|row| vec![said(encoded.len() + row)]).collect();
            encoded.extend(windows);
            Ok(Scripted::new(scripts))
        }
    }

    fn scripted(windows: &[&[u32]]) -> Script {
        let windows = windows.iter().map(|tokens| tokens.to_vec()).collect();
        Script { windows, encoded: RefCell::default() }
    }

    fn times(transcript: &TokenTranscript) -> Vec<(f64, f64)> {
        let hundredths = |seconds: f64| (seconds * 100.0).round() / 100.0;
        let times = |segment: &TokenSegment| {
            (hundredths(segment.start_seconds), hundredths(segment.end_seconds))
        };
        transcript.segments.iter().map(times).collect()
    }

    #[test]
    fn windows_start_where_the_last_whole_phrase_ended() {
        let encoder = scripted(&[&[18, 1, 48, 48, 2], &[18, 2, 58, 60, 3], &[18, 3, 68]]);
        let found = run(&encoder, &[240], &TranscribeConfig::default()).remove(0);
        assert_eq!(*encoder.encoded.borrow(), [(0, 0), (0, 60), (0, 140)]);
        assert_eq!(times(&found), [(0.0, 0.6), (0.6, 1.4), (1.4, 2.4)]);
        assert_eq!(found.language, Some(12));
    }

    #[test]
    fn times_stay_inside_the_clip() {
        let found = run(&scripted(&[&[18, 1, 90]]), &[30], &TranscribeConfig::default()).remove(0);
        assert_eq!(times(&found), [(0.0, 0.3)]);
    }

    #[test]
    fn clips_are_heard_together_up_to_the_batch_size_and_empty_ones_never() {
        let encoder = scripted(&[&[18, 1, 40], &[18, 2, 40], &[18, 3, 40]]);
        let config = TranscribeConfig { batch_size: 2, ..TranscribeConfig::default() };
        let found = run(&encoder, &[100, 0, 100, 50], &config);
        assert_eq!(*encoder.encoded.borrow(), [(0, 0), (2, 0), (3, 0)]);
        let counts: Vec<usize> = found.iter().map(|clip| clip.segments.len()).collect();
        assert_eq!(counts, [1, 0, 1, 1]);
    }

    #[test]
    fn a_phrase_said_over_and_over_is_limited() {
        let phrase: &[u32] = &[18, 7, 8, 60];
        let encoder = scripted(&[phrase; 9]);
        let config = TranscribeConfig { max_repeats: Some(2), ..TranscribeConfig::default() };
        let found = run(&encoder, &[900], &config).remove(0);
        assert_eq!(found.segments.len(), 2);
        let unlimited = TranscribeConfig { max_repeats: None, ..TranscribeConfig::default() };
        assert_eq!(run(&scripted(&[phrase; 9]), &[900], &unlimited)[0].segments.len(), 9);
    }

    #[test]
    fn the_text_before_is_shown_if_wanted_but_not_random_text() {
        let tokens = tokens();
        let config =
            TranscribeConfig { condition_on_previous_text: true, ..TranscribeConfig::default() };
        let bytes_of = |_: &[u32]| Vec::new();
        let task =
            DecodingTask { tokens: &tokens, config: &config, capacity: 8, bytes_of: &bytes_of };
        let mut clip = Clip { frames: 1000, language: Some(12), ..Clip::default() };
        let result = DecodingResult {
            tokens: vec![18, 1, 2, 40, 40],
            average_log_probability: 0.0,
            no_speech_probability: 0.0,
            compression_ratio: 1.0,
            temperature: 0.0,
        };
        assert_eq!(clip.prompt(&task), [11, 12, 14]);
        clip.add(result.clone(), WINDOW, &task);
        assert_eq!(clip.prompt(&task), [11, 1, 2, 40, 11, 12, 14]); // the last 8 / 2 - 1
        clip.add(DecodingResult { temperature: 0.6, ..result }, WINDOW, &task);
        assert_eq!(clip.prompt(&task), [11, 12, 14]);
    }

    /// Random logits, some of them NaN or infinite.
    struct Noise {
        seed: u64,
        spread: f32,
        windows: RefCell<usize>,
    }

    struct NoiseSource {
        random: RandomStream,
        spread: f32,
        rows: usize,
    }

    impl LogitsSource for NoiseSource {
        fn reset(&mut self, windows: &[usize]) -> Result<()> {
            self.rows = windows.len();
            Ok(())
        }

        fn feed(&mut self, _: &[Vec<u32>]) -> Result<Vec<Vec<f32>>> {
            let mut logit = || match (self.random.uniform() * 100.0) as u32 {
                0 => f32::NAN,
                1 => f32::NEG_INFINITY,
                2 if self.spread > 50.0 => f32::INFINITY,
                _ => (self.random.uniform() as f32 - 0.5) * self.spread,
            };
            Ok((0..self.rows).map(|_| (0..70).map(|_| logit()).collect()).collect())
        }
    }

    impl WindowEncoder for Noise {
        type Source<'a> = NoiseSource;

        fn encode(&self, windows: &[(usize, usize)]) -> Result<NoiseSource> {
            *self.windows.borrow_mut() += windows.len();
            let random = SeedStreams::new(self.seed).stream(&self.windows.borrow().to_string());
            Ok(NoiseSource { random, spread: self.spread, rows: 0 })
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_model_comes_to_an_end_with_times_in_order(
            seed in any::<u64>(),
            spread in prop::sample::select(vec![0.0f32, 1.0, 20.0, 100.0]),
            timestamps in any::<bool>(),
            conditioned in any::<bool>(),
            clips in prop::collection::vec(0usize..450, 1..4),
        ) {
            let encoder = Noise { seed, spread, windows: RefCell::new(0) };
            let config = TranscribeConfig {
                timestamps,
                condition_on_previous_text: conditioned,
                max_tokens: Some(12),
                seed,
                ..TranscribeConfig::default()
            };
            let found = run(&encoder, &clips, &config);
            prop_assert!(*encoder.windows.borrow() <= clips.iter().sum::<usize>());
            for (clip, frames) in found.iter().zip(&clips) {
                let end = *frames as f64 / 100.0;
                for segment in &clip.segments {
                    prop_assert!(0.0 <= segment.start_seconds && segment.end_seconds <= end);
                    prop_assert!(segment.start_seconds <= segment.end_seconds);
                }
                if timestamps {
                    let starts = clip.segments.windows(2);
                    prop_assert!(starts.into_iter().all(|two| two[0].start_seconds <= two[1].start_seconds));
                }
            }
        }
    }
}

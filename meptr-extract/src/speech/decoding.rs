//! Decoding of one batch of windows, at rising temperatures until a result passes the checks.

use std::io::Write;

use candle::Result;
use flate2::{Compression, write::ZlibEncoder};
use meptr_core::rng::{RandomStream, SeedStreams};

use super::config::TranscribeConfig;
use super::logit_filters::{LogitFilter, log_sum_exp};
use super::sampling::sample_token;
use super::{repetition, tokens::SpecialTokens};

/// Source of logits: Whisper over encoded windows, or a script in tests.
pub(super) trait LogitsSource {
    /// Clears all tokens; from now on row `i` decodes window `windows[i]`.
    ///
    /// # Errors
    /// When the computation fails.
    fn reset(&mut self, windows: &[usize]) -> Result<()>;

    /// Appends the same number of tokens, at least 1, to every row; returns each row's logits for the
    /// next token.
    ///
    /// # Errors
    /// When the computation fails.
    fn feed(&mut self, tokens: &[Vec<u32>]) -> Result<Vec<Vec<f32>>>;
}

impl LogitsSource for super::model::DecoderState<'_> {
    fn reset(&mut self, windows: &[usize]) -> Result<()> {
        Self::reset(self, windows)
    }

    fn feed(&mut self, tokens: &[Vec<u32>]) -> Result<Vec<Vec<f32>>> {
        Self::feed(self, tokens)
    }
}

/// Result of decoding one window, without prompt and end token.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct DecodingResult {
    /// Text and timestamps.
    pub(super) tokens: Vec<u32>,
    /// Mean natural log-probability per token, the end token included; as OpenAI counts, over one
    /// more than `tokens`.
    pub(super) average_log_probability: f64,
    /// Probability of silence, 0 to 1.
    pub(super) no_speech_probability: f64,
    /// Size of the text divided by its size after zlib.
    pub(super) compression_ratio: f64,
    /// Temperature of the result.
    pub(super) temperature: f64,
}

impl DecodingResult {
    /// Whether the window holds no speech: it is improbable by the model, and the text is poor.
    pub(super) fn is_silence(&self, config: &TranscribeConfig) -> bool {
        let above = |limit: f64| self.no_speech_probability > limit;
        let is_poor_text = config
            .min_average_log_probability
            .is_none_or(|limit| self.average_log_probability < limit);
        config.max_no_speech_probability.is_some_and(above) && is_poor_text
    }

    /// Whether the window is decoded again at the next temperature.
    fn has_failed(&self, tokens: &SpecialTokens, config: &TranscribeConfig) -> bool {
        let repeats = |limit| repetition::ends_in_loop(&tokens.text_of(&self.tokens), limit);
        let failed =
            config.max_compression_ratio.is_some_and(|limit| self.compression_ratio > limit)
                || config
                    .min_average_log_probability
                    .is_some_and(|limit| self.average_log_probability < limit)
                || config.max_repeats.is_some_and(repeats);
        failed && !self.is_silence(config)
    }
}

/// Model tokens and options with which a batch of windows is decoded.
#[derive(Clone, Copy)]
pub(super) struct DecodingTask<'a> {
    /// Special tokens of the model.
    pub(super) tokens: &'a SpecialTokens,
    /// Thresholds, temperatures, seed.
    pub(super) config: &'a TranscribeConfig,
    /// Capacity of the decoder in tokens, prompt included.
    pub(super) capacity: usize,
    /// Converts tokens to the bytes whose compression is measured.
    pub(super) bytes_of: &'a dyn Fn(&[u32]) -> Vec<u8>,
}

impl DecodingTask<'_> {
    /// Decodes windows 0, 1, ... from prompts of one length.
    ///
    /// `seeds` holds one number per window, so that the samples of a window do not depend on the other
    /// windows of the batch.
    ///
    /// # Errors
    /// When the computation fails.
    pub(super) fn decode(
        &self,
        source: &mut impl LogitsSource,
        prompts: &[Vec<u32>],
        seeds: &[u64],
    ) -> Result<Vec<DecodingResult>> {
        let mut accepted: Vec<Option<DecodingResult>> = vec![None; prompts.len()];
        let mut open: Vec<usize> = (0..prompts.len()).collect();
        for (number, temperature) in self.config.temperatures.iter().enumerate() {
            let rows: Vec<Row> = open
                .iter()
                .map(|window| {
                    let stream = format!("window-{}-temperature-{number}", seeds[*window]);
                    let random = SeedStreams::new(self.config.seed).stream(&stream);
                    Row::new(prompts[*window].clone(), random)
                })
                .collect();
            let attempts = self.decode_at(source, &open, rows, *temperature)?;
            for (window, attempt) in open.iter().zip(attempts) {
                accepted[*window] = Some(attempt);
            }
            open.retain(|window| {
                let attempt = accepted[*window].as_ref();
                attempt.is_some_and(|attempt| attempt.has_failed(self.tokens, self.config))
            });
            if open.is_empty() {
                break;
            }
        }
        accepted
            .into_iter()
            .collect::<Option<_>>()
            .ok_or_else(|| candle::Error::msg("there is no temperature"))
    }

    /// Decodes windows at one temperature.
    fn decode_at(
        &self,
        source: &mut impl LogitsSource,
        windows: &[usize],
        mut rows: Vec<Row>,
        temperature: f64,
    ) -> Result<Vec<DecodingResult>> {
        source.reset(windows)?;
        let mut logits = self.feed_prompts(source, &mut rows)?;
        let prompt = rows.iter().map(|row| row.prompt.len()).max().unwrap_or(0);
        let limit = self.config.max_tokens.unwrap_or(self.capacity / 2);
        let filter = LogitFilter { tokens: self.tokens, timestamps: self.config.timestamps };
        for left in (0..limit.min(self.capacity.saturating_sub(prompt))).rev() {
            for (row, logits) in rows.iter_mut().zip(&mut logits).filter(|(row, _)| !row.ended) {
                row.extend(&filter, logits, temperature);
            }
            if left == 0 || rows.iter().all(|row| row.ended) {
                break;
            }
            let last = |row: &Row| {
                if row.ended {
                    self.tokens.end
                } else {
                    *row.tokens.last().unwrap_or(&self.tokens.end)
                }
            };
            let next: Vec<Vec<u32>> = rows.iter().map(|row| vec![last(row)]).collect();
            logits = source.feed(&next)?;
        }
        Ok(rows.into_iter().map(|row| self.finish(row, temperature)).collect())
    }

    /// Appends the prompts, and sets the probability of silence; returns the logits of the first token.
    fn feed_prompts(
        &self,
        source: &mut impl LogitsSource,
        rows: &mut [Row],
    ) -> Result<Vec<Vec<f32>>> {
        let is_start = |token: &u32| *token == self.tokens.start_of_transcript;
        let start = rows.first().and_then(|row| row.prompt.iter().rposition(is_start));
        let split = start.map_or(1, |start| start + 1);
        let heads: Vec<Vec<u32>> = rows.iter().map(|row| row.prompt[..split].to_vec()).collect();
        let logits = source.feed(&heads)?;
        for (row, logits) in rows.iter_mut().zip(&logits) {
            let silence = logits.get(self.tokens.no_speech as usize).copied();
            let silence = f64::from(silence.unwrap_or(f32::NEG_INFINITY));
            row.no_speech_probability = (silence - log_sum_exp(logits)).exp().clamp(0.0, 1.0);
        }
        let tails: Vec<Vec<u32>> = rows.iter().map(|row| row.prompt[split..].to_vec()).collect();
        if tails.iter().all(Vec::is_empty) { Ok(logits) } else { source.feed(&tails) }
    }

    fn finish(&self, row: Row, temperature: f64) -> DecodingResult {
        DecodingResult {
            average_log_probability: row.log_probability / (row.tokens.len() + 1) as f64,
            no_speech_probability: row.no_speech_probability,
            compression_ratio: compression_ratio(&(self.bytes_of)(&row.tokens)),
            temperature,
            tokens: row.tokens,
        }
    }
}

/// State of decoding one window.
struct Row {
    prompt: Vec<u32>,
    random: RandomStream,
    tokens: Vec<u32>,
    log_probability: f64,
    no_speech_probability: f64,
    ended: bool,
}

impl Row {
    fn new(prompt: Vec<u32>, random: RandomStream) -> Self {
        let (tokens, ended) = (Vec::new(), false);
        Self { prompt, random, tokens, log_probability: 0.0, no_speech_probability: 0.0, ended }
    }

    fn extend(&mut self, filter: &LogitFilter, logits: &mut [f32], temperature: f64) {
        filter.apply(&self.tokens, logits);
        match sample_token(logits, temperature, &mut self.random) {
            Some((token, log_probability)) => {
                self.log_probability += log_probability;
                self.ended = token == filter.tokens.end;
                if !self.ended {
                    self.tokens.push(token);
                }
            }
            None => self.ended = true,
        }
    }
}

/// Size of the bytes divided by their size after zlib; 0 for no bytes.
///
/// The Rust implementation writes some 14 bytes more than the C library for a short text of
/// repetitions only; the ratio is far above any threshold with both.
fn compression_ratio(bytes: &[u8]) -> f64 {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    let compressed = encoder.write_all(bytes).and_then(|()| encoder.finish());
    let compressed = compressed.expect("writing to a vector cannot fail");
    bytes.len() as f64 / compressed.len().max(1) as f64
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use super::super::tokens::tests::tokens;
    use super::*;

    const VOCABULARY: usize = 118;

    /// Gives scripted tokens with certainty: window `w` at attempt `a` gives `scripts[w][a]` (the last
    /// script from then on), then the end token.
    pub(in super::super) struct Scripted {
        scripts: Vec<Vec<Vec<u32>>>,
        logit: f32,
        no_speech_logit: f32,
        attempts: BTreeMap<usize, usize>,
        rows: Vec<(usize, usize)>, // window, attempt
        prompt_left: usize,
        fed: usize,
        pub(in super::super) log: Vec<Vec<usize>>,
    }

    impl Scripted {
        pub(in super::super) fn new(scripts: Vec<Vec<Vec<u32>>>) -> Self {
            Self {
                scripts,
                logit: 50.0,
                no_speech_logit: f32::NEG_INFINITY,
                attempts: BTreeMap::new(),
                rows: Vec::new(),
                prompt_left: 0,
                fed: 0,
                log: Vec::new(),
            }
        }
    }

    impl LogitsSource for Scripted {
        fn reset(&mut self, windows: &[usize]) -> Result<()> {
            let mut attempt = |window: usize| {
                let count = self.attempts.entry(window).or_default();
                *count += 1;
                *count - 1
            };
            self.rows = windows.iter().map(|window| (*window, attempt(*window))).collect();
            self.log.push(windows.to_vec());
            (self.fed, self.prompt_left) = (0, 3);
            Ok(())
        }

        fn feed(&mut self, tokens: &[Vec<u32>]) -> Result<Vec<Vec<f32>>> {
            assert_eq!(tokens.len(), self.rows.len());
            let count = tokens[0].len();
            self.fed += count.saturating_sub(self.prompt_left);
            self.prompt_left = self.prompt_left.saturating_sub(count);
            let next = |(window, attempt): &(usize, usize)| {
                let scripts = &self.scripts[*window];
                let script = &scripts[(*attempt).min(scripts.len() - 1)];
                let mut logits = vec![0.0; VOCABULARY];
                logits[script.get(self.fed).copied().unwrap_or(10) as usize] = self.logit;
                if self.prompt_left > 0 {
                    logits[16] = self.no_speech_logit;
                }
                logits
            };
            Ok(self.rows.iter().map(next).collect())
        }
    }

    fn decode(source: &mut Scripted, config: &TranscribeConfig) -> Vec<DecodingResult> {
        let tokens = tokens();
        let bytes_of = |tokens: &[u32]| tokens.iter().map(|token| *token as u8).collect();
        let decoder = DecodingTask { tokens: &tokens, config, capacity: 64, bytes_of: &bytes_of };
        let windows = source.scripts.len();
        decoder.decode(source, &vec![vec![11, 12, 14]; windows], &vec![0; windows]).unwrap()
    }

    fn texts(attempts: &[DecodingResult]) -> Vec<&[u32]> {
        attempts.iter().map(|attempt| &attempt.tokens[..]).collect()
    }

    #[test]
    fn rows_end_each_at_their_own_time() {
        let scripts = vec![vec![vec![18, 1, 2, 20]], vec![vec![19, 3]], vec![vec![18, 4, 5, 6]]];
        let attempts = decode(&mut Scripted::new(scripts), &TranscribeConfig::default());
        assert_eq!(texts(&attempts), [&[18, 1, 2, 20][..], &[19, 3], &[18, 4, 5, 6]]);
        assert!(attempts.iter().all(|attempt| attempt.temperature == 0.0));
        assert!(attempts.iter().all(|attempt| attempt.average_log_probability > -1e-6));
    }

    #[test]
    fn only_failed_windows_go_on_to_the_next_temperature_and_the_first_that_passes_counts() {
        let loops: Vec<u32> = std::iter::once(18).chain([5; 28]).collect();
        let scripts =
            vec![vec![vec![18, 1, 2]], vec![loops.clone(), loops, vec![18, 3, 4], vec![18, 9]]];
        let mut source = Scripted::new(scripts);
        let attempts = decode(&mut source, &TranscribeConfig::default());
        assert_eq!(texts(&attempts), [&[18, 1, 2][..], &[18, 3, 4]]);
        assert_eq!(attempts[1].temperature, 0.4);
        assert_eq!(source.log, [vec![0, 1], vec![1], vec![1]]);
    }

    #[test]
    fn the_last_temperature_counts_even_if_it_fails() {
        let mut source =
            Scripted::new(vec![vec![vec![18; 1].into_iter().chain([5; 28]).collect()]]);
        let attempts = decode(&mut source, &TranscribeConfig::default());
        assert_eq!((attempts[0].temperature, source.log.len()), (1.0, 6));
        assert!(attempts[0].compression_ratio > 2.4);
    }

    #[test]
    fn improbable_text_fails_unless_the_window_is_silent() {
        let improbable = |no_speech_logit: f32| {
            let mut source = Scripted::new(vec![vec![vec![18, 1, 2]]]);
            (source.logit, source.no_speech_logit) = (2.0, no_speech_logit);
            let config = TranscribeConfig::default();
            let attempt = decode(&mut source, &config).remove(0);
            (source.log.len(), attempt.is_silence(&config))
        };
        assert_eq!(improbable(f32::NEG_INFINITY), (6, false));
        assert_eq!(improbable(20.0), (1, true));
    }

    #[test]
    fn probable_text_is_not_silence() {
        let mut source = Scripted::new(vec![vec![vec![18, 1, 2]]]);
        source.no_speech_logit = 60.0;
        let config = TranscribeConfig::default();
        let attempt = decode(&mut source, &config).remove(0);
        assert!(attempt.no_speech_probability > 0.99 && !attempt.is_silence(&config));
    }

    #[test]
    fn text_stops_at_the_limit() {
        let config = TranscribeConfig { max_tokens: Some(5), ..TranscribeConfig::default() };
        let script: Vec<u32> = vec![18, 1, 2, 3, 4, 5, 6, 7];
        let attempts = decode(&mut Scripted::new(vec![vec![script.clone()]]), &config);
        assert_eq!(attempts[0].tokens, script[..5]);
    }

    #[test]
    fn one_seed_gives_one_text_whatever_stands_beside_it() {
        let config = TranscribeConfig { temperatures: vec![1.0], ..TranscribeConfig::default() };
        let random = |windows: usize, seed: u64| {
            let mut source = Scripted::new(vec![vec![vec![18, 1, 2]]; windows]);
            source.logit = 1.0;
            decode(&mut source, &TranscribeConfig { seed, ..config.clone() }).remove(0).tokens
        };
        assert_eq!(random(1, 3), random(3, 3));
        assert_ne!(random(1, 3), random(1, 4));
    }

    #[test]
    fn repetitive_bytes_compress_well() {
        assert!(compression_ratio(&b"thank you ".repeat(30)) > 5.0);
        assert!(compression_ratio(b"a plain sentence that says each thing once") < 1.2);
        assert_eq!(compression_ratio(b""), 0.0);
    }
}

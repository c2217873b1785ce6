//! `meptr predict`: emotions and traits of videos.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use clap::{Args, ValueEnum};
use meptr_extract::decode::{Dump, Limits, read_transcript};
use meptr_extract::detect::FaceModel;
use meptr_extract::pipeline::{ExtractRequest, TranscriptChoice, Windowing, files_beside};
use meptr_extract::{DeviceChoice, PersonChoice, Predictor, PredictorOptions, Request, allocator};

use super::weights::{FirstUseArgs, asked};
use crate::progress::Bars;
use crate::report::{Format, Report};
use crate::workers::{DeviceArgs, guarded, open_all, share_out, workers_of};
use crate::{Finish, inputs, output};

/// Predict emotions and personality traits of the people in videos
#[derive(Debug, Args)]
pub struct PredictArgs {
    /// Videos or sound recordings, or folders to search for them (after `--` if a name starts with a dash)
    #[arg(required = true, value_name = "PATH")]
    inputs: Vec<PathBuf>,
    /// Weight bundle: a folder, the name of one that was pulled or assembled, OWNER/REPO, or `demo`
    /// for the demonstration weights inside [default: the bundle pulled or assembled last, else an
    /// offer to pull one, else `demo`]
    #[arg(long, value_name = "DIR|NAME", overrides_with = "weights")]
    weights: Option<PathBuf>,
    /// How results are written [default: by the ending of --output, else table]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// File to write results to, instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    devices: DeviceArgs,
    /// Face detector to use instead of that of the weights
    #[arg(long, value_enum, value_name = "MODEL")]
    face_detector: Option<FaceDetectorArg>,
    /// Write what the models saw into this folder: chosen frames and crops as PNG, sound as WAV;
    /// a folder below it for each video when there are several; it must be new or empty
    #[arg(long, value_name = "DIR")]
    dump: Option<PathBuf>,
    #[command(flatten)]
    words: WordsArgs,
    #[command(flatten)]
    split: SplitArgs,
    #[command(flatten)]
    first_use: FirstUseArgs,
    #[command(flatten)]
    limits: LimitArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FaceDetectorArg {
    /// MediaPipe's for faces within about five metres
    FullRange,
    /// MediaPipe's for faces within about two metres, as in front of a webcam
    ShortRange,
}

/// Where words come from.
#[derive(Debug, Args)]
#[command(next_help_heading = "Words")]
struct WordsArgs {
    /// What is said in the video
    #[arg(long, value_name = "TEXT", conflicts_with = "transcript_file")]
    transcript: Option<String>,
    /// File with what is said: .txt, .srt or .vtt
    #[arg(long, value_name = "FILE")]
    transcript_file: Option<PathBuf>,
    /// What to do when no transcript is given, lies beside the video or is embedded in it
    #[arg(long, value_enum, default_value_t = Transcriber::Whisper)]
    transcriber: Transcriber,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Transcriber {
    /// Leave the text modality out
    None,
    /// Listen, if the weights hold Whisper
    Whisper,
}

/// Which stretches and which people get scores of their own.
#[derive(Debug, Args)]
#[command(next_help_heading = "Time and people")]
struct SplitArgs {
    /// Predict stretches of this many seconds, and a summary of them
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    window: Option<f64>,
    /// Seconds from the start of one stretch to the next [default: that of --window]
    #[arg(long, value_name = "SECONDS", value_parser = seconds, requires = "window")]
    hop: Option<f64>,
    /// Whose faces and bodies count: all, largest, or a number from the list of people
    #[arg(long, value_name = "WHO", default_value = "all")]
    person: PersonChoice,
    /// Predict each person on their own too
    #[arg(long)]
    per_person: bool,
}

/// Bounds on what a file may ask for.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
struct LimitArgs {
    /// Most pixels in a picture
    #[arg(long, value_name = "N", default_value_t = Limits::default().max_pixels)]
    max_pixels: u64,
    /// Longest video or recording, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = Limits::default().max_seconds,
        value_parser = positive)]
    max_seconds: f64,
    /// Most unreadable packets in a file before it counts as broken
    #[arg(long, value_name = "N", default_value_t = Limits::default().max_corrupt_packets)]
    max_corrupt_packets: u64,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.1..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("give seconds from 0.1 to 86400".to_owned()),
    }
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if number > 0.0 => Ok(number),
        _ => Err("give a number above 0".to_owned()),
    }
}

/// Predicts every video; one that fails does not stop the others.
///
/// # Errors
/// When the weights cannot be used or the results cannot be written.
pub fn run(args: &PredictArgs, quiet: bool) -> anyhow::Result<Finish> {
    allocator::keep();
    let folder = args.first_use.bundle(args.weights.as_deref(), quiet, &asked)?;
    let (videos, unreadable) = inputs::find(&args.inputs);
    args.spare_inputs(&videos)?;
    if let Some(file) = &args.words.transcript_file {
        read_transcript(file, &args.limits())?;
    }
    if let Some(dump) = args.dump.as_ref().filter(|dump| dump.is_dir()) {
        Dump::ensure_empty(dump)?;
    }
    let open = |device| {
        let mut predictor = Predictor::open_with(&folder, &args.options(device))?;
        args.devices.check(predictor.is_on_gpu())?;
        predictor.set_decoder_threads(args.devices.decoder_threads(predictor.is_on_gpu()));
        Ok(predictor)
    };
    let predictors = open_all(args.devices.device.clone(), open)?;
    let mut report = Report::open(args.format, args.output.as_ref())?;
    for (folder, error) in unreadable {
        report.add_failure(&folder, &error)?;
    }
    let bars = Bars::new(videos.len(), quiet);
    let predict = |predictor: &&Predictor, (number, video): (usize, PathBuf)| {
        let mut request = args.request();
        if videos.len() > 1 {
            request.extract.dump =
                args.dump.as_ref().map(|dump| dump.join(dump_name(number, &video)));
        }
        bars.start(&video);
        let result = guarded(&video, || Ok(predictor.predict_with(&video, &request, &bars)?));
        bars.end();
        (video, result)
    };
    let tasks = videos.iter().cloned().enumerate().collect();
    let go_on = AtomicBool::new(false);
    let workers = workers_of(&predictors, |predictor| !predictor.is_on_gpu());
    share_out(workers, tasks, &go_on, predict, |(video, result)| {
        bars.aside(|| match result {
            Ok(prediction) => report.add(&prediction),
            Err(error) => report.add_failure(&video, &error),
        })
    })?;
    drop(bars);
    Ok(if report.finish()? == 0 { Finish::Complete } else { Finish::SomeFailed })
}

/// Folder of one of several videos; the number tells files of the same name apart.
fn dump_name(number: usize, video: &Path) -> OsString {
    let mut name = OsString::from(format!("{:04}-", number + 1));
    name.push(video.file_stem().unwrap_or_default());
    name
}

impl PredictArgs {
    /// Refuses an output that is a video or a transcript of one, or that the next run would take for
    /// a transcript.
    fn spare_inputs(&self, videos: &[PathBuf]) -> anyhow::Result<()> {
        let beside = videos.iter().flat_map(|video| files_beside(video));
        let given = self.words.transcript_file.clone();
        let mut inputs = videos.iter().cloned().chain(beside).chain(given);
        let Some(input) = inputs.find(|input| output::leads_to(self.output.as_deref(), input))
        else {
            return Ok(());
        };
        let target = match &self.output {
            Some(output) => format!("`{}`", output.display()),
            None => "standard output".to_owned(),
        };
        let input = input.display();
        anyhow::bail!(
            "cannot write results to {target}: `{input}` is an input, or would be read as a transcript"
        )
    }

    fn limits(&self) -> Limits {
        Limits {
            max_pixels: self.limits.max_pixels,
            max_seconds: self.limits.max_seconds,
            max_corrupt_packets: self.limits.max_corrupt_packets,
            ..Limits::default()
        }
    }

    fn options(&self, device: DeviceChoice) -> PredictorOptions {
        PredictorOptions {
            device,
            precision: self.devices.precision,
            face_model: self.face_detector.map(|model| match model {
                FaceDetectorArg::FullRange => FaceModel::FullRange,
                FaceDetectorArg::ShortRange => FaceModel::ShortRange,
            }),
            listens: self.words.transcriber == Transcriber::Whisper,
            limits: self.limits(),
        }
    }

    fn request(&self) -> Request {
        let transcript = match (&self.words.transcript, &self.words.transcript_file) {
            (Some(text), _) => TranscriptChoice::Text(text.clone()),
            (None, Some(file)) => TranscriptChoice::File(file.clone()),
            (None, None) => TranscriptChoice::Find,
        };
        let window = self.split.window.map(|window_seconds| Windowing {
            window_seconds,
            hop_seconds: self.split.hop.unwrap_or(window_seconds),
        });
        Request {
            extract: ExtractRequest { transcript, window, dump: self.dump.clone() },
            person: self.split.person,
            per_person: self.split.per_person,
        }
    }
}

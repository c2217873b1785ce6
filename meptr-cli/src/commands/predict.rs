//! `meptr predict`: emotions and traits of videos.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use clap::{Args, ValueEnum};
use meptr_extract::decode::{Dump, Limits, read_transcript};
use meptr_extract::detect::FaceModel;
use meptr_extract::pipeline::{
    ComputeTarget, ExtractRequest, TranscriptChoice, sidecar_transcripts,
};
use meptr_extract::windows::SlidingWindow;
use meptr_extract::{PersonChoice, Predictor, PredictorOptions, Request, allocator};

use super::weights::{FirstUseArgs, asked};
use crate::progress::Bars;
use crate::report::{Format, Report};
use crate::workers::{DeviceArgs, catch_panic, open_all, run_ordered, workers_per_device};
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
    /// Format of the results [default: by the extension of --output, else table]
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
    /// Write the inputs of the models into this folder: frames and crops as PNG, sound as WAV; with
    /// several videos, each into a folder of its own below it; it must be new or empty
    #[arg(long, value_name = "DIR")]
    dump: Option<PathBuf>,
    #[command(flatten)]
    transcript: TranscriptArgs,
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

/// Source of the transcript.
#[derive(Debug, Args)]
#[command(next_help_heading = "Transcript")]
struct TranscriptArgs {
    /// Text of what is said in the video
    #[arg(long, value_name = "TEXT", conflicts_with = "transcript_file")]
    transcript: Option<String>,
    /// Transcript file: .txt, .srt or .vtt
    #[arg(long, value_name = "FILE")]
    transcript_file: Option<PathBuf>,
    /// Speech recognition, if no transcript is given, lies beside the video or is embedded in it
    #[arg(long, value_enum, default_value_t = Transcriber::Whisper)]
    transcriber: Transcriber,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Transcriber {
    /// None: the text modality is then absent
    None,
    /// Whisper, if the weights hold it
    Whisper,
}

/// Time windows and persons with scores of their own.
#[derive(Debug, Args)]
#[command(next_help_heading = "Windows and persons")]
struct SplitArgs {
    /// Predict windows of this many seconds, and their mean
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    window: Option<f64>,
    /// Seconds from the start of one window to the next [default: that of --window]
    #[arg(long, value_name = "SECONDS", value_parser = seconds, requires = "window")]
    hop: Option<f64>,
    /// Persons whose faces and bodies are used: all, largest, or an id from the list of persons
    #[arg(long, value_name = "WHO", default_value = "all")]
    person: PersonChoice,
    /// Also predict each person separately
    #[arg(long)]
    per_person: bool,
}

/// Limits on the resources that a file may use.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
struct LimitArgs {
    /// Most pixels in a frame
    #[arg(long, value_name = "N", default_value_t = Limits::default().max_pixels)]
    max_pixels: u64,
    /// Longest video or recording, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = Limits::default().max_seconds,
        value_parser = positive)]
    max_seconds: f64,
    /// Most unreadable packets in a file before it is refused
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
/// When an argument cannot work, the weights cannot be used, or the results cannot be written.
pub fn run(args: &PredictArgs, quiet: bool) -> anyhow::Result<Finish> {
    allocator::keep();
    let targets = args.devices.open()?;
    let folder = args.first_use.bundle(args.weights.as_deref(), quiet, &asked)?;
    let (videos, unreadable) = inputs::find(&args.inputs);
    args.check_output(&videos)?;
    if let Some(file) = &args.transcript.transcript_file {
        read_transcript(file, &args.limits())?;
    }
    if let Some(dump) = args.dump.as_ref().filter(|dump| dump.is_dir()) {
        Dump::ensure_empty(dump)?;
    }
    let options = args.options();
    let open = |target: ComputeTarget| {
        let mut predictor = Predictor::open_at(&folder, &target, &options)?;
        predictor.set_decoder_threads(args.devices.decoder_threads(predictor.is_on_gpu()));
        Ok(predictor)
    };
    let predictors = open_all(targets, open)?;
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
        let result = catch_panic(&video, || Ok(predictor.predict_with(&video, &request, &bars)?));
        bars.end();
        (video, result)
    };
    let tasks = videos.iter().cloned().enumerate().collect();
    let never_stop = AtomicBool::new(false);
    let workers = workers_per_device(&predictors, |predictor| !predictor.is_on_gpu());
    run_ordered(workers, tasks, &never_stop, predict, |(video, result)| {
        bars.aside(|| match result {
            Ok(prediction) => report.add(&prediction),
            Err(error) => report.add_failure(&video, &error),
        })
    })?;
    drop(bars);
    Ok(if report.finish()? == 0 { Finish::Complete } else { Finish::SomeFailed })
}

/// Folder of one of several videos; the number makes it unique.
fn dump_name(number: usize, video: &Path) -> OsString {
    let mut name = OsString::from(format!("{:04}-", number + 1));
    name.push(video.file_stem().unwrap_or_default());
    name
}

impl PredictArgs {
    /// Refuses an output that is an input, or that the next run would read as a transcript.
    fn check_output(&self, videos: &[PathBuf]) -> anyhow::Result<()> {
        let beside = videos.iter().flat_map(|video| sidecar_transcripts(video));
        let given = self.transcript.transcript_file.clone();
        let mut inputs = videos.iter().cloned().chain(beside).chain(given);
        let Some(input) = inputs.find(|input| output::writes_to(self.output.as_deref(), input))
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

    fn options(&self) -> PredictorOptions {
        PredictorOptions {
            face_model: self.face_detector.map(|model| match model {
                FaceDetectorArg::FullRange => FaceModel::FullRange,
                FaceDetectorArg::ShortRange => FaceModel::ShortRange,
            }),
            transcribes: self.transcript.transcriber == Transcriber::Whisper,
            limits: self.limits(),
            ..PredictorOptions::default()
        }
    }

    fn request(&self) -> Request {
        let transcript = match (&self.transcript.transcript, &self.transcript.transcript_file) {
            (Some(text), _) => TranscriptChoice::Text(text.clone()),
            (None, Some(file)) => TranscriptChoice::File(file.clone()),
            (None, None) => TranscriptChoice::Find,
        };
        let window = self.split.window.map(|window_seconds| SlidingWindow {
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

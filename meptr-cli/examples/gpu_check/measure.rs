//! Rates of the device and times of the backbones and of training.

use std::time::Instant;

use anyhow::Result;
use candle::{Device, Tensor};
use meptr_core::models::{
    CrossTaskModel, FusionConfig, FusionInput, FusionModel, HeadConfig, ModalityInput,
};
use meptr_core::nn::{GradientTape, Mode};
use meptr_core::rng::SeedStreams;
use meptr_core::weights::{Trainable, generate};
use meptr_core::{Modality, PerModality, Precision};
use meptr_extract::RgbImage;
use meptr_extract::backbones::ClipPreprocessor;
use meptr_extract::detect::yolo::YoloLetterbox;
use meptr_extract::detect::{Detector, FaceDetector, FaceModel};
use meptr_train::data::Labels;
use meptr_train::loss::{Objective, ObjectiveConfig, gradients_of};
use meptr_train::optim::{Optimiser, OptimiserConfig, Rates};
use serde_json::json;

use super::models::{self, SAMPLE_RATE_HZ};
use super::say;

/// Tokens that Whisper writes about half a minute.
const DECODED_TOKENS: u32 = 64;
/// Rows in a step of training.
const BATCH: usize = 32;

struct Measuring<'a> {
    device: &'a Device,
    is_quick: bool,
    is_once: bool,
    /// The one case to measure.
    case: Option<&'a str>,
}

/// Measures everything, or one case, in f32 and bf16.
pub(crate) fn run(
    device: &Device,
    is_quick: bool,
    is_once: bool,
    case: Option<&str>,
) -> Result<()> {
    let measuring = Measuring { device, is_quick, is_once, case };
    for precision in [Precision::F32, Precision::Bf16] {
        if device.is_cpu() && precision == Precision::Bf16 {
            continue; // Candle has no bf16 products on the processor
        }
        measuring.rates(precision)?;
        measuring.clip(precision)?;
        measuring.wav2vec2(precision)?;
        measuring.whisper(precision)?;
        measuring.prediction(precision)?;
    }
    measuring.heads()?;
    measuring.training()
}

impl Measuring<'_> {
    /// Median seconds of a computation, after a run that does not count.
    fn seconds(&self, mut run: impl FnMut() -> Result<()>) -> Result<f64> {
        let (least, budget) = if self.is_quick || self.is_once { (1, 0.0) } else { (5, 2.0) };
        let mut timed = || -> Result<f64> {
            let start = Instant::now();
            run()?;
            self.device.synchronize()?;
            Ok(start.elapsed().as_secs_f64())
        };
        timed()?;
        let (mut times, start) = (Vec::new(), Instant::now());
        while times.len() < least || (start.elapsed().as_secs_f64() < budget && times.len() < 50) {
            times.push(timed()?);
        }
        times.sort_by(f64::total_cmp);
        Ok(times[times.len() / 2])
    }

    fn wants(&self, case: &str) -> bool {
        self.case.is_none_or(|wanted| wanted == case)
    }

    /// `work` is what the computation takes at least: arithmetic operations, and bytes moved.
    fn report(&self, case: &str, precision: Precision, seconds: f64, work: Option<(f64, f64)>) {
        let precision = format!("{precision:?}").to_lowercase();
        let mut line = json!({ "case": case, "precision": precision, "seconds": seconds });
        if let Some((operations, bytes)) = work {
            line["operations"] = operations.into();
            line["bytes"] = bytes.into();
        }
        say(line);
    }

    /// Peak rates of the device: a large matrix multiplication, a copy of a large tensor.
    fn rates(&self, precision: Precision) -> Result<()> {
        if !self.wants("rates") {
            return Ok(());
        }
        let (side, numbers) = if self.is_quick { (512, 1 << 20) } else { (8192, 1 << 29) };
        let dtype = precision.dtype();
        let matrix = models::wave(&[side, side], self.device)?.to_dtype(dtype)?;
        let seconds = self.seconds(|| {
            matrix.matmul(&matrix)?;
            Ok(())
        })?;
        let operations = 2.0 * (side as f64).powi(3);
        self.report("matmul", precision, seconds, Some((operations, 0.0)));
        let long = Tensor::zeros(numbers, dtype, self.device)?;
        let seconds = self.seconds(|| {
            long.copy()?;
            Ok(())
        })?;
        let bytes = 2.0 * (numbers * dtype.size_in_bytes()) as f64; // read and written
        self.report("copy", precision, seconds, Some((0.0, bytes)));
        Ok(())
    }

    fn clip(&self, precision: Precision) -> Result<()> {
        let model = models::clip(self.is_quick, precision, self.device)?;
        let vision = &model.config().vision_config;
        let encoder = Encoder {
            layers: vision.num_hidden_layers,
            width: vision.hidden_size,
            inner: vision.intermediate_size,
            heads: vision.num_attention_heads,
        };
        let counts: &[usize] = if self.is_quick { &[2] } else { &[30, 960] };
        for count in counts {
            if !self.wants(&format!("clip-{count}")) {
                continue;
            }
            let pictures = models::wave(&[*count, 3, 224, 224], self.device)?;
            let seconds = self.seconds(|| {
                model.forward(&pictures)?;
                Ok(())
            })?;
            let work = encoder.work(*count, 50, precision);
            self.report(&format!("clip-{count}"), precision, seconds, Some(work));
        }
        Ok(())
    }

    fn wav2vec2(&self, precision: Precision) -> Result<()> {
        let model = models::wav2vec2(self.is_quick, precision, self.device)?;
        let config = model.config();
        let encoder = Encoder {
            layers: config.num_hidden_layers,
            width: config.hidden_size,
            inner: config.intermediate_size,
            heads: config.num_attention_heads,
        };
        let (counts, seconds_of_sound): (&[usize], usize) =
            if self.is_quick { (&[1], 2) } else { (&[1, 16], 15) };
        for count in counts {
            if !self.wants(&format!("wav2vec2-{count}")) {
                continue;
            }
            let samples = seconds_of_sound * SAMPLE_RATE_HZ;
            let sound = models::wave(&[*count, samples], self.device)?;
            let lengths = vec![samples; *count];
            let seconds = self.seconds(|| {
                model.forward(&sound, &lengths)?;
                Ok(())
            })?;
            let (operations, bytes) = encoder.work(*count, config.steps(samples), precision);
            let (more, more_bytes) = convolutions(config, samples, precision);
            let clips = *count as f64;
            let work = (operations + clips * more, bytes + clips * more_bytes);
            self.report(&format!("wav2vec2-{count}"), precision, seconds, Some(work));
        }
        Ok(())
    }

    fn whisper(&self, precision: Precision) -> Result<()> {
        if !self.wants("whisper") {
            return Ok(());
        }
        let config = models::whisper_config(self.is_quick);
        let model = models::whisper(self.is_quick, precision, self.device)?;
        let shape = [1, config.num_mel_bins, config.window_frames()];
        let features = models::wave(&shape, self.device)?;
        let encoder = Encoder {
            layers: config.encoder_layers,
            width: config.d_model,
            inner: config.encoder_ffn_dim,
            heads: config.encoder_attention_heads,
        };
        let seconds = self.seconds(|| {
            model.encode(&features)?;
            Ok(())
        })?;
        let work = encoder.work(1, config.max_source_positions, precision);
        self.report("whisper-encoder", precision, seconds, Some(work));
        let encoded = model.encode(&features)?;
        let seconds = self.seconds(|| {
            let mut decoding = model.start_decoding(&encoded)?;
            for token in 0..DECODED_TOKENS {
                decoding.feed(&[vec![token]])?;
            }
            Ok(())
        })?;
        self.report("whisper-decoder", precision, seconds, None);
        Ok(())
    }

    /// A prediction without decoding, listening to speech, or copying its pictures to the device (they
    /// are there since the first run): 15 s of sound, 30 pictures of 720 lines with a face and a body
    /// each, 40 tokens, at full size.
    fn prediction(&self, precision: Precision) -> Result<()> {
        if !self.wants("predict") {
            return Ok(());
        }
        let device = self.device;
        let clip = models::clip(self.is_quick, precision, device)?;
        let wav2vec2 = models::wav2vec2(self.is_quick, precision, device)?;
        let bert = models::bert(precision, device)?;
        let faces = FaceDetector::bundled(FaceModel::FullRange, device)?;
        let bodies = models::body_detector(device)?;
        let input = ClipPreprocessor::new(224);
        let head = |modality: Modality| -> Result<CrossTaskModel> {
            let config = HeadConfig::published(modality);
            Ok(generate(1, device, |vb| CrossTaskModel::load(&config, vb))?.0)
        };
        let heads = PerModality::try_from_fn(head)?;
        let config = FusionConfig::published();
        let fusion = generate(1, device, |vb| FusionModel::load(&config, vb))?.0;
        let count = if self.is_quick { 2 } else { 30 };
        let samples = if self.is_quick { 2 } else { 15 } * SAMPLE_RATE_HZ;
        let bytes = (0..1280 * 720 * 3).map(|byte| (byte * 7919 % 256) as u8).collect();
        let picture = RgbImage::new(1280, 720, bytes);
        let (pictures, crops) = (vec![&picture; count], vec![picture.clone(); count]);
        let letterbox = YoloLetterbox::new(1280, 720, 640, true);
        let sound: Vec<f32> = (0..samples).map(|sample| (sample as f32 * 0.01).sin()).collect();
        let seconds = self.seconds(|| {
            faces.detect(&pictures)?;
            let frames = bodies.letterboxed(&pictures, &letterbox)?;
            bodies.raw_output(&frames)?.to_device(&Device::Cpu)?;
            let seen: Result<Vec<Tensor>> = (0..3)
                .map(|_| Ok(clip.forward(&input.prepare(&crops, device)?)?.unsqueeze(0)?))
                .collect();
            let sound = Tensor::from_slice(&sound, (1, samples), device)?;
            let heard = wav2vec2.forward(&sound, &[samples])?;
            let words = bert.forward(&models::tokens(40, device)?, &[40])?;
            let sequences: Vec<Tensor> = seen?.into_iter().chain([heard, words]).collect();
            let read = |modality: Modality| -> Result<Option<ModalityInput>> {
                let sequence = &sequences[modality as usize];
                let output = heads[modality].forward(sequence, None, &mut Mode::Eval)?;
                Ok(Some(ModalityInput {
                    vector: output.fused_vector()?,
                    emotion_logits: Some(output.emotion_logits),
                    trait_values: Some(output.personality_scores),
                    is_present: None,
                }))
            };
            let output = fusion.forward(&PerModality::try_from_fn(read)?, &mut Mode::Eval)?;
            output.emotion_logits.to_vec2::<f32>()?;
            Ok(())
        })?;
        self.report("predict", precision, seconds, None);
        Ok(())
    }

    /// A step of stage 2 on 32 made-up videos: pictures of 15 s, and their sound.
    fn heads(&self) -> Result<()> {
        for (case, modality, length) in
            [("stage2-face", Modality::Face, 30), ("stage2-audio", Modality::Audio, 749)]
        {
            if !self.wants(case) {
                continue;
            }
            let config = HeadConfig::published(modality);
            let streams = SeedStreams::new(1);
            let trainable = Trainable::new(streams);
            let model = CrossTaskModel::load(&config, trainable.builder(self.device))?;
            let rule = OptimiserConfig::Adam { weight_decay: 1e-5 };
            let mut optimiser = Optimiser::new(rule, trainable.by_name());
            let features =
                models::wave(&[BATCH, length, config.emotion.input_width()], self.device)?;
            let mut mode = Mode::Train(streams.stream("dropout"));
            let rates = Rates { learning_rate: 1e-4, momentum: None };
            let seconds = self.seconds(|| {
                let output = model.forward(&features, None, &mut mode)?;
                let loss = (output.emotion_logits.sqr()?.mean_all()?
                    + output.personality_scores.sqr()?.mean_all()?)?;
                let gradients = gradients_of(&loss, optimiser.parameters())?;
                Ok(optimiser.step(&gradients, rates)?)
            })?;
            self.report(case, Precision::F32, seconds, None);
        }
        Ok(())
    }

    /// An epoch of stage 3 on made-up rows, half of them without labels of either task.
    fn training(&self) -> Result<()> {
        if !self.wants("stage3-epoch") {
            return Ok(());
        }
        let steps = if self.is_quick || self.is_once { 2 } else { 64 };
        let config = FusionConfig::published();
        let streams = SeedStreams::new(1);
        let trainable = Trainable::new(SeedStreams::new(1));
        let model = FusionModel::load(&config, trainable.builder(self.device))?;
        let mut objective = Objective::new(&ObjectiveConfig::default(), self.device)?;
        let rule = OptimiserConfig::Adam { weight_decay: 1e-5 };
        let mut optimiser = Optimiser::new(rule, trainable.by_name());
        let input = self.fusion_input(&config)?;
        let labels = self.labels()?;
        let tape = GradientTape::default();
        let mut mode = Mode::Taped(streams.stream("dropout"), tape.clone());
        let rates = Rates { learning_rate: 1e-4, momentum: None };
        let seconds = self.seconds(|| {
            for _ in 0..steps {
                let output = model.forward(&input, &mut mode)?;
                let (logits, scores) = (&output.emotion_logits, &output.personality_scores);
                let parts = objective.components(logits, scores, &labels)?;
                let balanced = objective.balance(&parts, optimiser.parameters(), &tape)?;
                anyhow::ensure!(balanced.total.is_finite(), "the training went astray");
                optimiser.step(&balanced.gradients, rates)?;
            }
            Ok(())
        })?;
        self.report("stage3-epoch", Precision::F32, seconds * 64.0 / steps as f64, None);
        Ok(())
    }

    fn fusion_input(&self, config: &FusionConfig) -> Result<FusionInput> {
        PerModality::try_from_fn(|modality| {
            let numbers = |width: usize| models::wave(&[BATCH, width], self.device);
            Ok(Some(ModalityInput {
                vector: numbers(config.input_dims[modality])?,
                emotion_logits: Some(numbers(7)?),
                trait_values: Some(numbers(5)?.affine(0.5, 0.5)?),
                is_present: None,
            }))
        })
    }

    fn labels(&self) -> Result<Labels> {
        let known = |rows: std::ops::Range<usize>, width: usize| -> Result<Tensor> {
            let cell = |cell: usize| match rows.contains(&(cell / width)) {
                true => 0.5 + 0.5 * (cell as f32).sin(),
                false => f32::NAN,
            };
            let cells = (0..BATCH * width).map(cell).collect();
            Ok(Tensor::from_vec::<_, f32>(cells, (BATCH, width), self.device)?)
        };
        Ok(Labels::new(known(0..BATCH / 2, 7)?, known(BATCH / 2..BATCH, 5)?)?)
    }
}

/// A stack of transformer layers, as far as its work goes.
struct Encoder {
    layers: usize,
    width: usize,
    inner: usize,
    heads: usize,
}

impl Encoder {
    /// Operations of the products, and bytes when weights are read once a layer and every
    /// intermediate is written once and read once.
    fn work(&self, rows: usize, steps: usize, precision: Precision) -> (f64, f64) {
        let [layers, width, inner, heads, rows, steps] =
            [self.layers, self.width, self.inner, self.heads, rows, steps].map(|n| n as f64);
        let weights = 4.0 * width * width + 2.0 * width * inner;
        let scores = rows * heads * steps * steps;
        let operations =
            layers * (2.0 * rows * steps * weights + 4.0 * width * rows * steps * steps);
        let intermediates = rows * steps * (9.0 * width + 2.0 * inner) + 2.0 * scores;
        let numbers = layers * (weights + 2.0 * intermediates);
        (operations, numbers * precision.dtype().size_in_bytes() as f64)
    }
}

/// Operations and bytes of the convolutions of Wav2Vec2 on one clip.
fn convolutions(
    config: &meptr_extract::backbones::Wav2Vec2Config,
    samples: usize,
    precision: Precision,
) -> (f64, f64) {
    let (mut length, mut inputs, mut operations, mut numbers) = (samples, 1, 0.0, 0.0);
    let kernels = config.conv_kernel.iter().zip(&config.conv_stride);
    for (outputs, (kernel, stride)) in config.conv_dim.iter().zip(kernels) {
        length = (length - kernel) / stride + 1;
        operations += 2.0 * (length * outputs * inputs * kernel) as f64;
        numbers += 6.0 * (length * outputs) as f64; // product, norm, activation: written and read
        inputs = *outputs;
    }
    let channels = config.hidden_size / config.num_conv_pos_embedding_groups;
    let kernel = config.num_conv_pos_embeddings;
    operations += 2.0 * (length * config.hidden_size * channels * kernel) as f64;
    (operations, numbers * precision.dtype().size_in_bytes() as f64)
}

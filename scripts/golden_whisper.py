#!/usr/bin/env python3
"""Writes the Whisper cases of tests/golden: three tiny models with tokens, and two spectrograms.

  pip install torch==2.6.0 transformers==4.52.4 numpy==1.26.4
  python scripts/golden_whisper.py tests/golden

The expected values are those of transformers (CPU, f32). The sound is synthetic: gliding tones in
seeded noise. The models are random; windows are 2 s instead of 30 s, which keeps the files small
and lets a few seconds of sound take several windows.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

SECONDS_PER_WINDOW = 2
POSITIONS = 50 * SECONDS_PER_WINDOW
MAX_NEW_TOKENS = 14


def sound(seconds, seed):
    random = np.random.default_rng(seed)
    time = np.arange(int(16000 * seconds)) / 16000
    glide = np.sin(2 * np.pi * (220 * time + 400 * time**2 / seconds))
    tone = 0.3 * np.sin(2 * np.pi * 1750 * time) * (np.sin(2 * np.pi * 3 * time) > 0)
    noise = 0.05 * random.standard_normal(time.size)
    return (0.1 * (glide * np.hanning(time.size) + tone + noise)).astype(np.float32)


def write_log_mel(folder, bands):
    extractor = WhisperFeatureExtractor(feature_size=bands)
    waveform = sound(0.8, bands)
    features = extractor(waveform, sampling_rate=16000, return_tensors="pt").input_features[0]
    head = 100
    tensors = {
        "waveform": torch.from_numpy(waveform),
        "mel_filters": torch.from_numpy(extractor.mel_filters).float(),
        "log_mel_head": features[:, :head].clone(),
        "tail_column": features[:, -1].clone(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / f"whisper_logmel_{bands}.safetensors")
    about = {"full_shape": [1, *features.shape], "head_frames": head, "tail_is_constant": True}
    (folder / f"whisper_logmel_{bands}.json").write_text(json.dumps(about) + "\n")


def tokens(multilingual):
    """Ids after the text: as in the published models, but fewer."""
    end = 150
    ids = {"eos": end, "sot": end + 1}
    following = end + 2
    if multilingual:
        ids |= {"en": end + 2, "ru": end + 3, "de": end + 4}
        following = end + 5
    names = ["translate", "transcribe", "prev_sot", "no_speech", "no_timestamps"]
    ids |= {name: following + place for place, name in enumerate(names)}
    return ids, ids["no_timestamps"] + 1 + POSITIONS + 1


def generation_config(ids, multilingual):
    special = ["sot", "translate", "transcribe", "prev_sot", "no_speech"]
    config = {
        "eos_token_id": ids["eos"],
        "pad_token_id": ids["eos"],
        "bos_token_id": ids["eos"],
        "decoder_start_token_id": ids["sot"],
        "no_timestamps_token_id": ids["no_timestamps"],
        "prev_sot_token_id": ids["prev_sot"],
        "is_multilingual": multilingual,
        "begin_suppress_tokens": [20, ids["eos"]],
        "suppress_tokens": [1, 2, 7] + [ids[name] for name in special],
        "max_initial_timestamp_index": 50,
        "return_timestamps": False,
    }
    if multilingual:
        config["lang_to_id"] = {f"<|{code}|>": ids[code] for code in ("en", "ru", "de")}
        config["task_to_id"] = {name: ids[name] for name in ("transcribe", "translate")}
        config["suppress_tokens"] += list(config["lang_to_id"].values())
    return config


def random_model(config, seed):
    model = WhisperForConditionalGeneration(config).eval()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = torch.rand(parameter.shape, generator=random) * 2 - 1
            if "encoder.embed_positions" in name:
                continue
            if parameter.dim() >= 2:
                value = spread * (3 / parameter[0].numel()) ** 0.5 * 1.5
            else:
                value = spread * 0.2 + (1.5 if name.endswith("norm.weight") else 0.0)
            parameter.copy_(value.half().float())
        positions = model.model.encoder.embed_positions.weight
        positions.copy_(positions.half().float())
    return model


def manual_greedy(model, encoded, prefix, first_special, count=24):
    runs = {}
    for name, no_repeat in (("text_only", False), ("text_only_no_repeat", True)):
        said = []
        while len(said) < count:
            ids = torch.tensor([prefix + said])
            logits = model(encoder_outputs=(encoded,), decoder_input_ids=ids).logits[0, -1]
            logits[first_special:] = -torch.inf
            if no_repeat and said:
                logits[said] = -torch.inf
            said.append(int(logits.argmax()))
        rule = f"every id >= {first_special}"
        rule += " and every id already emitted" if no_repeat else ""
        runs[name] = {"prefix": prefix, "suppressed": rule, "tokens": said}
    return runs


def write_model(folder, multilingual, bands, width, seconds, seed, runs):
    ids, vocabulary = tokens(multilingual)
    config = WhisperConfig(
        vocab_size=vocabulary, num_mel_bins=bands, d_model=width,
        encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=2 * width,
        decoder_layers=2, decoder_attention_heads=2, decoder_ffn_dim=3 * width,
        max_source_positions=POSITIONS, max_target_positions=64,
        bos_token_id=ids["eos"], eos_token_id=ids["eos"], pad_token_id=ids["eos"],
        decoder_start_token_id=ids["sot"], suppress_tokens=None, begin_suppress_tokens=None,
        architectures=["WhisperForConditionalGeneration"],
    )
    settings = generation_config(ids, multilingual)
    model = random_model(config, seed)
    extractor = WhisperFeatureExtractor(feature_size=bands, chunk_length=SECONDS_PER_WINDOW)
    waveform = sound(seconds, seed)
    whole = extractor(
        waveform, sampling_rate=16000, return_tensors="pt", truncation=False,
        padding="longest" if seconds > SECONDS_PER_WINDOW else "max_length",
    ).input_features
    window = extractor(waveform, sampling_rate=16000, return_tensors="pt").input_features

    # The encoder hears the first window of the clip as it stands in the whole spectrogram.
    encoded = model.model.encoder(whole[..., : 2 * POSITIONS]).last_hidden_state
    prefix = [ids["sot"]]
    prefix += [ids["en"], ids["transcribe"]] if multilingual else []
    prefix += [ids["no_timestamps"]]
    teacher = torch.tensor([prefix + [17, 30, 99, 5]])
    tensors = {
        "waveform": torch.from_numpy(waveform),
        "encoder_first_20_positions": encoded[:, :20].clone(),
        "encoder_last_5_positions": encoded[:, -5:].clone(),
        "encoder_mean": encoded.mean(1),
        "teacher.decoder_input_ids": teacher,
        "teacher.logits": model(encoder_outputs=(encoded,), decoder_input_ids=teacher).logits,
    }
    generated = {}
    for name, kwargs in runs.items():
        model.generation_config = GenerationConfig(**settings)
        found = model.generate(whole, max_new_tokens=MAX_NEW_TOKENS, **kwargs)[0].tolist()
        generated[name] = {"kwargs": kwargs, "tokens": found}
        print(folder.name, name, len(found), found)
    about = {
        "seed": seed,
        "max_new_tokens": MAX_NEW_TOKENS,
        "generate": generated,
        "manual_greedy": manual_greedy(model, encoded, prefix, ids["eos"]),
        "note": "transformers 4.52.4, see scripts/golden_whisper.py",
    }
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.half() for name, value in model.state_dict().items()
               if name != "proj_out.weight"}
    save_file(weights, folder / "model.safetensors")
    save_file(tensors, folder / "golden.safetensors")
    (folder / "golden.json").write_text(json.dumps(about, indent=1) + "\n")
    (folder / "config.json").write_text(json.dumps(config.to_dict(), indent=1) + "\n")
    (folder / "generation_config.json").write_text(json.dumps(settings, indent=1) + "\n")
    extractor_json = {key: value for key, value in extractor.to_dict().items()
                      if key != "mel_filters"}
    (folder / "preprocessor_config.json").write_text(json.dumps(extractor_json, indent=1) + "\n")
    assert window.shape == (1, bands, 2 * POSITIONS)


@torch.no_grad()
def main(root):
    torch.set_num_threads(1)
    for bands in (80, 128):
        write_log_mel(root / "backbones/preprocessing", bands)
    timestamps = {"return_timestamps": True}
    write_model(
        root / "backbones/whisper", True, 128, 32, 1.3, 54,
        {
            "plain_en": {"language": "en", "task": "transcribe", "return_timestamps": False},
            "auto_language": {"task": "transcribe", "return_timestamps": False},
            "timestamps_ru": {"language": "ru", "task": "translate", **timestamps},
            "timestamps_auto": timestamps,
        },
    )
    write_model(
        root / "backbones/whisper_english", False, 80, 16, 1.3, 75,
        {"plain": {"return_timestamps": False}, "timestamps": timestamps},
    )
    russian = {"language": "ru", "task": "transcribe", **timestamps}
    write_model(
        root / "backbones/whisper_long", True, 80, 24, 5.0, 77,
        {
            "windows": russian,
            "auto_language": timestamps,
            "conditioned": {**russian, "condition_on_prev_tokens": True},
        },
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))

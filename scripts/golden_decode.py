#!/usr/bin/env python3
"""Makes tests/golden/decode_synthetic: small clips and what the ffmpeg program and NumPy make of them.

Needs the ffmpeg program (made with 5.1.9 of Debian 12) and NumPy (made with 1.26.4).
Run from the root of the repository: python3 scripts/golden_decode.py

For every clip: CLIP.json with the SHA-256 of the RGB bytes of every frame, the sizes and the
command lines, and CLIP.safetensors with `waveform`: what the reference hears, that is
`ffmpeg -async 1 -vn -acodec pcm_s16le -ar 16000`, then the mean of the channels of s / 32768.
"""

import hashlib
import json
import pathlib
import struct
import subprocess

import numpy as np

FOLDER = pathlib.Path("tests/golden/decode_synthetic")
QUIET = ["ffmpeg", "-v", "error", "-y", "-nostdin"]
KEEP = ["-threads", "1", "-fflags", "+bitexact", "-flags:v", "+bitexact", "-flags:a", "+bitexact"]


def picture(size, rate, seconds):
    return ["-f", "lavfi", "-i", f"testsrc2=size={size}:rate={rate}:duration={seconds}"]


def tones(channels, rate, seconds):
    """A different tone in every channel, with a start and an end inside the clip."""
    one = "|".join(
        f"0.3*sin(2*PI*{220 * (i + 1)}*t)*gt(t\\,0.1)*lt(t\\,{seconds - 0.1})" for i in range(channels)
    )
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[channels]
    return ["-f", "lavfi", "-i", f"aevalsrc={one}:s={rate}:d={seconds}:c={layout}"]


CLIPS = {
    "h264_aac.mp4": picture("64x48", 25, 3) + tones(2, 44100, 3)
    + ["-c:v", "libx264", "-bf", "3", "-crf", "30", "-pix_fmt", "yuv420p", "-c:a", "aac", "-b:a", "48k"],
    "h264_rotated.mov": picture("48x32", 25, 1.6) + ["-c:v", "libx264", "-crf", "32", "-pix_fmt", "yuv420p",
    "-metadata:s:v", "rotate=90"],
    "h264_10bit_odd.mkv": picture("35x27", 25, 0.6) + tones(6, 48000, 0.6)
    + ["-c:v", "libx264", "-crf", "30", "-pix_fmt", "yuv444p10le", "-c:a", "ac3", "-b:a", "96k"],
    "mjpeg_u8.avi": picture("45x35", 12, 3) + tones(1, 8000, 1)
    + ["-c:v", "mjpeg", "-q:v", "20", "-pix_fmt", "yuvj420p", "-c:a", "pcm_u8"],
    "vfr.mp4": picture("64x48", 30, 3) + ["-vf", "select='not(mod(n,7))+not(mod(n,5))'", "-vsync", "vfr",
    "-c:v", "libx264", "-crf", "32", "-pix_fmt", "yuv420p"],
    "mpeg2_mp2.ts": picture("64x48", 25, 2) + tones(2, 48000, 2)
    + ["-c:v", "mpeg2video", "-q:v", "20", "-bf", "2", "-c:a", "mp2", "-b:a", "64k"],
    "vp8_late_vorbis.webm": picture("64x48", 10, 2) + ["-itsoffset", "0.7"] + tones(2, 22050, 1)
    + ["-c:v", "libvpx", "-b:v", "40k", "-c:a", "libvorbis", "-q:a", "0"],
    "palette.gif": picture("40x30", 10, 1),
    "rgba.mov": picture("20x15", 10, 0.5) + ["-c:v", "qtrle", "-pix_fmt", "argb"],
    "flac_24bit.flac": tones(1, 48000, 0.5) + ["-c:a", "flac", "-sample_fmt", "s32"],
    "mp3.mp3": tones(2, 44100, 1) + ["-c:a", "libmp3lame", "-b:a", "48k"],
}


def run(arguments):
    return subprocess.run(arguments, check=True, stdout=subprocess.PIPE).stdout


def has(path, kind):
    streams = run(["ffprobe", "-v", "error", "-select_streams", kind, "-show_entries", "stream=index",
                   "-of", "csv=p=0", str(path)])
    return bool(streams.strip())


def frames_of(path):
    """Sizes and hashes of all frames as the ffmpeg program shows them, upright."""
    text = ["-vsync", "passthrough", "-pix_fmt", "rgb24", "-c:v", "ppm", "-f", "image2pipe", "-"]
    data, hashes = run(["ffmpeg", "-v", "error", "-nostdin", "-i", str(path), "-an"] + text), []
    size = None
    while data:
        magic, size_line, maximum, rest = data.split(b"\n", 3)
        assert magic == b"P6" and maximum == b"255"
        size = [int(word) for word in size_line.split()]
        length = size[0] * size[1] * 3
        hashes.append(hashlib.sha256(rest[:length]).hexdigest()[:16])
        data = rest[length:]
    return size, hashes


def waveform_of(path):
    wav = run(["ffmpeg", "-v", "error", "-nostdin", "-i", str(path), "-async", "1", "-vn", "-acodec", "pcm_s16le",
               "-ar", "16000", "-f", "wav", "-bitexact", "-"])
    channels = struct.unpack("<H", wav[22:24])[0]
    start = wav.index(b"data") + 8
    samples = np.frombuffer(wav[start:], "<i2").reshape(-1, channels)
    return np.mean((samples / np.float32(32768)).T, axis=0, dtype=np.float32)


def write_tensor(path, name, values):
    header = json.dumps({name: {"dtype": "F32", "shape": [len(values)], "data_offsets": [0, 4 * len(values)]}})
    header += " " * (-len(header) % 8)
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + values.astype("<f4").tobytes())


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    counts = list(range(1, 121)) + [135, 149, 150, 299, 300, 375, 449, 450, 451, 900, 1799, 9000, 53946, 215784]
    rows = (f"{n}: " + " ".join(map(str, range(n) if n <= 30 else np.linspace(0, n - 1, 30).astype(int)))
            for n in counts)
    (FOLDER / "linspace.txt").write_text("\n".join(rows) + "\n")
    for name, arguments in CLIPS.items():
        clip = FOLDER / name
        run(QUIET + arguments + KEEP + [str(clip)])
        case = {"clip": name, "made_by": " ".join(arguments)}
        if has(clip, "v"):
            case["size"], case["frames"] = frames_of(clip)
        if has(clip, "a"):
            write_tensor(FOLDER / f"{clip.stem}.safetensors", "waveform", waveform_of(clip))
        (FOLDER / f"{clip.stem}.json").write_text(json.dumps(case, indent=1) + "\n")


if __name__ == "__main__":
    main()

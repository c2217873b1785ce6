#!/usr/bin/env bash
# Times meptr against PyTorch, MediaPipe and Ultralytics on this machine and prints tables of ratios.
# Sets everything up itself, in target/bench (about 8 GB: Python packages, 1.5 GB of seeded random weights).
# Arguments go to benches/compare.py, for example: scripts/bench.sh --rounds 3 --cases clip-30,yolo-30 --skip-predict
# Needs python3 (3.9 to 3.12, with venv) and the program ffmpeg beside what scripts/setup.sh installs.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
for program in python3 ffmpeg; do
    command -v "$program" >/dev/null || { echo "bench: install $program" >&2; exit 2; }
done

place=target/bench
mkdir -p "$place"
if [ ! -e "$place/python/ready" ]; then
    python3 -m venv "$place/python"
    "$place/python/bin/pip" install --quiet torch==2.15.0 torchvision==0.29.2 'transformers==4.57.*' mediapipe==0.10.21 ultralytics==8.3.177 lap
    # Works without a display, in place of the one that the packages above bring.
    "$place/python/bin/pip" install --quiet --force-reinstall --no-deps opencv-contrib-python-headless==4.11.0.86
    touch "$place/python/ready"
fi
python=$place/python/bin/python

cargo build --release --locked --workspace --bins --examples
meptr=target/release/meptr
if [ ! -e "$place/bundle/manifest.json" ]; then
    "$meptr" weights init --preset full --seed 1 "$place/bundle"
fi
if [ ! -e "$place/with-bodies/manifest.json" ]; then
    "$python" benches/make_body_detector.py "$place/yolov8n.pt"
    "$meptr" weights convert --trust-model-objects --out "$place/converted" "$place/yolov8n.pt"
    "$meptr" weights assemble --from "$place/bundle" --body-detector "$place/converted/yolov8n.safetensors" \
        --licence body-detector=none --name full-random --status untrained --out "$place/with-bodies"
fi
if [ ! -e "$place/clip.mp4" ]; then # 15 s of 1280x720 with a face in every picture, and sound
    ffmpeg -v error -y -stream_loop 1 -i samples/portrait.mp4 -t 15 -map 0:v -map 0:a \
        -vf scale=960:720,pad=1280:720:160:0 -c:v libx264 -preset veryfast -pix_fmt yuv420p -c:a aac "$place/clip.mp4"
    echo "We trained for years, and now we are finally here. I can hardly believe it! Look at that view." >"$place/words.txt"
fi

exec "$python" benches/compare.py --meptr "$meptr" --time-backbones target/release/examples/time_backbones \
    --bundle "$place/with-bodies" --video "$place/clip.mp4" --transcript "$place/words.txt" "$@"

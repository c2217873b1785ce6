#!/usr/bin/env bash
# Sets up what is missing, builds meptr, and predicts the bundled sample with the demo weights.
# Arguments go to `meptr predict`, for example: scripts/demo.sh --format json
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
cargo build --release --locked --package meptr-cli
exec target/release/meptr predict --weights demo samples/portrait.mp4 "$@"

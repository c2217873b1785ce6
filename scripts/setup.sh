#!/usr/bin/env bash
# Installs what building meptr needs beside Rust: FFmpeg's development files, clang, pkg-config.
# Does nothing when they are there. Debian and Ubuntu only; elsewhere it says what to install.
set -euo pipefail

packages=(
    build-essential pkg-config clang libclang-dev
    libavcodec-dev libavfilter-dev libavformat-dev libavutil-dev libswscale-dev
)

if ! command -v cargo >/dev/null; then
    echo "setup: Rust is missing: install it (1.89 or later), then run this again" >&2
    exit 2
fi

if command -v dpkg-query >/dev/null && command -v apt-get >/dev/null; then
    missing=()
    for package in "${packages[@]}"; do
        state=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
        [ "$state" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && exit 0
    as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || {
            echo "setup: run as root: apt-get install ${missing[*]}" >&2
            exit 2
        }
        as_root=(sudo)
    fi
    echo "setup: installing ${missing[*]}" >&2
    "${as_root[@]}" apt-get update -qq >&2
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
elif pkg-config --exists libavcodec libavfilter libavformat libavutil libswscale 2>/dev/null; then
    exit 0 # another system with FFmpeg's development files: clang is left to the build to miss
else
    cat >&2 <<'TEXT'
setup: FFmpeg's development files are missing, and this system is not Debian or Ubuntu. Install:
  macOS (Homebrew):  brew install ffmpeg pkg-config llvm
  Fedora:            dnf install ffmpeg-free-devel clang-devel pkgconf gcc
  Arch:              pacman -S ffmpeg clang pkgconf gcc
then run this again.
TEXT
    exit 2
fi

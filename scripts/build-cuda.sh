#!/usr/bin/env bash
# Builds meptr for NVIDIA GPUs, on any Linux x86-64 machine: neither a GPU nor a driver nor an
# installed CUDA toolkit is needed. The program starts on machines without a GPU too.
#
#   scripts/build-cuda.sh              puts `meptr` into target/cuda/bin
#   scripts/build-cuda.sh --checks     and what scripts/gpu-check.sh takes along, in one archive
#
# CUDA_HOME         a toolkit that is there already; without it, one is put together from PyPI
#                   wheels in target/cuda-toolkit (105 MB to download, 270 MB on disk)
# CUDA_COMPUTE_CAP  oldest GPU to run on: 80 (the default) is Ampere and everything since;
#                   90 is H100 and H200 alone
# CUDAFORGE_THREADS how many kernels to compile at a time; by default half the processors
set -euo pipefail
cd "$(dirname "$0")/.."

target=x86_64-unknown-linux-gnu
# A driver refuses kernels of a later CUDA release than its own: 13.0 asks for driver 580.
wheels=(
    nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88
    nvidia-cuda-cccl==13.0.85 nvidia-cuda-runtime==13.0.96
)

# An empty library, to link against something that is only opened at run time.
empty_library() { # FILE SONAME
    gcc -shared -fPIC -x c -Wl,-soname,"$2" -o "$1" /dev/null
}

install_toolkit() { # FOLDER
    local wheelhouse="$1.part"
    rm -rf "$wheelhouse" "$1"
    echo "build-cuda: putting a CUDA 13.0 toolkit together in $1" >&2
    # All in one call: each wheel holds a piece of the one folder nvidia/cu13.
    python3 -m pip install --quiet --disable-pip-version-check --no-deps --no-compile \
        --only-binary=:all: --root-user-action=ignore --target "$wheelhouse" "${wheels[@]}"
    local root="$wheelhouse/nvidia/cu13"
    ln -s lib "$root/lib64" # where nvcc's linker looks
    mkdir -p "$root/lib/stubs"
    # The runtime goes into the program, so that it starts without libcudart.
    rm -f "$root/lib/libcudart.so"
    ln -s libcudart_static.a "$root/lib/libcudart.a"
    empty_library "$root/lib/stubs/libcublas.so" libcublas.so.13
    empty_library "$root/lib/stubs/libcublasLt.so" libcublasLt.so.13
    empty_library "$root/lib/stubs/libcurand.so" libcurand.so.10
    empty_library "$root/lib/stubs/libnvrtc.so" libnvrtc.so.13
    driver_stub "$root"
    mv "$root" "$1" # last, so that a folder of this name is a whole toolkit
    rm -rf "$wheelhouse"
}

# The driver's library, every function of which fails: nvcc's static runtime names some of them.
driver_stub() { # ROOT
    {
        printf '#include <cuda.h>\n' | gcc -E -P -x c -I"$1/include" - |
            grep -oE '\bcu[A-Z][A-Za-z0-9_]*[[:space:]]*\(' | tr -d '( \t'
        printf 'cuProfilerStart\ncuProfilerStop\n'
    } | sort -u | sed 's/.*/int &(void) { return 34; }/' | # 34 is CUDA_ERROR_STUB_LIBRARY
        gcc -shared -fPIC -x c -Wl,-soname,libcuda.so.1 -o "$1/lib/stubs/libcuda.so" -
}

# Stand-ins for FFmpeg's libraries, so that programs start where these are not installed. Every
# function fails; tests and timings that decode nothing call none.
ffmpeg_stubs() { # FOLDER PROGRAM..
    local folder=$1 library node
    shift
    nm -D --undefined-only "$@" | grep -oE '\b(av|sw)[A-Za-z0-9_]+' | sort -u |
        sed 's/.*/int &(void) { return -1; }/' > "$folder/stubs.c"
    readelf -d "$@" | grep -oE 'lib(av|sw)[a-z]+\.so\.[0-9]+' | sort -u |
        while read -r library; do
            node=${library//.so./_} # libavutil.so.57 has the symbols of version LIBAVUTIL_57
            echo "${node^^} { global: *; };" > "$folder/versions"
            gcc -shared -fPIC -Wl,-soname,"$library" -Wl,--version-script="$folder/versions" \
                -o "$folder/$library" "$folder/stubs.c"
        done
    rm -f "$folder/stubs.c" "$folder/versions"
}

scripts/setup.sh
if [ -z "${CUDA_HOME:-}" ]; then
    CUDA_HOME=$PWD/target/cuda-toolkit
    [ -x "$CUDA_HOME/bin/nvcc" ] || { mkdir -p target && install_toolkit "$CUDA_HOME"; }
fi
if ! "$CUDA_HOME/bin/nvcc" --version | grep -q 'release 13\.'; then
    echo "build-cuda: $CUDA_HOME is no CUDA 13, whose libraries the program opens" >&2
    exit 2
fi
export CUDA_HOME CUDA_PATH=$CUDA_HOME PATH=$CUDA_HOME/bin:$PATH
export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-80}

# Candle has its CUDA libraries linked, and a program so linked does not start without them. The
# flag makes `cudarc` open them at run time. Only with --target does it not reach build scripts,
# one of which stops at the contradiction.
options=(
    --release --locked --features cuda --target-dir target/cuda --target "$target"
    --config "target.$target.rustflags=[\"--cfg\", \"feature=\\\"dynamic-loading\\\"\"]"
)
built=target/cuda/$target/release
cargo build --workspace --bins "${options[@]}"

# A program without debug information that opens NVIDIA's libraries only when it needs them.
place() { # FROM TO
    if readelf -d "$1" | grep NEEDED | grep -E 'libcu|libnv'; then
        echo "build-cuda: ${1##*/} would not start on a machine without the above" >&2
        exit 1
    fi
    mkdir -p "${2%/*}"
    strip -o "$2" "$1"
}
place "$built/meptr" target/cuda/bin/meptr

if [ "${1:-}" = --checks ]; then
    tests=(core_tests extract_tests train_tests)
    bundle=$(mktemp -d)
    trap 'rm -rf "$bundle"' EXIT
    cargo build --workspace --examples "${options[@]}"
    cargo test --workspace --no-run "${tests[@]/#/--test=}" "${options[@]}" \
        --message-format=json-render-diagnostics |
        grep -o '"executable":"[^"]*"' | cut -d'"' -f4 | sort -u |
        while read -r program; do
            name=${program##*/}
            name=${name%-*} # without the compiler's hash
            [[ " ${tests[*]} " != *" $name "* ]] || place "$program" "$bundle/tests/$name"
        done
    place "$built/examples/gpu_check" "$bundle/bin/gpu_check"
    cp target/cuda/bin/meptr "$bundle/bin/"
    mkdir "$bundle/stubs"
    ffmpeg_stubs "$bundle/stubs" "$bundle"/{bin,tests}/*
    # The programs hold the same kernels: a dictionary larger than all of them stores these once.
    tar -C "$bundle" -c bin stubs tests | xz -6 --lzma2=preset=6,dict=512MiB > target/cuda/gpu-check.tar.xz
fi
ls -lh target/cuda/bin target/cuda/gpu-check.tar.xz 2>/dev/null >&2 || true

//! Compiles the kernels for NVIDIA GPUs to PTX, with the feature `cuda` only.

use std::env;
use std::path::PathBuf;
use std::process::Command;

const FOLDER: &str = "src/kernels/cuda";
/// Includes the other files.
const SOURCE: &str = "src/kernels/cuda/kernels.cu";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={FOLDER}");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    println!("cargo::rerun-if-env-changed=CUDA_HOME");
    println!("cargo::rerun-if-env-changed=CUDA_COMPUTE_CAP");
    let nvcc = match env::var_os("CUDA_HOME") {
        Some(home) => PathBuf::from(home).join("bin/nvcc"),
        None => "nvcc".into(),
    };
    let oldest = env::var("CUDA_COMPUTE_CAP").unwrap_or_else(|_| "80".into());
    if oldest.trim_end_matches(char::is_alphabetic).parse().is_ok_and(|oldest: u32| oldest < 80) {
        panic!(
            "CUDA_COMPUTE_CAP={oldest}: the kernels need the tensor cores of 80 (Ampere) or later"
        );
    }
    let folder = PathBuf::from(env::var_os("OUT_DIR").expect("Cargo sets it"));
    let status = Command::new(&nvcc)
        .args(["--ptx", "-O3", "-std=c++17", SOURCE, "-o"])
        .arg(folder.join("kernels.ptx"))
        .arg(format!("-arch=compute_{oldest}"))
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{} on {SOURCE}: {status}", nvcc.display()),
        Err(error) => panic!("{}: {error}; scripts/build-cuda.sh installs it", nvcc.display()),
    }
}

//! Questions to the machine when a device is chosen.

/// NVIDIA's libraries that the program needs, each with the package that brings it.
///
/// `cuBLASLt` is opened by cuBLAS itself, from its own folder.
pub(super) const LIBRARIES: [(&str, &str); 3] = [
    ("libcuda.so.1", "the NVIDIA driver"),
    ("libcublas.so.13", "cuBLAS of CUDA 13"),
    ("libcurand.so.10", "cuRAND of CUDA 13"),
];

/// GPUs of a machine, as far as the choice of a device needs them.
pub(super) trait GpuProbe {
    /// An opened GPU.
    type Gpu;

    /// Whether this program was built with CUDA.
    fn is_built_for_gpus(&self) -> bool;

    /// Whether the NVIDIA driver is running, however this program was built.
    fn has_driver(&self) -> bool;

    /// Whether this library can be opened.
    fn opens(&self, library: &str) -> bool;

    /// Number of GPUs that the driver shows, or the reason why it does not say.
    fn count(&self) -> Result<usize, String>;

    /// Opens a GPU and tries it out.
    fn open(&self, number: usize) -> candle::Result<Self::Gpu>;
}

/// Reason why GPU `number` cannot be used, as far as it shows without opening the GPU.
pub(super) fn obstacle(gpus: &impl GpuProbe, number: usize) -> Option<String> {
    if !gpus.is_built_for_gpus() {
        let what = "this program was built without CUDA; scripts/build-cuda.sh builds one with it";
        return Some(what.to_owned());
    }
    let missing: Vec<String> = LIBRARIES
        .iter()
        .filter(|(library, _)| !gpus.opens(library))
        .map(|(library, origin)| format!("{library} ({origin})"))
        .collect();
    if !missing.is_empty() {
        let they = if missing.len() == 1 { "was" } else { "were" };
        return Some(format!(
            "{} {they} not found where libraries are looked for (LD_LIBRARY_PATH adds folders)",
            missing.join(" and ")
        ));
    }
    match gpus.count() {
        Err(why) => Some(format!("the NVIDIA driver cannot be used: {why}")),
        Ok(0) => Some("the NVIDIA driver shows no GPU".to_owned()),
        Ok(count) if number >= count => Some(match count {
            1 => "there is one GPU, cuda:0".to_owned(),
            _ => format!("there are {count} GPUs, cuda:0 to cuda:{}", count - 1),
        }),
        Ok(_) => None,
    }
}

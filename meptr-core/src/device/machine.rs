//! What choosing a device asks the machine.

/// NVIDIA's libraries that the program needs, and what brings each.
///
/// `cuBLASLt` is opened by cuBLAS itself, from its own folder.
pub(super) const LIBRARIES: [(&str, &str); 3] = [
    ("libcuda.so.1", "the NVIDIA driver"),
    ("libcublas.so.13", "cuBLAS of CUDA 13"),
    ("libcurand.so.10", "cuRAND of CUDA 13"),
];

/// A machine, as far as choosing a device goes.
pub(super) trait Machine {
    /// What a GPU is to the caller.
    type Gpu;

    /// Was this program built with CUDA?
    fn is_built_for_gpus(&self) -> bool;

    /// Is the NVIDIA driver running, whatever this program was built with?
    fn has_driver(&self) -> bool;

    /// Can this library be opened?
    fn opens(&self, library: &str) -> bool;

    /// How many GPUs the driver shows, or why it does not say.
    fn gpus(&self) -> Result<usize, String>;

    /// Opens a GPU and tries it out.
    fn open(&self, number: usize) -> candle::Result<Self::Gpu>;
}

/// Why GPU `number` cannot be had, so far as that can be said without opening it.
pub(super) fn obstacle(machine: &impl Machine, number: usize) -> Option<String> {
    if !machine.is_built_for_gpus() {
        let what = "this program was built without CUDA; scripts/build-cuda.sh builds one with it";
        return Some(what.to_owned());
    }
    let missing: Vec<String> = LIBRARIES
        .iter()
        .filter(|(library, _)| !machine.opens(library))
        .map(|(library, origin)| format!("{library} ({origin})"))
        .collect();
    if !missing.is_empty() {
        let they = if missing.len() == 1 { "was" } else { "were" };
        return Some(format!(
            "{} {they} not found where libraries are looked for (LD_LIBRARY_PATH adds folders)",
            missing.join(" and ")
        ));
    }
    match machine.gpus() {
        Err(why) => Some(format!("the NVIDIA driver cannot be used: {why}")),
        Ok(0) => Some("the NVIDIA driver shows no GPU".to_owned()),
        Ok(count) if number >= count => Some(match count {
            1 => "there is one GPU, cuda:0".to_owned(),
            _ => format!("there are {count} GPUs, cuda:0 to cuda:{}", count - 1),
        }),
        Ok(_) => None,
    }
}

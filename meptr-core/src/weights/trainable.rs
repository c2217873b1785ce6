//! Parameters to be trained: named variables, initialised by seed or taken from given tensors.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use candle::{DType, Device, Result, Shape, Tensor, Var};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};

use crate::rng::{RandomStream, SeedStreams};

/// The trainable part of a model: what its `load` asks [`Trainable::builder`] for becomes a
/// variable.
///
/// Tensors loaded through another `VarBuilder` are frozen; there is no separate freeze flag.
#[derive(Debug)]
pub struct Trainable {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    start: Start,
    parameters: Mutex<BTreeMap<String, Var>>,
}

#[derive(Debug)]
enum Start {
    Fresh(SeedStreams),
    From(BTreeMap<String, Tensor>),
}

impl Trainable {
    /// Starts from random values, with the distribution that each layer states for each parameter.
    ///
    /// A parameter's values depend on the seed, its name and its shape, not on the order in which
    /// parameters are asked for.
    pub fn new(seeds: SeedStreams) -> Self {
        Self::with(Start::Fresh(seeds))
    }

    /// Starts from these tensors, which must have every name that the model asks for.
    pub fn from_tensors(tensors: BTreeMap<String, Tensor>) -> Self {
        Self::with(Start::From(tensors))
    }

    fn with(start: Start) -> Self {
        Self { shared: Arc::new(Shared { start, parameters: Mutex::default() }) }
    }

    /// Builder to load the trainable part of a model from; its parameters are f32.
    pub fn builder(&self, device: &Device) -> VarBuilder<'static> {
        let backend: Box<dyn SimpleBackend> = Box::new(Backend(Arc::clone(&self.shared)));
        VarBuilder::new_with_args(backend, DType::F32, device)
    }

    /// The variables asked for so far, in the order of their names.
    pub fn by_name(&self) -> BTreeMap<String, Var> {
        self.shared.parameters().clone()
    }

    /// Names of given tensors that no model asked for.
    pub fn unused(&self) -> Vec<String> {
        let Start::From(tensors) = &self.shared.start else { return Vec::new() };
        let parameters = self.shared.parameters();
        tensors.keys().filter(|name| !parameters.contains_key(*name)).cloned().collect()
    }
}

impl Shared {
    fn parameters(&self) -> MutexGuard<'_, BTreeMap<String, Var>> {
        self.parameters.lock().expect("no other thread panics with the lock")
    }

    fn start(&self, name: &str, shape: &Shape, init: Init, device: &Device) -> Result<Tensor> {
        match &self.start {
            Start::Fresh(seeds) => {
                drawn(&mut seeds.stream(&format!("init {name}")), shape, init, device)
            }
            Start::From(tensors) => match tensors.get(name) {
                None => candle::bail!("`{name}` {:?} is missing", shape.dims()),
                Some(tensor) if tensor.shape() != shape => candle::bail!(
                    "`{name}` has the shape {:?}, the model needs {:?}",
                    tensor.dims(),
                    shape.dims()
                ),
                Some(tensor) => tensor.to_device(device)?.to_dtype(DType::F32),
            },
        }
    }
}

#[derive(Debug)]
struct Backend(Arc<Shared>);

impl SimpleBackend for Backend {
    fn get(&self, s: Shape, name: &str, init: Init, _: DType, dev: &Device) -> Result<Tensor> {
        if let Some(parameter) = self.0.parameters().get(name) {
            if parameter.shape() != &s {
                candle::bail!("`{name}` is asked for with two shapes");
            }
            return Ok(parameter.as_tensor().clone());
        }
        let parameter = Var::from_tensor(&self.0.start(name, &s, init, dev)?)?; // copies
        let tensor = parameter.as_tensor().clone();
        self.0.parameters().insert(name.to_owned(), parameter);
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        candle::bail!("`{name}` was asked for without a shape")
    }

    fn contains_tensor(&self, name: &str) -> bool {
        match &self.0.start {
            Start::Fresh(_) => false, // models then use the older spelling of a name
            Start::From(tensors) => tensors.contains_key(name),
        }
    }
}

/// Random values, drawn on the CPU in row-major order, so that every device starts the same.
fn drawn(stream: &mut RandomStream, shape: &Shape, init: Init, device: &Device) -> Result<Tensor> {
    let count = shape.elem_count();
    let values: Vec<f32> = match init {
        Init::Const(value) => vec![value as f32; count],
        Init::Uniform { lo, up } => {
            (0..count).map(|_| (lo + (up - lo) * stream.uniform()) as f32).collect()
        }
        Init::Randn { mean, stdev } => {
            (0..count).map(|_| (mean + stdev * stream.normal()) as f32).collect()
        }
        Init::Kaiming { .. } => candle::bail!("layers state their bounds instead of `{init:?}`"),
    };
    Tensor::from_vec(values, shape, device)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPREAD: Init = Init::Uniform { lo: -0.5, up: 0.5 };

    fn fresh(seed: u64) -> Trainable {
        Trainable::new(SeedStreams::new(seed))
    }

    #[test]
    fn values_depend_on_seed_and_name_but_not_on_the_order() -> Result<()> {
        let get = |trainable: &Trainable, name: &str| -> Result<Vec<f32>> {
            trainable.builder(&Device::Cpu).get_with_hints(4, name, SPREAD)?.to_vec1()
        };
        let (one, other) = (fresh(1), fresh(1));
        let (a, b) = (get(&one, "a")?, get(&one, "b")?);
        assert_eq!((get(&other, "b")?, get(&other, "a")?), (b.clone(), a.clone()));
        assert_ne!(a, b);
        assert_ne!(a, get(&fresh(2), "a")?);
        assert!(a.iter().all(|value| (-0.5..0.5).contains(value)));
        Ok(())
    }

    #[test]
    fn a_name_asked_for_twice_is_one_variable_and_writes_are_seen() -> Result<()> {
        let trainable = fresh(1);
        let vb = trainable.builder(&Device::Cpu).pp("layer");
        let first = vb.get_with_hints(2, "weight", SPREAD)?;
        let second = vb.get_with_hints(2, "weight", SPREAD)?;
        assert_eq!(first.id(), second.id());
        assert!(vb.get(3, "weight").is_err());
        let parameters = trainable.by_name();
        parameters["layer.weight"].set(&Tensor::new(&[7.0f32, 8.0], &Device::Cpu)?)?;
        assert_eq!(first.to_vec1::<f32>()?, [7.0, 8.0]);
        Ok(())
    }

    #[test]
    fn given_tensors_must_fit_and_are_not_written_to() -> Result<()> {
        let given = Tensor::new(&[1.0f32, 2.0], &Device::Cpu)?;
        let tensors = BTreeMap::from([("a".into(), given.clone()), ("z".into(), given.clone())]);
        let trainable = Trainable::from_tensors(tensors);
        let vb = trainable.builder(&Device::Cpu);
        assert!(vb.get(2, "b").is_err() && vb.get(3, "a").is_err());
        vb.get(2, "a")?;
        trainable.by_name()["a"].set(&Tensor::zeros(2, DType::F32, &Device::Cpu)?)?;
        assert_eq!(given.to_vec1::<f32>()?, [1.0, 2.0]);
        assert_eq!(trainable.unused(), ["z"]);
        Ok(())
    }
}

//! Seeded weights without a file: name, shape and seed determine the values on every machine.
//!
//! The rule is a small integer hash, so that any language can rebuild it, and every value is exact
//! in f16. It gives reference tests their weights and `meptr weights init` its bundles; it is not
//! the initialisation that training starts from.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use candle::{DType, Device, Result, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use rayon::prelude::*;

/// Builds a model from generated weights; returns it with every tensor it asked for, by name.
///
/// # Errors
/// When `build` does.
pub fn generate<M>(
    seed: u64,
    device: &Device,
    build: impl FnOnce(VarBuilder) -> Result<M>,
) -> Result<(M, BTreeMap<String, Tensor>)> {
    let made = Arc::new(Mutex::new(BTreeMap::new()));
    let backend: Box<dyn SimpleBackend> = Box::new(Generator { seed, made: Arc::clone(&made) });
    let model = build(VarBuilder::new_with_args(backend, DType::F32, device))?;
    let tensors = std::mem::take(&mut *made.lock().expect("no other thread panics with the lock"));
    Ok((model, tensors))
}

/// The generated values of one tensor, f32.
///
/// Tensors that scale a normalised quantity (`weight` of one dimension, `weight_g`, `original0`,
/// `running_var`) lie around 1, all others around 0 with a spread that keeps layers stable.
///
/// # Errors
/// When the device has no memory for it.
pub fn generated_tensor(name: &str, shape: &Shape, seed: u64, device: &Device) -> Result<Tensor> {
    let base = fnv1a64(name.as_bytes()) ^ seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let scales_a_norm = scales_a_norm(name, shape);
    let scale = scale(name, shape);
    let values: Vec<f32> = (0..shape.elem_count())
        .into_par_iter()
        .with_min_len(1 << 16)
        .map(|index| {
            let level = level(base, index as u64);
            if scales_a_norm {
                1.0 + (level >> 1) as f32 / 1024.0
            } else {
                (2 * level + 1) as f32 / 1024.0 * scale
            }
        })
        .collect();
    Tensor::from_vec(values, shape, device)
}

struct Generator {
    seed: u64,
    made: Arc<Mutex<BTreeMap<String, Tensor>>>,
}

impl SimpleBackend for Generator {
    fn get(&self, s: Shape, name: &str, _: Init, dtype: DType, dev: &Device) -> Result<Tensor> {
        let tensor = generated_tensor(name, &s, self.seed, dev)?;
        let mut made = self.made.lock().expect("no other thread panics with the lock");
        made.insert(name.to_owned(), tensor.clone());
        tensor.to_dtype(dtype)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        candle::bail!("`{name}` was asked for without a shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        false // see the module's doc: models then use the older spelling
    }
}

fn fnv1a64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}

/// Whole number in -512..=511.
fn level(base: u64, index: u64) -> i32 {
    let z = base
        .wrapping_add(index.wrapping_mul(0xD134_2543_DE82_EF95))
        .wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 54) as i32 - 512
}

fn scales_a_norm(name: &str, shape: &Shape) -> bool {
    match last_segment(name) {
        "weight_g" | "original0" | "running_var" => true,
        "weight" => shape.rank() == 1,
        _ => false,
    }
}

fn scale(name: &str, shape: &Shape) -> f32 {
    let is_query = name.ends_with("emo_query") || name.ends_with("pkl_query") || name == "query";
    if is_query || name.ends_with("guide.embeddings") || name.contains("guide_bank") {
        return 2.0;
    }
    if last_segment(name) == "a" {
        return 0.125;
    }
    if shape.rank() >= 2 {
        let fan_in: usize = shape.dims()[1..].iter().product();
        return (3.0 / fan_in as f64).sqrt().log2().round_ties_even().exp2() as f32;
    }
    0.0625
}

fn last_segment(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reference: the values that the program gave, in another language, which made the weights of
    /// `tests/golden`; seed 14.
    #[test]
    fn values_equal_the_published_check_values() -> Result<()> {
        let base = fnv1a64(b"emo_head.bias") ^ 14u64.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let levels: Vec<i32> = (0..7).map(|index| level(base, index)).collect();
        assert_eq!(levels, [328, 484, 385, 370, -355, -88, -24]);

        let first = |name: &str, shape: &[usize]| -> Result<Vec<f32>> {
            let tensor = generated_tensor(name, &Shape::from(shape), 14, &Device::Cpu)?;
            tensor.flatten_all()?.narrow(0, 0, 4)?.to_vec1()
        };
        let weight = first("emo_head.weight", &[7, 256])?;
        assert_eq!(weight, [0.005_981_445_3, -0.081_909_18, 0.015_747_07, -0.017_700_195]);
        let norm = first("projectors.body.0.proj.3.weight", &[256])?;
        assert_eq!(norm, [0.830_078_1, 1.104_492_2, 0.998_046_9, 0.894_531_25]);
        Ok(())
    }

    #[test]
    fn every_value_is_exact_in_f16() -> Result<()> {
        let shape = Shape::from((64, 300));
        let tensor = generated_tensor("layer.weight", &shape, 3, &Device::Cpu)?;
        let rounded = tensor.to_dtype(DType::F16)?.to_dtype(DType::F32)?;
        assert_eq!(tensor.to_vec2::<f32>()?, rounded.to_vec2::<f32>()?);
        Ok(())
    }
}

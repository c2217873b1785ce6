//! Deals the rows of an epoch into batches.

use meptr_core::rng::SeedStreams;

/// Sampler of batches: the rows of each batch of an epoch.
#[derive(Debug, Clone)]
pub enum Sampler {
    /// In a new random order each epoch, the same one for the same seed and epoch.
    Shuffled {
        /// Rows per batch, at least 1; the last batch may have fewer.
        batch_size: usize,
        /// Random streams of the orders.
        seeds: SeedStreams,
    },
    /// These batches of rows in every epoch.
    Fixed(Vec<Vec<u32>>),
}

impl Sampler {
    /// The batches of an epoch, over `rows` rows.
    pub fn batches(&self, epoch: usize, rows: usize) -> Vec<Vec<u32>> {
        self.pass(&format!("order {epoch}"), rows)
    }

    /// All rows once, in the order of that name.
    pub(crate) fn pass(&self, name: &str, rows: usize) -> Vec<Vec<u32>> {
        match self {
            Self::Fixed(batches) => batches.clone(),
            Self::Shuffled { batch_size, seeds } => {
                let mut order: Vec<u32> = (0u32..).take(rows).collect();
                seeds.stream(name).shuffle(&mut order);
                order.chunks((*batch_size).max(1)).map(<[u32]>::to_vec).collect()
            }
        }
    }

    /// Batches per epoch.
    pub fn batches_per_epoch(&self, rows: usize) -> usize {
        match self {
            Self::Fixed(batches) => batches.len(),
            Self::Shuffled { batch_size, .. } => rows.div_ceil((*batch_size).max(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_epoch_has_every_row_once_in_its_own_order() {
        let sampler = Sampler::Shuffled { batch_size: 4, seeds: SeedStreams::new(1) };
        let first = sampler.batches(1, 10);
        assert_eq!(first.len(), sampler.batches_per_epoch(10));
        assert_eq!(first, sampler.batches(1, 10));
        assert_ne!(first, sampler.batches(2, 10));
        let mut rows = first.concat();
        rows.sort_unstable();
        assert_eq!(rows, (0..10).collect::<Vec<u32>>());
    }
}

//! Times the products and the attention of the processor: `cargo bench --workspace --bench kernels`.
//!
//! Throughput is in elements, an element being one operation: `Gelem/s` reads as GFLOP/s.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use meptr_extract::Precision;
use meptr_extract::backbones::Activation;
use meptr_extract::product::{Attend, Ending, Part, Rows, attend, multiply};

fn wave(count: usize) -> Vec<f32> {
    (0..count).map(|at| (at as f32 * 0.37).sin()).collect()
}

/// Rows, depth and outputs of the layers of CLIP, BERT and Wav2Vec2.
const PRODUCTS: [(usize, usize, usize); 5] =
    [(50, 768, 2304), (50, 3072, 768), (400, 768, 3072), (512, 3072, 768), (749, 1024, 4096)];

fn products(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("product");
    for (count, depth, outputs) in PRODUCTS {
        let (numbers, weight, bias) = (wave(count * depth), wave(outputs * depth), wave(outputs));
        let rows = Rows { numbers: &numbers, step: depth, count };
        let part = Part { offset: 0, weight: &weight, depth, bias: &bias, scale: 1.0 };
        group.throughput(Throughput::Elements(2 * (count * depth * outputs) as u64));
        for (name, ending) in
            [("linear", Ending::Linear), ("gelu", Ending::Activated(Activation::Gelu))]
        {
            let id = BenchmarkId::new(name, format!("{count}x{depth}x{outputs}"));
            group.bench_function(id, |bencher| {
                bencher.iter(|| multiply(Precision::F32, black_box(rows), &[part], ending));
            });
        }
    }
    group.finish();
}

fn attention(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("attention");
    for (batch, time, heads) in [(8, 50, 12), (1, 512, 12), (1, 749, 16)] {
        let head_width = 64;
        let query_key_value = wave(3 * batch * time * heads * head_width);
        let lengths = vec![time; batch];
        let sequences = Attend {
            query_key_value: &query_key_value,
            time,
            lengths: &lengths,
            heads,
            head_width,
        };
        let operations = 4 * batch * heads * time * time * head_width;
        group.throughput(Throughput::Elements(operations as u64));
        group.bench_function(format!("{batch}x{time}x{heads}"), |bencher| {
            bencher.iter(|| attend(Precision::F32, black_box(sequences)));
        });
    }
    group.finish();
}

criterion_group!(kernels, products, attention);
criterion_main!(kernels);

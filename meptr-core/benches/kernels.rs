//! Times GEMM and attention on the CPU: `cargo bench -p meptr-core --features benches`.
//!
//! Throughput is in elements, an element being one operation: `Gelem/s` reads as GFLOP/s.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use meptr_core::Precision;
use meptr_core::kernels::Activation;
use meptr_core::kernels::cpu::{
    AttentionArgs, Epilogue, GemmArgs, GemmRows, GemmWeights, attention, gemm,
};

fn wave(count: usize) -> Vec<f32> {
    (0..count).map(|at| (at as f32 * 0.37).sin()).collect()
}

/// Rows, depth and outputs of the layers of CLIP, BERT and Wav2Vec2.
const SHAPES: [(usize, usize, usize); 5] =
    [(50, 768, 2304), (50, 3072, 768), (400, 768, 3072), (512, 3072, 768), (749, 1024, 4096)];

fn time_gemm(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("gemm");
    for (count, depth, outputs) in SHAPES {
        let (values, weight, bias) = (wave(count * depth), wave(outputs * depth), wave(outputs));
        let rows = GemmRows { values: &values, stride: depth, count };
        let weights = [GemmWeights { offset: 0, weight: &weight, depth, bias: &bias, scale: 1.0 }];
        group.throughput(Throughput::Elements(2 * (count * depth * outputs) as u64));
        for (name, epilogue) in
            [("linear", Epilogue::Identity), ("gelu", Epilogue::Activation(Activation::Gelu))]
        {
            let id = BenchmarkId::new(name, format!("{count}x{depth}x{outputs}"));
            let args = GemmArgs { rows, weights: &weights, epilogue };
            group.bench_function(id, |bencher| {
                bencher.iter(|| gemm(Precision::F32, black_box(args)));
            });
        }
    }
    group.finish();
}

fn time_attention(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("attention");
    for (batch, time, heads) in [(8, 50, 12), (1, 512, 12), (1, 749, 16)] {
        let head_width = 64;
        let query_key_value = wave(3 * batch * time * heads * head_width);
        let lengths = vec![time; batch];
        let args = AttentionArgs {
            query_key_value: &query_key_value,
            time,
            lengths: &lengths,
            heads,
            head_width,
        };
        let operations = 4 * batch * heads * time * time * head_width;
        group.throughput(Throughput::Elements(operations as u64));
        group.bench_function(format!("{batch}x{time}x{heads}"), |bencher| {
            bencher.iter(|| attention(Precision::F32, black_box(args)));
        });
    }
    group.finish();
}

criterion_group!(kernels, time_gemm, time_attention);
criterion_main!(kernels);

//! GEMM and attention on the tile registers of x86-64 CPUs with AMX (Advanced Matrix Extensions).
//!
//! A tile multiplication multiplies bf16 values (8 significant bits) and accumulates in f32, 32
//! times as many at a time as a vector instruction does in f32. An f32 value has 24 significant bits
//! and is the exact sum of three bf16 terms ([`bf16_split`]). Six of the nine products of terms are
//! accumulated; the other three together are at most `2^-24` of the product, the rounding error of
//! f32. Sums are as exact as those of the SIMD kernels, because 32 depths are summed apart before
//! they meet the long sum, which then rounds six times where a chain of multiply-adds rounds 32
//! times (measured against f64 on 768 depths: error 2.1e-7 of the result, 2.9e-7 with SIMD). Values
//! that are not finite, or within half a bf16 step of the largest finite value, give NaN; terms
//! below the least normal number count as 0.
//!
//! With one term instead of three, the result is a bf16 GEMM with f32 accumulation.
//!
//! Weights are the left operand, row by row as they lie; rows are the right operand, whose tiles
//! hold pairs of depths side by side. The result is transposed: outputs by rows.

mod accumulators;
mod attention;
mod bf16_split;
mod gemm;
mod microkernel;
mod registers;
mod softmax;

pub(super) use attention::attention;
pub(super) use bf16_split::Bf16Terms;
pub(super) use gemm::gemm;
pub(super) use registers::Amx;

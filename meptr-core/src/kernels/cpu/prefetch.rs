//! Prefetch instructions for memory that is needed soon.

/// Prefetch into the first-level cache. Hints are those of x86-64; other CPUs get none.
pub(super) const L1: i32 = 3;
/// Prefetch into the second-level cache.
pub(super) const L2: i32 = 2;
/// Prefetch into the first-level cache for writing.
#[cfg(target_arch = "x86_64")]
pub(super) const L1_WRITE: i32 = 7;

/// Prefetches the cache line at an address, which need not be mapped.
#[inline(always)]
pub(super) fn prefetch<const HINT: i32>(address: *const impl Sized) {
    #[cfg(target_arch = "x86_64")]
    #[expect(unsafe_code, reason = "prefetching is only reachable as an intrinsic")]
    // SAFETY: a prefetch reads nothing; any address is allowed.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<HINT>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

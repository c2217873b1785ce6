//! Memory that is needed soon, fetched while something else is computed.

/// Fetch to the first-level cache: the hints of x86-64, which other CPUs are not given.
pub(super) const NEAR: i32 = 3;
/// Fetch to the second-level cache.
pub(super) const FAR: i32 = 2;
/// Fetch to the first-level cache what is to be written.
#[cfg(target_arch = "x86_64")]
pub(super) const TO_WRITE: i32 = 7;

/// Fetches what stands at a place, if anything does.
#[inline(always)]
pub(super) fn prefetch<const HINT: i32>(place: *const impl Sized) {
    #[cfg(target_arch = "x86_64")]
    #[expect(unsafe_code, reason = "prefetching is only reachable as an intrinsic")]
    // SAFETY: a prefetch reads nothing; any address is allowed.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<HINT>(place.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

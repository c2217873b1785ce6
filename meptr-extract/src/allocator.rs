//! Memory that the allocator keeps.

/// Bytes up to which glibc's allocator keeps what was freed for the next that ask: the most it allows.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_BYTES: i32 = 32 << 20;
/// Free bytes at the end of its memory from which on it gives them back by itself.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_AT_THE_END: i32 = 64 << 20;

/// Has the allocator, where it is glibc's, keep the memory of tensors for the next ones, which else
/// come from the system page by page, and has all threads share one arena: else each thread has some
/// of its own, and what it freed there is of use to no other. For the start of a program that does
/// little else than reading videos.
pub fn keep() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[expect(unsafe_code, reason = "there is no other way to ask")]
    // SAFETY: the calls set limits of the allocator.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, KEPT_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_AT_THE_END);
    }
}

/// Gives memory that was freed back to the system, where the allocator is glibc's: it would keep
/// what pictures and sounds took while the next model's weights come in.
pub(crate) fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[expect(unsafe_code, reason = "there is no other way to ask")]
    // SAFETY: the call only gives back what nothing points to.
    unsafe {
        libc::malloc_trim(0);
    }
}

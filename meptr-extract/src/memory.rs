//! Memory that the allocator keeps.

/// Has all threads share one arena of the allocator, where it is glibc's: else each thread has some
/// of its own, and what it freed there is of use to no other. For the start of a program that does
/// little else than reading videos.
pub fn share_arena() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[expect(unsafe_code, reason = "there is no other way to ask")]
    // SAFETY: the call sets a limit of the allocator.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
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

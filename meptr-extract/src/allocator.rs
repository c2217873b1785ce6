//! Settings of the memory allocator.

/// Size in bytes up to which glibc reuses freed blocks instead of returning them: the maximum.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MMAP_THRESHOLD_BYTES: i32 = 32 << 20;
/// Free bytes at the top of the heap from which on glibc returns them to the system.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const TRIM_THRESHOLD_BYTES: i32 = 64 << 20;

/// Keeps freed tensor memory in one glibc arena instead of returning it to the system.
///
/// Without this, the memory of large tensors is mapped anew page by page, and each thread has an arena
/// whose free memory no other thread can use. Call it at the start of a program that processes
/// videos. Does nothing with other allocators.
pub fn keep() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[expect(unsafe_code, reason = "glibc has no safe interface for this")]
    // SAFETY: the calls set limits of the allocator.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES);
    }
}

/// Returns freed memory to the system, so that the memory of images and sounds is not kept while the
/// next model reads its weights. Does nothing with other allocators than glibc's.
pub(crate) fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[expect(unsafe_code, reason = "glibc has no safe interface for this")]
    // SAFETY: the call only returns memory that nothing points to.
    unsafe {
        libc::malloc_trim(0);
    }
}

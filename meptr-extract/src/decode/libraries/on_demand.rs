//! Functions of FFmpeg that find their library at the first call.
//!
//! Each function of ours is `jmp *slot`. A slot first holds the address of a few instructions that
//! call [`function_at`] with the slot, all arguments saved, and go on to what it returns; [`load`]
//! puts the addresses of the library's functions there. Our functions are hidden from FFmpeg's
//! libraries, which call their own.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use ffmpeg_next::ffi;
use libloading::Library;

use super::functions::for_all_functions;
use crate::{Error, Result};

/// The functions of a library, in the order of their slots.
struct Functions {
    library: &'static str,
    major: i32,
    names: &'static [&'static str],
}

impl Functions {
    /// The library's name for the dynamic linker: that of the release whose headers were compiled.
    fn file(&self) -> String {
        format!("lib{}.so.{}", self.library, self.major)
    }

    fn open(&self) -> Result<Library> {
        #[expect(unsafe_code, reason = "loading a library runs its initialisers")]
        // SAFETY: FFmpeg's libraries have no requirements on when they are initialised; the dynamic
        // linker would run the same code before `main`.
        let library = unsafe { Library::new(self.file()) };
        library.map_err(|source| Error::LoadFfmpeg {
            library: self.file(),
            package: format!("lib{}{}", self.library, self.major),
            source: source.into(),
        })
    }
}

/// Address of a library's function, if there is one of that name.
fn address(library: &Library, name: &str) -> Option<usize> {
    #[expect(unsafe_code, reason = "the library cannot say what type a symbol has")]
    // SAFETY: only the address is taken; what calls it got its type from the headers of this release.
    let symbol = unsafe { library.get::<*const ()>(name) };
    symbol.ok().map(|symbol| *symbol as usize)
}

static LOADED: OnceLock<Vec<Library>> = OnceLock::new();
static LOADING: Mutex<()> = Mutex::new(());

/// Loads all libraries and points all functions to them, unless that is done.
pub(super) fn load() -> Result<&'static [Library]> {
    if let Some(libraries) = LOADED.get() {
        return Ok(libraries);
    }
    let _guard = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(libraries) = LOADED.get() {
        return Ok(libraries);
    }
    let libraries = FUNCTIONS.iter().map(Functions::open).collect::<Result<Vec<_>>>()?;
    let found = FUNCTIONS
        .iter()
        .zip(&libraries)
        .flat_map(|(functions, library)| functions.names.iter().map(|name| address(library, name)));
    for (slot, address) in slots().iter().zip(found) {
        if let Some(address) = address {
            slot.store(address, Ordering::Release);
        }
    }
    Ok(LOADED.get_or_init(|| libraries))
}

/// What the function of a slot is, for a call before [`load`]; ends the program where there is none,
/// since such a call has no way to fail.
extern "C" fn function_at(slot: &AtomicUsize) -> usize {
    let index = slots().iter().position(|other| std::ptr::eq(slot, other));
    let index = index.expect("called with the address of a slot");
    let functions = FUNCTIONS.iter().enumerate();
    let mut functions =
        functions.flat_map(|(at, all)| all.names.iter().map(move |name| (at, name)));
    let (at, name) = functions.nth(index).expect("as many names as slots");
    let found = load().map(|libraries| address(&libraries[at], name));
    let why = match found {
        Ok(Some(address)) => return address,
        Ok(None) => format!("{} has no function `{name}`", FUNCTIONS[at].file()),
        Err(error) => with_cause(&error),
    };
    tracing::error!("{why}");
    std::process::abort()
}

/// The error and its cause in one line.
fn with_cause(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn slots() -> &'static [AtomicUsize; COUNT] {
    #[expect(unsafe_code, reason = "the slots are defined in the assembly below")]
    // SAFETY: as many initialised, aligned words as there are functions, read and written as atomic
    // ones; the jumps below read theirs in one aligned load, which x86-64 makes whole.
    unsafe {
        &meptr_ffmpeg_slots
    }
}

#[expect(unsafe_code, reason = "the slots are defined in the assembly below")]
// SAFETY: the label is defined there, for as many words.
unsafe extern "C" {
    static meptr_ffmpeg_slots: [AtomicUsize; COUNT];
}

macro_rules! define_functions {
    ($($library:literal $major:ident { $($function:ident)* })*) => {
        const FUNCTIONS: &[Functions] = &[$(Functions {
            library: $library,
            major: ffi::$major,
            names: &[$(stringify!($function)),*],
        }),*];
        const COUNT: usize = [$($(stringify!($function)),*),*].len();

        // SAFETY: `meptr_ffmpeg_resolve` is entered with the address of a slot on top of the stack and
        // the caller's return address below it, so the stack is aligned to 16 bytes. It saves every
        // register that may hold an argument (rdi, rsi, rdx, rcx, r8, r9, xmm0 to 7, and rax, which
        // counts the latter in calls with `...`), calls `function_at` on an aligned stack, restores
        // them, drops the slot and jumps to the function, which finds the stack and the registers as
        // the caller left them. r11 belongs to nobody between a call and its function.
        #[expect(unsafe_code, reason = "a jump to an address found later cannot be said in Rust")]
        mod assembly {
            core::arch::global_asm!(
                ".macro meptr_ffmpeg_function name",
                ".section .text.meptr_ffmpeg,\"ax\",@progbits",
                ".globl \\name",
                ".hidden \\name",
                ".type \\name, @function",
                ".p2align 4",
                "\\name:",
                "jmpq *.Lmeptr_slot_of_\\name(%rip)",
                ".Lmeptr_first_call_of_\\name:",
                "leaq .Lmeptr_slot_of_\\name(%rip), %r11",
                "pushq %r11",
                "jmp .Lmeptr_ffmpeg_resolve",
                ".size \\name, . - \\name",
                ".section .data.meptr_ffmpeg,\"aw\",@progbits",
                ".Lmeptr_slot_of_\\name:",
                ".quad .Lmeptr_first_call_of_\\name",
                ".endm",
                ".section .text.meptr_ffmpeg,\"ax\",@progbits",
                ".Lmeptr_ffmpeg_resolve:",
                "pushq %rax",
                "pushq %rdi",
                "pushq %rsi",
                "pushq %rdx",
                "pushq %rcx",
                "pushq %r8",
                "pushq %r9",
                "subq $136, %rsp",
                "movaps %xmm0, (%rsp)",
                "movaps %xmm1, 16(%rsp)",
                "movaps %xmm2, 32(%rsp)",
                "movaps %xmm3, 48(%rsp)",
                "movaps %xmm4, 64(%rsp)",
                "movaps %xmm5, 80(%rsp)",
                "movaps %xmm6, 96(%rsp)",
                "movaps %xmm7, 112(%rsp)",
                "movq 192(%rsp), %rdi",
                "call {function_at}",
                "movq %rax, %r11",
                "movaps (%rsp), %xmm0",
                "movaps 16(%rsp), %xmm1",
                "movaps 32(%rsp), %xmm2",
                "movaps 48(%rsp), %xmm3",
                "movaps 64(%rsp), %xmm4",
                "movaps 80(%rsp), %xmm5",
                "movaps 96(%rsp), %xmm6",
                "movaps 112(%rsp), %xmm7",
                "addq $136, %rsp",
                "popq %r9",
                "popq %r8",
                "popq %rcx",
                "popq %rdx",
                "popq %rsi",
                "popq %rdi",
                "popq %rax",
                "leaq 8(%rsp), %rsp",
                "jmpq *%r11",
                ".section .data.meptr_ffmpeg,\"aw\",@progbits",
                ".p2align 3",
                ".globl meptr_ffmpeg_slots",
                ".hidden meptr_ffmpeg_slots",
                "meptr_ffmpeg_slots:",
                $($(concat!("meptr_ffmpeg_function ", stringify!($function)),)*)*
                ".purgem meptr_ffmpeg_function",
                ".text",
                function_at = sym super::function_at,
                options(att_syntax),
            );
        }
    };
}

for_all_functions!(define_functions);

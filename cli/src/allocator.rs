//! The allocator of the C library, told to give back what is freed.
//!
//! Left alone it gives threads arenas of their own, up to eight a core, and takes ever larger blocks from them: what a
//! query had and freed stays with the process, and fragments. Under a hard limit of memory that is most of what is used
//! beyond it.

/// From this size on, a block is a mapping of its own, which goes when it is freed. Batches are smaller, what operators
/// gather is larger.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const OWN_MAPPING_BYTES: libc::c_int = 256 << 10;
/// What an arena may keep at its end.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_BYTES: libc::c_int = 16 << 20;

/// To be called before threads are started. Does nothing with other C libraries, nor to what the environment says already.
pub fn give_back(cores: usize) {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let arenas = libc::c_int::try_from(cores.max(2)).unwrap_or(libc::c_int::MAX);
        for (variable, parameter, value) in [
            ("MALLOC_ARENA_MAX", libc::M_ARENA_MAX, arenas),
            ("MALLOC_MMAP_THRESHOLD_", libc::M_MMAP_THRESHOLD, OWN_MAPPING_BYTES),
            ("MALLOC_TRIM_THRESHOLD_", libc::M_TRIM_THRESHOLD, KEPT_BYTES),
        ] {
            if std::env::var_os(variable).is_none() {
                // SAFETY: it takes the allocator's own lock and changes how it goes on; nothing that was given out moves.
                unsafe { libc::mallopt(parameter, value) };
            }
        }
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    let _ = cores;
}

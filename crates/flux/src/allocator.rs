//! Settings of the C library's memory allocator.
//!
//! A broker makes and drops buffers all the time, and so does a command that carries files. Left
//! alone the allocator gives memory back and takes it again for every few messages, and each page
//! taken anew is cleared by the kernel.

/// Bytes of free memory the allocator keeps rather than gives back.
const KEEP_FREE: i32 = 16 << 20;
/// Bytes it takes from the system at once.
const TAKE_AT_ONCE: i32 = 1 << 20;
/// The size from which an allocation is a mapping of its own.
const OWN_MAPPING: i32 = 4 << 20;

/// Sets it up, before there is a second thread.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "no safe interface to the allocator's settings")]
pub(crate) fn tune() {
    let settings = [
        (libc::M_TRIM_THRESHOLD, KEEP_FREE),
        (libc::M_TOP_PAD, TAKE_AT_ONCE),
        (libc::M_MMAP_THRESHOLD, OWN_MAPPING),
    ];
    for (name, value) in settings {
        // SAFETY: it takes two integers. Refusal changes nothing.
        unsafe {
            libc::mallopt(name, value);
        }
    }
}

/// Other allocators have no such settings.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn tune() {}

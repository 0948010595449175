//! Memory that has been freed, given back to the system.

/// Freed memory below this is not worth the walk through the heap, which stops the broker for a
/// millisecond or a few.
const WORTH: u64 = 4 << 20;

/// Counts what is freed, and gives it back now and then.
#[derive(Default)]
pub(crate) struct Freed(u64);

impl Freed {
    /// Adds bytes that have been freed.
    pub(crate) fn add(&mut self, bytes: u64) {
        self.0 += bytes;
    }

    /// Gives memory back if there is enough of it. The allocator keeps what is freed otherwise:
    /// blobs of all sizes leave holes everywhere, and hardly ever one at the end of the heap.
    pub(crate) fn give_back(&mut self) {
        if self.0 >= WORTH {
            self.0 = 0;
            trim();
        }
    }
}

#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "malloc_trim(3); it takes no pointer")]
fn trim() {
    // Whether there was anything to give back changes nothing.
    let _released = unsafe { libc::malloc_trim(0) };
}

/// Other allocators have no such call, or need none.
#[cfg(not(target_env = "gnu"))]
fn trim() {}

//! What processes say on standard error.

use std::fmt;
use std::io::{self, Write};

/// Writes a line to standard error. See [`crate::complain!`].
#[doc(hidden)]
pub fn complain(text: fmt::Arguments<'_>) {
    // In one piece: standard error has no buffer, and whoever labels lines reads them as they come.
    // Nobody is left to tell if standard error fails.
    let _ = io::stderr()
        .lock()
        .write_all(format!("{text}\n").as_bytes());
}

/// Prints a line to standard error if anybody is there to read it.
///
/// `eprintln!` panics where the terminal or the pipe has gone, which must not end a broker in the
/// middle of its work.
#[macro_export]
macro_rules! complain {
    ($($arg:tt)*) => { $crate::stderr::complain(format_args!($($arg)*)) };
}

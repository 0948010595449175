//! Standard output and error of commands.
//!
//! Output is gathered in one buffer per process and written when the command ends, flushes, or
//! says something on standard error, so that a listing is a handful of system calls and both
//! streams keep their order. A reader that goes away ends the command quietly, as a signal would.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{self, Write};

/// What a shell reports for a program ended by `SIGPIPE`.
const BROKEN_PIPE_STATUS: i32 = 128 + 13;

/// Bytes gathered before they are written anyway.
const BUFFER_SIZE: usize = 1 << 16;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static RAW: Cell<bool> = const { Cell::new(false) };
}

/// Writes to standard output, by and by.
pub(crate) fn write(bytes: &[u8]) {
    let full = BUFFER.with_borrow_mut(|buffer| {
        buffer.extend_from_slice(bytes);
        buffer.len() >= BUFFER_SIZE
    });
    if full {
        flush();
    }
}

/// Writes a line that need not be text to standard output, by and by.
pub(crate) fn write_line(bytes: &[u8]) {
    write(bytes);
    write(b"\n");
}

/// Writes formatted text to standard output, by and by. See [`crate::out!`].
pub(crate) fn write_fmt(text: fmt::Arguments<'_>) {
    // Writing to memory does not fail.
    BUFFER.with_borrow_mut(|buffer| drop(buffer.write_fmt(text)));
    write(b"");
}

/// Writes what was gathered.
pub(crate) fn flush() {
    let bytes = BUFFER.with_borrow_mut(std::mem::take);
    if bytes.is_empty() {
        return;
    }
    let mut stdout = io::stdout().lock();
    if let Err(error) = stdout.write_all(&bytes).and_then(|()| stdout.flush()) {
        if error.kind() == io::ErrorKind::BrokenPipe {
            std::process::exit(BROKEN_PIPE_STATUS);
        }
        error_line(format_args!("flux: write error: {error}"));
        std::process::exit(1);
    }
}

/// Says whether the terminal takes the ends of lines as they are.
pub(crate) fn set_raw(raw: bool) {
    RAW.set(raw);
}

/// Lines as the terminal wants them now: one that is raw goes back to the first column only if it
/// is told to.
pub(crate) fn lines(bytes: &[u8]) -> Cow<'_, [u8]> {
    if !RAW.get() {
        return Cow::Borrowed(bytes);
    }
    let mut out = Vec::with_capacity(bytes.len() + 16);
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        match line.strip_suffix(b"\n") {
            Some(text) => {
                out.extend_from_slice(text);
                out.extend_from_slice(b"\r\n");
            }
            None => out.extend_from_slice(line),
        }
    }
    Cow::Owned(out)
}

/// Writes a line to standard error, after what standard output has. See [`crate::err!`].
pub(crate) fn error_line(text: fmt::Arguments<'_>) {
    // In one piece: standard error has no buffer, and a job shell labels what it reads.
    error_bytes(format!("{text}\n").as_bytes());
}

/// Writes bytes to standard error, after what standard output has.
pub(crate) fn error_bytes(bytes: &[u8]) {
    flush();
    // Nobody is left to tell if standard error fails.
    let _ = io::stderr().lock().write_all(&lines(bytes));
}

/// Prints to standard output.
#[macro_export]
macro_rules! out {
    ($($arg:tt)*) => { $crate::output::write_fmt(format_args!($($arg)*)) };
}

/// Prints a line to standard output.
#[macro_export]
macro_rules! outln {
    () => { $crate::output::write(b"\n") };
    ($($arg:tt)*) => {{
        $crate::output::write_fmt(format_args!($($arg)*));
        $crate::output::write(b"\n");
    }};
}

/// Prints a line to standard error.
#[macro_export]
macro_rules! err {
    ($($arg:tt)*) => { $crate::output::error_line(format_args!($($arg)*)) };
}

//! Signal names and what the C library calls signals.

use nix::sys::signal::{SigHandler, Signal};

pub(crate) use types::describe_signal as describe;

/// The signal with this name, with or without `SIG`, or number.
pub(crate) fn parse(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_uppercase();
    let name = if upper.starts_with("SIG") {
        upper
    } else {
        format!("SIG{upper}")
    };
    name.parse::<Signal>().ok().map(|signal| signal as i32)
}

/// The exit code a wait status stands for: 128 and the signal's number if one ended the process.
pub(crate) fn exit_code(status: i32) -> i32 {
    if status & 0x7f == 0 {
        (status >> 8) & 0xff
    } else {
        128 + (status & 0x7f)
    }
}

/// The signal a wait status tells of, if one ended the process.
pub(crate) fn killed_by(status: i32) -> Option<i32> {
    let signal = status & 0x7f;
    (signal != 0).then_some(signal)
}

/// Lets a signal do again what it does to programs that do not handle it.
#[expect(unsafe_code, reason = "signal(2)")]
pub(crate) fn restore_default(number: i32) {
    if let Ok(signal) = Signal::try_from(number) {
        // SAFETY: no handler of ours is put in place. It fails for no signal that can be handled.
        let _no_such = unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) };
    }
}

/// Sends this process a signal.
pub(crate) fn raise(number: i32) {
    if let Ok(signal) = Signal::try_from(number) {
        // It fails for no signal there is.
        let _no_such = nix::sys::signal::raise(signal);
    }
}

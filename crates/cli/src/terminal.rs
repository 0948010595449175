//! The terminal.

use std::io::IsTerminal;

/// The terminal's width if standard output is one, else `COLUMNS` if that is set.
pub(crate) fn width() -> Option<usize> {
    tty_width().or_else(|| {
        let columns = std::env::var("COLUMNS").ok()?.parse().ok()?;
        (columns > 0).then_some(columns)
    })
}

/// The terminal's width if standard output is one.
pub(crate) fn tty_width() -> Option<usize> {
    if !std::io::stdout().is_terminal() {
        return None;
    }
    size().map(|(_, columns)| columns)
}

/// Rows and columns of the terminal on standard output.
#[allow(unsafe_code, reason = "ioctl(2)")]
pub(crate) fn size() -> Option<(usize, usize)> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCGWINSZ writes one winsize, and the pointer is to one.
    let status = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    (status == 0 && size.ws_col > 0).then(|| (size.ws_row.into(), size.ws_col.into()))
}

//! Colour on terminals.

use std::io::IsTerminal;

use crate::err;
use crate::options::Args;

/// Reset.
pub(crate) const RESET: &str = "\x1b[0m";
/// Red.
pub(crate) const RED: &str = "\x1b[31m";
/// Bold red.
pub(crate) const BOLD_RED: &str = "\x1b[1m\x1b[31m";
/// Reversed red.
pub(crate) const REVERSE_RED: &str = "\x1b[7m\x1b[31m";
/// Bold.
pub(crate) const BOLD: &str = "\x1b[1m";
/// Dim.
pub(crate) const DIM: &str = "\x1b[2m";
/// Green.
pub(crate) const GREEN: &str = "\x1b[32m";
/// Bold green.
pub(crate) const BOLD_GREEN: &str = "\x1b[1m\x1b[32m";
/// Yellow.
pub(crate) const YELLOW: &str = "\x1b[33m";
/// Blue.
pub(crate) const BLUE: &str = "\x1b[34m";
/// Magenta.
pub(crate) const MAGENTA: &str = "\x1b[35m";
/// Gray.
pub(crate) const GRAY: &str = "\x1b[37m";

/// Whether to use colour, by the option `--color[=WHEN]` of family G.
///
/// # Errors
///
/// The exit status, if WHEN is something else.
pub(crate) fn wanted_g(args: &Args) -> Result<bool, i32> {
    let auto = || std::io::stdout().is_terminal();
    match args.get("color") {
        None if args.has("color") => Ok(true),
        None | Some("auto") => Ok(auto()),
        Some("always") => Ok(true),
        Some("never") => Ok(false),
        Some(other) => {
            let name = args.parser().name;
            err!("{name}: Invalid argument to --color: '{other}'");
            Err(1)
        }
    }
}

/// As [`wanted_g`] for family P, where `NO_COLOR` counts.
///
/// # Errors
///
/// The exit status, if WHEN is something else.
pub(crate) fn wanted_p(args: &Args) -> Result<bool, i32> {
    let auto = || {
        std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            && std::io::stdout().is_terminal()
    };
    match args.get("color") {
        None if args.has("color") => Ok(true),
        None | Some("auto") => Ok(auto()),
        Some("always") => Ok(true),
        Some("never") => Ok(false),
        Some(other) => Err(args
            .parser()
            .usage_error(&format!("Invalid argument to --color: '{other}'"))),
    }
}

/// Text in a colour, if colours are on.
pub(crate) fn paint(on: bool, color: &str, text: &str) -> String {
    if on {
        format!("{color}{text}{RESET}")
    } else {
        text.to_owned()
    }
}

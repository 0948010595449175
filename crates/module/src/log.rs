//! Severities of log records (RFC 5424).

use std::fmt;
use std::str::FromStr;

/// A log record's severity; lower is worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Severity {
    /// The system is unusable.
    Emerg = 0,
    /// Someone must act at once.
    Alert = 1,
    /// A critical condition.
    Crit = 2,
    /// An error.
    Err = 3,
    /// A warning.
    Warning = 4,
    /// Normal but significant.
    Notice = 5,
    /// Of interest.
    Info = 6,
    /// For developers.
    Debug = 7,
}

impl Severity {
    const ALL: [(Severity, &'static str); 8] = [
        (Severity::Emerg, "emerg"),
        (Severity::Alert, "alert"),
        (Severity::Crit, "crit"),
        (Severity::Err, "err"),
        (Severity::Warning, "warning"),
        (Severity::Notice, "notice"),
        (Severity::Info, "info"),
        (Severity::Debug, "debug"),
    ];

    /// The word used in log lines.
    pub fn name(self) -> &'static str {
        Severity::ALL[self as usize].1
    }

    /// The severity with this number.
    pub fn from_number(number: u8) -> Option<Severity> {
        Severity::ALL
            .get(usize::from(number))
            .map(|(severity, _)| *severity)
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Severity {
    type Err = ();

    fn from_str(text: &str) -> Result<Severity, ()> {
        Severity::ALL
            .iter()
            .find(|(_, name)| *name == text)
            .map(|(severity, _)| *severity)
            .ok_or(())
    }
}

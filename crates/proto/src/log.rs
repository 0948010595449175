//! The log: service `log`. Records are RFC 5424 lines.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Empty, Raw, rpc};

/// Which records.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Dmesg {
    /// Whether to go on with new ones.
    pub follow: bool,
    /// Whether to leave out old ones.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nobacklog: bool,
}

/// A followed stream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cancel {
    /// The request's matchtag.
    pub matchtag: u32,
}

/// A log attribute.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SetAttr {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

rpc! {
    /// Adds a record: `<PRI>1 TIMESTAMP RANK APPNAME PROCID - - TEXT`.
    LogAppend: "log", "append", NoResponse, Owner, Raw => Empty
}
rpc! {
    /// Reads the records kept, one a response.
    LogDmesg: "log", "dmesg", Stream, Owner, Dmesg => Raw
}
rpc! {
    /// Ends a followed stream.
    LogCancel: "log", "cancel", NoResponse, Owner, Cancel => Empty
}
rpc! {
    /// Forgets the records kept.
    LogClear: "log", "clear", Single, Owner, Empty => Empty
}
rpc! {
    /// Changes a `log-` attribute. Errors: `EINVAL` bad level, `ENOENT` unknown attribute.
    LogSetAttr: "log", "setattr", Single, Owner, SetAttr => Empty
}

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
    /// All of them by name, the worst first.
    pub const ALL: [(Severity, &'static str); 8] = [
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

/// A log record taken apart: `<PRI>1 TIMESTAMP HOST APPNAME PROCID - - TEXT`.
///
/// The fields are RFC 5424's, but for `PRI`: deployed clients have the severity times eight there,
/// not in the low three bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// How bad it is.
    pub severity: Severity,
    /// When, in ISO 8601 with microseconds and `Z`.
    pub timestamp: &'a str,
    /// The rank it comes from, or a host name before the rank is known.
    pub host: &'a str,
    /// Who says it.
    pub appname: &'a str,
    /// The process that says it.
    pub process: &'a str,
    /// What is said: one line.
    pub text: &'a str,
}

impl<'a> Record<'a> {
    /// Takes a record apart; `None` if it is none.
    pub fn parse(record: &'a str) -> Option<Record<'a>> {
        let (priority, rest) = record.strip_prefix('<')?.split_once(">1 ")?;
        let priority: u8 = priority.parse().ok()?;
        let mut fields = rest.splitn(7, ' ');
        let timestamp = fields.next()?;
        let host = fields.next()?;
        let appname = fields.next()?;
        let process = fields.next()?;
        let (_msgid, _data) = (fields.next()?, fields.next()?);
        let text = fields.next().unwrap_or_default();
        let severity = Severity::from_number(priority / 8)?;
        Some(Record {
            severity,
            timestamp,
            host,
            appname,
            process,
            text,
        })
    }

    /// `APPNAME.SEVERITY[HOST]: TEXT`, as people read it.
    pub fn line(&self) -> String {
        format!(
            "{}.{}[{}]: {}",
            self.appname, self.severity, self.host, self.text
        )
    }
}

impl fmt::Display for Record<'_> {
    /// The record as it travels.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let priority = self.severity as u8 * 8;
        let Record {
            timestamp,
            host,
            appname,
            process,
            text,
            ..
        } = self;
        write!(
            f,
            "<{priority}>1 {timestamp} {host} {appname} {process} - - {text}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_a_round_trip() {
        let text = "<56>1 2026-11-20T13:30:43.780262Z 0 broker 26817 - - insmod config";
        let record = Record::parse(text).expect("a record");
        assert_eq!(record.severity, Severity::Debug);
        assert_eq!(record.line(), "broker.debug[0]: insmod config");
        assert_eq!(record.to_string(), text);
        for bad in [
            "",
            "<56>",
            "<x>1 a b c d - - e",
            "<200>1 a b c d - - e",
            "<8>1 a b",
        ] {
            assert_eq!(Record::parse(bad), None, "{bad}");
        }
    }
}

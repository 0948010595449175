//! Times as people read them, in the local zone.

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

/// Now, in seconds since the epoch.
pub(crate) fn now() -> f64 {
    Timestamp::now().as_nanosecond() as f64 / 1e9
}

/// A time in the local zone; `None` out of range.
pub(crate) fn local(seconds: f64) -> Option<Zoned> {
    // Listings cut what is below a microsecond.
    let micros = (seconds * 1e6).floor();
    if !micros.is_finite() {
        return None;
    }
    let timestamp = Timestamp::from_microsecond(micros as i64).ok()?;
    Some(timestamp.to_zoned(TimeZone::system()))
}

/// Formats a time with a `strftime(3)` pattern; empty if the pattern or time makes no sense.
pub(crate) fn strftime(pattern: &str, seconds: f64) -> String {
    local(seconds)
        .and_then(|time| jiff::fmt::strtime::format(pattern, &time).ok())
        .unwrap_or_default()
}

/// ISO 8601 with microseconds and the zone, `Z` where that is UTC.
pub(crate) fn iso(seconds: f64) -> String {
    let Some(time) = local(seconds) else {
        return String::new();
    };
    let zone = if time.offset().is_zero() { "Z" } else { "%:z" };
    jiff::fmt::strtime::format(format!("%Y-%m-%dT%H:%M:%S.%6f{zone}"), &time).unwrap_or_default()
}

/// How a listing of events shows when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimeFormat {
    /// Seconds since the epoch.
    Raw,
    /// ISO 8601.
    Iso,
    /// Seconds since the first event.
    Offset,
    /// The minute where it changes, else the seconds since that line.
    Human,
}

impl TimeFormat {
    /// The names there are.
    pub(crate) const NAMES: &[&str] = &["raw", "iso", "offset", "human", "reltime"];

    /// The format with this name.
    pub(crate) fn from_name(name: &str) -> Option<TimeFormat> {
        Some(match name {
            "raw" => TimeFormat::Raw,
            "iso" => TimeFormat::Iso,
            "offset" => TimeFormat::Offset,
            "human" | "reltime" => TimeFormat::Human,
            _ => return None,
        })
    }
}

/// Times in the human form: `[MonDD HH:MM]` at each new minute, else an offset.
#[derive(Clone, Debug, Default)]
pub(crate) struct Human {
    minute: Option<String>,
    mark: f64,
    delta: bool,
    full_minutes: bool,
}

impl Human {
    /// Offsets count from the last minute shown, or from the line before with `delta`.
    pub(crate) fn new(delta: bool) -> Human {
        Human {
            delta,
            ..Human::default()
        }
    }

    /// As [`Human::new`], but offsets count from the full minute.
    pub(crate) fn within_minutes(delta: bool) -> Human {
        Human {
            full_minutes: true,
            ..Human::new(delta)
        }
    }

    /// The text for the next line, and whether it shows a new minute.
    pub(crate) fn next(&mut self, seconds: f64) -> (String, bool) {
        let minute = strftime("%b%d %H:%M", seconds);
        if self.minute.as_ref() != Some(&minute) {
            self.mark = match self.full_minutes && !self.delta {
                true => seconds - seconds.rem_euclid(60.0),
                false => seconds,
            };
            let text = format!("[{minute}]");
            self.minute = Some(minute);
            return (text, true);
        }
        let text = format!("[{:>+11.6}]", seconds - self.mark);
        if self.delta {
            self.mark = seconds;
        }
        (text, false)
    }
}

/// As [`strftime`], in UTC.
pub(crate) fn utc(pattern: &str, seconds: f64) -> String {
    let micros = (seconds * 1e6).round();
    Timestamp::from_microsecond(micros as i64)
        .ok()
        .and_then(|time| jiff::fmt::strtime::format(pattern, &time.to_zoned(TimeZone::UTC)).ok())
        .unwrap_or_default()
}

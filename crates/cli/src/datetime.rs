//! Points in time as users write them.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{ToSpan, Zoned};

use crate::timefmt;

/// Seconds since the epoch of `now`, `+FSD`, `-FSD`, an ISO date or time, a time of day, or one of
/// these after `today`, `tomorrow` or `yesterday`.
pub(crate) fn parse(text: &str) -> Option<f64> {
    let text = text.trim();
    if text == "now" {
        return Some(timefmt::now());
    }
    if let Some(offset) = text.strip_prefix('+') {
        return Some(timefmt::now() + types::fsd::parse(offset).ok()?);
    }
    if let Some(offset) = text.strip_prefix('-') {
        return Some(timefmt::now() - types::fsd::parse(offset).ok()?);
    }
    let zone = TimeZone::system();
    let now = Zoned::now().with_time_zone(zone.clone());
    let mut lower = text.to_lowercase();
    let mut date: Option<Date> = None;
    for (word, days) in [("today", 0), ("tomorrow", 1), ("yesterday", -1)] {
        if let Some(at) = lower.find(word) {
            lower.replace_range(at..at + word.len(), " ");
            date = Some(now.date().checked_add(days.days()).ok()?);
        }
    }
    let rest = lower
        .split_whitespace()
        .filter(|word| *word != "at")
        .collect::<Vec<_>>();
    let rest = rest.join(" ");
    let civil = if rest.is_empty() {
        date?.to_datetime(Time::midnight())
    } else if let Some(time) = time_of_day(&rest) {
        let day = date.unwrap_or_else(|| now.date());
        let civil = day.to_datetime(time);
        // A time that is past today means tomorrow's.
        if date.is_none() && civil < now.datetime() {
            civil.checked_add(1.day()).ok()?
        } else {
            civil
        }
    } else if let Ok(stamp) = text.parse::<jiff::Timestamp>() {
        return Some(stamp.as_microsecond() as f64 / 1e6);
    } else {
        text.replace(' ', "T")
            .parse::<DateTime>()
            .or_else(|_| DateTime::strptime("%b %d %Y %H:%M", text))
            .or_else(|_| DateTime::strptime("%m/%d/%Y %H:%M", text))
            .or_else(|_| {
                text.parse::<Date>()
                    .map(|date| date.to_datetime(Time::midnight()))
            })
            .ok()?
    };
    let stamp = civil.to_zoned(zone).ok()?.timestamp();
    Some(stamp.as_microsecond() as f64 / 1e6)
}

/// `15:30`, `15:30:10`, `3pm`, `3:30 pm`, `noon`, `midnight`.
fn time_of_day(text: &str) -> Option<Time> {
    match text {
        "noon" => return Time::new(12, 0, 0, 0).ok(),
        "midnight" => return Some(Time::midnight()),
        _ => {}
    }
    let (digits, pm) = if let Some(rest) = text.strip_suffix("pm") {
        (rest.trim(), Some(true))
    } else if let Some(rest) = text.strip_suffix("am") {
        (rest.trim(), Some(false))
    } else {
        (text, None)
    };
    let mut parts = digits.split(':');
    let mut hour: i8 = parts.next()?.parse().ok()?;
    let minute: i8 = match parts.next() {
        Some(text) => text.parse().ok()?,
        None if pm.is_some() => 0,
        None => return None,
    };
    let second: i8 = match parts.next() {
        Some(text) => text.parse().ok()?,
        None => 0,
    };
    match pm {
        Some(true) if hour < 12 => hour += 12,
        Some(false) if hour == 12 => hour = 0,
        _ => {}
    }
    Time::new(hour, minute, second, 0).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let now = timefmt::now();
        assert!((parse("now").expect("valid") - now).abs() < 5.0);
        assert!((parse("+1h").expect("valid") - now - 3600.0).abs() < 5.0);
        assert!(parse("2026-01-02 03:04:05").is_some());
        assert!(parse("2026-01-02").is_some());
        assert!(parse("tomorrow 3pm").expect("valid") > now - 86400.0);
        assert!(parse("3:30 pm").is_some());
        assert!(parse("gibberish").is_none());
    }
}

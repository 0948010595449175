//! Points in time as users write them.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Span, ToSpan, Zoned};

use crate::timefmt;

/// Seconds since the epoch of `now`, `+FSD`, `-FSD`, an ISO date or time, a time of day, or one of
/// these after `today`, `tomorrow` or `yesterday`; and of `a year ago`, `in 5 minutes`, `last week`.
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
    if let Some(offset) = relative(&text.to_lowercase()) {
        let stamp = now.checked_add(offset).ok()?.timestamp();
        return Some(stamp.as_microsecond() as f64 / 1e6);
    }
    if let Some(offset) = text.strip_suffix(" ago") {
        return Some(timefmt::now() - types::fsd::parse(offset.trim_end()).ok()?);
    }
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

/// `NUMBER UNIT ago`, `in NUMBER UNIT`, `last UNIT`, with numbers up to ten in words, too.
fn relative(text: &str) -> Option<Span> {
    const NUMBERS: &[&str] = &[
        "a", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    ];
    let (amount, sign) = match text.strip_suffix(" ago") {
        Some(amount) => (amount.to_owned(), -1),
        None => match (text.strip_prefix("last "), text.strip_prefix("in ")) {
            (Some(unit), _) => (format!("a {unit}"), -1),
            (None, Some(amount)) => (amount.to_owned(), 1),
            (None, None) => return None,
        },
    };
    let mut words = amount.split_whitespace();
    let number = words.next()?;
    let number: i64 = match NUMBERS.iter().position(|word| *word == number) {
        Some(at) => i64::try_from(at.max(1)).ok()?,
        None if number == "an" => 1,
        None => number.parse().ok()?,
    };
    let unit = words.next()?;
    if words.next().is_some() {
        return None;
    }
    let number = number.checked_mul(sign)?;
    let span = Span::new();
    match unit.strip_suffix('s').unwrap_or(unit) {
        "second" | "sec" => span.try_seconds(number),
        "minute" | "min" => span.try_minutes(number),
        "hour" | "hr" => span.try_hours(number),
        "day" => span.try_days(number),
        "week" => span.try_weeks(number),
        "month" => span.try_months(number),
        "year" => span.try_years(number),
        _ => return None,
    }
    .ok()
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
        let from_now = |text: &str| parse(text).expect("valid") - now;
        for (text, seconds) in [
            ("a minute ago", -60.0),
            ("5 minutes ago", -300.0),
            ("in an hour", 3600.0),
            ("two secs ago", -2.0),
            ("1.5h ago", -5400.0),
        ] {
            assert!((from_now(text) - seconds).abs() < 5.0, "{text}");
        }
        assert!(from_now("a year ago") < -364.0 * 86400.0);
        assert!((-8.0..-6.0).contains(&(from_now("last week") / 86400.0)));
        for text in [
            "a fortnight ago",
            "ago",
            "in",
            "in 99999999999999999999 days",
        ] {
            assert!(parse(text).is_none(), "{text}");
        }
    }
}

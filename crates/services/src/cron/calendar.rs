//! When an entry of type `datetime` runs next.
//!
//! Pure: the time and its zone are arguments. Where clocks are put forward, what would have run in
//! the hour that is left out runs as if they had not been; where they are put back, it runs once.
//! Entries for every hour go by the time that passes instead, so they neither pause nor hurry.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use proto::cron::{Datetime, FieldText};
use spec::crontab::{Field, FieldError};
use types::IdSet;

/// The calendar repeats itself after that many years, so what does not come within them never does.
const CYCLE_YEARS: i16 = 400;

/// Points in time by their fields.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Calendar {
    second: IdSet,
    minute: IdSet,
    hour: IdSet,
    mday: IdSet,
    month: IdSet,
    year: IdSet,
    weekday: IdSet,
}

impl Calendar {
    /// Reads a request's fields.
    pub(super) fn parse(fields: &Datetime<FieldText>) -> Result<Calendar, FieldError> {
        let read = |field: Field, text: &Option<FieldText>| match text {
            Some(text) => field.parse(&text.to_string()),
            None => Ok(field.every()),
        };
        Ok(Calendar {
            second: read(Field::Second, &fields.second)?,
            minute: read(Field::Minute, &fields.minute)?,
            hour: read(Field::Hour, &fields.hour)?,
            mday: read(Field::MonthDay, &fields.mday)?,
            month: read(Field::Month, &fields.month)?,
            year: read(Field::Year, &fields.year)?,
            weekday: read(Field::Weekday, &fields.weekday)?,
        })
    }

    /// The fields as idsets.
    pub(super) fn fields(&self) -> Datetime<String> {
        let text = |set: &IdSet| Some(set.to_string());
        Datetime {
            second: text(&self.second),
            minute: text(&self.minute),
            hour: text(&self.hour),
            mday: text(&self.mday),
            month: text(&self.month),
            year: text(&self.year),
            weekday: text(&self.weekday),
        }
    }

    /// The first time after `now` that matches, both in seconds since the epoch; `None` if there
    /// is none.
    pub(super) fn next_after(&self, now: f64, zone: &TimeZone) -> Option<f64> {
        let from = Timestamp::from_second((now.floor() as i64).saturating_add(1)).ok()?;
        let found = if self.hour == Field::Hour.every() {
            self.next_elapsed(from, zone)
        } else {
            self.next_by_clock(from, zone)
        };
        found.map(|found| found.as_second() as f64)
    }

    /// As a clock on the wall shows it.
    fn next_by_clock(&self, from: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let mut civil = zone.to_datetime(from);
        loop {
            let found = self.next_civil(civil)?;
            let ambiguous = zone.to_ambiguous_timestamp(found);
            let instant = ambiguous.compatible().ok()?;
            if instant >= from {
                return Some(instant);
            }
            // The clock shows this time for the second time.
            civil = found.checked_add(jiff::Span::new().seconds(1)).ok()?;
        }
    }

    /// As if the clock were not put back or forward meanwhile.
    fn next_elapsed(&self, from: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let mut from = from;
        loop {
            let offset = zone.to_offset(from);
            let found = self.next_civil(offset.to_datetime(from))?;
            let instant = offset.to_timestamp(found).ok()?;
            match zone.following(from).next() {
                Some(change) if change.timestamp() <= instant => from = change.timestamp(),
                _ => return Some(instant),
            }
        }
    }

    /// The first match from `from` on, of what a calendar and a clock show.
    fn next_civil(&self, from: DateTime) -> Option<DateTime> {
        let last = from.year().saturating_add(CYCLE_YEARS);
        let years = self.year.iter().map(|year| year as i16 + 1900);
        for year in years.skip_while(|year| *year < from.year()) {
            if year > last {
                return None;
            }
            for month in self.month.iter().map(|month| month as i8 + 1) {
                if (year, month) < (from.year(), from.month()) {
                    continue;
                }
                for day in self.mday.iter() {
                    // Months differ in how many days they have.
                    let Ok(date) = Date::new(year, month, day as i8) else {
                        break;
                    };
                    if let Some(found) = self.next_on(date, from) {
                        return Some(found);
                    }
                }
            }
        }
        None
    }

    /// The first match on a day.
    fn next_on(&self, date: Date, from: DateTime) -> Option<DateTime> {
        let weekday = date.weekday().to_sunday_zero_offset();
        if date < from.date() || !self.weekday.contains(u32::from(weekday.unsigned_abs())) {
            return None;
        }
        let least = if date == from.date() {
            from.time()
        } else {
            Time::midnight()
        };
        self.next_time(least).map(|time| date.to_datetime(time))
    }

    /// The first match from a time of day on.
    fn next_time(&self, least: Time) -> Option<Time> {
        let from = |set: &IdSet, least: i8| {
            let set: Vec<i8> = set.iter().map(|number| number as i8).collect();
            set.into_iter().filter(move |number| *number >= least)
        };
        for hour in from(&self.hour, least.hour()) {
            let now = hour == least.hour();
            for minute in from(&self.minute, if now { least.minute() } else { 0 }) {
                let now = now && minute == least.minute();
                let second = from(&self.second, if now { least.second() } else { 0 }).next();
                if let Some(second) = second.filter(|second| *second < 60) {
                    return Time::new(hour, minute, second, 0).ok();
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use spec::crontab::Line;

    use super::*;

    fn calendar(line: &str, year: &str) -> Calendar {
        let line = Line::parse(line).expect("valid").expect("no comment");
        let text = |at: usize| Some(FieldText::Text(line.fields[at].1.to_owned()));
        Calendar::parse(&Datetime {
            second: Some(FieldText::Number(0)),
            minute: text(0),
            hour: text(1),
            mday: text(2),
            month: text(3),
            weekday: text(4),
            year: Some(FieldText::Text(year.to_owned())),
        })
        .expect("valid")
    }

    /// From a local time on, the next ones are these.
    fn check(zone: &str, line: &str, now: &str, expect: &[&str]) {
        let zone: TimeZone = TimeZone::posix(zone).expect("valid");
        let mut now: f64 = now.parse::<Timestamp>().expect("valid").as_second() as f64;
        let calendar = calendar(&format!("{line} x"), "*");
        for expect in expect {
            let next = calendar.next_after(now, &zone).expect("there is a next");
            let shown = Timestamp::from_second(next as i64).expect("valid");
            let shown = shown.to_zoned(zone.clone()).strftime("%a %F %T %z");
            assert_eq!(shown.to_string(), *expect, "{line}");
            now = next;
        }
    }

    #[test]
    fn the_next_match_comes_next() {
        let now = "2016-06-01T15:30:00Z";
        let check = |line, expect: &[&str]| check("UTC0", line, now, expect);
        check("15 * * * *", &["Wed 2016-06-01 16:15:00 +0000"]);
        check("30 * * * *", &["Wed 2016-06-01 16:30:00 +0000"]);
        check(
            "0 0 * * *",
            &[
                "Thu 2016-06-02 00:00:00 +0000",
                "Fri 2016-06-03 00:00:00 +0000",
            ],
        );
        check("0 0 * * Mon", &["Mon 2016-06-06 00:00:00 +0000"]);
        check("0 0 30 * *", &["Thu 2016-06-30 00:00:00 +0000"]);
        check("0 0 30 Dec *", &["Fri 2016-12-30 00:00:00 +0000"]);
        check(
            "0 0 31 * *",
            &[
                "Sun 2016-07-31 00:00:00 +0000",
                "Wed 2016-08-31 00:00:00 +0000",
                "Mon 2016-10-31 00:00:00 +0000",
            ],
        );
        check("0 0 29 Feb *", &["Sat 2020-02-29 00:00:00 +0000"]);
        // Both days must match.
        check("0 0 13 * Fri", &["Fri 2017-01-13 00:00:00 +0000"]);
        check(
            "*/20 15,17 * * *",
            &[
                "Wed 2016-06-01 15:40:00 +0000",
                "Wed 2016-06-01 17:00:00 +0000",
            ],
        );
    }

    #[test]
    fn what_never_comes_has_no_next() {
        let zone = TimeZone::UTC;
        let next = |line: &str, year| calendar(line, year).next_after(1.5e9, &zone);
        assert_eq!(next("0 0 30 Feb * x", "*"), None);
        assert_eq!(next("0 0 * * * x", "116"), None);
        assert_eq!(next("0 0 1 0 * x", "130"), Some(1_893_456_000.0));
        assert_eq!(
            calendar("0 0 * * * x", "*").next_after(f64::NAN, &zone),
            Some(86_400.0)
        );
        assert_eq!(calendar("0 0 * * * x", "*").next_after(1e300, &zone), None);
    }

    /// Central Europe, 2026: forward on March 29th, back on October 25th.
    const ZONE: &str = "CET-1CEST,M3.5.0,M10.5.0/3";

    #[test]
    fn an_hour_left_out_delays() {
        check(
            ZONE,
            "30 2 * * *",
            "2026-03-28T12:00:00Z",
            &[
                "Sun 2026-03-29 03:30:00 +0200",
                "Mon 2026-03-30 02:30:00 +0200",
            ],
        );
        check(
            ZONE,
            "30 * * * *",
            "2026-03-29T00:00:00Z",
            &[
                "Sun 2026-03-29 01:30:00 +0100",
                "Sun 2026-03-29 03:30:00 +0200",
            ],
        );
    }

    #[test]
    fn an_hour_shown_twice_counts_once_unless_every_hour_does() {
        check(
            ZONE,
            "30 2 * * *",
            "2026-10-24T12:00:00Z",
            &[
                "Sun 2026-10-25 02:30:00 +0200",
                "Mon 2026-10-26 02:30:00 +0100",
            ],
        );
        check(
            ZONE,
            "30 * * * *",
            "2026-10-24T23:45:00Z",
            &[
                "Sun 2026-10-25 02:30:00 +0200",
                "Sun 2026-10-25 02:30:00 +0100",
                "Sun 2026-10-25 03:30:00 +0100",
            ],
        );
    }
}

//! Crontab lines and the fields in them (crontab(5)).
//!
//! Numbers are those of `struct tm`, which is what the cron service has always taken: months count
//! from 0 and years from 1900. Days of the week count from 0 for Sunday; 7 is Sunday too. When both
//! the day of the month and that of the week are restricted, both must match.

use types::{Errno, IdSet};

/// A field of a point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Seconds; 60 is a leap second.
    Second,
    /// Minutes.
    Minute,
    /// Hours.
    Hour,
    /// Days of the month, from 1.
    MonthDay,
    /// Months, from 0 for January, or names.
    Month,
    /// Years since 1900.
    Year,
    /// Days of the week, from 0 for Sunday, or names.
    Weekday,
}

/// Why a field makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// Not a number, name or range.
    #[error("{field}: '{item}' is not a number, a name, a range or *")]
    Syntax {
        /// The field's name.
        field: &'static str,
        /// The part of it that is wrong.
        item: String,
    },
    /// A number the field does not have.
    #[error("{field}: '{item}' is not within {first}-{last}")]
    Range {
        /// The field's name.
        field: &'static str,
        /// The part of it that is wrong.
        item: String,
        /// The lowest number there is.
        first: u32,
        /// The highest.
        last: u32,
    },
    /// A step of nothing, or after a single number.
    #[error("{field}: '{item}' has no step from 1 on after a range or *")]
    Step {
        /// The field's name.
        field: &'static str,
        /// The part of it that is wrong.
        item: String,
    },
}

impl FieldError {
    /// The error number C programs report: `EINVAL`.
    pub fn errno(&self) -> Errno {
        Errno::EINVAL
    }
}

const MONTHS: &[&str] = &[
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];

const WEEKDAYS: &[&str] = &[
    "sunday",
    "monday",
    "tuesday",
    "wednesday",
    "thursday",
    "friday",
    "saturday",
];

impl Field {
    /// The field's name in requests.
    pub fn name(self) -> &'static str {
        match self {
            Field::Second => "second",
            Field::Minute => "minute",
            Field::Hour => "hour",
            Field::MonthDay => "mday",
            Field::Month => "month",
            Field::Year => "year",
            Field::Weekday => "weekday",
        }
    }

    /// The lowest and the highest number there is.
    pub fn range(self) -> (u32, u32) {
        match self {
            Field::Second => (0, 60),
            Field::Minute => (0, 59),
            Field::Hour => (0, 23),
            Field::MonthDay => (1, 31),
            Field::Month => (0, 11),
            Field::Year => (0, 1100),
            Field::Weekday => (0, 6),
        }
    }

    /// Every number there is, which is what a `*` means.
    pub fn every(self) -> IdSet {
        let (first, last) = self.range();
        IdSet::from_range(first, last)
    }

    /// Reads a field: `*`, `5`, `1-5`, `*/15`, `10-30/5`, names, and lists of these.
    ///
    /// # Errors
    ///
    /// See [`FieldError`].
    pub fn parse(self, text: &str) -> Result<IdSet, FieldError> {
        let mut set = IdSet::new();
        for item in text.split(',') {
            self.add(&mut set, item)?;
        }
        Ok(set)
    }

    fn add(self, set: &mut IdSet, item: &str) -> Result<(), FieldError> {
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, Some(step)),
            None => (item, None),
        };
        let bounds = match range.split_once('-') {
            _ if range == "*" => self.range(),
            Some((first, last)) => {
                let (first, last) = (self.number(first, item)?, self.number(last, item)?);
                (first.min(last), first.max(last))
            }
            None if step.is_some() => return Err(self.bad_step(item)),
            None => {
                let number = self.number(range, item)?;
                (number, number)
            }
        };
        let step = match step.map(str::parse) {
            None => 1,
            Some(Ok(step)) if step > 0 => step,
            Some(_) => return Err(self.bad_step(item)),
        };
        for number in (bounds.0..=bounds.1).step_by(step) {
            set.insert(match (self, number) {
                (Field::Weekday, 7) => 0,
                _ => number,
            });
        }
        Ok(())
    }

    fn bad_step(self, item: &str) -> FieldError {
        FieldError::Step {
            field: self.name(),
            item: item.to_owned(),
        }
    }

    /// A number, or the name that begins like `text` as no other does.
    fn number(self, text: &str, item: &str) -> Result<u32, FieldError> {
        let (first, mut last) = self.range();
        if let Ok(number) = text.parse::<u32>() {
            if self == Field::Weekday {
                last = 7;
            }
            return match (first..=last).contains(&number) {
                true => Ok(number),
                false => Err(FieldError::Range {
                    field: self.name(),
                    item: item.to_owned(),
                    first,
                    last,
                }),
            };
        }
        let names = match self {
            Field::Month => MONTHS,
            Field::Weekday => WEEKDAYS,
            _ => &[],
        };
        let lower = text.to_ascii_lowercase();
        let mut found = (first..)
            .zip(names)
            .filter(|(_, name)| name.starts_with(&lower));
        match (found.next(), found.next()) {
            (Some((number, _)), None) if !lower.is_empty() => Ok(number),
            _ => Err(FieldError::Syntax {
                field: self.name(),
                item: item.to_owned(),
            }),
        }
    }
}

/// A line that tells when to run what. The fields are as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// The fields, in the line's order.
    pub fields: [(Field, &'a str); 5],
    /// What to run.
    pub command: &'a str,
}

/// The order of the fields in a line.
const LINE: [Field; 5] = [
    Field::Minute,
    Field::Hour,
    Field::MonthDay,
    Field::Month,
    Field::Weekday,
];

/// A line with fewer than five fields and a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not five fields and a command")]
pub struct LineError;

impl<'a> Line<'a> {
    /// Reads a line; `None` for one that is empty or a comment.
    ///
    /// # Errors
    ///
    /// [`LineError`]. What the fields say is not looked at: see [`Field::parse`].
    pub fn parse(text: &'a str) -> Result<Option<Line<'a>>, LineError> {
        let mut rest = text.trim();
        if rest.is_empty() || rest.starts_with('#') {
            return Ok(None);
        }
        let mut fields = LINE.map(|field| (field, ""));
        for (_, written) in &mut fields {
            let (word, after) = rest.split_once(char::is_whitespace).ok_or(LineError)?;
            *written = word;
            rest = after.trim_start();
        }
        Ok(Some(Line {
            fields,
            command: rest,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(field: Field, text: &str, expect: &str) {
        let set = field.parse(text).map(|set| set.to_string());
        assert_eq!(set.as_deref(), Ok(expect), "{text}");
    }

    #[test]
    fn fields_are_lists_of_ranges_with_steps_and_names() {
        check(Field::Minute, "*", "0-59");
        check(Field::Minute, "5", "5");
        check(Field::Minute, "1,2-4,*/20,30-40/5", "0-4,20,30,35,40");
        check(Field::Minute, "5-3", "3-5");
        check(Field::MonthDay, "*/10", "1,11,21,31");
        check(Field::Weekday, "mon-Friday", "1-5");
        check(Field::Weekday, "sun,Sat", "0,6");
        check(Field::Weekday, "Su", "0");
        check(Field::Weekday, "5-7", "0,5-6");
        check(Field::Month, "january,Dec", "0,11");
        check(Field::Year, "*", "0-1100");
        check(Field::Second, "*", "0-60");
    }

    #[test]
    fn errors_name_the_field_and_what_is_wrong_in_it() {
        for (field, text, expect) in [
            (Field::Minute, "61", "minute: '61' is not within 0-59"),
            (Field::MonthDay, "1-32", "mday: '1-32' is not within 1-31"),
            (Field::Month, "12", "month: '12' is not within 0-11"),
            (
                Field::Hour,
                "1,x",
                "hour: 'x' is not a number, a name, a range or *",
            ),
            (
                Field::Hour,
                "",
                "hour: '' is not a number, a name, a range or *",
            ),
            (
                Field::Month,
                "j",
                "month: 'j' is not a number, a name, a range or *",
            ),
            (
                Field::Hour,
                "-5",
                "hour: '-5' is not a number, a name, a range or *",
            ),
            (
                Field::Hour,
                "*/0",
                "hour: '*/0' has no step from 1 on after a range or *",
            ),
            (
                Field::Hour,
                "5/2",
                "hour: '5/2' has no step from 1 on after a range or *",
            ),
        ] {
            let error = field.parse(text).map_err(|error| error.to_string());
            assert_eq!(error, Err(expect.to_owned()), "{text}");
        }
    }

    #[test]
    fn lines_have_five_fields_and_a_command() {
        let line = Line::parse("\t*/5 1-3\t* Jan Mon run  this -x \n").expect("valid");
        let line = line.expect("no comment");
        assert_eq!(
            line.fields.map(|(_, text)| text),
            ["*/5", "1-3", "*", "Jan", "Mon"]
        );
        assert_eq!(line.command, "run  this -x");
        assert_eq!(Line::parse("  # 1 2 3 4 5 x"), Ok(None));
        assert_eq!(Line::parse(" \n"), Ok(None));
        for text in ["1 2 3 4 5", "1 2 3 4", "@daily x", "1 2 3 4 5 "] {
            assert_eq!(Line::parse(text), Err(LineError), "{text}");
        }
    }
}

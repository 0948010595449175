//! The values of fields, and how conversions change them.

use std::cmp::Ordering;

use types::JobId;

use crate::{json, timefmt};

/// A field's value, as Python would have it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// `None`.
    None,
    /// What is not there at all: empty under any specification.
    Missing,
    /// Text.
    Str(String),
    /// An integer.
    Int(i64),
    /// A real number.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A job id: F58, or an integer under a specification.
    Id(JobId),
    /// A JSON document.
    Json(serde_json::Value),
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Str(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Str(text)
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Value {
        Value::Int(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl Value {
    /// The value of a JSON value; `null` is not there.
    pub(crate) fn from_json(value: &serde_json::Value) -> Value {
        match value {
            serde_json::Value::Null => Value::Missing,
            serde_json::Value::Bool(flag) => Value::Bool(*flag),
            serde_json::Value::String(text) => Value::Str(text.clone()),
            serde_json::Value::Number(number) => match number.as_i64() {
                Some(number) => Value::Int(number),
                None => Value::Float(number.as_f64().unwrap_or_default()),
            },
            other => Value::Json(other.clone()),
        }
    }

    /// As Python's `str()` shows it.
    pub(crate) fn plain(&self) -> String {
        match self {
            Value::None => "None".to_owned(),
            Value::Missing => String::new(),
            Value::Str(text) => text.clone(),
            Value::Int(number) => number.to_string(),
            Value::Float(number) => float_text(*number),
            Value::Bool(true) => "True".to_owned(),
            Value::Bool(false) => "False".to_owned(),
            Value::Id(id) => id.to_string(),
            Value::Json(value) => json::python(value, true),
        }
    }

    fn number(&self) -> Option<f64> {
        match self {
            Value::Int(number) => Some(*number as f64),
            Value::Id(id) => Some(id.0 as f64),
            Value::Float(number) => Some(*number),
            Value::Bool(flag) => Some(f64::from(u8::from(*flag))),
            Value::Str(text) => text.trim().parse().ok(),
            Value::None | Value::Missing | Value::Json(_) => None,
        }
    }

    /// Applies a conversion. `pattern` is the time pattern of `!d`.
    pub(crate) fn convert(
        &self,
        conversion: Option<char>,
        pattern: Option<&str>,
    ) -> Result<Value, String> {
        let text = |text: String| Ok(Value::Str(text));
        match conversion {
            None => Ok(self.clone()),
            Some('s') => text(self.plain()),
            Some('r') => text(self.repr(false)),
            Some('a') => text(self.repr(true)),
            Some('d' | 'D') => {
                let seconds = match self.number() {
                    Some(seconds) => seconds,
                    None if value_is_unset(self) => 0.0,
                    None => return Err(format!("invalid time: {}", self.plain())),
                };
                if seconds == 0.0 {
                    return text(String::new());
                }
                let pattern =
                    pattern.filter(|pattern| !pattern.is_empty() && conversion == Some('d'));
                text(timefmt::strftime(pattern.unwrap_or("%FT%T"), seconds))
            }
            Some('F') => match self.number() {
                Some(seconds) => text(types::fsd::format_scripted(seconds)),
                None if value_is_unset(self) => text(String::new()),
                None => text(self.plain()),
            },
            Some('H') => match self.number() {
                Some(seconds) => text(clock(seconds)),
                None => text(String::new()),
            },
            Some('P') => match self.number() {
                Some(share) => text(percent(share)),
                None => text(String::new()),
            },
            Some(other) => Err(format!("Unknown conversion specifier {other}")),
        }
    }

    fn repr(&self, ascii: bool) -> String {
        let text = match self {
            Value::Str(text) => {
                let quote = if text.contains('\'') && !text.contains('"') {
                    '"'
                } else {
                    '\''
                };
                let mut out = String::from(quote);
                for c in text.chars() {
                    match c {
                        '\\' => out.push_str("\\\\"),
                        '\n' => out.push_str("\\n"),
                        '\t' => out.push_str("\\t"),
                        '\r' => out.push_str("\\r"),
                        c if c == quote => out.extend(['\\', c]),
                        c => out.push(c),
                    }
                }
                out.push(quote);
                out
            }
            Value::Id(id) => format!("JobID({})", id.0),
            Value::Missing => "''".to_owned(),
            other => other.plain(),
        };
        if !ascii {
            return text;
        }
        let mut out = String::new();
        for c in text.chars() {
            match u32::from(c) {
                ..0x80 => out.push(c),
                code @ 0x80..=0xff => out.push_str(&format!("\\x{code:02x}")),
                code @ 0x100..=0xffff => out.push_str(&format!("\\u{code:04x}")),
                code => out.push_str(&format!("\\U{code:08x}")),
            }
        }
        out
    }

    /// The order of a sort: unset, then numbers, then other text.
    pub(super) fn compare(&self, other: &Value) -> Ordering {
        let class = |value: &Value| match value {
            value if value_is_unset(value) => 0,
            value if value.number().is_some() => 1,
            _ => 2,
        };
        match class(self).cmp(&class(other)) {
            Ordering::Equal => match (self.number(), other.number()) {
                (Some(a), Some(b)) => a.total_cmp(&b),
                _ => self.plain().cmp(&other.plain()),
            },
            order => order,
        }
    }
}

fn value_is_unset(value: &Value) -> bool {
    match value {
        Value::None | Value::Missing => true,
        Value::Str(text) => text.is_empty() || text == "-",
        _ => false,
    }
}

/// Whether a rendered value stands for nothing.
pub(super) fn is_empty(text: &str) -> bool {
    matches!(text, "" | "0s" | "0.0" | "0:00:00" | "1970-01-01T00:00:00")
        || (text.starts_with("19") && text == timefmt::strftime("%FT%T", 0.0))
}

/// A real number as Python shows it: always with a point or exponent.
pub(super) fn float_text(number: f64) -> String {
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number != 0.0 && !(1e-4..1e16).contains(&number.abs()) {
        let text = format!("{number:e}");
        if let Some((mantissa, exponent)) = text.split_once('e') {
            let value: i32 = exponent.parse().unwrap_or_default();
            let sign = if value < 0 { '-' } else { '+' };
            return format!("{mantissa}e{sign}{:02}", value.abs());
        }
        return text;
    }
    format!("{number:?}")
}

/// `[D day[s], ]H:MM:SS`.
fn clock(seconds: f64) -> String {
    let whole = if seconds > 0.0 && seconds < 1.0 {
        1
    } else {
        seconds.round() as i64
    };
    let (days, rest) = (whole / 86400, whole % 86400);
    let time = format!("{}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60);
    match days {
        0 => time,
        1 => format!("1 day, {time}"),
        days => format!("{days} days, {time}"),
    }
}

fn percent(share: f64) -> String {
    let value = share * 100.0;
    if value > 0.0 && value < 1.0 {
        format!("{value:.2}%")
    } else {
        format!("{}%", types::fsd::format_g(value, 3))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversions() {
        let convert = |value: Value, conversion| {
            value
                .convert(Some(conversion), None)
                .expect("valid")
                .plain()
        };
        assert_eq!(convert(Value::Float(3.8099), 'F'), "3.810s");
        assert_eq!(convert(Value::Float(0.0), 'F'), "0s");
        assert_eq!(convert(Value::Float(90061.0), 'H'), "1 day, 1:01:01");
        assert_eq!(convert(Value::Float(0.3), 'H'), "0:00:01");
        assert_eq!(convert(Value::Float(0.005), 'P'), "0.50%");
        assert_eq!(convert(Value::Float(0.5), 'P'), "50%");
        assert_eq!(convert(Value::Float(0.0), 'd'), "");
        assert_eq!(convert(Value::Str("a'b".into()), 'r'), "\"a'b\"");
        assert!(Value::Int(1).convert(Some('z'), None).is_err());
    }

    #[test]
    fn floats_look_like_pythons() {
        for (number, text) in [(0.0, "0.0"), (1e16, "1e+16"), (1.5, "1.5"), (1e-5, "1e-05")] {
            assert_eq!(float_text(number), text);
        }
    }
}

//! Python's format mini-language, with our two suffixes.

use std::fmt;

use super::value::{self, Value};

/// A parsed specification.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spec {
    fill: Option<char>,
    align: Option<char>,
    sign: Option<char>,
    alternate: bool,
    zero: bool,
    pub(super) width: Option<usize>,
    grouping: Option<char>,
    pub(super) precision: Option<usize>,
    kind: Option<char>,
    /// `h`: a dash for what is empty.
    hyphen: bool,
    /// `+`: mark what is cut.
    mark: bool,
}

/// The widest column; Python would fill memory.
const WIDTH_MAX: usize = 1 << 16;

impl Spec {
    /// Parses a specification.
    pub(crate) fn parse(text: &str) -> Result<Spec, String> {
        let invalid = || format!("Invalid format specifier '{text}'");
        let mut spec = Spec::default();
        let mut rest = text;
        // A single sign is Python's; after anything else it is our mark.
        if rest.len() > 1
            && let Some(body) = rest.strip_suffix('+')
        {
            spec.mark = true;
            rest = body;
        }
        if let Some(body) = rest.strip_suffix('h') {
            spec.hyphen = true;
            rest = body;
        }
        let mut chars: Vec<char> = rest.chars().collect();
        chars.reverse();
        let is_align = |c: Option<&char>| matches!(c, Some('<' | '>' | '=' | '^'));
        if chars.len() > 1 && is_align(chars.get(chars.len() - 2)) {
            spec.fill = chars.pop();
            spec.align = chars.pop();
        } else if is_align(chars.last()) {
            spec.align = chars.pop();
        }
        if matches!(chars.last(), Some('+' | '-' | ' ')) {
            spec.sign = chars.pop();
        }
        if chars.last() == Some(&'z') {
            chars.pop();
        }
        if chars.last() == Some(&'#') {
            chars.pop();
            spec.alternate = true;
        }
        if chars.last() == Some(&'0') {
            chars.pop();
            spec.zero = true;
        }
        spec.width = number(&mut chars).map_err(|()| invalid())?;
        if matches!(chars.last(), Some(',' | '_')) {
            spec.grouping = chars.pop();
        }
        if chars.last() == Some(&'.') {
            chars.pop();
            spec.precision = number(&mut chars).map_err(|()| invalid())?;
            if spec.precision.is_none() {
                return Err("Format specifier missing precision".to_owned());
            }
        }
        spec.kind = chars.pop();
        if chars.is_empty() {
            Ok(spec)
        } else {
            Err(invalid())
        }
    }

    /// Whether a value is formatted as text.
    pub(super) fn is_text(&self, value: &Value) -> bool {
        self.hyphen
            || matches!(
                value,
                Value::Str(_) | Value::None | Value::Bool(_) | Value::Json(_)
            )
    }

    /// Formats a value.
    pub(crate) fn apply(&self, value: &Value) -> Result<String, String> {
        if self.hyphen {
            let text = value.plain();
            let text = if value::is_empty(&text) { "-" } else { &text };
            let spec = Spec {
                kind: self.kind.filter(|kind| *kind == 's'),
                ..self.clone()
            };
            return spec.text(text, '<');
        }
        if *self == Spec::default() {
            return Ok(value.plain());
        }
        match value {
            Value::Missing => {
                let spec = Spec {
                    kind: None,
                    ..self.clone()
                };
                spec.text("", '<')
            }
            Value::Int(number) => self.integer(*number),
            Value::Id(id) => self.integer(i64::try_from(id.0).unwrap_or(i64::MAX)),
            Value::Float(number) => self.float(*number),
            Value::Bool(flag) => match self.kind {
                None | Some('s') if self.kind.is_none() => self.text(&value.plain(), '<'),
                _ => self.integer(i64::from(*flag)),
            },
            Value::Str(_) => match self.kind {
                None | Some('s') => self.text(&value.plain(), '<'),
                Some(kind) => Err(unknown(kind, "str")),
            },
            Value::None => match self.kind {
                None | Some('s') => self.text("None", '<'),
                Some(_) => {
                    Err("unsupported format string passed to NoneType.__format__".to_owned())
                }
            },
            Value::Json(_) => match self.kind {
                None | Some('s') => self.text(&value.plain(), '<'),
                Some(kind) => Err(unknown(kind, "str")),
            },
        }
    }

    fn integer(&self, number: i64) -> Result<String, String> {
        let digits = number.unsigned_abs();
        let body = match self.kind {
            None | Some('d' | 'n') => digits.to_string(),
            Some('x') => self.prefixed("0x", format!("{digits:x}")),
            Some('X') => self.prefixed("0X", format!("{digits:X}")),
            Some('o') => self.prefixed("0o", format!("{digits:o}")),
            Some('b') => self.prefixed("0b", format!("{digits:b}")),
            Some('c') => {
                let c = u32::try_from(number).ok().and_then(char::from_u32);
                let c = c.ok_or_else(|| "%c arg not in range(0x110000)".to_owned())?;
                return self.text(&c.to_string(), '<');
            }
            Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%') => return self.float(number as f64),
            Some(kind) => return Err(unknown(kind, "int")),
        };
        if self.precision.is_some() {
            return Err("Precision not allowed in integer format specifier".to_owned());
        }
        Ok(self.number(number < 0, &self.grouped(&body)))
    }

    fn prefixed(&self, prefix: &str, digits: String) -> String {
        if self.alternate {
            format!("{prefix}{digits}")
        } else {
            digits
        }
    }

    fn float(&self, number: f64) -> Result<String, String> {
        let size = number.abs();
        let precision = self.precision.unwrap_or(6);
        let body = match self.kind {
            None => match self.precision {
                None => value::float_text(size),
                Some(precision) => {
                    let text = types::fsd::format_g(size, precision.max(1));
                    if text.contains(['.', 'e']) {
                        text
                    } else {
                        text + ".0"
                    }
                }
            },
            Some('f' | 'F') => format!("{size:.precision$}"),
            Some('e') => exponent(size, precision),
            Some('E') => exponent(size, precision).to_uppercase(),
            Some('g' | 'n') => types::fsd::format_g(size, precision.max(1)),
            Some('G') => types::fsd::format_g(size, precision.max(1)).to_uppercase(),
            Some('%') => format!("{:.precision$}%", size * 100.0),
            Some(kind) => return Err(unknown(kind, "float")),
        };
        Ok(self.number(
            number.is_sign_negative() && number != 0.0,
            &self.grouped(&body),
        ))
    }

    fn grouped(&self, body: &str) -> String {
        let Some(separator) = self.grouping else {
            return body.to_owned();
        };
        let end = body
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(body.len());
        let mut out = String::new();
        for (index, c) in body[..end].chars().enumerate() {
            if index > 0 && (end - index).is_multiple_of(3) {
                out.push(separator);
            }
            out.push(c);
        }
        out + &body[end..]
    }

    fn number(&self, negative: bool, body: &str) -> String {
        let sign = match (negative, self.sign) {
            (true, _) => "-",
            (false, Some('+')) => "+",
            (false, Some(' ')) => " ",
            _ => "",
        };
        let text = format!("{sign}{body}");
        let (fill, align) = match (self.align, self.zero) {
            (Some(align), _) => (self.fill.unwrap_or(' '), align),
            (None, true) => ('0', '='),
            (None, false) => (' ', '>'),
        };
        if align == '=' {
            let width = self.width.unwrap_or(0).min(WIDTH_MAX);
            let missing = width.saturating_sub(text.chars().count());
            return format!("{sign}{}{body}", fill.to_string().repeat(missing));
        }
        pad(&text, self.width, fill, align)
    }

    fn text(&self, text: &str, default: char) -> Result<String, String> {
        if self.align == Some('=') {
            return Err("'=' alignment not allowed in string format specifier".to_owned());
        }
        if self.sign.is_some() {
            return Err("Sign not allowed in string format specifier".to_owned());
        }
        let mut out = match self.precision {
            Some(precision) => text.chars().take(precision).collect(),
            None => text.to_owned(),
        };
        if self.mark && out.chars().count() < text.chars().count() {
            out.pop();
            out.push('+');
        }
        let fill = self.fill.unwrap_or(if self.zero { '0' } else { ' ' });
        Ok(pad(&out, self.width, fill, self.align.unwrap_or(default)))
    }

    /// A heading over the column: alignment and width only.
    pub(crate) fn header(&self, heading: &str) -> String {
        let align = match self.align {
            Some('=') | None => '<',
            Some(align) => align,
        };
        pad(heading, self.width, ' ', align)
    }
}

fn unknown(kind: char, object: &str) -> String {
    format!("Unknown format code '{kind}' for object of type '{object}'")
}

/// Python writes exponents with a sign and at least two digits.
fn exponent(number: f64, precision: usize) -> String {
    let text = format!("{number:.precision$e}");
    match text.split_once('e') {
        Some((mantissa, exponent)) => {
            let value: i32 = exponent.parse().unwrap_or_default();
            let sign = if value < 0 { '-' } else { '+' };
            format!("{mantissa}e{sign}{:02}", value.abs())
        }
        None => text,
    }
}

fn pad(text: &str, width: Option<usize>, fill: char, align: char) -> String {
    let width = width.unwrap_or(0).min(WIDTH_MAX);
    let missing = width.saturating_sub(text.chars().count());
    let (left, right) = match align {
        '>' => (missing, 0),
        '^' => (missing / 2, missing - missing / 2),
        _ => (0, missing),
    };
    let fill = fill.to_string();
    format!("{}{text}{}", fill.repeat(left), fill.repeat(right))
}

fn number(chars: &mut Vec<char>) -> Result<Option<usize>, ()> {
    let mut digits = String::new();
    while let Some(c) = chars.pop_if(|c| c.is_ascii_digit()) {
        digits.push(c);
    }
    if digits.is_empty() {
        return Ok(None);
    }
    digits.parse().map(Some).map_err(|_| ())
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in [self.fill, self.align, self.sign].into_iter().flatten() {
            write!(f, "{c}")?;
        }
        if self.alternate {
            f.write_str("#")?;
        }
        if self.zero {
            f.write_str("0")?;
        }
        if let Some(width) = self.width {
            write!(f, "{width}")?;
        }
        if let Some(c) = self.grouping {
            write!(f, "{c}")?;
        }
        if let Some(precision) = self.precision {
            write!(f, ".{precision}")?;
        }
        if let Some(c) = self.kind {
            write!(f, "{c}")?;
        }
        if self.hyphen {
            f.write_str("h")?;
        }
        if self.mark {
            f.write_str("+")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(spec: &str, value: Value) -> String {
        Spec::parse(spec)
            .and_then(|spec| spec.apply(&value))
            .expect("valid")
    }

    #[test]
    fn python_examples() {
        assert_eq!(apply("06d", Value::Int(1)), "000001");
        assert_eq!(apply("+d", Value::Int(1)), "+1");
        assert_eq!(apply(",", Value::Int(1234567)), "1,234,567");
        assert_eq!(apply("#x", Value::Int(255)), "0xff");
        assert_eq!(apply(".2f", Value::Float(1.0)), "1.00");
        assert_eq!(apply("*^7", Value::Str("a".into())), "***a***");
        assert_eq!(apply(">6h", Value::Str(String::new())), "     -");
        assert_eq!(apply("<6", Value::Missing), "      ");
        assert_eq!(apply(".0%", Value::Float(0.5)), "50%");
        assert_eq!(apply("", Value::Float(0.0)), "0.0");
        assert!(Spec::parse("q.q").is_err());
    }

    #[test]
    fn texts_come_back() {
        for text in ["<8.8", ">12h", "<10.10+", "06d", "*^7", "<10.10h+"] {
            assert_eq!(Spec::parse(text).expect("valid").to_string(), text);
        }
    }
}

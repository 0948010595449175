//! Replacement strings: what stands in braces in a template.

use super::define::{Defines, Rendering};
use crate::format::{Spec, Value};

/// Why a text could not be filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ReplaceError {
    /// This is no input.
    Unknown(String),
    /// What is wrong with the replacement string.
    Failed(String),
}

/// What replacement strings stand for.
pub(super) struct Source<'a> {
    /// The inputs.
    pub(super) row: &'a [&'a str],
    /// The job's number, from 0.
    pub(super) seq: usize,
    /// What the command line defines beyond what is known.
    pub(super) defines: &'a mut Defines,
}

impl Source<'_> {
    /// Replaces what is in braces. Doubled braces are for the job shell and stay, as does `{cc}`.
    pub(super) fn replace(&mut self, text: &str) -> Result<String, ReplaceError> {
        let failed = |text: &str| ReplaceError::Failed(text.to_owned());
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        let mut auto = 0;
        while let Some(at) = rest.find(['{', '}']) {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            if rest.starts_with("}}") {
                out.push_str("}}");
                rest = &rest[2..];
            } else if rest.starts_with("{{") {
                let end = rest.find("}}").map_or(rest.len(), |end| end + 2);
                out.push_str(&rest[..end]);
                rest = &rest[end..];
            } else if rest.starts_with('}') {
                return Err(failed("Single '}' encountered in format string"));
            } else {
                let Some(end) = rest.find('}') else {
                    return Err(failed("expected '}' before end of string"));
                };
                out.push_str(&self.field(&rest[1..end], &mut auto)?);
                rest = &rest[end + 1..];
            }
        }
        out.push_str(rest);
        Ok(out)
    }

    /// What a field stands for: a name, then a conversion, then a format.
    fn field(&mut self, field: &str, auto: &mut usize) -> Result<String, ReplaceError> {
        let (rest, format) = field.split_once(':').unwrap_or((field, ""));
        let (name, conversion) = match rest.split_once('!') {
            Some((name, conversion)) => (name, Some(conversion)),
            None => (rest, None),
        };
        let value = match name {
            "seq" => Value::from(self.seq),
            "seq1" => Value::from(self.seq + 1),
            // Its turn comes when copies are made.
            "cc" => return Ok(format!("{{{field}}}")),
            _ => {
                let (index, attribute) = match name.split_once('.') {
                    Some((index, attribute)) => (index, Some(attribute)),
                    None => (name, None),
                };
                let index = if index.is_empty() {
                    *auto += 1;
                    *auto - 1
                } else {
                    let index = index.parse();
                    index.map_err(|_| ReplaceError::Unknown(name.to_owned()))?
                };
                let unknown = || ReplaceError::Unknown(index.to_string());
                let input = *self.row.get(index).ok_or_else(unknown)?;
                match attribute {
                    None => input.into(),
                    Some(attribute) => match part(input, attribute) {
                        Some(part) => part.into(),
                        None => {
                            let rendering = Rendering { conversion, format };
                            return self
                                .defines
                                .apply(attribute, input, &rendering)
                                .map_err(ReplaceError::Failed);
                        }
                    },
                }
            }
        };
        rendered(&value, conversion, format).map_err(ReplaceError::Failed)
    }
}

fn rendered(value: &Value, conversion: Option<&str>, format: &str) -> Result<String, String> {
    let value = match conversion {
        None => value.clone(),
        Some(letter @ ("s" | "r" | "a")) => value.convert(letter.chars().next(), None)?,
        Some(other) => return Err(format!("Unknown conversion specifier {other}")),
    };
    if format.is_empty() {
        return Ok(value.plain());
    }
    Spec::parse(format)?.apply(&value)
}

/// A part of an input that is taken for a path.
fn part(input: &str, attribute: &str) -> Option<String> {
    let (dir, base) = input.rsplit_once('/').unwrap_or(("", input));
    // A dot at the start of a name begins no extension.
    let stem = |name: &str| match name.trim_start_matches('.').rfind('.') {
        Some(at) => at + name.len() - name.trim_start_matches('.').len(),
        None => name.len(),
    };
    Some(match attribute {
        "%" => input[..input.len() - base.len() + stem(base)].to_owned(),
        "/" => base.to_owned(),
        "//" => dir.to_owned(),
        "/%" => base[..stem(base)].to_owned(),
        _ => return None,
    })
}

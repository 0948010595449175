//! JSON texts as commands print them.

use std::io;

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{CharEscape, Formatter, PrettyFormatter, Serializer};

/// With newlines and an indent of one blank.
pub(crate) fn indented(value: &Value) -> String {
    indented_by(value, 1)
}

/// With newlines and an indent of so many blanks.
pub(crate) fn indented_by(value: &Value, blanks: usize) -> String {
    let mut bytes = Vec::new();
    let indent = b" ".repeat(blanks);
    let mut serializer =
        Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(&indent));
    // Writing a value to memory does not fail.
    drop(value.serialize(&mut serializer));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Compact, with real numbers in 17 digits, as C programs write it.
pub(crate) fn compact(value: &Value) -> String {
    let mut bytes = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut bytes, SeventeenDigits);
    // Writing a value to memory does not fail.
    drop(value.serialize(&mut serializer));
    String::from_utf8_lossy(&bytes).into_owned()
}

struct SeventeenDigits;

impl Formatter for SeventeenDigits {
    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        let text = types::fsd::format_g(value, 17);
        writer.write_all(text.as_bytes())?;
        if text.contains(['.', 'e']) {
            Ok(())
        } else {
            writer.write_all(b".0")
        }
    }
}

/// As Python's `json.dumps` writes it: a blank after every comma and colon.
pub(crate) fn python(value: &impl Serialize, ascii: bool) -> String {
    let mut bytes = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut bytes, Python { ascii });
    // Writing a value to memory does not fail.
    drop(value.serialize(&mut serializer));
    String::from_utf8_lossy(&bytes).into_owned()
}

struct Python {
    ascii: bool,
}

impl Formatter for Python {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        if !self.ascii || fragment.is_ascii() {
            return writer.write_all(fragment.as_bytes());
        }
        for unit in fragment.encode_utf16() {
            match u8::try_from(unit) {
                Ok(byte) if byte.is_ascii() => writer.write_all(&[byte])?,
                _ => write!(writer, "\\u{unit:04x}")?,
            }
        }
        Ok(())
    }

    fn write_char_escape<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        escape: CharEscape,
    ) -> io::Result<()> {
        match escape {
            CharEscape::Quote => writer.write_all(b"\\\""),
            CharEscape::ReverseSolidus => writer.write_all(b"\\\\"),
            CharEscape::Solidus => writer.write_all(b"/"),
            CharEscape::Backspace => writer.write_all(b"\\b"),
            CharEscape::FormFeed => writer.write_all(b"\\f"),
            CharEscape::LineFeed => writer.write_all(b"\\n"),
            CharEscape::CarriageReturn => writer.write_all(b"\\r"),
            CharEscape::Tab => writer.write_all(b"\\t"),
            CharEscape::AsciiControl(byte) => write!(writer, "\\u{byte:04x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_style() {
        let value: Value = serde_json::from_str(r#"{"a":[1,"ƒ\n"],"b":{}}"#).expect("JSON");
        assert_eq!(python(&value, true), r#"{"a": [1, "\u0192\n"], "b": {}}"#);
        assert_eq!(python(&value, false), "{\"a\": [1, \"ƒ\\n\"], \"b\": {}}");
    }
}

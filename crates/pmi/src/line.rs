//! One line of the protocol.

/// Why a line is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// It begins with neither `cmd=` nor `mcmd=`.
    #[error("line has no command")]
    NoCommand,
}

/// A line: a command and its fields, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    command: &'a str,
    fields: &'a str,
}

impl<'a> Line<'a> {
    /// Takes a line apart. Fields are looked up later.
    pub fn parse(line: &'a str) -> Result<Line<'a>, LineError> {
        let line = line.trim_end_matches(['\n', '\r']).trim_start();
        let rest = line
            .strip_prefix("cmd=")
            .or_else(|| line.strip_prefix("mcmd="))
            .ok_or(LineError::NoCommand)?;
        let (command, fields) = rest.split_once(' ').unwrap_or((rest, ""));
        Ok(Line { command, fields })
    }

    /// The command.
    pub fn command(&self) -> &'a str {
        self.command
    }

    /// A field without blanks.
    pub fn field(&self, name: &str) -> Option<&'a str> {
        self.fields
            .split(' ')
            .filter_map(|field| field.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    }

    /// A field that reaches to the end of the line, blanks and `=` included.
    pub fn rest(&self, name: &str) -> Option<&'a str> {
        let mut from = 0;
        loop {
            let at = from + self.fields[from..].find(name)?;
            let after = at + name.len();
            let starts = at == 0 || self.fields.as_bytes()[at - 1] == b' ';
            if starts && self.fields[after..].starts_with('=') {
                return Some(&self.fields[after + 1..]);
            }
            from = after;
        }
    }

    /// A field that is a number.
    pub fn number(&self, name: &str) -> Option<i64> {
        self.field(name)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_words_and_the_last_may_hold_anything() {
        let line = Line::parse("cmd=put kvsname=k key=a value=b c=d e\n").expect("a line");
        assert_eq!(line.command(), "put");
        assert_eq!(line.field("key"), Some("a"));
        assert_eq!(line.rest("value"), Some("b c=d e"));
        assert_eq!(line.field("none"), None);
        assert_eq!(Line::parse("hello"), Err(LineError::NoCommand));
    }
}

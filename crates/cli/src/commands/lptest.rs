//! `flux lptest`: lines of regular output for tests of standard I/O, each one character further on
//! in the printable characters.

use crate::driver::Invocation;
use crate::fail::{self, Fail};
use crate::options::{Family, Parser};
use crate::output;

const PROG: &str = "flux-lptest";
/// The printable characters but the blank.
const FIRST: u8 = b'!';
const LAST: u8 = b'~';

static PARSER: Parser = Parser {
    name: "flux lptest",
    usage: "[length] [count]",
    about: "Create lines of regular output for standard I/O testing",
    family: Family::G,
    opts: &[],
};

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    let args = match PARSER.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let (length, count) = match &args.words[..] {
        [] => (None, None),
        [length] => (Some(length), None),
        [length, count] => (Some(length), Some(count)),
        _ => return PARSER.wrong_words(),
    };
    let result = (|| {
        let length = number(length, "length", 79)?;
        let count = number(count, "count", 200)?;
        for line in 0..count {
            output::write(&row(line, length));
        }
        Ok(0)
    })();
    fail::report(PROG, result)
}

/// A number of lines or characters; none at all for negative numbers.
fn number(word: Option<&String>, what: &str, default: usize) -> Result<usize, Fail> {
    let Some(word) = word else {
        return Ok(default);
    };
    let number: i64 = word
        .parse()
        .map_err(|_| Fail::new(format!("error parsing {what}")))?;
    Ok(usize::try_from(number).unwrap_or(0))
}

fn row(line: usize, length: usize) -> Vec<u8> {
    let mut row: Vec<u8> = (FIRST..=LAST)
        .cycle()
        .skip(line % usize::from(LAST - FIRST + 1))
        .take(length)
        .collect();
    row.push(b'\n');
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_advance_and_wrap() {
        assert_eq!(row(0, 5), b"!\"#$%\n");
        assert_eq!(row(92, 3), b"}~!\n");
        assert_eq!(row(94, 2), b"!\"\n");
        assert_eq!(row(7, 0), b"\n");
    }

    #[test]
    fn numbers_are_read_whole() {
        let read = |word: &str| number(Some(&word.to_owned()), "count", 7).ok();
        assert_eq!(read("12"), Some(12));
        assert_eq!(read("-1"), Some(0));
        assert_eq!(read("3x"), None);
        assert_eq!(number(None, "count", 7).ok(), Some(7));
    }
}

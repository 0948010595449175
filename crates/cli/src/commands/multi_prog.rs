//! `flux multi-prog`: another program for each task of a job, from one file.

use std::borrow::Cow;
use std::os::unix::process::CommandExt;
use std::process::Command;

use types::{Errno, IdSet};

use crate::driver::Invocation;
use crate::fail::{self, Fail};
use crate::options::{Family, Parser, arg};
use crate::{outln, output};

const PREFIX: &str = "flux-multi-prog: ERROR";

static PARSER: Parser = Parser {
    name: "flux-multi-prog",
    usage: "[-h] [-n RANKS] CONFIG",
    about: "",
    family: Family::P,
    opts: &[arg(
        'n',
        "dry-run",
        "RANKS",
        "Do not run anything. Show what would be run on RANKS",
    )],
};

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    let args = match PARSER.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let path = match args.words.as_slice() {
        [] => return PARSER.usage_error("the following arguments are required: CONFIG"),
        [path] => path,
        _ => return PARSER.wrong_words(),
    };
    let ranks = match args.get("dry-run").map(|text| (text, text.parse())) {
        None => None,
        Some((_, Ok(ranks))) => Some(ranks),
        Some((text, Err(_))) => {
            let text = format!("argument -n/--dry-run: invalid IDset value: '{text}'");
            return PARSER.usage_error(&text);
        }
    };
    fail::report(PREFIX, run_or_show(path, ranks))
}

fn run_or_show(path: &str, ranks: Option<IdSet>) -> fail::Outcome {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Fail::new(format!("{}: '{path}'", Errno::from_io(&error))))?;
    let programs = Programs::parse(&text).map_err(|error| Fail::of(path, error))?;
    let command = |rank| {
        let missing = || Fail::of(path, format!("No matching line for rank {rank}"));
        programs.command(rank).ok_or_else(missing)
    };
    if let Some(ranks) = ranks {
        for rank in ranks.iter() {
            let words = command(rank)?;
            let words: Vec<_> = words.iter().map(|word| quoted(word)).collect();
            outln!("{rank}: {}", words.join(" "));
        }
        return Ok(0);
    }
    let rank = std::env::var("FLUX_TASK_RANK").ok();
    let rank = rank
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Fail::new("FLUX_TASK_RANK not found or invalid"))?;
    let words = command(rank)?;
    let [program, words @ ..] = words.as_slice() else {
        return Err(Fail::of(path, format!("No command for rank {rank}")));
    };
    output::flush();
    let error = Command::new(program).args(words).exec();
    Err(Fail::of(program, Errno::from_io(&error)))
}

/// What a configuration file says.
#[derive(Debug)]
struct Programs {
    lines: Vec<(IdSet, Vec<String>)>,
    /// For all other tasks.
    rest: Option<Vec<String>>,
}

impl Programs {
    /// Errors: what is wrong, with the number of the line.
    fn parse(text: &str) -> Result<Programs, String> {
        let mut programs = Programs {
            lines: Vec::new(),
            rest: None,
        };
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            let mut words = shlex::split(line)
                .ok_or_else(|| format!("line {number}: '{line}': No closing quotation"))?
                .into_iter();
            let Some(tasks) = words.next() else {
                continue;
            };
            let words = words.collect();
            if tasks == "*" {
                programs.rest = Some(words);
                continue;
            }
            let ranks: IdSet = tasks
                .parse()
                .map_err(|_| format!("line {number}: invalid idset: {tasks}"))?;
            programs.lines.push((ranks, words));
        }
        Ok(programs)
    }

    /// A task's command, with the rank and its offset in the line's set put in.
    fn command(&self, rank: u32) -> Option<Vec<String>> {
        let found = self.lines.iter().find(|(ranks, _)| ranks.contains(rank));
        let (offset, words) = match (found, &self.rest) {
            (Some((ranks, words)), _) => (ranks.iter().position(|other| other == rank), words),
            (None, Some(words)) => (Some(0), words),
            (None, None) => return None,
        };
        let offset = offset.unwrap_or(0).to_string();
        let fill = |word: &String| word.replace("%t", &rank.to_string()).replace("%o", &offset);
        Some(words.iter().map(fill).collect())
    }
}

/// A word as a shell would have to be given it; only words that need it are quoted.
fn quoted(word: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@%+=:,./-_".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into();
    }
    format!("'{}'", word.replace('\'', "'\"'\"'")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_task_gets_its_line() {
        let text = "# comment\n0-1 echo \"a b\" %t # inline\n\n2-3 echo %t-%o\n* rest %o\n";
        let programs = Programs::parse(text).unwrap();
        let command = |rank| programs.command(rank).unwrap();
        assert_eq!(command(1), ["echo", "a b", "1"]);
        assert_eq!(command(3), ["echo", "3-1"]);
        assert_eq!(command(9), ["rest", "0"]);
        let programs = Programs::parse("0 a\n").unwrap();
        assert_eq!(programs.command(1), None);
    }

    #[test]
    fn wrong_lines_are_named() {
        let error = |text| Programs::parse(text).unwrap_err();
        assert_eq!(error("0 a\n0-x b"), "line 2: invalid idset: 0-x");
        assert_eq!(error("0 \"a"), "line 1: '0 \"a': No closing quotation");
    }
}

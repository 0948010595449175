//! `flux fortune`: a line to cheer up those who wait for their jobs.

use crate::driver::Invocation;
use crate::options::{Family, Parser, arg};
use crate::{outln, timefmt};

static PARSER: Parser = Parser {
    name: "flux fortune",
    usage: "[-h] [-c {all,valentines,fun,facts,art}]",
    about: "",
    family: Family::P,
    opts: &[arg(
        'c',
        "category",
        "{all,valentines,fun,facts,art}",
        "What to choose from",
    )],
};

/// The texts by category.
const FORTUNES: &[(&str, &[&str])] = &[
    (
        "valentines",
        &[
            "My R would be empty without you.",
            "You had me at the first eventlog entry.",
            "Of all the nodes of the cluster, it is you my jobs are drawn to.",
        ],
    ),
    (
        "fun",
        &[
            "A watched job never leaves SCHED.",
            "Today is a good day to submit. Tomorrow is a good day to read the output.",
            "You will soon meet a tall, dark, exclusively allocated node.",
        ],
    ),
    (
        "facts",
        &[
            "An instance can run inside a job of another one, as deep as you like:\n  $ flux alloc -n1",
            "A job id has several spellings. This shows it in decimal:\n  $ flux job id --to=dec JOBID",
            "This shows what became of your last job:\n  $ flux job last",
        ],
    ),
    (
        "art",
        &[
            "   .---.\n  /     \\    ~ ~\n  | f(x) |  ~ flux ~\n  \\     /    ~ ~\n   '---'",
            "  [0]---[1]---[3]\n    \\      \\\n    [2]    [4]",
        ],
    ),
];

const COLOR: &str = "\x1b[95m";
const RESET: &str = "\x1b[00m";

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    let args = match PARSER.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if !args.words.is_empty() {
        return PARSER.unrecognized(&args.words);
    }
    let category = args.get("category").unwrap_or("all");
    let texts = texts(category);
    // The clock is chance enough for this.
    let nanoseconds = (timefmt::now().fract() * 1e9) as usize;
    let Some(text) = texts.get(nanoseconds % texts.len().max(1)) else {
        return PARSER.usage_error(&format!(
            "argument -c/--category: invalid choice: '{category}' \
             (choose from 'all', 'valentines', 'fun', 'facts', 'art')"
        ));
    };
    outln!("{COLOR} * \n{text}\n *{RESET}");
    0
}

/// The texts of a category, none if there is no such category.
fn texts(category: &str) -> Vec<&'static str> {
    FORTUNES
        .iter()
        .filter(|(name, _)| category == "all" || category == *name)
        .flat_map(|(_, texts)| *texts)
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn categories_have_texts() {
        let count: usize = FORTUNES.iter().map(|(name, _)| texts(name).len()).sum();
        assert_eq!(texts("all").len(), count);
        assert!(texts("tarot").is_empty());
    }
}

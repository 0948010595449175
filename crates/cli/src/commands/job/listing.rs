//! Jobs as the service lists them, one JSON object a line: for tests and tools.

use std::io::IsTerminal;

use proto::job_list::{JobListList, List};
use rpc::Dest;
use serde_json::{Value, json};

use super::{PROG, connect};
use crate::commands::jobs::is_state;
use crate::fail::{self, Fail};
use crate::options::{Args, Family, Parser, arg, flag};
use crate::{err, json as text, outln};

static LIST: Parser = Parser {
    name: "flux-job list",
    usage: "[OPTIONS]",
    about: "List jobs",
    family: Family::G,
    opts: &[
        flag('a', "all-user", "List one's jobs in all states"),
        flag('A', "all", "List the jobs of all users in all states"),
        arg('c', "count", "N", "List at most N jobs"),
        arg('s', "states", "STATES", "List jobs in these states"),
        arg('u', "user", "USER", "List the jobs of this user, or all"),
    ],
};

static LIST_INACTIVE: Parser = Parser {
    name: "flux-job list-inactive",
    usage: "[OPTIONS]",
    about: "List inactive jobs",
    family: Family::G,
    opts: &[
        arg('c', "count", "N", "List at most N jobs"),
        arg('s', "since", "T", "List jobs that ended after T"),
    ],
};

/// Jobs in all states.
const ALL_STATES: &[&str] = &["pending", "running", "inactive"];

pub(super) fn list(words: &[String]) -> i32 {
    show(&LIST, words, |args| {
        let states: Vec<String> = match args.get("states") {
            Some(list) => {
                let names: Vec<String> = list.split(',').map(str::to_lowercase).collect();
                if let Some(unknown) = names.iter().find(|name| !is_state(name)) {
                    let text = format!("error parsing --states: {unknown} is unknown");
                    return Err(Fail::new(text));
                }
                names
            }
            None if args.has("all") || args.has("all-user") => {
                ALL_STATES.iter().map(|&state| state.to_owned()).collect()
            }
            None => ALL_STATES[..2]
                .iter()
                .map(|&state| state.to_owned())
                .collect(),
        };
        let mut terms = vec![json!({ "states": states })];
        let user = if args.has("all") {
            -1
        } else {
            super::control::user(args.get("user"))?
        };
        if user >= 0 {
            terms.push(json!({ "userid": [user] }));
        }
        Ok((json!({ "and": terms }), None))
    })
}

pub(super) fn list_inactive(words: &[String]) -> i32 {
    show(&LIST_INACTIVE, words, |args| {
        Ok((json!({ "states": ["inactive"] }), args.float("since")?))
    })
}

/// Whether somebody looks on, who should use another command and is told so.
pub(super) fn is_for_people() -> bool {
    let looks_on = std::io::stdout().is_terminal();
    if looks_on {
        err!("This is not the command you are looking for. Try flux-jobs(1).");
    }
    looks_on
}

fn show(
    parser: &'static Parser,
    words: &[String],
    constraint: impl FnOnce(&Args) -> Result<(Value, Option<f64>), Fail>,
) -> i32 {
    let args = match parser.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if !args.words.is_empty() {
        return parser.wrong_words();
    }
    if is_for_people() {
        return 1;
    }
    fail::run(PROG, async {
        let (constraint, since) = constraint(&args)?;
        let request = List {
            max_entries: args.int("count")?.unwrap_or(0),
            attrs: vec!["all".to_owned()],
            since,
            constraint: Some(constraint),
            ..List::default()
        };
        let client = connect().await?;
        let call = client.handle().call::<JobListList>(Dest::Any, &request);
        let answer = call.await;
        for job in answer
            .map_err(|error| Fail::of("job-list.list", error))?
            .jobs
        {
            outln!("{}", text::python(&job, true));
        }
        Ok(0)
    })
}

//! Which jobs a command line means.

use nix::unistd::User;
use serde_json::{Value, json};
use types::{Hostlist, IdSet};

use crate::fail::Fail;
use crate::options::Args;
use crate::{datetime, timefmt};

/// Jobs to list.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    /// An RFC 31 constraint.
    pub(crate) constraint: Value,
    /// At most this many, 0 for all.
    pub(crate) count: i64,
    /// Only what ended after this time.
    pub(crate) since: f64,
    /// Whether any option was given.
    pub(crate) given: bool,
}

/// The states by name.
const STATES: &[&str] = &[
    "depend", "priority", "sched", "run", "cleanup", "inactive", "pending", "running", "active",
];
/// The results by name.
const RESULTS: &[&str] = &["completed", "failed", "canceled", "timeout"];

/// The number of a user, `None` for all users.
pub(crate) fn userid(text: &str) -> Result<Option<u32>, Fail> {
    if text == "all" {
        return Ok(None);
    }
    if let Ok(number) = text.parse() {
        return Ok(Some(number));
    }
    match User::from_name(text) {
        Ok(Some(user)) => Ok(Some(user.uid.as_raw())),
        _ => Err(Fail::new(format!("Invalid user {text} specified"))),
    }
}

impl Filter {
    /// The caller's own jobs that have one of these states or results, at most `count`.
    pub(crate) fn own(names: &[String], count: i64) -> Result<Filter, Fail> {
        let own = json!({ "userid": [nix::unistd::getuid().as_raw()] });
        Ok(Filter {
            constraint: json!({ "and": [own, states(names)?] }),
            count,
            since: 0.0,
            given: false,
        })
    }

    /// The filter the options `-a -A -c -f --since -u --name -q -i` make.
    pub(crate) fn from_args(args: &Args) -> Result<Filter, Fail> {
        let mut terms = Vec::new();
        let user = match args.get("user") {
            Some(text) => userid(text)?,
            None if args.has("A") || args.has("include") => None,
            None => Some(nix::unistd::getuid().as_raw()),
        };
        if let Some(user) = user {
            terms.push(json!({ "userid": [user] }));
        }
        if let Some(name) = args.get("name") {
            terms.push(json!({ "name": [name] }));
        }
        let queues: Vec<&str> = args.all("queue").flat_map(|list| list.split(',')).collect();
        if !queues.is_empty() {
            terms.push(json!({ "queue": queues }));
        }
        if let Some(text) = args.get("include") {
            terms.push(targets(text)?);
        }
        let mut since = 0.0;
        if let Some(text) = args.get("since") {
            since = text
                .parse::<f64>()
                .ok()
                .filter(|seconds| *seconds >= 0.0)
                .or_else(|| datetime::parse(text))
                .ok_or_else(|| Fail::new(format!("Invalid datetime: \"{text}\"")))?;
            if since > timefmt::now() {
                return Err(Fail::new(format!(
                    "--since={text} appears to be in the future"
                )));
            }
        }
        let mut names: Vec<String> = args
            .all("filter")
            .flat_map(|list| list.split(','))
            .map(str::to_lowercase)
            .collect();
        if names.is_empty() {
            names = ["pending", "running"].map(str::to_owned).to_vec();
            if args.has("a") || args.has("since") {
                names.push("inactive".to_owned());
            }
        }
        terms.push(states(&names)?);
        Ok(Filter {
            constraint: json!({ "and": terms }),
            count: args.int("count")?.unwrap_or(1000),
            since,
            given: [
                "user", "name", "queue", "include", "since", "filter", "a", "A",
            ]
            .iter()
            .any(|key| args.has(key)),
        })
    }
}

/// Whether states of jobs have this name.
pub(crate) fn is_state(name: &str) -> bool {
    STATES.contains(&name)
}

/// Any of some states or results.
fn states(names: &[String]) -> Result<Value, Fail> {
    let mut states = Vec::new();
    let mut results = Vec::new();
    for name in names {
        if is_state(name) {
            states.push(name.as_str());
        } else if RESULTS.contains(&name.as_str()) {
            results.push(name.as_str());
        } else {
            return Err(Fail::new(format!("Invalid filter specified: {name}")));
        }
    }
    let states_term = json!({ "states": states });
    let results_term = json!({ "results": results });
    Ok(match (states.is_empty(), results.is_empty()) {
        (false, true) => states_term,
        (true, false) => results_term,
        _ => json!({ "or": [states_term, results_term] }),
    })
}

/// Ranks or hosts.
fn targets(text: &str) -> Result<Value, Fail> {
    if text.parse::<IdSet>().is_ok() {
        return Ok(json!({ "ranks": [text] }));
    }
    match text.parse::<Hostlist>() {
        Ok(_) => Ok(json!({ "hostlist": [text] })),
        Err(_) => Err(Fail::new(format!("-i/--include: invalid targets: {text}"))),
    }
}

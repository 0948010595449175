//! What of the submitter's environment and limits a job gets.

use nix::sys::resource::{Resource, getrlimit};
use regex_lite::Regex;
use serde_json::{Map, Value, json};

use crate::err;
use crate::fail::Fail;
use crate::options::Args;

/// Variables by name.
type Vars = Map<String, Value>;

/// Applies the environment rules of the command line, in order.
///
/// The second map holds values with templates, which the job shell expands.
pub(super) fn environment(args: &Args) -> Result<(Vars, Vars), Fail> {
    let mut rules = Rules {
        env: inherited().collect(),
        expand: Map::new(),
    };
    for (opt, value) in args.given() {
        let value = value.unwrap_or_default();
        match opt.long {
            "env" => rules.apply(value)?,
            "env-remove" => rules.remove(value)?,
            "env-file" => rules.file(value)?,
            _ => {}
        }
    }
    rules.env.retain(|name, value| {
        if value.is_null() {
            err!("warning: environment variable {name} is not UTF-8 text and stays behind");
        }
        !value.is_null()
    });
    Ok((rules.env, rules.expand))
}

/// The variables of this process. Those that are not text have no value.
fn inherited() -> impl Iterator<Item = (String, Value)> {
    std::env::vars_os().map(
        |(name, value)| match (name.into_string(), value.into_string()) {
            (Ok(name), Ok(value)) => (name, value.into()),
            (Ok(name), Err(_)) => (name, Value::Null),
            (Err(name), _) => (name.to_string_lossy().into_owned(), Value::Null),
        },
    )
}

struct Rules {
    env: Map<String, Value>,
    expand: Map<String, Value>,
}

impl Rules {
    fn apply(&mut self, rule: &str) -> Result<(), Fail> {
        if let Some(pattern) = rule.strip_prefix('-') {
            return self.remove(pattern);
        }
        if let Some(file) = rule.strip_prefix('^') {
            return self.file(file);
        }
        let Some((name, value)) = rule.split_once('=') else {
            let matcher = Matcher::new(rule)?;
            for (name, value) in inherited() {
                if matcher.matches(&name) && !self.env.contains_key(&name) {
                    if value.is_null() {
                        let text = format!("--env={rule}: the value of {name} is not UTF-8 text");
                        return Err(Fail::new(text));
                    }
                    self.env.insert(name, value);
                }
            }
            return Ok(());
        };
        if value.contains("{{") {
            self.expand.insert(name.to_owned(), value.into());
        } else {
            let value = self.substitute(rule, value)?;
            self.env.insert(name.to_owned(), value.into());
        }
        Ok(())
    }

    fn file(&mut self, path: &str) -> Result<(), Fail> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Fail::of(format!("--env: {path}"), types::Errno::from_io(&error)))?;
        for line in text.lines().map(str::trim) {
            if !line.is_empty() && !line.starts_with('#') {
                self.apply(line)?;
            }
        }
        Ok(())
    }

    fn remove(&mut self, pattern: &str) -> Result<(), Fail> {
        let matcher = Matcher::new(pattern)?;
        self.env.retain(|name, _| !matcher.matches(name));
        Ok(())
    }

    /// Expands `$NAME` and `${NAME}`; `$$` is a dollar.
    fn substitute(&self, rule: &str, value: &str) -> Result<String, Fail> {
        let mut out = String::new();
        let mut rest = value;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                out.push('$');
                rest = after;
                continue;
            }
            let (name, after) = match rest.strip_prefix('{') {
                Some(inner) => inner.split_once('}').unwrap_or((inner, "")),
                None => {
                    let end = rest
                        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                        .unwrap_or(rest.len());
                    rest.split_at(end)
                }
            };
            if name.is_empty() {
                out.push('$');
                continue;
            }
            match self.env.get(name).and_then(Value::as_str) {
                Some(value) => out.push_str(value),
                None => match std::env::var(name) {
                    Ok(value) => out.push_str(&value),
                    Err(_) => {
                        return Err(Fail::new(format!(
                            "--env: Variable '{name}' not found in {rule}"
                        )));
                    }
                },
            }
            rest = after;
        }
        out.push_str(rest);
        Ok(out)
    }
}

/// A glob, or a regular expression after a slash or between two, matched at the start.
enum Matcher {
    Glob(String),
    Regex(Regex),
}

impl Matcher {
    fn new(pattern: &str) -> Result<Matcher, Fail> {
        let Some(regex) = pattern.strip_prefix('/') else {
            return Ok(Matcher::Glob(pattern.to_owned()));
        };
        let regex = regex.strip_suffix('/').unwrap_or(regex);
        let parsed = Regex::new(&format!("^(?:{regex})"));
        parsed
            .map(Matcher::Regex)
            .map_err(|error| Fail::new(format!("'{pattern}': {error}")))
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Matcher::Glob(pattern) => types::glob::matches(pattern, name),
            Matcher::Regex(regex) => regex.is_match(name),
        }
    }
}

/// The limits a job may get: our name and the system's.
const LIMITS: &[(&str, Resource)] = &[
    ("cpu", Resource::RLIMIT_CPU),
    ("fsize", Resource::RLIMIT_FSIZE),
    ("data", Resource::RLIMIT_DATA),
    ("stack", Resource::RLIMIT_STACK),
    ("core", Resource::RLIMIT_CORE),
    ("nofile", Resource::RLIMIT_NOFILE),
    ("as", Resource::RLIMIT_AS),
    ("rss", Resource::RLIMIT_RSS),
    ("nproc", Resource::RLIMIT_NPROC),
    ("memlock", Resource::RLIMIT_MEMLOCK),
    ("msgqueue", Resource::RLIMIT_MSGQUEUE),
    ("nice", Resource::RLIMIT_NICE),
    ("rtprio", Resource::RLIMIT_RTPRIO),
    ("rttime", Resource::RLIMIT_RTTIME),
    ("sigpending", Resource::RLIMIT_SIGPENDING),
];

/// How many of [`LIMITS`] a job gets without asking.
const LIMITS_DEFAULT: usize = 9;

fn soft_limit(resource: Resource) -> Option<Value> {
    let (soft, _) = getrlimit(resource).ok()?;
    // The system's infinity travels as -1.
    Some(match i64::try_from(soft) {
        Ok(soft) => json!(soft),
        Err(_) => json!(-1),
    })
}

/// Applies the limit rules of the command line, in order.
pub(super) fn limits(args: &Args) -> Result<Map<String, Value>, Fail> {
    let mut limits: Map<String, Value> = LIMITS[..LIMITS_DEFAULT]
        .iter()
        .filter_map(|(name, resource)| Some(((*name).to_owned(), soft_limit(*resource)?)))
        .collect();
    for rule in args.all("rlimit").flat_map(|list| list.split(',')) {
        if let Some(pattern) = rule.strip_prefix('-') {
            limits.retain(|name, _| !types::glob::matches(&pattern.to_lowercase(), name));
            continue;
        }
        let (pattern, value) = match rule.split_once('=') {
            Some((name, value)) => (name.to_lowercase(), Some(value)),
            None => (rule.to_lowercase(), None),
        };
        let mut found = false;
        for (name, resource) in LIMITS {
            if !types::glob::matches(&pattern, name) {
                continue;
            }
            found = true;
            let value = match value {
                None => soft_limit(*resource),
                Some("unlimited" | "infinity" | "inf") => Some(json!(-1)),
                Some(number) => Some(json!(number.parse::<i64>().map_err(|_| {
                    Fail::new(format!("--rlimit: invalid value in {name}={number}"))
                })?)),
            };
            if let Some(value) = value {
                limits.insert((*name).to_owned(), value);
            }
        }
        if !found {
            return Err(Fail::new(format!("--rlimit: No such limit \"{pattern}\"")));
        }
    }
    Ok(limits)
}

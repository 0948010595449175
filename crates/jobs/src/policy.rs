//! The `[policy]` and `[queues]` tables: limits and defaults (RFC 33).
//!
//! Values are looked up in a job's queue, then in that queue's parent, then globally.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use spec::Jobspec;
use types::fsd;

use crate::Object;

/// Smallest and largest of one count; `None` for no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// The smallest.
    pub min: Option<u64>,
    /// The largest.
    pub max: Option<u64>,
}

/// What one policy table says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    /// The longest duration in seconds; 0 for no limit, `None` if the table does not say.
    pub duration_max: Option<f64>,
    /// Limits of `nnodes`, `ncores` and `ngpus`, in that order.
    pub size: [Bounds; 3],
    /// The default duration in seconds.
    pub default_duration: Option<f64>,
}

/// A configured queue.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueueConfig {
    /// The queue whose resources it uses.
    pub parent: Option<String>,
    /// Properties its jobs require.
    pub requires: Vec<String>,
    /// Its own policy.
    pub rules: Rules,
}

/// Policy and queues as configured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// For every queue.
    pub rules: Rules,
    /// The queue of jobs that name none.
    pub default_queue: Option<String>,
    /// Named queues.
    pub queues: BTreeMap<String, QueueConfig>,
}

const SIZES: [&str; 3] = ["nnodes", "ncores", "ngpus"];

impl Policy {
    /// Reads a configuration. Errors are texts for people.
    pub fn parse(config: &Object) -> Result<Policy, String> {
        let mut policy = Policy::default();
        if let Some(table) = config.get("policy") {
            let (rules, queue) = parse_rules(table, "policy")?;
            policy.rules = rules;
            policy.default_queue = queue;
        }
        if let Some(queues) = config.get("queues") {
            let queues = queues
                .as_object()
                .ok_or("error parsing [queues] config table: not a table")?;
            for (name, table) in queues {
                let queue = parse_queue(name, table).map_err(|text| {
                    format!("error parsing [queues.{name}] config table: {text}")
                })?;
                policy.queues.insert(name.clone(), queue);
            }
        }
        for (name, queue) in &policy.queues {
            let Some(parent) = &queue.parent else {
                continue;
            };
            let wrong = match policy.queues.get(parent) {
                _ if parent == name => Some("parent queue is itself".to_owned()),
                None => Some(format!("parent queue '{parent}' is not configured")),
                Some(above) if above.parent.is_some() => {
                    Some(format!("parent queue '{parent}' is itself a virtual queue"))
                }
                Some(_) => None,
            };
            if let Some(text) = wrong {
                return Err(format!(
                    "error parsing [queues.{name}] config table: {text}"
                ));
            }
        }
        if let Some(queue) = &policy.default_queue
            && !policy.queues.contains_key(queue)
        {
            return Err(format!(
                "the [policy] config table defines a default queue {queue} that is not in [queues] table"
            ));
        }
        Ok(policy)
    }

    /// The rules that apply to a queue, the nearest first.
    fn rules_of<'a>(&'a self, queue: Option<&str>) -> impl Iterator<Item = &'a Rules> {
        let own = queue.and_then(|name| self.queues.get(name));
        let parent = own
            .and_then(|queue| queue.parent.as_ref())
            .and_then(|name| self.queues.get(name));
        own.into_iter()
            .chain(parent)
            .map(|queue| &queue.rules)
            .chain([&self.rules])
    }

    /// Whether any limit is configured for jobs of a queue.
    pub fn limits(&self, queue: Option<&str>) -> bool {
        self.rules_of(queue).any(|rules| {
            rules.duration_max.is_some() || rules.size.iter().any(|size| *size != Bounds::default())
        })
    }

    /// Checks a duration in seconds, 0 for unlimited. Errors are texts for people.
    pub fn check_duration(&self, queue: Option<&str>, duration: f64) -> Result<(), String> {
        let limit = self
            .rules_of(queue)
            .find_map(|rules| rules.duration_max)
            .unwrap_or(0.0);
        if limit == 0.0 || (duration != 0.0 && duration <= limit) {
            return Ok(());
        }
        let requested = match duration {
            0.0 => "unlimited".to_owned(),
            seconds => fsd::format_compiled(seconds, 4),
        };
        let limit = fsd::format_compiled(limit, 4);
        let text = format!("requested duration ({requested}) exceeds policy limit of {limit}");
        Err(for_queue(text, queue))
    }

    /// Checks the size a jobspec asks for. Errors are texts for people.
    pub fn check_size(&self, queue: Option<&str>, jobspec: &Jobspec) -> Result<(), String> {
        let ngpus = jobspec
            .slots()
            .ok()
            .and_then(|slots| jobspec.nslots()?.checked_mul(slots.gpus.fixed()?));
        let counts = [jobspec.nnodes(), jobspec.ncores(), ngpus];
        for (at, name) in SIZES.into_iter().enumerate() {
            let Some(count) = counts[at] else { continue };
            let max = self.rules_of(queue).find_map(|rules| rules.size[at].max);
            if let Some(max) = max.filter(|max| *max != u64::MAX && count > *max) {
                let text = format!("requested {name} ({count}) exceeds policy limit of {max}");
                return Err(for_queue(text, queue));
            }
            let min = self.rules_of(queue).find_map(|rules| rules.size[at].min);
            if let Some(min) = min.filter(|min| *min != u64::MAX && count < *min) {
                let text = format!("requested {name} ({count}) is under policy limit of {min}");
                return Err(for_queue(text, queue));
            }
        }
        Ok(())
    }

    /// Whether submitted jobspecs may need changing.
    pub fn frobnicates(&self) -> bool {
        !self.queues.is_empty()
            || self.default_queue.is_some()
            || self.rules.default_duration.is_some()
    }

    /// Fills a jobspec in with defaults and the constraints of its queue.
    /// Errors are texts for people.
    pub fn frobnicate(&self, jobspec: &mut Value) -> Result<(), String> {
        self.fill_defaults(jobspec)?;
        self.constrain(jobspec)
    }

    /// Gives a jobspec the default queue and duration. Errors are texts for people.
    pub fn fill_defaults(&self, jobspec: &mut Value) -> Result<(), String> {
        let system = system_of(jobspec)?;
        let mut queue = queue_of(system).map(str::to_owned);
        if queue.is_none()
            && let Some(default) = &self.default_queue
        {
            system.insert("queue".into(), default.clone().into());
            queue = Some(default.clone());
        }
        match &queue {
            Some(name) if !self.queues.contains_key(name) => {
                return Err(format!("Invalid queue '{name}' specified"));
            }
            None if !self.queues.is_empty() => return Err("no queue specified".to_owned()),
            _ => {}
        }
        let duration = system
            .get("duration")
            .and_then(Value::as_f64)
            .unwrap_or(0.0);
        if duration == 0.0
            && let Some(default) = self
                .rules_of(queue.as_deref())
                .find_map(|rules| rules.default_duration)
        {
            system.insert("duration".into(), default.into());
        }
        Ok(())
    }

    /// Adds what a jobspec's queue requires to its constraints. Errors are texts for people.
    pub fn constrain(&self, jobspec: &mut Value) -> Result<(), String> {
        let system = system_of(jobspec)?;
        let requires = self.requires(queue_of(system));
        if !requires.is_empty() {
            constrain(system, requires);
        }
        Ok(())
    }

    /// The properties a queue's jobs must have: a virtual queue's are its parent's (RFC 33).
    pub(crate) fn requires(&self, queue: Option<&str>) -> &[String] {
        let find = |name: &str| self.queues.get(name);
        let Some(config) = queue.and_then(find) else {
            return &[];
        };
        match config.parent.as_deref().and_then(find) {
            Some(parent) if config.requires.is_empty() => &parent.requires,
            _ => &config.requires,
        }
    }
}

fn queue_of(system: &Object) -> Option<&str> {
    system.get("queue").and_then(Value::as_str)
}

fn for_queue(text: String, queue: Option<&str>) -> String {
    match queue {
        Some(queue) => format!("{text} for queue {queue}"),
        None => text,
    }
}

fn system_of(jobspec: &mut Value) -> Result<&mut Object, String> {
    system_table(jobspec).ok_or_else(|| "attributes.system is not a mapping".to_owned())
}

fn system_table(jobspec: &mut Value) -> Option<&mut Object> {
    let attributes = jobspec
        .as_object_mut()?
        .entry("attributes")
        .or_insert_with(|| json!({}));
    if attributes.is_null() {
        *attributes = json!({});
    }
    attributes
        .as_object_mut()?
        .entry("system")
        .or_insert_with(|| json!({}))
        .as_object_mut()
}

/// Adds properties to the constraints of a jobspec.
fn constrain(system: &mut Object, requires: &[String]) {
    let wanted = json!({ "properties": requires });
    let merged = match system.get_mut("constraints") {
        None | Some(Value::Null) => wanted,
        Some(Value::Object(constraints)) if constraints.is_empty() => wanted,
        Some(Value::Object(constraints)) => {
            if let Some(Value::Array(list)) = constraints.get_mut("properties") {
                list.extend(requires.iter().cloned().map(Value::from));
                return;
            }
            json!({ "and": [constraints.clone(), wanted] })
        }
        Some(other) => json!({ "and": [other.clone(), wanted] }),
    };
    system.insert("constraints".into(), merged);
}

fn parse_queue(name: &str, table: &Value) -> Result<QueueConfig, String> {
    let table = table
        .as_object()
        .ok_or_else(|| format!("'{name}' is not a table"))?;
    let mut queue = QueueConfig::default();
    for (key, value) in table {
        match key.as_str() {
            "requires" => {
                let properties = value.as_array().map(|list| {
                    let names = list.iter().map(|name| name.as_str().map(str::to_owned));
                    names.collect::<Option<Vec<_>>>()
                });
                queue.requires = properties
                    .flatten()
                    .filter(|names| {
                        names
                            .iter()
                            .all(|name| spec::constraint::check_property_name(name).is_ok())
                    })
                    .ok_or("'requires' must be an array of property strings (RFC 20)")?;
            }
            "parent" => {
                let parent = value.as_str().ok_or("'parent' must be a string")?;
                queue.parent = Some(parent.to_owned());
            }
            "policy" => {
                let (rules, default) = parse_rules(value, &format!("queues.{name}.policy"))?;
                if default.is_some() {
                    return Err("'policy' must not define a default queue!".to_owned());
                }
                queue.rules = rules;
            }
            other => return Err(format!("unknown key '{other}'")),
        }
    }
    if queue.parent.is_some() {
        if table.contains_key("requires") {
            return Err("a virtual queue must not set 'requires'".to_owned());
        }
        if table
            .get("policy")
            .is_some_and(|policy| policy.get("scheduler").is_some())
        {
            return Err("a virtual queue must not set 'policy.scheduler'".to_owned());
        }
    }
    Ok(queue)
}

/// Reads a policy table: its rules, and the default queue it names.
fn parse_rules(table: &Value, name: &str) -> Result<(Rules, Option<String>), String> {
    let wrong = |what: &str| format!("error parsing [{name}] config table: {what}");
    let table = table.as_object().ok_or_else(|| wrong("not a table"))?;
    let mut rules = Rules::default();
    let mut queue = None;
    for (key, value) in table {
        match key.as_str() {
            "jobspec" => {
                let defaults = value.get("defaults").and_then(|value| value.get("system"));
                for (key, value) in defaults.and_then(Value::as_object).into_iter().flatten() {
                    match (key.as_str(), value) {
                        ("duration", Value::String(text)) => {
                            let seconds = fsd::parse(text).map_err(|_| {
                                format!("error parsing [{name}.jobspec] config table: 'defaults.system.duration' is not a valid FSD")
                            })?;
                            rules.default_duration = Some(seconds);
                        }
                        ("duration", Value::Number(number)) => {
                            rules.default_duration = number.as_f64();
                        }
                        ("queue", Value::String(text)) => queue = Some(text.clone()),
                        _ => {
                            return Err(wrong(&format!(
                                "invalid key 'jobspec.defaults.system.{key}'"
                            )));
                        }
                    }
                }
            }
            "limits" => parse_limits(value, &mut rules).map_err(|text| wrong(&text))?,
            "access" => {
                let flags = value
                    .as_object()
                    .ok_or_else(|| wrong("'access' is not a table"))?;
                for (key, value) in flags {
                    let known = matches!(key.as_str(), "allow-user" | "allow-group");
                    if !known || !value.is_boolean() {
                        return Err(wrong(&format!("invalid key 'access.{key}'")));
                    }
                }
            }
            "scheduler" => {}
            other => return Err(wrong(&format!("unknown key '{other}'"))),
        }
    }
    Ok((rules, queue))
}

fn parse_limits(value: &Value, rules: &mut Rules) -> Result<(), String> {
    let table = value.as_object().ok_or("'limits' is not a table")?;
    for (key, value) in table {
        match (key.as_str(), value) {
            ("duration", Value::String(text)) => {
                let seconds = fsd::parse(text)
                    .map_err(|_| "'limits.duration' is not a valid FSD".to_owned())?;
                rules.duration_max = Some(if seconds.is_finite() { seconds } else { 0.0 });
            }
            ("duration", _) => return Err("'limits.duration' is not a valid FSD".to_owned()),
            ("job-size", Value::Object(sizes)) => {
                for (bound, counts) in sizes {
                    let counts = counts.as_object();
                    for (name, count) in counts.into_iter().flatten() {
                        let at = SIZES.iter().position(|known| known == name);
                        let count = count.as_i64().filter(|count| *count >= -1);
                        let (Some(at), Some(count)) = (at, count) else {
                            return Err(format!("invalid key 'limits.job-size.{bound}.{name}'"));
                        };
                        // -1 lifts a limit from further out.
                        let count = u64::try_from(count).unwrap_or(u64::MAX);
                        match bound.as_str() {
                            "max" => rules.size[at].max = Some(count),
                            "min" => rules.size[at].min = Some(count),
                            _ => return Err(format!("unknown key 'limits.job-size.{bound}'")),
                        }
                    }
                }
            }
            (key, _) => return Err(format!("invalid key 'limits.{key}'")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: Value) -> Result<Policy, String> {
        Policy::parse(value.as_object().expect("an object"))
    }

    #[test]
    fn limits_are_looked_up_outwards() {
        let policy = parse(json!({
            "policy": {"limits": {"duration": "1h"}},
            "queues": {
                "a": {"policy": {"limits": {"duration": "10m"}}},
                "b": {"parent": "a"},
                "c": {"policy": {"limits": {"duration": "0"}}},
            }
        }))
        .expect("valid");
        let check = |queue, duration, ok: bool| {
            assert_eq!(
                policy.check_duration(Some(queue), duration).is_ok(),
                ok,
                "{queue}"
            );
        };
        check("a", 600.0, true);
        check("a", 601.0, false);
        check("b", 601.0, false);
        check("c", 1e6, true);
        let text = policy
            .check_duration(Some("a"), 0.0)
            .expect_err("unlimited");
        assert_eq!(
            text,
            "requested duration (unlimited) exceeds policy limit of 10m for queue a"
        );
    }

    #[test]
    fn tables_are_checked() {
        let check =
            |value: Value, expect: &str| assert_eq!(parse(value).expect_err(expect), expect);
        check(
            json!({"queues": {"a": {"parent": "a"}}}),
            "error parsing [queues.a] config table: parent queue is itself",
        );
        check(
            json!({"queues": {"a": {"parent": "z"}}}),
            "error parsing [queues.a] config table: parent queue 'z' is not configured",
        );
        check(
            json!({"queues": {"a": {"requires": "x"}}}),
            "error parsing [queues.a] config table: 'requires' must be an array of property strings (RFC 20)",
        );
        check(
            json!({"policy": {"jobspec": {"defaults": {"system": {"queue": "x"}}}}}),
            "the [policy] config table defines a default queue x that is not in [queues] table",
        );
    }

    #[test]
    fn jobspecs_are_filled_in() {
        let policy = parse(json!({
            "policy": {"jobspec": {"defaults": {"system": {"queue": "a", "duration": "1m"}}}},
            "queues": {"a": {"requires": ["x"]}},
        }))
        .expect("valid");
        let mut jobspec = json!({"attributes": {"system": {"duration": 0}}});
        policy.frobnicate(&mut jobspec).expect("valid");
        assert_eq!(
            jobspec["attributes"]["system"],
            json!({"duration": 60.0, "queue": "a", "constraints": {"properties": ["x"]}})
        );
        let mut jobspec = json!({"attributes": {"system": {"queue": "z"}}});
        let text = policy.frobnicate(&mut jobspec).expect_err("unknown queue");
        assert_eq!(text, "Invalid queue 'z' specified");
    }
}

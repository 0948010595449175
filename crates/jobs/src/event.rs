//! The events of RFC 21, with their contexts' keys in the order commands show.

use serde_json::{Value, json};
use spec::Entry;
use types::{IdSet, UserId};

use crate::Object;

fn entry(now: f64, name: &str, context: Value) -> Entry {
    match context {
        Value::Object(context) => Entry::with_context(now, name, context),
        _ => Entry::new(now, name),
    }
}

/// An event without details.
pub fn plain(now: f64, name: &str) -> Entry {
    Entry::new(now, name)
}

/// The job was submitted.
pub fn submit(t_submit: f64, userid: UserId, urgency: i32, flags: i32) -> Entry {
    let context = json!({"userid": userid.0, "urgency": urgency, "flags": flags, "version": 1});
    entry(t_submit, "submit", context)
}

/// A dependency came (`dependency-add`) or went (`dependency-remove`).
pub fn dependency(now: f64, name: &str, description: &str) -> Entry {
    entry(now, name, json!({ "description": description }))
}

/// The job has a priority.
pub fn priority(now: f64, priority: u32) -> Entry {
    entry(now, "priority", json!({ "priority": priority }))
}

/// The job's urgency changed.
pub fn urgency(now: f64, userid: UserId, urgency: i32) -> Entry {
    let context = json!({"userid": userid.0, "urgency": urgency});
    entry(now, "urgency", context)
}

/// The job has resources.
pub fn alloc(now: f64, annotations: Option<&Object>, bypass: bool) -> Entry {
    let mut context = Object::new();
    if let Some(annotations) = annotations.filter(|annotations| !annotations.is_empty()) {
        context.insert("annotations".into(), Value::Object(annotations.clone()));
    }
    if bypass {
        context.insert("bypass".into(), true.into());
    }
    match context.is_empty() {
        true => Entry::new(now, "alloc"),
        false => Entry::with_context(now, "alloc", context),
    }
}

/// The job's annotations changed.
pub fn annotations(now: f64, annotations: Option<&Object>) -> Entry {
    let value = annotations.cloned().map_or(Value::Null, Value::Object);
    entry(now, "annotations", json!({ "annotations": value }))
}

/// The tasks ended.
pub fn finish(now: f64, status: i32) -> Entry {
    entry(now, "finish", json!({ "status": status }))
}

/// Ranks of the job are free of its tasks.
pub fn release(now: f64, ranks: &str, last: bool) -> Entry {
    entry(now, "release", json!({"ranks": ranks, "final": last}))
}

/// An exception somebody raised by request.
pub fn raised(
    now: f64,
    kind: &str,
    severity: i32,
    note: &str,
    userid: UserId,
    wait_status: Option<i32>,
) -> Entry {
    let mut context = json!({"type": kind, "severity": severity, "note": note, "userid": userid.0});
    if let Some(status) = wait_status {
        context["wait_status"] = status.into();
    }
    entry(now, "exception", context)
}

/// An exception the instance itself raises. The order of keys differs from [`raised`].
pub fn exception(now: f64, kind: &str, severity: i32, userid: UserId, note: &str) -> Entry {
    let context = json!({"type": kind, "severity": severity, "userid": userid.0, "note": note});
    entry(now, "exception", context)
}

/// The end of the job's resources moved.
pub fn resource_update(now: f64, expiration: f64) -> Entry {
    entry(now, "resource-update", json!({ "expiration": expiration }))
}

/// Parts of the job's jobspec changed.
pub fn jobspec_update(now: f64, updates: Object) -> Entry {
    Entry::with_context(now, "jobspec-update", updates)
}

/// Somebody noted something.
pub fn memo(now: f64, memo: Object) -> Entry {
    Entry::with_context(now, "memo", memo)
}

/// Flags were set.
pub fn set_flags(now: f64, flags: &[&str]) -> Entry {
    entry(now, "set-flags", json!({ "flags": flags }))
}

/// A prolog or epilog began (`prolog-start`, `epilog-start`).
pub fn action_start(now: f64, name: &str, description: &str) -> Entry {
    entry(now, name, json!({ "description": description }))
}

/// A prolog or epilog ended (`prolog-finish`, `epilog-finish`).
pub fn action_finish(now: f64, name: &str, description: &str, status: i32) -> Entry {
    let context = json!({"description": description, "status": status});
    entry(now, name, context)
}

/// What only who looks for faults wants to know; `context` is an object, or null for none.
pub fn debug(now: f64, name: &str, context: Value) -> Entry {
    entry(now, &format!("debug.{name}"), context)
}

/// The ranks of an idset, as events name them.
pub fn ranks_text(ranks: &IdSet) -> String {
    ranks.to_list()
}

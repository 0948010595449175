//! The checks a document must pass, in the order and with the texts users know.

use serde_json::{Map, Value};

use super::resources::{Vertex, decode_list};
use super::{JobspecError, Task, TaskCount};
use crate::constraint::{Constraint, ConstraintError};

const KEYS: [&str; 4] = ["resources", "tasks", "attributes", "version"];

/// Checks a document; gives its version, resources and tasks.
pub(super) fn document(value: &Value) -> Result<(i64, Vec<Vertex>, Vec<Task>), JobspecError> {
    let object = mapping(value, "jobspec")?;
    only_keys(object, &KEYS)?;
    let get = |key: &str| required(object, key);
    let (resources, tasks) = (get("resources")?, get("tasks")?);
    let (attributes, version) = (get("attributes")?, get("version")?);
    let version = version
        .as_i64()
        .ok_or_else(|| wrong("version", "an integer"))?;
    if version < 1 {
        return Err(JobspecError::Version);
    }
    let v1 = version == 1;
    let resources = decode_list(resources, v1, 0)?;
    let tasks = tasks
        .as_array()
        .ok_or_else(|| wrong("tasks", "a sequence"))?;
    let tasks = tasks.iter().map(|value| task(value, v1));
    let tasks = tasks.collect::<Result<_, _>>()?;
    check_attributes(attributes, v1)?;
    Ok((version, resources, tasks))
}

fn task(value: &Value, v1: bool) -> Result<Task, JobspecError> {
    let object = mapping(value, "task")?;
    let (command, slot) = (required(object, "command")?, required(object, "slot")?);
    let count = mapping(required(object, "count")?, "count")?;
    let strings = || wrong("command", "a list of strings");
    let words = command.as_array().ok_or_else(strings)?;
    let words = words
        .iter()
        .map(|word| word.as_str().map(String::from).ok_or_else(strings));
    let command: Vec<String> = words.collect::<Result<_, _>>()?;
    if command.is_empty() {
        return Err(JobspecError::EmptyCommand);
    }
    if let Some(attributes) = object.get("attributes") {
        mapping(attributes, "attributes")?;
    }
    Ok(Task {
        command,
        slot: slot
            .as_str()
            .ok_or_else(|| wrong("slot", "a string"))?
            .into(),
        count: task_count(count, v1)?,
    })
}

fn task_count(object: &Map<String, Value>, v1: bool) -> Result<TaskCount, JobspecError> {
    let mut entries = object.iter();
    let (Some((key, value)), None) = (entries.next(), entries.next()) else {
        return Err(JobspecError::TaskCountKeys);
    };
    match key.as_str() {
        "per_slot" => Ok(TaskCount::PerSlot(positive(value, "per_slot")?)),
        "total" => Ok(TaskCount::Total(positive(value, "total")?)),
        "per_resource" if v1 => Err(JobspecError::TaskCountV1),
        "per_resource" => {
            let object = mapping(value, "count per_resource")?;
            let kind = required(object, "type")?.as_str();
            Ok(TaskCount::PerResource {
                kind: kind.ok_or_else(|| wrong("type", "a string"))?.into(),
                count: positive(required(object, "count")?, "per_resource")?,
            })
        }
        _ => Err(JobspecError::TaskCount),
    }
}

fn positive(value: &Value, key: &'static str) -> Result<u64, JobspecError> {
    match (value.as_u64(), value.as_i64()) {
        (Some(count), _) if count > 0 => Ok(count),
        (None, None) => Err(wrong(&format!("count {key}"), "an int")),
        _ => Err(JobspecError::TaskCountZero(key)),
    }
}

fn check_attributes(value: &Value, v1: bool) -> Result<(), JobspecError> {
    let object = match value {
        // RFC 14 allows null, RFC 25 requires a duration and so cannot.
        Value::Null if !v1 => return Ok(()),
        _ => mapping(value, "attributes")?,
    };
    only_keys(object, &["system", "user"])?;
    let system = match object.get("system") {
        Some(system) => mapping(system, "attributes.system")?,
        None if v1 => return Err(JobspecError::Attribute("attributes.system")),
        None => return Ok(()),
    };
    match system.get("duration") {
        Some(duration) if !duration.is_number() => {
            return Err(wrong("attributes.system.duration", "a number"));
        }
        None if v1 => return Err(JobspecError::Attribute("attributes.system.duration")),
        _ => {}
    }
    if let Some(dependencies) = system.get("dependencies") {
        check_dependencies(dependencies)?;
    }
    if let Some(constraints) = system.get("constraints") {
        Constraint::from_value(constraints).map_err(constraint_text)?;
    }
    Ok(())
}

fn check_dependencies(value: &Value) -> Result<(), JobspecError> {
    let list = value.as_array();
    let list = list.ok_or_else(|| wrong("attributes.system.dependencies", "a list"))?;
    for dependency in list {
        let object = mapping(dependency, "dependency")?;
        let (value, scheme) = (required(object, "value")?, required(object, "scheme")?);
        for (key, value) in [("dependency scheme", scheme), ("dependency value", value)] {
            if !value.is_string() {
                return Err(wrong(key, "a string"));
            }
        }
    }
    Ok(())
}

/// Submitters see other words than users of R for two of the errors.
fn constraint_text(error: ConstraintError) -> JobspecError {
    JobspecError::Constraint(match error {
        ConstraintError::Operator(name) => format!("unknown constraint operator '{name}'"),
        ConstraintError::Property { property, .. } => {
            format!("invalid character in property '{property}'")
        }
        other => other.to_string(),
    })
}

fn only_keys(object: &Map<String, Value>, known: &[&str]) -> Result<(), JobspecError> {
    match object.keys().find(|key| !known.contains(&key.as_str())) {
        Some(extra) => Err(JobspecError::Extraneous(extra.clone())),
        None => Ok(()),
    }
}

fn required<'a>(object: &'a Map<String, Value>, key: &str) -> Result<&'a Value, JobspecError> {
    object
        .get(key)
        .ok_or_else(|| JobspecError::Missing(key.into()))
}

fn mapping<'a>(value: &'a Value, key: &str) -> Result<&'a Map<String, Value>, JobspecError> {
    value.as_object().ok_or_else(|| wrong(key, "a mapping"))
}

fn wrong(key: &str, expected: &'static str) -> JobspecError {
    JobspecError::Type {
        key: key.into(),
        expected,
    }
}

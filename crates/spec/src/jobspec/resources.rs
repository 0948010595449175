//! The resource request as a tree, and its reduction to slots.

use serde_json::{Map, Value};

use super::JobspecError;
use crate::range::{Count, Operator, Range};

/// Resources nested deeper than this are refused, so that decoding cannot exhaust the stack.
const DEPTH_MAX: usize = 64;

/// One resource of a request, with what it contains (RFC 14).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vertex {
    /// The type: `node`, `slot`, `core`, `gpu` or any other.
    pub kind: String,
    /// How many.
    pub count: Count,
    /// The unit of the count.
    pub unit: Option<String>,
    /// Whether it must not be shared; `None` for the default of its place.
    pub exclusive: Option<bool>,
    /// The name tasks refer to; slots always have one.
    pub label: Option<String>,
    /// What each contains.
    pub with: Vec<Vertex>,
}

/// A request reduced to what schedulers of nodes and cores understand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slots {
    /// Nodes: in all, or in each slot if `node_in_slot`. `None` if the request names none.
    pub nodes: Option<Count>,
    /// Whether the node is inside the slot (`slot>node`) and not around it (`node>slot`).
    pub node_in_slot: bool,
    /// Whether nodes are wanted whole.
    pub exclusive: bool,
    /// Slots: on each node if nodes are around the slot, else in all.
    pub count: Count,
    /// Cores in each slot; 0 if the request names none.
    pub cores: Count,
    /// GPUs in each slot; 0 if the request names none.
    pub gpus: Count,
    /// The slot's label.
    pub label: String,
}

/// Reduces a request to slots.
pub(super) fn slots(resources: &[Vertex]) -> Result<Slots, JobspecError> {
    let mut result = Slots {
        nodes: None,
        node_in_slot: false,
        exclusive: false,
        count: Count::Fixed(0),
        cores: Count::Fixed(0),
        gpus: Count::Fixed(0),
        label: String::new(),
    };
    let mut slots = 0;
    walk(resources, &mut result, &mut slots);
    match slots {
        1 => Ok(result),
        _ => Err(JobspecError::Slots),
    }
}

fn walk(level: &[Vertex], result: &mut Slots, slots: &mut usize) {
    for vertex in level {
        match vertex.kind.as_str() {
            "node" => {
                result.nodes = Some(vertex.count.clone());
                result.node_in_slot = *slots > 0;
                result.exclusive = vertex.exclusive.unwrap_or(*slots > 0);
            }
            "slot" => {
                *slots += 1;
                result.count = vertex.count.clone();
                result.label = vertex.label.clone().unwrap_or_default();
            }
            "core" if *slots > 0 => result.cores = vertex.count.clone(),
            "gpu" if *slots > 0 => result.gpus = vertex.count.clone(),
            _ => {}
        }
        walk(&vertex.with, result, slots);
    }
}

/// The slot with a label, or the first slot.
pub(super) fn find_slot<'a>(level: &'a [Vertex], label: Option<&str>) -> Option<&'a Vertex> {
    level.iter().find_map(|vertex| {
        let wanted = label.is_none() || vertex.label.as_deref() == label;
        match vertex.kind == "slot" && wanted {
            true => Some(vertex),
            false => find_slot(&vertex.with, label),
        }
    })
}

/// How many resources of a type one `vertex` contains, if that is fixed.
pub(super) fn count_below(vertex: &Vertex, kind: &str) -> Option<u64> {
    vertex.with.iter().try_fold(0u64, |sum, child| {
        let own = if child.kind == kind { 1 } else { 0 };
        let each = count_below(child, kind)?.checked_add(own)?;
        match each {
            0 => Some(sum),
            _ => sum.checked_add(child.count.fixed()?.checked_mul(each)?),
        }
    })
}

pub(super) fn decode_list(
    value: &Value,
    v1: bool,
    depth: usize,
) -> Result<Vec<Vertex>, JobspecError> {
    if depth > DEPTH_MAX {
        return Err(JobspecError::Depth);
    }
    let list = value.as_array().ok_or_else(|| JobspecError::Type {
        key: if depth == 0 { "resources" } else { "with" }.into(),
        expected: "a sequence",
    })?;
    list.iter()
        .map(|vertex| decode(vertex, v1, depth))
        .collect()
}

fn decode(value: &Value, v1: bool, depth: usize) -> Result<Vertex, JobspecError> {
    let wrong = |key: &str, expected| JobspecError::Type {
        key: key.into(),
        expected,
    };
    let object = value
        .as_object()
        .ok_or_else(|| wrong("resource", "a mapping"))?;
    let kind = object
        .get("type")
        .ok_or(JobspecError::ResourceKey("type"))?;
    let count = object
        .get("count")
        .ok_or(JobspecError::ResourceKey("count"))?;
    let kind = kind.as_str().ok_or_else(|| wrong("type", "a string"))?;
    let text = |key: &str| match object.get(key) {
        Some(value) => match value.as_str() {
            Some(text) => Ok(Some(text.to_string())),
            None => Err(wrong(key, "a string")),
        },
        None => Ok(None),
    };
    let exclusive = match object.get("exclusive") {
        Some(Value::Bool(exclusive)) => Some(*exclusive),
        // Some clients write booleans as numbers, and always could.
        Some(number) if number.as_u64().is_some_and(|n| n < 2) => Some(number.as_u64() == Some(1)),
        Some(_) => return Err(wrong("exclusive", "a boolean")),
        None => None,
    };
    let vertex = Vertex {
        kind: kind.into(),
        count: decode_count(count, kind, v1)?,
        unit: text("unit")?,
        exclusive,
        label: text("label")?,
        with: match object.get("with") {
            Some(with) => decode_list(with, v1, depth + 1)?,
            None => Vec::new(),
        },
    };
    match (kind, &vertex.label) {
        ("slot", None) => Err(JobspecError::Label),
        _ => Ok(vertex),
    }
}

fn decode_count(value: &Value, kind: &str, v1: bool) -> Result<Count, JobspecError> {
    let (count, got) = match value {
        Value::Number(number) if number.is_i64() || number.is_u64() => {
            return match number.as_u64() {
                Some(0) if !matches!(kind, "node" | "slot" | "core") => Ok(Count::Fixed(0)),
                None | Some(0) => Err(JobspecError::CountZero),
                Some(count) => Ok(Count::Fixed(count)),
            };
        }
        Value::Object(range) => (Count::Range(decode_range(range)?), "dict"),
        Value::String(text) => (text.parse()?, "str"),
        _ => {
            return Err(JobspecError::Type {
                key: "count".into(),
                expected: "an int or mapping",
            });
        }
    };
    match v1 {
        true => Err(JobspecError::CountV1 {
            kind: kind.into(),
            got,
        }),
        false => Ok(count),
    }
}

fn decode_range(object: &Map<String, Value>) -> Result<Range, JobspecError> {
    const KEYS: [&str; 4] = ["min", "max", "operator", "operand"];
    if let Some(extra) = object.keys().find(|key| !KEYS.contains(&key.as_str())) {
        return Err(JobspecError::Extraneous(extra.clone()));
    }
    let number = |key: &str| match object.get(key) {
        Some(value) => match value.as_i64() {
            Some(number) => Ok(Some(u64::try_from(number).unwrap_or(0))),
            None => Err(JobspecError::Type {
                key: key.into(),
                expected: "an int",
            }),
        },
        None => Ok(None),
    };
    let min = number("min")?.ok_or(JobspecError::RangeMin)?;
    let operator = match object.get("operator") {
        Some(text) => {
            let operator = text.as_str().and_then(Operator::from_text);
            Some(operator.ok_or(JobspecError::Operator)?)
        }
        None => None,
    };
    let operand = number("operand")?;
    if operator.is_some() != operand.is_some() {
        return Err(JobspecError::RangeHalf);
    }
    let (operand, operator) = (operand.unwrap_or(1), operator.unwrap_or_default());
    Ok(Range::stepped(min, number("max")?, operand, operator)?)
}

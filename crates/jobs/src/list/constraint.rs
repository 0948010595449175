//! Conditions on jobs (RFC 35).

use serde_json::Value;
use types::{Hostlist, IdSet, UserId};

use super::Listed;
use crate::fold::{Outcome, State};

/// Constraints nested deeper than this are refused, so that decoding cannot exhaust the stack.
const DEPTH_MAX: usize = 64;
/// Every state.
const STATES_ALL: i32 = 127;

/// Why JSON is not a condition on jobs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConstraintError(pub String);

/// A comparison of times.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Compare {
    Ge,
    Gt,
    Le,
    Lt,
}

/// A condition on jobs (RFC 35).
#[derive(Clone, Debug)]
pub struct Constraint(Node);

#[derive(Clone, Debug)]
enum Node {
    Users(Vec<UserId>),
    Names(Vec<String>),
    Queues(Vec<String>),
    States(i32),
    Results(i32),
    Hosts(Hostlist),
    Ranks(IdSet),
    Time(usize, Compare, f64),
    And(Vec<Node>),
    Or(Vec<Node>),
    Not(Vec<Node>),
}

fn error<T>(text: impl Into<String>) -> Result<T, ConstraintError> {
    Err(ConstraintError(text.into()))
}

impl Constraint {
    /// The condition that holds for every job.
    pub fn all() -> Constraint {
        Constraint(Node::And(Vec::new()))
    }

    /// Both conditions.
    pub fn and(self, other: Constraint) -> Constraint {
        Constraint(Node::And(vec![self.0, other.0]))
    }

    /// Jobs of a user.
    pub fn of_user(user: UserId) -> Constraint {
        Constraint(Node::Users(vec![user]))
    }

    /// Jobs in one of these states.
    pub fn in_states(mask: i32) -> Constraint {
        Constraint(Node::States(mask))
    }

    /// Jobs with one of these results.
    pub fn with_results(mask: i32) -> Constraint {
        Constraint(Node::Results(mask))
    }

    /// Jobs of a name.
    pub fn named(name: String) -> Constraint {
        Constraint(Node::Names(vec![name]))
    }

    /// Jobs of a queue.
    pub fn in_queue(queue: String) -> Constraint {
        Constraint(Node::Queues(vec![queue]))
    }

    /// Decodes a condition. Errors are texts for people.
    pub fn from_value(value: &Value) -> Result<Constraint, ConstraintError> {
        decode(value, 0).map(Constraint)
    }

    /// The states a job must be in one of, as far as that is plain.
    pub fn states(&self) -> i32 {
        states(&self.0)
    }

    /// The only user whose jobs can match, if that is plain.
    pub fn user(&self) -> Option<UserId> {
        user(&self.0)
    }

    /// Whether it holds for a job. `parent` tells the parent of a virtual queue; `tried` counts
    /// conditions.
    pub fn matches(
        &self,
        job: &Listed,
        parent: &dyn Fn(&str) -> Option<String>,
        tried: &mut usize,
    ) -> bool {
        matches(&self.0, job, parent, tried)
    }
}

fn states(node: &Node) -> i32 {
    match node {
        Node::States(mask) => *mask,
        Node::Results(_) => State::Inactive.bit(),
        Node::And(nodes) => nodes
            .iter()
            .fold(STATES_ALL, |mask, node| mask & states(node)),
        Node::Or(nodes) if !nodes.is_empty() => {
            nodes.iter().fold(0, |mask, node| mask | states(node))
        }
        _ => STATES_ALL,
    }
}

fn user(node: &Node) -> Option<UserId> {
    match node {
        Node::Users(users) if users.len() == 1 => users.first().copied(),
        Node::And(nodes) => nodes.iter().find_map(user),
        _ => None,
    }
}

fn matches(
    node: &Node,
    job: &Listed,
    parent: &dyn Fn(&str) -> Option<String>,
    tried: &mut usize,
) -> bool {
    *tried += 1;
    match node {
        Node::Users(users) => users.contains(&job.fold.userid),
        Node::Names(names) => {
            let name = job.described.name.as_deref();
            names.iter().any(|wanted| {
                *tried += 1;
                Some(wanted.as_str()) == name
            })
        }
        Node::Queues(queues) => job.described.queue.as_deref().is_some_and(|queue| {
            queues.iter().any(|wanted| {
                *tried += 1;
                wanted == queue || parent(queue).as_deref() == Some(wanted)
            })
        }),
        Node::States(mask) => job.fold.state.bit() & mask != 0,
        Node::Results(mask) => {
            job.fold.state == State::Inactive && job.fold.outcome().bit() & mask != 0
        }
        Node::Hosts(hosts) => job.placed.as_ref().is_some_and(|placed| {
            let own: Result<Hostlist, _> = placed.nodelist.parse();
            own.is_ok_and(|own| {
                own.iter().any(|host| {
                    *tried += 1;
                    hosts.contains(&host)
                })
            })
        }),
        Node::Ranks(ranks) => job.placed.as_ref().is_some_and(|placed| {
            let own: Result<IdSet, _> = placed.ranks.parse();
            own.is_ok_and(|own| own.intersects(ranks))
        }),
        Node::Time(state, compare, limit) => {
            let time = job.fold.times[*state];
            time != 0.0
                && match compare {
                    Compare::Ge => time >= *limit,
                    Compare::Gt => time > *limit,
                    Compare::Le => time <= *limit,
                    Compare::Lt => time < *limit,
                }
        }
        Node::And(nodes) => nodes.iter().all(|node| matches(node, job, parent, tried)),
        Node::Or(nodes) => {
            nodes.is_empty() || nodes.iter().any(|node| matches(node, job, parent, tried))
        }
        Node::Not(nodes) => !nodes.iter().all(|node| matches(node, job, parent, tried)),
    }
}

fn decode(value: &Value, depth: usize) -> Result<Node, ConstraintError> {
    if depth > DEPTH_MAX {
        return error("constraint is nested too deeply");
    }
    let Some(object) = value.as_object() else {
        return error("constraint must be JSON object");
    };
    if object.len() > 1 {
        return error("constraint must only contain 1 element");
    }
    let Some((operator, values)) = object.iter().next() else {
        return Ok(Node::And(Vec::new()));
    };
    let Some(values) = values.as_array() else {
        return error(format!("operator {operator} values not an array"));
    };
    let strings = || {
        let texts = values.iter().map(|value| value.as_str().map(str::to_owned));
        texts
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| ConstraintError(format!("{operator} value must be a string")))
    };
    let nodes = || {
        values
            .iter()
            .map(|value| decode(value, depth + 1))
            .collect::<Result<_, _>>()
    };
    Ok(match operator.as_str() {
        "userid" => {
            let ids = values.iter().map(|value| {
                let id = value.as_i64().filter(|id| *id >= -1);
                id.ok_or_else(|| ConstraintError("userid value must be an integer".into()))
            });
            let ids: Vec<i64> = ids.collect::<Result<_, _>>()?;
            if ids.contains(&-1) {
                return Ok(Node::And(Vec::new()));
            }
            Node::Users(ids.into_iter().map(|id| UserId(id as u32)).collect())
        }
        "name" => Node::Names(strings()?),
        "queue" => Node::Queues(strings()?),
        "states" => Node::States(mask(values, "states", State::mask_from_name)?),
        "results" => Node::Results(mask(values, "results", Outcome::mask_from_name)?),
        "hostlist" => {
            let mut hosts = Hostlist::new();
            for text in strings()? {
                let more: Hostlist = text.parse().map_err(|_| {
                    ConstraintError(format!(
                        "hostlist value {text} not in valid Hostlist format"
                    ))
                })?;
                hosts.append(&more);
            }
            Node::Hosts(hosts)
        }
        "ranks" => {
            let mut ranks = IdSet::new();
            for text in strings()? {
                let more: IdSet = text.parse().map_err(|_| {
                    ConstraintError(format!("ranks value {text} not in valid Idset format"))
                })?;
                ranks.insert_all(&more);
            }
            Node::Ranks(ranks)
        }
        "and" => Node::And(nodes()?),
        "or" => Node::Or(nodes()?),
        "not" => Node::Not(nodes()?),
        other => return decode_time(other, values),
    })
}

fn mask(
    values: &[Value],
    operator: &str,
    by_name: fn(&str) -> Option<i32>,
) -> Result<i32, ConstraintError> {
    let mut mask = 0;
    for value in values {
        let bits = match value {
            Value::String(name) => match by_name(name) {
                Some(bits) => bits,
                None => return error(format!("invalid {operator} value '{name}' specified")),
            },
            Value::Number(number) => match number.as_i64().and_then(|n| i32::try_from(n).ok()) {
                Some(bits) => bits,
                None => return error(format!("invalid {operator} value '{number}' specified")),
            },
            _ => return error(format!("{operator} value must be a string or integer")),
        };
        mask |= bits;
    }
    Ok(mask)
}

fn decode_time(operator: &str, values: &[Value]) -> Result<Node, ConstraintError> {
    let state = match operator {
        "t_submit" => State::New,
        "t_depend" => State::Depend,
        "t_priority" => State::Priority,
        "t_sched" => State::Sched,
        "t_run" => State::Run,
        "t_cleanup" => State::Cleanup,
        "t_inactive" => State::Inactive,
        other => return error(format!("unknown constraint operator: {other}")),
    };
    let Some(text) = values.first().and_then(Value::as_str) else {
        return error(format!("{operator} value must be a string"));
    };
    let compare = [
        (">=", Compare::Ge),
        ("<=", Compare::Le),
        (">", Compare::Gt),
        ("<", Compare::Lt),
    ];
    for (sign, compare) in compare {
        let Some(number) = text.strip_prefix(sign) else {
            continue;
        };
        let limit = number
            .trim()
            .parse::<f64>()
            .ok()
            .filter(|limit| limit.is_finite());
        return match limit {
            Some(limit) if limit >= 0.0 => Ok(Node::Time(state.index(), compare, limit)),
            _ => error(format!("{operator} value '{text}' invalid")),
        };
    }
    error(format!(
        "{operator} value '{text}' has no comparison operator"
    ))
}

//! Constraints on execution targets (RFC 31).

use std::collections::{BTreeSet, HashSet};

use serde_json::Value;
use types::{Errno, Hostlist, IdSet};

/// Constraints nested deeper than this are refused, so that decoding cannot exhaust the stack.
pub const DEPTH_MAX: usize = 64;

/// Why JSON is not a constraint (RFC 31).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// Not an object.
    #[error("constraints must be a mapping")]
    NotAnObject,
    /// An operator that does not exist.
    #[error("unknown constraint operator: {0}")]
    Operator(String),
    /// An operator whose value is not an array.
    #[error("argument to constraint {0} must be a sequence")]
    NotAnArray(String),
    /// An array element of the wrong type.
    #[error("{0} constraint must be a string")]
    NotAString(&'static str),
    /// A property with a forbidden character.
    #[error("invalid character '{character}' in property \"{property}\"")]
    Property {
        /// The property.
        property: String,
        /// The first forbidden character.
        character: char,
    },
    /// A bad hostlist.
    #[error(transparent)]
    Hostlist(#[from] types::hostlist::HostlistError),
    /// A bad idset.
    #[error(transparent)]
    Ranks(#[from] types::idset::IdSetError),
    /// More than [`DEPTH_MAX`] operators inside each other.
    #[error("constraint is nested too deeply")]
    Depth,
}

impl ConstraintError {
    /// The error number C programs report: `EINVAL`.
    pub fn errno(&self) -> Errno {
        Errno::EINVAL
    }
}

/// What a constraint is asked about: one execution target.
pub trait Target {
    /// The broker rank.
    fn rank(&self) -> u32;
    /// The host name, if known.
    fn hostname(&self) -> Option<&str>;
    /// Whether the target has a property.
    fn has_property(&self, name: &str) -> bool;
}

/// A condition on execution targets (RFC 31). `and` of nothing is the empty constraint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Constraint {
    /// Every property must be present. A host name counts as a property of its host.
    Properties(Vec<PropertyTest>),
    /// The host must be one of these.
    Hosts(HashSet<String>),
    /// The rank must be one of these.
    Ranks(IdSet),
    /// Every condition must hold; true if there are none.
    And(Vec<Constraint>),
    /// A condition must hold; true if there are none (RFC 31).
    Or(Vec<Constraint>),
    /// Not every condition may hold; false if there are none.
    Not(Vec<Constraint>),
}

/// A property that must be present, or absent when it was written with `^`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PropertyTest {
    /// The property, without `^`.
    pub name: String,
    /// Whether the target must not have it.
    pub absent: bool,
}

impl Constraint {
    /// Decodes and checks a constraint. Errors: see [`ConstraintError`].
    pub fn from_value(value: &Value) -> Result<Constraint, ConstraintError> {
        decode(value, 0)
    }

    /// Decodes the constraint `{"properties":[...]}`.
    pub fn from_properties<'a>(
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<Constraint, ConstraintError> {
        let tests = names.into_iter().map(property_test);
        tests.collect::<Result<_, _>>().map(Constraint::Properties)
    }

    /// The hosts it names for which `known` is false, in order.
    pub fn unknown_hosts(&self, known: &impl Fn(&str) -> bool) -> BTreeSet<&str> {
        match self {
            Constraint::Hosts(hosts) => hosts
                .iter()
                .map(String::as_str)
                .filter(|host| !known(host))
                .collect(),
            Constraint::And(parts) | Constraint::Or(parts) | Constraint::Not(parts) => parts
                .iter()
                .flat_map(|part| part.unknown_hosts(known))
                .collect(),
            Constraint::Properties(_) | Constraint::Ranks(_) => BTreeSet::new(),
        }
    }

    /// Whether the condition holds for a target.
    pub fn matches(&self, target: &impl Target) -> bool {
        match self {
            Constraint::Properties(tests) => tests.iter().all(|test| {
                let present =
                    target.has_property(&test.name) || target.hostname() == Some(&test.name);
                present != test.absent
            }),
            Constraint::Hosts(hosts) => target.hostname().is_some_and(|name| hosts.contains(name)),
            Constraint::Ranks(ranks) => ranks.contains(target.rank()),
            Constraint::And(all) => all.iter().all(|part| part.matches(target)),
            Constraint::Or(any) => any.is_empty() || any.iter().any(|part| part.matches(target)),
            Constraint::Not(all) => !all.iter().all(|part| part.matches(target)),
        }
    }
}

fn decode(value: &Value, depth: usize) -> Result<Constraint, ConstraintError> {
    if depth > DEPTH_MAX {
        return Err(ConstraintError::Depth);
    }
    let object = value.as_object().ok_or(ConstraintError::NotAnObject)?;
    let parts = object
        .iter()
        .map(|(name, values)| operator(name, values, depth));
    let mut parts = parts.collect::<Result<Vec<_>, _>>()?;
    match parts.len() {
        1 => Ok(parts.remove(0)),
        _ => Ok(Constraint::And(parts)),
    }
}

fn operator(name: &str, values: &Value, depth: usize) -> Result<Constraint, ConstraintError> {
    const OPERATORS: [&str; 6] = ["properties", "hostlist", "ranks", "and", "or", "not"];
    let values = values
        .as_array()
        .ok_or_else(|| ConstraintError::NotAnArray(name.into()))?;
    let Some(&operator) = OPERATORS.iter().find(|&&known| known == name) else {
        return Err(ConstraintError::Operator(name.into()));
    };
    let strings = values.iter().map(|value| match value.as_str() {
        Some(text) => Ok(text),
        None => Err(ConstraintError::NotAString(operator)),
    });
    let parts = || -> Result<Vec<Constraint>, _> {
        values
            .iter()
            .map(|value| decode(value, depth + 1))
            .collect()
    };
    Ok(match operator {
        "properties" => Constraint::Properties(
            strings
                .map(|name| property_test(name?))
                .collect::<Result<_, _>>()?,
        ),
        "hostlist" => {
            let mut hosts = HashSet::new();
            for text in strings {
                hosts.extend(text?.parse::<Hostlist>()?.iter());
            }
            Constraint::Hosts(hosts)
        }
        "ranks" => {
            let mut ranks = IdSet::new();
            for text in strings {
                ranks.insert_all(&text?.parse()?);
            }
            Constraint::Ranks(ranks)
        }
        "and" => Constraint::And(parts()?),
        "or" => Constraint::Or(parts()?),
        _ => Constraint::Not(parts()?),
    })
}

fn property_test(text: &str) -> Result<PropertyTest, ConstraintError> {
    let (name, absent) = match text.strip_prefix('^') {
        Some(name) => (name, true),
        None => (text, false),
    };
    match name.chars().find(|c| FORBIDDEN.contains(c)) {
        Some(character) => Err(ConstraintError::Property {
            property: text.into(),
            character,
        }),
        None => Ok(PropertyTest {
            name: name.into(),
            absent,
        }),
    }
}

/// Characters no property may contain (RFC 20).
const FORBIDDEN: [char; 8] = ['!', '&', '\'', '"', '`', '|', '(', ')'];

/// Checks the name of a property that is being defined (RFC 20).
///
/// Errors: [`ConstraintError::Property`] with the first forbidden character, `^` included.
pub fn check_property_name(name: &str) -> Result<(), ConstraintError> {
    match name.chars().find(|c| FORBIDDEN.contains(c) || *c == '^') {
        Some(character) => Err(ConstraintError::Property {
            property: name.into(),
            character,
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    struct Host(u32, &'static str, &'static [&'static str]);

    impl Target for Host {
        fn rank(&self) -> u32 {
            self.0
        }
        fn hostname(&self) -> Option<&str> {
            Some(self.1)
        }
        fn has_property(&self, name: &str) -> bool {
            self.2.contains(&name)
        }
    }

    const HOSTS: [Host; 4] = [
        Host(0, "host0", &["ssd"]),
        Host(1, "host1", &["slowgpu", "foo"]),
        Host(2, "host2", &["ssd", "huge", "foo", "bar"]),
        Host(3, "host3", &["bar"]),
    ];

    #[test]
    fn matches_the_examples_of_rfc_31() {
        for (constraint, expect) in [
            (json!({"properties": ["ssd"]}), "0,2"),
            (json!({"properties": ["^slowgpu"]}), "0,2-3"),
            (json!({"not": [{"properties": ["slowgpu"]}]}), "0,2-3"),
            (
                json!({"or": [{"properties": ["ssd"]}, {"properties": ["huge"]}]}),
                "0,2",
            ),
            (
                json!({"or": [{"properties": ["foo"]}, {"properties": ["bar"]}]}),
                "1-3",
            ),
            (json!({"not": [{"properties": ["foo", "bar"]}]}), "0-1,3"),
            (json!({"hostlist": ["host[0-1]"]}), "0-1"),
            (json!({"not": [{"hostlist": ["host[0-1]"]}]}), "2-3"),
            (
                json!({"and": [{"hostlist": ["host[0-1]"]}, {"properties": ["ssd"]}]}),
                "0",
            ),
            (json!({"ranks": ["0"]}), "0"),
            (json!({"or": []}), "0-3"),
            (json!({"and": []}), "0-3"),
            (json!({"not": []}), ""),
            (json!({}), "0-3"),
            (json!({"properties": []}), "0-3"),
            (json!({"properties": ["host2"]}), "2"),
            (json!({"hostlist": []}), ""),
            (json!({"ranks": ["0-1", "3"]}), "0-1,3"),
            (json!({"properties": ["foo"], "ranks": ["2"]}), "2"),
            (
                json!({"not": [{"properties": ["foo"]}, {"properties": ["bar"]}]}),
                "0-1,3",
            ),
        ] {
            let decoded = Constraint::from_value(&constraint).unwrap();
            let matching: IdSet = HOSTS
                .iter()
                .filter(|h| decoded.matches(*h))
                .map(|h| h.0)
                .collect();
            assert_eq!(matching.to_string(), expect, "{constraint}");
        }
    }

    #[test]
    fn unknown_hosts_are_found_at_any_depth() {
        let constraint = json!({"and": [
            {"hostlist": ["host[0-1]", "z"]},
            {"not": [{"hostlist": ["y"]}]},
            {"properties": ["x"]},
        ]});
        let decoded = Constraint::from_value(&constraint).unwrap();
        let known = |name: &str| HOSTS.iter().any(|host| host.1 == name);
        let unknown: Vec<&str> = decoded.unknown_hosts(&known).into_iter().collect();
        assert_eq!(unknown, ["y", "z"]);
    }

    #[test]
    fn refuses_other_json_with_a_reason() {
        for (constraint, text) in [
            (json!([]), "constraints must be a mapping"),
            (json!({"and": ["x"]}), "constraints must be a mapping"),
            (json!({"foo": ["x"]}), "unknown constraint operator: foo"),
            (
                json!({"and": [{"foo": 1}]}),
                "argument to constraint foo must be a sequence",
            ),
            (
                json!({"properties": "x"}),
                "argument to constraint properties must be a sequence",
            ),
            (
                json!({"properties": [1]}),
                "properties constraint must be a string",
            ),
            (
                json!({"properties": ["a&"]}),
                "invalid character '&' in property \"a&\"",
            ),
            (json!({"hostlist": ["["]}), "invalid hostlist '['"),
            (json!({"ranks": ["x"]}), "invalid idset 'x'"),
        ] {
            let error = Constraint::from_value(&constraint).unwrap_err();
            assert_eq!(error.to_string(), text);
        }
        let mut deep = json!({});
        for _ in 0..100 {
            deep = json!({ "not": [deep] });
        }
        assert_eq!(Constraint::from_value(&deep), Err(ConstraintError::Depth));
    }
}

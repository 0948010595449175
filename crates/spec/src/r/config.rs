//! Resources as a configuration names them: the array `resource.config`.

use serde_json::{Map, Value};
use types::{Hostlist, IdSet};

use super::{Children, ResourceSet};

/// Why an array names no resources.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not an array.
    #[error("resource config must be an array")]
    NotArray,
    /// Something is wrong with one entry.
    #[error("config[{index}]: {text}")]
    Entry {
        /// Which one.
        index: usize,
        /// What.
        text: String,
    },
    /// No entries.
    #[error("no hosts configured")]
    NoHosts,
    /// Hosts without any resources.
    #[error("resource.config: {0} assigned no resources")]
    NoResources(Hostlist),
}

impl ResourceSet {
    /// Reads the array `resource.config`: `{hosts, cores?, gpus?, properties?}` each. Hosts may
    /// recur, and get ranks in the order they first appear.
    ///
    /// Errors: see [`ConfigError`].
    pub fn from_config(array: &Value) -> Result<ResourceSet, ConfigError> {
        let entries = array.as_array().ok_or(ConfigError::NotArray)?;
        let mut known = Hostlist::new();
        let mut set = ResourceSet::new();
        for (index, entry) in entries.iter().enumerate() {
            set.add_configured(&mut known, entry)
                .map_err(|text| ConfigError::Entry { index, text })?;
        }
        if set.is_empty() {
            return Err(ConfigError::NoHosts);
        }
        let empty: Hostlist = set
            .nodes()
            .filter(|(_, node)| node.children.is_empty())
            .filter_map(|(_, node)| node.hostname.as_deref())
            .collect();
        if !empty.is_empty() {
            return Err(ConfigError::NoResources(empty));
        }
        Ok(set)
    }

    fn add_configured(&mut self, known: &mut Hostlist, entry: &Value) -> Result<(), String> {
        let entry = entry
            .as_object()
            .ok_or_else(|| format!("Expected object, got {}", kind(entry)))?;
        let unknown: Vec<&str> = entry
            .keys()
            .map(String::as_str)
            .filter(|key| !["hosts", "cores", "gpus", "properties"].contains(key))
            .collect();
        if !unknown.is_empty() {
            return Err(format!(
                "{} object item(s) left unpacked: {}",
                unknown.len(),
                unknown.join(", ")
            ));
        }
        let hosts = string(entry, "hosts")?.ok_or("Object item not found: hosts")?;
        let hosts: Hostlist = hosts
            .parse()
            .map_err(|_| format!("invalid hostlist '{hosts}'"))?;
        if hosts.is_empty() {
            return Err("empty hostlist specified".to_owned());
        }
        let ids = |key: &str| {
            let text = string(entry, key)?.unwrap_or_default();
            text.parse::<IdSet>()
                .map_err(|_| format!("invalid idset {key}='{text}'"))
        };
        let children = Children::new(ids("cores")?, ids("gpus")?);
        let mut ranks = IdSet::new();
        for host in hosts.iter() {
            let at = known.find(&host).unwrap_or_else(|| {
                known.push(&host);
                known.len() - 1
            });
            let rank = u32::try_from(at).map_err(|error| error.to_string())?;
            self.insert(rank, Some(&host), &children);
            ranks.insert(rank);
        }
        let Some(properties) = entry.get("properties") else {
            return Ok(());
        };
        let properties = properties.as_array().ok_or("properties must be an array")?;
        for property in properties {
            property
                .as_str()
                .and_then(|name| self.add_property(name, &ranks).ok())
                .ok_or_else(|| format!("invalid property {property}"))?;
        }
        Ok(())
    }
}

fn string<'a>(entry: &'a Map<String, Value>, key: &str) -> Result<Option<&'a str>, String> {
    match entry.get(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(format!("Expected string, got {}", kind(other))),
    }
}

/// What a value is called in messages.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(true) => "true",
        Value::Bool(false) => "false",
        Value::Number(number) if number.is_f64() => "real",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(config: &Value, expect: &str) {
        let found = match ResourceSet::from_config(config) {
            Ok(set) => format!("{set} on {}", set.nodelist()),
            Err(error) => error.to_string(),
        };
        assert_eq!(found, expect, "{config}");
    }

    #[test]
    fn hosts_may_recur_and_get_ranks_as_they_appear() {
        check(
            &json!([{"hosts": "b[0-1]", "cores": "0-1"},
                    {"hosts": "a,b1", "gpus": "0", "cores": "2", "properties": ["p"]}]),
            "rank0/core[0-1] rank1/core[0-2],gpu0 rank2/core2,gpu0 on b[0-1],a",
        );
    }

    #[test]
    fn bad_entries_are_named() {
        check(&json!({}), "resource config must be an array");
        check(&json!([]), "no hosts configured");
        check(&json!([1]), "config[0]: Expected object, got integer");
        for (entry, expect) in [
            (json!({"cores": "0"}), "Object item not found: hosts"),
            (json!({"hosts": 1}), "Expected string, got integer"),
            (json!({"hosts": "a[1"}), "invalid hostlist 'a[1'"),
            (json!({"hosts": ""}), "empty hostlist specified"),
            (
                json!({"hosts": "a", "cores": "x"}),
                "invalid idset cores='x'",
            ),
            (
                json!({"hosts": "a", "foo": 1}),
                "1 object item(s) left unpacked: foo",
            ),
            (
                json!({"hosts": "a", "properties": "x"}),
                "properties must be an array",
            ),
            (
                json!({"hosts": "a", "properties": ["a^b"]}),
                "invalid property \"a^b\"",
            ),
            (
                json!({"hosts": "a", "properties": [1]}),
                "invalid property 1",
            ),
        ] {
            check(&json!([entry]), &format!("config[0]: {expect}"));
        }
        check(
            &json!([{"hosts": "a"}]),
            "resource.config: a assigned no resources",
        );
    }
}

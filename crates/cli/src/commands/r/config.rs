//! The array `resource.config` of a configuration.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use spec::ResourceSet;
use spec::r::Children;
use types::{Errno, Hostlist, IdSet};

use crate::config::{from_toml, merge_into};
use crate::fail::Fail;

/// Reads a configuration: a file, or all `*.toml` files of a directory.
pub(super) fn read(path: &str) -> Result<ResourceSet, Fail> {
    let io = |path: &Path, error: &std::io::Error| Fail::of(path.display(), Errno::from_io(error));
    let meta = std::fs::metadata(path).map_err(|error| io(Path::new(path), &error))?;
    let mut files: Vec<PathBuf> = vec![path.into()];
    if meta.is_dir() {
        let entries = std::fs::read_dir(path).map_err(|error| io(Path::new(path), &error))?;
        files = entries
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|file| file.extension().is_some_and(|ext| ext == "toml"))
            .collect();
        files.sort();
    }
    let mut config = json!({});
    for file in &files {
        let text = std::fs::read_to_string(file).map_err(|error| io(file, &error))?;
        let piece = if file.extension().is_some_and(|ext| ext == "json") {
            serde_json::from_str(&text).map_err(|error| error.to_string())
        } else {
            from_toml(&text)
        };
        merge_into(
            &mut config,
            piece.map_err(|error| Fail::of(file.display(), error))?,
        );
    }
    parse(&config["resource"]["config"])
        .map_err(|text| Fail::new(format!("Config file error: {text}")))
}

/// Reads the array. Hosts get ranks in the order they first appear.
fn parse(array: &Value) -> Result<ResourceSet, String> {
    if array.is_null() {
        return Err("resource.config or resource.path must be defined".to_owned());
    }
    let entries = array.as_array().ok_or("config is not an array")?;
    let mut known = Hostlist::new();
    let mut set = ResourceSet::new();
    let mut properties: Vec<(String, IdSet)> = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let (hosts, children) =
            resources(entry).map_err(|text| format!("config[{index}]: {text}"))?;
        let mut ranks = IdSet::new();
        for host in hosts.iter() {
            let at = known.find(&host).unwrap_or_else(|| {
                known.push(&host);
                known.len() - 1
            });
            let rank = u32::try_from(at).map_err(|error| error.to_string())?;
            set.insert(rank, Some(&host), &children);
            ranks.insert(rank);
        }
        let names = entry.get("properties").and_then(Value::as_array);
        for name in names.into_iter().flatten().filter_map(Value::as_str) {
            properties.push((name.to_owned(), ranks.clone()));
        }
    }
    for (name, ranks) in &properties {
        set.add_property(name, ranks)
            .map_err(|error| error.to_string())?;
    }
    if set.is_empty() {
        return Err("no hosts configured".to_owned());
    }
    let empty: Hostlist = set
        .nodes()
        .filter(|(_, node)| node.children.is_empty())
        .filter_map(|(_, node)| node.hostname.as_deref())
        .collect();
    if !empty.is_empty() {
        return Err(format!("resource.config: {empty} assigned no resources"));
    }
    Ok(set)
}

/// The hosts of an entry and what each of them has.
fn resources(entry: &Value) -> Result<(Hostlist, Children), String> {
    let none = Map::new();
    let entry = entry.as_object().unwrap_or(&none);
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
    let text = |key: &str| entry.get(key).and_then(Value::as_str);
    let hosts = text("hosts").ok_or("Object item not found: hosts")?;
    let hosts: Hostlist = hosts
        .parse()
        .map_err(|_| format!("invalid hostlist '{hosts}'"))?;
    if hosts.is_empty() {
        return Err("empty hostlist specified".to_owned());
    }
    let ids = |key: &str| {
        let text = text(key).unwrap_or_default();
        text.parse::<IdSet>()
            .map_err(|_| format!("invalid idset {key}='{text}'"))
    };
    Ok((hosts, Children::new(ids("cores")?, ids("gpus")?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_add_up() {
        let check = |text: &str, expect: &str| {
            let config = from_toml(text).expect("TOML");
            let found = match parse(&config["config"]) {
                Ok(set) => format!("{set} {}", set.nodelist()),
                Err(text) => text,
            };
            assert_eq!(found, expect);
        };
        check(
            "[[config]]\nhosts='f[0-1]'\ncores='0-1'\n[[config]]\nhosts='f1,g'\ngpus='0'\nproperties=['p']",
            "rank0/core[0-1] rank1/core[0-1],gpu0 rank2/gpu0 f[0-1],g",
        );
        check("", "resource.config or resource.path must be defined");
        check(
            "[[config]]\ncores='0'",
            "config[0]: Object item not found: hosts",
        );
        check(
            "[[config]]\nhosts='a'",
            "resource.config: a assigned no resources",
        );
        check(
            "[[config]]\nhosts='a'\ncores='x'",
            "config[0]: invalid idset cores='x'",
        );
        check(
            "[[config]]\nhosts='a'\nfoo=1",
            "config[0]: 1 object item(s) left unpacked: foo",
        );
    }
}

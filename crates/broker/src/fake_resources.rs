//! Resources that are not there, for tests of scale: the table `[fake-resources]`
//! (flux-config-fake-resources(5)).
//!
//! R is made from the table and stored before the module `resource` comes, which then takes it
//! for the resources of an earlier run, and takes every node for up.

use proto::kvs::{Commit, KvsCommit, Op, PRIMARY};
use rpc::{Dest, RpcError};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use spec::r::Children;
use spec::{ResourceSet, TreeObj};
use types::{Errno, IdSet, Rank};

use crate::broker::Broker;

const TABLE: &str = "fake-resources";
/// Arguments the module `resource` gets.
pub(crate) const RESOURCE_ARGS: [&str; 2] = ["monitor-force-up", "noverify"];

const CORES_DEFAULT: u32 = 64;
const PREFIX_DEFAULT: &str = "fake";

/// The resources a configuration describes, if it does. Errors are texts for people.
pub(crate) fn read(config: &Map<String, Value>) -> Result<Option<ResourceSet>, String> {
    let Some(table) = config.get(TABLE) else {
        return Ok(None);
    };
    let table = table
        .as_object()
        .ok_or_else(|| format!("[{TABLE}] must be a table"))?;
    let (mut nodes, mut cores, mut gpus) = (None, CORES_DEFAULT, 0);
    let (mut prefix, mut xml) = (PREFIX_DEFAULT, None);
    for (key, value) in table {
        let count = |least: u32| {
            let count = value.as_u64().and_then(|count| u32::try_from(count).ok());
            let count = count.filter(|count| *count >= least);
            count.ok_or_else(|| format!("{TABLE}.{key}: {value}: must be an integer >= {least}"))
        };
        let text = || format!("{TABLE}.{key}: {value}: must be a string");
        match key.as_str() {
            "nnodes" => nodes = Some(count(1)?),
            "cores-per-node" => cores = count(1)?,
            "gpus-per-node" => gpus = count(0)?,
            "host-prefix" => {
                prefix = value
                    .as_str()
                    .filter(|text| !text.is_empty())
                    .ok_or_else(text)?;
            }
            "hwloc-xml-path" => xml = Some(value.as_str().ok_or_else(text)?),
            "amend-r" => {
                return Err(format!("{TABLE}.{key} is not supported by this version"));
            }
            _ => return Err(format!("{TABLE}.{key}: unknown key")),
        }
    }
    let nodes = nodes.ok_or_else(|| format!("{TABLE}.nnodes is missing"))?;
    if let Some(path) = xml {
        (cores, gpus) = count_in(path).map_err(|text| format!("{TABLE}: {path}: {text}"))?;
    }
    let children = Children::new(IdSet::first_n(cores), IdSet::first_n(gpus));
    let mut set = ResourceSet::new();
    for rank in 0..nodes {
        set.insert(rank, Some(&format!("{prefix}{rank}")), &children);
    }
    Ok(Some(set))
}

/// Cores and GPUs of the machine an hwloc document describes.
fn count_in(path: &str) -> Result<(u32, u32), String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let found = topology::read_xml(&text).map_err(|error| error.to_string())?;
    Ok((found.topology.cores.len() as u32, found.topology.gpus))
}

/// Stores resources where the module `resource` looks for those of an earlier run.
pub(crate) async fn install(broker: &Broker, set: &ResourceSet) -> Result<(), RpcError> {
    let value = TreeObj::encode_val(set.encode().as_bytes());
    let request = Commit {
        ops: vec![Op {
            key: "resource.R".to_owned(),
            flags: 0,
            dirent: RawValue::from_string(value).map_err(|_| Errno::EINVAL)?,
        }],
        namespace: PRIMARY.to_owned(),
        flags: 0,
    };
    let handle = broker.router.handle();
    handle
        .call::<KvsCommit>(Dest::Rank(Rank::LEADER), &request)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read_table(table: Value) -> Result<Option<ResourceSet>, String> {
        read(&Map::from_iter([(TABLE.to_owned(), table)]))
    }

    #[test]
    fn the_table_tells_the_shape() {
        let set = read_table(json!({"nnodes": 3, "cores-per-node": 2, "gpus-per-node": 1}));
        let set = set.expect("a good table").expect("resources");
        assert_eq!(set.nnodes(), 3);
        assert_eq!((set.count("core"), set.count("gpu")), (6, 3));
        assert_eq!(set.nodelist().to_string(), "fake[0-2]");
        assert_eq!(read(&Map::new()), Ok(None));
    }

    #[test]
    fn bad_tables_are_told_by_key() {
        for (table, expect) in [
            (json!({}), "nnodes is missing"),
            (json!({"nnodes": 0}), "nnodes: 0: must be"),
            (json!({"nnodes": "x"}), "nnodes: \"x\": must be"),
            (
                json!({"nnodes": 1, "gpus-per-node": -1}),
                "gpus-per-node: -1",
            ),
            (json!({"nnodes": 1, "host-prefix": 1}), "host-prefix: 1"),
            (json!({"nnodes": 1, "amend-r": "a.py"}), "amend-r is not"),
            (
                json!({"nnodes": 1, "hwloc-xml-path": "/nonexistent/x.xml"}),
                "/nonexistent/x.xml: No such file",
            ),
            (json!({"nnodes": 1, "nodes": 1}), "nodes: unknown key"),
            (json!([]), "must be a table"),
        ] {
            let text = read_table(table).expect_err("a bad table");
            assert!(text.contains(expect), "{text}");
        }
    }
}

//! `flux kvs`: the key-value store.

mod eventlog;
mod list;
mod lookup;
mod namespace;
mod write;

use client::Client;
use client::kvs::default_namespace;
use proto::kvs::{KvsGetroot, Namespace, Root};
use rpc::{Dest, RpcError};
use spec::TreeObj;
use types::Errno;

use crate::driver::Invocation;
use crate::err;
use crate::fail::Fail;
use crate::options::{Args, Opt, arg};

use super::{Sub, dispatch_listed};

/// Prefix of run-time errors.
const PROG: &str = "flux-kvs";

/// The option every subcommand has.
const NAMESPACE: Opt = arg('N', "namespace", "NS", "Use this namespace");

static SUBS: &[Sub] = &[
    ("namespace", "Manage namespaces", namespace::run),
    ("get", "Read values", lookup::get),
    ("put", "Store values", write::put),
    ("dir", "Show every key below a directory", list::dir),
    ("ls", "List directories", list::ls),
    ("unlink", "Remove keys", write::unlink),
    ("link", "Create a link", write::link),
    ("readlink", "Show where links point", lookup::readlink),
    ("mkdir", "Create directories", write::mkdir),
    ("copy", "Copy a key", write::copy),
    ("move", "Move a key", write::rename),
    ("version", "Show the sequence number", lookup::version),
    ("wait", "Wait for a sequence number", lookup::wait),
    ("getroot", "Show the root", lookup::getroot),
    ("sync", "Write everything to disk", write::sync),
    ("eventlog", "Read and write eventlogs", eventlog::run),
];

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    dispatch_listed(PROG, "Common commands from flux-kvs:", SUBS, words)
}

fn namespace_of(args: &Args) -> String {
    args.get("namespace")
        .map_or_else(default_namespace, str::to_owned)
}

/// The root the `--at` option names, for a look-up of a key.
fn rootdir(args: &Args, key: &str) -> Result<Option<serde_json::Value>, Fail> {
    let parsed = args.get("at").map(serde_json::from_str).transpose();
    parsed.map_err(|_| Fail::of(key, Errno::EINVAL))
}

/// Complains about the number of words.
fn wrong_count(text: &str) -> i32 {
    err!("{PROG}: {text}");
    1
}

/// Clients take no empty key: the service would take it for the root's.
fn named(key: &str) -> Result<&str, Errno> {
    if key.is_empty() {
        return Err(Errno::EINVAL);
    }
    Ok(key)
}

async fn root(client: &Client, namespace: &str) -> Result<Root, RpcError> {
    let request = Namespace {
        namespace: namespace.to_owned(),
    };
    client
        .handle()
        .call::<KvsGetroot>(Dest::Any, &request)
        .await
}

/// The root directory object a root reference stands for, as JSON.
fn dirref(rootref: &str) -> String {
    // The blobref is printed as it came, also one this build does not know.
    format!(
        "{{\"data\":[{}],\"type\":\"dirref\",\"ver\":1}}",
        serde_json::Value::from(rootref)
    )
}

/// Parses a tree object given on the command line.
fn treeobj(text: &str) -> Result<TreeObj, Fail> {
    TreeObj::decode(text.as_bytes()).map_err(|error| Fail::new(error.to_string()))
}

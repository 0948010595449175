//! Finding the URI of an instance from what people call it.

mod lsf;
mod slurm;

use std::path::Path;
use std::process::Command;

use client::Client;
use proto::job_list::{JobListId, ListId};
use rpc::Dest;
use types::{Errno, JobId};

use crate::attach;
use crate::fail::{self, Fail};

/// The state of jobs that run.
const STATE_RUN: i64 = 16;

/// How to resolve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Whether sockets are to be taken for sockets of this host (true), or to be reached through
    /// ssh (false), whatever the instance says.
    pub(crate) local: Option<bool>,
    /// Whether to wait until a job says where its instance is.
    pub(crate) wait: bool,
    /// Whether this host is a node of the LSF job.
    pub(crate) is_compute: bool,
}

impl Options {
    /// What the environment asks for.
    pub(crate) fn from_env() -> Options {
        Options {
            local: std::env::var_os("FLUX_URI_RESOLVE_LOCAL").map(|_| true),
            ..Options::default()
        }
    }
}

/// The URI of the instance that `target` names: a path through the hierarchy of instances, a URI,
/// or `SCHEME:ARGUMENT`, `jobid` being the scheme where there is none.
pub(crate) async fn resolve(target: &str, options: Options) -> Result<String, Fail> {
    let (target, options) = query(target, options)?;
    if target.starts_with("local://") || target.starts_with("ssh://") {
        return localized(target, options.local);
    }
    let (scheme, argument) = match target.split_once(':') {
        Some((scheme, argument)) => (scheme, argument),
        None => ("jobid", target),
    };
    let uri = match scheme {
        "jobid" => path(argument, options).await?,
        "pid" => of_process(argument)?,
        "slurm" => slurm::uri(argument)?,
        "lsf" if options.is_compute => lsf::uri_here(argument)?,
        "lsf" => lsf::uri(argument)?,
        _ => return Err(Fail::new(format!("No plugin for URI scheme {scheme}"))),
    };
    localized(&uri, options.local)
}

/// Takes `?local`, `?remote`, `?wait` and `?is_compute` off a target.
fn query(target: &str, mut options: Options) -> Result<(&str, Options), Fail> {
    let Some((target, words)) = target.split_once('?') else {
        return Ok((target, options));
    };
    let has = |wanted: &str| words.split('&').any(|word| word == wanted);
    match (has("local"), has("remote")) {
        (true, true) => {
            return Err(Fail::new("Only one of 'local' or 'remote' is allowed"));
        }
        (false, false) => {}
        (local, _) => options.local = Some(local),
    }
    options.wait |= has("wait");
    options.is_compute |= has("is_compute");
    Ok((target, options))
}

/// A URI for use on this host, or on another one.
pub(crate) fn localized(uri: &str, local: Option<bool>) -> Result<String, Fail> {
    let rest = |prefix: &str| uri.strip_prefix(prefix);
    match local {
        Some(true) => Ok(match rest("ssh://").and_then(|rest| rest.split_once('/')) {
            Some((_, path)) => format!("local:///{path}"),
            None => uri.to_owned(),
        }),
        Some(false) => Ok(match rest("local://") {
            Some(path) => format!("ssh://{}{path}", crate::hostname()?),
            None => uri.to_owned(),
        }),
        None => Ok(uri.to_owned()),
    }
}

/// A URI in the form that reaches it directly, where it names this host.
pub(crate) fn nearest(uri: &str) -> Result<String, Fail> {
    let host = uri
        .strip_prefix("ssh://")
        .and_then(|rest| rest.split('/').next());
    let here = host == Some(crate::hostname()?.as_str());
    localized(uri, here.then_some(true))
}

/// Where the instance a client uses is, whatever proxy it uses it through.
async fn current(client: &Client) -> Result<String, Fail> {
    let uri = client.attr("local-uri").await?;
    Ok(client::seen_through_proxy(uri))
}

/// Goes through the hierarchy of instances: `/` is the root, `..` the parent, anything else a job.
async fn path(path: &str, options: Options) -> Result<String, Fail> {
    let mut client = fail::connect_p().await?;
    let mut uri = current(&client).await?;
    if path.starts_with('/') {
        while let Some(parent) = parent(&client).await? {
            client = open(&localized(&parent, options.local)?).await?;
            uri = parent;
        }
    }
    let elements = path.split('/').filter(|part| !matches!(*part, "" | "."));
    for element in elements {
        let next = if element == ".." {
            match parent(&client).await? {
                Some(parent) => parent,
                // The parent of the root is the root.
                None => continue,
            }
        } else {
            of_job(&client, element, options.wait).await?
        };
        uri.clone_from(&next);
        // Only needed if there is more to come, but then nothing else would do.
        if path.ends_with(element) && !path.contains('/') {
            break;
        }
        client = open(&localized(&next, options.local)?).await?;
    }
    Ok(uri)
}

async fn open(uri: &str) -> Result<Client, Fail> {
    client::open(Some(uri))
        .await
        .map_err(|error| Fail::of(uri, error))
}

async fn parent(client: &Client) -> Result<Option<String>, Fail> {
    match client.attr("parent-uri").await {
        Ok(uri) => Ok(Some(uri)),
        Err(error) if error.errno == Errno::ENOENT => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Where the instance is that a job is.
async fn of_job(client: &Client, text: &str, wait: bool) -> Result<String, Fail> {
    let id: JobId = text
        .parse()
        .map_err(|_| Fail::new(format!("{text} is not a valid Flux jobid")))?;
    if wait && let Some(uri) = announced(client, id).await? {
        return Ok(uri);
    }
    let request = ListId {
        id,
        attrs: ["state", "annotations"].map(str::to_owned).to_vec(),
        state: None,
    };
    let job = match client.handle().call::<JobListId>(Dest::Any, &request).await {
        Ok(found) => found.job,
        Err(error) if error.errno == Errno::ENOENT => {
            return Err(Fail::new(format!("jobid {text} not found")));
        }
        Err(error) => return Err(error.into()),
    };
    if job.get("state").and_then(serde_json::Value::as_i64) != Some(STATE_RUN) {
        return Err(Fail::new(format!("jobid {text} is not running")));
    }
    job.get("annotations")
        .and_then(|annotations| annotations.pointer("/user/uri")?.as_str())
        .map(str::to_owned)
        .ok_or_else(|| Fail::new(format!("URI not found for job {text}")))
}

/// Waits until a job says where its instance is; `None` if it ends without.
async fn announced(client: &Client, id: JobId) -> Result<Option<String>, Fail> {
    let mut events = attach::watch(client, id, "eventlog", 0);
    loop {
        let entry = match events.next().await {
            Ok(Some(entry)) => entry,
            Ok(None) => return Ok(None),
            Err(error) if error.errno == Errno::ENOENT => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match entry.name.as_str() {
            "memo" => {
                if let Some(uri) = entry.get_str("uri") {
                    return Ok(Some(uri.to_owned()));
                }
            }
            "finish" | "clean" => return Ok(None),
            _ => {}
        }
    }
}

/// What a process of this host has in its environment. A broker has there what its parent is, so
/// that its first child is asked instead.
fn of_process(pid: &str) -> Result<String, Fail> {
    let read = |path: String| {
        std::fs::read(&path)
            .map_err(|error| Fail::new(format!("{}: '{path}'", Errno::from_io(&error))))
    };
    read(format!("/proc/{pid}/status"))?;
    let command = read(format!("/proc/{pid}/cmdline"))?;
    let mut pid = pid.to_owned();
    if is_broker(&command) {
        let children = read(format!("/proc/{pid}/task/{pid}/children"))?;
        let children = String::from_utf8_lossy(&children);
        let Some(child) = children.split_whitespace().next() else {
            let text = format!("PID {pid} is a flux-broker and no child found");
            return Err(Fail::new(text));
        };
        child.clone_into(&mut pid);
    }
    let environment = read(format!("/proc/{pid}/environ"))?;
    environment
        .split(|byte| *byte == 0)
        .find_map(|entry| entry.strip_prefix(b"FLUX_URI="))
        .map(|uri| String::from_utf8_lossy(uri).into_owned())
        .ok_or_else(|| Fail::new(format!("PID {pid} doesn't seem to have a FLUX_URI")))
}

/// Whether a command line, its words ended by NUL, is a broker's.
fn is_broker(command: &[u8]) -> bool {
    let mut words = command.split(|byte| *byte == 0);
    let name = words
        .next()
        .and_then(|word| std::str::from_utf8(word).ok())
        .and_then(|word| Path::new(word).file_name())
        .and_then(|name| name.to_str());
    match name {
        Some("flux-broker" | "lt-flux-broker") => true,
        Some("flux") => words.next() == Some(b"broker"),
        _ => false,
    }
}

/// What a command prints. Errors: why there is nothing.
fn output_of(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .map_err(|error| format!("{name}: {}", Errno::from_io(&error)))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let why = said.trim().lines().last().unwrap_or_default().to_owned();
    match why.is_empty() {
        true => Err(format!("{name}: {}", output.status)),
        false => Err(format!("{name}: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_turned_to_this_host() {
        for (uri, local, expect) in [
            ("ssh://h/x/y", Some(true), "local:///x/y"),
            ("ssh://u@h:22/x", Some(true), "local:///x"),
            ("ssh://h/x", None, "ssh://h/x"),
            ("ssh://h/x", Some(false), "ssh://h/x"),
            ("local:///x", Some(true), "local:///x"),
        ] {
            assert_eq!(localized(uri, local).expect("URI"), expect);
        }
    }

    #[test]
    fn targets_may_have_options() {
        let read = |target| query(target, Options::default()).expect("a target");
        let (target, options) = read("f1?local&wait");
        assert_eq!(target, "f1");
        assert_eq!((options.local, options.wait), (Some(true), true));
        let (target, options) = read("f1");
        assert_eq!((target, options), ("f1", Options::default()));
        assert!(query("f1?local&remote", Options::default()).is_err());
    }

    #[test]
    fn brokers_are_known_by_their_words() {
        assert!(is_broker(b"/usr/libexec/flux-broker\0-S\0"));
        assert!(is_broker(b"/usr/bin/flux\0broker\0"));
        assert!(!is_broker(b"flux\0start\0"));
        assert!(!is_broker(b""));
    }
}

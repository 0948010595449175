//! The tasks' standard input: what clients send, or a file.
//!
//! The leader takes it, keeps a record in the job's `input` eventlog and feeds its own tasks; the
//! other shells follow the record.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::rc::Rc;

use proto::kvs::{self, KvsWatchLookup, Lookup};
use rpc::{Dest, RpcError};
use serde_json::{Map, Value, json};
use spec::TreeObj;
use spec::eventlog::Decoder;
use spec::stdio::StreamData;
use subprocess::Stdio;
use types::{Errno, IdSet};

use crate::fatal::Fatal;
use crate::job::Job;
use crate::mustache::{self, Scope};
use crate::output::{format_size, parse_size};
use crate::shell::Shell;
use crate::store::key;

/// Bytes a task may leave unread.
pub(crate) const BUFFER_MAX: usize = 32 << 20;
/// What a job may be sent unless told otherwise, and at most.
const LIMIT: (u64, u64) = (10 << 20, 32 << 20);

/// Where standard input comes from.
pub(crate) struct Input {
    /// The template of the file's path; `None` for clients.
    path: Option<String>,
    limit: u64,
    received: Cell<u64>,
    /// Tasks that get no more, as the leader knows.
    ended: RefCell<IdSet>,
    /// Tasks whose buffer was full.
    full: RefCell<IdSet>,
}

impl Input {
    pub(crate) fn new(job: &Job) -> Result<Input, Fatal> {
        let kind = job.option("input.stdin.type").and_then(Value::as_str);
        let path = job.option("input.stdin.path").and_then(Value::as_str);
        let path = match (kind, path) {
            (Some("service"), _) | (None, None) => None,
            (Some("file") | None, Some(path)) => Some(path.to_owned()),
            (Some("file"), None) => {
                return Err(Fatal::new("path for stdin file input not specified"));
            }
            (Some(other), _) => {
                return Err(Fatal::new(format!("input.stdin.type={other} invalid")));
            }
        };
        let limit = match job.option("input.limit") {
            None => LIMIT.0,
            Some(value) => parse_size(value)
                .filter(|limit| *limit <= LIMIT.1)
                .ok_or_else(|| {
                    let value = value.as_str().map_or(value.to_string(), str::to_owned);
                    Fatal::new(format!("Invalid KVS input.limit={value}"))
                })?,
        };
        if job
            .option("input.batch-timeout")
            .is_some_and(|value| !value.is_number())
        {
            return Err(Fatal::new("invalid input.batch-timeout option"));
        }
        Ok(Input {
            path,
            limit,
            received: Cell::new(0),
            ended: RefCell::default(),
            full: RefCell::default(),
        })
    }

    /// The event that begins the record.
    pub(crate) fn header(
        &self,
        job: &Job,
        scope: &Scope<'_>,
    ) -> Vec<(&'static str, &'static str, Map<String, Value>)> {
        let object = |value: Value| match value {
            Value::Object(map) => map,
            _ => Map::new(),
        };
        if let Some(path) = &self.path {
            let scope = Scope {
                shell_rank: None,
                task: None,
                ..*scope
            };
            let path = mustache::render(path, &scope);
            let event = json!({"stream": "stdin", "rank": "all", "path": path});
            return vec![
                (key::INPUT, "header", header()),
                (key::INPUT, "redirect", object(event)),
            ];
        }
        let _ = job;
        vec![(key::INPUT, "header", header())]
    }

    /// What a task's standard input is.
    pub(crate) fn stdio(&self, scope: &Scope<'_>) -> Result<Stdio, Fatal> {
        let Some(path) = &self.path else {
            return Ok(Stdio::Pipe);
        };
        let path = mustache::render(path, scope);
        let file = File::open(&path).map_err(|error| {
            let errno = Errno::from_io(&error);
            Fatal::new(format!("error opening input file '{path}': {errno}"))
        })?;
        Ok(Stdio::Fd(file.into()))
    }
}

fn header() -> Map<String, Value> {
    let value = json!({
        "version": 1,
        "encoding": {"stdin": "UTF-8"},
        "count": {"stdin": 1},
        "options": {},
    });
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// Takes input from a client, on the leader.
///
/// Errors: `EPROTO` no I/O object, `EPIPE` after the end for all tasks it is for.
pub(crate) fn on_stdin(shell: &Rc<Shell>, object: &Map<String, Value>) -> Result<(), RpcError> {
    let wrong = |text| RpcError::new(Errno::EPROTO, text);
    let mut data = StreamData::decode(object, "UTF-8").map_err(|error| wrong(error.to_string()))?;
    let input = &shell.input;
    let tasks = IdSet::first_n(shell.job.ntasks);
    let wanted = match data.rank.as_str() {
        "all" => tasks.clone(),
        text => text
            .parse()
            .map_err(|error| wrong(format!("rank {text}: {error}")))?,
    };
    let mut ended = input.ended.borrow_mut();
    let open = wanted.difference(&ended);
    if open.is_empty() || input.path.is_some() {
        return Err(Errno::EPIPE.into());
    }
    if open != tasks {
        data.rank = open.to_string();
    }
    let bytes = data.data.as_ref().map_or(0, Vec::len) as u64;
    input.received.set(input.received.get() + bytes);
    if input.received.get() > input.limit {
        shell.die(Fatal::new(format!(
            "stdin exceeds {} limit. Try file input (flux submit --input=FILE) or redirect input \
             to your command to avoid the KVS for large amounts of input",
            format_size(input.limit)
        )));
        // The sender learns it from the job's end, as it does of any failure of the shell.
        *ended = tasks;
        return Ok(());
    }
    if data.eof {
        ended.insert_all(&open);
    }
    shell.store.append(key::INPUT, "data", data.encode());
    feed(shell, &data);
    Ok(())
}

/// Hands input to the local tasks it is for.
fn feed(shell: &Rc<Shell>, data: &StreamData) {
    let ranks: Option<IdSet> = match data.rank.as_str() {
        "all" => None,
        text => match text.parse() {
            Ok(ranks) => Some(ranks),
            Err(_) => return shell.log.error(format!("input: bad rank {text}")),
        },
    };
    for task in shell.tasks.borrow().iter() {
        if ranks
            .as_ref()
            .is_some_and(|ranks| !ranks.contains(task.rank))
        {
            continue;
        }
        let stdin = task.stdin.borrow();
        let Some(stdin) = &*stdin else { continue };
        if let Some(bytes) = &data.data
            && stdin.write(bytes).is_err()
            && shell.input.full.borrow_mut().insert(task.rank)
        {
            let text = format!("task {}: buffer full, closing stdin", task.rank);
            shell.log.error(text);
            stdin.close();
        }
        if data.eof {
            stdin.close();
        }
    }
}

/// Follows the record, on the other shells, for as long as the shell lives.
pub(crate) async fn follow(shell: Rc<Shell>) {
    let request = Lookup {
        key: key::INPUT.into(),
        flags: kvs::flags::WATCH | kvs::flags::WATCH_APPEND | kvs::flags::WAITCREATE,
        namespace: Some(shell.namespace.clone()),
        rootdir: None,
        rootseq: None,
    };
    let mut stream = shell.handle.stream::<KvsWatchLookup>(Dest::Any, &request);
    let mut decoder = Decoder::default();
    loop {
        let found = match stream.next().await {
            Ok(Some(found)) => found,
            Ok(None) => return,
            // The namespace goes with the job.
            Err(error) if error.errno == Errno::ENOTSUP => return,
            Err(error) => return shell.log.error(format!("input: watch: {error}")),
        };
        let Ok(TreeObj::Val(bytes)) = TreeObj::decode(found.val.get().as_bytes()) else {
            continue;
        };
        decoder.push(&bytes);
        for entry in decoder.by_ref() {
            let Ok(entry) = entry else { continue };
            let Some(context) = entry.context.filter(|_| entry.name == "data") else {
                continue;
            };
            match StreamData::decode(&context, "UTF-8") {
                Ok(data) => feed(&shell, &data),
                Err(error) => shell.log.error(format!("input: {error}")),
            }
        }
    }
}

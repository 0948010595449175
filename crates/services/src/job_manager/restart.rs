//! What is stored: jobs read back at start, and the state of queues.

use jobs::Jobs;
use jobs::history::{Slice, SliceId};
use module::Severity;
use proto::kvs::{KvsLookup, Lookup, PRIMARY, flags};
use rpc::{Call, Dest, Handle, RpcError};
use serde_json::{Map, Value, json};
use spec::{TreeObj, eventlog};
use types::{Errno, JobId};

use super::history::{History, Known};
use super::{Posted, State, journal};
use crate::store;

/// How many jobs are read at once.
const WINDOW: usize = 64;

pub(super) fn lookup(handle: &Handle, key: String, flags: i32) -> Call<proto::kvs::Found> {
    let request = Lookup {
        key,
        flags,
        namespace: Some(PRIMARY.into()),
        rootdir: None,
        rootseq: None,
    };
    handle.call::<KvsLookup>(Dest::Any, &request)
}

/// What a directory has; nothing if there is no such.
pub(super) async fn entries(
    handle: &Handle,
    key: &str,
) -> Result<Vec<(String, TreeObj)>, RpcError> {
    listing(lookup(handle, key.to_owned(), flags::READDIR)).await
}

async fn listing(call: Call<proto::kvs::Found>) -> Result<Vec<(String, TreeObj)>, RpcError> {
    match call.await {
        Ok(found) => match TreeObj::decode(found.val.get().as_bytes()) {
            Ok(TreeObj::Dir(entries)) => Ok(entries.into_iter().collect()),
            Ok(_) => Ok(Vec::new()),
            Err(error) => Err(RpcError::new(error.errno(), error.to_string())),
        },
        Err(error) if matches!(error.errno, Errno::ENOENT | Errno::ENOTDIR) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// What there is of jobs.
#[derive(Default)]
struct Found {
    /// Slices that the summary tells of.
    told: Vec<(Slice, u64)>,
    /// Jobs to read.
    others: Vec<JobId>,
}

/// Every stored job, by slice as far as the summary is of what is there.
async fn stored_jobs(handle: &Handle, mut known: Known) -> Result<Found, RpcError> {
    let mut found = Found::default();
    let mut level = Vec::new();
    for (upper, _) in entries(handle, "job").await? {
        for (lower, object) in entries(handle, &format!("job.{upper}")).await? {
            let told = SliceId::from_names(&upper, &lower).and_then(|id| known.remove(&id));
            match (told, object) {
                (Some((slice, part)), TreeObj::DirRef(blobref)) if slice.blobref == blobref => {
                    found.told.push((slice, part));
                }
                _ => level.push(format!("job.{upper}.{lower}")),
            }
        }
    }
    for _ in 0..2 {
        let mut below = Vec::new();
        for window in level.chunks(WINDOW) {
            let calls: Vec<_> = window
                .iter()
                .map(|key| lookup(handle, key.clone(), flags::READDIR))
                .collect();
            for (key, call) in window.iter().zip(calls) {
                let names = listing(call).await?.into_iter().map(|(name, _)| name);
                below.extend(names.map(|name| format!("{key}.{name}")));
            }
        }
        level = below;
    }
    found.others = level.iter().filter_map(|key| key.parse().ok()).collect();
    found.others.sort_unstable();
    Ok(found)
}

/// What is stored of a job.
pub(super) struct Stored {
    id: JobId,
    pub(super) log: String,
    pub(super) jobspec: Map<String, Value>,
    pub(super) resources: Option<Map<String, Value>>,
}

pub(super) struct Reading {
    id: JobId,
    log: Call<proto::kvs::Found>,
    jobspec: Call<proto::kvs::Found>,
    resources: Call<proto::kvs::Found>,
}

impl Reading {
    pub(super) fn start(handle: &Handle, id: JobId) -> Reading {
        let key = |name: &str| format!("{}.{name}", id.kvs_path());
        Reading {
            id,
            log: lookup(handle, key("eventlog"), 0),
            jobspec: lookup(handle, key("jobspec"), 0),
            resources: lookup(handle, key("R"), 0),
        }
    }

    pub(super) async fn finish(self) -> Result<Stored, RpcError> {
        let object = |found: proto::kvs::Found| -> Result<Map<String, Value>, RpcError> {
            let bytes = store::value_of(&found.val)?;
            serde_json::from_slice(&bytes)
                .map_err(|error| RpcError::new(Errno::EINVAL, error.to_string()))
        };
        let log = store::value_of(&self.log.await?.val)?;
        let jobspec = object(self.jobspec.await?)?;
        let resources = match self.resources.await {
            Ok(found) => Some(object(found)?),
            Err(error) if error.errno == Errno::ENOENT => None,
            Err(error) => return Err(error),
        };
        Ok(Stored {
            id: self.id,
            log: String::from_utf8(log)
                .map_err(|_| RpcError::new(Errno::EINVAL, "eventlog is not UTF-8"))?,
            jobspec,
            resources,
        })
    }
}

/// Reads every job back and lets it go on.
pub(super) async fn load(state: &mut State) -> Result<(), RpcError> {
    let (history, known) = History::read(state).await?;
    state.history = history;
    let Found { told, others: ids } = stored_jobs(&state.handle, known).await?;
    let mut count = ids.len();
    for (slice, part) in told {
        count += slice.records.len();
        state.history.confirm(slice.id, part);
        for record in slice.records {
            state.jobs.restore_record(record);
        }
    }
    for window in ids.chunks(WINDOW) {
        let readings: Vec<Reading> = window
            .iter()
            .map(|id| Reading::start(&state.handle, *id))
            .collect();
        for reading in readings {
            let id = reading.id;
            let restored = match reading.finish().await {
                Ok(stored) => restore(&mut state.jobs, stored),
                Err(error) => Err(error.to_string()),
            };
            if state.jobs.past(id).is_some() {
                // Everything that was committed so far is there.
                state.history.on_change(id, 0);
            }
            if let Err(text) = restored {
                state.log(Severity::Err, format!("restart: {}: {text}", id.f58()));
                lose(state, id).await?;
            }
        }
    }
    restore_checkpoint(state).await?;
    let running = state.jobs.sched_hello().count();
    if count > 0 {
        state.log(Severity::Info, format!("restart: {count} jobs"));
        if count > ids.len() {
            let told = count - ids.len();
            let text = format!("restart: {told} of them inactive and as summarised");
            state.log(Severity::Debug, text);
        }
        state.log(Severity::Info, format!("restart: {running} running jobs"));
        let max = state.jobs.max_jobid().f58();
        state.log(Severity::Debug, format!("restart: max_jobid={max}"));
    }
    state.with_jobs(|jobs, now, out| jobs.restored(now, out));
    Ok(())
}

fn restore(jobs: &mut Jobs, stored: Stored) -> Result<(), String> {
    let entries = eventlog::decode(stored.log.as_bytes()).map_err(|error| error.to_string())?;
    jobs.restore(
        stored.id,
        &stored.log,
        &entries,
        stored.jobspec,
        stored.resources,
    )
    .map_err(|error| error.to_string())
}

/// Moves a job that cannot be read out of the way.
async fn lose(state: &State, id: JobId) -> Result<(), RpcError> {
    let found = lookup(&state.handle, id.kvs_path(), flags::TREEOBJ).await?;
    let found = TreeObj::decode(found.val.get().as_bytes())
        .map_err(|error| RpcError::new(error.errno(), error.to_string()))?;
    let ops = vec![
        store::object(format!("job-lost+found.job.{}", id.f58_plain()), &found),
        store::unlink(id.kvs_path()),
    ];
    store::commit(&state.handle, ops, 0).await
}

/// What a restart shall find of the queues.
pub(super) fn checkpoint(jobs: &Jobs) -> String {
    let queues: Vec<Value> = jobs
        .queues()
        .iter()
        .map(|(name, queue)| {
            let (start, stop_reason) = &queue.saved_start;
            let mut object = Map::new();
            if let Some(name) = name {
                object.insert("name".into(), name.into());
            }
            object.insert("enable".into(), queue.enabled.into());
            object.insert("start".into(), (*start).into());
            if let Some(reason) = &queue.disable_reason {
                object.insert("disable_reason".into(), reason.clone().into());
            }
            if let Some(reason) = stop_reason {
                object.insert("stop_reason".into(), reason.clone().into());
            }
            Value::Object(object)
        })
        .collect();
    json!({"version": 1, "max_jobid": jobs.max_jobid().0, "queue": queues}).to_string()
}

async fn restore_checkpoint(state: &mut State) -> Result<(), RpcError> {
    let Some(bytes) = store::get(&state.handle, "checkpoint.job-manager").await? else {
        state.log(Severity::Info, "restart: checkpoint.job-manager not found");
        return Ok(());
    };
    let checkpoint: Value = serde_json::from_slice(&bytes).map_err(|error| {
        RpcError::new(Errno::EINVAL, format!("checkpoint.job-manager: {error}"))
    })?;
    if let Some(id) = checkpoint.get("max_jobid").and_then(Value::as_u64) {
        state.jobs.raise_max_jobid(JobId(id));
    }
    let queues = checkpoint.get("queue").and_then(Value::as_array);
    for queue in queues.into_iter().flatten() {
        let flag = |key: &str| queue.get(key).and_then(Value::as_bool).unwrap_or(true);
        let text = |key: &str| queue.get(key).and_then(Value::as_str);
        state.jobs.queues_mut().restore(
            text("name"),
            flag("enable"),
            text("disable_reason").map(str::to_owned),
            flag("start"),
            text("stop_reason").map(str::to_owned),
        );
    }
    if state.config.stop_queues {
        let reason = Some("Automatically stopped due to restart");
        let stopped = state
            .jobs
            .queues_mut()
            .start(None, false, reason, true, false);
        stopped.map_err(|refusal| RpcError::new(refusal.errno, refusal.text))?;
    }
    Ok(())
}

/// Reads inactive jobs for a follower of the journal.
pub(super) fn read_history(state: &State, number: u64, filter: journal::Filter) {
    let ids: Vec<JobId> = state.jobs.inactive().collect();
    let (handle, posts) = (state.handle.clone(), state.posts.clone());
    tokio::task::spawn_local(async move {
        for window in ids.chunks(WINDOW) {
            let readings: Vec<Reading> = window
                .iter()
                .map(|id| Reading::start(&handle, *id))
                .collect();
            let mut parts = Vec::new();
            for reading in readings {
                // A job purged meanwhile is no part of the history any more.
                if let Ok(stored) = reading.finish().await {
                    let (jobspec, resources) = (Some(&stored.jobspec), stored.resources.as_ref());
                    parts.push(journal::stored(
                        &filter,
                        stored.id,
                        &stored.log,
                        jobspec,
                        resources,
                    ));
                }
            }
            if posts.send(Posted::Backlog(number, Some(parts))).is_err() {
                return;
            }
        }
        let _ended = posts.send(Posted::Backlog(number, None));
    });
}

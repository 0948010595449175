//! Module `job-info`: reads and follows the data of jobs, for their owners (RFC 41).
//!
//! Every request is a task of its own that asks the KVS. A guest may see what belongs to the
//! user named in the first line of the job's eventlog.

mod access;
mod watch;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use module::{Builtin, Context, Failure, Input};
use proto::job_info::{
    JobInfoEventlogWatch, JobInfoEventlogWatchCancel, JobInfoLookup, JobInfoStats,
    JobInfoUpdateLookup, JobInfoUpdateWatch, JobInfoUpdateWatchCancel, Lookup, lookup_flags,
};
use proto::{Access, Empty};
use rpc::{Handle, Request, Routes, RpcError};
use serde_json::{Map, Value, json};
use spec::{Entry, eventlog};
use tokio::task::AbortHandle;
use types::{Cred, Errno, JobId, UserId};
use wire::Message;

use crate::store;
use access::Owners;

/// The module.
pub fn builtin() -> Builtin {
    Builtin {
        name: "job-info",
        main: |context| Box::pin(run(context)),
    }
}

/// A stream under way.
struct Watcher {
    message: Message,
    task: AbortHandle,
    guest: bool,
    update: bool,
}

/// What all requests share.
struct Shared {
    handle: Handle,
    owners: RefCell<Owners>,
    watchers: RefCell<HashMap<u64, Watcher>>,
    numbers: Cell<u64>,
    lookups: Cell<u64>,
}

type State = Rc<Shared>;

async fn run(mut context: Context) -> Result<(), Failure> {
    let mut state = Rc::new(Shared {
        handle: context.handle.clone(),
        owners: RefCell::default(),
        watchers: RefCell::default(),
        numbers: Cell::default(),
        lookups: Cell::default(),
    });
    let routes = routes();
    context.ready();
    while let Some(input) = context.next().await {
        if let Input::Request(message) = input {
            context.dispatch(&routes, &mut state, message);
        }
    }
    for (_, watcher) in state.watchers.take() {
        watcher.task.abort();
        state.handle.respond_end(&watcher.message);
    }
    Ok(())
}

fn routes() -> Routes<State> {
    Routes::new()
        .on::<JobInfoLookup>(|state: &mut State, request, wanted| {
            if wanted.flags & !(lookup_flags::JSON_DECODE | lookup_flags::CURRENT) != 0 {
                let text = "lookup request rejected with invalid flag";
                return request.fail(RpcError::new(Errno::EPROTO, text));
            }
            state.lookups.set(state.lookups.get() + 1);
            let state = state.clone();
            tokio::task::spawn_local(async move {
                let result = lookup(&state, request.cred(), &wanted).await;
                request.reply_result(&result);
            });
        })
        .on::<JobInfoUpdateLookup>(|state, request, wanted| {
            if wanted.key != "R" {
                let text = "update-lookup unsupported key specified";
                return request.fail(RpcError::new(Errno::EINVAL, text));
            }
            let wanted = Lookup {
                id: wanted.id,
                keys: vec![wanted.key],
                flags: lookup_flags::JSON_DECODE | lookup_flags::CURRENT,
            };
            let state = state.clone();
            tokio::task::spawn_local(async move {
                let found = lookup(&state, request.cred(), &wanted).await;
                request.reply_result(&found.map(|mut found| {
                    found.shift_remove("id");
                    found
                }));
            });
        })
        .on_raw::<JobInfoEventlogWatch>(|state, request| watch::eventlog(state, request))
        .on_raw::<JobInfoUpdateWatch>(|state, request| watch::updates(state, request))
        .on::<JobInfoEventlogWatchCancel>(|state, request, cancel| {
            state.cancel(request.message(), Some(cancel.matchtag));
        })
        .on::<JobInfoUpdateWatchCancel>(|state, request, cancel| {
            state.cancel(request.message(), Some(cancel.matchtag));
        })
        .on_message("disconnect", Access::Any, |state, _, notice| {
            state.cancel(&notice, None)
        })
        .on::<JobInfoStats>(|state, request, Empty {}| {
            let watchers = state.watchers.borrow();
            let stats = json!({
                "lookups": state.lookups.get(),
                "watchers": watchers.values().filter(|w| !w.update).count(),
                "guest_watchers": watchers.values().filter(|w| w.guest).count(),
                "update_lookups": 0,
                "update_watchers": watchers.values().filter(|w| w.update).count(),
            });
            if let Value::Object(stats) = stats {
                request.reply(&stats);
            }
        })
}

impl Shared {
    /// Runs a stream until it ends or is canceled.
    fn watch<F>(self: &Rc<Self>, message: &Message, guest: bool, update: bool, task: F)
    where
        F: Future<Output = RpcError> + 'static,
    {
        let number = self.numbers.get() + 1;
        self.numbers.set(number);
        let (shared, request) = (self.clone(), message.clone());
        let running = tokio::task::spawn_local(async move {
            let end = task.await;
            shared.watchers.borrow_mut().remove(&number);
            shared.handle.respond_error(&request, &end);
        });
        let watcher = Watcher {
            message: message.clone(),
            task: running.abort_handle(),
            guest,
            update,
        };
        self.watchers.borrow_mut().insert(number, watcher);
    }

    /// Ends the streams of a sender, or the one with a matchtag.
    fn cancel(&self, notice: &Message, matchtag: Option<u32>) {
        let ended: Vec<Watcher> = self
            .watchers
            .borrow_mut()
            .extract_if(|_, watcher| {
                let request =
                    Request::<JobInfoEventlogWatch>::new(&self.handle, watcher.message.clone());
                match matchtag {
                    Some(tag) => request.is_cancelled_by(notice, tag),
                    None => request.is_from_sender_of(notice),
                }
            })
            .map(|(_, watcher)| watcher)
            .collect();
        for watcher in ended {
            watcher.task.abort();
            if matchtag.is_some() {
                self.handle.respond_end(&watcher.message);
            }
        }
    }
}

fn key_of(id: JobId, name: &str) -> String {
    format!("{}.{name}", id.kvs_path())
}

/// The eventlog of a job. Errors: `ENOENT`, `EINVAL`.
async fn log_of(state: &Shared, id: JobId) -> Result<Vec<Entry>, RpcError> {
    let bytes = store::get(&state.handle, &key_of(id, "eventlog")).await?;
    let bytes = bytes.ok_or_else(|| RpcError::new(Errno::ENOENT, "invalid job id"))?;
    eventlog::decode(&bytes).map_err(|_| RpcError::new(Errno::EINVAL, "error parsing eventlog"))
}

/// Checks that somebody may see a job. Errors: `EPERM`, `ENOENT`.
async fn check_access(state: &Shared, who: Cred, id: JobId) -> Result<(), RpcError> {
    if who.is_owner() || who.may_act_for(owner_of(state, id).await?) {
        return Ok(());
    }
    let text = "access is restricted to job/instance owner";
    Err(RpcError::new(Errno::EPERM, text))
}

async fn owner_of(state: &Shared, id: JobId) -> Result<UserId, RpcError> {
    let known = state.owners.borrow_mut().get(id);
    if let Some(owner) = known {
        return Ok(owner);
    }
    let owner = access::owner(&log_of(state, id).await?)?;
    state.owners.borrow_mut().insert(id, owner);
    Ok(owner)
}

/// Applies what a job's log says changed to its R or jobspec.
fn apply_updates(key: &str, object: &mut Map<String, Value>, log: &[Entry]) {
    match key {
        "jobspec" => jobs::apply_updates(log, Some(object), None),
        "R" => jobs::apply_updates(log, None, Some(object)),
        _ => {}
    }
}

async fn lookup(
    state: &Shared,
    who: Cred,
    wanted: &Lookup,
) -> Result<Map<String, Value>, RpcError> {
    // A log that cannot be read is an error for the instance owner too.
    owner_of(state, wanted.id).await?;
    check_access(state, who, wanted.id).await?;
    let current = wanted.flags & lookup_flags::CURRENT != 0;
    let updatable = |key: &str| matches!(key, "R" | "jobspec");
    let log = match current && wanted.keys.iter().any(|key| updatable(key)) {
        true => log_of(state, wanted.id).await?,
        false => Vec::new(),
    };
    let mut found = Map::new();
    found.insert("id".into(), wanted.id.0.into());
    for key in &wanted.keys {
        let missing = || RpcError::new(Errno::ENOENT, format!("{key}: key not found"));
        let bytes = store::get(&state.handle, &key_of(wanted.id, key)).await?;
        let text = String::from_utf8(bytes.ok_or_else(missing)?)
            .map_err(|_| RpcError::new(Errno::EPROTO, format!("{key}: not text")))?;
        let decode = wanted.flags & lookup_flags::JSON_DECODE != 0 && updatable(key);
        let changed = current && updatable(key);
        if !decode && !changed {
            found.insert(key.clone(), text.into());
            continue;
        }
        let mut object: Map<String, Value> = serde_json::from_str(&text)
            .map_err(|error| RpcError::new(Errno::EPROTO, format!("{key}: {error}")))?;
        apply_updates(key, &mut object, &log);
        let value = Value::Object(object);
        let value = if decode {
            value
        } else {
            value.to_string().into()
        };
        found.insert(key.clone(), value);
    }
    Ok(found)
}

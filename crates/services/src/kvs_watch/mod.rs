//! Module `kvs-watch`: keys as they change, keys that do not exist yet, and values piece by piece.
//!
//! Every namespace with watchers has one subscription to its events and one known root. Each
//! watcher is a task of its own that takes the triggering roots in order, looks its key up under
//! each with the requester's credentials, and answers; so answers come in commit order. An event
//! costs a look into an index by key, not a walk over all watchers.
//!
//! The first look-up of a watcher is by namespace, so it is at least as new as its rank; triggers
//! that are no newer than its answer are dropped.

mod watcher;

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use module::{Builtin, Context, Failure, Host, Input};
use proto::kvs::{
    self, EVENTS, KvsGetroot, KvsWatchCancel, KvsWatchLookup, KvsWatchStats, Lookup,
    NamespaceCreated, Root, Setroot, flags,
};
use proto::{Access, Payload};
use rpc::{Dest, Handle, Request, Routes, RpcError};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use types::Errno;
use wire::{Message, RouteId};

use watcher::{Mode, Trigger};

/// The module.
pub fn builtin() -> Builtin {
    Builtin {
        name: "kvs-watch",
        main: |context| Box::pin(run(context)),
    }
}

/// What a task of the module's own came to.
enum Done {
    /// A namespace's root, as the local `kvs` has it.
    Root(String, Result<Root, RpcError>),
    /// A watcher ended.
    Ended(u64),
}

/// A watcher as the module sees it.
struct Entry {
    request: Rc<Request<KvsWatchLookup>>,
    namespace: String,
    key: String,
    mode: Mode,
    triggers: mpsc::UnboundedSender<Trigger>,
}

/// A namespace with watchers.
#[derive(Default)]
struct Space {
    root: Option<Root>,
    /// Whether the root has been asked for.
    asked: bool,
    /// Watchers by key.
    by_key: HashMap<String, Vec<u64>>,
    /// Watchers of every commit.
    full: Vec<u64>,
    count: usize,
}

struct State {
    handle: Handle,
    host: Rc<dyn Host>,
    id: RouteId,
    spaces: BTreeMap<String, Space>,
    watchers: HashMap<u64, Entry>,
    last_id: u64,
    done: mpsc::UnboundedSender<Done>,
}

/// Refuses requests that make no sense.
fn check(flags: i32, streaming: bool) -> Result<(), RpcError> {
    let has = |bits: i32| flags & bits != 0;
    let refuse = |errno, text: &str| Err(RpcError::new(errno, text));
    if has(flags::WATCH) && !streaming {
        let text = "KVS watch request rejected without streaming RPC flag";
        return refuse(Errno::EPROTO, text);
    }
    if has(flags::STREAM) && !streaming {
        let text = "KVS stream request rejected without streaming RPC flag";
        return refuse(Errno::EPROTO, text);
    }
    if has(flags::WATCH) && has(flags::STREAM) {
        let text = "Cannot KVS watch and stream at the same time";
        return refuse(Errno::EINVAL, text);
    }
    let refining =
        flags::WATCH_FULL | flags::WATCH_UNIQ | flags::WATCH_APPEND | flags::WATCH_INITIAL_SENTINEL;
    if has(refining) && !has(flags::WATCH) {
        let text = "Must set KVS watch flag with other watch flags";
        return refuse(Errno::EINVAL, text);
    }
    if has(flags::WATCH_INITIAL_SENTINEL) && !has(flags::WATCH_APPEND) {
        let text = "Must set KVS watch append flag with initial sentinel flag";
        return refuse(Errno::EINVAL, text);
    }
    if has(flags::WATCH_BLOBS) && !has(flags::WATCH_APPEND | flags::STREAM) {
        let text = "Must set KVS watch append or stream flag with blobs flag";
        return refuse(Errno::EINVAL, text);
    }
    Ok(())
}

fn routes() -> Routes<State> {
    Routes::new()
        .on::<KvsWatchLookup>(State::lookup)
        .on::<KvsWatchCancel>(|state: &mut State, cancel, payload| {
            let ids: Vec<u64> = state
                .watchers
                .iter()
                .filter(|(_, entry)| {
                    entry
                        .request
                        .is_cancelled_by(cancel.message(), payload.matchtag)
                })
                .map(|(id, _)| *id)
                .collect();
            for id in ids {
                if let Some(entry) = state.remove(id) {
                    entry.request.end();
                }
            }
        })
        .on_message("disconnect", Access::Any, |state, _, message| {
            let ids: Vec<u64> = state
                .watchers
                .iter()
                .filter(|(_, entry)| entry.request.is_from_sender_of(&message))
                .map(|(id, _)| *id)
                .collect();
            for id in ids {
                state.remove(id);
            }
        })
        .on_raw::<KvsWatchStats>(|state, request| request.reply(&state.stats()))
}

async fn run(mut context: Context) -> Result<(), Failure> {
    let (done, mut done_rx) = mpsc::unbounded_channel();
    let mut state = State {
        handle: context.handle.clone(),
        host: context.host(),
        id: context.id().clone(),
        spaces: BTreeMap::new(),
        watchers: HashMap::new(),
        last_id: 0,
        done,
    };
    let routes = routes();
    context.ready();
    loop {
        tokio::select! {
            biased;
            input = context.next() => match input {
                Some(Input::Request(message)) => context.dispatch(&routes, &mut state, message),
                Some(Input::Event(message)) => state.on_event(&message),
                None => break,
            },
            Some(done) = done_rx.recv() => match done {
                Done::Root(name, result) => state.on_root(&name, result),
                Done::Ended(id) => {
                    state.remove(id);
                }
            }
        }
    }
    let ids: Vec<u64> = state.watchers.keys().copied().collect();
    for id in ids {
        if let Some(entry) = state.remove(id) {
            entry.request.fail(Errno::ENOSYS);
        }
    }
    Ok(())
}

fn prefix(namespace: &str) -> String {
    format!("{EVENTS}-{namespace}")
}

impl State {
    fn lookup(&mut self, request: Request<KvsWatchLookup>, lookup: Lookup) {
        if let Err(error) = check(lookup.flags, request.is_streaming()) {
            return request.fail(error);
        }
        let Some(namespace) = lookup.namespace else {
            return request.fail(Errno::EPROTO);
        };
        let mode = Mode::new(lookup.flags);
        self.last_id += 1;
        let id = self.last_id;
        let key = ::kvs::normalize(&lookup.key).into_owned();
        let request = Rc::new(request);
        let (triggers, triggers_rx) = mpsc::unbounded_channel();
        let entry = Entry {
            request: request.clone(),
            namespace: namespace.clone(),
            key: key.clone(),
            mode,
            triggers,
        };
        self.enter(id, &entry);
        self.watchers.insert(id, entry);
        let watcher = watcher::Watcher::new(
            self.handle.clone(),
            request,
            namespace,
            key,
            mode,
            triggers_rx,
        );
        let done = self.done.clone();
        tokio::task::spawn_local(async move {
            watcher.run().await;
            let _ended = done.send(Done::Ended(id));
        });
    }

    /// Enters a watcher in the indexes of its namespace. The events are subscribed to before the
    /// watcher looks anything up, so that it misses none.
    fn enter(&mut self, id: u64, entry: &Entry) {
        let name = &entry.namespace;
        if !self.spaces.contains_key(name) {
            self.host.subscribe(&self.id, &prefix(name));
            self.spaces.insert(name.clone(), Space::default());
        }
        let Some(space) = self.spaces.get_mut(name) else {
            return;
        };
        space.count += 1;
        if entry.mode.every_commit() {
            space.full.push(id);
        } else {
            space.by_key.entry(entry.key.clone()).or_default().push(id);
        }
        if !space.asked {
            space.asked = true;
            let request = kvs::Namespace {
                namespace: name.clone(),
            };
            let here = Dest::Rank(self.handle.rank());
            let call = self.handle.call::<KvsGetroot>(here, &request);
            let (done, name) = (self.done.clone(), name.clone());
            tokio::task::spawn_local(async move {
                let _ended = done.send(Done::Root(name, call.await));
            });
        }
    }

    /// Removes a watcher, and its namespace with the last one. Its task ends with its triggers.
    fn remove(&mut self, id: u64) -> Option<Entry> {
        let entry = self.watchers.remove(&id)?;
        let space = self.spaces.get_mut(&entry.namespace)?;
        space.count -= 1;
        if entry.mode.every_commit() {
            space.full.retain(|other| *other != id);
        } else if let Some(ids) = space.by_key.get_mut(&entry.key) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                space.by_key.remove(&entry.key);
            }
        }
        if space.count == 0 {
            self.spaces.remove(&entry.namespace);
            self.host.unsubscribe(&self.id, &prefix(&entry.namespace));
        }
        Some(entry)
    }

    fn on_root(&mut self, name: &str, result: Result<Root, RpcError>) {
        // A namespace that is missing or forbidden fails its watchers' own look-ups.
        if let (Some(space), Ok(root)) = (self.spaces.get_mut(name), result)
            && space
                .root
                .as_ref()
                .is_none_or(|old| old.rootseq < root.rootseq)
        {
            space.root = Some(root);
        }
    }

    fn on_event(&mut self, message: &Message) {
        let topic = message.topic_str();
        let payload = message.payload.as_ref();
        if topic.ends_with("-setroot") {
            if let Ok(setroot) = Setroot::decode(payload) {
                self.on_setroot(setroot);
            }
        } else if topic.ends_with("-created") {
            if let Ok(created) = NamespaceCreated::decode(payload) {
                self.on_created(created);
            }
        } else if topic.ends_with("-removed")
            && let Ok(which) = kvs::Namespace::decode(payload)
        {
            if let Some(space) = self.spaces.get_mut(&which.namespace) {
                space.root = None;
            }
            self.trigger_all(&which.namespace, &Trigger::Removed);
        }
    }

    fn on_setroot(&mut self, setroot: Setroot) {
        let Some(space) = self.spaces.get_mut(&setroot.namespace) else {
            return;
        };
        let newer = space
            .root
            .as_ref()
            .is_none_or(|root| root.rootseq < setroot.rootseq);
        let trigger = Trigger::Root {
            root: setroot.rootref.as_str().into(),
            seq: setroot.rootseq,
        };
        let mut ids = space.full.clone();
        for key in setroot.keys.keys() {
            ids.extend(space.by_key.get(key).into_iter().flatten());
        }
        if newer {
            space.root = Some(Root {
                owner: setroot.owner,
                rootseq: setroot.rootseq,
                rootref: setroot.rootref,
                flags: 0,
                namespace: setroot.namespace,
            });
        }
        for id in ids {
            self.trigger(id, &trigger);
        }
    }

    fn on_created(&mut self, created: NamespaceCreated) {
        let Some(space) = self.spaces.get_mut(&created.namespace) else {
            return;
        };
        let trigger = Trigger::Created {
            root: created.rootref.as_str().into(),
            seq: created.rootseq,
        };
        let name = created.namespace.clone();
        space.root = Some(Root {
            owner: created.owner,
            rootseq: created.rootseq,
            rootref: created.rootref,
            flags: 0,
            namespace: created.namespace,
        });
        self.trigger_all(&name, &trigger);
    }

    fn trigger_all(&self, namespace: &str, trigger: &Trigger) {
        let Some(space) = self.spaces.get(namespace) else {
            return;
        };
        for id in space.full.iter().chain(space.by_key.values().flatten()) {
            self.trigger(*id, trigger);
        }
    }

    fn trigger(&self, id: u64, trigger: &Trigger) {
        if let Some(entry) = self.watchers.get(&id) {
            // A watcher that just ended wants no more.
            let _ended = entry.triggers.send(trigger.clone());
        }
    }

    fn stats(&self) -> Map<String, Value> {
        let mut namespaces = Map::new();
        for (name, space) in &self.spaces {
            let root = space.root.as_ref();
            namespaces.insert(
                name.clone(),
                json!({
                    "owner": root.map_or(-1, |root| root.owner),
                    "rootseq": root.map_or(-1, |root| root.rootseq),
                    "rootref": root.map_or("(null)", |root| &root.rootref),
                    "watchers": space.count,
                }),
            );
        }
        let mut stats = Map::new();
        stats.insert("watchers".into(), self.watchers.len().into());
        stats.insert("namespace-count".into(), self.spaces.len().into());
        stats.insert("namespaces".into(), namespaces.into());
        stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senseless_requests_are_refused() {
        use flags::{STREAM, WAITCREATE, WATCH, WATCH_APPEND, WATCH_INITIAL_SENTINEL, WATCH_UNIQ};
        let errno = |flags, streaming| check(flags, streaming).map_err(|error| error.errno);
        assert_eq!(errno(WATCH, true), Ok(()));
        assert_eq!(errno(WAITCREATE, false), Ok(()));
        assert_eq!(errno(WATCH, false), Err(Errno::EPROTO));
        assert_eq!(errno(STREAM, false), Err(Errno::EPROTO));
        assert_eq!(errno(WATCH | STREAM, true), Err(Errno::EINVAL));
        assert_eq!(errno(WATCH_UNIQ, true), Err(Errno::EINVAL));
        assert_eq!(
            errno(WATCH | WATCH_INITIAL_SENTINEL, true),
            Err(Errno::EINVAL)
        );
        let follow = WATCH | WATCH_APPEND | WATCH_INITIAL_SENTINEL | WAITCREATE;
        assert_eq!(errno(follow, true), Ok(()));
    }
}

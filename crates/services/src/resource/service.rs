//! What the module answers on the leader.

mod acquire;

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use module::Host;
use proto::config::ModuleConfigReload;
use proto::job_manager::JobManagerResourceStatus;
use proto::resource::{
    Drain, ExpirationUpdate, Inventory, JournalEvents, Reload, ResourceAcquire,
    ResourceAcquireCancel, ResourceAcquireMute, ResourceDrain, ResourceExpirationUpdate,
    ResourceGet, ResourceJournal, ResourceJournalCancel, ResourceMonitorForceDown,
    ResourceMonitorWaitup, ResourceReload, ResourceSchedStatus, ResourceStatus, ResourceTopoGet,
    ResourceTopoReduce, ResourceUndrain, SchedStatus, Status, TopoReduce, WaitUp,
};
use proto::{Access, Empty, Raw};
use rpc::{Dest, Handle, Request, Routes, RpcError};
use serde_json::{Map, Value};
use spec::{Entry, ResourceSet};
use tokio::sync::mpsc;
use types::{Errno, Hostlist, IdSet};
use wire::Message;

use self::acquire::Acquire;
use super::config::{Config, Verification};
use super::state::{Mode, Ranks, RanksError, Reduction};
use super::{KEY_EVENTLOG, KEY_RESOURCES, log_event};
use crate::store;

/// What comes back from tasks and streams of the leader's own.
pub(super) enum Posted {
    /// These ranks are online now.
    Online(IdSet),
    /// These ranks are silent now.
    Torpid(IdSet),
    /// The enclosing instance has moved the end of this one.
    Expiration(f64),
    /// A commit ended.
    Committed(Result<(), RpcError>),
}

/// What follows a commit.
enum Then {
    Nothing,
    /// Answer this drain request.
    Drain(Request<ResourceDrain>),
    /// Answer this undrain request.
    Undrain(Request<ResourceUndrain>),
    /// The resources are defined.
    Define(Box<ResourceSet>, &'static str),
}

/// An event on its way: it takes effect when its turn has come and it is stored.
struct Event {
    entry: Entry,
    /// What to store, if anything.
    ops: Vec<proto::kvs::Op>,
    then: Then,
}

/// The module on the leader.
pub(super) struct Leader {
    handle: Handle,
    host: Rc<dyn Host>,
    posts: mpsc::UnboundedSender<Posted>,
    hosts: Hostlist,
    config: Config,
    verification: Verification,
    xml: String,
    ranks: Ranks,
    inventory: Option<(ResourceSet, &'static str)>,
    /// Resources whose definition is being stored.
    coming: Option<Inventory>,
    reduction: Reduction,
    /// The end of what an enclosing instance has given, 0 for none, if there is one.
    expiration: Option<f64>,
    own: ResourceSet,
    events: VecDeque<Event>,
    committing: bool,
    journal: VecDeque<Entry>,
    followers: Vec<Request<ResourceJournal>>,
    acquire: Option<Acquire>,
    waitup: Vec<(usize, Request<ResourceMonitorWaitup>)>,
}

fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}

pub(super) fn object(set: &ResourceSet) -> Map<String, Value> {
    match set.to_value() {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

impl Leader {
    #[expect(clippy::too_many_arguments, reason = "called once, by name")]
    pub(super) fn new(
        handle: Handle,
        host: Rc<dyn Host>,
        posts: mpsc::UnboundedSender<Posted>,
        size: u32,
        hosts: Hostlist,
        config: Config,
        verification: Verification,
        own: ResourceSet,
        xml: String,
    ) -> Result<Leader, String> {
        let mut ranks = Ranks {
            size,
            ..Ranks::default()
        };
        if let Some(text) = &config.exclude {
            let known = config.resources.as_ref().map(ResourceSet::nodelist);
            let known = known.filter(|list| !list.is_empty());
            ranks.exclude = match ranks.targets(text, known.as_ref()) {
                Ok(ranks) => ranks,
                Err(RanksError::Empty) => IdSet::new(),
                Err(RanksError::OutOfRange) => {
                    return Err(format!("exclude set {text} is out of range"));
                }
                Err(error) => return Err(format!("error decoding exclude set {text}: {error}")),
            };
        }
        Ok(Leader {
            handle,
            host,
            posts,
            hosts,
            config,
            verification,
            xml,
            ranks,
            inventory: None,
            coming: None,
            reduction: Reduction::default(),
            expiration: None,
            own,
            events: VecDeque::new(),
            committing: false,
            journal: VecDeque::new(),
            followers: Vec::new(),
            acquire: None,
            waitup: Vec::new(),
        })
    }

    /// Takes over what an earlier run stored.
    pub(super) fn replay(&mut self, entries: &[Entry]) {
        for entry in entries {
            self.ranks.apply(entry);
            self.remember(entry.clone());
        }
    }

    /// Defines the resources if they are known already, else waits for what ranks find.
    ///
    /// Wherever R comes from, an enclosing instance knows when it ends: `expiration`.
    pub(super) fn start(
        &mut self,
        stored: Option<ResourceSet>,
        given: Option<ResourceSet>,
        expiration: Option<f64>,
    ) {
        self.expiration = expiration;
        let mut context = Map::new();
        context.insert(
            "ranks".into(),
            IdSet::first_n(self.ranks.size).to_string().into(),
        );
        context.insert("online".into(), "".into());
        context.insert("nodelist".into(), self.hosts.to_string().into());
        self.post(
            Entry::with_context(now(), "restart", context),
            Vec::new(),
            Then::Nothing,
        );
        let undrain = self
            .ranks
            .drained
            .keys()
            .copied()
            .filter(|r| self.ranks.exclude.contains(*r));
        let undrain: IdSet = undrain.collect();
        if !undrain.is_empty() {
            let mut context = Map::new();
            context.insert("idset".into(), undrain.to_string().into());
            context.insert(
                "nodelist".into(),
                self.hosts.select(&undrain).to_string().into(),
            );
            self.post_stored(
                Entry::with_context(now(), "undrain", context),
                Then::Nothing,
            );
        }
        if let Some(set) = self.config.resources.clone() {
            self.define(set, "configuration");
        } else if let Some(set) = stored {
            self.define(set, "kvs");
        } else if let Some(set) = given {
            self.define(set, "job-info");
        } else {
            let own = self.own.clone();
            self.on_reduced(&own);
        }
    }

    /// Answers what can no longer be served.
    pub(super) fn finish(&mut self) {
        if let Some(acquire) = self.acquire.take() {
            let text = "the resource module was unloaded";
            acquire.request.fail(RpcError::new(Errno::ECANCELED, text));
        }
        for follower in self.followers.drain(..) {
            follower.end();
        }
    }

    // -- where resources come from

    fn on_reduced(&mut self, found: &ResourceSet) {
        self.reduction.add(found);
        if self.inventory.is_none() && self.reduction.ranks.len() as u32 == self.ranks.size {
            let set = std::mem::take(&mut self.reduction).resources;
            self.define(set, "dynamic-discovery");
        }
    }

    fn define(&mut self, mut set: ResourceSet, method: &'static str) {
        if let Some(expiration) = self.expiration.filter(|_| method != "reload") {
            set.expiration = expiration;
        }
        let mut context = Map::new();
        context.insert("method".into(), method.into());
        let entry = Entry::with_context(now(), "resource-define", context);
        let ops = vec![
            store::put(KEY_RESOURCES, set.encode().as_bytes()),
            store::append(KEY_EVENTLOG, entry.encode().as_bytes()),
        ];
        self.coming = Some(Inventory {
            resources: object(&set),
            method: method.to_owned(),
        });
        self.post(entry, ops, Then::Define(Box::new(set), method));
    }

    fn verify_own(&mut self) {
        let Some((set, method)) = &self.inventory else {
            return;
        };
        // What is loaded while running is somebody's word; the next start compares.
        if *method == "reload" {
            return;
        }
        let Some(config) = self.verification.of(method) else {
            return;
        };
        if let Err(error) = set.verify(&self.own, &config) {
            let reason = error.to_string();
            self.host.log(
                module::Severity::Err,
                "resource",
                &format!("draining: {reason}"),
            );
            let ranks = IdSet::from_range(0, 0);
            let drained = self
                .ranks
                .drain(now(), &ranks, Some(&reason), Mode::Update, &self.hosts);
            if let Ok(entry) = drained {
                self.post_stored(entry, Then::Nothing);
            }
        }
    }

    // -- events

    fn post_stored(&mut self, entry: Entry, then: Then) {
        let ops = vec![store::append(KEY_EVENTLOG, entry.encode().as_bytes())];
        self.post(entry, ops, then);
    }

    fn post(&mut self, entry: Entry, ops: Vec<proto::kvs::Op>, then: Then) {
        self.events.push_back(Event { entry, ops, then });
        self.advance();
    }

    /// Lets events take effect in order, up to the first that has to be stored.
    fn advance(&mut self) {
        while !self.committing
            && let Some(event) = self.events.front_mut()
        {
            let ops = std::mem::take(&mut event.ops);
            if !ops.is_empty() {
                self.committing = true;
                let (handle, posts) = (self.handle.clone(), self.posts.clone());
                tokio::task::spawn_local(async move {
                    let result = store::commit(&handle, ops, 0).await;
                    // The module may have ended meanwhile.
                    let _ended = posts.send(Posted::Committed(result));
                });
                return;
            }
            self.take_effect(Ok(()));
        }
    }

    fn take_effect(&mut self, result: Result<(), RpcError>) {
        let Some(event) = self.events.pop_front() else {
            return;
        };
        if let Err(error) = result {
            let text = format!("{}: commit: {error}", event.entry.name);
            self.host.log(module::Severity::Err, "resource", &text);
            match event.then {
                Then::Drain(request) => request.fail(error),
                Then::Undrain(request) => request.fail(error),
                Then::Define(..) | Then::Nothing => {}
            }
            return;
        }
        let entry = event.entry;
        self.ranks.apply(&entry);
        match event.then {
            Then::Drain(request) => request.reply(&Empty {}),
            Then::Undrain(request) => request.reply(&Empty {}),
            Then::Define(set, method) => {
                self.inventory = Some((*set, method));
                self.coming = None;
                self.verify_own();
            }
            Then::Nothing => {}
        }
        log_event(&*self.host, &entry);
        self.tell_scheduler();
        let resources = (entry.name == "resource-define")
            .then(|| self.inventory.as_ref().map(|(set, _)| object(set)))
            .flatten();
        let update = JournalEvents {
            events: vec![entry.to_value()],
            resources,
        };
        for follower in &self.followers {
            follower.reply(&update);
        }
        self.remember(entry);
    }

    fn remember(&mut self, entry: Entry) {
        self.journal.push_back(entry);
        while self.journal.len() > self.config.journal_max {
            let dropped = self
                .journal
                .pop_front()
                .map_or(0.0, |entry| entry.timestamp);
            if self
                .journal
                .front()
                .is_some_and(|first| first.name == "truncate")
            {
                self.journal.pop_front();
            }
            self.journal.push_front(Entry::new(dropped, "truncate"));
            if self.config.journal_max < 2 {
                break;
            }
        }
    }

    pub(super) fn on_posted(&mut self, posted: Posted) {
        match posted {
            Posted::Online(ranks) => self.on_online(ranks),
            Posted::Torpid(ranks) => {
                let old = self.ranks.torpid.clone();
                self.on_membership(&old, &ranks, "torpid", "lively");
            }
            Posted::Expiration(expiration) => self.on_expiration(expiration),
            Posted::Committed(result) => {
                self.committing = false;
                self.take_effect(result);
                self.advance();
            }
        }
    }

    /// The ranks that are online have changed.
    pub(super) fn on_online(&mut self, ranks: IdSet) {
        let old = self.ranks.online.clone();
        self.on_membership(&old, &ranks, "online", "offline");
        let count = ranks.len();
        let (ready, waiting) = self.waitup.drain(..).partition(|(up, _)| *up == count);
        self.waitup = waiting;
        for (_, request) in ready {
            request.reply(&Empty {});
        }
    }

    fn on_membership(&mut self, old: &IdSet, new: &IdSet, joined: &str, left: &str) {
        for (name, ranks) in [(joined, new.difference(old)), (left, old.difference(new))] {
            if !ranks.is_empty() {
                let context = Map::from_iter([("idset".to_owned(), ranks.to_string().into())]);
                let entry = Entry::with_context(now(), name, context);
                self.post(entry, Vec::new(), Then::Nothing);
            }
        }
    }

    // -- requests

    fn on_drain(&mut self, request: Request<ResourceDrain>, drain: &Drain) {
        let Some(mode) = Mode::parse(drain.mode.as_deref()) else {
            return request.fail(RpcError::new(Errno::EINVAL, "Invalid mode specified"));
        };
        let result = self
            .ranks
            .targets(&drain.targets, Some(&self.hosts))
            .and_then(|ranks| {
                self.ranks
                    .drain(now(), &ranks, drain.reason.as_deref(), mode, &self.hosts)
            });
        match result {
            Ok(entry) => self.post_stored(entry, Then::Drain(request)),
            Err(error) => request.fail(RpcError::new(error.errno(), error.to_string())),
        }
    }

    fn on_undrain(&mut self, request: Request<ResourceUndrain>, undrain: &Drain) {
        let Some(mode) = Mode::parse(undrain.mode.as_deref()) else {
            let mode = undrain.mode.as_deref().unwrap_or_default();
            let text = format!("invalid undrain mode '{mode}' specified");
            return request.fail(RpcError::new(Errno::EINVAL, text));
        };
        let result = self
            .ranks
            .targets(&undrain.targets, Some(&self.hosts))
            .and_then(|ranks| {
                self.ranks
                    .undrain(now(), &ranks, undrain.reason.as_deref(), mode, &self.hosts)
            });
        match result {
            Ok(Some(entry)) => self.post_stored(entry, Then::Undrain(request)),
            Ok(None) => request.reply(&Empty {}),
            Err(error) => request.fail(RpcError::new(error.errno(), error.to_string())),
        }
    }

    fn on_status(&self, request: &Request<ResourceStatus>) {
        let mut set = self
            .inventory
            .as_ref()
            .map(|(set, _)| set.clone())
            .unwrap_or_default();
        set.scheduling = None;
        let all = IdSet::first_n(self.ranks.size);
        request.reply(&Status {
            resources: object(&set),
            drain: self.ranks.drain_groups(),
            offline: all.difference(&self.ranks.online),
            online: self.ranks.online.clone(),
            exclude: self.ranks.exclude.clone(),
            torpid: self.ranks.torpid.clone(),
        });
    }

    fn on_sched_status(&self, request: Request<ResourceSchedStatus>) {
        let mut all = self.acquirable().unwrap_or_default();
        all.scheduling = None;
        if self.shrinks() {
            all.remove_ranks(&self.ranks.lost);
        }
        let down = all.copy_ranks(&all.ranks().difference(&self.ranks.up()));
        let handle = self.handle.clone();
        tokio::task::spawn_local(async move {
            let status = handle
                .call::<JobManagerResourceStatus>(Dest::Any, &Empty {})
                .await;
            let allocated = match status {
                Ok(status) => serde_json::to_value(status.allocated)
                    .ok()
                    .filter(|value| !value.is_null())
                    .map(|value| ResourceSet::from_value(&value))
                    .transpose()
                    .map_err(|error| RpcError::new(Errno::EPROTO, error.to_string())),
                Err(error) if error.errno == Errno::ENOSYS => Ok(None),
                Err(error) => Err(RpcError::new(
                    error.errno,
                    format!("job-manager.resource-status request failed: {error}"),
                )),
            };
            let result = allocated.map(|allocated| {
                let mut allocated = allocated.unwrap_or_default();
                allocated.copy_properties_from(&all);
                SchedStatus {
                    down: down.to_value(),
                    allocated: allocated.to_value(),
                    all: all.to_value(),
                }
            });
            request.reply_result(&result);
        });
    }

    fn on_journal(&mut self, request: Request<ResourceJournal>) {
        if !request.is_streaming() {
            let text = "journal requires streaming RPC flag";
            return request.fail(RpcError::new(Errno::EPROTO, text));
        }
        let mut batch = Vec::new();
        for entry in &self.journal {
            let defines = entry.name == "resource-define";
            if (defines || batch.len() == 100) && !batch.is_empty() {
                let events = std::mem::take(&mut batch);
                request.reply(&JournalEvents {
                    events,
                    resources: None,
                });
            }
            if defines {
                let resources = self.inventory.as_ref().map(|(set, _)| object(set));
                request.reply(&JournalEvents {
                    events: vec![entry.to_value()],
                    resources,
                });
            } else {
                batch.push(entry.to_value());
            }
        }
        if !batch.is_empty() {
            request.reply(&JournalEvents {
                events: batch,
                resources: None,
            });
        }
        request.reply(&JournalEvents {
            events: Vec::new(),
            resources: None,
        });
        self.followers.push(request);
    }

    fn on_cancel(&mut self, notice: &Message, matchtag: Option<u32>) {
        let gone = |request: &Request<ResourceJournal>| match matchtag {
            Some(tag) => request.is_cancelled_by(notice, tag),
            None => request.is_from_sender_of(notice),
        };
        let (gone, stay) = self.followers.drain(..).partition(gone);
        self.followers = stay;
        if matchtag.is_some() {
            gone.iter().for_each(Request::end);
        }
    }

    fn on_reload(&mut self, request: Request<ResourceReload>, reload: &Reload) {
        if self.acquire.is_some() {
            let text = "resources are busy (unload scheduler?)";
            return request.fail(RpcError::new(Errno::EBUSY, text));
        }
        let read = match reload.xml {
            true => super::hwloc::read_directory(&reload.path),
            false => super::config::read_r(&reload.path),
        };
        match read {
            Err(text) => request.fail(RpcError::new(Errno::EINVAL, text)),
            Ok(set)
                if set.ranks().last().is_some_and(|r| r >= self.ranks.size) && !reload.force =>
            {
                let size = self.ranks.size;
                let text = format!(
                    "resource object contains ranks execeeding size={size} (override with -f))"
                );
                request.fail(RpcError::new(Errno::EINVAL, text));
            }
            Ok(set) => {
                self.define(set, "reload");
                request.reply(&Empty {});
            }
        }
    }

    fn on_expiration(&mut self, expiration: f64) {
        self.expiration = Some(expiration);
        if let Some((set, _)) = &mut self.inventory {
            set.expiration = expiration;
            let context = Map::from_iter([("expiration".to_owned(), expiration.into())]);
            let entry = Entry::with_context(now(), "resource-update", context);
            let ops = vec![
                store::put(KEY_RESOURCES, set.encode().as_bytes()),
                store::append(KEY_EVENTLOG, entry.encode().as_bytes()),
            ];
            self.post(entry, ops, Then::Nothing);
        }
        self.tell_expiration(expiration);
    }
}

pub(super) fn decode_object(map: Map<String, Value>) -> Result<ResourceSet, RpcError> {
    ResourceSet::from_value(&Value::Object(map))
        .map_err(|error| RpcError::new(Errno::EPROTO, error.to_string()))
}

pub(super) fn leader_routes() -> Routes<Leader> {
    Routes::new()
        .on::<ResourceAcquire>(|leader: &mut Leader, request, Empty {}| leader.on_acquire(request))
        .on::<ResourceAcquireCancel>(|leader, request, cancel| {
            leader.on_acquire_gone(request.message(), Some(cancel.matchtag));
        })
        .on::<ResourceAcquireMute>(|leader, request, Empty {}| {
            if let Some(acquire) = &mut leader.acquire {
                acquire.muted = true;
            }
            request.reply(&Empty {});
        })
        .on::<ResourceDrain>(|leader, request, drain| leader.on_drain(request, &drain))
        .on::<ResourceUndrain>(|leader, request, undrain| leader.on_undrain(request, &undrain))
        .on::<ResourceGet>(
            |leader, request, Empty {}| match (&leader.inventory, &leader.coming) {
                (Some((set, method)), _) => request.reply(&Inventory {
                    resources: object(set),
                    method: (*method).to_owned(),
                }),
                (None, Some(coming)) => request.reply(coming),
                (None, None) => request.fail(Errno::ENOENT),
            },
        )
        .on::<ResourceReload>(|leader, request, reload| leader.on_reload(request, &reload))
        .on::<ModuleConfigReload>(|leader, request, config| {
            if let Some(config) = reconfigure(&request, &config) {
                leader.config.journal_max = config.journal_max;
                request.reply(&Empty {});
            }
        })
        .on::<ResourceExpirationUpdate>(|leader, request, update: ExpirationUpdate| {
            leader.on_expiration(update.expiration);
            request.reply(&Empty {});
        })
        .on::<ResourceStatus>(|leader, request, Empty {}| leader.on_status(&request))
        .on::<ResourceSchedStatus>(|leader, request, Empty {}| leader.on_sched_status(request))
        .on::<ResourceJournal>(|leader, request, Empty {}| leader.on_journal(request))
        .on::<ResourceJournalCancel>(|leader, request, cancel| {
            leader.on_cancel(request.message(), Some(cancel.matchtag));
        })
        .on::<ResourceMonitorWaitup>(|leader, request, wait: WaitUp| {
            match u32::try_from(wait.up)
                .ok()
                .filter(|up| *up <= leader.ranks.size)
            {
                None => request.fail(RpcError::new(Errno::EPROTO, "up value is out of range")),
                Some(up) if leader.ranks.online.len() == up as usize => request.reply(&Empty {}),
                Some(up) => leader.waitup.push((up as usize, request)),
            }
        })
        .on::<ResourceMonitorForceDown>(|leader, request, ranks| {
            match ranks.ranks.parse::<IdSet>() {
                Ok(down) => {
                    let online = leader.ranks.online.difference(&down);
                    leader.on_online(online);
                    request.reply(&Empty {});
                }
                Err(error) => request.fail(RpcError::new(Errno::EPROTO, error.to_string())),
            }
        })
        .on::<ResourceTopoReduce>(|leader, _, reduce: TopoReduce| {
            if let Ok(found) = decode_object(reduce.resource) {
                leader.on_reduced(&found);
            }
        })
        .on::<ResourceTopoGet>(|leader, request, Empty {}| request.reply(&text(&leader.xml)))
        .on_message("disconnect", Access::Any, |leader, _, notice| {
            leader.on_cancel(&notice, None);
            leader.on_acquire_gone(&notice, None);
            leader
                .waitup
                .retain(|(_, request)| !request.is_from_sender_of(&notice));
        })
}

/// Checks a new configuration. One that is wrong is refused here.
pub(super) fn reconfigure(
    request: &Request<ModuleConfigReload>,
    config: &Map<String, Value>,
) -> Option<Config> {
    match Config::parse(config) {
        Ok(config) => Some(config),
        Err(text) => {
            request.fail(RpcError::new(Errno::EINVAL, text));
            None
        }
    }
}

/// Text as a payload, with its NUL.
pub(super) fn text(text: &str) -> Raw {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    Raw(bytes.into())
}

//! The journal: every event of every job for those who follow (RFC 21).
//!
//! A follower gets all there was first (inactive jobs only if it asks for them), then a sentinel,
//! then one event a message. Inactive jobs are read back from the KVS; what happens meanwhile is
//! held.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt::Write as _;
use std::rc::Rc;

use bytes::Bytes;
use jobs::{Attachment, Jobs, Record};
use proto::job_manager::{JobManagerJournal, Journal as JournalRequest};
use rpc::{Handle, Request, RpcError};
use serde_json::{Map, Value};
use spec::eventlog;
use types::{Errno, JobId};
use wire::Message;

/// Which events a follower wants.
#[derive(Default)]
pub(super) struct Filter {
    allow: Option<HashSet<String>>,
    deny: Option<HashSet<String>>,
}

impl Filter {
    fn wants(&self, name: &str) -> bool {
        self.allow.as_ref().is_none_or(|allow| allow.contains(name))
            && self.deny.as_ref().is_none_or(|deny| !deny.contains(name))
    }
}

struct Listener {
    number: u64,
    message: Message,
    filter: Filter,
    /// What waits for the end of its backlog: the active jobs' part, then new events.
    held: Option<Vec<Bytes>>,
}

/// The short way for inactive jobs to a follower in this broker, which asks for them with
/// `handover`: their records are shared and neither read nor sent.
#[derive(Clone, Default)]
pub(crate) struct Handover(Rc<RefCell<Option<Vec<Record>>>>);

impl Handover {
    pub(super) fn fill(&self, records: Vec<Record>) {
        *self.0.borrow_mut() = Some(records);
    }

    /// What was handed over, once. It is there before the end of the backlog is told.
    pub(crate) fn take(&self) -> Vec<Record> {
        self.0.take().unwrap_or_default()
    }
}

/// All followers.
#[derive(Default)]
pub(super) struct Journal {
    listeners: Vec<Listener>,
    numbers: u64,
    events: u64,
}

fn names(value: Option<&Value>, key: &str) -> Result<Option<HashSet<String>>, RpcError> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(names)) => Ok(Some(names.keys().cloned().collect())),
        Some(_) => Err(RpcError::new(
            Errno::EPROTO,
            format!("job-manager.events {key} should be an object"),
        )),
    }
}

/// One message's payload: events as lines, with what goes along.
fn payload<'a>(
    id: i64,
    lines: impl Iterator<Item = &'a str>,
    jobspec: Option<&Map<String, Value>>,
    resources: Option<&Map<String, Value>>,
) -> Bytes {
    let mut text = format!("{{\"id\":{id},\"events\":[");
    for (at, line) in lines.enumerate() {
        if at > 0 {
            text.push(',');
        }
        text.push_str(line.trim_end());
    }
    text.push(']');
    for (key, object) in [("jobspec", jobspec), ("R", resources)] {
        if let Some(object) = object
            && let Ok(json) = serde_json::to_string(object)
        {
            // Writing to a string does not fail.
            let _infallible = write!(text, ",\"{key}\":{json}");
        }
    }
    text.push_str("}\0");
    text.into()
}

/// The events of a stored job that a follower wants, as a payload.
pub(super) fn stored(
    filter: &Filter,
    id: JobId,
    log: &str,
    jobspec: Option<&Map<String, Value>>,
    resources: Option<&Map<String, Value>>,
) -> Bytes {
    let wanted = log.lines().filter(|line| {
        eventlog::Entry::decode(line.as_bytes()).is_ok_and(|entry| filter.wants(&entry.name))
    });
    payload(id.0 as i64, wanted, jobspec, resources)
}

impl Journal {
    /// Followers, and events told.
    pub(super) fn stats(&self) -> (usize, u64) {
        (self.listeners.len(), self.events)
    }

    /// A new follower. Returns its number if inactive jobs have to be read for it, along with a
    /// copy of what it wants. Errors: `EPROTO`.
    pub(super) fn follow(
        &mut self,
        handle: &Handle,
        jobs: &Jobs,
        request: &Request<JobManagerJournal>,
        wanted: &JournalRequest,
        handover: Option<Handover>,
    ) -> Result<Option<(u64, Filter)>, RpcError> {
        if !request.is_streaming() {
            let text = "job-manager.events requires streaming RPC flag";
            return Err(RpcError::new(Errno::EPROTO, text));
        }
        let filter = || {
            Ok::<_, RpcError>(Filter {
                allow: names(wanted.allow.as_ref(), "allow")?,
                deny: names(wanted.deny.as_ref(), "deny")?,
            })
        };
        self.numbers += 1;
        let mut listener = Listener {
            number: self.numbers,
            message: request.message().clone(),
            filter: filter()?,
            held: None,
        };
        let active = jobs.active().map(|job| {
            let resources = job.resources.as_deref();
            stored(
                &listener.filter,
                job.id,
                &job.log,
                Some(&job.jobspec),
                resources,
            )
        });
        let sentinel = payload(-1, std::iter::empty(), None, None);
        let backlog: Vec<Bytes> = active.chain([sentinel]).collect();
        let mut reads = None;
        if let Some(handover) = &handover {
            handover.fill(jobs.records(..).cloned().collect());
        }
        if wanted.full && handover.is_none() && jobs.inactive().len() > 0 {
            listener.held = Some(backlog);
            reads = Some((listener.number, filter()?));
        } else {
            for part in backlog {
                handle.respond_raw(&listener.message, part);
            }
        }
        self.listeners.push(listener);
        Ok(reads)
    }

    /// A part of a follower's backlog, or its end.
    pub(super) fn backlog(&mut self, handle: &Handle, number: u64, part: Option<Vec<Bytes>>) {
        let Some(listener) = self.listeners.iter_mut().find(|l| l.number == number) else {
            return;
        };
        let parts = match part {
            Some(parts) => parts,
            None => listener.held.take().unwrap_or_default(),
        };
        for part in parts {
            handle.respond_raw(&listener.message, part);
        }
    }

    /// Tells of an event.
    pub(super) fn publish(
        &mut self,
        handle: &Handle,
        id: JobId,
        name: &str,
        line: &str,
        attachment: &Attachment,
    ) {
        self.events += 1;
        let mut shared: Option<Bytes> = None;
        for listener in &mut self.listeners {
            if !listener.filter.wants(name) {
                continue;
            }
            let bytes = shared.get_or_insert_with(|| {
                let (jobspec, resources) = match attachment {
                    Attachment::None => (None, None),
                    Attachment::Jobspec(jobspec) => (Some(&**jobspec), None),
                    Attachment::Resources(resources) => (None, Some(&**resources)),
                };
                payload(id.0 as i64, std::iter::once(line), jobspec, resources)
            });
            match &mut listener.held {
                Some(held) => held.push(bytes.clone()),
                None => handle.respond_raw(&listener.message, bytes.clone()),
            }
        }
    }

    /// Ends the streams of followers that `gone` says so of.
    pub(super) fn cancel(&mut self, handle: &Handle, gone: impl Fn(&Message) -> bool) {
        for listener in self.listeners.extract_if(.., |l| gone(&l.message)) {
            handle.respond_end(&listener.message);
        }
    }

    /// Forgets followers that are gone.
    pub(super) fn remove(&mut self, gone: impl Fn(&Message) -> bool) {
        self.listeners.retain(|listener| !gone(&listener.message));
    }

    /// Ends every stream.
    pub(super) fn end(&mut self, handle: &Handle) {
        self.cancel(handle, |_| true);
    }
}

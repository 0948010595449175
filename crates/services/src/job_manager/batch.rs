//! What the next KVS commit will have, and what waits for it.

use std::collections::BTreeMap;

use jobs::Reply;
use proto::kvs::Op;
use serde_json::{Map, Value, json};
use types::JobId;
use wire::Message;

use crate::store;

/// What waits for a commit.
#[derive(Default)]
pub(super) struct Waiting {
    /// Jobs whose `submit` event it has.
    pub(super) durable: Vec<JobId>,
    /// Answers that promise durability.
    pub(super) replies: Vec<(Message, Reply)>,
    /// Jobs it removes.
    pub(super) forgotten: Vec<JobId>,
}

/// A batch being gathered, and perhaps one under way.
#[derive(Default)]
pub(super) struct Batch {
    lines: BTreeMap<JobId, String>,
    pub(super) checkpoint: bool,
    pub(super) durable: Vec<JobId>,
    pub(super) replies: Vec<(Message, Reply)>,
    forgotten: Vec<JobId>,
    /// The resources that jobs brought along.
    resources: Vec<(JobId, String)>,
    flying: Option<Waiting>,
    /// Commits begun and done.
    begun: u64,
    done: u64,
}

impl Batch {
    /// Adds a line to a job's eventlog.
    pub(super) fn append(&mut self, id: JobId, line: &str) {
        self.lines.entry(id).or_default().push_str(line);
    }

    /// Stores a job's resources. An event of the job goes with them.
    pub(super) fn put_resources(&mut self, id: JobId, resources: &Map<String, Value>) {
        self.resources.push((id, json!(resources).to_string()));
    }

    /// Removes jobs.
    pub(super) fn forget(&mut self, ids: Vec<JobId>) {
        self.forgotten.extend(ids);
    }

    /// The number of the commit that will have what is added now.
    pub(super) fn number(&self) -> u64 {
        self.begun + 1
    }

    /// How many commits are done: those up to this number.
    pub(super) fn done_count(&self) -> u64 {
        self.done
    }

    /// Whether a commit is under way or something waits for one.
    pub(super) fn is_busy(&self) -> bool {
        self.flying.is_some() || self.is_full()
    }

    fn is_full(&self) -> bool {
        !self.lines.is_empty()
            || !self.replies.is_empty()
            || !self.forgotten.is_empty()
            || self.checkpoint
    }

    /// Whether something is to be committed that nobody waits for.
    pub(super) fn can_wait(&self) -> bool {
        self.flying.is_none()
            && !self.lines.is_empty()
            && self.durable.is_empty()
            && self.replies.is_empty()
            && self.forgotten.is_empty()
    }

    /// Whether somebody was promised that the batch under way is durable: who submitted a job or
    /// waits for an answer.
    pub(super) fn is_promised(&self) -> bool {
        self.flying
            .as_ref()
            .is_some_and(|waiting| !waiting.durable.is_empty() || !waiting.replies.is_empty())
    }

    /// The operations to commit now; `None` if a commit is under way or nothing waits.
    pub(super) fn take(&mut self, checkpoint: Option<String>) -> Option<Vec<Op>> {
        if self.flying.is_some() || !self.is_full() {
            return None;
        }
        let mut ops = Vec::with_capacity(self.lines.len() + 1);
        for (id, lines) in std::mem::take(&mut self.lines) {
            ops.push(store::append(
                format!("{}.eventlog", id.kvs_path()),
                lines.as_bytes(),
            ));
        }
        for (id, text) in std::mem::take(&mut self.resources) {
            ops.push(store::put(format!("{}.R", id.kvs_path()), text.as_bytes()));
        }
        for id in &self.forgotten {
            ops.push(store::unlink(id.kvs_path()));
        }
        if let Some(text) = checkpoint {
            ops.push(store::put("checkpoint.job-manager", text.as_bytes()));
        }
        self.checkpoint = false;
        self.begun += 1;
        self.flying = Some(Waiting {
            durable: std::mem::take(&mut self.durable),
            replies: std::mem::take(&mut self.replies),
            forgotten: std::mem::take(&mut self.forgotten),
        });
        Some(ops)
    }

    /// The commit under way is done: what waited for it.
    pub(super) fn done(&mut self) -> Waiting {
        self.done = self.begun;
        self.flying.take().unwrap_or_default()
    }
}

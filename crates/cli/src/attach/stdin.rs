//! Standard input on its way to a job's tasks.
//!
//! It goes to all of them or to those asked for. The others read nothing: their input is closed.
//! Which those are is known with the job's task map.

use bytes::Bytes;
use rpc::{Handle, RawCall, RpcError};
use spec::stdio::StreamData;
use tokio::sync::mpsc;
use types::{IdSet, Rank};

use crate::{err, input};

/// What the tasks' input is called.
const STREAM: &str = "stdin";

/// Standard input.
pub(super) struct Stdin {
    handle: Handle,
    /// The tasks asked for, all if absent.
    asked: Option<IdSet>,
    ntasks: Option<u32>,
    /// The job shell that takes it.
    shell: Option<(String, Rank)>,
    /// The tasks that get it.
    ranks: String,
    chunks: Option<mpsc::Receiver<Bytes>>,
    write: Option<RawCall>,
}

/// What happened to it.
pub(super) enum Progress {
    /// Something was read.
    Read(Bytes),
    /// The job shell has answered.
    Answered(Result<(), RpcError>),
}

impl Stdin {
    pub(super) fn new(handle: Handle, asked: Option<IdSet>) -> Stdin {
        Stdin {
            handle,
            asked,
            ntasks: None,
            shell: None,
            ranks: "all".to_owned(),
            chunks: None,
            write: None,
        }
    }

    /// Opens it towards the job shell known as `service`.
    pub(super) fn open(&mut self, service: &str, rank: Rank) {
        self.shell = Some((service.to_owned(), rank));
        self.begin();
    }

    /// Notes how many tasks there are.
    pub(super) fn on_tasks(&mut self, ntasks: u32) {
        if self.ntasks.replace(ntasks).is_none() {
            self.begin();
        }
    }

    fn begin(&mut self) {
        if self.shell.is_none() || self.chunks.is_some() {
            return;
        }
        let (Some(asked), Some(ntasks)) = (&self.asked, self.ntasks) else {
            if self.asked.is_none() {
                self.chunks = Some(input::read());
            }
            return;
        };
        let all = IdSet::first_n(ntasks);
        let ranks = asked.intersection(&all);
        let others = all.difference(&ranks);
        if ranks != *asked {
            err!("flux-job: warning: adjusting --stdin-ranks from {asked} to {ranks}");
        }
        self.chunks = Some(match ranks.is_empty() {
            true => input::ended(),
            false => input::read(),
        });
        self.ranks = ranks.to_string();
        if !others.is_empty() {
            self.send(&StreamData::eof(STREAM, others));
        }
    }

    /// What happens next. Cancel safe.
    pub(super) async fn next(&mut self) -> Progress {
        match &mut self.write {
            Some(call) => Progress::Answered(call.await.map(drop)),
            None => Progress::Read(input::next(&mut self.chunks).await),
        }
    }

    /// Acts on what happened.
    pub(super) fn on_progress(&mut self, progress: Progress) {
        match progress {
            Progress::Read(chunk) if chunk.is_empty() => {
                self.send(&StreamData::eof(STREAM, &self.ranks));
            }
            Progress::Read(chunk) => self.send(&StreamData::new(STREAM, &self.ranks, &chunk)),
            Progress::Answered(Ok(())) => self.write = None,
            // The tasks may have closed their input; then there is nothing to read for.
            Progress::Answered(Err(_)) => {
                self.write = None;
                self.chunks = Some(input::ended());
            }
        }
    }

    fn send(&mut self, data: &StreamData) {
        let Some((service, rank)) = &self.shell else {
            return;
        };
        let topic = format!("{service}.{STREAM}");
        let payload = proto::json_payload(&data.encode());
        self.write = Some(self.handle.call_raw(topic.into(), *rank, payload));
    }
}

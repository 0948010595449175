//! Commits shared by whoever has something to store at the same time.

use std::cell::RefCell;
use std::rc::Rc;

use proto::kvs::{Commit, KvsCommit, Op, PRIMARY};
use rpc::{Dest, Handle, RpcError};
use tokio::sync::oneshot;
use types::Errno;

#[derive(Default)]
struct Gathering {
    ops: Vec<Op>,
    waiting: Vec<oneshot::Sender<Result<(), RpcError>>>,
    busy: bool,
}

/// Writes to one namespace, in order, one commit at a time.
#[derive(Clone)]
pub(super) struct Writer {
    handle: Handle,
    namespace: Rc<str>,
    gathering: Rc<RefCell<Gathering>>,
}

impl Writer {
    /// A writer to the primary namespace.
    pub(super) fn primary(handle: Handle) -> Writer {
        Writer::new(handle, PRIMARY)
    }

    /// A writer to a namespace.
    pub(super) fn new(handle: Handle, namespace: &str) -> Writer {
        Writer {
            handle,
            namespace: namespace.into(),
            gathering: Rc::default(),
        }
    }

    /// Adds operations to the next commit, which starts at once unless one is under way. The
    /// result tells when they are stored.
    pub(super) fn write(&self, ops: Vec<Op>) -> oneshot::Receiver<Result<(), RpcError>> {
        let (done, written) = oneshot::channel();
        let start = {
            let mut gathering = self.gathering.borrow_mut();
            gathering.ops.extend(ops);
            gathering.waiting.push(done);
            !std::mem::replace(&mut gathering.busy, true)
        };
        if start {
            let writer = self.clone();
            tokio::task::spawn_local(async move { writer.pump().await });
        }
        written
    }

    /// As [`Writer::write`], and waits.
    pub(super) async fn commit(&self, ops: Vec<Op>) -> Result<(), RpcError> {
        self.write(ops)
            .await
            .unwrap_or_else(|_| Err(Errno::ECANCELED.into()))
    }

    /// Waits until all that was written is stored.
    ///
    /// Errors: the last commit's.
    pub(super) async fn settled(&self) -> Result<(), RpcError> {
        if !self.gathering.borrow().busy {
            return Ok(());
        }
        self.commit(Vec::new()).await
    }

    async fn pump(&self) {
        let mut result = Ok(());
        loop {
            let (ops, waiting) = {
                let mut gathering = self.gathering.borrow_mut();
                if gathering.waiting.is_empty() {
                    gathering.busy = false;
                    return;
                }
                (
                    std::mem::take(&mut gathering.ops),
                    std::mem::take(&mut gathering.waiting),
                )
            };
            if !ops.is_empty() {
                let commit = Commit {
                    ops,
                    namespace: (*self.namespace).to_owned(),
                    flags: 0,
                };
                let committed = self.handle.call::<KvsCommit>(Dest::Any, &commit);
                result = committed.await.map(drop);
            }
            for done in waiting {
                // Not everybody who writes waits.
                let _nobody_waits = done.send(result.clone());
            }
        }
    }
}

//! The shells' start barrier.
//!
//! Its requests ask for no response and get one all the same, along the way they came: so shells
//! of any version wait for it.

use std::collections::BTreeMap;

use rpc::{Handle, RpcError};
use types::{Errno, IdSet};
use wire::Message;

/// Answers an entry.
pub(super) fn answer(handle: &Handle, request: &Message, result: Result<(), RpcError>) {
    let errno = result.as_ref().err().map(|error| error.errno);
    let Some(mut response) = request.response_unasked(errno) else {
        return;
    };
    match result {
        Ok(()) => response = response.with_text("{}"),
        Err(RpcError {
            text: Some(text), ..
        }) => response = response.with_text(&text),
        Err(_) => {}
    }
    handle.send(response);
}

/// The barrier of one job.
pub(super) struct Barrier {
    ranks: IdSet,
    entered: BTreeMap<u32, Message>,
    /// How often all have passed.
    pub(super) passed: u32,
    broken: bool,
}

impl Barrier {
    /// A barrier for shells on these broker ranks.
    pub(super) fn new(ranks: IdSet) -> Barrier {
        Barrier {
            ranks,
            entered: BTreeMap::new(),
            passed: 0,
            broken: false,
        }
    }

    /// A shell enters. Whether it is the first to do so.
    pub(super) fn enter(&mut self, handle: &Handle, message: Message, rank: u32) -> bool {
        if self.broken {
            answer(handle, &message, Err(Errno::EIO.into()));
            return false;
        }
        if !self.ranks.contains(rank) || self.entered.contains_key(&rank) {
            let text = format!("rank {rank} is not pending in barrier");
            answer(handle, &message, Err(RpcError::new(Errno::EINVAL, text)));
            return false;
        }
        self.entered.insert(rank, message);
        if self.entered.len() == self.ranks.len() {
            self.passed += 1;
            for (_, message) in std::mem::take(&mut self.entered) {
                answer(handle, &message, Ok(()));
            }
            return false;
        }
        self.entered.len() == 1
    }

    /// A shell ended: nobody will pass any more.
    pub(super) fn shatter(&mut self, handle: &Handle) {
        self.broken = true;
        for (_, message) in std::mem::take(&mut self.entered) {
            answer(handle, &message, Err(Errno::EIO.into()));
        }
    }

    /// Ranks whose shells did not enter.
    pub(super) fn missing(&self) -> IdSet {
        let mut missing = self.ranks.clone();
        for rank in self.entered.keys() {
            missing.remove(*rank);
        }
        missing
    }
}

//! Whose a job is, remembered for the jobs asked for last.

use std::collections::{BTreeMap, HashMap};

use rpc::RpcError;
use spec::Entry;
use types::{Errno, JobId, UserId};

/// How many are remembered: guests ask about few jobs at a time.
const OWNERS_MAX: usize = 1000;

/// Owners of jobs; the one not asked for longest goes first.
#[derive(Default)]
pub(super) struct Owners {
    known: HashMap<JobId, (UserId, u64)>,
    by_use: BTreeMap<u64, JobId>,
    uses: u64,
}

impl Owners {
    pub(super) fn get(&mut self, id: JobId) -> Option<UserId> {
        let owner = self.known.get(&id)?.0;
        self.insert(id, owner);
        Some(owner)
    }

    pub(super) fn insert(&mut self, id: JobId, owner: UserId) {
        self.uses += 1;
        if let Some((_, last)) = self.known.insert(id, (owner, self.uses)) {
            self.by_use.remove(&last);
        }
        self.by_use.insert(self.uses, id);
        if self.known.len() > OWNERS_MAX
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.known.remove(&oldest);
        }
    }
}

/// The user in the first event of a log. Errors: `EINVAL`.
pub(super) fn owner(log: &[Entry]) -> Result<UserId, RpcError> {
    let userid = log.first().and_then(|entry| entry.get_i64("userid"));
    userid
        .and_then(|userid| u32::try_from(userid).ok())
        .map(UserId)
        .ok_or_else(|| RpcError::new(Errno::EINVAL, "error parsing eventlog"))
}

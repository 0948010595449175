//! The scheduler's side: it holds the resources and is told what becomes of them.

use proto::resource::{AcquireUpdate, ResourceAcquire};
use rpc::Request;
use spec::ResourceSet;
use types::{Errno, IdSet};
use wire::Message;

use super::{Leader, object};

/// The scheduler that holds the resources.
pub(super) struct Acquire {
    pub(super) request: Request<ResourceAcquire>,
    /// What it knows to be up; `None` before its first answer.
    up: Option<IdSet>,
    pub(super) muted: bool,
}

impl Leader {
    /// The resources a scheduler may have: all but those excluded.
    pub(super) fn acquirable(&self) -> Option<ResourceSet> {
        let (set, _) = self.inventory.as_ref()?;
        let mut set = set.clone();
        set.remove_ranks(&self.ranks.exclude);
        Some(set)
    }

    /// Whether lost ranks leave for good.
    pub(super) fn shrinks(&self) -> bool {
        self.inventory
            .as_ref()
            .is_some_and(|(_, method)| *method != "configuration")
    }

    pub(super) fn tell_scheduler(&mut self) {
        let Some(acquirable) = self.acquirable() else {
            return;
        };
        let shrinks = self.shrinks();
        let mut up = self.ranks.up().intersection(&acquirable.ranks());
        let lost = self.ranks.lost.clone();
        let Some(acquire) = &mut self.acquire else {
            return;
        };
        if acquire.muted {
            return;
        }
        let Some(known) = &acquire.up else {
            let update = AcquireUpdate {
                resources: Some(object(&acquirable)),
                up: Some(up.clone()),
                ..AcquireUpdate::default()
            };
            acquire.request.reply(&update);
            acquire.up = Some(up);
            return;
        };
        let came = up.difference(known);
        let went = known.difference(&up);
        if came.is_empty() && went.is_empty() {
            return;
        }
        let some = |ranks: &IdSet| (!ranks.is_empty()).then(|| ranks.clone());
        let shrink = if shrinks {
            went.intersection(&lost)
        } else {
            IdSet::new()
        };
        let update = AcquireUpdate {
            up: some(&came),
            down: some(&went),
            shrink: some(&shrink),
            ..AcquireUpdate::default()
        };
        acquire.request.reply(&update);
        up.remove_all(&shrink);
        acquire.up = Some(up);
    }

    pub(super) fn on_acquire(&mut self, request: Request<ResourceAcquire>) {
        if self.acquire.is_some() {
            return request.fail(Errno::EBUSY);
        }
        self.acquire = Some(Acquire {
            request,
            up: None,
            muted: false,
        });
        self.tell_scheduler();
    }

    pub(super) fn on_acquire_gone(&mut self, notice: &Message, matchtag: Option<u32>) {
        let gone = self.acquire.as_ref().is_some_and(|acquire| match matchtag {
            Some(tag) => acquire.request.is_cancelled_by(notice, tag),
            None => acquire.request.is_from_sender_of(notice),
        });
        if gone
            && let Some(acquire) = self.acquire.take()
            && matchtag.is_some()
        {
            acquire.request.end();
        }
    }

    /// The resources end at another time.
    pub(super) fn tell_expiration(&self, expiration: f64) {
        if let Some(acquire) = &self.acquire
            && acquire.up.is_some()
        {
            let update = AcquireUpdate {
                expiration: Some(expiration),
                ..AcquireUpdate::default()
            };
            acquire.request.reply(&update);
        }
    }
}

//! Namespaces: made and removed on the leader, followed elsewhere.

use std::time::Duration;

use ::kvs::Batch;
use proto::kvs::{
    self, CommitFailed, Committed, KvsNamespaceCreate, KvsNamespaceList, KvsNamespaceRemove,
    KvsSetrootPause, KvsSetrootUnpause, NamespaceCreate, NamespaceCreated, NamespaceInfo,
    Namespaces, PRIMARY, Root, Setroot, event_topic,
};
use proto::{Empty, Payload};
use rpc::{Request, RpcError};
use spec::BlobRef;
use tokio::time::Instant;
use types::{Errno, UserId};
use wire::{Flags, Message};

use super::read::signed;
use super::state::{Kvs, Space};

/// Followers forget other namespaces than the primary one after this long without news.
const NAMESPACE_IDLE: Duration = Duration::from_secs(3600);

impl Kvs {
    pub(super) fn namespace_create(
        &mut self,
        request: Request<KvsNamespaceCreate>,
        create: NamespaceCreate,
    ) {
        if !self.leader {
            return request.fail(Errno::ENOSYS);
        }
        if let Some(space) = self.spaces.get(&create.namespace) {
            if !space.namespace.removed {
                return request.fail(Errno::EEXIST);
            }
            let text = "namespace with identical name in process of being removed. Try again later";
            return request.fail(RpcError::new(Errno::EEXIST, text));
        }
        let Ok(root) = create.rootref.parse::<BlobRef>() else {
            return request.fail(Errno::EINVAL);
        };
        // Clients carry user ids as signed numbers, and -1 for none.
        let owner = match create.owner as u32 {
            u32::MAX => super::owner(),
            uid => UserId(uid),
        };
        let mut space = Space::new(owner, root, 0);
        space.namespace.flags = create.flags;
        self.spaces.insert(create.namespace.clone(), space);
        let created = NamespaceCreated {
            namespace: create.namespace,
            rootseq: 0,
            rootref: create.rootref,
            owner: signed(owner),
        };
        let topic = event_topic(&created.namespace, "created");
        self.handle.publish(topic, Flags::PRIVATE, &created);
        request.reply(&Empty {});
    }

    pub(super) fn namespace_remove(
        &mut self,
        request: Request<KvsNamespaceRemove>,
        which: kvs::Namespace,
    ) {
        if !self.leader {
            return request.fail(Errno::ENOSYS);
        }
        let name = &which.namespace;
        if name.eq_ignore_ascii_case(PRIMARY) {
            return request.fail(Errno::ENOTSUP);
        }
        let exists = self
            .spaces
            .get(name)
            .is_some_and(|space| !space.namespace.removed);
        if exists {
            let topic = event_topic(name, "removed");
            self.handle.publish(topic, Flags::PRIVATE, &which);
            self.remove(name);
        }
        request.reply(&Empty {});
    }

    /// Fails whoever waits in a namespace, and forgets it as soon as nothing is under way there.
    fn remove(&mut self, name: &str) {
        if let Some(fetch) = self.fetching.get_mut(name) {
            fetch.removed = true;
        }
        let Some(space) = self.spaces.get_mut(name) else {
            return;
        };
        space.namespace.removed = true;
        for (_, request) in std::mem::take(&mut space.versions) {
            request.fail(Errno::ENOTSUP);
        }
        let members: Vec<_> = space.queue.drain().collect();
        if !members.is_empty() {
            self.fail_batch(name, Batch { members }, Errno::ENOTSUP);
        }
        // The leader refuses what it has not committed by now, and nobody here would hear of it.
        let lost: Vec<String> = self
            .commits
            .iter()
            .filter(|(_, (namespace, _))| namespace == name)
            .map(|(transaction, _)| transaction.clone())
            .collect();
        for transaction in lost {
            if let Some((_, request)) = self.commits.remove(&transaction) {
                request.fail(Errno::ENOTSUP);
            }
        }
        self.drop_if_unused(name);
    }

    /// Forgets a removed namespace that has nothing under way.
    pub(super) fn drop_if_unused(&mut self, name: &str) {
        let unused = self.spaces.get(name).is_some_and(|space| {
            space.namespace.removed && space.active.is_none() && space.queue.is_empty()
        });
        if unused {
            self.forget(name);
        }
    }

    fn forget(&mut self, name: &str) {
        self.spaces.remove(name);
        if !self.leader {
            self.host.unsubscribe(&self.id, &super::event_prefix(name));
        }
    }

    /// Forgets what has not been heard of for long.
    pub(super) fn forget_idle(&mut self) {
        let idle: Vec<String> = self
            .spaces
            .iter()
            .filter(|(name, space)| {
                !Kvs::is_primary(name)
                    && space.updated.elapsed() > NAMESPACE_IDLE
                    && space.versions.is_empty()
                    && !self.commits.values().any(|(other, _)| other == *name)
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in idle {
            self.forget(&name);
        }
    }

    pub(super) fn namespace_list(&mut self, request: Request<KvsNamespaceList>) {
        let namespaces = self
            .spaces
            .iter()
            .filter(|(_, space)| !space.namespace.removed)
            .map(|(name, space)| NamespaceInfo {
                namespace: name.clone(),
                owner: signed(space.namespace.owner),
                flags: space.namespace.flags,
            })
            .collect();
        request.reply(&Namespaces { namespaces });
    }

    pub(super) fn setroot_pause(
        &mut self,
        request: Request<KvsSetrootPause>,
        which: kvs::Namespace,
    ) {
        match self.access(&which.namespace, request.cred(), request.message()) {
            None => {}
            Some(Err(error)) => request.fail(error),
            Some(Ok(space)) => {
                space.paused.get_or_insert_default();
                request.reply(&Empty {});
            }
        }
    }

    pub(super) fn setroot_unpause(
        &mut self,
        request: Request<KvsSetrootUnpause>,
        which: kvs::Namespace,
    ) {
        match self.access(&which.namespace, request.cred(), request.message()) {
            None => return,
            Some(Err(error)) => return request.fail(error),
            Some(Ok(space)) => {
                let held = space.paused.take().unwrap_or_default();
                for setroot in held {
                    self.on_setroot(setroot);
                }
            }
        }
        request.reply(&Empty {});
    }

    /// A namespace's root has come from one level up.
    pub(super) fn on_fetched(&mut self, name: String, result: Result<Root, RpcError>) {
        let parsed = result.and_then(|root| {
            let blobref = root.rootref.parse::<BlobRef>();
            blobref
                .map(|blobref| (root, blobref))
                .map_err(|_| Errno::EPROTO.into())
        });
        let Some(fetch) = self.fetching.remove(&name) else {
            return;
        };
        match parsed {
            Ok((root, blobref)) if !fetch.removed => {
                let mut space = Space::new(UserId(root.owner as u32), blobref, root.rootseq);
                space.namespace.flags = root.flags;
                self.spaces.insert(name, space);
                for setroot in fetch.early {
                    self.on_setroot(setroot);
                }
                self.replays.extend(fetch.waiting);
            }
            other => {
                let error = other.err().unwrap_or(Errno::ENOTSUP.into());
                self.host.unsubscribe(&self.id, &super::event_prefix(&name));
                for message in fetch.waiting {
                    self.handle.respond_error(&message, &error);
                }
            }
        }
    }

    /// A follower's events. Subscriptions are by prefix, so events of others come too.
    pub(super) fn on_namespace_event(&mut self, message: &Message) {
        let topic = message.topic_str();
        let payload = message.payload.as_ref();
        if topic.ends_with("-setroot") {
            if let Ok(setroot) = Setroot::decode(payload) {
                self.on_setroot(setroot);
            }
        } else if topic.ends_with("-error") {
            if let Ok(failed) = CommitFailed::decode(payload) {
                for name in &failed.names {
                    if let Some((_, request)) = self.commits.remove(name) {
                        request.fail(Errno(failed.errnum));
                    }
                }
            }
        } else if topic.ends_with("-removed")
            && let Ok(which) = kvs::Namespace::decode(payload)
        {
            self.remove(&which.namespace);
        }
    }

    fn on_setroot(&mut self, setroot: Setroot) {
        if let Some(fetch) = self.fetching.get_mut(&setroot.namespace) {
            return fetch.early.push(setroot);
        }
        let Some(space) = self.spaces.get_mut(&setroot.namespace) else {
            return;
        };
        if let Some(held) = &mut space.paused {
            return held.push(setroot);
        }
        let Ok(root) = setroot.rootref.parse::<BlobRef>() else {
            return;
        };
        if setroot.rootseq == 0 || setroot.rootseq > space.namespace.seq {
            space.namespace.root = root;
            space.namespace.seq = setroot.rootseq;
            space.updated = Instant::now();
        }
        let committed = Committed {
            rootref: setroot.rootref,
            rootseq: setroot.rootseq,
        };
        for name in &setroot.names {
            if let Some((_, request)) = self.commits.remove(name) {
                request.reply(&committed);
            }
        }
        self.check_versions(&setroot.namespace);
    }
}

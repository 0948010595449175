//! Look-ups, roots and versions.

use ::kvs::{Error, Found, Query, Step, Want};
use proto::kvs::{
    self, Committed, FoundPlus, KvsGetroot, KvsLookup, KvsLookupPlus, KvsWaitVersion,
};
use rpc::{Request, RpcError};
use serde_json::value::RawValue;
use spec::{BlobRef, TreeObj};
use types::{Cred, Errno};
use wire::Message;

use super::state::{Kvs, Parked, View};

enum Caller {
    Plain(Request<KvsLookup>),
    Plus(Request<KvsLookupPlus>),
}

/// A look-up under way.
pub(super) struct Lookup {
    caller: Caller,
    key: String,
    want: Want,
    namespace: Option<String>,
    /// The root to look under, once it is known: a look-up that waits does not change its mind.
    root: Option<(BlobRef, i64)>,
}

impl Lookup {
    pub(super) fn plain(request: Request<KvsLookup>) -> Lookup {
        Lookup::new(Caller::Plain(request))
    }

    pub(super) fn plus(request: Request<KvsLookupPlus>) -> Lookup {
        Lookup::new(Caller::Plus(request))
    }

    fn new(caller: Caller) -> Lookup {
        Lookup {
            caller,
            key: String::new(),
            want: Want::Value,
            namespace: None,
            root: None,
        }
    }

    pub(super) fn message(&self) -> &Message {
        match &self.caller {
            Caller::Plain(request) => request.message(),
            Caller::Plus(request) => request.message(),
        }
    }

    fn cred(&self) -> Cred {
        self.message().cred
    }

    pub(super) fn is_from_sender_of(&self, other: &Message) -> bool {
        match &self.caller {
            Caller::Plain(request) => request.is_from_sender_of(other),
            Caller::Plus(request) => request.is_from_sender_of(other),
        }
    }

    pub(super) fn fail(&self, error: impl Into<RpcError>) {
        match &self.caller {
            Caller::Plain(request) => request.fail(error),
            Caller::Plus(request) => request.fail(error),
        }
    }

    /// Says that there is no such key, which is an answer to those who ask for more. That a blob
    /// on the way to it cannot be had is none.
    fn missing(&self, root: BlobRef, seq: i64) {
        match &self.caller {
            Caller::Plain(request) => request.fail(Errno::ENOENT),
            Caller::Plus(request) => request.reply(&FoundPlus {
                val: None,
                errno: Some(Errno::ENOENT.0),
                rootseq: seq,
                rootref: root.to_string(),
            }),
        }
    }

    fn reply(&self, found: &Found) {
        // Tree objects encode to JSON by construction, and blobs of directories were decoded.
        let Ok(val) = RawValue::from_string(found.json()) else {
            return self.fail(Errno::ENOTRECOVERABLE);
        };
        match &self.caller {
            Caller::Plain(request) => request.reply(&kvs::Found { val }),
            Caller::Plus(request) => request.reply(&FoundPlus {
                val: Some(val),
                errno: None,
                rootseq: self.root.map_or(-1, |(_, seq)| seq),
                rootref: self
                    .root
                    .map_or_else(String::new, |(root, _)| root.to_string()),
            }),
        }
    }
}

fn want(flags: i32) -> Want {
    if flags & kvs::flags::TREEOBJ != 0 {
        Want::Object
    } else if flags & kvs::flags::READDIR != 0 {
        Want::Directory
    } else if flags & kvs::flags::READLINK != 0 {
        Want::Link
    } else {
        Want::Value
    }
}

impl Kvs {
    pub(super) fn start_lookup(&mut self, mut lookup: Lookup, request: kvs::Lookup) {
        lookup.want = want(request.flags);
        lookup.key = request.key;
        if let Some(rootdir) = request.rootdir {
            // Whoever knows a root may read below it, in whatever namespace it is.
            match TreeObj::from_value(&rootdir) {
                Ok(TreeObj::DirRef(root)) => {
                    lookup.root = Some((root, request.rootseq.unwrap_or(-1)));
                }
                _ => return lookup.fail(Errno::EINVAL),
            }
        } else if let Some(namespace) = request.namespace {
            let message = lookup.message().clone();
            match self.access(&namespace, message.cred, &message) {
                None => return,
                Some(Err(error)) => return lookup.fail(error),
                Some(Ok(space)) => {
                    lookup.root = Some((space.namespace.root, space.namespace.seq));
                }
            }
            lookup.namespace = Some(namespace);
        } else {
            return lookup.fail(Errno::EPROTO);
        }
        self.continue_lookup(lookup);
    }

    pub(super) fn continue_lookup(&mut self, lookup: Lookup) {
        let Some((root, seq)) = lookup.root else {
            return lookup.fail(Errno::EPROTO);
        };
        // The namespace may have gone while the look-up waited.
        if let Some(name) = &lookup.namespace {
            let check = match self.spaces.get(name) {
                Some(space) => space.namespace.check(lookup.cred()),
                None => Err(Error::NoNamespace),
            };
            if let Err(error) = check {
                return lookup.fail(error.errno());
            }
        }
        let query = Query {
            root,
            foreign_root: lookup.namespace.is_none(),
            key: &lookup.key,
            want: lookup.want,
            cred: lookup.cred(),
        };
        match ::kvs::lookup(&mut self.cache, &View(&self.spaces), query) {
            Ok(Step::Done(found)) => lookup.reply(&found),
            Ok(Step::Blobs(missing)) => self.park(missing, Parked::Lookup(Box::new(lookup))),
            Ok(Step::Namespace(_)) if self.leader => lookup.fail(Errno::ENOTSUP),
            Ok(Step::Namespace(name)) => self.fetch(&name, lookup.message().clone()),
            Err(Error::NoEntry) => lookup.missing(root, seq),
            Err(error) => lookup.fail(error.errno()),
        }
    }

    pub(super) fn getroot(&mut self, request: Request<KvsGetroot>, which: kvs::Namespace) {
        let name = which.namespace;
        match self.access(&name, request.cred(), request.message()) {
            None => {}
            Some(Err(error)) => request.fail(error),
            Some(Ok(space)) => {
                let namespace = &space.namespace;
                request.reply(&kvs::Root {
                    owner: signed(namespace.owner),
                    rootseq: namespace.seq,
                    rootref: namespace.root.to_string(),
                    flags: namespace.flags,
                    namespace: name,
                });
            }
        }
    }

    pub(super) fn wait_version(
        &mut self,
        request: Request<KvsWaitVersion>,
        wait: kvs::WaitVersion,
    ) {
        match self.access(&wait.namespace, request.cred(), request.message()) {
            None => {}
            Some(Err(error)) => request.fail(error),
            Some(Ok(space)) if space.namespace.seq >= wait.rootseq => {
                request.reply(&Committed {
                    rootref: space.namespace.root.to_string(),
                    rootseq: space.namespace.seq,
                });
            }
            Some(Ok(space)) => space.versions.push((wait.rootseq, request)),
        }
    }

    /// Answers who waited for the version a namespace has now.
    pub(super) fn check_versions(&mut self, name: &str) {
        let Some(space) = self.spaces.get_mut(name) else {
            return;
        };
        if space.versions.is_empty() {
            return;
        }
        let committed = Committed {
            rootref: space.namespace.root.to_string(),
            rootseq: space.namespace.seq,
        };
        space.versions.retain(|(seq, request)| {
            let waits = *seq > committed.rootseq;
            if !waits {
                request.reply(&committed);
            }
            waits
        });
    }
}

/// A user id as clients carry it.
pub(super) fn signed(owner: types::UserId) -> i64 {
    i64::from(owner.0 as i32)
}

//! One watcher: triggers in, responses out.

use std::rc::Rc;

use bytes::Bytes;
use proto::content::ContentLoad;
use proto::kvs::{Found, FoundPlus, KvsLookupPlus, KvsWatchLookup, Lookup, flags};
use proto::{Payload, Rpc};
use rpc::{Handle, Request, RpcError};
use serde_json::value::RawValue;
use spec::{BlobRef, TreeObj};
use tokio::sync::mpsc;
use types::Errno;
use wire::{Message, Target};

/// What may concern a watcher.
#[derive(Clone, Debug)]
pub(super) enum Trigger {
    /// The namespace has a new root that concerns it.
    Root { root: Rc<str>, seq: i64 },
    /// The namespace was made.
    Created { root: Rc<str>, seq: i64 },
    /// The namespace was removed.
    Removed,
}

/// A request's flags.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mode(i32);

impl Mode {
    pub(super) fn new(flags: i32) -> Mode {
        Mode(flags)
    }

    fn has(self, bits: i32) -> bool {
        self.0 & bits != 0
    }

    /// Whether every commit is looked at, not just those that name the key.
    pub(super) fn every_commit(self) -> bool {
        self.has(flags::WATCH_FULL)
    }

    /// Whether the value goes out blob by blob.
    fn by_blob(self) -> bool {
        self.has(flags::WATCH_APPEND | flags::STREAM)
    }

    /// The flags of the look-ups.
    fn lookup_flags(self) -> i32 {
        if self.by_blob() {
            flags::TREEOBJ
        } else {
            self.0 & (flags::TREEOBJ | flags::READDIR | flags::READLINK)
        }
    }
}

/// A watcher.
pub(super) struct Watcher {
    handle: Handle,
    request: Rc<Request<KvsWatchLookup>>,
    namespace: String,
    key: String,
    mode: Mode,
    triggers: mpsc::UnboundedReceiver<Trigger>,
    /// The sequence number of the newest answer.
    seen: Option<i64>,
    /// Whether a value has been answered.
    answered: bool,
    /// The newest value, to tell whether the next one differs.
    last: Option<Box<str>>,
    /// How many blobs have been answered.
    blobs: usize,
    sentinel_sent: bool,
}

/// Whether a watcher goes on.
enum Next {
    Wait,
    End,
}

/// Under what a key is looked up.
enum Under<'a> {
    Namespace,
    Root(&'a str, i64),
}

impl Watcher {
    pub(super) fn new(
        handle: Handle,
        request: Rc<Request<KvsWatchLookup>>,
        namespace: String,
        key: String,
        mode: Mode,
        triggers: mpsc::UnboundedReceiver<Trigger>,
    ) -> Watcher {
        Watcher {
            handle,
            request,
            namespace,
            key,
            mode,
            triggers,
            seen: None,
            answered: false,
            last: None,
            blobs: 0,
            sentinel_sent: false,
        }
    }

    /// Runs until the stream ends or the module drops the triggers.
    pub(super) async fn run(mut self) {
        if let Err(error) = self.follow().await
            && !self.is_removed()
        {
            self.request.fail(error);
        }
    }

    /// Whether the module removed this watcher: cancelled, disconnected or unloading. It then
    /// answers for itself, and this task has to be silent.
    fn is_removed(&self) -> bool {
        self.triggers.is_closed()
    }

    async fn follow(&mut self) -> Result<(), RpcError> {
        let first = self.lookup(Under::Namespace).await;
        let mut next = match first {
            Err(error) if error.errno == Errno::ENOTSUP && self.mode.has(flags::WAITCREATE) => {
                self.sentinel();
                Next::Wait
            }
            Err(error) => return Err(error),
            Ok(found) => self.on_found(found).await?,
        };
        while let Next::Wait = next {
            let Some(trigger) = self.triggers.recv().await else {
                return Ok(());
            };
            next = match trigger {
                Trigger::Removed => return Err(Errno::ENOTSUP.into()),
                Trigger::Created { .. } if self.seen.is_some() => Next::Wait,
                Trigger::Root { root, seq } | Trigger::Created { root, seq } => {
                    self.on_root(&root, seq).await?
                }
            };
        }
        Ok(())
    }

    async fn on_root(&mut self, root: &str, seq: i64) -> Result<Next, RpcError> {
        if self.seen.is_some_and(|seen| seq <= seen) {
            return Ok(Next::Wait);
        }
        let found = self.lookup(Under::Root(root, seq)).await?;
        self.on_found(found).await
    }

    /// Looks the key up as the requester.
    async fn lookup(&self, under: Under<'_>) -> Result<FoundPlus, RpcError> {
        let mut lookup = Lookup {
            key: self.key.clone(),
            flags: self.mode.lookup_flags(),
            namespace: None,
            rootdir: None,
            rootseq: None,
        };
        match under {
            Under::Namespace => lookup.namespace = Some(self.namespace.clone()),
            Under::Root(root, seq) => {
                let root: BlobRef = root.parse().map_err(|_| Errno::EPROTO)?;
                lookup.rootdir = Some(TreeObj::DirRef(root).to_value());
                lookup.rootseq = Some(seq);
            }
        }
        let topic = KvsLookupPlus::topic_of(KvsLookupPlus::SERVICE).into();
        let target = Target::Rank(self.handle.rank());
        let mut message = Message::request(topic, target, None).with_payload(lookup.encode());
        message.cred = self.request.cred();
        let response = self.handle.forward(message).next().await?;
        FoundPlus::decode(response.payload.as_ref()).map_err(|error| error.errno().into())
    }

    async fn on_found(&mut self, found: FoundPlus) -> Result<Next, RpcError> {
        self.seen = Some(found.rootseq);
        let Some(value) = found.val else {
            let errno = Errno(found.errno.unwrap_or(Errno::ENOENT.0));
            let waits = self.mode.has(flags::WAITCREATE) && !self.answered;
            if errno != Errno::ENOENT || !waits {
                return Err(errno.into());
            }
            self.sentinel();
            return Ok(Next::Wait);
        };
        if self.mode.by_blob() {
            self.answer_blobs(&value).await?;
        } else {
            self.answer(value);
        }
        self.answered = true;
        self.sentinel();
        if self.mode.has(flags::STREAM) {
            return Err(Errno::ENODATA.into());
        }
        if self.mode.has(flags::WATCH) {
            Ok(Next::Wait)
        } else {
            Ok(Next::End)
        }
    }

    /// Tells once that all there was has been sent.
    fn sentinel(&mut self) {
        if self.mode.has(flags::WATCH_INITIAL_SENTINEL)
            && !std::mem::replace(&mut self.sentinel_sent, true)
            && !self.is_removed()
        {
            self.handle
                .respond_raw(self.request.message(), Bytes::new());
        }
    }

    fn answer(&mut self, value: Box<RawValue>) {
        if self.mode.has(flags::WATCH_UNIQ | flags::WATCH_FULL) {
            if self.last.as_deref() == Some(value.get()) {
                return;
            }
            self.last = Some(value.get().into());
        }
        self.reply(value);
    }

    fn reply(&self, value: Box<RawValue>) {
        if !self.is_removed() {
            self.request.reply(&Found { val: value });
        }
    }

    fn reply_blob(&self, bytes: Bytes) {
        if self.mode.has(flags::WATCH_BLOBS) {
            if !self.is_removed() && !bytes.is_empty() {
                self.handle.respond_raw(self.request.message(), bytes);
            }
            return;
        }
        // A tree object encodes to JSON by construction.
        if let Ok(value) = RawValue::from_string(TreeObj::encode_val(&bytes)) {
            self.reply(value);
        }
    }

    /// Answers with the pieces of a value that have not been answered yet.
    async fn answer_blobs(&mut self, value: &RawValue) -> Result<(), RpcError> {
        let object = TreeObj::decode(value.get().as_bytes())
            .map_err(|_| RpcError::from(Errno::ENOTRECOVERABLE))?;
        let overwritten = "value of key watched with WATCH_APPEND overwritten";
        match object {
            TreeObj::Val(bytes) if !self.answered => {
                self.blobs = 1;
                self.reply_blob(bytes.into());
                Ok(())
            }
            TreeObj::ValRef(blobrefs) => self.answer_new(&blobrefs).await,
            TreeObj::Dir(_) | TreeObj::DirRef(_) if !self.answered => Err(Errno::EISDIR.into()),
            _ if self.answered => Err(RpcError::new(Errno::EINVAL, overwritten)),
            other => {
                let how = if self.mode.has(flags::STREAM) {
                    "streamed"
                } else {
                    "watched with WATCH_APPEND"
                };
                let text = format!("{} cannot be {how}", other.type_name());
                Err(RpcError::new(Errno::EINVAL, text))
            }
        }
    }

    async fn answer_new(&mut self, blobrefs: &[BlobRef]) -> Result<(), RpcError> {
        if blobrefs.len() < self.blobs {
            let text = "key watched with WATCH_APPEND shortened";
            return Err(RpcError::new(Errno::EINVAL, text));
        }
        let topic = || ContentLoad::topic_of(ContentLoad::SERVICE).into();
        let calls: Vec<_> = blobrefs[self.blobs..]
            .iter()
            .map(|blobref| {
                let digest = Bytes::copy_from_slice(blobref.digest());
                self.handle.call_raw(topic(), self.handle.rank(), digest)
            })
            .collect();
        for call in calls {
            let blob = call.await?.payload.unwrap_or_default();
            self.blobs += 1;
            self.reply_blob(blob);
        }
        Ok(())
    }
}

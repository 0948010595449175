//! Blobs that are hashed by a thread of their own, and who has to wait for them.

use bytes::Bytes;
use rpc::RpcError;
use spec::{BlobRef, HashKind};

use crate::errands::Errands;

/// The thread, and the count of what it does. `W` waits for what was begun before it came.
pub(super) struct Hasher<W> {
    errands: Option<Errands>,
    begun: u64,
    done: u64,
    /// Each with the number that has to be done.
    waiting: Vec<(u64, W)>,
}

impl<W> Default for Hasher<W> {
    fn default() -> Self {
        Hasher {
            errands: None,
            begun: 0,
            done: 0,
            waiting: Vec::new(),
        }
    }
}

impl<W> Hasher<W> {
    /// Hashes a blob. [`Hasher::on_done`] has to be told of the end.
    ///
    /// # Errors
    ///
    /// There is no thread to be had.
    pub(super) fn hash(
        &mut self,
        kind: HashKind,
        blob: Bytes,
    ) -> Result<impl Future<Output = Result<BlobRef, RpcError>> + use<W>, RpcError> {
        let errands = match self.errands.take() {
            Some(errands) => errands,
            None => Errands::start("content-hash")?,
        };
        self.begun += 1;
        let errands = self.errands.insert(errands);
        Ok(errands.run(move || Ok(BlobRef::hash(kind, &blob))))
    }

    /// Whether any blob is being hashed.
    pub(super) fn is_busy(&self) -> bool {
        self.done < self.begun
    }

    /// Holds something back until as many blobs are done as have begun by now.
    pub(super) fn after_this(&mut self, waiter: W) {
        self.waiting.push((self.begun, waiter));
    }

    /// A blob is done. Returns what need not be held back any more.
    pub(super) fn on_done(&mut self) -> Vec<W> {
        self.done += 1;
        let ready = |(number, _): &mut (u64, W)| *number <= self.done;
        let ready = self.waiting.extract_if(.., ready);
        ready.map(|(_, waiter)| waiter).collect()
    }
}

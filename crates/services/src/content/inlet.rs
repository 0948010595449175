//! The short way for blobs between modules of the leader: many at a time, with their addresses, so
//! that each is hashed once and a commit's blobs are one errand.
//!
//! `content` offers one to the KVS, and a backing store may offer one to `content`. What is handed
//! over here has been hashed by us: nothing from outside comes this way.

use std::marker::PhantomData;

use bytes::Bytes;
use module::Exchange;
use rpc::RpcError;
use spec::BlobRef;
use tokio::sync::{mpsc, oneshot};
use types::Errno;

/// Blobs with their addresses.
pub(crate) type Blobs = Vec<(BlobRef, Bytes)>;

/// What came of each blob, in their order.
pub(crate) type Results = Vec<Result<(), RpcError>>;

/// The way into `content`.
pub(crate) enum Cache {}

/// The way into the backing store.
pub(crate) enum Backing {}

/// Blobs handed over.
pub(crate) struct Delivery {
    pub(crate) blobs: Blobs,
    pub(crate) done: oneshot::Sender<Results>,
}

/// The sending end.
pub(crate) struct Inlet<To> {
    sender: mpsc::UnboundedSender<Delivery>,
    to: PhantomData<To>,
}

impl<To> Clone for Inlet<To> {
    fn clone(&self) -> Self {
        Inlet {
            sender: self.sender.clone(),
            to: PhantomData,
        }
    }
}

impl<To: 'static> Inlet<To> {
    /// Offers a way in, and returns where it ends.
    pub(crate) fn offer(exchange: &Exchange) -> mpsc::UnboundedReceiver<Delivery> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let to = PhantomData;
        exchange.offer(Inlet::<To> { sender, to });
        receiver
    }

    /// Hands blobs over now; the future tells what came of them.
    pub(crate) fn store(&self, blobs: Blobs) -> impl Future<Output = Results> + use<To> {
        let count = blobs.len();
        let (done, stored) = oneshot::channel();
        // If the module is gone, so is `done`, and that is the answer.
        let _gone = self.sender.send(Delivery { blobs, done });
        async move {
            stored
                .await
                .unwrap_or_else(|_| vec![Err(Errno::ENOSYS.into()); count])
        }
    }
}

//! A DEALER with one peer.

use std::ops::ControlFlow;
use std::rc::Rc;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_local};

use super::endpoint::{Endpoint, Stream};
use super::link::Link;
use super::{Closed, Options, SendError};
use crate::connection::{Config, Event, Multipart, PeerInfo};

/// What happens on a DEALER after it connected.
#[derive(Debug)]
pub enum DealerEvent {
    /// A message arrived.
    Message(Multipart),
    /// The peer answered a ping or pinged: it is alive.
    Alive,
    /// The connection is gone. Nothing follows.
    Disconnected(Closed),
}

/// A connected DEALER. Dropping it closes the connection after the linger time at most.
pub struct Dealer {
    link: Rc<Link>,
    peer: Box<PeerInfo>,
    task: Option<JoinHandle<()>>,
}

impl Dealer {
    /// Connects to `endpoint` and completes the handshake. From then on events go to `on_event`,
    /// from tasks of the current thread; the call must be made inside a tokio `LocalRuntime` or
    /// `LocalSet`. With [`Options::connect_retry`] this waits for a listener without limit:
    /// bound it from outside. Dropping the future gives up.
    pub async fn connect(
        endpoint: &Endpoint,
        config: Config,
        options: Options,
        mut on_event: impl FnMut(DealerEvent) + 'static,
    ) -> Result<Dealer, Closed> {
        let stream =
            Stream::connect(endpoint, options.connect_retry, options.tcp_user_timeout).await?;
        let link = Rc::new(Link::new(config, options));
        let (ready_sender, ready) = oneshot::channel();
        let mut guard = CloseOnDrop(Some(link.clone()));
        let task_link = link.clone();
        let task = spawn_local(async move {
            let mut ready_sender = Some(ready_sender);
            let reason = task_link
                .run(stream, |event| {
                    match event {
                        Event::Ready(peer) => {
                            if let Some(sender) = ready_sender.take() {
                                // A caller that gave up closes the link through its guard.
                                let _ = sender.send(Ok(peer));
                            }
                        }
                        Event::Message(parts) => on_event(DealerEvent::Message(parts)),
                        Event::Ping | Event::Pong(_) => on_event(DealerEvent::Alive),
                    }
                    ControlFlow::Continue(())
                })
                .await;
            match ready_sender {
                // As above.
                Some(sender) => drop(sender.send(Err(reason))),
                None => on_event(DealerEvent::Disconnected(reason)),
            }
        });
        // The task always answers, unless the runtime is shutting down.
        let peer = ready.await.unwrap_or(Err(Closed::Local))?;
        guard.0 = None;
        Ok(Dealer {
            link,
            peer,
            task: Some(task),
        })
    }

    /// What the handshake told about the peer.
    pub fn peer(&self) -> &PeerInfo {
        &self.peer
    }

    /// Queues a message.
    /// Errors: [`SendError::Closed`] or [`SendError::Full`].
    pub fn send(&self, parts: &[Bytes]) -> Result<(), SendError> {
        self.link.send(parts)
    }

    /// Ends the connection once what is queued is written or the linger time is over.
    pub fn close(&self) {
        self.link.close(Closed::Local);
    }

    /// Closes, and waits until what was queued is written or the linger time is over. A program
    /// that ends at once would otherwise lose it.
    pub async fn shutdown(mut self) {
        self.close();
        if let Some(task) = self.task.take() {
            // A task that panicked has nothing left to write.
            let _ = task.await;
        }
    }
}

impl Drop for Dealer {
    fn drop(&mut self) {
        self.close();
    }
}

/// Ends a connection whose `connect` future was dropped.
struct CloseOnDrop(Option<Rc<Link>>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        if let Some(link) = &self.0 {
            link.close(Closed::Local);
        }
    }
}

//! The broker's own services as peers of the router: one queue, one task, a table of routes each.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;

use proto::overlay::HEARTBEAT_PULSE;
use rpc::Routes;
use serde_json::json;
use tokio::sync::mpsc;
use types::Errno;
use wire::{Message, RouteId};

use crate::broker::Broker;
use crate::router::Peer;

/// The routes of a service, over the whole broker.
pub(crate) type ServiceRoutes = Routes<Rc<Broker>>;

struct Internal {
    id: RouteId,
    queue: mpsc::UnboundedSender<Message>,
}

impl Peer for Internal {
    fn id(&self) -> &RouteId {
        &self.id
    }

    fn deliver(&self, message: Message) {
        // The task that takes these lives as long as the broker.
        let _ending = self.queue.send(message);
    }

    fn sees_private(&self, _event: &Message) -> bool {
        true
    }

    /// In routes, the broker itself answers.
    fn is_hop(&self) -> bool {
        false
    }

    fn module_name<'a>(&'a self, message: &'a Message) -> Option<&'a str> {
        own_module(message)
    }
}

/// The broker's own services that lists and traces show as modules, as the reference has them.
pub(crate) const OWN_MODULES: [&str; 4] = ["config", "connector-local", "groups", "overlay"];

/// Which of [`OWN_MODULES`] a message belongs to. The heartbeat is the overlay's.
pub(crate) fn own_module(message: &Message) -> Option<&'static str> {
    let service = match message.topic_str() {
        HEARTBEAT_PULSE => "overlay",
        topic => topic.split('.').next().unwrap_or_default(),
    };
    OWN_MODULES.into_iter().find(|&name| name == service)
}

/// Registers services and serves them in a task of their own.
pub(crate) fn serve(
    broker: &Rc<Broker>,
    services: Vec<(&'static str, ServiceRoutes)>,
) -> Result<(), Errno> {
    let (queue, mut inbox) = mpsc::unbounded_channel::<Message>();
    let peer = Rc::new(Internal {
        id: broker.router.id().clone(),
        queue,
    });
    for (name, _) in &services {
        broker.router.add_service(name, peer.clone())?;
    }
    let peer: Rc<dyn Peer> = peer;
    broker.router.subscribe(&peer, HEARTBEAT_PULSE);
    let services: HashMap<_, _> = services.into_iter().collect();
    let mut broker = broker.clone();
    tokio::task::spawn_local(async move {
        let handle = broker.router.handle();
        let debug_flags: HashMap<_, Rc<Cell<i32>>> =
            services.keys().map(|name| (*name, Rc::default())).collect();
        while let Some(message) = inbox.recv().await {
            if !message.is_request() {
                crate::services::on_event(&broker, &message);
                continue;
            }
            let topic = message.topic.clone();
            let Some(topic) = topic else { continue };
            let Some((name, routes)) = services.get_key_value(topic.service()) else {
                continue;
            };
            if routes.has(topic.method()) {
                routes.dispatch(&mut broker, &handle, message);
            } else {
                let id = broker.router.id().clone();
                module::dispatch_generic(&handle, &id, &debug_flags[name], json!({}), message);
            }
        }
    });
    Ok(())
}

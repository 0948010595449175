//! Disconnect notices: telling services that a party which used them is gone (RFC 6).

use std::collections::HashMap;

use wire::{Flags, Kind, Message, Target, Topic};

/// The services one party has used, with the notice each will get.
#[derive(Default)]
pub struct Disconnects {
    /// By rank and direction, then by topic up to its last dot, so that the common case, a service
    /// used before, is found without allocating.
    armed: HashMap<(u32, bool), HashMap<String, Message>>,
}

impl Disconnects {
    /// Remembers the service a request goes to. The notice will have the request's credentials and
    /// routes. Requests that want no response leave nothing behind at the service and are not
    /// remembered.
    pub fn arm(&mut self, request: &Message) {
        let Kind::Request { target, .. } = request.kind else {
            return;
        };
        if request.flags.contains(Flags::NORESPONSE) {
            return;
        }
        let nodeid = match target {
            Target::Any => u32::MAX,
            Target::Rank(rank) => rank.0,
        };
        let upstream = request.flags.contains(Flags::UPSTREAM);
        let prefix = request
            .topic_str()
            .rsplit_once('.')
            .map_or("", |(prefix, _)| prefix);
        let services = self.armed.entry((nodeid, upstream)).or_default();
        if services.contains_key(prefix) {
            return;
        }
        let topic = if prefix.is_empty() {
            Topic::from_static("disconnect")
        } else {
            Topic::from(format!("{prefix}.disconnect"))
        };
        let mut notice = request.clone();
        notice.topic = Some(topic);
        notice.payload = None;
        notice.flags = if upstream {
            Flags::UPSTREAM
        } else {
            Flags::NONE
        }
        .with(Flags::NORESPONSE);
        services.insert(prefix.to_owned(), notice);
    }

    /// The notices, which are then forgotten.
    pub fn take(&mut self) -> Vec<Message> {
        self.armed
            .drain()
            .flat_map(|(_, services)| services.into_values())
            .collect()
    }
}

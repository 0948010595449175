//! Traces: who asked to see messages as they pass modules, or the overlay.
//!
//! Until somebody asks, a message costs one look at a flag.

use std::cell::{Cell, RefCell};
use std::time::{SystemTime, UNIX_EPOCH};

use proto::Rpc;
use proto::trace::{ModuleTrace, OverlayTrace, TraceModules, TraceOverlay, TraceRecord, mask};
use rpc::Request;
use types::{Errno, Rank};
use wire::{Kind, Message};

/// Which way a message goes, seen from the module or this broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Sent,
    Received,
}

/// Whose message it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Party<'a> {
    /// A module's, by name.
    Module(&'a str),
    /// A neighbour's.
    Neighbour(Rank),
    /// One that goes to every child.
    Children,
}

/// A trace that can be asked for.
pub(crate) trait Traced: Rpc<Response = TraceRecord> {
    /// What messages it shows.
    fn filter(request: Self::Request) -> Filter;
}

impl Traced for ModuleTrace {
    fn filter(request: TraceModules) -> Filter {
        Filter {
            names: request.names,
            rank: None,
            typemask: request.typemask,
            glob: request.topic_glob,
            full: request.full,
        }
    }
}

impl Traced for OverlayTrace {
    fn filter(request: TraceOverlay) -> Filter {
        let any = i64::from(u32::MAX);
        let rank = u32::try_from(request.nodeid).ok();
        Filter {
            names: Vec::new(),
            rank: rank.filter(|_| request.nodeid != any).map(Rank),
            typemask: request.typemask,
            glob: request.topic_glob,
            full: request.full,
        }
    }
}

/// What messages a follower wants to see.
#[derive(Debug)]
pub(crate) struct Filter {
    /// Modules; none for all.
    names: Vec<String>,
    /// A neighbour, `None` for any. What goes to all children goes to it too.
    rank: Option<Rank>,
    typemask: i32,
    glob: String,
    full: bool,
}

impl Filter {
    fn takes(&self, party: Party<'_>, kind: i32, topic: &str) -> bool {
        let named = match party {
            Party::Module(name) => {
                self.names.is_empty() || self.names.iter().any(|known| known == name)
            }
            Party::Neighbour(rank) => self.rank.is_none_or(|wanted| wanted == rank),
            Party::Children => true,
        };
        named && self.typemask & kind != 0 && types::glob::matches(&self.glob, topic)
    }
}

/// The followers of one kind of trace.
pub(crate) struct Traces<R: Rpc> {
    active: Cell<bool>,
    followers: RefCell<Vec<(Request<R>, Filter)>>,
}

impl<R: Rpc> Default for Traces<R> {
    fn default() -> Self {
        Traces {
            active: Cell::new(false),
            followers: RefCell::default(),
        }
    }
}

impl<R: Traced> Traces<R> {
    /// Lets a client follow until it leaves.
    pub(crate) fn follow(&self, request: Request<R>, wanted: R::Request) {
        self.followers
            .borrow_mut()
            .push((request, R::filter(wanted)));
        self.active.set(true);
    }

    /// Whether anybody follows.
    pub(crate) fn is_active(&self) -> bool {
        self.active.get()
    }

    /// Forgets the followers a disconnect notice speaks for.
    pub(crate) fn forget(&self, notice: &Message) {
        let mut followers = self.followers.borrow_mut();
        followers.retain(|(request, _)| !request.is_from_sender_of(notice));
        self.active.set(!followers.is_empty());
    }

    /// Shows a message to those who want to see it.
    pub(crate) fn show(&self, way: Way, party: Party<'_>, message: &Message) {
        if self.active.get() {
            self.show_to_followers(way, party, message);
        }
    }

    #[cold]
    fn show_to_followers(&self, way: Way, party: Party<'_>, message: &Message) {
        // A trace of its own records would never end.
        if message.topic_str() == R::topic() {
            return;
        }
        let (kind, topic) = (kind_of(message), topic_of(message));
        for (request, filter) in &*self.followers.borrow() {
            if filter.takes(party, kind, &topic) {
                request.reply(&record(way, party, message, &topic, filter.full));
            }
        }
    }
}

fn kind_of(message: &Message) -> i32 {
    match message.kind {
        Kind::Request { .. } => mask::REQUEST,
        Kind::Response { .. } => mask::RESPONSE,
        Kind::Event { .. } => mask::EVENT,
        Kind::Control { .. } => mask::CONTROL,
    }
}

fn topic_of(message: &Message) -> String {
    let Kind::Control { kind, status } = message.kind else {
        return message.topic_str().to_owned();
    };
    let name = match tbon::Control::from_numbers(kind as i32, status as i32) {
        Some(tbon::Control::Heartbeat) => "heartbeat",
        Some(tbon::Control::Status(_)) => "status",
        Some(tbon::Control::Disconnect) => "disconnect",
        None => "unknown",
    };
    format!("{name} {status}")
}

fn record(way: Way, party: Party<'_>, message: &Message, topic: &str, full: bool) -> TraceRecord {
    let errno = match message.kind {
        Kind::Response { errno, .. } => errno,
        _ => None,
    };
    let payload = message.payload.as_ref().filter(|_| errno.is_none());
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    TraceRecord {
        timestamp: since.map_or(0.0, |since| since.as_secs_f64()),
        prefix: match way {
            Way::Sent => "tx".to_owned(),
            Way::Received => "rx".to_owned(),
        },
        rank: match party {
            Party::Neighbour(rank) => rank.0.into(),
            Party::Module(_) | Party::Children => -1,
        },
        name: match party {
            Party::Module(name) => Some(name.to_owned()),
            Party::Neighbour(_) | Party::Children => None,
        },
        kind: kind_of(message),
        topic: topic.to_owned(),
        payload_size: payload.map_or(0, |bytes| i64::try_from(bytes.len()).unwrap_or(i64::MAX)),
        payload: payload
            .filter(|_| full)
            .and_then(|bytes| serde_json::from_slice(bytes.strip_suffix(b"\0")?).ok()),
        errnum: errno.map_or(0, |Errno(number)| number),
        errstr: errno.and(message.text()).unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::Target;

    fn filter(names: &[&str], rank: Option<u32>, typemask: i32, glob: &str) -> Filter {
        Filter {
            names: names.iter().map(|&name| name.to_owned()).collect(),
            rank: rank.map(Rank),
            typemask,
            glob: glob.to_owned(),
            full: false,
        }
    }

    #[test]
    fn filters_choose_by_party_type_and_topic() {
        let all = filter(&[], None, mask::ANY, "*");
        assert!(all.takes(Party::Module("kvs"), mask::EVENT, "a.b"));
        let kvs = filter(&["kvs"], None, mask::REQUEST, "kvs.*");
        assert!(kvs.takes(Party::Module("kvs"), mask::REQUEST, "kvs.commit"));
        assert!(!kvs.takes(Party::Module("kvs"), mask::RESPONSE, "kvs.commit"));
        assert!(!kvs.takes(Party::Module("kvs"), mask::REQUEST, "content.load"));
        assert!(!kvs.takes(Party::Module("content"), mask::REQUEST, "kvs.commit"));
        let second = filter(&[], Some(2), mask::ANY, "*");
        assert!(second.takes(Party::Neighbour(Rank(2)), mask::REQUEST, "a.b"));
        assert!(!second.takes(Party::Neighbour(Rank(1)), mask::REQUEST, "a.b"));
        assert!(second.takes(Party::Children, mask::EVENT, "a.b"));
    }

    #[test]
    fn any_rank_is_minus_one_signed_or_not() {
        let rank = |nodeid| {
            let request = TraceOverlay {
                typemask: mask::ANY,
                topic_glob: "*".to_owned(),
                nodeid,
                full: false,
            };
            OverlayTrace::filter(request).rank
        };
        assert_eq!(rank(-1), None);
        assert_eq!(rank(u32::MAX.into()), None);
        assert_eq!(rank(3), Some(Rank(3)));
    }

    #[test]
    fn records_tell_payloads_and_errors() {
        let request = Message::request("kvs.get".into(), Target::Any, Some(types::Matchtag(1)))
            .with_payload(bytes::Bytes::from_static(b"{\"key\":\"a\"}\0"));
        let seen = record(Way::Sent, Party::Module("kvs"), &request, "kvs.get", true);
        assert_eq!((seen.prefix.as_str(), seen.rank, seen.kind), ("tx", -1, 1));
        assert_eq!(seen.payload_size, 12);
        assert_eq!(seen.payload, Some(serde_json::json!({"key": "a"})));
        let refusal = request.response(Some(Errno::ENOENT)).expect("wants one");
        let refusal = refusal.with_text("no such key");
        let party = Party::Neighbour(Rank(1));
        let seen = record(Way::Received, party, &refusal, "kvs.get", true);
        assert_eq!((seen.prefix.as_str(), seen.rank, seen.kind), ("rx", 1, 2));
        assert_eq!((seen.payload_size, seen.payload), (0, None));
        assert_eq!((seen.errnum, seen.errstr.as_str()), (2, "no such key"));
    }

    #[test]
    fn control_messages_are_named() {
        let (kind, status) = tbon::Control::Disconnect.numbers();
        let message = Message::control(kind as u32, status as u32);
        assert_eq!(topic_of(&message), "disconnect 0");
        assert_eq!(topic_of(&Message::control(99, 7)), "unknown 7");
    }
}

//! One broker by hand, then whole trees in simulation.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::topology::Scheme;

const VERSION: Version = Version {
    major: 0,
    minor: 88,
    patch: 0,
};

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn overlay(rank: u32, topology: &Rc<Topology>, now: Duration) -> Overlay {
    let rank = Rank(rank);
    let hosts = topology
        .children(rank)
        .iter()
        .map(|child| format!("host{child}"));
    let config = Config {
        rank,
        topology: topology.clone(),
        version: VERSION,
        parent_host: topology
            .parent(rank)
            .map(|p| format!("host{p}"))
            .unwrap_or_default(),
        child_hosts: hosts.collect(),
        torpid_min: secs(5),
        torpid_max: secs(30),
    };
    Overlay::new(config, now)
}

/// Rank `rank` of a binary tree of 7.
fn broker(rank: u32) -> Overlay {
    overlay(
        rank,
        &Rc::new(Topology::new(Scheme::Kary(2), 7).unwrap()),
        secs(0),
    )
}

fn hello(rank: u32, uuid: &str, status: Status) -> Hello {
    Hello {
        rank: Rank(rank),
        version: VERSION,
        uuid: uuid.into(),
        status,
        hostname: None,
    }
}

fn join(broker: &mut Overlay, rank: u32, uuid: &str, status: Status) -> Effects {
    let mut out = Vec::new();
    broker
        .on_hello(secs(1), &hello(rank, uuid, status), true, &mut out)
        .unwrap();
    out
}

fn logs(effects: &Effects) -> Vec<(Level, &str)> {
    let logs = effects.iter().filter_map(|e| match e {
        Effect::Log(level, text) => Some((*level, text.as_str())),
        _ => None,
    });
    logs.collect()
}

fn changed(rank: u32, status: Status, torpid: bool) -> Effect {
    Effect::ChildChanged {
        rank: Rank(rank),
        status,
        torpid,
    }
}

#[test]
fn initial_status_depends_on_children() {
    assert_eq!(broker(0).status(), Status::Partial);
    assert_eq!(broker(6).status(), Status::Full);
}

#[test]
fn children_join() {
    let mut b = broker(0);
    let out = join(&mut b, 1, "u1", Status::Full);
    let accepted = "accepting connection from host1 (rank 1) status full";
    assert_eq!(
        out,
        [
            Effect::Log(Level::Debug, accepted.into()),
            changed(1, Status::Full, false),
            Effect::HealthChanged
        ]
    );
    assert_eq!(b.status(), Status::Partial);
    join(&mut b, 2, "u2", Status::Full);
    assert_eq!(b.status(), Status::Full);
    assert_eq!(b.child_by_uuid("u2"), Some(Rank(2)));
    assert_eq!(b.next_hop(Rank(6)), NextHop::Child(Rank(2), "u2"));
    assert_eq!(b.health(secs(4)).duration, secs(3));
}

#[test]
fn hello_is_checked() {
    let check = |hello: Hello, owner, errno, response: Option<&str>, log: Option<&str>| {
        let mut out = Vec::new();
        let error = broker(0)
            .on_hello(secs(1), &hello, owner, &mut out)
            .unwrap_err();
        assert_eq!(error.errno(), errno);
        assert_eq!(error.response_text().as_deref(), response);
        let expect: Vec<_> = log.into_iter().map(|text| (Level::Err, text)).collect();
        assert_eq!(logs(&out), expect);
    };
    let good = hello(1, "u", Status::Full);
    check(good.clone(), false, Some(Errno::EPERM), None, None);
    check(
        hello(3, "u", Status::Full),
        true,
        Some(Errno::EINVAL),
        Some("rank 3 is not a child of rank 0: mismatched config?"),
        Some(
            "rejecting connection from unknown host (rank 3): \
             rank 3 is not a child of rank 0: mismatched config?",
        ),
    );
    check(
        Hello {
            hostname: Some("evil".into()),
            ..good.clone()
        },
        true,
        Some(Errno::EINVAL),
        None,
        Some(
            "rejecting connection from evil (rank 1): \
             host1 is configured as rank 1: mismatched config?",
        ),
    );
    check(
        Hello {
            version: Version {
                major: 0,
                minor: 87,
                patch: 1,
            },
            ..good.clone()
        },
        true,
        Some(Errno::EINVAL),
        Some("client (0.87.1) version mismatched with server (0.88.0)"),
        Some(
            "rejecting connection from host1 (rank 1): \
             client (0.87.1) version mismatched with server (0.88.0)",
        ),
    );
    let mut out = Vec::new();
    let patched = Hello {
        version: Version {
            patch: 9,
            ..VERSION
        },
        ..good
    };
    assert_eq!(
        broker(0).on_hello(secs(1), &patched, true, &mut out),
        Ok(())
    );
    let lost = hello(1, "u", Status::Lost);
    assert_eq!(
        broker(0).on_hello(secs(1), &lost, true, &mut out),
        Err(HelloError::Malformed)
    );
}

#[test]
fn version_mismatch_shows_in_health() {
    let mut b = broker(0);
    let version = Version {
        major: 1,
        minor: 0,
        patch: 0,
    };
    let other = Hello {
        version,
        ..hello(1, "u", Status::Full)
    };
    assert!(b.on_hello(secs(1), &other, true, &mut Vec::new()).is_err());
    let error = b.health(secs(1)).children[0].error.clone().unwrap();
    assert_eq!(
        error,
        "client (1.0.0) version mismatched with server (0.88.0)"
    );
    join(&mut b, 1, "u", Status::Full);
    assert_eq!(b.health(secs(1)).children[0].error, None);
}

#[test]
fn loss_is_reported_and_cleaned_up() {
    let mut b = broker(0);
    join(&mut b, 1, "u1", Status::Full);
    let mut out = Vec::new();
    b.on_child_lost(secs(9), Rank(1), &mut out);
    let text = "host1 (rank 1) failed and severed contact with 2 other nodes";
    assert_eq!(
        out,
        [
            Effect::Log(Level::Err, text.into()),
            Effect::FailChildRpcs {
                rank: Rank(1),
                uuid: "u1".into()
            },
            Effect::SubtreeGone(Rank(1)),
            changed(1, Status::Lost, false),
            Effect::HealthChanged,
            Effect::ChildrenGone,
        ]
    );
    assert_eq!(b.status(), Status::Degraded);
    assert_eq!(
        b.health(secs(9)).children[0].error.as_deref(),
        Some("lost connection")
    );
    assert_eq!(b.next_hop(Rank(3)), NextHop::Unreachable);
    out.clear();
    b.on_child_lost(secs(9), Rank(1), &mut out);
    assert!(out.is_empty());
}

#[test]
fn goodbye_is_no_loss() {
    let mut b = broker(1);
    join(&mut b, 3, "u3", Status::Full);
    join(&mut b, 4, "u4", Status::Full);
    let mut out = Vec::new();
    b.on_goodbye(secs(5), Rank(3), &mut out);
    b.on_child_lost(secs(5), Rank(3), &mut out);
    assert!(logs(&out).is_empty());
    assert!(!out.contains(&Effect::ChildrenGone));
    assert_eq!(b.status(), Status::Partial);
    let child = &b.health(secs(7)).children[0];
    assert_eq!((child.status, child.duration), (Status::Offline, secs(2)));
    assert_eq!(child.error.as_deref(), Some("administrative shutdown"));
}

#[test]
fn administrator_disconnects() {
    let mut b = broker(0);
    join(&mut b, 1, "u1", Status::Full);
    let mut out = Vec::new();
    b.disconnect_child(secs(2), Rank(1), &mut out).unwrap();
    let text = "host1 (rank 1) disconnected by request and severed contact with 2 other nodes";
    assert_eq!(logs(&out), [(Level::Err, text)]);
    assert_eq!(out[1], Effect::SendChild("u1".into(), Control::Disconnect));
    assert_eq!(out[2], Effect::CloseChild("u1".into()));
    let error = b.disconnect_child(secs(2), Rank(1), &mut out).unwrap_err();
    assert_eq!(error.to_string(), "rank 1 is already lost");
    let error = b.disconnect_child(secs(2), Rank(3), &mut out).unwrap_err();
    assert_eq!(
        error.to_string(),
        "requested rank is not this broker's direct child"
    );
    let error = b.subtree(Rank(3)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "requested rank is not this broker or its direct child"
    );
    assert_eq!(b.subtree(Rank(2)).unwrap().size, 3);
}

#[test]
fn restart_after_a_crash_drops_the_old_state() {
    let mut b = broker(1);
    join(&mut b, 3, "old", Status::Full);
    let out = join(&mut b, 3, "new", Status::Full);
    assert_eq!(
        logs(&out),
        [
            (
                Level::Err,
                "host3 (rank 3) reconnected after crash, dropping old connection state"
            ),
            (
                Level::Err,
                "accepting connection from host3 (rank 3) status full"
            ),
        ]
    );
    assert!(out.contains(&changed(3, Status::Lost, false)));
    assert!(out.contains(&Effect::FailChildRpcs {
        rank: Rank(3),
        uuid: "old".into()
    }));
    assert_eq!(b.child_by_uuid("old"), None);
    assert_eq!(b.child_by_uuid("new"), Some(Rank(3)));
}

#[test]
fn torpid_comes_and_goes() {
    let mut b = broker(0);
    join(&mut b, 2, "u2", Status::Full);
    let mut out = Vec::new();
    b.on_heartbeat(secs(30), &mut out);
    assert!(out.is_empty());
    b.on_heartbeat(secs(31), &mut out);
    let text = "broker on host2 (rank 2) has been unresponsive for 30s";
    assert_eq!(
        out,
        [
            Effect::Log(Level::Err, text.into()),
            changed(2, Status::Full, true)
        ]
    );
    out.clear();
    b.on_heartbeat(secs(40), &mut out);
    assert!(out.is_empty());
    b.on_child_message(secs(41), Rank(2), &mut out);
    assert_eq!(
        logs(&out),
        [(Level::Err, "broker on host2 (rank 2) is responsive now")]
    );
    assert_eq!(out[1], changed(2, Status::Full, false));
}

#[test]
fn child_sends_heartbeats_only_when_silent() {
    let mut b = broker(3);
    let mut out = Vec::new();
    b.on_heartbeat(secs(100), &mut out);
    assert!(out.is_empty());
    b.hello("u3", None);
    b.on_hello_response(secs(100), Ok("u1"), &mut out);
    assert_eq!(logs(&out), [(Level::Debug, "hello parent 1 u1")]);
    out.clear();
    b.on_heartbeat(secs(104), &mut out);
    assert!(out.is_empty());
    b.on_heartbeat(secs(105), &mut out);
    assert_eq!(out, [Effect::SendParent(Control::Heartbeat)]);
    b.on_sent_to_parent(secs(109));
    out.clear();
    b.on_heartbeat(secs(110), &mut out);
    assert!(out.is_empty());
}

#[test]
fn parent_is_told_what_changed_during_hello() {
    let mut b = broker(1);
    assert_eq!(b.hello("u1", None).status, Status::Partial);
    join(&mut b, 3, "u3", Status::Full);
    let out = join(&mut b, 4, "u4", Status::Full);
    assert!(!out.iter().any(|e| matches!(e, Effect::SendParent(_))));
    let mut out = Vec::new();
    b.on_hello_response(secs(2), Ok("u0"), &mut out);
    assert_eq!(out[1], Effect::SendParent(Control::Status(Status::Full)));
}

#[test]
fn losing_the_parent_ends_the_broker() {
    let joined = || {
        let mut b = broker(1);
        b.hello("u1", None);
        b.on_hello_response(secs(1), Ok("u0"), &mut Vec::new());
        b
    };
    let mut out = Vec::new();
    joined().on_parent_control(Control::Disconnect, &mut out);
    let text = "host0 (rank 0) sent disconnect control message";
    let expect = [
        Effect::Log(Level::Crit, text.into()),
        Effect::CloseParent,
        Effect::FailParentRpcs,
        Effect::ParentFail,
    ];
    assert_eq!(out, expect);
    out.clear();
    joined().on_parent_lost(&mut out);
    assert_eq!(out, [Effect::FailParentRpcs, Effect::ParentFail]);
    out.clear();
    joined().disconnect_parent("no heartbeat for 5m", &mut out);
    assert_eq!(
        logs(&out),
        [(Level::Crit, "disconnecting: no heartbeat for 5m")]
    );

    let mut b = joined();
    out.clear();
    b.on_goodbye_response(&mut out);
    b.on_parent_lost(&mut out);
    assert_eq!(out, [Effect::FailParentRpcs]);
    assert_eq!(b.next_hop(Rank(0)), NextHop::Unreachable);

    let mut refused = broker(1);
    out.clear();
    refused.on_hello_response(secs(1), Err("go away"), &mut out);
    assert_eq!(logs(&out), [(Level::Err, "overlay.hello: go away")]);
    assert!(out.contains(&Effect::ParentFail));
}

#[test]
fn strangers_are_sent_away() {
    let mut b = broker(0);
    b.refuse_hellos();
    let mut out = Vec::new();
    let late = hello(1, "late", Status::Full);
    assert_eq!(
        b.on_hello(secs(1), &late, true, &mut out),
        Err(HelloError::Closing)
    );
    assert_eq!(out, [Effect::SendChild("late".into(), Control::Disconnect)]);
}

#[test]
fn nonsense_from_children_changes_nothing() {
    let mut b = broker(0);
    join(&mut b, 1, "u1", Status::Full);
    let mut out = Vec::new();
    for control in [
        Control::Status(Status::Lost),
        Control::Disconnect,
        Control::Heartbeat,
    ] {
        b.on_child_control(secs(2), Rank(1), control, &mut out);
        b.on_child_control(secs(2), Rank(9), control, &mut out);
    }
    assert!(out.is_empty());
}

/// A tree of brokers whose messages wait in queues, one in each direction of each edge.
struct Tree {
    topology: Rc<Topology>,
    brokers: Vec<Option<Overlay>>,
    /// Messages in flight: to, from, what.
    queue: VecDeque<(Rank, Rank, Message)>,
    now: Duration,
}

enum Message {
    Hello(Hello),
    Welcome,
    Up(Control),
    Down(Control),
    Goodbye,
    Dropped,
}

fn uuid(rank: Rank) -> String {
    format!("uuid{rank}")
}

impl Tree {
    fn new(scheme: Scheme, size: u32) -> Tree {
        let topology = Rc::new(Topology::new(scheme, size).unwrap());
        let now = secs(0);
        let mut tree = Tree {
            topology,
            brokers: Vec::new(),
            queue: VecDeque::new(),
            now,
        };
        for rank in (0..size).map(Rank) {
            let mut broker = overlay(rank.0, &tree.topology, now);
            if let Some(parent) = tree.topology.parent(rank) {
                let hello = broker.hello(&uuid(rank), None);
                tree.queue.push_back((parent, rank, Message::Hello(hello)));
            }
            tree.brokers.push(Some(broker));
        }
        tree
    }

    /// Delivers one message in flight, keeping the order of each edge.
    fn deliver(&mut self, pick: usize) {
        if self.queue.is_empty() {
            return;
        }
        let pick = pick % self.queue.len();
        let (to, from, _) = self.queue[pick];
        let first = self
            .queue
            .iter()
            .position(|(t, f, _)| (*t, *f) == (to, from))
            .unwrap();
        let (to, from, message) = self.queue.remove(first).unwrap();
        self.now += Duration::from_millis(1);
        let (now, mut out) = (self.now, Vec::new());
        let Some(broker) = &mut self.brokers[to.0 as usize] else {
            return;
        };
        match message {
            Message::Hello(hello) => {
                if broker.on_hello(now, &hello, true, &mut out).is_ok() {
                    self.queue.push_back((from, to, Message::Welcome));
                }
            }
            Message::Welcome => broker.on_hello_response(now, Ok(&uuid(from)), &mut out),
            Message::Up(control) => broker.on_child_control(now, from, control, &mut out),
            Message::Down(control) => broker.on_parent_control(control, &mut out),
            Message::Goodbye => broker.on_goodbye(now, from, &mut out),
            Message::Dropped if self.topology.parent(to) == Some(from) => {
                broker.on_parent_lost(&mut out);
            }
            Message::Dropped => broker.on_child_lost(now, from, &mut out),
        }
        self.carry_out(to, out);
    }

    fn carry_out(&mut self, at: Rank, effects: Effects) {
        let parent = self.topology.parent(at);
        for effect in effects {
            match effect {
                Effect::SendParent(control) => {
                    self.queue
                        .push_back((parent.unwrap(), at, Message::Up(control)));
                }
                Effect::SendChild(uuid, control) => {
                    let to = Rank(uuid.trim_start_matches("uuid").parse().unwrap());
                    self.queue.push_back((to, at, Message::Down(control)));
                }
                Effect::ParentFail => self.crash(at),
                _ => {}
            }
        }
    }

    /// The broker is gone; its neighbours find out when the news reaches them.
    fn crash(&mut self, rank: Rank) {
        if self.brokers[rank.0 as usize].take().is_none() {
            return;
        }
        let children = self.topology.children(rank).iter().copied();
        for neighbour in children.chain(self.topology.parent(rank)) {
            self.queue.push_back((neighbour, rank, Message::Dropped));
        }
    }

    /// A leaf leaves in good order.
    fn say_goodbye(&mut self, rank: Rank) {
        let leaf = self.topology.children(rank).is_empty();
        let joined = |b: &Overlay| b.parent_uuid().is_some();
        if leaf && self.brokers[rank.0 as usize].as_ref().is_some_and(joined) {
            self.brokers[rank.0 as usize] = None;
            let parent = self.topology.parent(rank).unwrap();
            self.queue.push_back((parent, rank, Message::Goodbye));
        }
    }

    fn settle(&mut self) {
        while !self.queue.is_empty() {
            self.deliver(0);
        }
    }

    /// When nothing is in flight, every broker's view agrees with its neighbours.
    fn check(&self) {
        for rank in (0..self.topology.size()).map(Rank) {
            let Some(broker) = &self.brokers[rank.0 as usize] else {
                continue;
            };
            let health = broker.health(self.now);
            for child in &health.children {
                match &self.brokers[child.rank.0 as usize] {
                    Some(live) => assert_eq!(child.status, live.status(), "rank {}", child.rank),
                    None => assert!(!child.status.is_connected(), "rank {}", child.rank),
                }
            }
            let connected = health
                .children
                .iter()
                .filter(|c| c.status.is_connected())
                .count();
            assert_eq!(connected, broker.connected());
            // A broker that lives has living ancestors, and the way up and down is open.
            if let Some(parent) = self.topology.parent(rank) {
                let parent = self.brokers[parent.0 as usize].as_ref().expect("orphan");
                assert_eq!(parent.child_by_uuid(&uuid(rank)), Some(rank));
                assert_eq!(broker.next_hop(Rank(0)), NextHop::Parent);
            }
        }
        let missing = self.brokers.iter().filter(|b| b.is_none()).count();
        let root = self.brokers[0]
            .as_ref()
            .expect("the root never crashes here");
        assert_eq!(root.status() == Status::Full, missing == 0);
    }
}

fn scheme() -> impl Strategy<Value = Scheme> {
    prop_oneof![
        (0u32..5).prop_map(Scheme::Kary),
        Just(Scheme::Binomial),
        Just(Scheme::Mincrit(Some(3)))
    ]
}

proptest! {
    #[test]
    fn trees_agree_after_any_losses(
        scheme in scheme(),
        size in 1u32..40,
        steps in proptest::collection::vec((0u8..8, any::<u32>()), 0..200),
    ) {
        let mut tree = Tree::new(scheme, size);
        for (kind, number) in steps {
            let rank = Rank(number % size);
            match kind {
                0 if rank.0 > 0 => tree.crash(rank),
                1 if rank.0 > 0 => tree.say_goodbye(rank),
                _ => tree.deliver(number as usize),
            }
        }
        tree.settle();
        tree.check();
    }

    #[test]
    fn undisturbed_trees_become_full(scheme in scheme(), size in 1u32..300, pick in any::<usize>()) {
        let mut tree = Tree::new(scheme, size);
        while !tree.queue.is_empty() {
            tree.deliver(pick);
        }
        tree.check();
        prop_assert_eq!(tree.brokers[0].as_ref().unwrap().status(), Status::Full);
    }
}

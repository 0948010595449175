//! Entries without a clock.

use proto::cron::{Create, Delete, SyncState};
use serde_json::{Value, json};

use super::*;

const EPOCH: f64 = 1_464_795_000.0;

/// A service, and what it did that nobody looked at yet.
struct Fixture {
    cron: Cron,
    time: f64,
}

impl Fixture {
    fn new() -> Fixture {
        let cron = Cron::new(|| TimeZone::UTC);
        Fixture { cron, time: 0.0 }
    }

    fn now(&self) -> Now {
        Now {
            wall: EPOCH + self.time,
            steady: self.time,
        }
    }

    /// Makes an entry that runs `cmd`, with these keys added or changed.
    fn create(&mut self, kind: &str, args: Value, more: Value) -> Result<u64, String> {
        let mut request = json!({"type": kind, "name": "name", "command": "cmd", "args": args});
        for (key, value) in more.as_object().expect("an object") {
            request[key] = value.clone();
        }
        let request: Create = serde_json::from_value(request).expect("a request");
        let made = self.cron.create(self.now(), request);
        made.map(|entry| entry.id)
            .map_err(|error| error.to_string())
    }

    fn event(&mut self, topic: &str, more: Value) -> u64 {
        let made = self.create("event", json!({"topic": topic}), more);
        made.expect("valid")
    }

    fn publish(&mut self, topic: &str) {
        let now = self.now();
        self.cron.on_event(now, topic);
    }

    /// Time passes, in steps as a timer has it.
    fn pass(&mut self, seconds: f64) {
        let until = self.time + seconds;
        loop {
            let remaining = self.cron.remaining(self.now());
            let step = remaining.unwrap_or(f64::INFINITY).max(0.0);
            self.time = (self.time + step).min(until);
            let now = self.now();
            self.cron.on_time(now);
            if self.time >= until {
                return;
            }
        }
    }

    fn sync(&mut self, request: Value) -> SyncState {
        let request = serde_json::from_value(request).expect("a request");
        let now = self.now();
        self.cron.sync(now, request).expect("valid")
    }

    fn end(&mut self, id: u64, status: i32) {
        let now = self.now();
        self.cron.on_started(now, id, 42);
        self.cron.on_ended(now, id, &Ended::Status(status));
    }

    /// What happened: runs as `run ID`, ends as `term PID`, topics as `+T` and `-T`, else the log.
    fn check(&mut self, expect: &[&str]) {
        let effects = std::mem::take(&mut self.cron.effects);
        let effects: Vec<_> = effects
            .into_iter()
            .map(|effect| match effect {
                Effect::Run { id, .. } => format!("run {id}"),
                Effect::Terminate { pid, .. } => format!("term {pid}"),
                Effect::Subscribe(topic) => format!("+{topic}"),
                Effect::Unsubscribe(topic) => format!("-{topic}"),
                Effect::Log(_, text) => text,
            })
            .collect();
        assert_eq!(effects, expect);
    }

    /// Forgets what happened.
    fn skip(&mut self) {
        self.cron.effects.clear();
    }

    /// An entry's value at a path of keys.
    fn value(&self, id: u64, path: &str) -> Value {
        let entry = self.cron.list().into_iter().find(|entry| entry.id == id);
        let entry = serde_json::to_value(entry).expect("serialises");
        entry.pointer(path).cloned().unwrap_or_default()
    }
}

#[test]
fn intervals_repeat_until_they_have_run_often_enough() {
    let mut f = Fixture::new();
    let args = json!({"interval": 10.0, "after": 1.0});
    let id = f
        .create("interval", args, json!({"repeat": 2}))
        .expect("valid");
    assert_eq!(f.value(id, "/typedata/next_wakeup"), json!(EPOCH + 1.0));
    f.pass(5.0);
    f.check(&["run 1"]);
    assert_eq!(f.value(id, "/tasks/0/state"), "Running");
    f.end(id, 0);
    assert_eq!(f.value(id, "/typedata/next_wakeup"), json!(EPOCH + 11.0));
    f.pass(100.0);
    f.check(&["run 1"]);
    assert_eq!(f.value(id, "/stopped"), true);
    f.end(id, 0);
    assert_eq!(f.value(id, "/stats/success"), 2);
    let now = f.now();
    f.cron.start(now, id).expect("it was stopped");
    f.pass(1.0);
    f.check(&["run 1"]);
    assert_eq!(f.value(id, "/stats/count"), 1);
    assert_eq!(f.value(id, "/stats/total"), 3);
}

#[test]
fn an_interval_of_nothing_runs_once() {
    let mut f = Fixture::new();
    let id = f
        .create("interval", json!({"interval": 0}), json!({}))
        .expect("valid");
    f.pass(5.0);
    f.check(&["run 1"]);
    assert_eq!(f.value(id, "/stopped"), false);
    assert_eq!(f.cron.remaining(f.now()), None);
}

#[test]
fn one_command_at_a_time() {
    let mut f = Fixture::new();
    f.create("interval", json!({"interval": 2}), json!({}))
        .expect("valid");
    f.pass(5.0);
    f.check(&["run 1", "cron-1: name: task still running or scheduled"]);
}

#[test]
fn events_are_counted() {
    let mut f = Fixture::new();
    let args = json!({"topic": "a", "nth": 2, "after": 3});
    let id = f.create("event", args, json!({})).expect("valid");
    f.check(&["+a"]);
    let ran: Vec<_> = (0..8)
        .map(|_| {
            f.publish("a");
            f.publish("a.b");
            let ran = !std::mem::take(&mut f.cron.effects).is_empty();
            f.end(id, 0);
            ran
        })
        .collect();
    assert_eq!(ran, [false, false, true, false, true, false, true, false]);
    assert_eq!(f.value(id, "/typedata/counter"), 8);
    f.cron.stop(id).expect("it was started");
    f.check(&["-a"]);
    f.publish("a");
    let now = f.now();
    f.cron.start(now, id).expect("it was stopped");
    assert_eq!(f.value(id, "/typedata/counter"), 0);
}

#[test]
fn a_min_interval_holds_runs_back() {
    let mut f = Fixture::new();
    let args = json!({"topic": "a", "min_interval": 10.0});
    let id = f.create("event", args, json!({})).expect("valid");
    f.skip();
    f.publish("a");
    f.check(&["run 1"]);
    f.end(id, 0);
    f.pass(4.0);
    f.publish("a");
    f.check(&["cron-1: delaying 6.000s due to min interval"]);
    f.publish("a");
    f.check(&[]);
    f.pass(6.0);
    f.check(&["run 1"]);
    f.end(id, 0);
    f.pass(20.0);
    f.publish("a");
    f.check(&["run 1"]);
}

#[test]
fn runs_wait_for_the_sync_event_unless_it_just_was() {
    let mut f = Fixture::new();
    let id = f.event("a", json!({}));
    let state = f.sync(json!({"topic": "s", "sync_epsilon": 2.0}));
    let expect = json!({"sync_event": "s", "sync_epsilon": 2.0});
    assert_eq!(serde_json::to_value(state).expect("serialises"), expect);
    f.check(&["+a", "synchronizing cron tasks to event s", "+s"]);
    f.publish("a");
    f.check(&["deferring cron-1 to next s event"]);
    assert_eq!(f.value(id, "/tasks/0/state"), "Deferred");
    assert_eq!(f.value(id, "/stats/lastrun"), json!(0.0));
    f.publish("s");
    f.check(&["run 1"]);
    f.end(id, 0);
    f.pass(1.0);
    f.publish("a");
    f.check(&["run 1"]);
    f.end(id, 0);
    f.pass(2.0);
    f.publish("a");
    f.sync(json!({"topic": "t"}));
    f.sync(json!({"disable": true}));
    f.check(&[
        "deferring cron-1 to next s event",
        "synchronizing cron tasks to event t",
        "+t",
        "-s",
        "-t",
        "run 1",
    ]);
    assert_eq!(f.value(id, "/stats/deferred"), 2);
    let state = serde_json::to_value(f.sync(json!({}))).expect("serialises");
    assert_eq!(state, json!({"sync_disabled": true}));
}

#[test]
fn failures_are_told_and_stop_an_entry_at_its_limit() {
    let mut f = Fixture::new();
    let more = json!({"stop-on-failure": 3, "task-history-count": 2});
    let id = f.event("a", more);
    f.skip();
    for status in [0, 3 << 8, 9] {
        f.publish("a");
        f.end(id, status);
    }
    f.publish("a");
    let now = f.now();
    let text = "No route to host".to_owned();
    f.cron.on_ended(now, id, &Ended::Lost { errno: 113, text });
    f.check(&[
        "run 1",
        "run 1",
        "cron-1: \"cmd\": Failed: Exit 3",
        "run 1",
        "cron-1: \"cmd\": Failed: Killed",
        "run 1",
        "cron-1: failure running cmd: No route to host",
        "cron-1: exceeded failure limit of 3. stopping",
        "-a",
    ]);
    assert_eq!(f.value(id, "/tasks/0/rexec_errno"), 113);
    assert_eq!(f.value(id, "/tasks/1/code"), 137);
    assert_eq!(f.value(id, "/tasks/2"), Value::Null);
    let stats = ["/stats/failure", "/stats/failcount", "/stats/success"];
    assert_eq!(
        stats.map(|key| f.value(id, key)),
        [3, 3, 1].map(Value::from)
    );
}

#[test]
fn what_takes_too_long_is_terminated() {
    let mut f = Fixture::new();
    let id = f.event("a", json!({"timeout": 2.5}));
    f.skip();
    f.publish("a");
    let now = f.now();
    f.cron.on_started(now, id, 7);
    f.pass(3.0);
    f.check(&["run 1", "term 7"]);
    f.pass(3.0);
    f.check(&[]);
    let now = f.now();
    f.cron.on_ended(now, id, &Ended::Status(15));
    f.check(&["cron-1: \"cmd\": Failed: Terminated"]);
    assert_eq!(f.value(id, "/tasks/0/state"), "Timeout");
    // Even one that has no process yet.
    f.publish("a");
    f.pass(3.0);
    f.check(&["run 1"]);
    let now = f.now();
    f.cron.on_started(now, id, 8);
    f.check(&["term 8"]);
}

#[test]
fn an_entry_goes_when_its_command_has_ended() {
    let mut f = Fixture::new();
    let id = f.event("a", json!({}));
    f.publish("a");
    let now = f.now();
    f.cron.on_started(now, id, 7);
    f.skip();
    let delete = |f: &mut Fixture, kill| f.cron.delete(Delete { id, kill });
    delete(&mut f, false).expect("it is there");
    f.check(&["-a"]);
    delete(&mut f, true).expect("it is still there");
    f.check(&["term 7"]);
    let now = f.now();
    let error = f.cron.start(now, id).expect_err("it is as good as gone");
    assert_eq!(error.to_string(), "cron-1 is being deleted");
    f.cron.on_ended(now, id, &Ended::Status(15));
    f.check(&["cron-1: \"cmd\": Failed: Terminated"]);
    let error = delete(&mut f, false).expect_err("it is gone");
    assert_eq!(
        RpcError::from(error).to_string(),
        "No such file or directory: there is no cron-1"
    );
}

#[test]
fn an_entry_whose_run_waits_goes_at_once() {
    let mut f = Fixture::new();
    f.sync(json!({"topic": "s"}));
    let id = f.event("a", json!({}));
    f.publish("a");
    f.skip();
    f.cron
        .delete(Delete { id, kill: false })
        .expect("it is there");
    f.publish("s");
    f.check(&["-a"]);
}

#[test]
fn the_calendar_runs_entries_and_stops_those_that_have_no_next() {
    let mut f = Fixture::new();
    let args = json!({"second": "0", "minute": 31, "hour": "15"});
    let id = f
        .create("datetime", args, json!({"repeat": 1}))
        .expect("valid");
    assert_eq!(f.value(id, "/typedata/next_wakeup"), json!(EPOCH + 60.0));
    f.pass(59.0);
    f.check(&[]);
    f.pass(2.0);
    f.check(&["run 1"]);
    let args = json!({"month": "feb", "mday": "30"});
    let id = f.create("datetime", args, json!({})).expect("valid");
    f.check(&["cron-2: Unable to get next wakeup. Stopping."]);
    assert_eq!(f.value(id, "/stopped"), true);
}

#[test]
fn bad_requests_are_refused() {
    let mut f = Fixture::new();
    let mut check = |kind: &str, args: Value, more: Value, errno: Errno, text: &str| {
        let mut request = json!({"type": kind, "name": "n", "command": "c", "args": args});
        for (key, value) in more.as_object().expect("an object") {
            request[key] = value.clone();
        }
        let request = serde_json::from_value(request).expect("a request");
        let now = f.now();
        let error = RpcError::from(f.cron.create(now, request).expect_err("bad"));
        assert_eq!((error.errno, error.to_string().as_str()), (errno, text));
    };
    let none = || json!({});
    check(
        "foo",
        none(),
        none(),
        Errno::ENOSYS,
        "Function not implemented: unknown type 'foo'",
    );
    check(
        "interval",
        none(),
        none(),
        Errno::EPROTO,
        "Protocol error: args: missing field `interval`",
    );
    check(
        "interval",
        json!({"interval": -1}),
        none(),
        Errno::EINVAL,
        "Invalid argument: interval cannot be -1 seconds",
    );
    check(
        "event",
        json!({"topic": "a"}),
        json!({"timeout": -2.5}),
        Errno::EINVAL,
        "Invalid argument: timeout cannot be -2.5 seconds",
    );
    check(
        "datetime",
        json!({"minute": "61"}),
        none(),
        Errno::EINVAL,
        "Invalid argument: minute: '61' is not within 0-59",
    );
}

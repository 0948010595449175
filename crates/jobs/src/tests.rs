//! Whole lives of jobs: what the eventlog is, and what is asked of others.

use serde_json::json;
use types::{Cred, JobId, RoleMask, UserId};

use crate::housekeeping::Origin;
use crate::*;

const OWNER: UserId = UserId(100);

struct World {
    jobs: Jobs,
    now: f64,
    log: Vec<String>,
    asked: Vec<String>,
    replies: Vec<(Token, Reply)>,
}

fn cred() -> Cred {
    Cred {
        userid: OWNER,
        rolemask: RoleMask::OWNER,
    }
}

fn guest(userid: u32) -> Cred {
    Cred {
        userid: UserId(userid),
        rolemask: RoleMask::USER,
    }
}

fn object(value: serde_json::Value) -> Object {
    value.as_object().cloned().expect("an object")
}

fn r() -> Object {
    object(
        json!({"version": 1, "execution": {"R_lite": [{"rank": "0", "children": {"core": "0"}}],
        "starttime": 1000.0, "expiration": 2000.0, "nodelist": ["h"]}, "scheduling": {}}),
    )
}

impl World {
    fn new() -> World {
        let mut world = World {
            jobs: Jobs::new(OWNER),
            now: 1000.0,
            log: Vec::new(),
            asked: Vec::new(),
            replies: Vec::new(),
        };
        world.input(|jobs, now, out| {
            jobs.sched_ready(now, SchedMode::Limited(2), out);
            jobs.exec_hello(now, out).expect("no job runs");
        });
        world
    }

    /// Gives an input, records effects, and lets submitted jobs be durable.
    fn input<T>(&mut self, input: impl FnOnce(&mut Jobs, f64, &mut Effects) -> T) -> T {
        self.now += 1.0;
        let mut out = Effects::new();
        let result = input(&mut self.jobs, self.now, &mut out);
        while !out.is_empty() {
            let mut durable = Vec::new();
            for effect in std::mem::take(&mut out) {
                match effect {
                    Effect::Event { id, entry, .. } => {
                        if entry.name == "submit" {
                            durable.push(id);
                        }
                        let context = entry.context.map(|context| {
                            serde_json::Value::Object(context)
                                .to_string()
                                .replace('"', "")
                        });
                        let context = context.unwrap_or_default();
                        self.log.push(format!("{} {}{context}", id.0, entry.name));
                    }
                    Effect::Alloc { id, priority, .. } => {
                        self.asked.push(format!("alloc {} {priority}", id.0));
                    }
                    Effect::CancelAlloc(id) => self.asked.push(format!("cancel {}", id.0)),
                    Effect::Prioritize(jobs) => {
                        for (id, priority) in jobs {
                            self.asked.push(format!("prioritize {} {priority}", id.0));
                        }
                    }
                    Effect::Release {
                        origin: Origin { id, .. },
                        resources,
                    }
                    | Effect::Free { id, resources } => {
                        assert!(!resources.contains_key("scheduling"));
                        self.asked.push(format!("free {}", id.0));
                    }
                    Effect::Start { id, reattach, .. } => {
                        self.asked.push(format!("start {} {reattach}", id.0));
                    }
                    Effect::Kill { id, signum } => {
                        self.asked.push(format!("kill {} {signum}", id.0));
                    }
                    Effect::Expiration { id, expiration } => {
                        self.asked.push(format!("expire {} {expiration}", id.0));
                    }
                    Effect::Reply(token, reply) => self.replies.push((token, reply)),
                    Effect::StoreResources { id, .. } => self.asked.push(format!("R {}", id.0)),
                    Effect::RunScript(script) => {
                        let (name, ranks) = (script.kind.name(), &script.ranks);
                        self.asked.push(format!("{name} {} {ranks}", script.id.0));
                    }
                    Effect::KillScript { id, kind, ranks } => {
                        let name = kind.name();
                        self.asked.push(format!("end {name} {} {ranks}", id.0));
                    }
                    Effect::ScriptOverdue { id, kind } => {
                        self.asked.push(format!("leave {} {}", kind.name(), id.0));
                    }
                    Effect::DrainRanks { ranks, reason, .. } => {
                        self.asked.push(format!("drain {ranks} {reason}"));
                    }
                    Effect::Excepted { .. } | Effect::Forget(_) | Effect::Checkpoint => {}
                }
            }
            let now = self.now;
            self.jobs.on_durable(now, &durable, &mut out);
        }
        result
    }

    fn submit_spec(&mut self, id: u64, urgency: i32, flags: i32, system: serde_json::Value) {
        let new = NewJob {
            id: JobId(id),
            userid: OWNER,
            urgency,
            t_submit: self.now,
            flags,
            jobspec: object(json!({"attributes": {"system": system}})),
        };
        self.input(|jobs, now, out| jobs.submit(now, vec![new], Token(id), out));
    }

    fn submit(&mut self, id: u64) {
        self.submit_spec(id, 16, 0, json!({}));
    }

    fn run(&mut self, id: u64) {
        let annotations = object(json!({"sched": {"resource_summary": "rank0/core0"}}));
        self.input(|jobs, now, out| {
            jobs.on_alloc(now, JobId(id), r(), Some(&annotations), out);
            jobs.on_start(now, JobId(id), out);
        });
    }

    fn finish(&mut self, id: u64, status: i32) {
        self.input(|jobs, now, out| {
            jobs.on_finish(now, JobId(id), status, out);
            jobs.on_release(now, JobId(id), "all", true, out);
        });
    }

    fn cancel(&mut self, id: u64) {
        self.input(|jobs, now, out| {
            let raised = jobs.raise(now, cred(), JobId(id), "cancel", 0, "", None, out);
            raised.expect("the job is active");
        });
    }

    fn lines(&mut self) -> String {
        std::mem::take(&mut self.log).join(" | ").replace("1 ", "")
    }

    fn take_asked(&mut self) -> String {
        std::mem::take(&mut self.asked).join(", ")
    }
}

const A: &str = "submit{userid:100,urgency:16,flags:0,version:1} | validate | depend | \
    priority{priority:16}";
const L: &str = "alloc{annotations:{sched:{resource_summary:rank0/core0}}}";
const Z: &str = "release{ranks:all,final:true} | free | clean";

#[test]
fn success_and_failure() {
    for status in [0, 768] {
        let mut world = World::new();
        world.submit(1);
        assert_eq!(world.take_asked(), "alloc 1 16");
        world.run(1);
        assert_eq!(world.take_asked(), "start 1 false");
        world.finish(1, status);
        assert_eq!(world.take_asked(), "free 1");
        let expect = format!("{A} | {L} | start | finish{{status:{status}}} | {Z}");
        assert_eq!(world.lines(), expect);
        let past = world.jobs.past(JobId(1)).expect("inactive");
        assert_eq!(past.success, status == 0);
    }
}

#[test]
fn cancel_while_pending_waits_for_the_scheduler() {
    let mut world = World::new();
    world.submit(1);
    world.cancel(1);
    assert_eq!(world.take_asked(), "alloc 1 16, cancel 1");
    let exception = "exception{type:cancel,severity:0,note:,userid:100}";
    assert_eq!(world.lines(), format!("{A} | {exception}"));
    world.input(|jobs, now, out| jobs.on_alloc_canceled(now, JobId(1), out));
    assert_eq!(world.lines(), "clean");
}

#[test]
fn resources_that_come_too_late_go_back() {
    let mut world = World::new();
    world.submit(1);
    world.cancel(1);
    world.run(1);
    assert_eq!(world.take_asked(), "alloc 1 16, cancel 1, free 1");
    assert!(world.lines().ends_with("clean"));
}

#[test]
fn cancel_while_held_needs_nobody() {
    let mut world = World::new();
    world.submit_spec(1, 0, 0, json!({}));
    world.cancel(1);
    assert_eq!(world.take_asked(), "");
    assert!(world.lines().ends_with("userid:100} | clean"));
}

#[test]
fn cancel_while_running() {
    let mut world = World::new();
    world.submit(1);
    world.run(1);
    world.cancel(1);
    world.finish(1, 36608);
    let exception = "exception{type:cancel,severity:0,note:,userid:100}";
    let expect = format!("{A} | {L} | start | {exception} | finish{{status:36608}} | {Z}");
    assert_eq!(world.lines(), expect);
}

#[test]
fn exceptions_of_the_instance_name_the_user_before_the_note() {
    let mut world = World::new();
    world.submit(1);
    world.input(|jobs, now, out| {
        jobs.on_alloc(now, JobId(1), r(), None, out);
        jobs.on_exception(now, JobId(1), "exec", 0, "gone", out);
    });
    world.finish(1, 32512);
    let exception = "exception{type:exec,severity:0,userid:100,note:gone}";
    let expect = format!("{A} | alloc | {exception} | finish{{status:32512}} | {Z}");
    assert_eq!(world.lines(), expect);
}

#[test]
fn what_can_never_run_is_denied() {
    let mut world = World::new();
    world.submit(1);
    world.input(|jobs, now, out| jobs.on_alloc_deny(now, JobId(1), "unsatisfiable", out));
    let exception = "exception{type:alloc,severity:0,userid:100,note:unsatisfiable}";
    assert_eq!(world.lines(), format!("{A} | {exception} | clean"));
}

#[test]
fn held_then_released() {
    let mut world = World::new();
    world.submit_spec(1, 0, 0, json!({}));
    let old = world.input(|jobs, now, out| jobs.set_urgency(now, cred(), JobId(1), 16, out));
    assert_eq!(old, Ok(0));
    assert_eq!(world.take_asked(), "alloc 1 16");
    let expect = "submit{userid:100,urgency:0,flags:0,version:1} | validate | depend | \
        priority{priority:0} | urgency{userid:100,urgency:16} | priority{priority:16}";
    assert_eq!(world.lines(), expect);
    let old = world.input(|jobs, now, out| jobs.set_urgency(now, cred(), JobId(1), 20, out));
    assert_eq!(old, Ok(16));
    assert_eq!(world.take_asked(), "prioritize 1 20");
    let old = world.input(|jobs, now, out| jobs.set_urgency(now, cred(), JobId(1), 0, out));
    assert_eq!((old, world.take_asked().as_str()), (Ok(20), "cancel 1"));
    world.input(|jobs, now, out| jobs.on_alloc_canceled(now, JobId(1), out));
    assert_eq!(world.take_asked(), "");
}

#[test]
fn dependencies_hold_a_job_back() {
    let mut world = World::new();
    world.submit(1);
    world.run(1);
    world.lines();
    let after = |scheme: &str| json!({"dependencies": [{"scheme": scheme, "value": "1"}]});
    world.submit_spec(22, 16, 0, after("afterok"));
    let expect = "22 submit{userid:100,urgency:16,flags:0,version:1} | \
        22 dependency-add{description:after-success=1} | 22 validate";
    assert_eq!(std::mem::take(&mut world.log).join(" | "), expect);
    world.submit_spec(33, 16, 0, after("afternotok"));
    world.submit_spec(44, 16, 0, after("afterstart"));
    let log = std::mem::take(&mut world.log).join(" | ");
    assert!(
        log.contains("44 dependency-remove{description:after-start=1} | 44 validate"),
        "{log}"
    );
    world.finish(1, 0);
    let log = std::mem::take(&mut world.log).join(" | ");
    assert!(
        log.contains("22 dependency-remove{description:after-success=1} | "),
        "{log}"
    );
    assert!(log.contains("22 depend"), "{log}");
    let note = "33 exception{type:dependency,severity:0,userid:100,\
        note:dependency after-failure=1 can never be satisfied}";
    assert!(log.contains(note) && log.contains("33 clean"), "{log}");
    world.submit_spec(55, 16, 0, after("afternotok"));
    let (_, reply) = world.replies.pop().expect("an answer");
    let text = "dependency: afternotok: job 1 succeeded".to_owned();
    assert_eq!(reply, Reply::Submitted(vec![(JobId(55), text)]));
}

#[test]
fn singletons_run_one_at_a_time() {
    let mut world = World::new();
    let system = json!({"job": {"name": "x"}, "dependencies": [{"scheme": "singleton"}]});
    for id in [1, 2, 3] {
        world.submit_spec(id, 16, 0, system.clone());
    }
    assert_eq!(world.take_asked(), "alloc 1 16");
    world.run(1);
    world.finish(1, 0);
    assert_eq!(world.take_asked(), "start 1 false, free 1, alloc 2 16");
}

#[test]
fn begin_times_come() {
    let mut world = World::new();
    let system = json!({"dependencies": [{"scheme": "begin-time", "value": "5000.5"}]});
    world.submit_spec(1, 16, 0, system);
    assert_eq!(world.jobs.next_time(), Some(5000.5));
    assert_eq!(world.take_asked(), "");
    world.input(|jobs, _, out| jobs.on_time(5001.0, out));
    assert_eq!(world.take_asked(), "alloc 1 16");
}

#[test]
fn a_higher_priority_takes_a_place_in_the_window() {
    let mut world = World::new();
    for id in 1..=3 {
        world.submit(id);
    }
    assert_eq!(world.take_asked(), "alloc 1 16, alloc 2 16");
    world.submit_spec(4, 20, 0, json!({}));
    assert_eq!(world.take_asked(), "cancel 2");
    world.input(|jobs, now, out| jobs.on_alloc_canceled(now, JobId(2), out));
    assert_eq!(world.take_asked(), "alloc 4 20");
}

#[test]
fn stopped_queues_keep_their_jobs() {
    let mut world = World::new();
    world.submit(1);
    world.input(|jobs, now, out| {
        jobs.queue_start(now, None, false, Some("no"), false, true, out)
            .expect("valid");
    });
    assert_eq!(world.take_asked(), "alloc 1 16, cancel 1");
    world.input(|jobs, now, out| jobs.on_alloc_canceled(now, JobId(1), out));
    assert_eq!(world.take_asked(), "");
    world.input(|jobs, now, out| {
        jobs.queue_start(now, None, true, None, false, true, out)
            .expect("valid");
    });
    assert_eq!(world.take_asked(), "alloc 1 16");
    world.input(|jobs, _, out| {
        jobs.queue_enable(None, false, Some("closed"), false, out)
            .expect("valid");
    });
    world.submit(2);
    let (_, reply) = world.replies.pop().expect("an answer");
    let text = "job submission is disabled: closed".to_owned();
    assert_eq!(reply, Reply::Submitted(vec![(JobId(2), text)]));
}

#[test]
fn a_lost_scheduler_is_asked_again() {
    let mut world = World::new();
    world.submit(1);
    world.input(|jobs, now, out| jobs.sched_lost(now, out));
    assert_eq!(world.take_asked(), "alloc 1 16");
    world.input(|jobs, now, out| {
        assert_eq!(jobs.sched_ready(now, SchedMode::Unlimited, out), 1);
    });
    assert_eq!(world.take_asked(), "alloc 1 16");
}

#[test]
fn waiting_for_jobs() {
    let mut world = World::new();
    let none = world.input(|jobs, _, _| jobs.wait(None, Token(90)));
    assert_eq!(
        none.expect_err("none").text,
        "there are no more waitable jobs"
    );
    world.submit_spec(1, 16, flags::WAITABLE, json!({}));
    world.submit_spec(2, 16, flags::WAITABLE, json!({}));
    world.replies.clear();
    assert_eq!(
        world.input(|jobs, _, _| jobs.wait(Some(JobId(1)), Token(91))),
        Ok(None)
    );
    assert_eq!(
        world.input(|jobs, _, _| jobs.wait(None, Token(92))),
        Ok(None)
    );
    assert!(
        world
            .input(|jobs, _, _| jobs.wait(None, Token(93)))
            .is_err()
    );
    for (id, status) in [(2, 0x0100), (1, 143 << 8)] {
        world.run(id);
        world.finish(id, status);
    }
    let texts: Vec<_> = world
        .replies
        .iter()
        .map(|(token, reply)| match reply {
            Reply::Waited { id, success, error } => {
                format!("{} {} {success} {error}", token.0, id.0)
            }
            other => format!("{other:?}"),
        })
        .collect();
    assert_eq!(
        texts,
        [
            "92 2 false task(s) exited with exit code 1",
            "91 1 false task(s) Terminated"
        ]
    );
}

#[test]
fn drain_and_idle_are_answered_in_time() {
    let mut world = World::new();
    world.submit(1);
    world.submit_spec(2, 0, 0, json!({}));
    world.run(1);
    world.replies.clear();
    world.input(|jobs, now, out| {
        jobs.drain(now, Token(8), out);
        jobs.idle(now, Token(9), out);
    });
    assert!(world.replies.is_empty());
    world.finish(1, 0);
    assert_eq!(
        std::mem::take(&mut world.replies),
        [(Token(9), Reply::Idle(1))]
    );
    world.cancel(2);
    assert_eq!(world.replies, [(Token(8), Reply::Drained)]);
}

#[test]
fn requests_are_checked() {
    let mut world = World::new();
    world.submit(1);
    let mut check = |who: Cred, id: u64, kind: &str, severity: i32, expect: &str| {
        let result = world
            .input(|jobs, now, out| jobs.raise(now, who, JobId(id), kind, severity, "", None, out));
        assert_eq!(result.expect_err(expect).text, expect);
    };
    check(cred(), 1, "x", 8, "invalid exception severity");
    check(cred(), 1, "a b", 0, "invalid exception type");
    check(cred(), 9, "x", 0, "unknown job id");
    check(
        guest(5),
        1,
        "x",
        0,
        "guests can only raise exceptions on their own jobs",
    );
    let kill = |world: &mut World, signum| {
        world.input(|jobs, _, out| jobs.kill(cred(), JobId(1), signum, out))
    };
    assert_eq!(
        kill(&mut world, 0).expect_err("bad").text,
        "Invalid signal number"
    );
    assert_eq!(
        kill(&mut world, 15).expect_err("pending").text,
        "job is not running"
    );
    world.run(1);
    world.take_asked();
    assert_eq!(
        (kill(&mut world, 15), world.take_asked().as_str()),
        (Ok(()), "kill 1 15")
    );
    let urgent = world.input(|jobs, now, out| jobs.set_urgency(now, cred(), JobId(1), 3, out));
    let text = "urgency cannot be changed once resources are allocated";
    assert_eq!(urgent.expect_err("running").text, text);
}

#[test]
fn a_running_job_gets_more_time() {
    let mut world = World::new();
    world.submit(1);
    world.run(1);
    world.take_asked();
    world.lines();
    let updates = object(json!({"attributes.system.duration": 100.0}));
    let now = world.now;
    let expiration = world
        .jobs
        .check_update(now, cred(), JobId(1), &updates, &[]);
    assert_eq!(expiration, Ok(Some(1100.0)));
    world.input(|jobs, now, out| {
        jobs.update(now, cred(), JobId(1), updates, Some(1100.0), out);
    });
    assert_eq!(world.take_asked(), "expire 1 1100");
    let expect =
        "jobspec-update{attributes.system.duration:100.0} | resource-update{expiration:1100.0}";
    assert_eq!(world.lines(), expect);
    let job = world.jobs.get(JobId(1)).expect("active");
    let resources = job.resources.as_deref().expect("allocated");
    assert_eq!(resources["execution"]["expiration"], 1100.0);
}

#[test]
fn replay_gives_the_same_state_and_goes_on() {
    let mut world = World::new();
    world.submit(1);
    world.submit(2);
    world.run(1);
    let mut jobs = Jobs::new(OWNER);
    for id in [1, 2] {
        let job = world.jobs.get(JobId(id)).expect("active");
        let entries = spec::eventlog::decode(job.log.as_bytes()).expect("own log");
        let resources = job.resources.as_deref().cloned();
        let jobspec = (*job.jobspec).clone();
        jobs.restore(job.id, &job.log, &entries, jobspec, resources)
            .expect("legal log");
    }
    world.jobs = jobs;
    world.take_asked();
    world.input(|jobs, now, out| {
        jobs.restored(now, out);
        jobs.sched_ready(now, SchedMode::Unlimited, out);
        jobs.exec_hello(now, out).expect("no job was sent");
    });
    assert_eq!(world.take_asked(), "alloc 2 16, start 1 true");
    assert_eq!(world.jobs.max_jobid(), JobId(2));
}

#[test]
fn purge_takes_the_oldest() {
    let mut world = World::new();
    for id in 1..=3 {
        world.submit_spec(id, 0, 0, json!({}));
        world.cancel(id);
    }
    let count = world.input(|jobs, now, out| jobs.purge(now, None, Some(1), 100, false, out));
    assert_eq!(count, 2);
    world.input(|jobs, now, out| jobs.purge(now, None, Some(1), 100, true, out));
    assert_eq!(world.jobs.inactive().collect::<Vec<_>>(), [JobId(3)]);
    assert_eq!(world.jobs.history(OWNER, "[:]"), Ok(vec![JobId(3)]));
}

#[test]
fn events_at_one_time_look_later_one_after_the_other() {
    for start in [
        1795788515.1769004,
        1795788515.4999995,
        1795788515.9999997,
        0.0,
    ] {
        let mut time = start;
        for _ in 0..1000 {
            let next = manager::after(start, time);
            assert!(format!("{next:.6}") > format!("{time:.6}"), "{time} {next}");
            time = next;
        }
        assert_eq!(manager::after(time + 1.0, time), time + 1.0);
    }
}

#[test]
fn another_queue_wants_other_constraints() {
    let mut world = World::new();
    let queues = json!({"queues": {"a": {"requires": ["x"]}, "b": {"requires": ["y"]}, "c": {}}});
    let policy = policy::Policy::parse(&object(queues)).expect("valid");
    world.input(|jobs, now, out| jobs.configure(policy, now, out));
    let constraint = |property: &str| json!({"properties": [property]});
    world.submit_spec(
        1,
        0,
        0,
        json!({"queue": "a", "constraints": constraint("x")}),
    );
    world.submit_spec(
        2,
        0,
        0,
        json!({"queue": "a", "constraints": constraint("z")}),
    );
    let update = |queue: &str| object(json!({"attributes.system.queue": queue}));
    let check = |world: &World, id, queue| {
        let checked = world
            .jobs
            .check_update(1.0, cred(), JobId(id), &update(queue), &[]);
        checked.map_err(|refusal| refusal.text)
    };
    assert_eq!(check(&world, 1, "b"), Ok(None));
    assert_eq!(
        check(&world, 1, "a"),
        Err("job queue is already set to a".into())
    );
    let text = "job appears to have non-queue constraints, unable to update queue to b";
    assert_eq!(check(&world, 2, "b"), Err(text.into()));
    let jobspec = world.jobs.updated_jobspec(JobId(1), &update("b"));
    let jobspec = jobspec.expect("active");
    let system = &jobspec["attributes"]["system"];
    assert_eq!(system["constraints"], constraint("y"));
    for (queue, properties) in [("b", json!(["y"])), ("c", json!([])), ("a", json!(["x"]))] {
        assert_eq!(check(&world, 1, queue), Ok(None));
        let updates = update(queue);
        world.input(|jobs, now, out| jobs.update(now, cred(), JobId(1), updates, None, out));
        let job = world.jobs.get(JobId(1)).expect("active");
        let constraints = job.system("constraints").expect("set");
        assert_eq!(constraints["properties"], properties);
    }
}

#[test]
fn a_removed_plugin_does_nothing() {
    let mut world = World::new();
    let removed = world.jobs.remove_plugins(".priority-default");
    assert_eq!(removed, Ok(Vec::new()));
    world.submit_spec(1, 16, 0, json!({}));
    assert!(world.asked.is_empty(), "{:?}", world.asked);
    world
        .input(|jobs, now, out| jobs.load_plugin(now, ".priority-default", Object::new(), out))
        .expect("it is known");
    assert_eq!(world.asked, ["alloc 1 16"]);
}

#[test]
fn plugins_are_removed_by_name_or_pattern() {
    let mut world = World::new();
    let builtin = world.jobs.plugins().names().count();
    let load = |world: &mut World, name: &str| {
        world.input(|jobs, now, out| jobs.load_plugin(now, name, Object::new(), out))
    };
    load(&mut world, "submit-hold.so").expect("it is known");
    let again = load(&mut world, "submit-hold.so").expect_err("loaded");
    assert_eq!(again.text, "submit-hold.so already loaded");
    let unknown = load(&mut world, "none.so").expect_err("unknown");
    assert_eq!(unknown.text, "none.so: No such plugin found");
    world.jobs.remove_plugins("all").expect("always");
    assert_eq!(world.jobs.plugins().names().count(), builtin);
    world.jobs.remove_plugins("all").expect("always");
    let missing = world.jobs.remove_plugins("s*").expect_err("removed");
    assert_eq!(missing.text, "Failed to find plugin to remove");
    world.jobs.remove_plugins(".*").expect("they are there");
    assert_eq!(world.jobs.plugins().names().count(), 0);
}

#[test]
fn submit_hold_holds_until_the_urgency_changes() {
    let mut world = World::new();
    world
        .input(|jobs, now, out| jobs.load_plugin(now, "submit-hold.so", Object::new(), out))
        .expect("it is known");
    world.submit_spec(1, 16, 0, json!({}));
    assert!(world.asked.is_empty(), "{:?}", world.asked);
    world
        .input(|jobs, now, out| jobs.set_urgency(now, cred(), JobId(1), 5, out))
        .expect("pending");
    assert_eq!(world.asked, ["alloc 1 5"]);
}

#[test]
fn resources_brought_along_need_no_scheduler_and_are_checked() {
    let mut world = World::new();
    for name in ["alloc-bypass.so", "alloc-check.so"] {
        world
            .input(|jobs, now, out| jobs.load_plugin(now, name, Object::new(), out))
            .expect("it is known");
    }
    world.submit_spec(1, 16, 0, json!({"alloc-bypass": {"R": r()}}));
    assert_eq!(world.asked, ["R 1", "start 1 false"]);
    world.submit_spec(2, 16, 0, json!({}));
    world.input(|jobs, now, out| jobs.on_alloc(now, JobId(2), r(), None, out));
    let last = &world.asked[2..];
    assert_eq!(last, ["alloc 2 16", "free 2"]);
    let note = "note:resources already allocated";
    assert!(
        world
            .log
            .iter()
            .any(|line| line.starts_with("2 exception") && line.contains(note))
    );
}

mod plugin_files;

mod perilog {
    use super::*;
    use crate::perilog::{Kind, Settings};

    const PS: &str = "prolog-start{description:job-manager.prolog}";
    const ES: &str = "epilog-start{description:job-manager.epilog}";

    fn settings(per_rank: bool) -> Settings {
        Settings {
            command: vec!["x".into()],
            per_rank,
            timeout: Some(100.0),
            kill_timeout: 10.0,
            cancel_on_exception: true,
        }
    }

    /// A world with a submitted job.
    fn world(prolog: bool, epilog: bool) -> World {
        let mut world = World::new();
        world.input(|jobs, now, out| {
            let loaded = jobs.load_plugin(now, "perilog.so", Object::new(), out);
            loaded.expect("it comes with the program");
        });
        let (prolog, epilog) = (
            prolog.then(|| settings(true)),
            epilog.then(|| settings(false)),
        );
        world.jobs.configure_perilog("h0", prolog, epilog);
        world.submit(1);
        world.lines();
        world.take_asked();
        world
    }

    fn alloc(world: &mut World) {
        world.input(|jobs, now, out| jobs.on_alloc(now, JobId(1), r(), None, out));
    }

    fn ended(world: &mut World, kind: Kind, status: i32) {
        world.input(|jobs, now, out| jobs.on_script_ended(now, JobId(1), kind, 0, status, out));
    }

    fn pass(world: &mut World, seconds: f64) {
        world.now += seconds;
        world.input(|jobs, now, out| jobs.on_time(now, out));
    }

    #[test]
    fn tasks_wait_for_the_prolog_and_resources_for_the_epilog() {
        let mut world = world(true, true);
        alloc(&mut world);
        assert_eq!(world.take_asked(), "prolog 1 0");
        ended(&mut world, Kind::Prolog, 0);
        assert_eq!(world.take_asked(), "start 1 false");
        world.input(|jobs, now, out| jobs.on_start(now, JobId(1), out));
        world.finish(1, 0);
        assert_eq!(world.take_asked(), "epilog 1 0");
        ended(&mut world, Kind::Epilog, 0);
        assert_eq!(world.take_asked(), "free 1");
        let expect = format!(
            "alloc | {PS} | prolog-finish{{description:job-manager.prolog,status:0}} | start | \
             finish{{status:0}} | {ES} | release{{ranks:all,final:true}} | \
             epilog-finish{{description:job-manager.epilog,status:0}} | free | clean"
        );
        assert_eq!(world.lines(), expect);
    }

    #[test]
    fn a_prolog_that_fails_is_followed_by_the_epilog() {
        let mut world = world(true, true);
        alloc(&mut world);
        ended(&mut world, Kind::Prolog, 512);
        let asked = "prolog 1 0, epilog 1 0, drain 0 prolog failed for job \u{192}2";
        assert_eq!(world.take_asked(), asked);
        world.input(|jobs, now, out| jobs.on_script_drained(now, JobId(1), Kind::Prolog, out));
        ended(&mut world, Kind::Epilog, 9);
        assert_eq!(world.take_asked(), "free 1");
        let expect = format!(
            "alloc | {PS} | {ES} | exception{{type:prolog,severity:0,note:prolog exited with \
             code=2 on h (rank 0),userid:100}} | \
             prolog-finish{{description:job-manager.prolog,status:512}} | \
             exception{{type:epilog,severity:2,note:epilog killed by signal 9 on h0 (rank 0),\
             userid:100}} | epilog-finish{{description:job-manager.epilog,status:9}} | \
             free | clean"
        );
        assert_eq!(world.lines(), expect);
    }

    #[test]
    fn a_canceled_job_ends_its_prolog_and_drains_nothing() {
        let mut world = world(true, false);
        alloc(&mut world);
        world.cancel(1);
        assert_eq!(world.take_asked(), "prolog 1 0, end prolog 1 0");
        ended(&mut world, Kind::Prolog, 15);
        assert_eq!(world.take_asked(), "free 1");
        assert!(!world.lines().contains("type:prolog"));
    }

    #[test]
    fn what_takes_too_long_is_ended_and_then_left_alone() {
        let mut world = world(true, false);
        alloc(&mut world);
        pass(&mut world, 50.0);
        assert_eq!(world.take_asked(), "prolog 1 0");
        pass(&mut world, 50.0);
        assert_eq!(world.take_asked(), "end prolog 1 0");
        pass(&mut world, 10.0);
        let reason = "prolog canceled then timed out for job \u{192}2";
        assert_eq!(
            world.take_asked(),
            format!("leave prolog 1, drain 0 {reason}")
        );
        // Its end comes too late to matter.
        ended(&mut world, Kind::Prolog, 15);
        world.input(|jobs, now, out| jobs.on_script_drained(now, JobId(1), Kind::Prolog, out));
        assert_eq!(world.take_asked(), "free 1");
        let note = "note:prolog canceled then timed out on h (rank 0)";
        let lines = world.lines();
        assert!(lines.contains(note) && lines.ends_with("clean"), "{lines}");
        assert_eq!(world.jobs.next_time(), None);
    }

    #[test]
    fn nothing_is_begun_while_the_instance_ends_or_the_plugin_is_gone() {
        let mut closed = world(true, true);
        closed.jobs.close_perilog();
        alloc(&mut closed);
        assert_eq!(closed.take_asked(), "start 1 false");
        let mut removed = world(true, true);
        removed
            .jobs
            .remove_plugins("perilog.so")
            .expect("it is loaded");
        alloc(&mut removed);
        assert_eq!(removed.take_asked(), "start 1 false");
    }

    #[test]
    fn what_ran_when_the_job_manager_ended_runs_anew() {
        let mut world = world(true, false);
        alloc(&mut world);
        world.take_asked();
        let log = world.jobs.get(JobId(1)).expect("active").log.clone();
        let entries = spec::eventlog::decode(log.as_bytes()).expect("valid");
        let spec = object(json!({"attributes": {"system": {}}}));
        let mut again = self::world(true, false);
        again.jobs = Jobs::new(OWNER);
        again.input(|jobs, now, out| {
            jobs.exec_hello(now, out).expect("no job runs");
            let loaded = jobs.load_plugin(now, "perilog.so", Object::new(), out);
            loaded.expect("it comes with the program");
            jobs.configure_perilog("h0", Some(settings(true)), None);
            let restored = jobs.restore(JobId(1), &log, &entries, spec, Some(r()));
            restored.expect("a valid job");
            jobs.restored(now, out);
        });
        assert_eq!(again.take_asked(), "prolog 1 0");
        ended(&mut again, Kind::Prolog, 0);
        assert_eq!(again.take_asked(), "start 1 false");
    }
}

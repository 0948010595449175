//! What plugins in files are asked, in which order, and what they cause.

use super::*;
use crate::plugin_requests::Action;

/// A world with a plugin for these topics.
fn world(topics: &[&str]) -> World {
    let mut world = World::new();
    world.jobs.add_plugin_file("p.so").expect("it is new");
    let topics = topics.iter().map(|topic| (*topic).to_owned());
    world.jobs.set_plugin_topics(topics);
    world
}

fn out(value: serde_json::Value) -> Answer {
    Answer {
        handled: true,
        failed: false,
        out: object(value),
    }
}

fn spec(id: u64, system: serde_json::Value) -> NewJob {
    NewJob {
        id: JobId(id),
        userid: OWNER,
        urgency: 16,
        t_submit: 1000.0,
        flags: 0,
        jobspec: object(json!({"attributes": {"system": system}})),
    }
}

impl World {
    /// What is asked now.
    fn topic(&self) -> &str {
        self.jobs.next_call().map_or("", |call| &call.topic)
    }

    fn answer(&mut self, answer: Answer) {
        self.input(|jobs, now, out| jobs.on_answer(now, answer, out));
    }

    /// Lets a job in; plugins have nothing against it.
    fn admit(&mut self, id: u64) {
        self.input(|jobs, now, out| {
            jobs.admit(now, spec(id, json!({}))).expect("no limits");
            jobs.accept(now, out);
        });
    }
}

#[test]
fn nothing_goes_on_before_the_answer() {
    let mut world = world(&["job.state.depend", "job.state.sched"]);
    world.admit(1);
    assert_eq!(world.topic(), "job.state.depend");
    let call = world.jobs.next_call().expect("it waits").clone();
    assert_eq!(call.args["entry"]["name"], "validate");
    assert_eq!(call.args["prev_state"], State::New.bit());
    assert_eq!(call.args["state"], State::Depend.bit());
    // Another job's input waits too.
    world.admit(2);
    assert_eq!(world.lines().matches("submit").count(), 1);
    world.answer(Answer::default());
    assert_eq!(world.topic(), "job.state.sched");
    assert_eq!(world.take_asked(), "");
    world.answer(out(json!({"annotations": {"note": "a"}})));
    world.answer(Answer::default());
    world.answer(Answer::default());
    assert_eq!(world.topic(), "");
    assert_eq!(world.take_asked(), "alloc 1 16, alloc 2 16");
    assert!(world.lines().contains("annotations{annotations:{note:a}}"));
}

#[test]
fn a_job_is_let_in_or_was_never_there() {
    let mut world = world(&["job.create", "job.validate", "job.new", "job.destroy"]);
    let dependency = json!({"dependencies": [{"scheme": "mine", "value": "v"}]});
    let new = spec(1, dependency);
    let calls = world.input(|jobs, now, _| jobs.admit(now, new));
    let calls = calls.expect("no limits");
    let topics: Vec<&str> = calls.iter().map(|call| &*call.topic).collect();
    let expect = [
        "job.create",
        "job.validate",
        "job.dependency.mine",
        "job.new",
    ];
    assert_eq!(topics, expect);
    assert_eq!(calls[2].args["dependency"]["value"], "v");
    let nobody = world.jobs.refusal(&calls[2], &Answer::default());
    assert_eq!(
        nobody.as_deref(),
        Some("dependency scheme \"mine\" not supported")
    );
    let refused = Answer {
        failed: true,
        ..out(json!({"errmsg": "not you"}))
    };
    let text = world.jobs.refusal(&calls[1], &refused);
    assert_eq!(text.as_deref(), Some("not you"));
    world.input(|jobs, now, out| jobs.reject(now, out));
    assert_eq!(world.topic(), "job.destroy");
    world.answer(Answer::default());
    assert_eq!(world.lines(), "");
    assert_eq!(world.jobs.active().len(), 0);
    assert_eq!(world.jobs.history(OWNER, "[:]"), Ok(vec![]));
}

#[test]
fn what_plugins_post_comes_before_what_the_engine_does() {
    let mut world = world(&["job.state.run", "job.state.cleanup"]);
    world.admit(1);
    world.input(|jobs, now, out| jobs.on_alloc(now, JobId(1), r(), None, out));
    assert_eq!(world.topic(), "job.state.run");
    world.take_asked();
    world.input(|jobs, now, out| {
        let id = JobId(1);
        let started = jobs.plugin_start_action(now, id, Action::Prolog, "p");
        started.expect("it is not started");
        let early = jobs.plugin_start_action(now, id, Action::Epilog, "e");
        assert_eq!(early.expect_err("too early").errno, types::Errno::EINVAL);
        let raised = jobs.plugin_raise(now, id, "test", 0, "", out);
        raised.expect("it is active");
        let finished = jobs.plugin_finish_action(now, id, Action::Prolog, "p", 0);
        finished.expect("it is active");
    });
    world.answer(Answer::default());
    assert_eq!(world.topic(), "job.state.cleanup");
    world.input(|jobs, now, _| {
        let started = jobs.plugin_start_action(now, JobId(1), Action::Epilog, "e");
        started.expect("it has not let go of its resources");
    });
    world.answer(Answer::default());
    // It was not started, and its resources are held by the epilog.
    assert_eq!(world.take_asked(), "");
    world.input(|jobs, now, out| {
        let finished = jobs.plugin_finish_action(now, JobId(1), Action::Epilog, "e", 0);
        finished.expect("it is active");
        jobs.resume(now, out);
    });
    assert_eq!(world.take_asked(), "free 1");
    let lines = world.lines();
    assert_eq!(lines.matches("free").count(), 1, "{lines}");
    assert!(
        lines.ends_with("epilog-finish{description:e,status:0} | free | clean"),
        "{lines}"
    );
}

#[test]
fn plugins_give_priorities_or_none_yet() {
    let mut world = world(&["job.state.priority", "job.priority.get"]);
    world.admit(1);
    assert_eq!(world.topic(), "job.state.priority");
    world.answer(out(json!({"priority": -2})));
    assert_eq!(world.take_asked(), "");
    world.input(|jobs, now, out| {
        let given = jobs.plugin_reprioritize(now, JobId(1), 42);
        given.expect("it is pending");
        jobs.resume(now, out);
    });
    assert_eq!(world.take_asked(), "alloc 1 42");
    world.input(|jobs, now, out| {
        jobs.reprioritize_all();
        jobs.resume(now, out);
    });
    assert_eq!(world.topic(), "job.priority.get");
    world.answer(out(json!({"priority": 7})));
    assert_eq!(world.take_asked(), "prioritize 1 7");
    // One that makes no sense leaves a job where it is, with an exception that ends nothing.
    world.admit(2);
    world.answer(out(json!({"priority": "high"})));
    let job = world.jobs.get(JobId(2)).expect("active");
    assert_eq!(job.fold.state, State::Priority);
    assert!(
        world
            .lines()
            .contains("exception{type:job.state.priority,severity:4")
    );
}

#[test]
fn dependencies_hold_and_release() {
    let mut world = world(&["job.state.depend"]);
    world.admit(1);
    let id = JobId(1);
    world.input(|jobs, now, _| {
        for name in ["a", "b", "a"] {
            let added = jobs.plugin_add_dependency(now, id, name);
            added.expect("it is in time, twice is once");
        }
        jobs.plugin_remove_dependency(now, id, "b").expect("known");
        let gone = jobs.plugin_remove_dependency(now, id, "b");
        assert_eq!(gone.expect_err("gone").errno, types::Errno::ENOENT);
    });
    world.answer(Answer::default());
    assert_eq!(world.take_asked(), "");
    world.input(|jobs, now, out| {
        jobs.plugin_remove_dependency(now, id, "a").expect("known");
        jobs.resume(now, out);
    });
    assert_eq!(world.take_asked(), "alloc 1 16");
    let late = world.jobs.plugin_add_dependency(1.0, id, "c");
    assert_eq!(late.expect_err("late").errno, types::Errno::EINVAL);
}

#[test]
fn only_who_follows_a_job_hears_of_its_events() {
    let mut world = world(&["job.state.inactive"]);
    world.jobs.add_plugin_file("q.so").expect("it is new");
    world.admit(1);
    world
        .jobs
        .plugin_subscribe("q.so", JobId(1))
        .expect("active");
    world.run(1);
    let call = world.jobs.next_call().expect("alloc").clone();
    assert_eq!(
        (&*call.topic, call.plugin.as_deref()),
        ("job.event.alloc", Some("q.so"))
    );
    world.jobs.plugin_unsubscribe("q.so", JobId(1));
    world.answer(Answer::default());
    assert_eq!(world.topic(), "");
    assert_eq!(world.jobs.plugin_has_event(JobId(1), "alloc"), Ok(true));
    assert_eq!(world.jobs.plugin_has_event(JobId(1), "finish"), Ok(false));
}

#[test]
fn a_jobspec_changes_only_where_it_may() {
    let mut world = world(&["job.state.depend"]);
    world.admit(1);
    let mut update = |key: &str| {
        let updates = object(json!({key: 1}));
        world
            .jobs
            .plugin_update(1.0, JobId(1), updates)
            .map_err(|refusal| refusal.text)
    };
    assert_eq!(update("foo.bar"), Err("foo.bar cannot be updated".into()));
    assert_eq!(update("attributes.system.x"), Ok(()));
    world.answer(Answer::default());
    let job = world.jobs.get(JobId(1)).expect("active");
    assert_eq!(job.system("x"), Some(&json!(1)));
    world.run(1);
    let late = world.jobs.plugin_update(1.0, JobId(1), Object::new());
    assert_eq!(late.expect_err("it runs").text, "job is not pending");
}

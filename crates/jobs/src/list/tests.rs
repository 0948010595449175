use serde_json::json;

use super::*;
use crate::event;

fn jobspec(name: &str, queue: &str) -> Object {
    let value = json!({
        "version": 1,
        "resources": [{"type": "slot", "count": 2, "label": "task",
            "with": [{"type": "core", "count": 1}]}],
        "tasks": [{"command": ["/bin/app"], "slot": "task", "count": {"per_slot": 1}}],
        "attributes": {"system": {"duration": 5.0, "queue": queue, "job": {"name": name}}}
    });
    value.as_object().cloned().expect("an object")
}

/// Jobs 1 to 6: two pending, one running, three over.
fn sample() -> List {
    let mut list = List::default();
    let pending = |at: f64, priority| {
        vec![
            event::plain(at + 0.1, "validate"),
            event::plain(at + 0.2, "depend"),
            event::priority(at + 0.3, priority),
        ]
    };
    for id in 1..=6u64 {
        let at = id as f64 * 10.0;
        let user = UserId(if id % 2 == 0 { 7 } else { 5 });
        let mut events = vec![event::submit(at, user, 16, 0)];
        events.extend(pending(at, if id == 2 { 20 } else { 16 }));
        if id >= 3 {
            events.push(event::alloc(at + 1.0, None, false));
            events.push(event::plain(at + 2.0, "start"));
        }
        if id == 5 {
            events.push(event::raised(at + 2.5, "cancel", 0, "", user, None));
        }
        if id >= 4 {
            events.push(event::finish(at + 3.0, if id == 6 { 256 } else { 0 }));
            events.push(event::plain(at + 4.0, "free"));
            events.push(event::plain(at + 5.0, "clean"));
        }
        let queue = if id < 4 { "a" } else { "b" };
        let spec = jobspec(&format!("n{}", id % 3), queue);
        list.apply(JobId(id), &events, Some(&spec), None)
            .expect("legal");
    }
    list
}

fn check(constraint: Value, expect: &[u64]) {
    let list = sample();
    let query = Query {
        constraint: Constraint::from_value(&constraint).expect("valid"),
        max_entries: 0,
        since: 0.0,
        comparisons_max: 0,
    };
    let parent = |queue: &str| (queue == "b").then(|| "a".to_owned());
    let found: Vec<u64> = list
        .query(&query, &parent)
        .expect("few")
        .iter()
        .map(|job| job.id.0)
        .collect();
    assert_eq!(found, expect, "{constraint}");
}

#[test]
fn queries_find_jobs_in_order() {
    check(json!({}), &[2, 1, 3, 6, 5, 4]);
    check(json!({"states": ["pending"]}), &[2, 1]);
    check(json!({"states": [64]}), &[6, 5, 4]);
    check(json!({"userid": [7]}), &[2, 6, 4]);
    check(
        json!({"and": [{"userid": [7]}, {"states": ["INACTIVE"]}]}),
        &[6, 4],
    );
    check(json!({"results": ["canceled", "failed"]}), &[6, 5]);
    check(json!({"name": ["n0"]}), &[3, 6]);
    check(json!({"queue": ["b"]}), &[6, 5, 4]);
    check(json!({"queue": ["a"]}), &[2, 1, 3, 6, 5, 4]);
    check(json!({"not": [{"states": ["active"]}]}), &[6, 5, 4]);
    check(json!({"t_submit": [">=50"]}), &[6, 5]);
    check(
        json!({"or": [{"t_run": ["<32"]}, {"states": ["sched"]}]}),
        &[2, 1, 3],
    );
}

#[test]
fn bad_constraints_are_refused() {
    for bad in [
        json!([]),
        json!({"states": "run"}),
        json!({"states": ["flying"]}),
        json!({"foo": [1]}),
        json!({"t_run": ["5"]}),
        json!({"t_run": [">=-5"]}),
        json!({"a": [], "b": []}),
    ] {
        assert!(Constraint::from_value(&bad).is_err(), "{bad}");
    }
}

#[test]
fn queries_are_limited() {
    let list = sample();
    let mut query = Query {
        constraint: Constraint::all(),
        max_entries: 2,
        since: 55.0,
        comparisons_max: 3,
    };
    let no_parent = |_: &str| None;
    assert_eq!(list.query(&query, &no_parent).expect("few").len(), 2);
    query.max_entries = 0;
    assert_eq!(list.query(&query, &no_parent).err(), Some(Excessive));
    query.comparisons_max = 0;
    let found = list.query(&query, &no_parent).expect("few");
    // The jobs that ended at 45 and 55 did not end after 55.
    let ids: Vec<u64> = found.iter().map(|job| job.id.0).collect();
    assert_eq!(ids, [2, 1, 3, 6]);
}

#[test]
fn attributes_appear_when_they_are_known() {
    let list = sample();
    let all = Listed::select(&["all".into()]).expect("known");
    let pending = list.get(JobId(1)).expect("there").render(&all);
    assert_eq!(pending.get("ncores"), Some(&json!(2)));
    assert_eq!(pending.get("state"), Some(&json!(8)));
    assert!(!pending.contains_key("result") && !pending.contains_key("t_run"));
    let over = list.get(JobId(5)).expect("there").render(&all);
    assert_eq!(over.get("result"), Some(&json!(4)));
    assert_eq!(over.get("exception_type"), Some(&json!("cancel")));
    assert_eq!(over.keys().next().map(String::as_str), Some("id"));
    assert_eq!(
        Listed::select(&["foo".into()]).err().as_deref(),
        Some("foo")
    );
}

#[test]
fn counts_follow_states() {
    let mut list = sample();
    assert_eq!(list.sizes(), [2, 1, 3]);
    assert_eq!((list.counts().successful, list.counts().failed), (1, 1));
    assert_eq!(list.counts().canceled, 1);
    list.purge(&[JobId(4), JobId(5)]);
    assert_eq!(list.sizes(), [2, 1, 1]);
    assert_eq!((list.counts().purged, list.counts().failed), (2, 1));
}

use serde_json::json;

use super::*;

fn base() -> Value {
    json!({
        "version": 1,
        "resources": [{"type": "slot", "count": 2, "label": "task", "with": [{"type": "core", "count": 1}]}],
        "tasks": [{"command": ["hostname"], "slot": "task", "count": {"per_slot": 1}}],
        "attributes": {"system": {"duration": 0}}
    })
}

fn with(path: &str, value: Value) -> Result<Jobspec, JobspecError> {
    let mut document = base();
    *document.pointer_mut(path).unwrap() = value;
    Jobspec::from_value(document)
}

fn insert(path: &str, key: &str, value: Value) -> Result<Jobspec, JobspecError> {
    let mut document = base();
    let object = document.pointer_mut(path).unwrap().as_object_mut().unwrap();
    object.insert(key.into(), value);
    Jobspec::from_value(document)
}

fn without(path: &str, key: &str) -> Result<Jobspec, JobspecError> {
    let mut document = base();
    document
        .pointer_mut(path)
        .unwrap()
        .as_object_mut()
        .unwrap()
        .remove(key);
    Jobspec::from_value(document)
}

/// The examples of RFC 25 and RFC 14: resources, version, task count, and then slots, tasks, nodes
/// and cores where the request fixes them.
#[test]
fn counts_of_the_examples() {
    let node_slot = |nodes: u64, slots: u64, cores: u64| json!([{"type":"node","count":nodes,"with":[{"type":"slot","count":slots,"label":"default","with":[{"type":"core","count":cores}]}]}]);
    let slot_node = |count: Value| json!([{"type":"slot","count":count,"label":"default","with":[{"type":"node","count":1}]}]);
    let per_slot = json!({"per_slot": 1});
    for (resources, version, count, expect) in [
        // RFC 25: example 1, use cases 1.1, 2.1, 2.2, 2.3, 2.4
        (
            node_slot(4, 1, 2),
            1,
            per_slot.clone(),
            (Some(4), Some(4), Some(4), Some(8)),
        ),
        (
            node_slot(4, 1, 1),
            1,
            per_slot.clone(),
            (Some(4), Some(4), Some(4), Some(4)),
        ),
        (
            node_slot(4, 1, 1),
            1,
            json!({"total": 5}),
            (Some(4), Some(5), Some(4), Some(4)),
        ),
        (
            json!([{"type":"slot","label":"default","count":10,"with":[{"type":"core","count":2}]}]),
            1,
            per_slot.clone(),
            (Some(10), Some(10), None, Some(20)),
        ),
        (
            json!([{"type":"slot","count":10,"label":"default","with":[{"type":"core","count":2},{"type":"gpu","count":1}]}]),
            1,
            per_slot.clone(),
            (Some(10), Some(10), None, Some(20)),
        ),
        (
            json!([{"type":"node","count":4,"with":[{"type":"slot","count":4,"label":"default","with":[{"type":"core","count":1},{"type":"gpu","count":1}]}]}]),
            1,
            per_slot.clone(),
            (Some(16), Some(16), Some(4), Some(16)),
        ),
        // RFC 14: example 2 and use cases 1.1 (2.6-2.9 request the same shapes), 1.2, 1.8, 2.1
        (
            slot_node(json!(4)),
            1,
            per_slot.clone(),
            (Some(4), Some(4), Some(4), Some(0)),
        ),
        (
            slot_node(json!({"min":3,"max":30,"operator":"+","operand":1})),
            999,
            per_slot.clone(),
            (None, None, None, None),
        ),
        (
            slot_node(json!("4,9,16,25")),
            999,
            per_slot.clone(),
            (None, None, None, None),
        ),
        (
            slot_node(json!(4)),
            999,
            json!({"per_slot": 5}),
            (Some(4), Some(20), Some(4), Some(0)),
        ),
        // 1.3, 1.6 and 1.7
        (
            json!([{"type":"slot","count":4,"label":"default","with":[{"type":"node","exclusive":false,"count":1,"with":[{"type":"socket","count":{"min":2},"with":[{"type":"core","count":{"min":4}}]}]}]}]),
            999,
            per_slot.clone(),
            (Some(4), Some(4), Some(4), None),
        ),
        (
            json!([{"type":"cluster","count":2,"with":[{"type":"slot","count":1,"label":"default","with":[{"type":"node","count":{"min":1},"exclusive":false,"with":[{"type":"core","count":30}]}]}]}]),
            999,
            json!({"per_resource":{"type":"node","count":1}}),
            (Some(1), None, None, Some(30)),
        ),
        // 2.5
        (
            json!([{"type":"slot","label":"default","count":10,"with":[{"type":"memory","count":{"min":2},"unit":"GB"},{"type":"core","count":1}]}]),
            999,
            per_slot.clone(),
            (Some(10), Some(10), None, Some(10)),
        ),
    ] {
        let mut document = base();
        document["resources"] = resources;
        document["version"] = version.into();
        document["tasks"][0]["count"] = count;
        document["tasks"][0]["slot"] = "default".into();
        let text = document["resources"].to_string();
        let spec = Jobspec::from_value(document).unwrap();
        assert_eq!(
            (spec.nslots(), spec.ntasks(), spec.nnodes(), spec.ncores()),
            expect,
            "{text}"
        );
    }
}

/// Use cases 1.5 and 2.4 of RFC 14 have two slots, which only graph schedulers understand.
#[test]
fn several_slots_are_valid_but_have_no_counts() {
    let resources = json!([{"type":"node","count":1,"with":[
        {"type":"slot","label":"read-db","count":10,"with":[{"type":"core","count":1},{"type":"memory","count":4,"unit":"GB"}]},
        {"type":"slot","label":"db","count":1,"with":[{"type":"core","count":6},{"type":"memory","count":24,"unit":"GB"}]}]}]);
    let spec = with("/resources", resources).unwrap();
    assert_eq!(spec.slots(), Err(JobspecError::Slots));
    assert_eq!(spec.ntasks(), None);
}

#[test]
fn exclusive_defaults_to_true_only_inside_a_slot() {
    let slot = |with: Value| json!([{"type":"slot","count":1,"label":"a","with":with}]);
    for (resources, exclusive) in [
        (slot(json!([{"type":"node","count":1}])), true),
        (
            slot(json!([{"type":"node","count":1,"exclusive":false}])),
            false,
        ),
        (
            json!([{"type":"node","count":1,"with":slot(json!([{"type":"core","count":1}]))}]),
            false,
        ),
        (
            json!([{"type":"node","count":1,"exclusive":true,"with":slot(json!([{"type":"core","count":1}]))}]),
            true,
        ),
    ] {
        assert_eq!(
            with("/resources", resources)
                .unwrap()
                .slots()
                .unwrap()
                .exclusive,
            exclusive
        );
    }
}

#[test]
fn what_is_wrong_is_said_in_the_words_users_know() {
    let count = |value| with("/resources/0/count", value);
    let tasks = |value| with("/tasks/0/count", value);
    let system = |key: &str, value| insert("/attributes/system", key, value);
    for (result, text) in [
        (without("", "version"), "Missing key (version)"),
        (without("", "resources"), "Missing key (resources)"),
        (without("/tasks/0", "slot"), "Missing key (slot)"),
        (insert("", "foo", json!(1)), "Extraneous key (foo)"),
        (with("/version", json!("x")), "version must be an integer"),
        (with("/version", json!(1.5)), "version must be an integer"),
        (with("/version", json!(0)), "version must be >= 1"),
        (with("/resources", json!(5)), "resources must be a sequence"),
        (with("/resources/0", json!(5)), "resource must be a mapping"),
        (with("/tasks", json!({})), "tasks must be a sequence"),
        (with("/tasks/0", json!("x")), "task must be a mapping"),
        (
            with("/attributes", json!(null)),
            "attributes must be a mapping",
        ),
        (
            with("/attributes", json!({})),
            "attributes.system is a required key",
        ),
        (
            without("/resources/0", "type"),
            "type is a required key for resources",
        ),
        (
            without("/resources/0", "count"),
            "count is a required key for resources",
        ),
        (without("/resources/0", "label"), "slots must have labels"),
        (with("/resources/0/type", json!(1)), "type must be a string"),
        (
            with("/resources/0/label", json!(1)),
            "label must be a string",
        ),
        (
            insert("/resources/0", "unit", json!(1)),
            "unit must be a string",
        ),
        (
            insert("/resources/0", "exclusive", json!("x")),
            "exclusive must be a boolean",
        ),
        (count(json!(null)), "count must be an int or mapping"),
        (count(json!(1.5)), "count must be an int or mapping"),
        (count(json!(0)), "node, slot, or core count must be > 0"),
        (count(json!(-1)), "node, slot, or core count must be > 0"),
        (
            count(json!("x")),
            "count string must be a valid idset or range",
        ),
        (count(json!({})), "min must be in range"),
        (count(json!({"min": 0})), "min must be > 0"),
        (count(json!({"min": 1, "foo": 1})), "Extraneous key (foo)"),
        (
            count(json!({"min": 1, "operator": "+"})),
            "operand and operator must both be in range if either is",
        ),
        (
            count(json!({"min": 1, "max": 3, "operator": "x", "operand": 1})),
            "operator must be one of ['+', '*', '^']",
        ),
        (
            count(json!({"min": 1, "max": 3, "operator": "*", "operand": 1})),
            "operand must be > 1 for '*' or '^' operator",
        ),
        (
            count(json!({"min": 1, "max": 3, "operator": "^", "operand": 2})),
            "min must be > 1 for '^' operator",
        ),
        (
            count(json!({"min": 1})),
            "resource count must be an integer for type 'slot' (got 'dict')",
        ),
        (
            count(json!("1-3")),
            "resource count must be an integer for type 'slot' (got 'str')",
        ),
        (count(json!("3-1")), "max must be >= min"),
        (
            with("/tasks/0/command", json!("x")),
            "command must be a list of strings",
        ),
        (
            with("/tasks/0/command", json!(["x", 2])),
            "command must be a list of strings",
        ),
        (
            with("/tasks/0/command", json!([])),
            "command array cannot have length of zero",
        ),
        (with("/tasks/0/slot", json!(1)), "slot must be a string"),
        (
            insert("/tasks/0", "attributes", json!([])),
            "attributes must be a mapping",
        ),
        (tasks(json!(null)), "count must be a mapping"),
        (tasks(json!({})), "count must have exactly one key set"),
        (
            tasks(json!({"per_slot": 1, "total": 2})),
            "count must have exactly one key set",
        ),
        (tasks(json!({"per_slot": 0})), "count per_slot must be > 0"),
        (tasks(json!({"total": 0})), "count total must be > 0"),
        (tasks(json!({"total": "x"})), "count total must be an int"),
        (
            tasks(json!({"foo": 1})),
            "count per_slot, per_resource, or total must be set",
        ),
        (
            tasks(json!({"per_resource": {"type": "core", "count": 2}})),
            "count per_slot or total must be set",
        ),
        (
            insert("/attributes", "foo", json!({})),
            "Extraneous key (foo)",
        ),
        (
            with("/attributes/system", json!("x")),
            "attributes.system must be a mapping",
        ),
        (
            without("/attributes/system", "duration"),
            "attributes.system.duration is a required key",
        ),
        (
            system("duration", json!("x")),
            "attributes.system.duration must be a number",
        ),
        (
            system("dependencies", json!({})),
            "attributes.system.dependencies must be a list",
        ),
        (system("dependencies", json!([{}])), "Missing key (value)"),
        (
            system("dependencies", json!([{"scheme": 1, "value": "1"}])),
            "dependency scheme must be a string",
        ),
        (
            system("dependencies", json!([{"scheme": "x", "value": 1}])),
            "dependency value must be a string",
        ),
        (
            system("constraints", json!([])),
            "constraints must be a mapping",
        ),
        (
            system("constraints", json!({"foo": ["x"]})),
            "unknown constraint operator 'foo'",
        ),
        (
            system("constraints", json!({"properties": ["a&"]})),
            "invalid character in property 'a&'",
        ),
    ] {
        assert_eq!(result.unwrap_err().to_string(), text);
    }
    assert_eq!(
        Jobspec::from_value(base())
            .unwrap()
            .require_version(2)
            .unwrap_err()
            .to_string(),
        "jobspec version 1 is not supported, expected 2"
    );
}

#[test]
fn what_the_reference_lets_pass_passes() {
    for result in [
        with("/resources", json!([])),
        with("/tasks", json!([])),
        with("/version", json!(999)),
        without("/resources/0", "with"),
        insert("/resources/0", "foo", json!(1)),
        insert("/tasks/0", "distribution", json!(1)),
        insert("/attributes/system", "cwd", json!(5)),
        insert("/attributes", "user", json!("x")),
    ] {
        assert!(result.is_ok());
    }
}

#[test]
fn attributes_are_found_and_the_document_is_kept() {
    let text = r#"{"version":1,"x":0}"#;
    assert!(Jobspec::decode(text.as_bytes()).is_err());
    let mut document = base();
    document["attributes"]["system"] = json!({
        "zeta": 1, "environment": {"HOME": "/home/flux", "FOO": null}, "duration": 3600.0, "cwd": "/home/flux",
        "shell": {"options": {"verbose": 2}}, "queue": "batch", "bank": "b",
        "dependencies": [{"scheme": "afterok", "value": "ƒ1"}], "constraints": {"properties": ["amd-mi50"]}
    });
    document["tasks"][0]["command"][0] = "/bin/app".into();
    let text = document.to_string();
    let mut spec = Jobspec::decode(text.as_bytes()).unwrap();
    assert_eq!(spec.encode(), text);
    assert_eq!(spec.duration(), Some(std::time::Duration::from_secs(3600)));
    assert_eq!(
        (spec.cwd(), spec.queue(), spec.bank(), spec.project()),
        (Some("/home/flux"), Some("batch"), Some("b"), None)
    );
    assert_eq!(spec.shell_option("verbose"), Some(&json!(2)));
    assert_eq!(spec.name(), Some("app"));
    assert_eq!(spec.dependencies().len(), 1);
    assert_eq!(spec.environment().map(|env| env.len()), Some(2));
    assert!(spec.constraints().is_some());
    spec.strip_environment();
    assert_eq!(spec.environment(), None);
    let longer = spec
        .with_path("attributes.system.duration", json!(7200.0))
        .unwrap();
    assert_eq!(longer.duration_seconds(), 7200.0);
    assert!(
        spec.with_path("attributes.system.duration", json!("x"))
            .is_err()
    );
    assert!(spec.with_path("version.x", json!(1)).is_err());
    assert_eq!(spec.get_path("attributes.system.zeta"), Some(&json!(1)));
}

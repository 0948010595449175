use std::rc::Rc;

use serde_json::{Value, json};

use super::state::{Current, Facts, State};
use super::{Registry, lua, native};
use crate::log::Log;

fn map(value: Value) -> serde_json::Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

fn state() -> Rc<State> {
    let facts = Facts {
        info: map(json!({"jobid": 7, "rank": 1, "jobspec": {"tasks": [{"slot": "task"}]}})),
        ranks: vec![map(json!({"id": 0})), map(json!({"id": 1}))],
        rank: 1,
        jobspec_info: json!({"version": 1}),
        rcpath: "/etc/site".into(),
        rcdirs: "/etc/site/lua.d:".into(),
    };
    let options = json!({"verbose": 1, "mpi": "some@3", "a": {"b": [1, "two", 2.5]}, "mon": 1});
    let env = [("PATH", "/bin"), ("A_1", "x"), ("B", "y")];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let log = Rc::new(Log::new());
    log.hold(1);
    Rc::new(State::new(
        facts,
        map(options),
        env.into(),
        log,
        "/plugins".into(),
    ))
}

/// Runs a script. Returns what it answers, as `tostring` has it.
fn eval_in(state: &Rc<State>, script: &str) -> String {
    let plugins = Registry::default();
    let lua = lua::interpreter(state, &plugins).expect("interpreter");
    let script = format!(
        "local function answer (...) local t = table.pack (...) \
         for i = 1, t.n do t[i] = tostring (t[i]) end return table.concat (t, ' ') end \
         RESULT = answer ((function () {script} end) ())"
    );
    lua::run(&lua, "=test", script.as_bytes()).unwrap_or_else(|text| panic!("{text}"));
    lua.globals().get("RESULT").expect("a string")
}

#[track_caller]
fn check(script: &str, expect: &str) {
    assert_eq!(eval_in(&state(), script), expect, "{script}");
}

/// Checks the text a call fails with.
#[track_caller]
fn check_error(call: &str, expect: &str) {
    check(
        &format!("local _, text = pcall (function () {call} end) return text"),
        expect,
    );
}

#[test]
fn facts_are_tables() {
    check("return shell.info.jobid, shell.info.rank", "7 1");
    check("return shell.info.jobspec.tasks[1].slot", "task");
    check("return shell.info.options.verbose", "true");
    check("return shell.rankinfo.id, shell.get_rankinfo (0).id", "1 0");
    check(
        "return shell.rcpath, plugin.searchpath",
        "/etc/site /plugins",
    );
    check("return shell.verbose", "1");
    check_error(
        "shell.get_rankinfo (2)",
        "test:1: shell.get_rankinfo: 2: Invalid argument",
    );
}

#[test]
fn options_are_read_and_written() {
    check(
        "local o = shell.options.a.b return #o, o[1], o[2], o[3]",
        "3 1 two 2.5",
    );
    check("return shell.options.none", "nil");
    check("return shell.getopt_with_version ('mpi')", "some 3");
    check("return shell.getopt_with_version ('mon')", "1");
    check("return shell.getopt_with_version ('none')", "nil");
    let state = state();
    eval_in(
        &state,
        "shell.options.x = {1, 2} shell.options.y = {k = {}} shell.options['a.c'] = true \
         shell.options.mpi = nil shell.options.mon = nil",
    );
    let expect = json!({
        "verbose": 1, "a": {"b": [1, "two", 2.5], "c": true}, "x": [1, 2], "y": {"k": {}},
    });
    assert_eq!(*state.options.borrow(), expect);
    check_error(
        "shell.options.x = print",
        "test:1: a function is no value of JSON",
    );
    check_error(
        "local t = {} t.t = t shell.options.x = t",
        "test:1: table is nested too deeply",
    );
}

#[test]
fn the_environment_is_changed() {
    check("return shell.getenv ('B'), shell.getenv ('C')", "y nil");
    check("return shell.getenv ().PATH", "/bin");
    let state = state();
    eval_in(
        &state,
        "shell.setenv ('B', 'no', false) shell.setenv ('C', 3) shell.setenv ('D', 'd', true) \
         shell.prepend_path ('PATH', '/opt') shell.prepend_path ('NEW', '/opt') \
         shell.env_strip ('^A_', '^Z') shell.unsetenv ('D')",
    );
    let env = state.env.borrow();
    let env: Vec<_> = env
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    assert_eq!(env, ["B=y", "C=3", "NEW=/opt", "PATH=/opt:/bin"]);
}

#[test]
fn fields_of_the_shell_are_protected() {
    check_error(
        "shell.info = 1",
        "test:1: attempt to set read-only field shell.info",
    );
    check_error(
        "shell.getenv = 1",
        "test:1: attempt to set read-only field shell.getenv",
    );
    check("shell.mine = 1 return shell.mine", "1");
    check("shell.verbose = 2 return shell.verbose", "2");
    check("plugin.searchpath = '/x' return plugin.searchpath", "/x");
    check_error(
        "plugin.load = 1",
        "test:1: attempt to set read-only field plugin.load",
    );
}

#[test]
fn tasks_are_there_on_their_topics_only() {
    check_error(
        "return task.info",
        "test:1: attempt to access task outside of task context",
    );
    let state = state();
    *state.task.borrow_mut() = Some(Current {
        info: map(json!({"rank": 5})),
        ..Current::default()
    });
    let script = "task.setenv ('A', task.info.rank) task.setenv ('A', 1, false) \
                  task.setenv ('B', 1) task.unsetenv ('B') \
                  return task.getenv ('A'), task.getenv ('B'), task.other";
    assert_eq!(eval_in(&state, script), "5 nil nil");
}

#[test]
fn plugins_are_checked() {
    for call in [
        "plugin.load ()",
        "plugin.load {}",
        "plugin.load {conf = {}}",
    ] {
        check_error(call, "test:1: plugin.load: invalid argument");
    }
    check_error(
        "plugin.load 'x.so'",
        "test:1: plugin.load: x.so: File not found",
    );
    check("plugin.load 'x*.so'", "");
    let refused = "plugin.register: required handlers table missing";
    check_error(
        "plugin.register {name = 'x'}",
        &format!("test:1: {refused}"),
    );
    let refused = "plugin.register: handlers table exists but has no entries. (not an array?)";
    for handlers in ["{}", "{topic = 'x', fn = print}"] {
        check_error(
            &format!("plugin.register {{name = 'x', handlers = {handlers}}}"),
            &format!("test:1: {refused}"),
        );
    }
    check_error(
        "plugin.register {handlers = {{topic = 'x'}}}",
        "test:1: plugin.register: handlers[1]: required fn missing",
    );
}

#[test]
fn files_are_sourced() {
    check_error(
        "source '/none'",
        "test:1: source /none: No such file or directory",
    );
    check("source '/none/*.lua' source_if_exists '/none'", "");
}

#[test]
fn coprocesses_are_defined_for_those_who_ask() {
    check_error(
        "coprocess.define {command = {'true'}}",
        "test:1: coprocess.define: missing required 'name'",
    );
    check(
        "coprocess.define {name = 'other', command = {'true'}} return shell.options.coprocess",
        "nil",
    );
    let state = state();
    eval_in(
        &state,
        "coprocess.define {name = 'mon', command = {'true'}, output = 'x'} \
         shell.options.two = {output = 'mine'} \
         coprocess.define {name = 'two', command = {'false'}, output = 'x'}",
    );
    let expect = json!({
        "mon": {"command": ["true"], "output": "x"},
        "two": {"command": ["false"], "output": "mine"},
    });
    assert_eq!(state.option("coprocess"), Some(expect));
}

#[test]
fn messages_are_logged_with_their_place() {
    let state = state();
    state.log.set_verbosity(1);
    eval_in(&state, "shell.log 'a' shell.debug 'b' shell.log_error (3)");
    let lines: Vec<_> = state.log.take_held();
    let line = |level: i32, text: &str| {
        let line = json!({"rank": 1, "level": level, "message": text, "file": "test", "line": 1});
        map(line)
    };
    assert_eq!(lines, [line(5, "a"), line(6, "b"), line(3, "3")]);
    assert_eq!(
        eval_in(
            &state,
            "local _, text = pcall (shell.die, 'so') return text"
        ),
        "so"
    );
    let fatal = state.fatal.borrow();
    assert_eq!(fatal.as_ref().map(|fatal| &*fatal.message), Some("so"));
}

#[test]
fn spectrum_mpi_gets_what_it_wants() {
    let state = state();
    eval_in(
        &state,
        "shell.options.mpi = 'spectrum' shell.setenv ('OMPI_X', 1) \
         shell.source_rcpath_option 'mpi'",
    );
    let env = state.env.borrow();
    assert_eq!(env.get("OMPI_MCA_pml").map(String::as_str), Some("yalla"));
    assert!(!env.contains_key("OMPI_X"));
    let limits = json!({"stack": 10_485_760});
    assert_eq!(state.option("rlimit"), Some(limits));
}

#[test]
fn what_is_no_plugin_in_c_is_named() {
    let path = std::env::temp_dir().join(format!("no-plugin-{}.so", std::process::id()));
    std::fs::write(&path, "text").expect("a file of our own");
    let file = path.display();
    let (state, plugins) = (state(), Registry::default());
    let error = native::load(&state, &plugins, &file.to_string(), None);
    let error = error.expect_err("it is text");
    assert!(
        error.starts_with(&format!("plugin.load: {file}: ")),
        "{error}"
    );
    assert!(plugins.borrow().is_empty());
    std::fs::remove_file(&path).expect("it is there");
}

//! Plugins of the submission commands, in Python.

use std::process::{Command, Output, Stdio};

const FLUX: &str = env!("CARGO_BIN_EXE_flux");
const DIR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli_plugins");

fn flux(words: &[&str]) -> Output {
    Command::new(FLUX)
        .args(words)
        .env("PYTHONPATH", format!("{DIR}/bindings"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("FLUX_CLI_PLUGINPATH_OVERRIDE", format!("{DIR}/plugins"))
        .env_remove("FLUX_URI")
        .stdin(Stdio::null())
        .output()
        .expect("the program was built")
}

/// What a command prints and what it complains of.
fn told(words: &[&str]) -> (String, String) {
    let output = flux(words);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// The jobspec of a job that gets no environment.
fn jobspec(words: &[&str]) -> String {
    let (stdout, stderr) = told(&[&["run", "--dry-run", "--env=-*"], words].concat());
    assert_eq!(stderr, "", "{words:?}");
    stdout
}

#[test]
fn plugins_change_arguments_and_jobspecs() {
    let plain = jobspec(&["--ntasks=3", "true"]);
    assert!(plain.contains(r#""type": "slot", "count": 3"#), "{plain}");
    assert!(!plain.contains(r#""size""#), "{plain}");
    let changed = jobspec(&[
        "--site-fast",
        "--site-size",
        "4",
        "--site-project=x",
        "true",
    ]);
    for part in [
        r#""type": "slot", "count": 8"#,
        r#""job": {"name": "true of x"}"#,
        r#""project": "x""#,
        r#""size": 4"#,
    ] {
        assert!(changed.contains(part), "{part} is not in {changed}");
    }
}

#[test]
fn what_plugins_and_their_options_refuse_is_told() {
    for (words, expect) in [
        (
            &["--site-project=none"][..],
            "flux-run: ERROR: none is no project\n",
        ),
        (
            &["--site-size=x"],
            "flux run: error: argument --site-size: invalid int value: 'x'\n",
        ),
        (
            &["--site-size"],
            "flux run: error: argument --site-size: expected one argument\n",
        ),
        (
            &["--help=--nodes"],
            "flux-run: ERROR: --help: no such option --nodes\n",
        ),
    ] {
        let (_, stderr) = told(&[&["run", "--dry-run"], words, &["--", "true"]].concat());
        assert!(stderr.ends_with(expect), "{words:?}: {stderr}");
    }
}

#[test]
fn plugins_and_their_options_are_listed() {
    let (help, _) = told(&["run", "--help"]);
    assert!(help.contains("--site-project=NAME"), "{help}");
    assert!(help.contains("The project NAME\n"), "{help}");
    let (list, _) = told(&["run", "--list-plugins"]);
    assert!(
        list.contains(&format!("Site loaded from {DIR}/plugins/site.py")),
        "{list}"
    );
    assert!(!list.contains("Taken"), "{list}");
    let (topic, _) = told(&["run", "--help=site-size"]);
    assert_eq!(topic, "--site-size: What the site wants.\n");
}

#[test]
fn plugins_check_what_others_submit() {
    // The second is submitted by somebody without plugins.
    let submit = "flux run -t 61s true && \
                  ! FLUX_CLI_PLUGINPATH_OVERRIDE= flux run -t 60s true";
    let (_, stderr) = told(&["start", "sh", "-c", submit]);
    assert_eq!(stderr, "flux-run: ERROR: a minute is not enough\n");
}

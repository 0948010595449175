//! Modules in processes of their own, loaded by hand-made loaders.

use std::process::{Command, Output, Stdio};

const FLUX: &str = env!("CARGO_BIN_EXE_flux");
const LOADER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/module_loader.py");

/// Runs a script in an instance; `$load` loads the module `hand` by the loader above.
fn script(text: &str) -> Output {
    let setup = format!(
        "set -u; cd $(flux getattr rundir) && touch hand.so hand.txt && \
         printf '#!/bin/sh\\nexec python3 {LOADER} \"$@\"\\n' >loader && chmod +x loader && \
         load=\"flux module load --loader=$PWD/loader\" || exit 1\n"
    );
    Command::new(FLUX)
        .args(["start", "sh", "-c", &(setup + text)])
        .env_remove("FLUX_URI")
        .stdin(Stdio::null())
        .output()
        .expect("the program was built")
}

fn check(text: &str, expect: &str) {
    let output = script(text);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{stderr}");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        expect,
        "{text}\n{stderr}"
    );
}

#[test]
fn a_module_in_a_process_serves_and_ends() {
    check(
        "$load ./hand.so && flux module list | grep -c ^hand && flux ping -c1 hand >/dev/null; \
         flux module remove hand && flux module list | grep -c ^hand; true",
        "1\n0\n",
    );
}

#[test]
fn its_failure_is_the_loads() {
    check(
        "$load ./hand.so fail 2>&1; $load --name=other ./hand.so && flux module remove other",
        "flux-module: load ./hand.so: No space left on device\n",
    );
}

#[test]
fn one_that_dies_is_reported() {
    check(
        "flux setattr broker.module-nopanic 1; $load ./hand.so die 2>/dev/null; \
         while flux module list | grep -q ^hand; do :; done; \
         flux dmesg | grep -o 'killed by Killed'; \
         flux dmesg | grep -o 'hand module runtime failure'",
        "killed by Killed\nhand module runtime failure\n",
    );
}

#[test]
fn bad_loaders_are_named() {
    check(
        "for loader in /bin/false /bin/true /no/such; do \
         flux module load --loader=$loader ./hand.so 2>&1; done; \
         flux module load --loader=x hand 2>&1; flux module load ./no.so 2>&1; \
         flux module load ./hand.txt 2>&1; flux module load nosuch 2>&1; true",
        "flux-module: load ./hand.so: loader (/bin/false) exited with exit code 1\n\
         flux-module: load ./hand.so: loader (/bin/true) exited with exit code 0 but did not report module status\n\
         flux-module: load ./hand.so: loader (/no/such) failed: No such file or directory\n\
         flux-module: load hand: module loader may only be specified with module path\n\
         flux-module: could not canonicalize module path './no.so': No such file or directory\n\
         flux-module: load ./hand.txt: could not determine loader from path suffix\n\
         flux-module: load nosuch: module not found in search path\n",
    );
}

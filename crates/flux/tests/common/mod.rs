//! What tests of whole instances share.

use std::process::{Command, Output, Stdio};

const FLUX: &str = env!("CARGO_BIN_EXE_flux");

/// Runs a script as the initial program of an instance started with these options.
fn script(options: &[&str], text: &str) -> Output {
    Command::new(FLUX)
        .arg("start")
        .args(options)
        .args(["sh", "-c", text])
        .env_remove("FLUX_URI")
        .stdin(Stdio::null())
        .output()
        .expect("the program was built")
}

/// In an instance of one broker the script succeeds and prints just this.
#[allow(dead_code, reason = "each test program uses some of this module")]
pub(crate) fn check(text: &str, expect: &str) {
    check_in(&[], text, expect);
}

/// In an instance started with these options the script succeeds and prints just this.
#[allow(dead_code, reason = "each test program uses some of this module")]
pub(crate) fn check_in(options: &[&str], text: &str, expect: &str) {
    let output = script(options, text);
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{stdout}\n{stderr}");
    assert_eq!(stdout, expect, "{text}\n{stderr}");
}

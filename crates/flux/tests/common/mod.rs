//! What tests of whole instances share.

use std::process::{Command, Output, Stdio};

const FLUX: &str = env!("CARGO_BIN_EXE_flux");

/// Runs a script as the initial program of an instance of one broker.
fn script(text: &str) -> Output {
    Command::new(FLUX)
        .args(["start", "sh", "-c", text])
        .env_remove("FLUX_URI")
        .stdin(Stdio::null())
        .output()
        .expect("the program was built")
}

/// The script succeeds and prints just this.
pub(crate) fn check(text: &str, expect: &str) {
    let output = script(text);
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{stdout}\n{stderr}");
    assert_eq!(stdout, expect, "{text}\n{stderr}");
}

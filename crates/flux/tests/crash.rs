//! The leader killed in the middle of things. `cargo xtask crash` does the same more often.

use std::path::Path;

#[test]
fn what_was_promised_survives_crashes() {
    let statedir = std::env::temp_dir().join(format!("flux-crashes-{}", std::process::id()));
    std::fs::create_dir(&statedir).expect("temporary directory");
    let flux = Path::new(env!("CARGO_BIN_EXE_flux"));
    let result = testkit::storm::run(flux, &statedir, 7, 6);
    std::fs::remove_dir_all(&statedir).expect("own directory");
    if let Err(text) = result {
        panic!("{text}");
    }
}

//! Commands that walk, copy and mend the stored tree as a whole.

mod digests;
pub(crate) mod dump;
pub(crate) mod fsck;
pub(crate) mod gc;
mod repair;
pub(crate) mod restore;
mod tree;

use crate::fail::Fail;
use crate::options::Args;

/// Progress is shown for each of the first keys, then every so many.
const PROGRESS_ALL: u64 = 10;
const PROGRESS_STEP: u64 = 100;

/// Whether a running count is worth showing.
fn shows(count: u64) -> bool {
    count < PROGRESS_ALL || count.is_multiple_of(PROGRESS_STEP)
}

/// Writes to standard error without ending the line.
fn status(text: &str) {
    crate::output::error_bytes(text.as_bytes());
}

/// The `--maxreqs` option.
fn maxreqs(args: &Args, default: usize) -> Result<usize, Fail> {
    match args.int("maxreqs")? {
        None => Ok(default),
        Some(count) => usize::try_from(count)
            .ok()
            .filter(|count| *count > 0)
            .ok_or_else(|| Fail::new("invalid value for maxreqs")),
    }
}

/// Tells systemd, if the broker runs under it, how far we are.
fn notify(client: &client::Client, text: &str) {
    let payload = serde_json::json!({ "status": text }).to_string();
    // A C string, as every JSON payload on the wire.
    let payload = bytes::Bytes::from(format!("{payload}\0"));
    let topic = "state-machine.sd-notify";
    client
        .handle()
        .notify_raw(topic.into(), rpc::Dest::Any, payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_thins_out() {
        let shown: Vec<u64> = (1..=250).filter(|count| shows(*count)).collect();
        assert_eq!(shown, [1, 2, 3, 4, 5, 6, 7, 8, 9, 100, 200]);
    }
}

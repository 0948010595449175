//! Commands that modules run on brokers (RFC 42), followed to their end.

use module::Severity;
use proto::rexec::{Command, Exec, ExecEvent, Kill, RexecExec, RexecKill, flags};
use rpc::{Handle, RpcError};
use serde_json::{Map, Value};
use spec::stdio::StreamData;
use types::Rank;

/// What a command did.
pub(crate) enum Report {
    /// It runs, as this process.
    Started(i32),
    /// It wrote something. See [`lines`].
    Output(Map<String, Value>),
    /// It ended, as of `wait(2)`; or it was not run, or nobody knows.
    Ended(Result<i32, RpcError>),
}

/// Runs a command and reports what it does, its end last. Stops following where the report finds
/// nobody any more.
pub(crate) async fn follow(
    handle: Handle,
    rank: u32,
    command: Command,
    report: impl Fn(Report) -> bool,
) {
    let request = Exec {
        cmd: command,
        flags: flags::STDOUT | flags::STDERR,
        local_flags: None,
    };
    let mut stream = handle.stream::<RexecExec>(Rank(rank), &request);
    let mut status = 0;
    loop {
        let event = match stream.next().await {
            Ok(Some(ExecEvent::Started { pid })) => Report::Started(pid),
            Ok(Some(ExecEvent::Output { io, .. })) => Report::Output(io),
            Ok(Some(ExecEvent::Finished { status: ended })) => {
                // Output may still come; the end of the stream is the end.
                status = ended;
                continue;
            }
            Ok(Some(_)) => continue,
            Ok(None) => Report::Ended(Ok(status)),
            Err(error) => Report::Ended(Err(error)),
        };
        let last = matches!(event, Report::Ended(_));
        if !report(event) || last {
            return;
        }
    }
}

/// Signals a command.
pub(crate) fn kill(handle: &Handle, rank: u32, pid: i32, signum: i32) {
    let request = Kill {
        pid,
        label: None,
        signum,
    };
    let call = handle.call::<RexecKill>(Rank(rank), &request);
    tokio::task::spawn_local(async move {
        // A process that is gone already is what was wanted.
        let _gone = call.await;
    });
}

/// Tells the lines of what a command wrote, with the severity its stream stands for in the log.
pub(crate) fn lines(io: &Map<String, Value>, mut tell: impl FnMut(Severity, &str)) {
    let Ok(StreamData {
        stream,
        data: Some(data),
        ..
    }) = StreamData::decode(io, "utf-8")
    else {
        return;
    };
    let severity = match stream.as_str() {
        "stderr" => Severity::Err,
        _ => Severity::Info,
    };
    for line in String::from_utf8_lossy(&data).lines() {
        tell(severity, line);
    }
}

//! Worker processes, which check or fill in jobspecs with plugins that are not built in.
//!
//! A worker reads one JSON request a line and writes one JSON answer a line, in the same order.
//! It starts with the first request and is let go when it had nothing to do for a while. If it
//! ends otherwise, what it was asked fails, and the next request starts another.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use module::{Host, Severity};
use proto::rexec::{Command, Exec, ExecEvent, RexecExec, RexecWrite, Write, flags};
use rpc::{Handle, RpcError, Stream};
use serde::Deserialize;
use serde_json::Value;
use spec::stdio::StreamData;
use tokio::sync::{mpsc, oneshot};
use types::Errno;

/// How long a worker may be idle.
const IDLE: Duration = Duration::from_secs(5);

const REXEC: &str = "rexec";

/// What a worker says of a job.
#[derive(Debug, Deserialize)]
struct Answer {
    errnum: i32,
    #[serde(default)]
    errstr: Option<String>,
    #[serde(default)]
    data: Option<Value>,
}

type Reply = oneshot::Sender<Result<Option<Value>, RpcError>>;
type Asked = (String, Reply);

/// A worker, running or not. It ends when this is dropped and all requests are answered.
pub(super) struct Worker(mpsc::UnboundedSender<Asked>);

impl Worker {
    /// Prepares a worker with a command line and the size of its input buffer.
    pub(super) fn new(
        handle: Handle,
        host: Rc<dyn Host>,
        cmdline: Vec<String>,
        buffer_size: Option<String>,
    ) -> Worker {
        let (sender, requests) = mpsc::unbounded_channel();
        let task = Task {
            handle,
            host,
            cmdline,
            buffer_size,
            requests,
            pending: VecDeque::new(),
        };
        tokio::task::spawn_local(task.run());
        Worker(sender)
    }

    /// Asks about a job. What comes is the jobspec that replaces the job's, if there is one.
    ///
    /// Errors: those the worker answers; `EPROTO` if it does not.
    pub(super) fn ask(
        &self,
        request: String,
    ) -> impl Future<Output = Result<Option<Value>, RpcError>> + use<> {
        let (reply, answer) = oneshot::channel();
        // A task that is gone drops the sender, which shows below.
        let _gone = self.0.send((request, reply));
        async move { answer.await.unwrap_or_else(|_| Err(exited())) }
    }
}

fn exited() -> RpcError {
    let text = "Unrecoverable error: worker unexpectedly exited";
    RpcError::new(Errno::EPROTO, text)
}

struct Task {
    handle: Handle,
    host: Rc<dyn Host>,
    cmdline: Vec<String>,
    buffer_size: Option<String>,
    requests: mpsc::UnboundedReceiver<Asked>,
    /// Whom the answers to come are for.
    pending: VecDeque<Reply>,
}

impl Task {
    async fn run(mut self) {
        while let Some(first) = self.requests.recv().await {
            let mut stream = self.start();
            let matchtag = stream.matchtag().0;
            self.write(matchtag, first);
            self.serve(&mut stream, matchtag).await;
            for reply in self.pending.drain(..) {
                // Nobody may wait for it any more.
                let _gone = reply.send(Err(exited()));
            }
        }
    }

    fn start(&self) -> Stream<ExecEvent> {
        let mut cmd = Command {
            cmdline: self.cmdline.clone(),
            ..Command::default()
        };
        if let Some(size) = &self.buffer_size {
            cmd.opts.insert("stdin_BUFSIZE".into(), size.clone().into());
        }
        let request = Exec {
            cmd,
            flags: flags::STDOUT | flags::STDERR,
            local_flags: None,
        };
        let rank = self.handle.rank();
        self.handle
            .stream_service::<RexecExec>(REXEC, rank, &request)
    }

    /// Passes requests and answers on until the worker ends.
    async fn serve(&mut self, stream: &mut Stream<ExecEvent>, matchtag: u32) {
        let mut output = Vec::new();
        let mut open = true;
        loop {
            let idle = open && self.pending.is_empty();
            tokio::select! {
                biased;
                event = stream.next() => match event {
                    Ok(Some(ExecEvent::Output { io, .. })) => {
                        if let Err(text) = self.on_output(&mut output, &io) {
                            self.log(Severity::Err, &text);
                            return;
                        }
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => return,
                    Err(error) => {
                        self.log(Severity::Err, &error.to_string());
                        return;
                    }
                },
                asked = self.requests.recv(), if open => match asked {
                    Some(asked) => self.write(matchtag, asked),
                    None => {
                        open = false;
                        self.close(matchtag);
                    }
                },
                () = tokio::time::sleep(IDLE), if idle => {
                    // Requests that come now start another worker.
                    self.close(matchtag);
                    return;
                }
            }
        }
    }

    fn write(&mut self, matchtag: u32, (request, reply): Asked) {
        self.pending.push_back(reply);
        let rank = self.handle.rank();
        let line = StreamData::new("stdin", rank, format!("{request}\n").as_bytes());
        self.send(matchtag, &line);
    }

    fn close(&self, matchtag: u32) {
        self.send(matchtag, &StreamData::eof("stdin", self.handle.rank()));
    }

    fn send(&self, matchtag: u32, data: &StreamData) {
        let request = Write {
            matchtag,
            io: data.encode(),
        };
        let rank = self.handle.rank();
        self.handle
            .notify_service::<RexecWrite>(REXEC, rank, &request);
    }

    /// Takes answers; `output` keeps a line that is not yet whole. Errors are texts for people.
    fn on_output(
        &mut self,
        output: &mut Vec<u8>,
        io: &serde_json::Map<String, Value>,
    ) -> Result<(), String> {
        let piece = StreamData::decode(io, "UTF-8").map_err(|error| error.to_string())?;
        let data = piece.data.unwrap_or_default();
        if piece.stream != "stdout" {
            for line in String::from_utf8_lossy(&data).lines() {
                self.log(Severity::Debug, line);
            }
            return Ok(());
        }
        output.extend(data);
        while let Some(end) = output.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = output.drain(..=end).collect();
            let answer: Answer = serde_json::from_slice(&line)
                .map_err(|error| format!("invalid answer: {error}"))?;
            let Some(reply) = self.pending.pop_front() else {
                return Err("an answer nobody asked for".to_owned());
            };
            // Nobody may wait for it any more.
            let _gone = reply.send(answer.result());
        }
        Ok(())
    }

    fn log(&self, severity: Severity, text: &str) {
        let name = self.cmdline.get(1).map_or("worker", String::as_str);
        self.host
            .log(severity, "job-ingest", &format!("{name}: {text}"));
    }
}

impl Answer {
    fn result(self) -> Result<Option<Value>, RpcError> {
        match self.errnum {
            0 => Ok(self.data),
            errnum => {
                let errno = Errno(errnum);
                let text = self.errstr.unwrap_or_else(|| errno.to_string());
                Err(RpcError::new(errno, text))
            }
        }
    }
}

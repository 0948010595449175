//! The line that says what a job waits for, until it starts.
//!
//! It is written over again every second. It is there if asked for, or when a person looks on for
//! a while.

use std::io::IsTerminal;
use std::time::Duration;

use client::Client;
use proto::job_list::{JobListId, ListId};
use proto::job_manager::{JobManagerQueueStatus, Queue};
use rpc::{Dest, Handle};
use serde_json::Value;
use spec::Entry;
use tokio::sync::mpsc;
use tokio::time::Instant;
use types::JobId;

use super::Options;
use crate::{output, terminal};

/// How long nobody is bothered.
const PATIENCE: Duration = Duration::from_secs(2);
const REFRESH: Duration = Duration::from_secs(1);
/// The width of a terminal that does not tell.
const WIDTH: usize = 80;

/// The line.
pub(super) struct StatusLine {
    id: JobId,
    began: Instant,
    /// When it is next written; `None` if never.
    next: Option<Instant>,
    message: &'static str,
    prologs: u32,
    /// Whether the job's queue is stopped, as said from time to time.
    queue: Option<mpsc::UnboundedReceiver<Stopped>>,
    stopped: Stopped,
    queue_check: Duration,
}

/// The queue that is stopped, if it is.
type Stopped = Option<String>;

impl StatusLine {
    pub(super) fn new(id: JobId, options: &Options) -> StatusLine {
        let now = Instant::now();
        let watched = || {
            std::io::stdin().is_terminal()
                && std::io::stdout().is_terminal()
                && std::io::stderr().is_terminal()
        };
        let next = if std::env::var_os("FLUX_ATTACH_NONINTERACTIVE").is_some() {
            None
        } else if options.status {
            Some(now)
        } else {
            (!options.events && watched()).then(|| now + PATIENCE)
        };
        StatusLine {
            id,
            began: now,
            next,
            message: "",
            prologs: 0,
            queue: None,
            stopped: None,
            queue_check: options.queue_check.unwrap_or(REFRESH),
        }
    }

    /// Takes an event of the job.
    pub(super) fn on_event(&mut self, client: &Client, entry: &Entry) {
        if self.next.is_none() {
            return;
        }
        self.message = match entry.name.as_str() {
            "submit" => "submitted",
            "validate" => "resolving dependencies",
            "depend" => "waiting for priority assignment",
            "priority" => {
                self.watch_queue(client);
                "waiting for resources"
            }
            "alloc" => "starting",
            "prolog-start" => {
                self.prologs += 1;
                "waiting for prolog"
            }
            "prolog-finish" => {
                self.prologs = self.prologs.saturating_sub(1);
                if self.prologs > 0 {
                    return;
                }
                "starting"
            }
            "start" => "started",
            "clean" => self.message,
            _ => return,
        };
        if entry.name != "priority" {
            self.queue = None;
            self.stopped = None;
        }
        self.write_if_due();
        if matches!(entry.name.as_str(), "start" | "clean") {
            if self.is_shown() {
                output::error_bytes(b"\n");
            }
            self.next = None;
        }
    }

    /// Writes it whenever that is due. Never returns.
    pub(super) async fn keep(&mut self) -> std::convert::Infallible {
        loop {
            let Some(next) = self.next else {
                return std::future::pending().await;
            };
            let queue = async {
                match &mut self.queue {
                    Some(queue) => queue.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                stopped = queue => match stopped {
                    Some(stopped) if stopped != self.stopped => self.stopped = stopped,
                    Some(_) => continue,
                    None => {
                        self.queue = None;
                        continue;
                    }
                },
            }
            self.write_if_due();
        }
    }

    fn is_shown(&self) -> bool {
        self.next
            .is_some_and(|next| next <= Instant::now() + REFRESH)
    }

    fn write_if_due(&mut self) {
        let now = Instant::now();
        if !self.is_shown() || self.message.is_empty() {
            return;
        }
        let text = line(
            &format!("flux-job: {} {}", self.id, self.message),
            self.stopped.as_deref(),
            self.began.elapsed(),
            terminal::width().unwrap_or(WIDTH),
        );
        output::error_bytes(text.as_bytes());
        self.next = Some(now + REFRESH);
    }

    fn watch_queue(&mut self, client: &Client) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let poll = poll_queue(client.handle().clone(), self.id, self.queue_check, sender);
        tokio::task::spawn_local(poll);
        self.queue = Some(receiver);
    }
}

/// Says from time to time whether the queue of a job is stopped, as long as anybody listens.
async fn poll_queue(
    handle: Handle,
    id: JobId,
    interval: Duration,
    sender: mpsc::UnboundedSender<Stopped>,
) {
    let request = ListId {
        id,
        attrs: vec!["queue".to_owned()],
        state: None,
    };
    let listed = handle.call::<JobListId>(Dest::Any, &request).await;
    let name = listed.ok().and_then(|listed| {
        let queue = listed.job.get("queue").and_then(Value::as_str);
        queue.map(str::to_owned)
    });
    let queue = Queue { name: name.clone() };
    let name = name.unwrap_or_else(|| "default".to_owned());
    // It is only for information: if it cannot be had, nothing is said.
    while let Ok(status) = handle
        .call::<JobManagerQueueStatus>(Dest::Any, &queue)
        .await
    {
        if sender.send((!status.start).then(|| name.clone())).is_err() {
            return;
        }
        tokio::time::sleep(interval).await;
    }
}

/// The text of a line `width` wide.
fn line(text: &str, stopped: Option<&str>, elapsed: Duration, width: usize) -> String {
    let stopped = stopped.map_or_else(String::new, |queue| format!(" ({queue} queue stopped)"));
    let text = format!("{text}{stopped}");
    let seconds = elapsed.as_secs();
    let clock = format!(
        " {:02}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    );
    let room = width.saturating_sub(clock.len());
    format!("\r{text:<room$}{clock}\r")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_fills_the_terminal() {
        for (stopped, expect) in [
            (None, "\rflux-job: f1 starting           01:01:01\r"),
            (
                Some("a"),
                "\rflux-job: f1 starting (a queue stopped) 01:01:01\r",
            ),
        ] {
            let elapsed = Duration::from_secs(3661);
            assert_eq!(line("flux-job: f1 starting", stopped, elapsed, 40), expect);
        }
    }
}

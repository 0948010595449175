//! Followed eventlogs and followed R or jobspec.

use std::rc::Rc;

use proto::Payload;
use proto::job_info::{
    Event, EventlogWatch, JobInfoEventlogWatch, JobInfoUpdateWatch, Update, watch_flags,
};
use proto::kvs::{Found, KvsWatchLookup, Lookup, PRIMARY, flags};
use rpc::{Dest, Handle, Request, RpcError, Stream};
use serde_json::{Map, Value};
use spec::Entry;
use types::Errno;
use wire::Message;

use super::{Shared, apply_updates, check_access, key_of};
use crate::store;

fn refuse(text: &str) -> RpcError {
    RpcError::new(Errno::EPROTO, text)
}

/// A followed value: what is there, then what is added.
struct Follow {
    stream: Stream<Found>,
    lines: Lines,
    /// Bytes seen.
    seen: usize,
}

/// What a followed value brings.
enum News {
    /// Complete lines, perhaps none.
    Lines(String),
    /// All there was has been told.
    Sentinel,
    /// It is over.
    End(RpcError),
}

impl Follow {
    fn start(handle: &Handle, namespace: &str, key: String, more: i32) -> Follow {
        let request = Lookup {
            key,
            flags: flags::WATCH | flags::WATCH_APPEND | flags::WATCH_BLOBS | more,
            namespace: Some(namespace.to_owned()),
            rootdir: None,
            rootseq: None,
        };
        Follow {
            stream: handle.stream::<KvsWatchLookup>(Dest::Any, &request),
            lines: Lines::default(),
            seen: 0,
        }
    }

    async fn next(&mut self) -> News {
        let bytes = match self.stream.next_raw().await {
            Ok(Some(Some(bytes))) => bytes,
            Ok(Some(None)) => return News::Sentinel,
            Ok(None) => return News::End(Errno::ENODATA.into()),
            Err(error) => return News::End(error),
        };
        self.seen += bytes.len();
        match self.lines.take(&bytes) {
            Ok(lines) => News::Lines(lines),
            Err(error) => News::End(error),
        }
    }
}

/// `job-info.eventlog-watch`.
pub(super) fn eventlog(shared: &Rc<Shared>, request: Request<JobInfoEventlogWatch>) {
    let wanted = match EventlogWatch::decode(request.message().payload.as_ref()) {
        Ok(wanted) => wanted,
        Err(_) => return request.fail(Errno::EPROTO),
    };
    if wanted.flags & !(watch_flags::WAITCREATE | watch_flags::INITIAL_SENTINEL) != 0 {
        return request.fail(refuse("eventlog-watch request rejected with invalid flag"));
    }
    if !request.is_streaming() {
        let text = "eventlog-watch request rejected without streaming RPC flag";
        return request.fail(refuse(text));
    }
    let path = match wanted.path.strip_prefix("guest.") {
        Some(path) => Some(path.to_owned()),
        None if wanted.guest => Some(wanted.path.clone()),
        None => None,
    };
    let (state, message) = (shared.clone(), request.message().clone());
    let is_guest = path.is_some();
    let task = async move {
        let checked = check_access(&state, message.cred, wanted.id).await;
        let watch = Watch {
            shared: state,
            message,
            wanted,
        };
        let ended = match (checked, path) {
            (Err(error), _) => Err(error),
            (Ok(()), None) => watch.main().await,
            (Ok(()), Some(path)) => watch.guest(&path).await,
        };
        ended.err().unwrap_or_else(|| Errno::ENODATA.into())
    };
    shared.watch(request.message(), is_guest, false, task);
}

struct Watch {
    shared: Rc<Shared>,
    message: Message,
    wanted: EventlogWatch,
}

impl Watch {
    fn tell(&self, lines: &str) {
        let tell = |event: &str| {
            let event = event.into();
            let payload = proto::json_payload(&Event { event });
            self.shared.handle.respond_raw(&self.message, payload);
        };
        match self.wanted.batch {
            true if lines.is_empty() => {}
            true => tell(lines),
            false => lines.split_inclusive('\n').for_each(tell),
        }
    }

    fn sentinel(&self) {
        self.shared
            .handle
            .respond_raw(&self.message, bytes::Bytes::new());
    }

    fn flags(&self) -> i32 {
        let mut bits = 0;
        if self.wanted.flags & watch_flags::WAITCREATE != 0 {
            bits |= flags::WAITCREATE;
        }
        if self.wanted.flags & watch_flags::INITIAL_SENTINEL != 0 {
            bits |= flags::WATCH_INITIAL_SENTINEL;
        }
        bits
    }

    /// Follows a log in the primary namespace; the job's own ends with `clean`.
    async fn main(&self) -> Result<(), RpcError> {
        let key = key_of(self.wanted.id, &self.wanted.path);
        let mut follow = Follow::start(&self.shared.handle, PRIMARY, key, self.flags());
        let is_main = self.wanted.path == "eventlog";
        loop {
            match follow.next().await {
                News::Lines(lines) => {
                    let ends = is_main && has_event(&lines, "clean");
                    self.tell(&lines);
                    if ends {
                        return Ok(());
                    }
                }
                News::Sentinel => self.sentinel(),
                News::End(error) => return Err(error),
            }
        }
    }

    /// Follows a log of the guest's: in the guest namespace while there is one, then where its
    /// contents are left.
    async fn guest(&self, path: &str) -> Result<(), RpcError> {
        let handle = &self.shared.handle;
        let mut main = Follow::start(handle, PRIMARY, key_of(self.wanted.id, "eventlog"), 0);
        // Without `start` there may be no namespace yet, and never one.
        let mut over = false;
        let mut started = false;
        while !started && !over {
            match main.next().await {
                News::Lines(lines) => {
                    started |= has_event(&lines, "start");
                    over |= has_event(&lines, "clean");
                }
                News::Sentinel => {}
                News::End(error) => return Err(error),
            }
        }
        let mut seen = 0;
        if !over {
            let namespace = format!("job-{}", self.wanted.id.0);
            // The log may not be there yet, though the job runs.
            let more = self.flags() | flags::WAITCREATE;
            let more = match self.wanted.flags & watch_flags::WAITCREATE {
                0 => self.flags(),
                _ => more,
            };
            let mut follow = Follow::start(handle, &namespace, path.to_owned(), more);
            while !over {
                // A namespace that went before this began would be waited for in vain, so the
                // job's own log is followed as well.
                tokio::select! {
                    biased;
                    news = follow.next() => match news {
                        News::Lines(lines) => self.tell(&lines),
                        News::Sentinel => self.sentinel(),
                        // The namespace went, or this kind of job has none.
                        News::End(error) if error.errno == Errno::ENOTSUP => break,
                        News::End(error) if error.errno == Errno::ENODATA => break,
                        News::End(error) => return Err(error),
                    },
                    news = main.next() => match news {
                        News::Lines(lines) => {
                            over |= has_event(&lines, "clean");
                        }
                        News::Sentinel => {}
                        News::End(error) => return Err(error),
                    },
                }
            }
            seen = follow.seen - follow.lines.rest.len();
        }
        self.left(path, seen, main, over).await
    }

    /// Follows what a guest left, from the byte offset `seen` on, to the end of the job.
    async fn left(
        &self,
        path: &str,
        seen: usize,
        mut main: Follow,
        mut over: bool,
    ) -> Result<(), RpcError> {
        let handle = &self.shared.handle;
        let key = key_of(self.wanted.id, &format!("guest.{path}"));
        let mut told = seen;
        let mut silent = seen > 0;
        loop {
            // Looked at again after each event of the job; the last look is after `clean`.
            let last = over;
            let text = match rest_of(handle, &key, told).await {
                Ok(text) => text,
                Err(error) if error.errno == Errno::ENOTSUP && !last => None,
                Err(error) => return Err(error),
            };
            match text {
                Some(bytes) if !bytes.is_empty() => {
                    let mut lines = Lines::default();
                    self.tell(&lines.take(&bytes)?);
                    told += bytes.len() - lines.rest.len();
                }
                None if last && told == 0 => {
                    let text = format!("{}: key not found", self.wanted.path);
                    return Err(RpcError::new(Errno::ENOENT, text));
                }
                _ => {}
            }
            if !silent && told > 0 {
                silent = true;
                if self.wanted.flags & watch_flags::INITIAL_SENTINEL != 0 {
                    self.sentinel();
                }
            }
            if last {
                return Ok(());
            }
            match main.next().await {
                News::Lines(lines) => {
                    over |= has_event(&lines, "clean");
                }
                News::Sentinel => {}
                News::End(error) => return Err(error),
            }
        }
    }
}

/// What a value of the primary namespace has from the byte offset `from` on; `None` if there is no
/// such key. The value comes blob by blob, so that what is known is not copied again.
async fn rest_of(handle: &Handle, key: &str, from: usize) -> Result<Option<Vec<u8>>, RpcError> {
    let request = Lookup {
        key: key.to_owned(),
        flags: flags::STREAM | flags::WATCH_BLOBS,
        namespace: Some(PRIMARY.to_owned()),
        rootdir: None,
        rootseq: None,
    };
    let mut stream = handle.stream::<KvsWatchLookup>(Dest::Any, &request);
    let mut rest = Vec::new();
    let mut skip = from;
    loop {
        match stream.next_raw().await {
            Ok(Some(bytes)) => {
                let bytes = bytes.unwrap_or_default();
                rest.extend_from_slice(bytes.get(skip..).unwrap_or_default());
                skip = skip.saturating_sub(bytes.len());
            }
            Ok(None) => return Ok(Some(rest)),
            Err(error) if error.errno == Errno::ENOENT => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

/// Cuts bytes into lines.
#[derive(Default)]
struct Lines {
    /// An incomplete line.
    rest: Vec<u8>,
}

impl Lines {
    /// The lines these bytes complete. Work is in proportion to the bytes, however many lines.
    fn take(&mut self, bytes: &[u8]) -> Result<String, RpcError> {
        let Some(end) = bytes.iter().rposition(|byte| *byte == b'\n') else {
            self.rest.extend_from_slice(bytes);
            return Ok(String::new());
        };
        let (whole, rest) = bytes.split_at(end + 1);
        self.rest.extend_from_slice(whole);
        let whole = std::mem::replace(&mut self.rest, rest.to_vec());
        String::from_utf8(whole).map_err(|_| refuse("eventlog is not text"))
    }
}

fn has_event(lines: &str, name: &str) -> bool {
    let named = |line: &str| Entry::decode(line.as_bytes()).is_ok_and(|entry| entry.name == name);
    lines.lines().any(named)
}

/// `job-info.update-watch`.
pub(super) fn updates(shared: &Rc<Shared>, request: Request<JobInfoUpdateWatch>) {
    let wanted = match Update::decode(request.message().payload.as_ref()) {
        Ok(wanted) => wanted,
        Err(_) => return request.fail(Errno::EPROTO),
    };
    if !matches!(wanted.key.as_str(), "R" | "jobspec") {
        let text = "update-watch unsupported key specified";
        return request.fail(RpcError::new(Errno::EINVAL, text));
    }
    if wanted.flags != 0 {
        return request.fail(refuse("update-watch request rejected with invalid flag"));
    }
    if !request.is_streaming() {
        let text = "update-watch request rejected without streaming RPC flag";
        return request.fail(refuse(text));
    }
    let (state, message) = (shared.clone(), request.message().clone());
    let task = async move {
        let ended = match check_access(&state, message.cred, wanted.id).await {
            Ok(()) => follow_updates(&state, &message, &wanted).await,
            Err(error) => Err(error),
        };
        ended.err().unwrap_or_else(|| Errno::ENODATA.into())
    };
    shared.watch(request.message(), false, true, task);
}

async fn follow_updates(
    shared: &Shared,
    message: &Message,
    wanted: &Update,
) -> Result<(), RpcError> {
    let handle = &shared.handle;
    let mut main = Follow::start(handle, PRIMARY, key_of(wanted.id, "eventlog"), 0);
    let mut log: Vec<Entry> = Vec::new();
    let mut told: Option<Map<String, Value>> = None;
    loop {
        match main.next().await {
            News::Lines(lines) => {
                log.extend(
                    lines
                        .lines()
                        .filter_map(|line| Entry::decode(line.as_bytes()).ok()),
                );
            }
            News::Sentinel => continue,
            News::End(error) if error.errno == Errno::ENOENT => {
                return Err(RpcError::new(Errno::ENOENT, "invalid job id"));
            }
            News::End(error) => return Err(error),
        }
        let over = log.iter().any(|entry| entry.name == "clean");
        let there = wanted.key == "jobspec" || log.iter().any(|entry| entry.name == "alloc");
        if there {
            let bytes = store::get(handle, &key_of(wanted.id, &wanted.key)).await?;
            let missing = || RpcError::new(Errno::ENOENT, format!("{}: key not found", wanted.key));
            let mut object: Map<String, Value> =
                serde_json::from_slice(&bytes.ok_or_else(missing)?)
                    .map_err(|error| refuse(&error.to_string()))?;
            apply_updates(&wanted.key, &mut object, &log);
            if told.as_ref() != Some(&object) {
                let mut reply = Map::new();
                reply.insert(wanted.key.clone(), Value::Object(object.clone()));
                handle.respond(message, &reply);
                told = Some(object);
            }
        }
        if over {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_however_they_are_cut() {
        let text = b"one\ntwo\n\nthree";
        for size in 1..text.len() {
            let mut lines = Lines::default();
            let taken: String = text
                .chunks(size)
                .map(|chunk| lines.take(chunk).expect("text"))
                .collect();
            assert_eq!(taken, "one\ntwo\n\n");
            assert_eq!(lines.rest, b"three");
        }
        assert!(Lines::default().take(b"\xff\n").is_err());
    }
}

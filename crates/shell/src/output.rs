//! Where the tasks' output goes: the job's `output` eventlog, or files.
//!
//! The leader writes the eventlog and files all shells share; the others send it what their tasks
//! write, as fast as its credit allows.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use spec::stdio::StreamData;
use subprocess::Buffering;
use types::Errno;

use crate::fatal::Fatal;
use crate::job::Job;
use crate::mustache::{self, Scope};

/// The most a job may store of one stream.
pub(crate) const LIMIT_MAX: u64 = 1 << 30;
/// What a guest may store unless told otherwise.
const LIMIT_GUEST: u64 = 10 << 20;
/// Volume above which the user is told of files.
const VOLUME_HINT: u64 = 100 << 20;

/// One of the two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Out,
    Err,
}

impl Stream {
    pub(crate) const BOTH: [Stream; 2] = [Stream::Out, Stream::Err];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Stream::Out => "stdout",
            Stream::Err => "stderr",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Stream> {
        Stream::BOTH
            .into_iter()
            .find(|stream| stream.name() == name)
    }
}

/// What the options say of a stream.
#[derive(Clone, Debug)]
pub(crate) struct StreamConfig {
    /// The template of the file's path; `None` for the eventlog.
    pub(crate) path: Option<String>,
    pub(crate) label: bool,
    pub(crate) buffering: Buffering,
}

/// What the options say.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    streams: [StreamConfig; 2],
    append: bool,
    pub(crate) limit: u64,
    pub(crate) batch_timeout: Duration,
    pub(crate) low: u32,
    pub(crate) high: u32,
}

/// Reads a size such as `10M`, or a number.
pub(crate) fn parse_size(value: &Value) -> Option<u64> {
    if let Some(number) = value.as_u64() {
        return Some(number);
    }
    let text = value.as_str()?.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let unit: u64 = match &text[end..] {
        "" => 1,
        "k" | "K" => 1 << 10,
        "m" | "M" => 1 << 20,
        "g" | "G" => 1 << 30,
        _ => return None,
    };
    Some((text[..end].parse::<f64>().ok()? * unit as f64) as u64)
}

/// A size as users read it.
pub(crate) fn format_size(bytes: u64) -> String {
    let units = [(1u64 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")];
    for (unit, name) in units {
        if bytes >= unit {
            let value = bytes as f64 / unit as f64;
            return match value.fract() == 0.0 {
                true => format!("{value:.0}{name}"),
                false => format!("{value:.1}{name}"),
            };
        }
    }
    bytes.to_string()
}

impl Config {
    /// Reads the options. `warn` takes what is ignored.
    pub(crate) fn new(job: &Job, is_owner: bool, warn: &mut Vec<String>) -> Result<Config, Fatal> {
        let out = StreamConfig::new(job, Stream::Out, None, warn);
        let err = StreamConfig::new(job, Stream::Err, Some(&out), warn);
        let append = match job.option("output.mode") {
            None => false,
            Some(Value::String(mode)) if mode == "truncate" => false,
            Some(Value::String(mode)) if mode == "append" => true,
            Some(other) => {
                let other = other.as_str().map_or(other.to_string(), str::to_owned);
                warn.push(format!("ignoring invalid output.mode={other}"));
                false
            }
        };
        let limit = match job.option("output.limit") {
            None if is_owner => LIMIT_MAX,
            None => LIMIT_GUEST,
            Some(value) => parse_size(value)
                .filter(|limit| *limit > 0 && *limit <= LIMIT_MAX)
                .ok_or_else(|| {
                    let value = value.as_str().map_or(value.to_string(), str::to_owned);
                    Fatal::new(format!("Invalid KVS output.limit={value}"))
                })?,
        };
        let mark = |name: &str, default: u32| match job.option(&format!("output.client.{name}")) {
            None => Some(default),
            Some(value) => value.as_u64().and_then(|mark| u32::try_from(mark).ok()),
        };
        let marks = mark("lwm", 100).zip(mark("hwm", 1000));
        let (low, high) = marks
            .filter(|(low, high)| low < high)
            .ok_or_else(|| Fatal::new("invalid client.lwm and/or client.hwm specified"))?;
        let batch_timeout = match job.option("output.batch-timeout") {
            None => Some(Duration::from_millis(500)),
            Some(value) => value
                .as_f64()
                .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
        };
        Ok(Config {
            streams: [out, err],
            append,
            limit,
            batch_timeout: batch_timeout
                .ok_or_else(|| Fatal::new("invalid output.batch-timeout option"))?,
            low,
            high,
        })
    }

    pub(crate) fn stream(&self, stream: Stream) -> &StreamConfig {
        &self.streams[stream as usize]
    }
}

impl StreamConfig {
    fn new(
        job: &Job,
        stream: Stream,
        inherit: Option<&StreamConfig>,
        warn: &mut Vec<String>,
    ) -> StreamConfig {
        let option = |name: &str| job.option(&format!("output.{}.{name}", stream.name()));
        let kind = option("type").and_then(Value::as_str);
        let own_path = option("path").and_then(Value::as_str).map(str::to_owned);
        let inherited = inherit.and_then(|inherit| inherit.path.clone());
        let path = match kind {
            Some("kvs") => None,
            _ => own_path.or(inherited),
        };
        let label = match option("label") {
            Some(value) => value.as_bool().unwrap_or(value.as_i64() != Some(0)),
            None => inherit.is_some_and(|inherit| inherit.label),
        };
        let default = match stream {
            Stream::Out => Buffering::Line,
            Stream::Err => Buffering::Eager,
        };
        let buffering = match option("buffer.type").map(|value| (value, value.as_str())) {
            None => default,
            Some((_, Some("line"))) => Buffering::Line,
            Some((_, Some("none"))) => Buffering::Eager,
            Some((value, text)) => {
                let text = text.map_or(value.to_string(), str::to_owned);
                warn.push(format!("invalid buffer type specified: {text}"));
                Buffering::Line
            }
        };
        StreamConfig {
            path,
            label,
            buffering,
        }
    }
}

/// The leader's view of what is stored, and every shell's of its files.
pub(crate) struct Output {
    pub(crate) config: Config,
    files: RefCell<HashMap<String, Rc<File>>>,
    /// Whether a stream's file is the leader's, by stream.
    shared: [bool; 2],
    stored: [Cell<u64>; 2],
    truncated: [Cell<u64>; 2],
}

/// Where a piece of output goes.
pub(crate) enum Dest {
    Eventlog,
    File(Rc<File>),
    /// A file the leader holds.
    Leader,
}

impl Output {
    pub(crate) fn new(config: Config, scope: &Scope<'_>) -> Output {
        let shared = |stream: Stream| {
            let path = config.stream(stream).path.as_deref();
            path.is_some_and(|path| !mustache::is_per_rank(path, scope))
        };
        Output {
            shared: [shared(Stream::Out), shared(Stream::Err)],
            config,
            files: RefCell::default(),
            stored: Default::default(),
            truncated: Default::default(),
        }
    }

    /// Where the output of a task on this shell goes.
    ///
    /// Errors name the file that cannot be opened.
    pub(crate) fn dest(
        &self,
        stream: Stream,
        scope: &Scope<'_>,
        leader: bool,
    ) -> Result<Dest, Fatal> {
        let Some(template) = &self.config.stream(stream).path else {
            return Ok(Dest::Eventlog);
        };
        if self.shared[stream as usize] && !leader {
            return Ok(Dest::Leader);
        }
        self.open(&mustache::render(template, scope))
            .map(Dest::File)
    }

    fn open(&self, path: &str) -> Result<Rc<File>, Fatal> {
        if let Some(file) = self.files.borrow().get(path) {
            return Ok(file.clone());
        }
        let mut options = File::options();
        options.create(true);
        match self.config.append {
            true => options.append(true),
            false => options.write(true).truncate(true),
        };
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o644);
        let file = options.open(Path::new(path)).map_err(|error| {
            let errno = Errno::from_io(&error);
            Fatal::new(format!("error opening output file '{path}': {errno}"))
        })?;
        let file = Rc::new(file);
        self.files
            .borrow_mut()
            .insert(path.to_owned(), file.clone());
        Ok(file)
    }

    /// The event that begins the eventlog.
    pub(crate) fn header_event(ntasks: u32) -> Map<String, Value> {
        let context = json!({
            "version": 1,
            "encoding": {"stdout": "UTF-8", "stderr": "UTF-8"},
            "count": {"stdout": ntasks, "stderr": ntasks},
            "options": {},
        });
        match context {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }

    /// The events that begin the eventlog: header and redirections.
    pub(crate) fn header(
        &self,
        job: &Job,
        scope: &Scope<'_>,
    ) -> Vec<(&'static str, Map<String, Value>)> {
        let context = |value: Value| match value {
            Value::Object(map) => map,
            _ => Map::new(),
        };
        let mut events = vec![("header", Output::header_event(job.ntasks))];
        let tasks = types::IdSet::first_n(job.ntasks).to_bracketed();
        for stream in Stream::BOTH {
            let Some(path) = &self.config.stream(stream).path else {
                continue;
            };
            let scope = Scope {
                shell_rank: None,
                task: None,
                ..*scope
            };
            let path = mustache::render(path, &scope);
            events.push((
                "redirect",
                context(json!({"stream": stream.name(), "rank": tasks, "path": path})),
            ));
        }
        events
    }

    /// Writes to a file, with labels if asked for.
    pub(crate) fn write_file(
        &self,
        mut file: &File,
        stream: Stream,
        data: &StreamData,
    ) -> std::io::Result<()> {
        let Some(bytes) = &data.data else {
            return Ok(());
        };
        if !self.config.stream(stream).label {
            return file.write_all(bytes);
        }
        let mut labelled = Vec::with_capacity(bytes.len() + 16);
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            labelled.extend_from_slice(data.rank.as_bytes());
            labelled.extend_from_slice(b": ");
            labelled.extend_from_slice(line);
        }
        file.write_all(&labelled)
    }

    /// Cuts what exceeds the limit. Returns whether to store it, and a warning for the first cut.
    pub(crate) fn admit(&self, stream: Stream, bytes: usize) -> (bool, Option<String>) {
        let index = stream as usize;
        let stored = self.stored[index].get();
        let bytes = bytes as u64;
        if stored + bytes <= self.config.limit {
            self.stored[index].set(stored + bytes);
            return (true, None);
        }
        let truncated = self.truncated[index].get();
        self.truncated[index].set(truncated + bytes);
        let warning = (truncated == 0).then(|| {
            format!(
                "{} will be truncated, {} limit exceeded",
                stream.name(),
                format_size(self.config.limit)
            )
        });
        (false, warning)
    }

    /// What the user should know at the end.
    pub(crate) fn summary(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for stream in Stream::BOTH {
            let truncated = self.truncated[stream as usize].get();
            let total = self.stored[stream as usize].get() + truncated;
            let name = stream.name();
            if truncated > 0 {
                let over = total.saturating_sub(self.config.limit);
                lines.push(format!("{name}: {over} of {total} bytes truncated"));
            }
            if total > VOLUME_HINT {
                lines.push(format!(
                    "high {name} volume ({}), consider redirecting to a file next time \
                     (e.g. use --output=FILE)",
                    format_size(total)
                ));
            }
        }
        lines
    }
}

//! Module `content-sqlite`: the backing store of `content`, in an SQLite file.
//!
//! Blobs, checkpoints and the epochs of garbage collection live in `content.sqlite` below the
//! broker's `statedir`. One thread owns the database; see `worker`.
//!
//! The module registers the service `content-backing`, then itself with `content`; it serves both
//! that name and its own.

mod database;
mod packing;
mod worker;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use module::{Builtin, Context, Failure, Input, Severity};
use proto::content::{
    BackingCheckpointGet, BackingCheckpointPut, BackingDigests, BackingGcInfo, BackingLoad,
    BackingLoadMany, BackingMark, BackingStore, BackingSweep, BackingValidate, Checkpoints,
};
use proto::{Empty, Raw};
use rpc::{Request, Routes, RpcError};
use serde_json::{Map, Value, json};
use spec::HashKind;
use tokio::sync::mpsc;
use types::Errno;
use wire::Message;

use crate::backing;
use crate::content::inlet::{self, Delivery, Inlet};
use database::Settings;
use worker::{Answer, Job, Stats, Worker};

const JOURNAL_MODES: &[&str] = &["DELETE", "TRUNCATE", "PERSIST", "MEMORY", "WAL", "OFF"];
const SYNCHRONOUS: &[&str] = &["EXTRA", "FULL", "NORMAL", "OFF"];

/// The module.
pub fn builtin() -> Builtin {
    Builtin {
        name: "content-sqlite",
        main: |context| Box::pin(run(context)),
    }
}

/// Reads arguments over the `[content-sqlite]` table over defaults.
fn configure(
    settings: &mut Settings,
    config: &Map<String, Value>,
    args: &[String],
) -> Result<(), RpcError> {
    let invalid = |what: &str| RpcError::new(Errno::EINVAL, format!("{}: {what}", Errno::EINVAL));
    let choose = |key: &str, value: &str, choices: &[&str], into: &mut String| {
        if !choices.contains(&value) {
            return Err(invalid(&format!("{key}={value}")));
        }
        value.clone_into(into);
        Ok(())
    };
    if let Some(table) = config.get("content-sqlite") {
        let table = table.as_object().ok_or_else(|| invalid("content-sqlite"))?;
        for (key, value) in table {
            match (key.as_str(), value) {
                ("journal_mode", Value::String(mode)) => {
                    choose(key, mode, JOURNAL_MODES, &mut settings.journal_mode)?;
                }
                ("synchronous", Value::String(mode)) => {
                    choose(key, mode, SYNCHRONOUS, &mut settings.synchronous)?;
                }
                ("max_checkpoints", Value::Number(number)) => {
                    settings.max_checkpoints = number
                        .as_i64()
                        .filter(|number| *number > 0)
                        .ok_or_else(|| invalid(key))?;
                }
                _ => return Err(invalid(key)),
            }
        }
    }
    for arg in args {
        match arg.split_once('=') {
            Some((key @ "journal_mode", mode)) => {
                choose(key, mode, JOURNAL_MODES, &mut settings.journal_mode)?;
            }
            Some((key @ "synchronous", mode)) => {
                choose(key, mode, SYNCHRONOUS, &mut settings.synchronous)?;
            }
            Some(("max-checkpoints", number)) => {
                settings.max_checkpoints = number
                    .parse()
                    .ok()
                    .filter(|number| *number > 0)
                    .ok_or_else(|| invalid(arg))?;
            }
            None if arg == "truncate" => settings.truncate = true,
            _ => return Err(invalid(arg)),
        }
    }
    Ok(())
}

/// What turns an answer into a response.
type Reply = Box<dyn FnOnce(Result<Answer, RpcError>)>;

/// The module's state: the batch to send next, and who waits for answers.
struct State {
    settings: Settings,
    next: Vec<Job>,
    next_replies: Vec<Reply>,
    /// Who waits for the rest of the batch the thread has.
    replies: VecDeque<Reply>,
}

impl State {
    fn push(&mut self, job: Job, reply: impl FnOnce(Result<Answer, RpcError>) + 'static) {
        self.next.push(job);
        self.next_replies.push(Box::new(reply));
    }

    /// Blobs came the short way.
    fn on_delivery(&mut self, delivery: Delivery) {
        let count = delivery.blobs.len();
        self.push(Job::StoreAll(delivery.blobs), move |answer| {
            let results = match answer {
                Ok(Answer::StoredAll(results)) => results,
                Ok(other) => vec![mixed_up(other); count],
                Err(error) => vec![Err(error); count],
            };
            // `content` may have gone first.
            let _gone = delivery.done.send(results);
        });
    }

    /// Whether the thread has a batch.
    fn is_busy(&self) -> bool {
        !self.replies.is_empty()
    }

    fn send(&mut self, worker: &Worker) {
        self.replies = std::mem::take(&mut self.next_replies).into();
        worker.send(std::mem::take(&mut self.next));
    }

    fn on_answers(&mut self, answers: worker::Answers) {
        let count = answers.len().min(self.replies.len());
        for (reply, answer) in self.replies.drain(..count).zip(answers) {
            reply(answer);
        }
    }
}

/// Answers with what `pick` finds in the answer.
fn respond<R: proto::Rpc>(
    request: Request<R>,
    pick: impl FnOnce(Answer) -> Result<R::Response, RpcError> + 'static,
) -> impl FnOnce(Result<Answer, RpcError>) + 'static {
    move |answer| request.reply_result(&answer.and_then(pick))
}

/// Each job has its own kind of answer; another one would be a bug here.
fn mixed_up<T>(_answer: Answer) -> Result<T, RpcError> {
    Err(RpcError::new(Errno::EIO, "answer of the wrong kind"))
}

fn routes() -> Routes<State> {
    Routes::new()
        .on::<BackingLoad>(|state: &mut State, request, Raw(digest)| {
            let pick = |answer| match answer {
                Answer::Blob(blob) => Ok(Raw(blob)),
                other => mixed_up(other),
            };
            state.push(Job::Load(digest), respond(request, pick));
        })
        .on::<BackingStore>(|state, request, Raw(blob)| {
            let pick = |answer| match answer {
                Answer::Stored(blobref) => Ok(Raw(bytes::Bytes::copy_from_slice(blobref.digest()))),
                other => mixed_up(other),
            };
            state.push(Job::Store(blob), respond(request, pick));
        })
        .on_raw::<BackingValidate>(|state, request| {
            let digest = request.message().payload.clone().unwrap_or_default();
            state.push(Job::Validate(digest), respond(request, |_| Ok(Empty {})));
        })
        .on::<BackingDigests>(|state, request, Raw(first)| {
            let [first] = *first else {
                return request.fail(Errno::EPROTO);
            };
            let pick = |answer| match answer {
                Answer::Blob(digests) => Ok(Raw(digests)),
                other => mixed_up(other),
            };
            state.push(Job::Digests(first), respond(request, pick));
        })
        .on::<BackingLoadMany>(|state, request, Raw(rows)| {
            let pick = |answer| match answer {
                Answer::Blob(blobs) => Ok(Raw(blobs)),
                other => mixed_up(other),
            };
            state.push(Job::LoadMany(rows), respond(request, pick));
        })
        .on_raw::<BackingCheckpointGet>(|state, request| {
            state.push(
                Job::Checkpoints,
                respond(request, |answer| match answer {
                    Answer::Checkpoints(list) if list.is_empty() => Err(Errno::ENOENT.into()),
                    Answer::Checkpoints(list) => {
                        let values: Result<Vec<Value>, _> = list
                            .iter()
                            .map(|(_, text)| serde_json::from_str(text))
                            .collect();
                        let value = values.map_err(|error| {
                            RpcError::new(Errno::EINVAL, format!("checkpoint: {error}"))
                        })?;
                        Ok(Checkpoints {
                            value: value.into(),
                        })
                    }
                    other => mixed_up(other),
                }),
            );
        })
        .on::<BackingCheckpointPut>(|state, request, put| {
            if let Err(error) = backing::check_checkpoint(&put.value) {
                return request.fail(error);
            }
            let job = Job::PutCheckpoint(put.value.to_string());
            state.push(job, respond(request, |_| Ok(Empty {})));
        })
        .on::<BackingGcInfo>(|state, request, info| {
            let pick = |answer| match answer {
                Answer::GcState(gc) => Ok(gc),
                other => mixed_up(other),
            };
            state.push(Job::GcInfo(info), respond(request, pick));
        })
        .on::<BackingMark>(|state, request, mark| {
            let pick = |answer| match answer {
                Answer::Marked(marked) => Ok(marked),
                other => mixed_up(other),
            };
            state.push(Job::Mark(mark), respond(request, pick));
        })
        .on::<BackingSweep>(|state, request, sweep| {
            let pick = |answer| match answer {
                Answer::Swept(swept) => Ok(swept),
                other => mixed_up(other),
            };
            state.push(Job::Sweep(sweep), respond(request, pick));
        })
        .on_raw::<proto::broker::ServiceStats>(|state, request| {
            let settings = state.settings.clone();
            let pick = move |answer| match answer {
                Answer::Stats(stats) => Ok(stats_object(&settings, &stats)),
                other => mixed_up(other),
            };
            state.push(Job::Stats, respond(request, pick));
        })
}

fn stats_object(settings: &Settings, stats: &Stats) -> Map<String, Value> {
    let checkpoints: Vec<_> = stats
        .checkpoints
        .iter()
        .map(|(id, text)| {
            let value: Value = serde_json::from_str(text).unwrap_or(Value::Null);
            json!({"id": id, "value": value})
        })
        .collect();
    let mut object = Map::new();
    object.insert("object_count".into(), stats.object_count.into());
    object.insert("current_epoch".into(), stats.epoch.into());
    object.insert("dbfile_size".into(), stats.file_size.into());
    object.insert("dbfile_free".into(), stats.file_free.into());
    object.insert("load_time".into(), stats.load_time.to_json());
    object.insert("store_time".into(), stats.store_time.to_json());
    let config = json!({
        "journal_mode": settings.journal_mode, "synchronous": settings.synchronous,
    });
    object.insert("config".into(), config);
    object.insert("checkpoints".into(), checkpoints.into());
    object
}

async fn run(mut context: Context) -> Result<(), Failure> {
    let Some(statedir) = context.attr("statedir") else {
        return Err(Failure::new(Errno::EINVAL, "statedir is not set"));
    };
    let hash = context
        .attr("content.hash")
        .and_then(|name| HashKind::from_name(&name))
        .ok_or_else(|| Failure::new(Errno::EINVAL, "content.hash is not set"))?;
    // What goes away with the instance need not survive a crash.
    let is_temporary = context.attr("statedir-cleanup").as_deref() == Some("1");
    let mut settings = Settings {
        path: std::path::Path::new(&statedir).join("content.sqlite"),
        hash,
        journal_mode: if is_temporary { "OFF" } else { "WAL" }.to_owned(),
        synchronous: if is_temporary { "OFF" } else { "NORMAL" }.to_owned(),
        max_checkpoints: 5,
        truncate: false,
    };
    configure(&mut settings, &context.config(), &context.args)?;
    let (mut worker, count) = match Worker::start(settings.clone()).await {
        Ok(started) => started,
        Err(error) => {
            context.log(Severity::Crit, error.to_string());
            return Err(error.into());
        }
    };
    let text = format!(
        "{} ({count} objects) journal_mode={} synchronous={}",
        settings.path.display(),
        settings.journal_mode,
        settings.synchronous
    );
    context.log(Severity::Debug, text);
    let mut state = State {
        settings,
        next: Vec::new(),
        next_replies: Vec::new(),
        replies: VecDeque::new(),
    };
    let routes = routes();
    backing::serve(&context)?;
    backing::register(&context).await?;
    context.ready();
    let host = context.host();
    let mut inlet = Inlet::<inlet::Backing>::offer(host.exchange());
    serve(&mut context, &routes, &mut state, &mut worker, &mut inlet).await?;
    host.exchange().withdraw::<Inlet<inlet::Backing>>();
    while let Ok(delivery) = inlet.try_recv() {
        state.on_delivery(delivery);
    }
    finish(&mut context, &routes, &mut state, &mut worker).await
}

async fn serve(
    context: &mut Context,
    routes: &Routes<State>,
    state: &mut State,
    worker: &mut Worker,
    inlet: &mut mpsc::UnboundedReceiver<Delivery>,
) -> Result<(), Failure> {
    loop {
        let has_work = !state.is_busy() && !state.next.is_empty();
        tokio::select! {
            biased;
            input = context.next() => match input {
                Some(Input::Request(message)) => context.dispatch(routes, state, message),
                Some(Input::Event(_)) => {}
                None => return Ok(()),
            },
            answers = worker.next() => match answers {
                Some(answers) => state.on_answers(answers),
                None => return Err(Failure::new(Errno::EIO, "database thread panicked")),
            },
            Some(delivery) = inlet.recv() => state.on_delivery(delivery),
            () = std::future::ready(()), if has_work => state.send(worker),
        }
    }
}

/// Takes its leave of `content`, then does what is left.
async fn finish(
    context: &mut Context,
    routes: &Routes<State>,
    state: &mut State,
    worker: &mut Worker,
) -> Result<(), Failure> {
    backing::unregister(context).await;
    backing::unserve(context);
    let leftover: Vec<Message> = context.drain();
    for message in leftover {
        context.dispatch(routes, state, message);
    }
    loop {
        if state.is_busy() {
            match worker.next().await {
                Some(answers) => state.on_answers(answers),
                None => return Err(Failure::new(Errno::EIO, "database thread panicked")),
            }
        } else if state.next.is_empty() {
            break;
        } else {
            state.send(worker);
        }
    }
    worker.stop();
    Ok(())
}

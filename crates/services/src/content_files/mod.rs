//! Module `content-files`: a backing store of `content` that keeps each blob in a file.
//!
//! The files are in `content.files` below the broker's `statedir`; see `directory`. There is one
//! checkpoint, and no garbage collection. Files are read and written by a thread of the module's
//! own, in the order of the requests.

mod directory;

use std::path::Path;

use bytes::Bytes;
use module::{Builtin, Context, Failure, Input, Severity};
use proto::content::{
    BackingCheckpointGet, BackingCheckpointPut, BackingLoad, BackingStore, BackingValidate,
    Checkpoints,
};
use proto::{Empty, Raw, Rpc};
use rpc::{Request, Routes, RpcError};
use serde_json::{Map, Value};
use spec::HashKind;
use tokio::task::JoinSet;
use types::Errno;

use crate::backing;
use crate::errands::Errands;
use directory::Directory;

/// The module.
pub fn builtin() -> Builtin {
    Builtin {
        name: "content-files",
        main: |context| Box::pin(run(context)),
    }
}

/// The module's arguments.
#[derive(Debug, Default, PartialEq)]
struct Config {
    /// Start with an empty directory.
    truncate: bool,
    /// Serve without being the backing store of `content`.
    testing: bool,
}

impl Config {
    fn parse(args: &[String]) -> Result<Config, RpcError> {
        let mut config = Config::default();
        for arg in args {
            match arg.as_str() {
                "truncate" => config.truncate = true,
                "testing" => config.testing = true,
                _ => {
                    let text = format!("{arg}: Invalid argument");
                    return Err(RpcError::new(Errno::EINVAL, text));
                }
            }
        }
        Ok(config)
    }
}

/// The module's state.
struct State {
    directory: Directory,
    errands: Errands,
    /// The tasks that answer when an errand is done.
    answers: JoinSet<()>,
}

impl State {
    /// Answers a request with what comes of an errand.
    fn answer<R: Rpc>(
        &mut self,
        request: Request<R>,
        errand: impl FnOnce(&Directory) -> Result<R::Response, RpcError> + Send + 'static,
    ) where
        R::Response: Send,
    {
        let directory = self.directory.clone();
        let done = self.errands.run(move || errand(&directory));
        self.answers.spawn_local(async move {
            request.reply_result(&done.await);
        });
    }
}

fn routes() -> Routes<State> {
    Routes::new()
        .on::<BackingLoad>(|state: &mut State, request, Raw(digest)| {
            state.answer(request, move |directory| directory.load(&digest).map(Raw));
        })
        .on::<BackingStore>(|state, request, Raw(blob)| {
            state.answer(request, move |directory| {
                let blobref = directory.store(&blob)?;
                Ok(Raw(Bytes::copy_from_slice(blobref.digest())))
            });
        })
        .on_raw::<BackingValidate>(|state, request| {
            let digest = request.message().payload.clone().unwrap_or_default();
            state.answer(request, move |directory| {
                directory.validate(&digest).map(|()| Empty {})
            });
        })
        .on_raw::<BackingCheckpointGet>(|state, request| {
            state.answer(request, |directory| {
                let value = Value::Array(vec![directory.checkpoint()?]);
                Ok(Checkpoints { value })
            });
        })
        .on::<BackingCheckpointPut>(|state, request, put| {
            state.answer(request, move |directory| {
                backing::check_checkpoint(&put.value)?;
                directory.put_checkpoint(&put.value).map(|()| Empty {})
            });
        })
        .on_raw::<proto::broker::ServiceStats>(|state, request| {
            state.answer(request, |directory| {
                let mut stats = Map::new();
                stats.insert("object_count".into(), directory.count()?.into());
                Ok(stats)
            });
        })
}

async fn run(mut context: Context) -> Result<(), Failure> {
    let config = Config::parse(&context.args)?;
    let Some(statedir) = context.attr("statedir") else {
        return Err(Failure::new(Errno::EINVAL, "statedir is not set"));
    };
    let hash = context
        .attr("content.hash")
        .and_then(|name| HashKind::from_name(&name))
        .ok_or_else(|| Failure::new(Errno::EINVAL, "content.hash is not set"))?;
    let path = Path::new(&statedir).join("content.files");
    let errands = Errands::start("content-files")?;
    let open = move || Directory::open(path, hash, config.truncate);
    let directory = errands.run(open).await?;
    context.log(Severity::Debug, directory.path().display().to_string());
    let mut state = State {
        directory,
        errands,
        answers: JoinSet::new(),
    };
    let routes = routes();
    backing::serve(&context)?;
    if !config.testing {
        backing::register(&context).await?;
    }
    context.ready();
    loop {
        tokio::select! {
            biased;
            input = context.next() => match input {
                Some(Input::Request(message)) => context.dispatch(&routes, &mut state, message),
                Some(Input::Event(_)) => {}
                None => break,
            },
            Some(_) = state.answers.join_next() => {}
        }
    }
    if !config.testing {
        backing::unregister(&context).await;
    }
    backing::unserve(&context);
    for message in context.drain() {
        context.dispatch(&routes, &mut state, message);
    }
    while state.answers.join_next().await.is_some() {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_checked() {
        let parse = |args: &[&str]| {
            let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
            Config::parse(&args)
        };
        assert_eq!(parse(&[]), Ok(Config::default()));
        let both = Config {
            truncate: true,
            testing: true,
        };
        assert_eq!(parse(&["truncate", "testing"]), Ok(both));
        let error = parse(&["notoption"]).expect_err("refused");
        assert_eq!(error.to_string(), "notoption: Invalid argument");
    }
}

//! `flux shutdown`.

use proto::attr::{AttrRemove, AttrSet, Name, Set};
use proto::broker::{Shutdown, ShutdownStart};
use rpc::Dest;
use types::Rank;

use crate::driver::Invocation;
use crate::err;
use crate::fail::{self, Fail};
use crate::options::{Family, Parser, arg, flag, maybe};

static PARSER: Parser = Parser {
    name: "flux shutdown",
    usage: "[OPTIONS] [TARGET]",
    about: "Shut down an instance of Flux",
    family: Family::G,
    opts: &[
        flag('\0', "skip-gc", "Leave out the archive of stored data"),
        flag(
            '\0',
            "gc",
            "Archive stored data, so that the next start drops what is unused",
        ),
        arg('\0', "dump", "PATH", "Archive stored data to this file"),
        flag('\0', "background", "Do not wait"),
        flag('\0', "quiet", "Show only errors"),
        maybe('v', "verbose", "LEVEL", "Show more of the log"),
        flag('y', "yes", "Answer yes to questions"),
        flag('n', "no", "Answer no to questions"),
    ],
};

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    let args = match PARSER.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if args.words.len() > 1 {
        return PARSER.wrong_words();
    }
    fail::run("flux-shutdown", async {
        let target = args.words.first().map(String::as_str);
        let client = client::open(target)
            .await
            .map_err(|error| Fail::of("flux_open", error))?;
        let handle = client.handle();
        let dump = match args.get("dump") {
            Some(path) => Some(path),
            None => args.has("gc").then_some("auto"),
        };
        if let Some(path) = dump {
            let request = Set {
                name: "content.dump".to_owned(),
                value: path.to_owned(),
                force: false,
            };
            let call = handle.call::<AttrSet>(Dest::Rank(Rank::LEADER), &request);
            call.await
                .map_err(|error| Fail::of("content.dump", error))?;
        } else if args.has("skip-gc") {
            let request = Name {
                name: "content.dump".to_owned(),
            };
            let call = handle.call::<AttrRemove>(Dest::Rank(Rank::LEADER), &request);
            call.await
                .map_err(|error| Fail::of("content.dump", error))?;
        }
        let loglevel = match args.get("verbose") {
            Some(text) => text
                .parse::<i32>()
                .map_err(|_| Fail::new(format!("invalid verbosity: {text}")))?
                .saturating_add(5),
            None if args.has("verbose") => 5 + i32::try_from(args.count("verbose")).unwrap_or(2),
            None if args.has("quiet") => 3,
            None => 6,
        };
        let request = Shutdown {
            loglevel: Some(loglevel.min(7)),
        };
        let leader = Dest::Rank(Rank::LEADER);
        if args.has("background") {
            handle.call::<ShutdownStart>(leader, &request).await?;
            return Ok(0);
        }
        let mut log = handle.stream::<ShutdownStart>(leader, &request);
        while let Some(line) = log.next().await? {
            let text = line.log.trim_end_matches('\n');
            if !text.is_empty() {
                err!("{text}");
            }
        }
        Ok(0)
    })
}

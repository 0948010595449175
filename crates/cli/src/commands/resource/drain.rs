//! `flux resource drain` and `undrain`.

use proto::resource::{Drain, ResourceDrain, ResourceUndrain};
use types::Errno;

use super::{COLOR, FORMAT, INCLUDE, LEADER, NO_HEADER, PREFIX, QUEUE, status};
use crate::err;
use crate::fail::{self, Fail, python_text};
use crate::format::Named;
use crate::options::{Args, Family, Parser, flag};

static DRAIN: Parser = Parser {
    name: "flux-resource drain",
    usage: "[-h] [-f] [-u] [-i TARGETS] [-q QUEUE,...] [-o FORMAT] [-n] [-L [WHEN]] [targets] ...",
    about: "",
    family: Family::P,
    opts: &[
        flag('f', "force", "Replace the reason; twice, also the time"),
        flag('u', "update", "Leave ranks alone that are drained already"),
        INCLUDE,
        QUEUE,
        FORMAT,
        NO_HEADER,
        COLOR,
    ],
};

static FORMATS: &[Named] = &[
    (
        "default",
        "Default flux-resource drain format string",
        "{timestamp!d:%b%d %R::<12} {state:<8.8} {reason:<30.30+} {nodelist}",
    ),
    (
        "long",
        "Long flux-resource drain format string",
        "{timestamp!d:%b%d %R::<12} {state:<8.8} {ranks:<8.8+} +:{reason:<30.30} {nodelist}",
    ),
];

fn request(args: &Args) -> Option<Drain> {
    let (targets, reason) = args.words.split_first()?;
    let mode = match (args.has("update"), args.count("force")) {
        (true, _) => Some("update"),
        (false, 0) => None,
        (false, 1) => Some("overwrite"),
        (false, _) => Some("force-overwrite"),
    };
    Some(Drain {
        targets: targets.clone(),
        reason: (!reason.is_empty()).then(|| reason.join(" ")),
        mode: mode.map(str::to_owned),
    })
}

pub(super) fn drain(words: &[String]) -> i32 {
    let args = match DRAIN.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if args.has("update") && args.has("force") {
        err!("{PREFIX}: Only one of --force and --update may be specified");
        return 1;
    }
    fail::run(PREFIX, async {
        let Some(request) = request(&args) else {
            return status::list_drained(&args, FORMATS).await;
        };
        let client = fail::connect_p().await?;
        match client
            .handle()
            .call::<ResourceDrain>(LEADER, &request)
            .await
        {
            Ok(_) => Ok(0),
            Err(error) => {
                err!("{PREFIX}: {}", python_text(&error));
                if error.errno == Errno::EEXIST {
                    err!("flux-resource: INFO: Use --force to overwrite existing drain reason");
                }
                Err(Fail::silent(1))
            }
        }
    })
}

static UNDRAIN: Parser = Parser {
    name: "flux-resource undrain",
    usage: "[-h] [-u] [-f] targets ...",
    about: "",
    family: Family::P,
    opts: &[
        flag('f', "force", "Ignore ranks that are not drained"),
        flag('u', "update", "Ignore ranks that are not drained"),
    ],
};

pub(super) fn undrain(words: &[String]) -> i32 {
    let args = match UNDRAIN.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let Some(request) = request(&args) else {
        return UNDRAIN.usage_error("the following arguments are required: targets");
    };
    fail::run(PREFIX, async {
        let client = fail::connect_p().await?;
        client
            .handle()
            .call::<ResourceUndrain>(LEADER, &request)
            .await?;
        Ok(0)
    })
}

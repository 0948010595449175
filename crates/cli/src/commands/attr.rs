//! `flux getattr`, `setattr` and `lsattr`.

use proto::Empty;
use proto::attr::{AttrGet, AttrList, AttrSet, Name, Set};
use rpc::Dest;
use types::Errno;

use crate::driver::Invocation;
use crate::fail::{self, Fail};
use crate::options::{Family, Parser, flag};
use crate::outln;

static GETATTR: Parser = Parser {
    name: "flux getattr",
    usage: "name",
    about: "Get broker attribute",
    family: Family::G,
    opts: &[],
};

pub(crate) fn getattr(_: &Invocation<'_>, words: &[String]) -> i32 {
    let args = match GETATTR.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let [name] = args.words.as_slice() else {
        return GETATTR.wrong_words();
    };
    fail::run("flux-getattr", async {
        let client = fail::connect_builtin().await?;
        let value = client
            .attr(name)
            .await
            .map_err(|error| Fail::of(name, error))?;
        outln!("{value}");
        Ok(0)
    })
}

static SETATTR: Parser = Parser {
    name: "flux setattr",
    usage: "name value",
    about: "Set broker attribute",
    family: Family::G,
    opts: &[flag(
        'f',
        "force",
        "also where the attribute is not meant to change at run time",
    )],
};

pub(crate) fn setattr(_: &Invocation<'_>, words: &[String]) -> i32 {
    let args = match SETATTR.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let [name, value] = args.words.as_slice() else {
        return SETATTR.wrong_words();
    };
    let request = Set {
        name: name.clone(),
        value: value.clone(),
        force: args.has("force"),
    };
    fail::run("flux-setattr", async {
        let client = fail::connect_builtin().await?;
        let call = client.handle().call::<AttrSet>(Dest::Any, &request);
        call.await.map_err(|error| Fail::of(name, error))?;
        Ok(0)
    })
}

static LSATTR: Parser = Parser {
    name: "flux lsattr",
    usage: "[-v]",
    about: "List broker attributes",
    family: Family::G,
    opts: &[flag('v', "values", "List values with attributes")],
};

pub(crate) fn lsattr(_: &Invocation<'_>, words: &[String]) -> i32 {
    let args = match LSATTR.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if !args.words.is_empty() {
        return LSATTR.wrong_words();
    }
    // The misspelling is what scripts see.
    fail::run("flux-lsatrr", async {
        let client = fail::connect_builtin().await?;
        let call = client.handle().call::<AttrList>(Dest::Any, &Empty {});
        let mut names = call
            .await
            .map_err(|error| Fail::of("attr.list", error))?
            .names;
        names.sort();
        if !args.has("values") {
            for name in names {
                outln!("{name}");
            }
            return Ok(0);
        }
        // All requests travel together.
        let values: Vec<_> = names
            .iter()
            .map(|name| {
                let request = Name { name: name.clone() };
                client.handle().call::<AttrGet>(Dest::Any, &request)
            })
            .collect();
        for (name, value) in names.iter().zip(values) {
            match value.await {
                Ok(found) => outln!("{name:<40}{}", found.value),
                Err(error) if error.errno == Errno::ENOENT => outln!("{name:<40}-"),
                Err(error) => return Err(Fail::of(name, error)),
            }
        }
        Ok(0)
    })
}

//! `flux keygen`: certificates for the tree of brokers.

use std::path::Path;

use types::Errno;
use zmtp::{CertError, Certificate};

use crate::driver::Invocation;
use crate::err;
use crate::fail::{self, Fail};
use crate::options::{Family, Parser, arg};
use crate::timefmt;

static PARSER: Parser = Parser {
    name: "flux-keygen",
    usage: "[OPTIONS] [PATH]",
    about: "",
    family: Family::G,
    opts: &[
        arg(
            'n',
            "name",
            "NAME",
            "Set certificate name (default: hostname)",
        ),
        arg(
            '\0',
            "meta",
            "KEYVALS",
            "Add or change comma-separated KEY=VALUE metadata",
        ),
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
    let hostname = match crate::hostname() {
        Ok(name) => name,
        Err(failure) => return fail::report("flux-keygen", Err(failure)),
    };
    let mut certificate = Certificate::generate();
    certificate.metadata = metadata(&hostname, args.get("name"), args.all("meta"));
    let Some(path) = args.words.first() else {
        err!("flux-keygen: WARNING: add PATH argument to save generated certificate");
        return 0;
    };
    let written = certificate.write(Path::new(path)).map(|()| 0);
    let failure = |error| match error {
        CertError::Io { path, source } => {
            Fail::of(format!("open {}", path.display()), Errno::from_io(&source))
        }
        other => Fail::new(other.to_string()),
    };
    fail::report("flux-keygen", written.map_err(failure))
}

/// What the certificate says of itself: where it is from, then what the caller adds or changes.
fn metadata<'a>(
    hostname: &str,
    name: Option<&str>,
    extra: impl Iterator<Item = &'a str>,
) -> Vec<(String, String)> {
    let time = timefmt::strftime("%Y-%m-%dT%H:%M:%S", timefmt::now());
    let mut data: Vec<(String, String)> = [
        ("name", name.unwrap_or(hostname).to_owned()),
        ("keygen.hostname", hostname.to_owned()),
        ("keygen.time", time),
        ("keygen.userid", nix::unistd::getuid().to_string()),
        ("keygen.flux-core-version", proto::VERSION.to_owned()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    for pair in extra.flat_map(|list| list.split(',')) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        match data.iter_mut().find(|(known, _)| known == key) {
            Some(known) => value.clone_into(&mut known.1),
            None => data.push((key.to_owned(), value.to_owned())),
        }
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_can_be_added_and_changed() {
        let data = metadata("host", Some("n"), ["a=b,keygen.userid=9", "c"].into_iter());
        let get = |key: &str| {
            let found = data.iter().find(|(known, _)| known == key);
            found.map(|(_, value)| value.as_str())
        };
        assert_eq!(get("name"), Some("n"));
        assert_eq!(get("keygen.hostname"), Some("host"));
        assert_eq!(get("keygen.userid"), Some("9"));
        assert_eq!(get("a"), Some("b"));
        assert_eq!(get("c"), Some(""));
    }
}

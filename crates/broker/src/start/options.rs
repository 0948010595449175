//! The command line of `flux start`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// Which broker's exit counts, or which brokers are started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Which {
    /// Any, or all, of them.
    #[default]
    All,
    /// Rank 0.
    Leader,
}

/// Which brokers think they share a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Clique {
    /// All.
    #[default]
    Single,
    /// None: each is alone on a node, and says so.
    PerBroker,
    /// Nothing is said about it.
    None,
    /// As this task map says (RFC 34).
    Map(String),
}

/// What `flux start` was asked to do.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Options {
    pub(super) test_size: Option<u32>,
    pub(super) test_hosts: Option<String>,
    pub(super) test_exit_timeout: Option<String>,
    pub(super) test_exit_mode: Option<Which>,
    pub(super) test_start_mode: Option<Which>,
    pub(super) test_rundir: Option<String>,
    pub(super) test_rundir_cleanup: bool,
    pub(super) test_pmi_clique: Option<Clique>,
    pub(super) recovery: Option<Option<String>>,
    pub(super) sysconfig: bool,
    pub(super) config_path: Option<String>,
    pub(super) verbose: u32,
    pub(super) noexec: bool,
    pub(super) help: bool,
    /// Words in front of the broker's command line.
    pub(super) wrap: Vec<String>,
    /// Words passed to the broker, in order.
    pub(super) broker: Vec<String>,
    pub(super) command: Vec<String>,
}

pub(super) const USAGE: &str = "\
Usage: flux start [OPTIONS] command ...
  -S, --setattr=ATTR=VAL         Set broker attribute
  -c, --config-path=PATH         Set broker config from PATH
      --conf=VALUE               Set config from inline TOML or JSON, KEY=VAL or a file
  -r, --recovery[=TARGET]        Start instance in recovery mode
      --sysconfig                Load system configuration
  -v, --verbose[=LEVEL]          Be annoyingly informative by degrees
  -X, --noexec                   Don't execute (useful with -v, --verbose)
  -o, --broker-opts=OPTS         Add comma-separated broker options, e.g. \"-o,-v\"
      --wrap=ARGS,...            Wrap broker execution in comma-separated arguments
  -s, --test-size=N              Start a test instance with N brokers on this host
      --test-hosts=HOSTLIST      Set list of fake hostnames
      --test-exit-timeout=FSD    After a broker exits, kill the others after FSD (20s)
      --test-exit-mode=any|leader
                                 Whose exit ends the instance (any)
      --test-start-mode=all|leader
                                 Which brokers are started (all)
      --test-rundir=DIR          Use DIR as broker run directory
      --test-rundir-cleanup      Remove --test-rundir DIR when done
      --test-pmi-clique=single|per-broker|none|TASKMAP
                                 Which brokers share a node (single)
";

const TRY: &str = "Try `flux-start --help' for more information.";

/// Long options, their letter, and whether they take a value.
const LONG: &[(&str, char, Takes)] = &[
    ("help", 'h', Takes::Nothing),
    ("verbose", 'v', Takes::Maybe),
    ("noexec", 'X', Takes::Nothing),
    ("setattr", 'S', Takes::Value),
    ("config-path", 'c', Takes::Value),
    ("conf", '\0', Takes::Value),
    ("recovery", 'r', Takes::Maybe),
    ("sysconfig", '\0', Takes::Nothing),
    ("broker-opts", 'o', Takes::Value),
    ("wrap", '\0', Takes::Value),
    ("test-size", 's', Takes::Value),
    ("test-hosts", '\0', Takes::Value),
    ("test-exit-timeout", '\0', Takes::Value),
    ("killer-timeout", '\0', Takes::Value),
    ("test-exit-mode", '\0', Takes::Value),
    ("test-start-mode", '\0', Takes::Value),
    ("test-rundir", '\0', Takes::Value),
    ("test-rundir-cleanup", '\0', Takes::Nothing),
    ("test-pmi-clique", '\0', Takes::Value),
];

#[derive(Clone, Copy, PartialEq)]
enum Takes {
    Nothing,
    Value,
    Maybe,
}

/// Parses the words after `flux start`. Errors are what the user sees.
pub(super) fn parse(words: impl Iterator<Item = OsString>) -> Result<Options, String> {
    let mut options = Options::default();
    let mut words = words.map(|word| {
        String::from_utf8(word.into_vec())
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    });
    while let Some(word) = words.next() {
        if word == "--" {
            options.command.extend(words.by_ref());
        } else if let Some(long) = word.strip_prefix("--") {
            let (given, value) = match long.split_once('=') {
                Some((given, value)) => (given, Some(value.to_owned())),
                None => (long, None),
            };
            let (name, takes) = find_long(given)?;
            let value = value_of(&format!("--{name}"), takes, value, &mut words)?;
            set(&mut options, name, value)?;
        } else if word.len() > 1 && word.starts_with('-') {
            let mut letters = &word[1..];
            while let Some(letter) = letters.chars().next() {
                letters = &letters[letter.len_utf8()..];
                let known = LONG
                    .iter()
                    .find(|(_, known, _)| *known == letter && letter != '\0');
                let Some((name, _, takes)) = known else {
                    return Err(unrecognized(&format!("-{letter}")));
                };
                let attached = match takes {
                    Takes::Nothing => None,
                    Takes::Value => Some(letters).filter(|rest| !rest.is_empty()),
                    // `-vv` is two of them, `-v2` one with a value.
                    Takes::Maybe => {
                        Some(letters).filter(|rest| !rest.is_empty() && !rest.starts_with(letter))
                    }
                };
                let taken = attached.is_some();
                let attached = attached.map(str::to_owned);
                let value = value_of(&format!("-{letter}"), *takes, attached, &mut words)?;
                set(&mut options, name, value)?;
                if taken {
                    break;
                }
            }
        } else {
            options.command.push(word);
            options.command.extend(words.by_ref());
        }
    }
    check(&options)?;
    Ok(options)
}

fn find_long(given: &str) -> Result<(&'static str, Takes), String> {
    let mut similar = LONG.iter().filter(|(name, ..)| name.starts_with(given));
    let exact = LONG.iter().find(|(name, ..)| *name == given);
    match (exact, similar.next(), similar.next()) {
        (Some((name, _, takes)), ..) | (None, Some((name, _, takes)), None) => Ok((name, *takes)),
        _ => Err(unrecognized(&format!("--{given}"))),
    }
}

fn unrecognized(option: &str) -> String {
    format!("flux-start: unrecognized option '{option}'\n{TRY}")
}

fn value_of(
    option: &str,
    takes: Takes,
    given: Option<String>,
    words: &mut dyn Iterator<Item = String>,
) -> Result<Option<String>, String> {
    match (takes, given) {
        (Takes::Nothing, Some(_)) => Err(format!(
            "flux-start: option '{option}' doesn't allow an argument\n{TRY}"
        )),
        (Takes::Value, None) => match words.next() {
            Some(value) => Ok(Some(value)),
            None => Err(format!("flux-start: '{option}' missing argument\n{TRY}")),
        },
        (_, given) => Ok(given),
    }
}

fn set(options: &mut Options, name: &str, value: Option<String>) -> Result<(), String> {
    let text = value.clone().unwrap_or_default();
    let invalid = || format!("flux-start: Invalid argument for option '{name}': '{text}'");
    match name {
        "help" => options.help = true,
        "verbose" => match value {
            Some(level) => options.verbose = level.parse().map_err(|_| invalid())?,
            None => options.verbose += 1,
        },
        "noexec" => options.noexec = true,
        "setattr" => options.broker.push(format!("-S{text}")),
        "config-path" => {
            options.broker.push(format!("-c{text}"));
            options.config_path = value;
        }
        "conf" => options.broker.push(format!("--conf={text}")),
        "recovery" => options.recovery = Some(value),
        "sysconfig" => options.sysconfig = true,
        "broker-opts" => options.broker.extend(split_commas(&text)),
        "wrap" => options.wrap.extend(split_commas(&text)),
        "test-size" => {
            let size: i64 = text.parse().map_err(|_| {
                format!("flux-start: Option 'test-size' requires an integer argument, not '{text}'")
            })?;
            if !(1..=1_000_000).contains(&size) {
                return Err("flux-start: --test-size argument must be > 0".into());
            }
            options.test_size = Some(size as u32);
        }
        "test-hosts" => options.test_hosts = value,
        "test-exit-timeout" | "killer-timeout" => options.test_exit_timeout = value,
        "test-exit-mode" => {
            options.test_exit_mode = Some(match text.as_str() {
                "any" => Which::All,
                "leader" => Which::Leader,
                _ => return Err(invalid()),
            });
        }
        "test-start-mode" => {
            options.test_start_mode = Some(match text.as_str() {
                "all" => Which::All,
                "leader" => Which::Leader,
                _ => return Err(invalid()),
            });
        }
        "test-rundir" => options.test_rundir = value,
        "test-rundir-cleanup" => options.test_rundir_cleanup = true,
        _ => {
            options.test_pmi_clique = Some(match text.as_str() {
                "single" => Clique::Single,
                "per-broker" => Clique::PerBroker,
                "none" => Clique::None,
                map if map.starts_with('[') || map.starts_with('{') => Clique::Map(text.clone()),
                _ => return Err(invalid()),
            });
        }
    }
    Ok(())
}

/// Broker options are comma separated; a leading comma, as in `-o,-v`, is only for looks.
fn split_commas(text: &str) -> impl Iterator<Item = String> {
    text.split(',')
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
}

fn check(options: &Options) -> Result<(), String> {
    if options.test_size.is_some() {
        return Ok(());
    }
    let given = [
        ("test-hosts", options.test_hosts.is_some()),
        ("test-exit-timeout", options.test_exit_timeout.is_some()),
        ("test-exit-mode", options.test_exit_mode.is_some()),
        ("test-start-mode", options.test_start_mode.is_some()),
        ("test-rundir", options.test_rundir.is_some()),
        ("test-rundir-cleanup", options.test_rundir_cleanup),
        ("test-pmi-clique", options.test_pmi_clique.is_some()),
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((name, _)) => Err(format!(
            "flux-start: --{name} only works with --test-size=N"
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str) -> Result<Options, String> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn words_for_the_broker_keep_their_order() {
        let options =
            check("-s4 -Sa=b -o,-v,-Sc=d --conf x=1 -c /x run -n4 hostname").expect("valid");
        assert_eq!(options.test_size, Some(4));
        assert_eq!(
            options.broker,
            ["-Sa=b", "-v", "-Sc=d", "--conf=x=1", "-c/x"]
        );
        assert_eq!(options.command, ["run", "-n4", "hostname"]);
        assert_eq!(
            check("--test-size=2 --test-exit-mode=leader")
                .expect("valid")
                .test_size,
            Some(2)
        );
        assert_eq!(check("-vv").expect("valid").verbose, 2);
        assert_eq!(check("-v3").expect("valid").verbose, 3);
    }

    #[test]
    fn bad_words_are_named() {
        let error = |line: &str| check(line).expect_err("bad");
        assert!(error("--foo").contains("unrecognized option '--foo'"));
        assert!(error("--test-hosts=a").contains("--test-hosts only works with --test-size"));
        assert!(error("-s").contains("'-s' missing argument"));
        assert!(error("-sx").contains("'x'"));
        assert!(error("-s0").contains("must be > 0"));
        assert!(error("-s1 --test-exit-mode=foo").contains("'foo'"));
    }
}

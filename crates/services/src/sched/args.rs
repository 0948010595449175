//! The schedulers' module arguments.

use module::Severity;
use sched::Policy;

/// How many requests may be outstanding, from the arguments.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Depth {
    Limited(u32),
    Unlimited,
}

impl std::fmt::Display for Depth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Depth::Limited(limit) => limit.fmt(f),
            Depth::Unlimited => f.write_str("unlimited"),
        }
    }
}

/// What a scheduler's arguments say.
#[derive(Debug, PartialEq)]
pub(super) struct Args {
    pub(super) depth: Depth,
    /// What is less severe is not logged.
    pub(super) log_level: Severity,
    /// Whether jobs that have given back some of their resources are understood.
    pub(super) partial: bool,
}

impl Args {
    /// Reads the arguments of the module called `name`. Errors are texts for people.
    pub(super) fn parse(name: &str, policy: Policy, words: &[String]) -> Result<Args, String> {
        let mut args = Args {
            depth: match policy {
                Policy::Fifo => Depth::Limited(8),
                Policy::Backfill => Depth::Unlimited,
            },
            log_level: Severity::Info,
            partial: true,
        };
        let positive = |text: &str| text.parse().ok().filter(|limit| *limit > 0);
        for word in words {
            match word.split_once('=') {
                Some(("queue-depth" | "mode", "unlimited")) => args.depth = Depth::Unlimited,
                Some(("queue-depth", text)) => {
                    let limit = positive(text).ok_or_else(|| {
                        format!(
                            "queue-depth='{text}' is invalid: \
                             expected a positive integer or 'unlimited'"
                        )
                    })?;
                    args.depth = Depth::Limited(limit);
                }
                Some(("mode", text)) if text.starts_with("limited=") => {
                    let text = text.trim_start_matches("limited=");
                    let limit = positive(text).ok_or_else(|| {
                        format!("mode=limited= requires a positive integer, got '{text}'")
                    })?;
                    args.depth = Depth::Limited(limit);
                }
                Some(("log-level", text)) => {
                    args.log_level = text.parse().map_err(|()| {
                        let levels = Severity::ALL.map(|(_, name)| name).join(", ");
                        format!("log-level='{text}' is invalid: expected one of {levels}")
                    })?;
                }
                // The one there is.
                Some(("pool-class", text)) if text.ends_with(".Rv1Pool") => {}
                Some(("pool-class", text)) => {
                    return Err(format!("pool-class='{text}': could not load pool class"));
                }
                None if word == "test-hello-nopartial" && name == "sched-simple" => {
                    args.partial = false;
                }
                _ => {
                    return Err(format!(
                        "unknown argument '{word}': \
                         built-in options are queue-depth, log-level, pool-class"
                    ));
                }
            }
        }
        Ok(args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_set_depth_and_level_and_are_refused_by_name() {
        let parse = |words: &str| {
            let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
            Args::parse("sched-simple", Policy::Fifo, &words)
        };
        let depth = |words: &str| parse(words).map(|args| args.depth);
        assert_eq!(depth(""), Ok(Depth::Limited(8)));
        assert_eq!(depth("queue-depth=2 mode=limited=4"), Ok(Depth::Limited(4)));
        assert_eq!(depth("mode=unlimited"), Ok(Depth::Unlimited));
        let args = parse("test-hello-nopartial log-level=err").expect("valid");
        assert_eq!((args.partial, args.log_level), (false, Severity::Err));
        for (word, error) in [
            (
                "foo",
                "unknown argument 'foo': built-in options are queue-depth, log-level, pool-class",
            ),
            (
                "queue-depth=0",
                "queue-depth='0' is invalid: expected a positive integer or 'unlimited'",
            ),
            (
                "mode=limited=-1",
                "mode=limited= requires a positive integer, got '-1'",
            ),
            (
                "log-level=loud",
                "log-level='loud' is invalid: expected one of emerg, alert, crit, err, warning, \
                 notice, info, debug",
            ),
            ("pool-class=x", "pool-class='x': could not load pool class"),
        ] {
            assert_eq!(parse(word), Err(error.to_owned()));
        }
        let other = Args::parse("sched-backfill", Policy::Backfill, &[]).expect("valid");
        assert_eq!(other.depth, Depth::Unlimited);
        let word = "test-hello-nopartial".to_owned();
        assert!(Args::parse("sched-fifo", Policy::Fifo, &[word]).is_err());
    }
}

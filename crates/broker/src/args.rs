//! The broker's command line.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// What `flux broker` was asked to do.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Args {
    /// `-v`: how much to log to standard error.
    pub(crate) verbose: u32,
    /// `-S NAME=VALUE`, in order.
    pub(crate) attrs: Vec<(String, String)>,
    /// `-c PATH`.
    pub(crate) config_path: Option<String>,
    /// `--conf=X`, in order.
    pub(crate) conf: Vec<String>,
    /// The initial program.
    pub(crate) command: Vec<String>,
    /// `--help`.
    pub(crate) help: bool,
}

/// What `--help` prints.
pub(crate) const USAGE: &str = "\
Usage: flux broker OPTIONS [initial-command ...]
      --help             Display this message.
  -v, --verbose[=LEVEL]  Be annoyingly informative by degrees
  -S, --setattr=ATTR=VAL Set broker attribute
  -c, --config-path=PATH Set broker config from PATH (default: none)
      --conf=VALUE       Set config from inline TOML or JSON, KEY=VAL or a file
";

/// Parses the words after `flux broker`. Errors are the two lines a user sees.
pub(crate) fn parse(words: impl Iterator<Item = OsString>) -> Result<Args, String> {
    let mut args = Args::default();
    let mut words = words.map(|word| {
        String::from_utf8(word.into_vec())
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    });
    while let Some(word) = words.next() {
        if word == "--" {
            args.command.extend(words.by_ref());
        } else if let Some(long) = word.strip_prefix("--") {
            let (name, value) = match long.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (long, None),
            };
            long_option(&mut args, name, value, &mut words)?;
        } else if word.len() > 1 && word.starts_with('-') {
            short_options(&mut args, &word[1..], &mut words)?;
        } else {
            args.command.push(word);
            args.command.extend(words.by_ref());
        }
    }
    Ok(args)
}

fn long_option(
    args: &mut Args,
    name: &str,
    value: Option<String>,
    words: &mut dyn Iterator<Item = String>,
) -> Result<(), String> {
    const NAMES: [&str; 5] = ["help", "verbose", "setattr", "config-path", "conf"];
    let exact = NAMES.iter().copied().find(|known| *known == name);
    let mut similar = NAMES
        .iter()
        .copied()
        .filter(|known| known.starts_with(name));
    let full = match (exact, similar.next(), similar.next()) {
        (Some(full), ..) | (None, Some(full), None) => full,
        _ => return Err(unrecognized(&format!("--{name}"))),
    };
    let mut required = || {
        value
            .clone()
            .or_else(|| words.next())
            .ok_or_else(|| format!("flux-broker: '--{full}' missing argument\n{TRY}"))
    };
    match full {
        "help" => args.help = true,
        "verbose" => args.verbose = level(args.verbose, value.as_deref())?,
        "setattr" => args.attrs.push(attribute(&required()?)?),
        "config-path" => args.config_path = Some(required()?),
        _ => args.conf.push(required()?),
    }
    Ok(())
}

fn short_options(
    args: &mut Args,
    letters: &str,
    words: &mut dyn Iterator<Item = String>,
) -> Result<(), String> {
    let mut rest = letters;
    while let Some(letter) = rest.chars().next() {
        rest = &rest[letter.len_utf8()..];
        match letter {
            'h' => args.help = true,
            'v' => {
                let digits =
                    rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
                let value = (digits > 0).then(|| &rest[..digits]);
                args.verbose = level(args.verbose, value)?;
                rest = &rest[digits..];
            }
            'S' | 'c' => {
                let value = if rest.is_empty() {
                    words.next().ok_or_else(|| {
                        format!("flux-broker: '-{letter}' missing argument\n{TRY}")
                    })?
                } else {
                    rest.to_owned()
                };
                if letter == 'S' {
                    args.attrs.push(attribute(&value)?);
                } else {
                    args.config_path = Some(value);
                }
                rest = "";
            }
            other => return Err(unrecognized(&format!("-{other}"))),
        }
    }
    Ok(())
}

const TRY: &str = "Try `flux-broker --help' for more information.";

fn unrecognized(option: &str) -> String {
    format!("flux-broker: unrecognized option '{option}'\n{TRY}")
}

fn level(old: u32, value: Option<&str>) -> Result<u32, String> {
    match value {
        None => Ok(old + 1),
        Some(value) => value.parse().map_err(|_| {
            format!("flux-broker: Option 'verbose' requires an integer argument, not '{value}'")
        }),
    }
}

fn attribute(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => Ok((text.to_owned(), String::new())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str) -> Result<Args, String> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn options_end_at_the_initial_program() {
        let args = check("-vv -Sa=b --setattr c=d=e --conf=x=1 -c /etc run -v -n4").expect("valid");
        assert_eq!(args.verbose, 2);
        assert_eq!(
            args.attrs,
            [("a".into(), "b".into()), ("c".into(), "d=e".into())]
        );
        assert_eq!(args.conf, ["x=1"]);
        assert_eq!(args.config_path.as_deref(), Some("/etc"));
        assert_eq!(args.command, ["run", "-v", "-n4"]);
    }

    #[test]
    fn bad_options_are_named() {
        assert!(check("--foo").is_err_and(|e| e.contains("unrecognized option '--foo'")));
        assert!(check("-x").is_err_and(|e| e.contains("unrecognized option '-x'")));
        assert!(check("-S").is_err_and(|e| e.contains("'-S' missing argument")));
        assert!(check("--verbose=z").is_err_and(|e| e.contains("'z'")));
    }
}

//! Command-line options: one table-driven parser with the two manners the commands have.
//!
//! Family G speaks like `getopt(3)`, family P like Python's argparse. Messages, streams and exit
//! codes of both are what scripts know. Long options may be cut to a unique prefix in both.

mod help;

use crate::err;

/// Whether an option takes an argument, and what help calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arg {
    /// None.
    No,
    /// One.
    Yes(&'static str),
    /// Perhaps one.
    Maybe(&'static str),
    /// Perhaps one, but none where it is given as a letter, which may be repeated instead.
    Level(&'static str),
}

/// An option.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opt {
    /// Its letter, `'\0'` if it has none.
    pub(crate) short: char,
    /// Its long name, empty if it has none.
    pub(crate) long: &'static str,
    /// Its argument.
    pub(crate) arg: Arg,
    /// What it does.
    pub(crate) help: &'static str,
    /// Whether help leaves it out.
    pub(crate) hidden: bool,
    /// The heading help has it under, if it is no ordinary one.
    pub(crate) section: &'static str,
}

/// An option without argument.
pub(crate) const fn flag(short: char, long: &'static str, help: &'static str) -> Opt {
    Opt {
        short,
        long,
        arg: Arg::No,
        help,
        hidden: false,
        section: "",
    }
}

/// An option with an argument.
pub(crate) const fn arg(
    short: char,
    long: &'static str,
    meta: &'static str,
    help: &'static str,
) -> Opt {
    Opt {
        short,
        long,
        arg: Arg::Yes(meta),
        help,
        hidden: false,
        section: "",
    }
}

/// An option whose argument may be left out.
pub(crate) const fn maybe(
    short: char,
    long: &'static str,
    meta: &'static str,
    help: &'static str,
) -> Opt {
    Opt {
        short,
        long,
        arg: Arg::Maybe(meta),
        help,
        hidden: false,
        section: "",
    }
}

/// How much to say: `--verbose[=LEVEL]`, or `-v` once or more.
pub(crate) const fn level(help: &'static str) -> Opt {
    Opt {
        arg: Arg::Level("LEVEL"),
        ..maybe('v', "verbose", "LEVEL", help)
    }
}

impl Opt {
    /// The option, left out of help.
    pub(crate) const fn hidden(mut self) -> Opt {
        self.hidden = true;
        self
    }

    /// The option, under a heading of its own in help.
    pub(crate) const fn under(mut self, section: &'static str) -> Opt {
        self.section = section;
        self
    }

    /// What code calls it: its long name, or else its letter.
    fn is(&self, key: &str) -> bool {
        if self.long.is_empty() {
            key.chars().eq([self.short])
        } else {
            self.long == key
        }
    }
}

/// The manner of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// As `getopt`: options end at the first other word.
    G,
    /// As argparse: options anywhere.
    P,
    /// As argparse for commands that take a command: options end at the first other word, and
    /// there is no `-h`.
    Submit,
}

/// A command's options.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parser {
    /// The name messages begin with: `flux getattr`, `flux-jobs`.
    pub(crate) name: &'static str,
    /// What follows the name in usage; several lines for several forms.
    pub(crate) usage: &'static str,
    /// What the command does, if help says so.
    pub(crate) about: &'static str,
    /// Its manner.
    pub(crate) family: Family,
    /// Its options, but for `--help`.
    pub(crate) opts: &'static [Opt],
}

/// Parsed arguments.
#[derive(Clone, Debug)]
pub(crate) struct Args {
    parser: &'static Parser,
    given: Vec<(&'static Opt, Option<String>)>,
    /// The other words.
    pub(crate) words: Vec<String>,
    /// Whether `--` comes before all of them.
    pub(crate) introduced: bool,
}

const HELP: Opt = flag('h', "help", "Display this message.");
const HELP_LONG: Opt = flag('\0', "help", "Display this message.");

impl Parser {
    fn opts(&self) -> impl Iterator<Item = &'static Opt> {
        let help: &'static Opt = match self.family {
            Family::Submit => &HELP_LONG,
            Family::G | Family::P => &HELP,
        };
        // A command may have a help option of its own.
        let own = self.opts.iter().any(|opt| opt.long == "help");
        (!own).then_some(help).into_iter().chain(self.opts)
    }

    /// Parses a command's words.
    ///
    /// # Errors
    ///
    /// The exit status, where help was asked for or the words are wrong; all is printed then.
    pub(crate) fn parse(&'static self, words: &[String]) -> Result<Args, i32> {
        let mut args = Args {
            parser: self,
            given: Vec::new(),
            words: Vec::new(),
            introduced: false,
        };
        let mut words = words.iter().cloned().peekable();
        while let Some(word) = words.next() {
            if word == "--" {
                args.introduced = args.words.is_empty();
                args.words.extend(words);
                break;
            }
            if let Some(long) = word.strip_prefix("--") {
                let (name, value) = match long.split_once('=') {
                    Some((name, value)) => (name, Some(value.to_owned())),
                    None => (long, None),
                };
                let opt = self.long(name).ok_or_else(|| self.unknown(&word, name))?;
                let value = self.value(opt, value, &mut words, &format!("--{name}"))?;
                args.add(opt, value)?;
            } else if self.is_short(&word) {
                self.shorts(&word, &mut words, &mut args)?;
            } else {
                args.words.push(word);
                if self.family != Family::P {
                    args.words.extend(words);
                    break;
                }
            }
        }
        Ok(args)
    }

    /// Whether a word is a cluster of letters: in argparse's manner a negative number is not.
    fn is_short(&self, word: &str) -> bool {
        let Some(rest) = word.strip_prefix('-').filter(|rest| !rest.is_empty()) else {
            return false;
        };
        self.family == Family::G || rest.parse::<f64>().is_err() || self.short_of(rest).is_some()
    }

    fn short_of(&self, rest: &str) -> Option<&'static Opt> {
        let letter = rest.chars().next()?;
        self.opts().find(|opt| opt.short == letter)
    }

    fn shorts(
        &self,
        word: &str,
        words: &mut std::iter::Peekable<impl Iterator<Item = String>>,
        args: &mut Args,
    ) -> Result<(), i32> {
        let mut rest = &word[1..];
        while let Some(letter) = rest.chars().next() {
            let opt = self
                .short_of(rest)
                .ok_or_else(|| self.unknown(word, &format!("-{letter}")))?;
            rest = &rest[letter.len_utf8()..];
            if matches!(opt.arg, Arg::No | Arg::Level(_)) {
                args.add(opt, None)?;
                continue;
            }
            let mut attached = (!rest.is_empty()).then_some(rest);
            if self.family != Family::G && word[1 + letter.len_utf8()..] == *rest {
                // Argparse lets `-x=VALUE` pass for `-xVALUE`.
                attached = attached.map(|rest| rest.strip_prefix('=').unwrap_or(rest));
            }
            let attached = attached.map(str::to_owned);
            let value = self.value(opt, attached, words, &format!("-{letter}"))?;
            args.add(opt, value)?;
            break;
        }
        Ok(())
    }

    fn value(
        &self,
        opt: &'static Opt,
        attached: Option<String>,
        words: &mut std::iter::Peekable<impl Iterator<Item = String>>,
        spelled: &str,
    ) -> Result<Option<String>, i32> {
        match opt.arg {
            Arg::No => match attached {
                None => Ok(None),
                Some(value) => Err(match self.family {
                    Family::G => {
                        err!("{}: '{spelled}' does not take an argument", self.name);
                        1
                    }
                    Family::P | Family::Submit => self.usage_error(&format!(
                        "argument {}: ignored explicit argument '{value}'",
                        spell(opt)
                    )),
                }),
            },
            Arg::Yes(_) => {
                let next = |word: &String| {
                    self.family == Family::G || !word.starts_with('-') || word.len() < 2 || {
                        word[1..].parse::<f64>().is_ok()
                    }
                };
                match attached.or_else(|| words.next_if(next)) {
                    Some(value) => Ok(Some(value)),
                    None => Err(match self.family {
                        Family::G => {
                            err!("{}: '{spelled}' missing argument", self.name);
                            1
                        }
                        Family::P | Family::Submit => self.usage_error(&format!(
                            "argument {}: expected one argument",
                            spell(opt)
                        )),
                    }),
                }
            }
            Arg::Level(_) => Ok(attached),
            Arg::Maybe(_) => match self.family {
                Family::P if attached.is_none() => Ok(words.next_if(|word| !word.starts_with('-'))),
                _ => Ok(attached),
            },
        }
    }

    fn long(&self, name: &str) -> Option<&'static Opt> {
        if name.is_empty() {
            return None;
        }
        if let Some(opt) = self.opts().find(|opt| opt.long == name) {
            return Some(opt);
        }
        let mut matching = self
            .opts()
            .filter(|opt| !opt.hidden && opt.long.starts_with(name));
        let first = matching.next()?;
        matching.next().is_none().then_some(first)
    }

    /// The last word of the name: how messages about an option's argument call the command.
    fn command(&self) -> &'static str {
        self.name.rsplit(' ').next().unwrap_or(self.name)
    }

    fn unknown(&self, word: &str, name: &str) -> i32 {
        match self.family {
            Family::G => {
                let spelled = if word.starts_with("--") { word } else { name };
                err!("{}: unrecognized option '{spelled}'", self.name);
                err!("Try `{} --help' for more information.", self.name);
                1
            }
            Family::P | Family::Submit => self.unrecognized(&[word.to_owned()]),
        }
    }

    /// Complains about words a command does not take and returns the exit status. With argparse it
    /// is the program that finds them, not its subcommand.
    pub(crate) fn unrecognized(&self, words: &[String]) -> i32 {
        let program = match self.name.split_once(' ') {
            Some((program, _)) if program.starts_with("flux-") => program,
            _ => self.name,
        };
        err!("{}", self.usage_text());
        err!(
            "{program}: error: unrecognized arguments: {}",
            words.join(" ")
        );
        2
    }

    /// Complains about wrong words and returns the exit status.
    pub(crate) fn usage_error(&self, text: &str) -> i32 {
        match self.family {
            Family::G => {
                err!("{}: {text}", self.name);
                1
            }
            Family::P | Family::Submit => {
                err!("{}", self.usage_text());
                err!("{}: error: {text}", self.name);
                2
            }
        }
    }

    /// Shows the usage where the number of words is wrong, and returns the exit status.
    pub(crate) fn wrong_words(&self) -> i32 {
        match self.family {
            Family::G => {
                crate::output::error_bytes(self.help_text().as_bytes());
                1
            }
            Family::P | Family::Submit => {
                err!("{}", self.usage_text());
                2
            }
        }
    }
}

/// A number of bytes with an optional suffix of the powers of 1024, such as `100M` or `1.5K`.
fn bytes(text: &str) -> Option<u64> {
    let (digits, shift) = match text.char_indices().last()? {
        (at, 'k' | 'K') => (&text[..at], 10),
        (at, 'M') => (&text[..at], 20),
        (at, 'G') => (&text[..at], 30),
        (at, 'T') => (&text[..at], 40),
        (at, 'P') => (&text[..at], 50),
        (at, 'E') => (&text[..at], 60),
        _ => (text, 0),
    };
    if let Ok(number) = digits.parse::<u64>() {
        return number.checked_mul(1 << shift);
    }
    let number = digits.parse::<f64>().ok()? * (1_u64 << shift) as f64;
    (number.is_finite() && (0.0..1.8e19).contains(&number)).then_some(number as u64)
}

fn spell(opt: &Opt) -> String {
    match (opt.short, opt.long) {
        ('\0', long) => format!("--{long}"),
        (short, "") => format!("-{short}"),
        (short, long) => format!("-{short}/--{long}"),
    }
}

impl Args {
    fn add(&mut self, opt: &'static Opt, value: Option<String>) -> Result<(), i32> {
        if opt.long == "help" && opt.arg == Arg::No {
            return Err(self.parser.show_help());
        }
        self.given.push((opt, value));
        Ok(())
    }

    /// The command's parser.
    pub(crate) fn parser(&self) -> &'static Parser {
        self.parser
    }

    /// Whether an option was given.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.given.iter().any(|(opt, _)| opt.is(key))
    }

    /// How often an option was given.
    pub(crate) fn count(&self, key: &str) -> usize {
        self.given.iter().filter(|(opt, _)| opt.is(key)).count()
    }

    /// The level that `--verbose[=LEVEL]` or repeated `-v` ask for, 0 without.
    ///
    /// # Errors
    ///
    /// The exit status, if LEVEL is no number.
    pub(crate) fn verbosity(&self) -> Result<i64, i32> {
        let times = i64::try_from(self.count("verbose")).unwrap_or(i64::MAX);
        Ok(self.int("verbose")?.unwrap_or(times))
    }

    /// The last argument given to an option.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        let mut given = self.given.iter().rev();
        given.find(|(opt, _)| opt.is(key))?.1.as_deref()
    }

    /// Every argument given to an option.
    pub(crate) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.given
            .iter()
            .filter(move |(opt, _)| opt.is(key))
            .filter_map(|(_, value)| value.as_deref())
    }

    /// Every option given, in order: key and argument.
    pub(crate) fn given(&self) -> impl Iterator<Item = (&'static Opt, Option<&str>)> {
        self.given
            .iter()
            .map(|(opt, value)| (*opt, value.as_deref()))
    }

    /// Has an option given as often as there are values, whatever it was before. A value that is a
    /// number stands for so many times where the option takes none.
    pub(crate) fn set(&mut self, key: &str, values: &[Option<String>]) {
        self.given.retain(|(opt, _)| !opt.is(key));
        let Some(opt) = self.parser.opts().find(|opt| opt.is(key)) else {
            return;
        };
        for value in values {
            match (opt.arg, value) {
                (Arg::No, Some(text)) => {
                    let times = text.parse().unwrap_or(1);
                    self.given.extend(std::iter::repeat_n((opt, None), times));
                }
                _ => self.given.push((opt, value.clone())),
            }
        }
    }

    /// The same arguments with every value changed.
    pub(crate) fn map_values(&self, change: impl Fn(&str) -> String) -> Args {
        Args {
            parser: self.parser,
            given: self
                .given
                .iter()
                .map(|(opt, value)| (*opt, value.as_deref().map(&change)))
                .collect(),
            words: self.words.clone(),
            introduced: self.introduced,
        }
    }

    /// An option's argument as an integer.
    ///
    /// # Errors
    ///
    /// The exit status, if it is none.
    pub(crate) fn int(&self, key: &str) -> Result<Option<i64>, i32> {
        let Some(text) = self.get(key) else {
            return Ok(None);
        };
        if let Ok(number) = text.trim().parse() {
            return Ok(Some(number));
        }
        Err(match self.parser.family {
            Family::G => {
                let command = self.parser.command();
                err!(
                    "{}: {command}: Option '{key}' requires an integer argument",
                    self.parser.name
                );
                1
            }
            Family::P | Family::Submit => {
                let opt = self.parser.opts().find(|opt| opt.is(key));
                let spelled = opt.map(spell).unwrap_or_default();
                self.parser
                    .usage_error(&format!("argument {spelled}: invalid int value: '{text}'"))
            }
        })
    }

    /// An option's argument as a number.
    ///
    /// # Errors
    ///
    /// The exit status, if it is none.
    pub(crate) fn float(&self, key: &str) -> Result<Option<f64>, i32> {
        let Some(text) = self.get(key) else {
            return Ok(None);
        };
        text.trim().parse().map(Some).map_err(|_| {
            let command = self.parser.command();
            let text = format!("{command}: Option '{key}' requires a floating point argument");
            self.parser.usage_error(&text)
        })
    }

    /// An option's argument as a number of bytes below `end`, if that is given.
    ///
    /// # Errors
    ///
    /// The exit status, if it is none.
    pub(crate) fn size(&self, key: &str, end: Option<(u64, &str)>) -> Result<Option<u64>, i32> {
        let Some(text) = self.get(key) else {
            return Ok(None);
        };
        let name = self.parser.name;
        let command = self.parser.command();
        let Some(size) = bytes(text) else {
            err!(
                "{name}: {command}: invalid argument for option '{key}': {text}: {}",
                types::Errno::EINVAL
            );
            return Err(1);
        };
        match end {
            Some((end, shown)) if size >= end => {
                err!("{name}: {command}: {key}: value {text} too large (must be < {shown})");
                Err(1)
            }
            _ => Ok(Some(size)),
        }
    }

    /// Complains about an option's argument that is none of a few, and returns the exit status.
    pub(crate) fn not_among(&self, key: &str, names: &[&str]) -> i32 {
        let opt = self.parser.opts().find(|opt| opt.is(key));
        let spelled = opt.map(spell).unwrap_or_default();
        let text = self.get(key).unwrap_or_default();
        let names = names.join("', '");
        self.parser.usage_error(&format!(
            "argument {spelled}: invalid choice: '{text}' (choose from '{names}')"
        ))
    }

    /// An option's argument as a duration in seconds (RFC 23).
    ///
    /// # Errors
    ///
    /// The exit status, if it is none.
    pub(crate) fn duration(&self, key: &str) -> Result<Option<f64>, i32> {
        let Some(text) = self.get(key) else {
            return Ok(None);
        };
        if let Ok(seconds) = types::fsd::parse(text) {
            return Ok(Some(seconds));
        }
        Err(match self.parser.family {
            Family::G => {
                let command = self.parser.command();
                err!(
                    "{}: {command}: Invalid argument for option '{key}': '{text}'",
                    self.parser.name
                );
                1
            }
            Family::P | Family::Submit => {
                let opt = self.parser.opts().find(|opt| opt.is(key));
                let spelled = opt.map(spell).unwrap_or_default();
                self.parser.usage_error(&format!(
                    "argument {spelled}: invalid Flux standard duration '{text}'"
                ))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static G: Parser = Parser {
        name: "flux-g",
        usage: "[OPTIONS] WORD",
        about: "Test",
        family: Family::G,
        opts: &[
            flag('v', "verbose", "talk"),
            arg('c', "count", "N", "times"),
            maybe('L', "color", "WHEN", "colour"),
        ],
    };
    static P: Parser = Parser {
        family: Family::P,
        ..G
    };

    fn parse(parser: &'static Parser, words: &str) -> Result<Args, i32> {
        let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
        parser.parse(&words)
    }

    #[test]
    fn getopt_stops_at_the_first_word() {
        let args = parse(&G, "-vc3 --verb word -v").expect("valid");
        assert_eq!(args.count("verbose"), 2);
        assert_eq!(args.int("count"), Ok(Some(3)));
        assert_eq!(args.words, ["word", "-v"]);
    }

    #[test]
    fn argparse_mixes() {
        let args = parse(&P, "a -v b --count 3 -1 -- -v").expect("valid");
        assert_eq!(args.count("verbose"), 1);
        assert_eq!(args.get("count"), Some("3"));
        assert_eq!(args.words, ["a", "b", "-1", "-v"]);
    }

    #[test]
    fn optional_arguments_are_attached_in_getopt_only() {
        assert_eq!(parse(&G, "-L auto").expect("valid").words, ["auto"]);
        let args = parse(&P, "-L auto").expect("valid");
        assert_eq!(args.get("color"), Some("auto"));
        assert_eq!(
            parse(&G, "-Lauto").expect("valid").get("color"),
            Some("auto")
        );
    }

    #[test]
    fn wrong_words_have_the_family_status() {
        assert_eq!(parse(&G, "--foo").err(), Some(1));
        assert_eq!(parse(&P, "--foo").err(), Some(2));
        assert_eq!(parse(&G, "-c").err(), Some(1));
        assert_eq!(parse(&P, "--count -v").err(), Some(2));
        assert_eq!(parse(&G, "--help").err(), Some(0));
    }

    #[test]
    fn sizes_have_suffixes() {
        for (text, expect) in [
            ("100", Some(100)),
            ("1K", Some(1024)),
            ("100M", Some(100 << 20)),
            ("1.5k", Some(1536)),
            ("100x", None),
            ("", None),
            ("-1", None),
        ] {
            assert_eq!(bytes(text), expect, "{text}");
        }
    }
}

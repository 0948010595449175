//! `flux bulksubmit`: a template of a job, and lists of inputs that fill it in.

mod define;
mod replace;

use std::cell::RefCell;
use std::hash::{BuildHasher, RandomState};
use std::io::Read;

use types::Errno;

use self::define::{Defines, LIST_SEPARATOR};
use self::replace::{ReplaceError, Source};
use super::sinks::Files;
use super::{Job, early, is_dry, jobs, options, submit_all};
use crate::driver::Invocation;
use crate::fail::{self, Fail};
use crate::options::Args;
use crate::{err, outln};

/// The options whose values may hold replacement strings, in the order they are shown. Those with
/// a letter are shown by it.
const REPLACED: &[(&str, &str)] = &[
    ("queue", "-q"),
    ("bank", "-B"),
    ("ntasks", "-n"),
    ("nodes", "-N"),
    ("cores-per-task", "-c"),
    ("gpus-per-task", "-g"),
    ("cores", "--cores="),
    ("tasks-per-node", "--tasks-per-node="),
    ("tasks-per-core", "--tasks-per-core="),
    ("gpus-per-node", "--gpus-per-node="),
    ("time-limit", "-t"),
    ("env", "--env="),
    ("env-remove", "--env-remove="),
    ("env-file", "--env-file="),
    ("urgency", "--urgency="),
    ("setopt", "-o "),
    ("setattr", "-S "),
    ("job-name", "--job-name="),
    ("input", "--input="),
    ("output", "--output="),
    ("error", "--error="),
    ("cc", "--cc="),
    ("log", "--log="),
    ("log-stderr", "--log-stderr="),
    ("dependency", "--dependency="),
    ("taskmap", "--taskmap="),
    ("requires", "--requires="),
    ("wait-event", "--wait-event="),
    ("cwd", "--cwd="),
    ("flags", "--flags="),
    ("begin-time", "--begin-time="),
    ("signal", "--signal="),
];

/// Options that may be given several times, and are shown as a list.
const LISTS: &[&str] = &[
    "env",
    "env-remove",
    "env-file",
    "setopt",
    "setattr",
    "dependency",
    "requires",
    "flags",
];

pub(crate) fn bulksubmit(_: &Invocation<'_>, words: &[String]) -> i32 {
    let (args, mut plugins) = match early(&options::BULKSUBMIT, words) {
        Ok(parsed) => parsed,
        Err(status) => return status,
    };
    fail::run("flux-bulksubmit: ERROR", async {
        let mut defines = Defines::new(args.all("define"))?;
        let (template, inputs) = inputs(&args)?;
        let mut rows = combine(&inputs);
        if rows.is_empty() {
            return Err(Fail::new("no jobs provided for bulk submission"));
        }
        if args.has("shuffle") {
            shuffle(&mut rows);
        }
        if is_dry(&args) && args.has("progress") {
            outln!("bulksubmit: submitting a total of {} jobs", rows.len());
        }
        let mut all: Vec<Job> = Vec::new();
        let mut files = Files::default();
        for (seq, row) in rows.iter().enumerate() {
            let mut source = Source {
                row,
                seq,
                defines: &mut defines,
            };
            let (mut filled, command) = fill(&args, &template, &mut source)?;
            if is_dry(&args) || args.has("verbose") {
                outln!("bulksubmit: submit {}", shown(&args, &filled, &command));
            }
            if !is_dry(&args) {
                plugins.preinit(&mut filled)?;
                all.extend(jobs(&filled, &mut plugins, &mut files, &command)?);
            }
        }
        if is_dry(&args) {
            return Ok(0);
        }
        let client = fail::connect_p().await?;
        submit_all(&client, &args, &all).await
    })
}

/// A list of inputs, and whether it goes along with the list before it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct List {
    items: Vec<String>,
    linked: bool,
}

/// The template and the lists on a command line.
fn inputs(args: &Args) -> Result<(Vec<String>, Vec<List>), Fail> {
    let separator = args.get("sep").unwrap_or("\n");
    let marker = |word: &String| matches!(word.as_str(), ":::" | ":::+" | "::::" | "::::+");
    let at = args.words.iter().position(marker);
    let (template, mut rest) = args.words.split_at(at.unwrap_or(args.words.len()));
    let template = match template.split_first() {
        Some((first, rest)) if first == "--" => rest,
        _ => template,
    };
    let mut lists = Vec::new();
    if rest.is_empty() {
        lists.push(List {
            items: read("-", separator)?,
            linked: false,
        });
    }
    while let Some((mark, tail)) = rest.split_first() {
        let end = tail.iter().position(marker).unwrap_or(tail.len());
        let (words, next) = tail.split_at(end);
        rest = next;
        let items = if mark.starts_with("::::") {
            let [file] = words else {
                return Err(Fail::new(format!("{mark}: expected one file")));
            };
            read(file, separator)?
        } else {
            words.to_vec()
        };
        lists.push(List {
            items,
            linked: mark.ends_with('+'),
        });
    }
    let template = if template.is_empty() {
        vec!["{}".to_owned()]
    } else {
        template.to_vec()
    };
    Ok((template, lists))
}

/// Reads inputs from a file, or standard input.
fn read(file: &str, separator: &str) -> Result<Vec<String>, Fail> {
    let mut text = String::new();
    let done = if file == "-" {
        std::io::stdin().lock().read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|mut file| file.read_to_string(&mut text))
    };
    done.map_err(|error| Fail::new(format!("{}: '{file}'", Errno::from_io(&error))))?;
    Ok(split(&text, separator))
}

fn split(text: &str, separator: &str) -> Vec<String> {
    if separator.eq_ignore_ascii_case("none") {
        return text.split_whitespace().map(str::to_owned).collect();
    }
    let text = text.trim_end_matches('\n');
    let text = text.strip_suffix(separator).unwrap_or(text);
    if text.is_empty() {
        return Vec::new();
    }
    text.split(separator).map(str::to_owned).collect()
}

/// The rows lists make: every combination, the last list changing fastest. A linked list goes
/// along with the one before it, from its start again where it is shorter.
fn combine(lists: &[List]) -> Vec<Vec<&str>> {
    // Each group is a list with those linked to it, as columns of one table.
    let mut groups: Vec<Vec<Vec<&str>>> = Vec::new();
    for list in lists {
        match groups.last_mut().filter(|_| list.linked) {
            Some(group) => {
                let mut items = list.items.iter().map(String::as_str).cycle();
                for row in group {
                    row.extend(items.next());
                }
            }
            None => groups.push(list.items.iter().map(|item| vec![item.as_str()]).collect()),
        }
    }
    let mut rows: Vec<Vec<&str>> = vec![Vec::new()];
    for group in &groups {
        rows = rows
            .iter()
            .flat_map(|row| {
                group
                    .iter()
                    .map(move |columns| [row.as_slice(), columns.as_slice()].concat())
            })
            .collect();
    }
    rows
}

fn shuffle<T>(rows: &mut [T]) {
    // The standard library's hasher is seeded by the system, which is random enough here.
    let random = RandomState::new();
    for last in (1..rows.len()).rev() {
        let other = random.hash_one(last) % (last as u64 + 1);
        rows.swap(last, other as usize);
    }
}

/// Fills a row of inputs into the options and the command.
fn fill(
    args: &Args,
    template: &[String],
    source: &mut Source<'_>,
) -> Result<(Args, Vec<String>), Fail> {
    let source = RefCell::new(source);
    let failed = RefCell::new(None);
    let filled = args.map_values(|value| {
        let replaced = source.borrow_mut().replace(value);
        replaced.unwrap_or_else(|error| {
            failed.borrow_mut().get_or_insert((value.to_owned(), error));
            value.to_owned()
        })
    });
    if let Some((value, error)) = failed.into_inner() {
        let option = args.given().find(|(_, given)| *given == Some(&value));
        let place = option.map_or(value.clone(), |(opt, _)| format!("--{}={value}", opt.long));
        return Err(told(error, |what| match what.parse::<usize>() {
            Ok(_) => format!("Invalid replacement index in '{place}'"),
            Err(_) => format!("Replacement key '{what}' not found in '{place}'"),
        }));
    }
    let source = source.into_inner();
    let mut command = Vec::new();
    for word in template {
        let replaced = source.replace(word).map_err(|error| {
            told(error, |_| {
                format!("Invalid replacement string in command: '{word}'")
            })
        })?;
        command.extend(replaced.split(LIST_SEPARATOR).map(str::to_owned));
    }
    Ok((filled, command))
}

/// What is said of a template that could not be filled.
fn told(error: ReplaceError, unknown: impl Fn(&str) -> String) -> Fail {
    match error {
        ReplaceError::Unknown(what) => {
            // The reference's own messages have the plain name here.
            err!("flux: ERROR: {}", unknown(&what));
            Fail::silent(1)
        }
        ReplaceError::Failed(text) => Fail::new(text),
    }
}

/// The options that differ from the template, and the command.
fn shown(args: &Args, filled: &Args, command: &[String]) -> String {
    let mut words = Vec::new();
    for (key, spelled) in REPLACED {
        let now: Vec<&str> = filled.all(key).collect();
        let changed = args.all(key).ne(now.iter().copied());
        let is_shown = |last: &&&str| changed || *key == "cc" || last.contains("{{");
        let Some(last) = now.last().filter(is_shown) else {
            continue;
        };
        if LISTS.contains(key) {
            let quoted: Vec<String> = now.iter().map(|value| format!("'{value}'")).collect();
            words.push(format!("{spelled}[{}]", quoted.join(", ")));
        } else {
            words.push(format!("{spelled}{last}"));
        }
    }
    words.extend(command.iter().cloned());
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines a dry run shows.
    fn check(words: &[&str], expect: &[&str]) {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        let args = options::BULKSUBMIT.parse(&words).expect("options");
        let (template, lists) = inputs(&args).expect("inputs");
        let mut defines = Defines::new(args.all("define")).expect("defines");
        let lines: Vec<String> = combine(&lists)
            .iter()
            .enumerate()
            .map(|(seq, row)| {
                let source = &mut Source {
                    row,
                    seq,
                    defines: &mut defines,
                };
                match fill(&args, &template, source) {
                    Ok((filled, command)) => shown(&args, &filled, &command),
                    Err(_) => "bad".to_owned(),
                }
            })
            .collect();
        assert_eq!(lines, expect);
    }

    #[test]
    fn lists_are_combined() {
        check(
            &["echo", "{}", "{1}", ":::", "a", "b", ":::", "1", "2"],
            &["echo a 1", "echo a 2", "echo b 1", "echo b 2"],
        );
        check(
            &[
                "-n",
                "{}",
                "--job-name={1}",
                "echo",
                "{0}",
                ":::",
                "1",
                "2",
                ":::+",
                "a",
            ],
            &["-n1 --job-name=a echo 1", "-n2 --job-name=a echo 2"],
        );
        check(&[":::", "echo", "true"], &["echo", "true"]);
        check(&["echo", ":::"], &[]);
    }

    #[test]
    fn inputs_are_taken_apart() {
        check(
            &[
                "echo", "{.%}", "{./}", "{.//}", "{./%}", "{seq}", "{seq1}", ":::", "/a/b.c", "d.e",
            ],
            &["echo /a/b b.c /a b 0 1", "echo d d.e  d 1 2"],
        );
        check(
            &["echo", "{{id}}", "{cc}", ":::", "1"],
            &["echo {{id}} {cc}"],
        );
        check(&["echo", "{x}", ":::", "1"], &["bad"]);
        check(&["echo", "{9}", ":::", "1"], &["bad"]);
        check(&["--output={y}", "echo", ":::", "1"], &["bad"]);
    }

    #[test]
    fn replacements_are_formatted() {
        check(
            &[
                "echo",
                "{seq:03d}",
                "{seq1:>4}",
                "{0:>5}|{:*^7}",
                "{./:>4}{0!r}",
                "{cc:2}",
                ":::",
                "/b",
            ],
            &["echo 000    1    /b|**/b***    b'/b' {cc:2}"],
        );
        check(&["echo", "{0:d}", ":::", "1"], &["bad"]);
        check(&["echo", "{0!x}", ":::", "1"], &["bad"]);
        check(&["echo", "}", ":::", "1"], &["bad"]);
    }

    #[test]
    fn python_defines_what_inputs_have() {
        check(
            &[
                "--define=p2=2**int(x)",
                "--define=l=list(x)",
                "-n",
                "{.p2:02d}",
                "echo",
                "{0.l}",
                "{0.p2!r}",
                ":::",
                "12",
            ],
            &["-n4096 echo 1 2 4096"],
        );
        check(&["--define=x=y", "echo", "{.x}", ":::", "1"], &["bad"]);
        check(&["--define=x=y", "echo", "{.z}", ":::", "1"], &["bad"]);
        for text in ["x", "=1", "x=("] {
            let fail = Defines::new([text].into_iter())
                .err()
                .expect("no definition");
            assert!(
                fail.text.starts_with(&format!("--define={text}: ")),
                "{fail:?}"
            );
        }
    }

    #[test]
    fn text_is_split() {
        assert_eq!(split("a\nb c\n", "\n"), ["a", "b c"]);
        assert_eq!(split("a\nb c\n", "none"), ["a", "b", "c"]);
        assert_eq!(split("a,b\n", ","), ["a", "b"]);
        assert!(split("", "\n").is_empty());
    }
}

//! `flux bulksubmit`: a template of a job, and lists of inputs that fill it in.

use std::cell::RefCell;
use std::hash::{BuildHasher, RandomState};
use std::io::Read;

use types::Errno;

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
    let args = match early(&options::BULKSUBMIT, words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    fail::run("flux-bulksubmit: ERROR", async {
        if args.has("define") {
            return Err(Fail::new("--define is not implemented"));
        }
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
            let (filled, command) = fill(&args, &template, row, seq)?;
            if is_dry(&args) || args.has("verbose") {
                outln!("bulksubmit: submit {}", shown(&args, &filled, &command));
            }
            if !is_dry(&args) {
                all.extend(jobs(&filled, &mut files, &command)?);
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
    row: &[&str],
    seq: usize,
) -> Result<(Args, Vec<String>), Fail> {
    let invalid = |place: &str, what: &str| {
        err!("flux: ERROR: Invalid replacement string in {place}: '{what}'");
        Fail::silent(1)
    };
    let bad = RefCell::new(None);
    let filled = args.map_values(|value| {
        replace(value, row, seq).unwrap_or_else(|what| {
            bad.borrow_mut().get_or_insert((value.to_owned(), what));
            value.to_owned()
        })
    });
    if let Some((value, what)) = bad.into_inner() {
        let option = args.given().find(|(_, given)| *given == Some(&value));
        let place = option.map_or("option", |(opt, _)| opt.long);
        return Err(invalid(place, &what));
    }
    let command = template
        .iter()
        .map(|word| replace(word, row, seq).map_err(|what| invalid("command", &what)))
        .collect::<Result<_, _>>()?;
    Ok((filled, command))
}

/// Replaces what is in braces. Doubled braces are for the job shell and stay, as does `{cc}`.
/// The error is the replacement string that has no meaning.
fn replace(text: &str, row: &[&str], seq: usize) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut auto = 0;
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if rest.starts_with("{{") {
            let end = rest.find("}}").map_or(rest.len(), |end| end + 2);
            out.push_str(&rest[..end]);
            rest = &rest[end..];
            continue;
        }
        let Some(end) = rest.find('}') else {
            return Err(rest.to_owned());
        };
        let field = &rest[1..end];
        match value(field, row, seq, &mut auto) {
            Some(value) => out.push_str(&value),
            None => return Err(format!("{{{field}}}")),
        }
        rest = &rest[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

/// What a replacement string stands for.
fn value(field: &str, row: &[&str], seq: usize, auto: &mut usize) -> Option<String> {
    match field {
        "seq" => return Some(seq.to_string()),
        "seq1" => return Some((seq + 1).to_string()),
        "cc" => return Some("{cc}".to_owned()),
        _ => {}
    }
    let (index, attribute) = match field.split_once('.') {
        Some((index, attribute)) => (index, Some(attribute)),
        None => (field, None),
    };
    let index = if index.is_empty() {
        *auto += 1;
        *auto - 1
    } else {
        index.parse().ok()?
    };
    let input = *row.get(index)?;
    let (dir, base) = input.rsplit_once('/').unwrap_or(("", input));
    // A dot at the start of a name begins no extension.
    let stem = |name: &str| match name.trim_start_matches('.').rfind('.') {
        Some(at) => at + name.len() - name.trim_start_matches('.').len(),
        None => name.len(),
    };
    Some(match attribute {
        None => input.to_owned(),
        Some("%") => input[..input.len() - base.len() + stem(base)].to_owned(),
        Some("/") => base.to_owned(),
        Some("//") => dir.to_owned(),
        Some("/%") => base[..stem(base)].to_owned(),
        Some(_) => return None,
    })
}

/// The options that differ from the template, and the command.
fn shown(args: &Args, filled: &Args, command: &[String]) -> String {
    let mut words = Vec::new();
    for (key, spelled) in REPLACED {
        let now: Vec<&str> = filled.all(key).collect();
        let changed = args.all(key).ne(now.iter().copied());
        let Some(last) = now.last().filter(|_| changed || *key == "cc") else {
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
        let lines: Vec<String> = combine(&lists)
            .iter()
            .enumerate()
            .map(|(seq, row)| match fill(&args, &template, row, seq) {
                Ok((filled, command)) => shown(&args, &filled, &command),
                Err(_) => "bad".to_owned(),
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
    fn text_is_split() {
        assert_eq!(split("a\nb c\n", "\n"), ["a", "b c"]);
        assert_eq!(split("a\nb c\n", "none"), ["a", "b", "c"]);
        assert_eq!(split("a,b\n", ","), ["a", "b"]);
        assert!(split("", "\n").is_empty());
    }
}

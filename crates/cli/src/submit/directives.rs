//! Options inside batch scripts (RFC 36).

use crate::fail::Fail;

/// The directives of a script: line number and words of each.
pub(super) fn parse(name: &str, text: &str) -> Result<Vec<(usize, Vec<String>)>, Fail> {
    let mut directives = Vec::new();
    let mut sentinel: Option<&str> = None;
    let mut disabled: Option<usize> = None;
    let mut lines = (1..).zip(text.lines());
    while let Some((number, line)) = lines.next() {
        let Some((found, rest)) = split_sentinel(line) else {
            let blank = line.trim().is_empty();
            let comment = sentinel.is_none_or(|sentinel| {
                let mark = sentinel.trim_end_matches(|c: char| c.is_alphabetic() || c == ':');
                line.starts_with(mark.trim()) && !mark.trim().is_empty()
            });
            if !blank && !comment && sentinel.is_some() {
                disabled.get_or_insert(number);
            }
            continue;
        };
        if let Some(at) = disabled {
            return Err(Fail::new(format!(
                "{name}: line {number}: orphan '{}:' detected: directives disabled after line {at}",
                "flux"
            )));
        }
        match sentinel {
            None => sentinel = Some(found),
            Some(first) if first != found => {
                return Err(Fail::new(format!(
                    "{name}: line {number}: sentinel changed from '{first}' to '{found}'\n\n\
                     Every directive of a file must begin in the same way. To disable one,\n\
                     put the comment character behind the sentinel:\n\n  {first} # {}",
                    rest.trim()
                )));
            }
            Some(_) => {}
        }
        let mut content = rest.to_owned();
        if let Some(quote) = opens_block(rest) {
            // A block reaches to the next line that ends in the same quotes.
            content.truncate(content.trim_end().len() - quote.len());
            let mut block = Vec::new();
            let mut closed = false;
            for (_, line) in lines.by_ref() {
                let inner = split_sentinel(line)
                    .map(|(_, rest)| rest.strip_prefix(' ').unwrap_or(rest))
                    .unwrap_or_else(|| {
                        let mark = found.trim_end_matches(|c: char| c.is_alphabetic() || c == ':');
                        let inner = line.strip_prefix(mark.trim_end()).unwrap_or(line);
                        inner.strip_prefix(' ').unwrap_or(inner)
                    });
                if let Some(last) = inner.trim_end().strip_suffix(quote) {
                    if !last.trim().is_empty() {
                        block.push(last.to_owned());
                    }
                    closed = true;
                    break;
                }
                block.push(inner.to_owned());
            }
            if !closed {
                return Err(Fail::new(format!(
                    "{name}: line {number}: unterminated multi-line quote at line {number}"
                )));
            }
            let mut words = split(&content, name, number)?;
            let text = dedent(&block);
            match words.last_mut() {
                Some(last) => last.push_str(&text),
                None => words.push(text),
            }
            directives.push((number, checked(words, name, number)?));
            continue;
        }
        let words = split(&content, name, number)?;
        if !words.is_empty() {
            directives.push((number, checked(words, name, number)?));
        }
    }
    Ok(directives)
}

/// Splits a line into its sentinel, `flux:` with what is not a word before it, and the rest.
fn split_sentinel(line: &str) -> Option<(&str, &str)> {
    let at = line.find(|c: char| c.is_alphanumeric() || c == '_')?;
    let tag = &line[at..];
    if !tag.starts_with("flux:") && !tag.starts_with("FLUX:") {
        return None;
    }
    if at == 0 {
        return None;
    }
    Some(line.split_at(at + 5))
}

fn opens_block(rest: &str) -> Option<&'static str> {
    let rest = rest.trim_end();
    ["\"\"\"", "'''"]
        .into_iter()
        .find(|quote| rest.ends_with(quote) && rest.matches(quote).count() == 1)
}

fn dedent(lines: &[String]) -> String {
    let indent = lines
        .iter()
        .filter(|line| !line.trim().is_empty())
        .map(|line| line.len() - line.trim_start().len())
        .min()
        .unwrap_or(0);
    lines
        .iter()
        .map(|line| format!("{}\n", line.get(indent..).unwrap_or_default()))
        .collect()
}

fn checked(words: Vec<String>, name: &str, number: usize) -> Result<Vec<String>, Fail> {
    match words.first() {
        Some(word) if !word.starts_with('-') => Err(Fail::new(format!(
            "{name}: line {number}: Unknown directive: {}",
            words.join(" ")
        ))),
        _ => Ok(words),
    }
}

/// Splits words as a POSIX shell does, with comments and triple quotes.
fn split(text: &str, name: &str, number: usize) -> Result<Vec<String>, Fail> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut rest = text;
    let unclosed = || Fail::new(format!("{name}: line {number}: No closing quotation"));
    while let Some(c) = rest.chars().next() {
        let triple = ["\"\"\"", "'''"]
            .into_iter()
            .find(|quote| rest.starts_with(quote));
        if let Some(quote) = triple {
            let inner = &rest[3..];
            let end = inner.find(quote).ok_or_else(unclosed)?;
            word.get_or_insert_default().push_str(&inner[..end]);
            rest = &inner[end + 3..];
            continue;
        }
        rest = &rest[c.len_utf8()..];
        match c {
            '#' if word.is_none() => break,
            c if c.is_whitespace() => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    let end = rest.find('\'').ok_or_else(unclosed)?;
                    // An escaped single quote stays in the word.
                    if let Some(before) = rest[..end].strip_suffix('\\') {
                        word.push_str(before);
                        word.push('\'');
                        rest = &rest[end + 1..];
                        continue;
                    }
                    word.push_str(&rest[..end]);
                    rest = &rest[end + 1..];
                    break;
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                let mut chars = rest.char_indices();
                let mut end = None;
                while let Some((at, c)) = chars.next() {
                    match c {
                        '"' => {
                            end = Some(at);
                            break;
                        }
                        '\\' => match chars.next() {
                            Some((_, c @ ('"' | '\\'))) => word.push(c),
                            Some((_, c)) => word.extend(['\\', c]),
                            None => word.push('\\'),
                        },
                        c => word.push(c),
                    }
                }
                rest = &rest[end.ok_or_else(unclosed)? + 1..];
            }
            '\\' => {
                if let Some(c) = rest.chars().next() {
                    word.get_or_insert_default().push(c);
                    rest = &rest[c.len_utf8()..];
                }
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<Vec<String>> {
        let parsed = parse("x", text).expect("valid");
        parsed.into_iter().map(|(_, words)| words).collect()
    }

    #[test]
    fn directives() {
        let text =
            "#!/bin/sh\n# flux: -n3 # three\n# other\n# flux: --job-name=\"foo bar\"\ntrue\n";
        assert_eq!(words(text), [vec!["-n3"], vec!["--job-name=foo bar"]]);
    }

    #[test]
    fn blocks() {
        let text = "#!/bin/sh\n# flux: --conf='''\n#   a = 1\n#   b = 2\n# '''\ntrue\n";
        assert_eq!(words(text), [vec!["--conf=a = 1\nb = 2\n"]]);
    }

    #[test]
    fn mistakes() {
        let fail = |text: &str| parse("x", text).expect_err("wrong").text;
        assert!(fail("# flux: -n1\n#flux: -n2\n").contains("sentinel changed"));
        assert!(fail("# flux: -n1\ntrue\n# flux: -n2\n").contains("orphan"));
        assert!(fail("# flux: foo\n").contains("Unknown directive"));
        assert!(fail("# flux: 'a\n").contains("No closing quotation"));
    }
}

//! Help texts, from the same tables.

use super::{Arg, Family, Opt, Parser};
use crate::output;

/// Where descriptions begin in family G.
const G_COLUMN: usize = 25;
/// The most that family P indents descriptions.
const P_COLUMN_MAX: usize = 40;

/// The width of the terminal as `COLUMNS` has it, 80 if that makes no sense.
pub(crate) fn columns() -> usize {
    std::env::var("COLUMNS")
        .ok()
        .and_then(|text| text.parse().ok())
        .filter(|width| (17..=255).contains(width))
        .unwrap_or(80)
}

impl Parser {
    pub(super) fn show_help(&self) -> i32 {
        let text = self.help_text();
        match self.family {
            // Family G sends its help to standard error.
            Family::G => output::error_bytes(text.as_bytes()),
            Family::P | Family::Submit => output::write(text.as_bytes()),
        }
        0
    }

    pub(super) fn usage_text(&self) -> String {
        let word = if self.family == Family::G {
            "Usage"
        } else {
            "usage"
        };
        let mut text = String::new();
        for (index, form) in self.usage.split('\n').enumerate() {
            if index > 0 {
                text.push_str("\n   or");
            } else {
                text.push_str(word);
            }
            text.push_str(&format!(
                ": {}{}{form}",
                self.name,
                if form.is_empty() { "" } else { " " }
            ));
        }
        text
    }

    /// The whole help text, last newline included.
    pub(crate) fn help_text(&self) -> String {
        let mut text = self.usage_text();
        text.push('\n');
        // Ordinary ones first.
        let mut shown: Vec<&Opt> = self.opts().filter(|opt| !opt.hidden).collect();
        shown.sort_by_key(|opt| !opt.section.is_empty());
        let row = |opt: &Opt| (self.left(opt), opt.help, opt.section);
        let rows: Vec<_> = shown.into_iter().map(row).collect();
        let column = if self.family == Family::G {
            if !self.about.is_empty() {
                text.push_str(self.about);
                text.push('\n');
            }
            G_COLUMN
        } else {
            if !self.about.is_empty() {
                text.push_str(&format!("\n{}\n", self.about));
            }
            text.push_str("\noptions:\n");
            let longest = rows.iter().map(|(left, ..)| left.chars().count()).max();
            (longest.unwrap_or_default() + 2).min(P_COLUMN_MAX)
        };
        let mut heading = "";
        for (left, help, section) in rows {
            if section != heading {
                text.push_str(&format!("\n{section}:\n"));
                heading = section;
            }
            let length = left.chars().count();
            text.push_str(&left);
            let mut at = length;
            if help.is_empty() {
                text.push('\n');
                continue;
            }
            if length + 1 > column {
                text.push('\n');
                at = 0;
            }
            for line in wrap(help, columns().saturating_sub(column + 2).max(10)) {
                text.push_str(&" ".repeat(column - at));
                text.push_str(&line);
                text.push('\n');
                at = 0;
            }
        }
        text
    }

    fn left(&self, opt: &Opt) -> String {
        let mut left = match (opt.short, opt.long) {
            ('\0', long) => format!("      --{long}"),
            (short, "") => format!("  -{short}"),
            (short, long) => format!("  -{short}, --{long}"),
        };
        match opt.arg {
            Arg::No => {}
            Arg::Yes(meta) if opt.long.is_empty() => left.push_str(&format!(" {meta}")),
            Arg::Yes(meta) => left.push_str(&format!("={meta}")),
            Arg::Maybe(meta) | Arg::Level(meta) if self.family == Family::G => {
                left.push_str(&format!("[={meta}]"));
            }
            Arg::Maybe(meta) | Arg::Level(meta) => left.push_str(&format!("=[{meta}]")),
        }
        left
    }
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is always one line");
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

//! What the screen shows, as lines of styled text. Nothing here knows terminals or instances.

use types::{JobId, fsd};

/// The columns of the summary, whatever the terminal has.
const COLUMNS: usize = 80;
/// The first row of the job list, below its header.
pub(super) const FIRST_JOB: usize = 7;
/// Where bars begin and end.
const BAR: (usize, usize) = (11, 38);

/// How text looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Dim,
    Reverse,
    Yellow,
    Red,
    BoldBlue,
    BoldGreen,
    BoldRed,
    ReverseBlue,
}

/// A row of the screen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    /// Pieces from left to right, without gaps.
    pub(super) spans: Vec<(Style, String)>,
    width: usize,
}

impl Line {
    /// Puts text at a column. Text that would cover what is there comes right behind it.
    fn put(&mut self, column: usize, style: Style, text: &str) {
        if column > self.width {
            self.push(Style::Plain, " ".repeat(column - self.width));
        }
        self.push(style, text.to_owned());
    }

    /// Puts text so that it ends before a column.
    fn put_right(&mut self, end: usize, style: Style, text: &str) {
        self.put(end.saturating_sub(text.chars().count()), style, text);
    }

    fn push(&mut self, style: Style, text: String) {
        if text.is_empty() {
            return;
        }
        self.width += text.chars().count();
        self.spans.push((style, text));
    }

    #[cfg(test)]
    fn text(&self) -> String {
        self.spans.iter().map(|(_, text)| text.as_str()).collect()
    }
}

/// How much of a kind of resource is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) used: usize,
    pub(super) down: usize,
    pub(super) total: usize,
}

/// Ended jobs, as far as the one who looks may know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Split { complete: i64, failed: i64 },
    Sum(i64),
}

/// A running job.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) id: String,
    pub(super) queue: String,
    pub(super) user: String,
    pub(super) state: String,
    pub(super) ntasks: i64,
    pub(super) nnodes: i64,
    /// Seconds.
    pub(super) runtime: f64,
    pub(super) name: String,
    /// Whether it is an instance.
    pub(super) instance: bool,
}

/// All that is shown of an instance.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct View {
    /// Job ids on the way to the instance.
    pub(super) path: String,
    /// Seconds until the instance ends, if that is known.
    pub(super) left: Option<f64>,
    /// Nodes, cores and GPUs.
    pub(super) usage: [Usage; 3],
    pub(super) pending: i64,
    pub(super) running: i64,
    pub(super) ended: Ended,
    /// Whether the heart is to be seen.
    pub(super) beat: bool,
    pub(super) size: String,
    pub(super) depth: String,
    /// Seconds the instance has been running.
    pub(super) uptime: f64,
    pub(super) version: String,
    /// Whether jobs have queues.
    pub(super) has_queues: bool,
    /// The one queue that is shown.
    pub(super) queue: Option<String>,
    pub(super) rows: Vec<Row>,
    /// The row the cursor is on.
    pub(super) selected: Option<usize>,
}

const KINDS: [&str; 3] = ["nodes", "cores", "gpus"];

impl View {
    /// The lines of a screen of some size.
    pub(super) fn lines(&self, rows: usize, columns: usize) -> Vec<Line> {
        let mut lines = vec![self.title()];
        for (kind, usage) in KINDS.into_iter().zip(self.usage) {
            lines.push(bar(kind, usage));
        }
        count(&mut lines[1], self.pending, "pending");
        count(&mut lines[2], self.running, "running");
        self.ended(&mut lines[3]);
        if self.beat {
            lines[3].put(77, Style::Plain, "♡");
        }
        lines.push(Line::default());
        lines.push(self.status());
        lines.push(self.header(columns));
        let room = rows.saturating_sub(FIRST_JOB);
        let first = first_shown(self.selected, room);
        for (at, row) in self.rows.iter().enumerate().skip(first).take(room) {
            lines.push(self.job(row, self.selected == Some(at), columns));
        }
        if let Some(queue) = &self.queue
            && self.rows.is_empty()
        {
            let text = format!("No jobs to display in queue {queue}");
            let mut line = Line::default();
            line.put((COLUMNS - text.len().min(COLUMNS)) / 2, Style::Plain, &text);
            lines.resize(11, Line::default());
            lines.push(line);
        }
        lines.truncate(rows);
        lines
    }

    fn title(&self) -> Line {
        let mut line = Line::default();
        // The letter that ids begin with here.
        let letter: String = JobId(0).to_string().chars().take(1).collect();
        line.put(0, Style::Yellow, &letter);
        let width = self.path.chars().count();
        let at = 6 + 72_usize.saturating_sub(width) / 2;
        line.put(at, Style::BoldBlue, &self.path);
        match self.left {
            // The watch takes two columns.
            Some(left) => {
                let text = format!("{}⌚", fsd::format_compiled(left.max(0.0), 2));
                line.put_right(COLUMNS - 1, Style::Plain, &text);
            }
            None => line.put_right(COLUMNS - 1, Style::Plain, "∞"),
        }
        line
    }

    fn ended(&self, line: &mut Line) {
        match self.ended {
            Ended::Split { complete, failed } => {
                line.put(42, Style::BoldGreen, &format!("{complete:6}"));
                line.push(Style::Plain, " complete,".to_owned());
                line.put(59, Style::BoldRed, &format!("{failed:6}"));
                line.push(Style::Plain, " failed".to_owned());
            }
            Ended::Sum(jobs) => count(line, jobs, "inactive"),
        }
    }

    fn status(&self) -> Line {
        let mut line = Line::default();
        line.put(1, Style::Dim, &format!("size: {}", self.size));
        if self.depth != "0" {
            line.put(16, Style::Dim, &format!("depth: {}", self.depth));
        }
        let uptime = format!("uptime: {}", fsd::format_compiled(self.uptime, 2));
        line.put(31, Style::Dim, &uptime);
        line.put_right(COLUMNS, Style::Dim, &self.version);
        line
    }

    fn header(&self, columns: usize) -> Line {
        let queue = match self.has_queues {
            true => format!("{:>8} ", "QUEUE"),
            false => String::new(),
        };
        let text = format!(
            "{:>12} {queue}{:>8} ST NTASKS NNODES RUNTIME NAME",
            "JOBID", "USER"
        );
        let mut line = Line::default();
        line.put(0, Style::Reverse, &format!("{text:columns$}"));
        line
    }

    fn job(&self, row: &Row, selected: bool, columns: usize) -> Line {
        let queue = match self.has_queues {
            true => format!("{:>8} ", cut(&row.queue, 8)),
            false => String::new(),
        };
        let text = format!(
            "{:>12} {queue}{:>8} {:>2} {:>6} {:>6} {:>7} {}",
            row.id,
            cut(&row.user, 8),
            row.state,
            row.ntasks,
            row.nnodes,
            fsd::format_compiled(row.runtime, 2),
            row.name,
        );
        let style = match (selected, row.instance) {
            (true, true) => Style::ReverseBlue,
            (true, false) => Style::Reverse,
            (false, true) => Style::BoldBlue,
            (false, false) => Style::Plain,
        };
        let mut line = Line::default();
        line.put(0, style, &cut(&text, columns));
        line
    }

    /// The numbers and jobs as plain lines.
    pub(super) fn dump(&self) -> String {
        let mut text = format!("{} pending\n{} running\n", self.pending, self.running);
        match self.ended {
            Ended::Split { complete, failed } => {
                text.push_str(&format!("{complete} complete\n{failed} failed\n"));
            }
            Ended::Sum(count) => text.push_str(&format!("{count} inactive\n")),
        }
        for (kind, usage) in KINDS.into_iter().zip(self.usage) {
            text.push_str(&format!("{kind} {}/{}\n", usage.used, usage.total));
        }
        for row in &self.rows {
            let queue = match self.has_queues {
                true => format!("{} ", row.queue),
                false => String::new(),
            };
            text.push_str(&format!(
                "{} {queue}{} {} {} {} {} {}\n",
                row.id,
                row.user,
                row.state,
                row.ntasks,
                row.nnodes,
                fsd::format_compiled(row.runtime, 2),
                row.name,
            ));
        }
        text
    }
}

/// The first row shown, so that the one with the cursor is.
fn first_shown(selected: Option<usize>, room: usize) -> usize {
    selected.map_or(0, |at| (at + 1).saturating_sub(room))
}

fn cut(text: &str, columns: usize) -> String {
    text.chars().take(columns).collect()
}

/// Jobs in some state.
fn count(line: &mut Line, jobs: i64, what: &str) {
    line.put(60, Style::Plain, &format!("{jobs:5} {what}"));
}

/// Resources in use from the left, those down from the right.
fn bar(kind: &str, usage: Usage) -> Line {
    let mut line = Line::default();
    line.put(4, Style::Plain, &format!("{kind:>5} ["));
    let numbers = format!("{}/{}", usage.used, usage.total);
    let slots = (BAR.1 - BAR.0).saturating_sub(numbers.len());
    let share = |count: usize| match usage.total {
        0 => 0,
        total => (count * slots).div_ceil(total).min(slots),
    };
    let used = share(usage.used);
    let down = share(usage.down).min(slots - used);
    line.push(Style::Yellow, "|".repeat(used));
    line.push(Style::Plain, " ".repeat(slots - used - down));
    line.push(Style::Red, "|".repeat(down));
    line.push(Style::Plain, format!("{numbers}]"));
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> View {
        let row = |id: &str, name: &str, instance| Row {
            id: id.to_owned(),
            queue: "batch".to_owned(),
            user: "alice".to_owned(),
            state: "R".to_owned(),
            ntasks: 1,
            nnodes: 2,
            runtime: 3.71,
            name: name.to_owned(),
            instance,
        };
        View {
            path: "ƒ2/ƒ3".to_owned(),
            left: None,
            usage: [
                Usage {
                    used: 1,
                    down: 1,
                    total: 2,
                },
                Usage {
                    used: 2,
                    down: 0,
                    total: 4,
                },
                Usage::default(),
            ],
            pending: 0,
            running: 2,
            ended: Ended::Split {
                complete: 3,
                failed: 2,
            },
            beat: true,
            size: "2".to_owned(),
            depth: "1".to_owned(),
            uptime: 8.7,
            version: "0.88.0".to_owned(),
            has_queues: false,
            queue: None,
            rows: vec![row("ƒ5", "flux", true), row("ƒ4", "sleep", false)],
            selected: None,
        }
    }

    fn text(view: &View, rows: usize) -> Vec<String> {
        let lines = view.lines(rows, 80);
        lines
            .iter()
            .map(|line| line.text().trim_end().to_owned())
            .collect()
    }

    #[test]
    fn the_screen_is_laid_out_in_80_columns() {
        assert_eq!(
            text(&view(), 24),
            [
                "ƒ                                      ƒ2/ƒ3                                  ∞",
                "    nodes [||||||||||||||||||||||||1/2]                         0 pending",
                "    cores [||||||||||||            2/4]                         2 running",
                "     gpus [                        0/0]        3 complete,      2 failed     ♡",
                "",
                " size: 2        depth: 1       uptime: 8.7s                               0.88.0",
                "       JOBID     USER ST NTASKS NNODES RUNTIME NAME",
                "          ƒ5    alice  R      1      2    3.7s flux",
                "          ƒ4    alice  R      1      2    3.7s sleep",
            ]
        );
    }

    #[test]
    fn what_is_down_is_red_from_the_right() {
        let line = &view().lines(24, 80)[1];
        let bars: Vec<_> = line
            .spans
            .iter()
            .filter(|(_, text)| text.contains('|'))
            .collect();
        assert_eq!(
            bars,
            [
                &(Style::Yellow, "|".repeat(12)),
                &(Style::Red, "|".repeat(12))
            ]
        );
    }

    #[test]
    fn queues_have_a_column_and_may_be_empty() {
        let mut view = view();
        view.has_queues = true;
        let lines = text(&view, 24);
        assert_eq!(
            lines[6],
            "       JOBID    QUEUE     USER ST NTASKS NNODES RUNTIME NAME"
        );
        assert_eq!(
            lines[7],
            "          ƒ5    batch    alice  R      1      2    3.7s flux"
        );
        view.queue = Some("debug".to_owned());
        view.rows.clear();
        assert_eq!(
            text(&view, 24)[11].trim(),
            "No jobs to display in queue debug"
        );
    }

    #[test]
    fn the_cursor_stays_in_sight() {
        let mut view = view();
        view.selected = Some(1);
        let lines = view.lines(FIRST_JOB + 1, 80);
        assert_eq!(lines.len(), FIRST_JOB + 1);
        assert_eq!(lines[FIRST_JOB].spans[0].0, Style::Reverse);
        assert!(lines[FIRST_JOB].text().contains("sleep"));
        view.selected = Some(0);
        assert_eq!(view.lines(24, 80)[FIRST_JOB].spans[0].0, Style::ReverseBlue);
    }

    #[test]
    fn small_screens_and_huge_numbers_are_no_harm() {
        let mut view = view();
        view.usage[0] = Usage {
            used: usize::MAX / 64,
            down: usize::MAX / 64,
            total: usize::MAX / 64,
        };
        view.path = "x".repeat(200);
        for rows in 0..10 {
            assert!(view.lines(rows, 3).len() <= rows);
        }
    }

    #[test]
    fn dumps_are_plain() {
        assert_eq!(
            view().dump(),
            "0 pending\n2 running\n3 complete\n2 failed\nnodes 1/2\ncores 2/4\ngpus 0/0\n\
             ƒ5 alice R 1 2 3.7s flux\nƒ4 alice R 1 2 3.7s sleep\n"
        );
        let mut view = view();
        view.ended = Ended::Sum(5);
        assert!(view.dump().contains("\n5 inactive\n"));
    }
}

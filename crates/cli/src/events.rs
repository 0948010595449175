//! Eventlog entries as lines of text.

use serde_json::Value;
use spec::Entry;

use crate::color::{self, paint};
use crate::json;
use crate::timefmt::{self, Human, TimeFormat};

/// Turns entries into lines, remembering what the time column needs.
#[derive(Clone, Debug)]
pub(crate) struct EventFormat {
    /// The time column.
    pub(crate) time: TimeFormat,
    /// Compact JSON instead.
    pub(crate) json: bool,
    /// Colours.
    pub(crate) color: bool,
    /// The least width of an offset.
    width: usize,
    first: Option<f64>,
    human: Human,
}

impl EventFormat {
    /// A text format.
    pub(crate) fn new(time: TimeFormat, json: bool, color: bool) -> EventFormat {
        EventFormat {
            time,
            json,
            color,
            width: 0,
            first: None,
            human: Human::default(),
        }
    }

    /// With offsets in a column.
    pub(crate) fn padded(mut self) -> EventFormat {
        self.width = 15;
        self
    }

    /// Tells the format of an entry that is not shown, so that offsets count from it.
    pub(crate) fn skip(&mut self, entry: &Entry) {
        self.first.get_or_insert(entry.timestamp);
    }

    /// An entry as a line, without newline.
    pub(crate) fn line(&mut self, entry: &Entry) -> String {
        let first = *self.first.get_or_insert(entry.timestamp);
        if self.json {
            return json::compact(&entry.to_value());
        }
        let (time, fresh) = match self.time {
            TimeFormat::Raw => (format!("{:.6}", entry.timestamp), false),
            TimeFormat::Iso => (timefmt::iso(entry.timestamp), false),
            TimeFormat::Offset => {
                let offset = entry.timestamp - first;
                (format!("{offset:width$.6}", width = self.width), false)
            }
            TimeFormat::Human => self.human.next(entry.timestamp),
        };
        let green = if fresh {
            color::BOLD_GREEN
        } else {
            color::GREEN
        };
        let name_color = if entry.name == "exception" {
            color::BOLD_RED
        } else {
            color::YELLOW
        };
        let mut line = paint(self.color, green, &time);
        line.push(' ');
        line.push_str(&paint(self.color, name_color, &entry.name));
        for (key, value) in entry.context.iter().flatten() {
            line.push(' ');
            line.push_str(&paint(self.color, color::BLUE, key));
            line.push('=');
            let value_color = match value {
                Value::Number(_) => color::GRAY,
                _ => color::MAGENTA,
            };
            line.push_str(&paint(self.color, value_color, &value.to_string()));
        }
        line
    }
}

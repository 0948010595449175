//! How `flux module trace` and `flux overlay trace` show messages.

use client::Client;
use proto::Rpc;
use proto::trace::{TraceRecord, mask};
use rpc::Dest;
use types::Errno;
use types::fsd::format_g;

use crate::color::{self, BOLD, BOLD_GREEN, BOLD_RED, GREEN, YELLOW};
use crate::fail::Fail;
use crate::options::{Args, Opt, arg, flag, maybe};
use crate::timefmt::{self, Human};
use crate::{err, outln};

/// Shows requests.
const BRIGHT_BLUE: &str = "\x1b[01;34m";
/// Shows responses.
const CYAN: &str = "\x1b[36m";

pub(super) const FULL: Opt = flag('f', "full", "Show JSON payloads too");
pub(super) const TYPE: Opt = arg(
    't',
    "type",
    "TYPE,...",
    "Only requests, responses, events or control messages",
);
pub(super) const COLOR: Opt = maybe('L', "color", "WHEN", "Use colour: never, always or auto");
pub(super) const HUMAN: Opt = flag('H', "human", "Show times for people");
pub(super) const DELTA: Opt = flag('d', "delta", "With --human, show the time between messages");

/// The types of messages, by the names options have for them.
const TYPES: [(&str, i32, char); 4] = [
    ("request", mask::REQUEST, '>'),
    ("response", mask::RESPONSE, '<'),
    ("event", mask::EVENT, 'e'),
    ("control", mask::CONTROL, 'c'),
];

/// How messages are shown.
pub(super) struct View {
    /// Columns for the name of the module.
    name_width: usize,
    /// Whether lines begin with a module or with a rank.
    modules: bool,
    color: bool,
    full: bool,
    human: Option<Human>,
}

impl View {
    /// What the options say. Errors: the exit status.
    pub(super) fn new(prog: &str, args: &Args, modules: Option<&[String]>) -> Result<View, i32> {
        let color = color::wanted_g(args)?;
        if args.has("delta") && !args.has("human") {
            err!("{prog}: --delta can only be used with --human");
            return Err(1);
        }
        let names = modules.unwrap_or_default();
        Ok(View {
            name_width: names
                .iter()
                .map(|name| name.chars().count())
                .max()
                .unwrap_or(0),
            modules: modules.is_some(),
            color,
            full: args.has("full"),
            human: args
                .has("human")
                .then(|| Human::within_minutes(args.has("delta"))),
        })
    }

    /// Shows a stream of messages until it ends, which is when the broker does.
    pub(super) async fn show<R: Rpc<Response = TraceRecord>>(
        mut self,
        client: &Client,
        request: &R::Request,
    ) -> Result<i32, Fail> {
        let mut stream = client.handle().stream::<R>(Dest::Any, request);
        while let Some(record) = stream
            .next()
            .await
            .map_err(|error| Fail::of(R::topic(), error))?
        {
            outln!("{}", self.line(&record));
            if let Some(payload) = record.payload.filter(|_| self.full) {
                outln!("{}", crate::json::indented_by(&payload, 2));
            }
            crate::output::flush();
        }
        Ok(0)
    }

    fn line(&mut self, record: &TraceRecord) -> String {
        let kind = TYPES.iter().find(|(_, bit, _)| *bit == record.kind);
        let sign = kind.map_or('?', |(.., sign)| *sign);
        let failed = record.errnum != 0;
        let hue = match record.kind {
            mask::REQUEST => BRIGHT_BLUE,
            mask::RESPONSE if failed => BOLD_RED,
            mask::RESPONSE => CYAN,
            mask::EVENT => YELLOW,
            _ => BOLD,
        };
        let mut text = String::new();
        if self.modules {
            let name = record.name.as_deref().unwrap_or("?");
            text = format!("{name:>width$} ", width = self.name_width);
        }
        text += &record.prefix;
        text += " ";
        if !self.modules {
            match record.rank {
                rank if rank < 0 => text += "* ",
                rank => text += &format!("{rank} "),
            }
        }
        text += &format!("{sign} {} [{}]", record.topic, size(record.payload_size));
        if record.kind == mask::RESPONSE {
            text += " ";
            match Errno(record.errnum).name() {
                _ if !failed => text += "success",
                Some(name) => text += name,
                None => text += &record.errnum.to_string(),
            }
        }
        let text = color::paint(self.color, hue, &text);
        match &mut self.human {
            Some(human) => {
                let (time, new) = human.next(record.timestamp);
                let hue = if new { BOLD_GREEN } else { GREEN };
                format!("{}  {text}", color::paint(self.color, hue, &time))
            }
            None => {
                let time = timefmt::strftime("%Y-%m-%dT%H:%M:%S.%3f", record.timestamp);
                format!("{} {text}", color::paint(self.color, GREEN, &time))
            }
        }
    }
}

/// The mask that `--type` means; all types without it. Errors: the exit status.
pub(super) fn typemask(prog: &str, args: &Args) -> Result<i32, i32> {
    let Some(list) = args.get("type") else {
        return Ok(mask::ANY);
    };
    list.split(',').try_fold(0, |mask, word| {
        let known = TYPES.iter().find(|(name, ..)| *name == word);
        let Some((_, bit, _)) = known else {
            let names = TYPES.map(|(name, ..)| name).join(", ");
            err!("{prog}: valid types: {names}");
            return Err(1);
        };
        Ok(mask | bit)
    })
}

/// A size in bytes or binary multiples of them.
fn size(bytes: i64) -> String {
    let mut value = bytes as f64;
    let mut units = ["", "K", "M", "G", "T", "P"].into_iter().peekable();
    while value >= 1024.0 && units.len() > 1 {
        value /= 1024.0;
        units.next();
    }
    format!("{}{}", format_g(value, 8), units.peek().unwrap_or(&""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(modules: bool, name_width: usize) -> View {
        View {
            name_width,
            modules,
            color: false,
            full: false,
            human: None,
        }
    }

    fn record(kind: i32, errnum: i32) -> TraceRecord {
        TraceRecord {
            timestamp: 0.25,
            prefix: "tx".into(),
            rank: -1,
            name: Some("kvs".into()),
            kind,
            topic: "kvs.get".into(),
            payload_size: 2379,
            payload: None,
            errnum,
            errstr: String::new(),
        }
    }

    #[test]
    fn sizes_have_eight_digits() {
        assert_eq!(size(0), "0");
        assert_eq!(size(167), "167");
        assert_eq!(size(2379), "2.3232422K");
        assert_eq!(size(3 << 20), "3M");
    }

    #[test]
    fn lines_say_who_which_way_what_and_how_it_went() {
        let mut modules = view(true, 9);
        let line = modules.line(&record(mask::RESPONSE, 2));
        assert!(
            line.ends_with("250       kvs tx < kvs.get [2.3232422K] ENOENT"),
            "{line}"
        );
        let line = modules.line(&record(mask::RESPONSE, 0));
        assert!(line.ends_with(" success"), "{line}");
        let mut overlay = view(false, 0);
        let line = overlay.line(&record(mask::EVENT, 0));
        assert!(line.ends_with("250 tx * e kvs.get [2.3232422K]"), "{line}");
        let to_one = TraceRecord {
            rank: 3,
            ..record(mask::REQUEST, 0)
        };
        let line = overlay.line(&to_one);
        assert!(line.ends_with("250 tx 3 > kvs.get [2.3232422K]"), "{line}");
    }
}

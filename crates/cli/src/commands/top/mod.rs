//! `flux top`: an instance and its running jobs, shown until one has seen enough.
//!
//! [`instance`] asks, [`view`] lays out, [`screen`] owns the terminal. Everything that changes is
//! asked for once a second, which costs the instance less than telling of every job would.

mod instance;
mod screen;
mod view;

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use tokio::time::{self, Instant, MissedTickBehavior};
use types::Errno;

use self::instance::Instance;
use self::screen::{Key, Screen};
use self::view::View;
use crate::driver::Invocation;
use crate::fail::{self, Fail, Outcome};
use crate::options::{Args, Family, Parser, arg, flag, maybe};
use crate::{color, err, resolve};

const PROG: &str = "flux-top";
/// How often everything is asked for.
const PERIOD: Duration = Duration::from_secs(1);
/// How long a heart beats.
const BEAT: Duration = Duration::from_millis(500);

static PARSER: Parser = Parser {
    name: PROG,
    usage: "[OPTIONS] [TARGET]",
    about: "",
    family: Family::G,
    opts: &[
        maybe(
            '\0',
            "color",
            "WHEN",
            "Use color: 'always' (default if omitted), 'never' or 'auto' (default)",
        ),
        arg('q', "queue", "NAME", "Show one queue only"),
        flag('\0', "test-exit", "End after the first look").hidden(),
        arg(
            '\0',
            "test-exit-dump",
            "FILE",
            "Write what the first look showed to FILE",
        )
        .hidden(),
    ],
};

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    let args = match PARSER.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if args.words.len() > 1 {
        return PARSER.wrong_words();
    }
    let color = match color::wanted_g(&args) {
        Ok(color) => color,
        Err(status) => return status,
    };
    fail::run(PROG, top(&args, color))
}

async fn top(args: &Args, color: bool) -> Outcome {
    if !std::io::stdin().is_terminal() {
        return Err(Fail::new("stdin is not a terminal"));
    }
    let terminal = std::env::var("TERM").unwrap_or_default();
    if matches!(terminal.as_str(), "" | "dumb") {
        return Err(Fail::new("terminal does not support required capabilities"));
    }
    let uri = match args.words.first() {
        Some(target) => Some(find(target).await?),
        None => None,
    };
    let client = client::open(uri.as_deref()).await;
    let client = client.map_err(|error| Fail::of("error connecting to Flux", error))?;
    let mut instance = Instance::open(client, None).await?;
    if let Some(queue) = args.get("queue") {
        instance.choose_queue(queue)?;
    }
    let dump =
        match args.get("test-exit-dump") {
            Some(path) => Some(File::create(path).map_err(|error| {
                Fail::of("failed to open test dump file", Errno::from_io(&error))
            })?),
            None => None,
        };
    let mut top = Top {
        screen: Screen::open(color).map_err(|error| Fail::of("terminal", error))?,
        above: Vec::new(),
        instance,
        details: true,
    };
    if args.has("test-exit") {
        let view = top.look().await?;
        top.draw(&view, true)?;
        if let Some(mut file) = dump {
            file.write_all(view.dump().as_bytes())
                .map_err(|error| Fail::of("test dump file", Errno::from_io(&error)))?;
        }
        return Ok(0);
    }
    top.run().await
}

/// The URI of the instance people mean.
async fn find(target: &str) -> Result<String, Fail> {
    let found = resolve::resolve(target, resolve::Options::from_env()).await;
    // The instance says how it is reached from other hosts, which this may be none of.
    let near = found.and_then(|uri| resolve::nearest(&uri));
    near.map_err(|fail| {
        err!("{PROG}: failed to resolve target to a Flux URI");
        err!("flux-uri: ERROR: {}", fail.text);
        Fail::silent(1)
    })
}

/// The display, and the way to what it shows.
struct Top {
    screen: Screen,
    /// The instances above the one shown, the outermost first.
    above: Vec<Instance>,
    instance: Instance,
    /// Whether ended jobs are told by their result.
    details: bool,
}

impl Top {
    async fn run(&mut self) -> Outcome {
        let mut keys = self.screen.keys();
        let mut tick = time::interval_at(Instant::now() + PERIOD, PERIOD);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut view = self.look().await?;
        self.draw(&view, true)?;
        let mut beat_end = None::<Instant>;
        loop {
            // What came in by the way is shown from what is known, the rest asked for.
            let mut known = false;
            let mut anew = false;
            let beat_over = async {
                match beat_end {
                    Some(end) => time::sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                key = keys.recv() => match key {
                    // Without keys the terminal has gone.
                    None | Some(Key::End) => return Ok(0),
                    Some(Key::Quit) => if !self.ascend() {
                        return Ok(0);
                    },
                    Some(Key::Redraw) => (known, anew) = (true, true),
                    Some(key) => self.on_key(key).await,
                },
                _ = tick.tick() => {}
                () = beat_over => (known, beat_end) = (true, None),
                pulse = self.instance.pulse() => match pulse {
                    Some(()) => (known, beat_end) = (true, Some(Instant::now() + BEAT)),
                    None => self.leave_lost(&Errno::ECONNRESET.into())?,
                },
            }
            if !known {
                view = self.look().await?;
            }
            view.beat = beat_end.is_some();
            self.draw(&view, anew)?;
        }
    }

    async fn on_key(&mut self, key: Key) {
        match key {
            Key::Down => self.instance.move_cursor(true),
            Key::Up => self.instance.move_cursor(false),
            Key::Left => self.instance.turn(false),
            Key::Right => self.instance.turn(true),
            Key::Details => self.details = !self.details,
            Key::Enter => {
                if let Some(below) = self.instance.descend().await {
                    self.above
                        .push(std::mem::replace(&mut self.instance, below));
                }
            }
            Key::Quit | Key::End | Key::Redraw => {}
        }
    }

    /// Goes back to the instance above, if there is one.
    fn ascend(&mut self) -> bool {
        match self.above.pop() {
            Some(above) => {
                self.instance = above;
                true
            }
            None => false,
        }
    }

    /// Goes back to the instance above when the one shown has gone.
    fn leave_lost(&mut self, why: &Fail) -> Result<(), Fail> {
        match self.ascend() {
            true => Ok(()),
            false => Err(Fail::of("lost connection to Flux", &why.text)),
        }
    }

    async fn look(&mut self) -> Result<View, Fail> {
        loop {
            match self.instance.look(self.details).await {
                Ok(view) => return Ok(view),
                Err(why) => self.leave_lost(&why)?,
            }
        }
    }

    fn draw(&self, view: &View, anew: bool) -> Result<(), Fail> {
        let (rows, columns) = self.screen.size();
        let drawn = self.screen.draw(&view.lines(rows, columns), anew);
        drawn.map_err(|error| Fail::of("terminal", error))
    }
}

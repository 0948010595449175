//! Module `heartbeat`: a pulse for the whole instance.
//!
//! The leader publishes an event every period. The others log when it stays away and leave their
//! parent when it stays away for good, since a broker without a heartbeat serves nobody.

use std::time::Duration;

use module::{Builtin, Context, Failure, Input, Severity};
use proto::Empty;
use proto::broker::ServiceStats;
use proto::overlay::{HEARTBEAT_PULSE, OverlayDisconnectParent, Reason};
use rpc::Routes;
use serde_json::{Map, Value};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use types::{Errno, Rank, fsd};
use wire::Flags;

/// The module.
pub fn builtin() -> Builtin {
    Builtin {
        name: "heartbeat",
        main: |context| Box::pin(run(context)),
    }
}

/// How fast the pulse is, and how long it may stay away.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Config {
    period: Duration,
    /// `None` for never giving up.
    timeout: Option<Duration>,
    warn_thresh: u32,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            period: Duration::from_secs(2),
            timeout: Some(Duration::from_secs(300)),
            warn_thresh: 3,
        }
    }
}

impl Config {
    /// Reads the `[heartbeat]` table, then the module's arguments. Errors name the key.
    fn parse(config: &Map<String, Value>, args: &[String]) -> Result<Config, String> {
        let mut parsed = Config::default();
        if let Some(table) = config.get("heartbeat") {
            let table = table
                .as_object()
                .ok_or("error parsing [heartbeat]: not a table")?;
            for (key, value) in table {
                match (key.as_str(), value) {
                    ("period" | "timeout", Value::String(text)) => parsed.set(key, text)?,
                    ("warn_thresh", Value::Number(number)) => {
                        parsed.warn_thresh = number
                            .as_u64()
                            .and_then(|number| u32::try_from(number).ok())
                            .filter(|number| *number > 0)
                            .ok_or("heartbeat.warn_thresh must be positive")?;
                    }
                    _ => return Err(format!("error parsing heartbeat.{key}")),
                }
            }
        }
        for arg in args {
            match arg.split_once('=') {
                Some(("period", text)) => parsed.set("period", text)?,
                _ => return Err(format!("{arg}: unknown option")),
            }
        }
        if parsed
            .timeout
            .is_some_and(|timeout| timeout < parsed.period * 2)
        {
            return Err(
                "heartbeat.timeout must be >= 2*heartbeat.period, infinity, or 0".to_owned(),
            );
        }
        Ok(parsed)
    }

    fn set(&mut self, key: &str, text: &str) -> Result<(), String> {
        let duration = fsd::parse_duration(text)
            .map_err(|_| format!("error parsing heartbeat.{key} FSD value"))?;
        if key == "timeout" {
            self.timeout = duration.filter(|timeout| !timeout.is_zero());
            return Ok(());
        }
        self.period = duration
            .filter(|period| !period.is_zero())
            .ok_or("heartbeat.period must be a positive FSD value")?;
        Ok(())
    }
}

/// What the module knows.
struct State {
    config: Config,
    count: u64,
    last: Instant,
    overdue: bool,
}

fn routes() -> Routes<State> {
    Routes::new()
        .on::<ServiceStats>(|state: &mut State, request, Empty {}| {
            let config = state.config;
            let mut stats = Map::new();
            stats.insert("period".into(), config.period.as_secs_f64().into());
            let timeout = config.timeout.map_or(0.0, |timeout| timeout.as_secs_f64());
            stats.insert("timeout".into(), timeout.into());
            stats.insert("count".into(), state.count.into());
            stats.insert("warn_thresh".into(), config.warn_thresh.into());
            request.reply(&stats);
        })
        .on::<proto::config::ModuleConfigReload>(|state, request, config| {
            match Config::parse(&config, &[]) {
                Ok(config) => {
                    state.config = config;
                    request.reply(&Empty {});
                }
                Err(text) => request.fail(rpc::RpcError::new(Errno::EINVAL, text)),
            }
        })
}

async fn run(mut context: Context) -> Result<(), Failure> {
    let config = Config::parse(&context.config(), &context.args)
        .map_err(|text| Failure::new(Errno::EINVAL, text))?;
    let routes = routes();
    let mut state = State {
        config,
        count: 0,
        last: Instant::now(),
        overdue: false,
    };
    let leader = context.rank() == Rank::LEADER;
    if !leader {
        context.subscribe(HEARTBEAT_PULSE);
    }
    context.ready();
    let mut pulse = interval(config.period);
    // After a stall one pulse says as much as several.
    pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let deadline = state.deadline();
        tokio::select! {
            input = context.next() => match input {
                None => return Ok(()),
                Some(Input::Request(message)) => {
                    let period = state.config.period;
                    context.dispatch(&routes, &mut state, message);
                    if state.config.period != period {
                        pulse = interval(state.config.period);
                    }
                }
                Some(Input::Event(_)) => state.on_pulse(&context),
            },
            _ = pulse.tick(), if leader => {
                state.count += 1;
                context.handle.publish(HEARTBEAT_PULSE, Flags::NONE, &proto::Raw::default());
            }
            () = sleep_until(deadline), if !leader => state.on_silence(&context),
        }
    }
}

impl State {
    /// When silence means something next.
    fn deadline(&self) -> Instant {
        let overdue = self.last + self.config.period * self.config.warn_thresh;
        match (self.overdue, self.config.timeout) {
            (false, _) => overdue,
            (true, Some(timeout)) => self.last + timeout,
            // Never again: the next pulse moves this.
            (true, None) => self.last + Duration::from_secs(86_400 * 365),
        }
    }

    fn on_pulse(&mut self, context: &Context) {
        self.count += 1;
        self.last = Instant::now();
        if std::mem::take(&mut self.overdue) {
            context.log(Severity::Err, "heartbeat received");
        }
    }

    fn on_silence(&mut self, context: &Context) {
        if !self.overdue {
            self.overdue = true;
            return context.log(Severity::Err, "heartbeat overdue");
        }
        let silence = fsd::format_compiled(self.last.elapsed().as_secs_f64(), 4);
        let reason = Reason {
            reason: format!("no heartbeat for {silence}"),
        };
        context
            .handle
            .notify::<OverlayDisconnectParent>(context.rank(), &reason);
        self.last = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, args: &[&str], expect: Result<f64, &str>) {
        let config = serde_json::from_str(json).expect("valid JSON");
        let args: Vec<_> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let period = Config::parse(&config, &args).map(|config| config.period.as_secs_f64());
        assert_eq!(period, expect.map_err(str::to_owned), "{json} {args:?}");
    }

    #[test]
    fn configuration_is_checked() {
        check("{}", &[], Ok(2.0));
        check(r#"{"heartbeat":{"period":"5s"}}"#, &[], Ok(5.0));
        check("{}", &["period=1ms"], Ok(0.001));
        check(
            r#"{"heartbeat":{"period":"x"}}"#,
            &[],
            Err("error parsing heartbeat.period FSD value"),
        );
        check(
            "{}",
            &["period=0"],
            Err("heartbeat.period must be a positive FSD value"),
        );
        check("{}", &["foo"], Err("foo: unknown option"));
        check(
            r#"{"heartbeat":{"timeout":"1s"}}"#,
            &[],
            Err("heartbeat.timeout must be >= 2*heartbeat.period, infinity, or 0"),
        );
        check(r#"{"heartbeat":{"timeout":"0"}}"#, &[], Ok(2.0));
        check(
            r#"{"heartbeat":{"warn_thresh":0}}"#,
            &[],
            Err("heartbeat.warn_thresh must be positive"),
        );
    }
}

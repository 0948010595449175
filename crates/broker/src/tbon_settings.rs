//! What the overlay is told: attributes `tbon.*` and the `[tbon]` table (flux-config-tbon(5)).
//!
//! The command line prevails over the table. Only the torpid limits may change while the broker
//! runs.

use std::time::Duration;

use serde_json::{Map, Value};
use spec::config::{Config, wrong_type};
use types::fsd;

use crate::attrs::Attrs;

/// What a setting is.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    Duration,
    /// An integer that is no less than this.
    AtLeast(i64),
}

/// The settings, with what holds where neither the command line nor the table says a thing.
/// Topology and address depend on more and are chosen when the broker takes its place.
const KEYS: [(&str, Kind, Option<&str>); 10] = [
    ("topo", Kind::Text, None),
    ("torpid_min", Kind::Duration, Some("5s")),
    ("torpid_max", Kind::Duration, Some("30s")),
    ("tcp_user_timeout", Kind::Duration, Some("20s")),
    ("connect_timeout", Kind::Duration, Some("30s")),
    ("zmqdebug", Kind::AtLeast(i64::MIN), Some("0")),
    ("child_rcvhwm", Kind::AtLeast(0), Some("0")),
    ("zmq_io_threads", Kind::AtLeast(1), Some("1")),
    ("interface-hint", Kind::Text, None),
    ("prefertcp", Kind::AtLeast(i64::MIN), Some("0")),
];

/// The limits of silence: after the shorter a broker says that it is alive, after the longer its
/// parent calls it torpid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Torpid {
    pub(crate) min: Duration,
    /// Zero if no broker is ever torpid.
    pub(crate) max: Duration,
}

impl Torpid {
    /// What the attributes say, once [`check`] has passed them.
    pub(crate) fn from_attributes(attrs: &Attrs) -> Result<Torpid, String> {
        let limit = |name: &str| crate::settings::duration_attribute(attrs, name);
        Ok(Torpid {
            min: limit("tbon.torpid_min")?,
            max: limit("tbon.torpid_max")?,
        })
    }

    /// Says in the attributes what holds.
    pub(crate) fn show(self, attrs: &mut Attrs) {
        for (name, limit) in [("tbon.torpid_min", self.min), ("tbon.torpid_max", self.max)] {
            attrs.put(name, fsd::format_compiled(limit.as_secs_f64(), 6));
        }
    }

    fn check(self, blame_min: bool) -> Result<Torpid, String> {
        if self.min.is_zero() {
            return Err("tbon.torpid_min must be nonzero".to_owned());
        }
        if self.max.is_zero() || self.min < self.max {
            return Ok(self);
        }
        Err(match blame_min {
            true => "tbon.torpid_min must be less than torpid_max".to_owned(),
            false => "tbon.torpid_max must be greater than torpid_min".to_owned(),
        })
    }
}

fn table(config: &Config) -> Result<Option<&Map<String, Value>>, String> {
    match config.get("tbon") {
        None => Ok(None),
        Some(Value::Object(table)) => Ok(Some(table)),
        Some(other) => Err(format!(
            "Config file error [tbon]: {}",
            wrong_type("object", other)
        )),
    }
}

/// A setting of the table as an attribute's text.
fn text(key: &str, kind: Kind, value: &Value) -> Result<String, String> {
    let wrong = |expected| {
        let reason = wrong_type(expected, value);
        Err(format!("Config file error [tbon]: {key}: {reason}"))
    };
    match (kind, value) {
        (Kind::Text, Value::String(text)) => Ok(text.clone()),
        (Kind::Duration, Value::String(text)) => match fsd::parse_duration(text) {
            Ok(_) => Ok(text.clone()),
            Err(_) => Err(format!("Config file error parsing tbon.{key}: '{text}'")),
        },
        (Kind::AtLeast(_), Value::Number(number)) if !number.is_f64() => Ok(number.to_string()),
        (Kind::AtLeast(_), _) => wrong("integer"),
        (Kind::Text | Kind::Duration, _) => wrong("string"),
    }
}

/// Takes the settings of the table that the command line leaves open, then the defaults.
pub(crate) fn take(attrs: &mut Attrs, config: &Config) -> Result<(), String> {
    for (key, value) in table(config)?.into_iter().flatten() {
        let Some((_, kind, _)) = KEYS.iter().find(|(known, ..)| known == key) else {
            return Err(format!("Config file error [tbon]: unknown key {key}"));
        };
        let text = text(key, *kind, value)?;
        attrs.put_default(&format!("tbon.{key}"), text);
    }
    for (key, _, default) in KEYS {
        if let Some(default) = default {
            attrs.put_default(&format!("tbon.{key}"), default);
        }
    }
    Ok(())
}

/// Checks what the attributes say, and writes durations the way they are shown.
pub(crate) fn check(attrs: &mut Attrs) -> Result<(), String> {
    for (key, kind, _) in KEYS {
        let name = format!("tbon.{key}");
        let Some(text) = attrs.get(&name) else {
            continue;
        };
        match kind {
            Kind::Text => {}
            Kind::Duration => {
                let seconds = fsd::parse(text)
                    .map_err(|_| format!("Error parsing {name} attribute: '{text}'"))?;
                attrs.put(&name, fsd::format_compiled(seconds, 6));
            }
            Kind::AtLeast(least) => {
                let number: i64 = text
                    .parse()
                    .map_err(|_| format!("{name} value must be an integer, not '{text}'"))?;
                // A mark of 1 would let no message through.
                if key == "child_rcvhwm" && (number < 0 || number == 1) {
                    return Err(format!("{name} must be 0 (unlimited) or >= 2"));
                }
                if number < least {
                    return Err(format!("{name} must be >= {least}"));
                }
            }
        }
    }
    Torpid::from_attributes(attrs)?.check(true).map(|_| ())
}

/// The torpid limits under a new configuration.
pub(crate) fn change(attrs: &Attrs, config: &Config) -> Result<Torpid, String> {
    let mut torpid = Torpid::from_attributes(attrs)?;
    let Some(table) = table(config)? else {
        return Ok(torpid);
    };
    for (key, limit) in [
        ("torpid_min", &mut torpid.min),
        ("torpid_max", &mut torpid.max),
    ] {
        if let Some(value) = table.get(key) {
            let text = text(key, Kind::Duration, value)?;
            *limit = fsd::parse_duration(&text)
                .ok()
                .flatten()
                .unwrap_or_default();
        }
    }
    torpid.check(table.contains_key("torpid_min"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn attributes(pairs: &[(&str, &str)]) -> Attrs {
        let mut attrs = Attrs::default();
        for (name, value) in pairs {
            attrs.put(name, *value);
        }
        attrs.put_default("tbon.torpid_min", "5s");
        attrs.put_default("tbon.torpid_max", "30s");
        attrs
    }

    fn config(tbon: Value) -> Config {
        Config::from_iter([("tbon".to_owned(), tbon)])
    }

    #[test]
    fn wrong_attributes_are_refused() {
        let check = |name: &str, value: &str| {
            let mut attrs = attributes(&[(name, value)]);
            check(&mut attrs).map(|()| attrs.get(name).unwrap_or_default().to_owned())
        };
        for (name, value, expect) in [
            (
                "tbon.torpid_min",
                "0",
                Err("tbon.torpid_min must be nonzero"),
            ),
            (
                "tbon.torpid_min",
                "x",
                Err("Error parsing tbon.torpid_min attribute: 'x'"),
            ),
            (
                "tbon.torpid_min",
                "1h",
                Err("tbon.torpid_min must be less than torpid_max"),
            ),
            (
                "tbon.torpid_max",
                "1s",
                Err("tbon.torpid_min must be less than torpid_max"),
            ),
            ("tbon.torpid_max", "0", Ok("0s")),
            (
                "tbon.child_rcvhwm",
                "1",
                Err("tbon.child_rcvhwm must be 0 (unlimited) or >= 2"),
            ),
            ("tbon.child_rcvhwm", "2", Ok("2")),
            (
                "tbon.zmq_io_threads",
                "0",
                Err("tbon.zmq_io_threads must be >= 1"),
            ),
            (
                "tbon.zmqdebug",
                "x",
                Err("tbon.zmqdebug value must be an integer, not 'x'"),
            ),
            (
                "tbon.connect_timeout",
                "-1",
                Err("Error parsing tbon.connect_timeout attribute: '-1'"),
            ),
            ("tbon.tcp_user_timeout", "90s", Ok("1.5m")),
        ] {
            let expect = expect.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(check(name, value), expect, "{name}={value}");
        }
    }

    #[test]
    fn a_wrong_table_is_refused() {
        for (tbon, expect) in [
            (
                json!(1),
                "Config file error [tbon]: Expected object, got integer",
            ),
            (
                json!({"torpid_min": 5}),
                "Config file error [tbon]: torpid_min: Expected string, got integer",
            ),
            (
                json!({"zmqdebug": "x"}),
                "Config file error [tbon]: zmqdebug: Expected integer, got string",
            ),
            (
                json!({"connect_timeout": "x"}),
                "Config file error parsing tbon.connect_timeout: 'x'",
            ),
            (
                json!({"foo": 1}),
                "Config file error [tbon]: unknown key foo",
            ),
        ] {
            let mut attrs = attributes(&[]);
            assert_eq!(take(&mut attrs, &config(tbon)), Err(expect.to_owned()));
        }
    }

    #[test]
    fn the_command_line_prevails_until_the_limits_change() {
        let mut attrs = attributes(&[("tbon.torpid_max", "1m")]);
        let tbon = config(json!({"torpid_max": "2m", "topo": "kary:3"}));
        assert_eq!(take(&mut attrs, &tbon), Ok(()));
        assert_eq!(attrs.get("tbon.torpid_max"), Some("1m"));
        assert_eq!(attrs.get("tbon.topo"), Some("kary:3"));
        let torpid = change(&attrs, &tbon).expect("limits");
        assert_eq!(torpid.max, Duration::from_secs(120));
        torpid.show(&mut attrs);
        assert_eq!(attrs.get("tbon.torpid_max"), Some("2m"));
        for (tbon, expect) in [
            (
                json!({"torpid_max": "1s"}),
                "tbon.torpid_max must be greater than torpid_min",
            ),
            (
                json!({"torpid_min": "5m"}),
                "tbon.torpid_min must be less than torpid_max",
            ),
        ] {
            assert_eq!(change(&attrs, &config(tbon)), Err(expect.to_owned()));
        }
    }
}

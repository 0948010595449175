//! What a broker is told before it joins the tree: attributes, their defaults, and the
//! configuration.
//!
//! The command line prevails over the configuration, and that over the defaults.

use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::args::Args;
use crate::attrs::Attrs;
use crate::broker::Access;
use crate::config;
use crate::log::Log;
use crate::tbon_settings;

/// Everything known before the broker joins the tree.
pub(crate) struct Prepared {
    pub(crate) attrs: Attrs,
    pub(crate) config: config::Config,
    pub(crate) access: Access,
    pub(crate) log: Rc<Log>,
}

pub(crate) fn prepare(args: &Args) -> Result<Prepared, String> {
    let mut attrs = default_attributes(args)?;
    let mut config = config::Config::new();
    let path = args
        .config_path
        .clone()
        .or_else(|| attrs.get("config.path").map(str::to_owned))
        .or_else(|| std::env::var("FLUX_CONF_DIR").ok());
    if let Some(path) = path {
        config =
            config::load(path.as_ref()).map_err(|error| format!("Config file error: {error}"))?;
        attrs.put("config.path", path);
    }
    for argument in &args.conf {
        let more = config::load_argument(argument).map_err(|error| error.to_string())?;
        config::merge(&mut config, more);
    }
    let access = Access::parse(&config)?;
    tbon_settings::take(&mut attrs, &config)?;
    tbon_settings::check(&mut attrs)?;
    for name in TIMEOUTS {
        duration_attribute(&attrs, name)?;
    }
    let log = Rc::new(Log::new());
    log.set_hostname(attrs.get("hostname").unwrap_or("-"));
    for name in attrs.names().iter().filter(|name| name.starts_with("log-")) {
        let value = attrs.get(name).unwrap_or_default();
        if name != "log-filename" {
            log.set_attr(name, value)
                .map_err(|error| format!("{name}={value}: {error}"))?;
        }
    }
    Ok(Prepared {
        attrs,
        config,
        access,
        log,
    })
}

fn default_attributes(args: &Args) -> Result<Attrs, String> {
    let mut attrs = Attrs::default();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    for (name, value) in &args.attrs {
        attrs
            .set_on_command_line(name, value)
            .map_err(|error| error.to_string())?;
    }
    let hostname = nix::unistd::gethostname().map_err(|errno| format!("gethostname: {errno}"))?;
    attrs.put_default("hostname", hostname.to_string_lossy());
    attrs.put("version", proto::VERSION);
    attrs.put("broker.pid", std::process::id().to_string());
    attrs.put("broker.uuid", uuid::Uuid::new_v4().to_string());
    attrs.put("broker.starttime", format!("{:.2}", now.as_secs_f64()));
    attrs.put("security.owner", nix::unistd::getuid().to_string());
    let verbose = args.verbose > 0;
    let stderr_level = match args.verbose {
        0 => "3",
        1 => "6",
        _ => "7",
    };
    let defaults = [
        ("broker.quorum-warn", "1m"),
        ("broker.shutdown-warn", "1m"),
        ("broker.shutdown-timeout", "none"),
        ("broker.sd-stop-timeout", "none"),
        ("broker.cleanup-timeout", "none"),
        ("broker.unload-builtins-timeout", "1m"),
        ("broker.rc1_path", "flux modprobe rc1"),
        ("broker.rc3_path", "flux modprobe rc3"),
        ("conf.shell_initrc", ""),
        ("conf.shell_pluginpath", ""),
        ("log-ring-size", "1024"),
        ("log-level", "7"),
        ("log-forward-level", "3"),
        ("log-critical-level", "2"),
        ("log-stderr-level", stderr_level),
        ("log-stderr-mode", if verbose { "local" } else { "leader" }),
        ("log-syslog-enable", "0"),
        ("log-syslog-level", "3"),
    ];
    for (name, value) in defaults {
        attrs.put_default(name, value);
    }
    attrs.put(
        "jobid-path",
        std::env::var("FLUX_JOB_ID_PATH").unwrap_or("/".into()),
    );
    Ok(attrs)
}

/// Attributes of the broker that are durations.
const TIMEOUTS: [&str; 6] = [
    "broker.quorum-warn",
    "broker.shutdown-warn",
    "broker.shutdown-timeout",
    "broker.sd-stop-timeout",
    "broker.cleanup-timeout",
    "broker.unload-builtins-timeout",
];

/// A duration attribute; zero where it says none.
pub(crate) fn duration_attribute(attrs: &Attrs, name: &str) -> Result<Duration, String> {
    let text = attrs
        .get(name)
        .filter(|text| *text != "none")
        .unwrap_or("0");
    match types::fsd::parse_duration(text) {
        Ok(duration) => Ok(duration.unwrap_or(Duration::ZERO)),
        Err(_) => Err(format!("Error parsing {name} attribute")),
    }
}

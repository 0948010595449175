//! `flux admin system-scripts`: what sites run around jobs, and whether it does run.

use std::path::{Path, PathBuf};

use client::Client;
use proto::Empty;
use proto::config::ConfigGet;
use proto::job_manager::{JobManagerJobtapQuery, Plugin};
use rpc::Dest;
use serde_json::{Map, Value};
use types::{Errno, installation};

use super::PREFIX;
use crate::color::{self, DIM, GREEN, RED, YELLOW};
use crate::driver::is_executable;
use crate::fail::{self, Fail};
use crate::options::{Family, Parser, flag, maybe};
use crate::{err, outln};

static SYSTEM_SCRIPTS: Parser = Parser {
    name: "flux-admin system-scripts",
    usage: "[-h] [-v] [--color [WHEN]]",
    about: "Show prolog, epilog and housekeeping scripts",
    family: Family::Submit,
    opts: &[
        flag('v', "verbose", "Show scripts even when not configured"),
        maybe(
            '\0',
            "color",
            "WHEN",
            "Use color; WHEN can be 'never', 'always' or 'auto' (default)",
        ),
    ],
};

type Table = Map<String, Value>;

/// What the instance says.
struct Facts {
    config: Table,
    /// What `perilog.so` runs; `None` if it is not loaded.
    perilog: Option<Table>,
}

impl Facts {
    async fn gather(client: &Client) -> Result<Facts, Fail> {
        let config = client.handle().call::<ConfigGet>(Dest::Any, &Empty {});
        let request = Plugin {
            name: "perilog.so".to_owned(),
        };
        let query = client
            .handle()
            .call::<JobManagerJobtapQuery>(Dest::Any, &request);
        let perilog = match query.await {
            Ok(data) => data.get("conf").and_then(Value::as_object).cloned(),
            Err(error) if error.errno == Errno::ENOENT => None,
            Err(error) => return Err(error.into()),
        };
        let config = config.await?;
        Ok(Facts { config, perilog })
    }

    fn table(&self, name: &str) -> Option<&Table> {
        self.config.get("job-manager")?.get(name)?.as_object()
    }
}

/// What is said of one of them.
struct Report<'a> {
    name: &'a str,
    color: bool,
    verbose: bool,
}

impl Report<'_> {
    fn paint(&self, color: &str, text: &str) -> String {
        color::paint(self.color, color, text)
    }

    fn state(&self, color: &str, text: &str, detail: &str) {
        outln!("▸ {}: {}{detail}", self.name, self.paint(color, text));
    }

    /// Prolog or epilog.
    fn perilog(&self, facts: &Facts) {
        let Some(loaded) = &facts.perilog else {
            if facts.table(self.name).is_none() {
                self.state(YELLOW, "not configured", "");
                return outln!();
            }
            self.state(YELLOW, "configured but inactive", "");
            return outln!("{}", self.paint(YELLOW, "  (perilog plugin not loaded)"));
        };
        let settings = loaded.get(self.name).and_then(Value::as_object);
        let Some(settings) = settings.filter(|settings| !settings.is_empty()) else {
            return self.missing();
        };
        let per_rank = settings.get("per_rank") == Some(&Value::Bool(true));
        self.state(GREEN, "enabled", &format!(" (per-rank={per_rank})"));
        let words = words(settings.get("command"));
        match runs_scripts(&words, self.name) {
            true => self.scripts(),
            false => outln!("  command: {}", words.join(" ")),
        }
        outln!();
    }

    fn housekeeping(&self, facts: &Facts) {
        let Some(table) = facts.table(self.name) else {
            return self.missing();
        };
        let detail = match table.get("release-after").and_then(Value::as_str) {
            Some(time) => format!(" (release after {time})"),
            None => " (batch release)".to_owned(),
        };
        self.state(GREEN, "enabled", &detail);
        match table.get("command") {
            // What the flux-imp runs by itself.
            None => self.scripts(),
            command => outln!("  command: {}", words(command).join(" ")),
        }
        outln!();
    }

    fn missing(&self) {
        self.state(DIM, "not configured", "");
        // Those that would run.
        if self.verbose && (has_scripts(&self.system()) || has_scripts(&self.site())) {
            self.scripts();
        }
        outln!();
    }

    fn system(&self) -> PathBuf {
        let base = installation::get("libexecdir").unwrap_or_default();
        Path::new(&base).join(format!("{}.d", self.name))
    }

    fn site(&self) -> PathBuf {
        let base = installation::get("confdir").unwrap_or_default();
        Path::new(&base)
            .join("system")
            .join(format!("{}.d", self.name))
    }

    fn scripts(&self) {
        self.directory("system:", &self.system());
        let site = self.site();
        let alone = site.with_extension("");
        if is_executable(&alone) {
            let mark = self.paint(GREEN, "✓");
            outln!("  {}", self.paint(DIM, "site:"));
            let path = alone.display();
            return outln!("    {mark} {path} (legacy, skips site scripts)");
        }
        self.directory("site:", &site);
    }

    fn directory(&self, label: &str, path: &Path) {
        let shown = self.paint(DIM, &path.display().to_string());
        outln!("  {} {shown}", self.paint(DIM, label));
        let names = listing(path);
        if names.is_empty() {
            outln!("{}", self.paint(DIM, "    (no scripts)"));
        }
        for (executable, name) in names {
            let mark = match executable {
                true => self.paint(GREEN, "✓"),
                false => self.paint(RED, "✗ not executable"),
            };
            outln!("    {mark} {name}");
        }
    }
}

/// The words of a command.
fn words(command: Option<&Value>) -> Vec<&str> {
    let words = command.and_then(Value::as_array).into_iter().flatten();
    words.filter_map(Value::as_str).collect()
}

/// Whether a command has the flux-imp run the scripts there are.
fn runs_scripts(words: &[&str], name: &str) -> bool {
    let [program, run, script] = words else {
        return false;
    };
    Path::new(program).ends_with("flux-imp") && *run == "run" && *script == name
}

/// Whether that flux-imp is another than the one that comes with this program, which may look for
/// scripts elsewhere.
fn is_foreign(words: &[&str]) -> bool {
    let own = installation::get("libexecdir").unwrap_or_default();
    let own = Path::new(&own).join("flux-imp");
    words
        .first()
        .is_some_and(|program| Path::new(program) != own)
}

/// The files in a directory, those that are executable first, each kind by name.
fn listing(path: &Path) -> Vec<(bool, String)> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let files = entries.filter(|entry| entry.path().is_file());
    let mut names: Vec<(bool, String)> = files
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            (is_executable(&entry.path()), name)
        })
        .collect();
    names.sort_by(|a, b| (!a.0, &a.1).cmp(&(!b.0, &b.1)));
    names
}

fn has_scripts(path: &Path) -> bool {
    !listing(path).is_empty()
}

pub(super) fn run(words: &[String]) -> i32 {
    let args = match SYSTEM_SCRIPTS.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    if args.has("help") {
        outln!("{}", SYSTEM_SCRIPTS.help_text());
        return 0;
    }
    if !args.words.is_empty() {
        return SYSTEM_SCRIPTS.unrecognized(&args.words);
    }
    let color = match color::wanted_p(&args) {
        Ok(color) => color,
        Err(status) => return status,
    };
    let verbose = args.has("verbose");
    fail::run(PREFIX, async {
        let facts = Facts::gather(&fail::connect_p().await?).await?;
        let report = |name| Report {
            name,
            color,
            verbose,
        };
        let configured = ["prolog", "epilog"].map(|name| {
            let loaded = facts.perilog.as_ref().and_then(|conf| conf.get(name));
            let words = self::words(loaded.and_then(|settings| settings.get("command")));
            runs_scripts(&words, name) && is_foreign(&words)
        });
        if configured.contains(&true) {
            let text = "Warning: flux-imp path mismatch - scripts may not be found";
            err!("{}", color::paint(color, YELLOW, text));
        }
        report("prolog").perilog(&facts);
        report("epilog").perilog(&facts);
        report("housekeeping").housekeeping(&facts);
        Ok(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_imp_runs_scripts_of_its_own() {
        assert!(runs_scripts(&["/x/flux-imp", "run", "prolog"], "prolog"));
        assert!(!runs_scripts(&["/x/flux-imp", "run", "epilog"], "prolog"));
        assert!(!runs_scripts(&["/x/other", "run", "prolog"], "prolog"));
        assert!(!runs_scripts(&[], "prolog"));
    }
}

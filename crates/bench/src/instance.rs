//! An instance to measure in.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// A running instance. Dropping it ends it.
pub(crate) struct Instance {
    flux: PathBuf,
    child: Child,
    pub(crate) uri: String,
}

impl Instance {
    /// Starts an instance of so many brokers and waits until it runs.
    pub(crate) fn start(flux: &Path, size: u32) -> Result<Instance, String> {
        let option = (size > 1).then(|| format!("--test-size={size}"));
        Instance::start_with(flux, option.as_deref())
    }

    /// Starts an instance of one broker on a state directory.
    pub(crate) fn start_on(flux: &Path, statedir: &Path) -> Result<Instance, String> {
        let statedir = format!("-Sstatedir={}", statedir.display());
        Instance::start_with(flux, Some(&statedir))
    }

    fn start_with(flux: &Path, option: Option<&str>) -> Result<Instance, String> {
        let mut command = Command::new(flux);
        command.arg("start").args(option);
        // The initial program tells where the instance is and lives as long as its input.
        command.args(["sh", "-c", "echo $FLUX_URI; read line"]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let mut child = command
            .spawn()
            .map_err(|error| format!("{}: {error}", flux.display()))?;
        let stdout = child.stdout.take().ok_or("no standard output")?;
        let mut uri = String::new();
        BufReader::new(stdout)
            .read_line(&mut uri)
            .map_err(|error| error.to_string())?;
        let uri = uri.trim().to_owned();
        if uri.is_empty() {
            return Err(format!("{}: no instance", flux.display()));
        }
        Ok(Instance {
            flux: flux.to_owned(),
            child,
            uri,
        })
    }

    /// Runs a command in the instance; its output is kept.
    pub(crate) fn flux(&self, words: &[&str]) -> Result<Output, String> {
        let output = Command::new(&self.flux)
            .args(words)
            .env("FLUX_URI", &self.uri)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| error.to_string())?;
        if output.status.success() {
            return Ok(output);
        }
        let text = String::from_utf8_lossy(&output.stderr);
        Err(format!(
            "flux {}: {}: {}",
            words.join(" "),
            output.status,
            text.trim()
        ))
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Some(mut input) = self.child.stdin.take() {
            // It ends at end of input as well.
            let _ended = input.write_all(b"\n");
        }
        let _ended = self.child.wait();
    }
}

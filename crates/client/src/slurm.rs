//! An instance within a Slurm job: when that ends.

use std::io::ErrorKind;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proto::resource::{ExpirationUpdate, ResourceExpirationUpdate};
use rpc::{Handle, RpcError};
use tokio::process::Command;
use types::{Errno, Rank};

/// How often the end is asked for, unless somebody wants it otherwise.
pub const POLL_INTERVAL: Duration = Duration::from_secs(60);

/// How far the end has to move, in seconds, to be a change: the time left comes in whole seconds.
const TOLERANCE: f64 = 2.0;

/// Why the end is not known.
#[derive(Debug, thiserror::Error)]
pub enum SlurmError {
    /// There is no Slurm.
    #[error("squeue not found")]
    NoSqueue,
    /// It could not be asked, or knows nothing.
    #[error("squeue failed: {0}")]
    Failed(String),
    /// It says something that is no time.
    #[error("squeue: cannot parse time left '{0}'")]
    Time(String),
    /// The instance cannot be told.
    #[error("resource.expiration-update: {0}")]
    Update(#[from] RpcError),
}

/// Keeps an instance's end that of the Slurm job it is in.
pub struct Expiration {
    jobid: u64,
    told: Option<f64>,
}

impl Expiration {
    /// For a Slurm job.
    pub fn new(jobid: u64) -> Expiration {
        Expiration { jobid, told: None }
    }

    /// Asks Slurm for the end, and tells the instance if it has moved. Returns it then, in seconds
    /// since the epoch; 0 for none.
    ///
    /// # Errors
    ///
    /// See [`SlurmError`].
    pub async fn sync(&mut self, handle: &Handle) -> Result<Option<f64>, SlurmError> {
        let left = time_left(self.jobid).await?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default().as_secs_f64();
        let end = left.map_or(0.0, |left| now + left.as_secs_f64());
        if self
            .told
            .is_some_and(|told| (told - end).abs() <= TOLERANCE)
        {
            return Ok(None);
        }
        let update = ExpirationUpdate { expiration: end };
        let call = handle.call::<ResourceExpirationUpdate>(Rank::LEADER, &update);
        call.await?;
        self.told = Some(end);
        Ok(self.told)
    }

    /// Goes on with that at an interval, until it fails. Each change is told to `changed`.
    pub async fn follow(
        &mut self,
        handle: &Handle,
        interval: Duration,
        changed: impl Fn(f64),
    ) -> SlurmError {
        loop {
            // Slurm tells nobody of a change; it has to be asked.
            tokio::time::sleep(interval).await;
            match self.sync(handle).await {
                Ok(end) => end.into_iter().for_each(&changed),
                Err(error) => return error,
            }
        }
    }
}

/// How long a Slurm job may go on; `None` for as long as it likes.
async fn time_left(jobid: u64) -> Result<Option<Duration>, SlurmError> {
    let mut squeue = Command::new("squeue");
    squeue.args(["--noheader", "--format=%L"]);
    squeue.arg(format!("--jobs={jobid}"));
    let output = squeue.output().await.map_err(|error| match error.kind() {
        ErrorKind::NotFound => SlurmError::NoSqueue,
        _ => SlurmError::Failed(Errno::from_io(&error).to_string()),
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(SlurmError::Failed(said.trim().to_owned()));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let text = text.trim();
    parse(text).ok_or_else(|| SlurmError::Time(text.to_owned()))
}

/// Reads `[DAYS-]HOURS:MINUTES:SECONDS`, or less of it from the left, or `UNLIMITED`.
fn parse(text: &str) -> Option<Option<Duration>> {
    if text == "UNLIMITED" {
        return Some(None);
    }
    let (days, clock) = match text.split_once('-') {
        Some((days, clock)) => (days.parse::<u64>().ok()?, clock),
        None => (0, text),
    };
    let parts = clock.split(':').map(|part| part.parse::<u64>());
    let parts: Vec<u64> = parts.collect::<Result<_, _>>().ok()?;
    if parts.len() > 3 {
        return None;
    }
    let clock = parts
        .iter()
        .try_fold(0u64, |sum, part| sum.checked_mul(60)?.checked_add(*part))?;
    let seconds = days.checked_mul(86_400)?.checked_add(clock)?;
    Some(Some(Duration::from_secs(seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_slurm_writes_them() {
        let check = |text: &str| parse(text).map(|left| left.map(|left| left.as_secs()));
        for (text, seconds) in [
            ("59", 59),
            ("1:05", 65),
            ("2:00:01", 7201),
            ("3-00:00:10", 259_210),
        ] {
            assert_eq!(check(text), Some(Some(seconds)), "{text}");
        }
        assert_eq!(check("UNLIMITED"), Some(None));
        for text in [
            "",
            "INVALID",
            "NOT_SET",
            "1:2:3:4",
            "a-1:00",
            "99999999999999999999-0",
        ] {
            assert_eq!(check(text), None, "{text}");
        }
    }
}

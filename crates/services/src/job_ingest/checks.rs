//! Filling jobspecs in and checking them.

use proto::job_ingest::flags;
use proto::sched::{Feasibility, FeasibilityCheck};
use rpc::{Dest, Handle, RpcError};
use serde_json::json;
use spec::Jobspec;
use types::Errno;

use super::config::Config;
use super::{Accepted, Workers, invalid};

impl Accepted {
    fn is_validated(&self, config: &Config) -> bool {
        config.validate && self.flags & flags::NOVALIDATE == 0
    }

    /// Whether others have to be asked.
    pub(super) fn needs_time(&self, config: &Config) -> bool {
        let validator = config.feasibility || config.validator_worker.is_some();
        (config.frobnicate && config.frobnicator_worker.is_some())
            || (self.is_validated(config) && validator)
    }

    /// Does what is built in, but for asking the scheduler.
    pub(super) fn check(
        &mut self,
        config: &Config,
        hosts: impl FnOnce() -> Option<String>,
    ) -> Result<(), RpcError> {
        self.frobnicate(config)?;
        self.validate(config, hosts)
    }

    /// Does it all.
    pub(super) async fn check_slowly(
        &mut self,
        handle: &Handle,
        config: &Config,
        workers: &Workers,
        hosts: Option<String>,
    ) -> Result<(), RpcError> {
        match &workers.frobnicator {
            Some(worker) if config.frobnicate => {
                if let Some(jobspec) = worker.ask(self.request()).await? {
                    self.jobspec = jobspec;
                }
            }
            _ => self.frobnicate(config)?,
        }
        if !self.is_validated(config) {
            return Ok(());
        }
        if let Some(worker) = &workers.validator {
            return worker.ask(self.request()).await.map(drop);
        }
        self.validate(config, || hosts)?;
        if config.feasibility {
            self.check_feasibility(handle).await?;
        }
        Ok(())
    }

    /// What a worker is asked.
    fn request(&self) -> String {
        let cred = self.message.cred;
        json!({
            "jobspec": self.jobspec,
            "userid": cred.userid,
            "rolemask": cred.rolemask.0,
            "urgency": self.urgency,
            "flags": self.flags,
        })
        .to_string()
    }

    fn frobnicate(&mut self, config: &Config) -> Result<(), RpcError> {
        if !config.frobnicate || !config.policy.frobnicates() {
            return Ok(());
        }
        config.policy.frobnicate(&mut self.jobspec).or_else(invalid)
    }

    fn validate(
        &mut self,
        config: &Config,
        hosts: impl FnOnce() -> Option<String>,
    ) -> Result<(), RpcError> {
        if !self.is_validated(config) {
            return Ok(());
        }
        let jobspec =
            Jobspec::from_value(self.jobspec.take()).or_else(|error| invalid(error.to_string()))?;
        if let Some(version) = config.require_version {
            jobspec
                .require_version(version)
                .or_else(|error| invalid(error.to_string()))?;
        }
        if let Some(limits) = config.require_instance {
            limits.check(&jobspec).or_else(invalid)?;
        }
        // An instance that does not know its hosts takes all.
        if let Some(constraint) = jobspec.host_constraint()
            && let Some(known) = hosts().and_then(|hosts| hosts.parse().ok())
        {
            Jobspec::check_hosts(&constraint, &known)
                .or_else(|error| invalid(error.to_string()))?;
        }
        self.jobspec = jobspec.into_value();
        Ok(())
    }

    /// Asks the scheduler whether the job could ever run. One that cannot tell does not matter.
    async fn check_feasibility(&self, handle: &Handle) -> Result<(), RpcError> {
        let jobspec = self.jobspec.as_object().cloned().unwrap_or_default();
        let call = handle.call::<FeasibilityCheck>(Dest::Any, &Feasibility { jobspec });
        match call.await {
            Err(error) if error.errno != Errno::ENOSYS => Err(error),
            _ => Ok(()),
        }
    }
}

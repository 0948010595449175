//! `job-manager.getattr`: a job's jobspec, R and eventlog.

use jobs::{Object, apply_updates};
use proto::job_manager::{GetAttr, JobManagerGetattr};
use rpc::{Request, RpcError};
use serde_json::{Map, Value};
use spec::eventlog;
use types::{Cred, Errno, UserId};

use super::State;
use super::restart::Reading;

impl State {
    /// Answers a request. What there is of inactive jobs is read back from the KVS.
    pub(super) fn attributes(&self, request: &Request<JobManagerGetattr>, wanted: GetAttr) {
        let who = request.cred();
        if let Some(job) = self.jobs.get(wanted.id) {
            let allowed = self.check_access(who, Some(job.fold.userid));
            let result = allowed.and_then(|()| {
                let resources = job.resources.as_deref();
                select(&wanted.attrs, &job.jobspec, resources, &job.log)
            });
            return request.reply_result(&result);
        }
        let past = self.jobs.past(wanted.id);
        if let Err(error) = self.check_access(who, past.map(|past| past.userid)) {
            return request.fail(error);
        }
        let (handle, message) = (self.handle.clone(), request.message().clone());
        tokio::task::spawn_local(async move {
            let reading = Reading::start(&handle, wanted.id);
            let result = reading.finish().await.and_then(|stored| {
                let (mut jobspec, mut resources) = (stored.jobspec, stored.resources);
                let entries = eventlog::decode(stored.log.as_bytes())
                    .map_err(|error| RpcError::new(error.errno(), error.to_string()))?;
                apply_updates(&entries, Some(&mut jobspec), resources.as_mut());
                select(&wanted.attrs, &jobspec, resources.as_ref(), &stored.log)
            });
            handle.respond_result(&message, &result);
        });
    }

    /// Whether someone may see a job. `owner` is `None` if there is no such job.
    fn check_access(&self, who: Cred, owner: Option<UserId>) -> Result<(), RpcError> {
        match owner {
            Some(owner) if who.may_act_for(owner) => Ok(()),
            _ if self.hides_from(who) => Err(Errno::EPERM.into()),
            None => Err(RpcError::new(Errno::EINVAL, "unknown job")),
            Some(_) => {
                let text = "guests can only access their own jobs";
                Err(RpcError::new(Errno::EPERM, text))
            }
        }
    }
}

fn select(
    attrs: &[String],
    jobspec: &Object,
    resources: Option<&Object>,
    log: &str,
) -> Result<Map<String, Value>, RpcError> {
    let mut found = Map::new();
    for attr in attrs {
        let missing = |text: String| RpcError::new(Errno::ENOENT, text);
        let value = match attr.as_str() {
            "jobspec" => Value::Object(jobspec.clone()),
            "R" => match resources {
                Some(resources) => Value::Object(resources.clone()),
                None => return Err(missing("R is NULL".to_owned())),
            },
            "eventlog" => log.into(),
            other => return Err(missing(format!("unknown attr {other}"))),
        };
        found.insert(attr.clone(), value);
    }
    Ok(found)
}

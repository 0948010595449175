//! The orderly end of jobs before the instance goes: queues stop, jobs are canceled, and the
//! instance waits until none holds resources.

use std::cell::Cell;
use std::rc::Rc;

use module::Severity;
use proto::job_manager::{
    JobManagerIdle, JobManagerQueueStart, JobManagerRaiseAll, QueueStart, RaiseAll,
};
use proto::{Empty, resource::ResourceAcquireMute};
use types::Rank;

use crate::broker::Broker;

/// Whether the built-in end of jobs applies: it does where the built-in start did.
#[derive(Default)]
pub(crate) struct JobCleanup(Cell<bool>);

/// Arranges for jobs to be ended at cleanup.
pub(crate) fn push(broker: &Broker) {
    broker.job_cleanup.0.set(true);
}

/// Ends all jobs. Returns an exit code.
pub(crate) async fn end_jobs(broker: &Rc<Broker>) -> i32 {
    if !broker.job_cleanup.0.get() || broker.router.service("job-manager").is_none() {
        return 0;
    }
    match try_end_jobs(broker).await {
        Ok(()) => 0,
        Err(error) => {
            broker.log(Severity::Err, &format!("cleanup: {error}"));
            1
        }
    }
}

async fn try_end_jobs(broker: &Rc<Broker>) -> Result<(), rpc::RpcError> {
    let handle = broker.router.handle();
    let stop = QueueStart {
        name: None,
        start: false,
        reason: None,
        all: true,
        nocheckpoint: true,
    };
    handle
        .call::<JobManagerQueueStart>(Rank::LEADER, &stop)
        .await?;
    if broker.router.service("resource").is_some() {
        handle
            .call::<ResourceAcquireMute>(Rank::LEADER, &Empty {})
            .await?;
    }
    // Every state in which a job has resources; pending jobs stay for the next start.
    const RUNNING: i32 = 48;
    let raise = RaiseAll {
        dry_run: false,
        userid: -1,
        states: RUNNING,
        severity: 0,
        kind: "cancel".into(),
        note: None,
    };
    handle
        .call::<JobManagerRaiseAll>(Rank::LEADER, &raise)
        .await?;
    handle
        .call::<JobManagerIdle>(Rank::LEADER, &Empty {})
        .await?;
    Ok(())
}

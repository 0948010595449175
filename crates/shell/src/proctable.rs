//! The processes of the job's tasks, for debuggers and `flux job hostpids`.
//!
//! The leader answers for the whole job and asks the other shells; these answer for their own
//! tasks.

use std::rc::Rc;
use std::time::Duration;

use proto::Empty;
use rpc::RpcError;
use spec::proctable::{Packed, Process};
use types::Errno;
use wire::Message;

use crate::shell::Shell;

/// How long the other shells may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Answers a request for the table.
pub(crate) async fn on_request(shell: Rc<Shell>, message: Message) {
    let mut rows = own(&shell);
    if shell.is_leader() {
        match tokio::time::timeout(TIMEOUT, others(&shell)).await {
            Ok(Ok(others)) => rows.extend(others),
            Ok(Err(error)) => {
                let text = format!("proctable: {error}");
                shell.log.error(&text);
                let error = RpcError::new(Errno::ECANCELED, text);
                return shell.handle.respond_error(&message, &error);
            }
            Err(_) => {
                let text = "proctable: other shells of the job do not answer";
                shell.log.error(text);
                let error = RpcError::new(Errno::ECANCELED, text);
                return shell.handle.respond_error(&message, &error);
            }
        }
        rows.sort_by_key(|row| row.task);
    }
    shell.handle.respond(&message, &Packed::new(&rows));
}

/// The processes of this shell's tasks.
fn own(shell: &Shell) -> Vec<Process> {
    let node = &shell.job.nodes[shell.rank as usize];
    let executable = shell.job.jobspec.command().first();
    let tasks = shell.tasks.borrow();
    let row = |task: &Rc<crate::task::Task>| Process {
        task: task.rank,
        broker: node.broker_rank,
        host: node.host.clone(),
        executable: executable.cloned().unwrap_or_default(),
        pid: task.pid,
    };
    tasks.iter().map(row).collect()
}

/// The processes of all other shells' tasks.
async fn others(shell: &Shell) -> Result<Vec<Process>, RpcError> {
    let calls: Vec<_> = (1..shell.size())
        .map(|rank| {
            let payload = proto::json_payload(&Empty {});
            let topic = shell.topic("proctable");
            shell.handle.call_raw(topic, shell.dest(rank), payload)
        })
        .collect();
    let mut rows = Vec::new();
    for call in calls {
        let reply = call.await?;
        let text = reply.text().ok_or(Errno::EPROTO)?;
        let packed: Packed = serde_json::from_str(text).map_err(|_| Errno::EPROTO)?;
        let unpacked = packed.unpack();
        rows.extend(unpacked.map_err(|error| RpcError::new(Errno::EPROTO, error.to_string()))?);
    }
    Ok(rows)
}

//! A jobspec as the pool understands it.

use spec::jobspec::{JobspecError, Slots};
use spec::{Constraint, Count, Jobspec};
use types::Errno;

/// Why a jobspec is no request. The texts are shown to users.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RequestError {
    /// It has not exactly one slot, or counts that make no sense.
    #[error("cannot parse jobspec: {0}")]
    Jobspec(#[from] JobspecError),
    /// There is nothing to allocate.
    #[error("Unable to determine slot count/size")]
    NoSlots,
}

impl RequestError {
    /// The error number on the wire.
    pub fn errno(&self) -> Errno {
        Errno::EINVAL
    }
}

/// What a job wants.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Nodes; `None` where any will do.
    pub nodes: Option<Count>,
    /// Whether nodes are wanted whole.
    pub exclusive: bool,
    /// Slots: on each node if nodes are named, else in all.
    pub slots: Count,
    /// Cores in each slot.
    pub cores: u64,
    /// GPUs in each slot.
    pub gpus: u64,
    /// On which ranks.
    pub constraint: Option<Constraint>,
    /// For how long, in seconds; 0 for as long as the instance lives.
    pub duration: f64,
}

impl Request {
    /// Reads a jobspec.
    pub fn from_jobspec(jobspec: &Jobspec) -> Result<Request, RequestError> {
        let slots = jobspec.slots()?;
        let constraint = jobspec.constraints();
        Request::from_slots(slots, constraint, jobspec.duration_seconds())
    }

    fn from_slots(
        slots: Slots,
        constraint: Option<Constraint>,
        duration: f64,
    ) -> Result<Request, RequestError> {
        let (mut nodes, mut count) = (slots.nodes, slots.count);
        if slots.node_in_slot {
            // So many slots of some nodes each: that many nodes, one slot on each.
            let per_slot = nodes.as_ref().map_or(1, Count::min).max(1);
            nodes = Some(match count {
                Count::Fixed(count) => Count::Fixed(count.saturating_mul(per_slot)),
                other => other,
            });
            count = Count::Fixed(1);
        }
        let request = Request {
            nodes,
            exclusive: slots.exclusive,
            slots: count,
            cores: slots.cores.min(),
            gpus: slots.gpus.min(),
            constraint,
            duration,
        };
        if request.slots.min() == 0 || (request.cores == 0 && !request.exclusive) {
            return Err(RequestError::NoSlots);
        }
        Ok(request)
    }
}

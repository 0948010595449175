//! An instance as it is looked at: what it tells, and where the cursor is.

use client::Client;
use proto::Empty;
use proto::job_list::{Counts, JobListJobStats, JobListList, JobStats, List};
use proto::overlay::HEARTBEAT_PULSE;
use proto::resource::{ResourceSchedStatus, SchedStatus};
use rpc::Dest;
use serde_json::{Value, json};
use spec::ResourceSet;
use tokio::sync::mpsc;
use types::{JobId, Rank};
use wire::{Kind, Message};

use super::view::{Ended, Row, Usage, View};
use crate::commands::jobs::{Job, username};
use crate::commands::resource::Queues;
use crate::fail::Fail;
use crate::timefmt;

/// The most jobs that are listed.
const JOBS_MAX: i64 = 1000;

/// What is looked at, of one instance.
pub(super) struct Instance {
    client: Client,
    incoming: mpsc::Receiver<Message>,
    /// Job ids on the way here.
    path: String,
    owner: bool,
    size: String,
    depth: String,
    version: String,
    /// Seconds since the epoch.
    start: f64,
    queues: Queues,
    /// The one queue looked at.
    queue: Option<String>,
    jobs: Vec<Job>,
    selected: Option<JobId>,
}

impl Instance {
    pub(super) async fn open(client: Client, path: Option<String>) -> Result<Instance, Fail> {
        let incoming = client.incoming();
        client.subscribe(HEARTBEAT_PULSE).await?;
        let queues = Queues::read(&client).await?;
        let owner = client.attr("security.owner").await?;
        let path = match path {
            Some(path) => path,
            // Only instances that are jobs have an id.
            None => client.attr("jobid").await.unwrap_or_default(),
        };
        Ok(Instance {
            incoming,
            path,
            owner: owner == nix::unistd::getuid().to_string(),
            size: client.attr("size").await?,
            depth: client.attr("instance-level").await?,
            version: client.attr("version").await?,
            start: client
                .attr("broker.starttime")
                .await?
                .parse()
                .unwrap_or_else(|_| timefmt::now()),
            queues,
            queue: None,
            jobs: Vec::new(),
            selected: None,
            client,
        })
    }

    /// Looks at one queue only.
    pub(super) fn choose_queue(&mut self, name: &str) -> Result<(), Fail> {
        if !self.queues.names().any(|known| known == name) {
            return Err(Fail::new(format!("queue {name} not configured")));
        }
        self.queue = Some(name.to_owned());
        Ok(())
    }

    /// Goes from all queues to the first, and so on until all are shown again.
    pub(super) fn turn(&mut self, forward: bool) {
        let names: Vec<&str> = self.queues.names().collect();
        let at = match &self.queue {
            Some(queue) => names
                .iter()
                .position(|name| name == queue)
                .map_or(0, |at| at + 1),
            None => 0,
        };
        let places = names.len() + 1;
        let next = (at + if forward { 1 } else { places - 1 }) % places;
        self.queue = next.checked_sub(1).map(|at| names[at].to_owned());
        self.selected = None;
    }

    /// Moves the cursor; the first move puts it on the first job.
    pub(super) fn move_cursor(&mut self, down: bool) {
        let next = match (self.cursor(), down) {
            (None, _) => 0,
            (Some(at), true) => (at + 1).min(self.jobs.len().saturating_sub(1)),
            (Some(at), false) => at.saturating_sub(1),
        };
        self.selected = self.jobs.get(next).map(Job::id);
    }

    fn cursor(&self) -> Option<usize> {
        let selected = self.selected?;
        self.jobs.iter().position(|job| job.id() == selected)
    }

    /// Opens the instance that the job under the cursor is, if it is one of the user's own.
    pub(super) async fn descend(&self) -> Option<Instance> {
        let job = &self.jobs[self.cursor()?];
        let own = i64::from(nix::unistd::getuid().as_raw());
        if job.userid() != Some(own) {
            return None;
        }
        let client = job.open_instance().await?;
        let path = match self.path.as_str() {
            "" => job.id().to_string(),
            path => format!("{path}/{}", job.id()),
        };
        Instance::open(client, Some(path)).await.ok()
    }

    /// Waits for the next heartbeat; `None` if the connection is lost.
    pub(super) async fn pulse(&mut self) -> Option<()> {
        loop {
            let message = self.incoming.recv().await?;
            if matches!(message.kind, Kind::Event { .. }) {
                return Some(());
            }
        }
    }

    /// Asks for everything that changes.
    pub(super) async fn look(&mut self, split: bool) -> Result<View, Fail> {
        let handle = self.client.handle();
        let jobs = handle.call::<JobListList>(Dest::Any, &self.running());
        let stats = handle.call::<JobListJobStats>(Dest::Any, &Empty {});
        let resources = handle.call::<ResourceSchedStatus>(Dest::Rank(Rank::LEADER), &Empty {});
        self.jobs = jobs.await?.jobs.into_iter().map(Job::new).collect();
        self.jobs
            .sort_by(|a, b| a.runtime().total_cmp(&b.runtime()));
        let stats = stats.await?;
        // While there is no scheduler there are no resources, but there may be jobs.
        let (usage, left) = match resources.await {
            Ok(status) => self.usage(&status)?,
            Err(_) => Default::default(),
        };
        let counts = self.counts(&stats);
        let states = &counts.job_states;
        let failed = counts.failed + counts.canceled + counts.timeout;
        Ok(View {
            path: self.path.clone(),
            left,
            usage,
            pending: states.depend + states.priority + states.sched,
            running: states.run + states.cleanup,
            ended: match split && self.owner {
                true => Ended::Split {
                    complete: counts.successful,
                    failed,
                },
                false => Ended::Sum(states.inactive),
            },
            beat: false,
            size: self.size.clone(),
            depth: self.depth.clone(),
            uptime: timefmt::now() - self.start,
            version: self.version.clone(),
            has_queues: self.queues.names().next().is_some(),
            queue: self.queue.clone(),
            rows: self.jobs.iter().map(row).collect(),
            selected: self.cursor(),
        })
    }

    /// What to ask job-list for.
    fn running(&self) -> List {
        let mut constraint = vec![json!({ "states": ["running"] })];
        if let Some(queue) = &self.queue {
            constraint.push(json!({ "queue": [queue] }));
        }
        let attrs = [
            "userid",
            "state",
            "name",
            "ntasks",
            "nnodes",
            "t_run",
            "t_cleanup",
            "queue",
            "annotations",
        ];
        List {
            max_entries: JOBS_MAX,
            attrs: attrs.map(str::to_owned).to_vec(),
            constraint: Some(json!({ "and": constraint })),
            ..List::default()
        }
    }

    /// The counts of the queue looked at, or of all.
    fn counts(&self, stats: &JobStats) -> Counts {
        match &self.queue {
            // A queue without jobs is not counted.
            Some(queue) => stats
                .queues
                .iter()
                .find(|counts| counts.name.as_ref() == Some(queue))
                .cloned()
                .unwrap_or_default(),
            None => stats.all.clone(),
        }
    }

    /// What is in use, and how long there is left.
    fn usage(&self, status: &SchedStatus) -> Result<([Usage; 3], Option<f64>), Fail> {
        let set = |value: &Value| match value {
            Value::Null => Ok(ResourceSet::new()),
            value => ResourceSet::from_value(value).map_err(|error| Fail::of("R", error)),
        };
        let (mut all, mut down) = (set(&status.all)?, set(&status.down)?);
        let mut used = set(&status.allocated)?;
        let left = (all.expiration > 0.0).then(|| all.expiration - timefmt::now());
        if let Some(queue) = &self.queue {
            used.copy_properties_from(&all);
            down.copy_properties_from(&all);
            for part in [&mut all, &mut down, &mut used] {
                *part = self.queues.restrict(part, &[queue])?;
            }
        }
        let count = |count: fn(&ResourceSet) -> usize| Usage {
            used: count(&used),
            down: count(&down),
            total: count(&all),
        };
        let usage = [
            count(ResourceSet::nnodes),
            count(|set| set.count("core")),
            count(|set| set.count("gpu")),
        ];
        Ok((usage, left))
    }
}

fn row(job: &Job) -> Row {
    let user = job.userid().and_then(|uid| u32::try_from(uid).ok());
    Row {
        id: job.id().to_string(),
        queue: job.str("queue").to_owned(),
        user: user.map(username).unwrap_or_default(),
        state: job.state_letter().to_owned(),
        ntasks: job.int("ntasks").unwrap_or_default(),
        nnodes: job.int("nnodes").unwrap_or_default(),
        runtime: job.runtime(),
        name: job.str("name").to_owned(),
        instance: job.uri().is_some(),
    }
}

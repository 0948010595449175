//! New jobs, and the dependencies they name.

use std::rc::Rc;

use serde_json::Value;
use spec::Jobspec;
use types::{JobId, UserId};

use crate::depend::{After, Waiter};
use crate::fold::{Fold, State};
use crate::manager::Job;
use crate::plugins::Plugin;
use crate::{Attachment, Effect, Effects, Jobs, Object, Reply, Token, event};

/// A job on its way in.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// Its id.
    pub id: JobId,
    /// Whose it is.
    pub userid: UserId,
    /// 0 to 31.
    pub urgency: i32,
    /// When it was submitted.
    pub t_submit: f64,
    /// See [`crate::flags`].
    pub flags: i32,
    /// Its jobspec.
    pub jobspec: Object,
}

/// A dependency that holds a new job back.
struct Wanted {
    description: String,
    /// Whether nothing holds it back any more.
    satisfied: bool,
    kind: Kind,
}

enum Kind {
    After(JobId, After),
    Singleton,
    Begin(f64),
}

pub(crate) fn begin_description(time: f64) -> String {
    format!("begin-time={time:.3}")
}

impl Jobs {
    /// Takes a batch of jobs. It is answered by a [`Reply::Submitted`] once they are durable, and
    /// they are held until [`Jobs::on_durable`].
    pub fn submit(&mut self, now: f64, jobs: Vec<NewJob>, token: Token, out: &mut Effects) {
        let mut errors = Vec::new();
        for job in jobs {
            let id = job.id;
            if let Err(text) = self.submit_one(now, job) {
                errors.push((id, text));
            }
        }
        self.settle(now, out);
        out.push(Effect::Reply(token, Reply::Submitted(errors)));
    }

    pub(crate) fn submit_one(&mut self, now: f64, new: NewJob) -> Result<(), String> {
        if self.active.contains_key(&new.id) || self.inactive.contains_key(&new.id) {
            return Err("job id is already in use".to_owned());
        }
        let submit = event::submit(new.t_submit, new.userid, new.urgency, new.flags);
        let fold = Fold::submitted(&submit).map_err(|error| error.to_string())?;
        let job = Job::new(new.id, fold, Rc::new(new.jobspec));
        self.queues
            .accept(job.queue.as_deref())
            .map_err(|refusal| refusal.text)?;
        self.check_limits(now, &job)?;
        let own_resources = self.own_resources(&job)?;
        let wanted = self.parse_dependencies(&job)?;
        let id = job.id;
        self.raise_max_jobid(id);
        self.history.entry(job.fold.userid).or_default().insert(id);
        self.waitables += usize::from(job.is_waitable());
        let attachment = Attachment::Jobspec(job.jobspec.clone());
        let singleton = wanted.iter().any(|w| matches!(w.kind, Kind::Singleton));
        let mut waits = false;
        if let Some(name) = &job.name {
            waits = self
                .dependencies
                .named(job.fold.userid, name, id, singleton);
        }
        let deprecated = dependencies_of(&job.jobspec)
            .iter()
            .any(|d| d.get("scheme").and_then(Value::as_str) == Some("after"));
        self.active.insert(id, job);
        self.post_with(id, submit, true, attachment);
        if let Some(resources) = own_resources {
            self.keep_own_resources(now, id, resources);
        }
        for wanted in wanted {
            self.post(
                id,
                event::dependency(now, "dependency-add", &wanted.description),
            );
            let satisfied = match wanted.kind {
                Kind::After(..) | Kind::Begin(_) if wanted.satisfied => true,
                Kind::After(dependency, after) => {
                    let description = wanted.description.as_str().into();
                    self.dependencies.wait_for(
                        dependency,
                        Waiter {
                            id,
                            after,
                            description,
                        },
                    );
                    false
                }
                Kind::Singleton => !waits,
                Kind::Begin(time) => {
                    self.dependencies.begin_at(time, id);
                    false
                }
            };
            if satisfied {
                let entry = event::dependency(now, "dependency-remove", &wanted.description);
                self.post(id, entry);
            }
        }
        if deprecated {
            let owner = self.owner.unwrap_or(UserId(0));
            let note = "dependency scheme 'after' is deprecated, use 'afterstart'";
            self.post(id, event::exception(now, "dependency", 3, owner, note));
        }
        Ok(())
    }

    fn check_limits(&self, now: f64, job: &Job) -> Result<(), String> {
        let queue = job.queue.as_deref();
        let duration = job.duration();
        let plugins = &self.plugins;
        if plugins.has(Plugin::LimitJobSize) && self.policy.limits(queue) {
            let document = Value::Object((*job.jobspec).clone());
            let jobspec = Jobspec::from_value(document).map_err(|error| error.to_string())?;
            self.policy.check_size(queue, &jobspec)?;
        }
        if plugins.has(Plugin::LimitDuration) {
            self.policy.check_duration(queue, duration)?;
        }
        let end = self.instance_expiration.filter(|end| *end > 0.0);
        if let Some(end) = end.filter(|_| plugins.has(Plugin::ValidateDuration)) {
            let left = end - now;
            if duration > left {
                return Err(format!(
                    "job duration ({}) exceeds remaining instance lifetime ({})",
                    types::fsd::format_compiled(duration, 4),
                    types::fsd::format_compiled(left.max(0.0), 4),
                ));
            }
        }
        Ok(())
    }

    fn parse_dependencies(&self, job: &Job) -> Result<Vec<Wanted>, String> {
        let Some(list) = job.system("dependencies") else {
            return Ok(Vec::new());
        };
        let list = list
            .as_array()
            .ok_or("dependencies object must be an array")?;
        let mut wanted = Vec::new();
        for (at, dependency) in list.iter().enumerate() {
            if !self.is_foreign(dependency) {
                wanted.push(self.parse_dependency(job, at, dependency)?);
            }
        }
        Ok(wanted)
    }

    /// Whether a dependency is one that only a plugin in a file may know.
    fn is_foreign(&self, dependency: &Value) -> bool {
        let scheme = dependency.get("scheme").and_then(Value::as_str);
        let known = |scheme: &str| {
            matches!(scheme, "singleton" | "begin-time") || After::from_scheme(scheme).is_some()
        };
        self.plugins.has_files() && scheme.is_some_and(|scheme| !known(scheme))
    }

    /// The dependencies of a job that only plugins in files may know, with their schemes.
    pub(crate) fn foreign_dependencies(&self, job: &Job) -> Vec<(String, Value)> {
        let list = dependencies_of(&job.jobspec);
        let foreign = list.iter().filter(|dependency| self.is_foreign(dependency));
        let named = foreign.filter_map(|dependency| {
            let scheme = dependency.get("scheme")?.as_str()?;
            Some((scheme.to_owned(), dependency.clone()))
        });
        named.collect()
    }

    /// Takes back what a new job that is refused after all has left.
    pub(crate) fn withdraw_new(&mut self, now: f64, job: &Job) {
        let userid = job.fold.userid;
        if let Some(jobs) = self.history.get_mut(&userid) {
            jobs.remove(&job.id);
        }
        if job.is_waitable() {
            self.waitables = self.waitables.saturating_sub(1);
        }
        self.release_name(now, job);
    }

    fn parse_dependency(&self, job: &Job, at: usize, value: &Value) -> Result<Wanted, String> {
        let text = |key: &str| value.get(key).and_then(Value::as_str);
        let scheme =
            text("scheme").ok_or_else(|| format!("dependency[{at}] missing string scheme"))?;
        let plugin = match scheme {
            "singleton" => Plugin::DependencySingleton,
            "begin-time" => Plugin::BeginTime,
            _ => Plugin::DependencyAfter,
        };
        let unsupported = || format!("dependency scheme \"{scheme}\" not supported");
        if !self.plugins.has(plugin) {
            return Err(unsupported());
        }
        match scheme {
            "singleton" => {
                if job.name.is_none() {
                    return Err("singleton jobs require a job name".to_owned());
                }
                return Ok(Wanted {
                    description: "singleton".into(),
                    satisfied: false,
                    kind: Kind::Singleton,
                });
            }
            "begin-time" => {
                let given = text("value").unwrap_or_default();
                let time = given
                    .parse()
                    .ok()
                    .filter(|time: &f64| time.is_finite() && *time >= 0.0);
                let time = time.ok_or_else(|| format!("Invalid begin-time={given}"))?;
                return Ok(Wanted {
                    description: begin_description(time),
                    satisfied: false,
                    kind: Kind::Begin(time),
                });
            }
            _ => {}
        }
        let after = After::from_scheme(scheme).ok_or_else(unsupported)?;
        let given = text("value").unwrap_or_default();
        let id: JobId = given
            .parse()
            .map_err(|_| format!("dependency: {scheme}: \"{given}\" is not a valid jobid"))?;
        let owner = match (self.active.get(&id), self.inactive.get(&id)) {
            (Some(job), _) => job.fold.userid,
            (None, Some(past)) => past.userid,
            (None, None) => {
                return Err(format!("dependency: {scheme}: id {given}: job not found"));
            }
        };
        if owner != job.fold.userid {
            return Err(format!(
                "dependency: {scheme}: Permission denied for job {given}"
            ));
        }
        let satisfied = match self
            .progress_of(id)
            .and_then(|progress| after.check(progress))
        {
            Some(false) => {
                return Err(match after {
                    After::Start => format!("dependency: after: {given} never started"),
                    After::Ok => format!("dependency: afterok: job {given} failed or was canceled"),
                    After::NotOk => format!("dependency: afternotok: job {given} succeeded"),
                    After::Except => format!("dependency: afterexcept: job {given}: no exception"),
                    After::Any => format!("dependency: afterany: job {given}"),
                });
            }
            Some(true) => true,
            None => false,
        };
        Ok(Wanted {
            description: format!("{}={given}", after.label()),
            satisfied,
            kind: Kind::After(id, after),
        })
    }

    /// A dependency is satisfied, or can never be.
    pub(crate) fn resolve(&mut self, now: f64, waiter: &Waiter, satisfied: bool) {
        let description = &waiter.description;
        if satisfied {
            let entry = event::dependency(now, "dependency-remove", description);
            return self.post(waiter.id, entry);
        }
        let pending = self.active.get(&waiter.id).map(|job| job.fold.state);
        if !matches!(pending, Some(State::New | State::Depend)) {
            return;
        }
        let note = match waiter.after {
            After::Start => format!("dependency {description} job never started"),
            _ => format!("dependency {description} can never be satisfied"),
        };
        let owner = self.owner.unwrap_or(UserId(0));
        self.post(
            waiter.id,
            event::exception(now, "dependency", 0, owner, &note),
        );
    }

    /// After a restart, waits again for what a job's log says it still waits for.
    pub(crate) fn resume_dependencies(&mut self, now: f64, id: JobId) {
        let Some(job) = self.active.get(&id) else {
            return;
        };
        let owner = self.owner.unwrap_or(UserId(0));
        let held = job.fold.dependencies.clone();
        for description in held {
            let (label, value) = description.split_once('=').unwrap_or((&description, ""));
            let after = [
                After::Start,
                After::Any,
                After::Ok,
                After::NotOk,
                After::Except,
            ]
            .into_iter()
            .find(|after| after.label() == label);
            match (after, value.parse::<JobId>(), label) {
                (Some(after), Ok(dependency), _) => {
                    let waiter = Waiter {
                        id,
                        after,
                        description: description.clone(),
                    };
                    match self
                        .progress_of(dependency)
                        .map(|progress| after.check(progress))
                    {
                        Some(None) => self.dependencies.wait_for(dependency, waiter),
                        Some(Some(satisfied)) => self.resolve(now, &waiter, satisfied),
                        None => self.resolve(now, &waiter, false),
                    }
                }
                (None, _, "begin-time") => {
                    self.dependencies.begin_at(value.parse().unwrap_or(now), id);
                }
                (None, _, "singleton") => {}
                // Plugins in files are asked when they are loaded.
                _ if self.plugins.has_files() => {}
                _ => {
                    let note = format!(
                        "dependency {description} is not handled: job may be stuck in DEPEND state"
                    );
                    self.post(id, event::exception(now, "dependency", 4, owner, &note));
                }
            }
        }
    }
}

fn dependencies_of(jobspec: &Object) -> &[Value] {
    jobspec
        .get("attributes")
        .and_then(|attributes| attributes.get("system")?.get("dependencies")?.as_array())
        .map_or(&[], Vec::as_slice)
}

//! Setting a shell up.
//!
//! Requests whose answers are needed later are sent first, all at once; files and environment are
//! prepared while they travel.

use std::cell::{Cell, RefCell};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use client::Client;
use proto::attr::{AttrGet, Name};
use proto::event::{EventSubscribe, Subscription};
use proto::job_exec::{JobExecShellBarrier, ShellBarrier};
use proto::job_info::{JobInfoLookup, Lookup, lookup_flags};
use proto::service::{Service, ServiceAdd};
use proto::shell::{ATTRIBUTES, ATTRIBUTES_VARIABLE};
use rpc::{Dest, RpcError};
use serde_json::{Map, Value, json};
use spec::ResourceSet;
use types::{Errno, IdSet, JobId, Rank};

use crate::coprocess::Coprocesses;
use crate::fatal::Fatal;
use crate::files::{self, TmpDir};
use crate::input::Input;
use crate::job::{self, Job};
use crate::log::{Level, Log};
use crate::mustache::Scope;
use crate::output::{Config, Output};
use crate::pmi::Pmi;
use crate::pty::Ptys;
use crate::rc::Environment;
use crate::shell::{Attributes, Shell};
use crate::stage_in::StageIn;
use crate::store::{Store, key};
use crate::sysmon::{self, Sysmon};
use crate::{batch, rc, task};

/// How long a single shell waits with its first events, so that those of a short job are stored
/// together. Clients wait for them before they send input.
const START_PAUSE: Duration = Duration::from_millis(3);

/// Connects, learns the job, and prepares everything up to the first task.
pub(crate) async fn set_up(
    client: Client,
    id: JobId,
    log: Rc<Log>,
    store: Rc<Store>,
) -> Result<Rc<Shell>, Fatal> {
    let handle = client.handle().clone();
    let uid = nix::unistd::getuid().as_raw();
    let service = format!("{uid}-shell-{}", id.f58_plain());
    let add = handle.call::<ServiceAdd>(
        Dest::Any,
        &Service {
            service: service.clone(),
        },
    );
    let subscribe = handle.call::<EventSubscribe>(
        Dest::Any,
        &Subscription {
            topic: format!("shell-{}.", id.0),
        },
    );
    let mut attributes = Asked::new(&handle);
    let (jobspec, resources) = job_data(&handle, id).await?;
    let mut job = make_job(id, jobspec, resources)?;
    let rank: u32 = number(&attributes.required("rank").await?)?;
    handle.set_rank(Rank(rank));
    let shell_rank = job.nodes.iter().position(|node| node.broker_rank == rank);
    let shell_rank = shell_rank
        .ok_or_else(|| Fatal::new(format!("broker rank {rank} is not part of this job")))?
        as u32;
    log.hold(shell_rank);
    log.set_verbosity(verbosity(&job));

    let owner = attributes.get("security.owner").await;
    let level = attributes.get("instance-level").await;
    let path = attributes.get("jobid-path").await;
    let rundir = attributes.get("rundir").await;
    let site = rc::Site {
        initrc: attributes
            .get("conf.shell_initrc")
            .await
            .unwrap_or_default(),
        pluginpath: attributes
            .get("conf.shell_pluginpath")
            .await
            .unwrap_or_default(),
    };
    let owner_uid = owner.and_then(|owner| owner.parse().ok());
    let attributes = Attributes {
        is_owner: owner_uid == Some(uid),
        instance_level: level.and_then(|level| level.parse().ok()).unwrap_or(0),
        interface_hint: attributes.get("tbon.interface-hint").await,
    };
    enter_cwd(&job, shell_rank, &log);
    let origin = rc::Origin {
        job: &job,
        rank: shell_rank,
        service: &service,
        owner: owner_uid.unwrap_or(uid),
        log: log.clone(),
    };
    let extensions = rc::load(&origin, &site)?;
    let base = match &extensions {
        Some(extensions) => {
            job.set_options(extensions.options())?;
            extensions.environment()
        }
        None => job.environment(),
    };
    job.map_tasks(extensions.as_ref())?;
    let mut warnings = job.warnings.clone();
    // Read when the job ends, which is late to say that it is wrong.
    crate::rexec_timeout(&job)?;
    let task_tmpdir = task_tmpdir(&job, &mut warnings);
    let tmpdir = make_tmpdir(&job, shell_rank, rundir, task_tmpdir.as_deref())?;
    if let Some(archive) = job.jobspec.files() {
        files::extract(archive, tmpdir.path())?;
    }
    if let Some(stage_in) = StageIn::new(&job)? {
        stage_in
            .run(&handle, &log, shell_rank, tmpdir.path())
            .await?;
    }
    batch::write_script(&job, &tmpdir, shell_rank == 0)?;
    let env = environment(&job, base, &tmpdir, path, task_tmpdir);
    let config = Config::new(&job, attributes.is_owner, &mut warnings)?;
    let namespace = format!("job-{}", id.0);
    store.set_pause_max(config.batch_timeout);
    let credits = config.high;
    let output = {
        let scope = Scope {
            job: &job,
            tmpdir: Some(tmpdir.path()),
            shell_rank: Some(shell_rank),
            task: None,
        };
        Output::new(config, &scope)
    };
    let ptys = Ptys::new(&job, handle.clone(), &service, shell_rank)?;
    let shell = Rc::new(Shell {
        input: Input::new(&job)?,
        exit_timeout: task::exit_timeout(&job)?,
        client,
        handle,
        rank: shell_rank,
        service,
        namespace,
        attributes,
        log,
        store,
        tmpdir,
        env: RefCell::new(env),
        extensions,
        output,
        tasks: RefCell::default(),
        running: Cell::new(0),
        shells_done: RefCell::new(IdSet::new()),
        talking: RefCell::new(IdSet::new()),
        first_exit: Cell::new(false),
        pmi: RefCell::new(None),
        ptys,
        sysmon: RefCell::default(),
        coprocesses: RefCell::default(),
        server: RefCell::new(None),
        credits: Cell::new(credits),
        credit_asked: Cell::new(false),
        credit_given: tokio::sync::Notify::new(),
        fatal: RefCell::new(None),
        wake: tokio::sync::Notify::new(),
        job,
    });
    rc::native::attach(&shell);
    write_headers(&shell);
    if shell.is_leader() {
        open_log(&shell);
    }
    if shell.ptys.rank_0_added {
        let text = "adding pty to rank 0 for interactive support";
        shell.log.write(Level::Warn, Some("pty"), text);
    }
    for warning in warnings {
        shell.log.warn(warning);
    }
    describe(&shell);
    let timeout = shell.output.config.batch_timeout.as_secs_f64();
    let text = format!("batch timeout = {timeout:.3}s");
    shell.log.write(Level::Debug, Some("output.kvs"), &text);
    let pmi = Pmi::new(&shell)?;
    *shell.pmi.borrow_mut() = pmi;
    for (what, result) in [
        ("service.add", add.await),
        ("event.subscribe", subscribe.await),
    ] {
        result.map_err(|error| Fatal::call(what, &error))?;
    }
    Ok(shell)
}

/// Tells those who want to know how the tasks are distributed.
fn describe(shell: &Shell) {
    let job = &shell.job;
    if shell.is_leader() {
        shell.log.debug(format!(
            "0: task_count={} slot_count={} cores_per_slot={} slots_per_node=-1",
            job.ntasks, job.nslots, job.cores_per_slot
        ));
    }
    let node = &job.nodes[shell.rank as usize];
    let word = if node.taskids.len() > 1 {
        "tasks"
    } else {
        "task"
    };
    shell.log.debug(format!(
        "{}: {word} {} on cores {}",
        shell.rank, node.taskids, node.cores
    ));
}

/// The broker's attributes: handed over by whoever started the shell, or else asked for, all at
/// once.
struct Asked {
    given: Option<Map<String, Value>>,
    calls: Vec<(&'static str, rpc::Call<proto::attr::Value>)>,
}

impl Asked {
    fn new(handle: &rpc::Handle) -> Asked {
        let text = std::env::var(ATTRIBUTES_VARIABLE).ok();
        let given = text.and_then(|text| serde_json::from_str(&text).ok());
        let call = |name: &&'static str| {
            let request = Name {
                name: (*name).to_owned(),
            };
            (*name, handle.call::<AttrGet>(Dest::Any, &request))
        };
        let calls = match given {
            Some(_) => Vec::new(),
            None => ATTRIBUTES.iter().map(call).collect(),
        };
        Asked { given, calls }
    }

    /// An attribute's value, once.
    async fn required(&mut self, name: &str) -> Result<String, Fatal> {
        let failed = |error: &RpcError| Fatal::call(&format!("attribute {name}"), error);
        if let Some(given) = &self.given {
            let value = given.get(name).and_then(Value::as_str).map(str::to_owned);
            return value.ok_or_else(|| failed(&Errno::ENOENT.into()));
        }
        let asked = self.calls.iter().position(|(asked, _)| *asked == name);
        let at = asked.ok_or_else(|| failed(&Errno::ENOENT.into()))?;
        let answer = self.calls.swap_remove(at).1.await;
        answer
            .map(|value| value.value)
            .map_err(|error| failed(&error))
    }

    /// An attribute's value, if it has one.
    async fn get(&mut self, name: &str) -> Option<String> {
        self.required(name).await.ok()
    }
}

fn number(text: &str) -> Result<u32, Fatal> {
    text.parse()
        .map_err(|_| Fatal::new(format!("{text}: not a number")))
}

/// Jobspec and R: handed over by whoever started the shell, or else asked for.
async fn job_data(handle: &rpc::Handle, id: JobId) -> Result<(String, String), Fatal> {
    let given = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    if let Some(data) = given(proto::shell::J).zip(given(proto::shell::R)) {
        return Ok(data);
    }
    let request = Lookup {
        id,
        keys: vec!["J".into(), "R".into()],
        flags: lookup_flags::CURRENT,
    };
    let reply = handle.call::<JobInfoLookup>(Dest::Any, &request).await;
    let reply = reply.map_err(|error| Fatal::call("job-info.lookup", &error))?;
    let text = |key: &str| {
        let text = reply.get(key).and_then(Value::as_str).map(str::to_owned);
        text.ok_or_else(|| Fatal::new(format!("job-info.lookup: no {key}")))
    };
    Ok((text("J")?, text("R")?))
}

fn make_job(id: JobId, signed: String, resources: String) -> Result<Job, Fatal> {
    let jobspec = job::unwrap_signed(&signed)?;
    let resources = ResourceSet::decode(resources.as_bytes())
        .map_err(|error| Fatal::new(format!("error parsing R: {error}")))?;
    let forced = jobspec
        .environment()
        .is_some_and(|env| env.contains_key("FLUX_F58_FORCE_ASCII"));
    let f58 = match forced {
        true => id.f58_plain(),
        false => id.f58(),
    };
    Job::new(id, f58, jobspec, resources)
}

fn verbosity(job: &Job) -> i64 {
    job.option("verbose").and_then(Value::as_i64).unwrap_or(0)
}

fn enter_cwd(job: &Job, shell_rank: u32, log: &Log) {
    let Some(cwd) = job.jobspec.cwd() else { return };
    if let Err(error) = std::env::set_current_dir(cwd) {
        let errno = Errno::from_io(&error);
        let host = &job.nodes[shell_rank as usize].host;
        log.error(format!(
            "host {host}: Could not change dir to {cwd}: {errno}. Going to /tmp instead"
        ));
        if let Err(error) = std::env::set_current_dir("/tmp") {
            log.error(format!("/tmp: {}", Errno::from_io(&error)));
        }
    }
}

/// Where the tasks' temporary files go if their environment says so: `TMPDIR`, which is made if it
/// is not there, or `/tmp` in its place.
fn task_tmpdir(job: &Job, warnings: &mut Vec<String>) -> Option<String> {
    let env = job.jobspec.environment()?;
    let dir = env.get("TMPDIR")?.as_str()?;
    let private = || DirBuilder::new().recursive(true).mode(0o700).create(dir);
    if Path::new(dir).is_dir() || private().is_ok() {
        return Some(dir.to_owned());
    }
    warnings.push(format!(
        "tmpdir: Unable to create TMPDIR={dir}, resetting TMPDIR=/tmp"
    ));
    Some("/tmp".to_owned())
}

/// Makes the job's temporary directory: in that of the broker, or else in that of the tasks.
fn make_tmpdir(
    job: &Job,
    shell_rank: u32,
    rundir: Option<String>,
    task_tmpdir: Option<&str>,
) -> Result<TmpDir, Fatal> {
    let mut parents: Vec<PathBuf> = rundir.into_iter().map(PathBuf::from).collect();
    parents.push(task_tmpdir.unwrap_or("/tmp").into());
    TmpDir::create(&parents, &format!("jobtmp-{shell_rank}-{}", job.f58))
}

/// The environment all tasks share.
fn environment(
    job: &Job,
    mut env: Environment,
    tmpdir: &TmpDir,
    jobid_path: Option<String>,
    task_tmpdir: Option<String>,
) -> Environment {
    env.remove("FLUX_PROXY_REMOTE");
    let mut set = |name: &str, value: String| env.insert(name.to_owned(), value);
    if let Ok(uri) = std::env::var("FLUX_URI") {
        set("FLUX_URI", uri);
    }
    set("FLUX_KVS_NAMESPACE", format!("job-{}", job.id.0));
    set("FLUX_JOB_ID", job.f58.clone());
    let path = jobid_path.unwrap_or_default();
    set(
        "FLUX_JOB_ID_PATH",
        format!("{}/{}", path.trim_end_matches('/'), job.f58),
    );
    set("FLUX_JOB_SIZE", job.ntasks.to_string());
    set("FLUX_JOB_NNODES", job.size().to_string());
    set("FLUX_TERMINUS_SESSION", "0".into());
    let tmp = tmpdir.path().to_string_lossy().into_owned();
    if job.option("mpi").and_then(Value::as_str) != Some("none") {
        set("OMPI_MCA_btl_vader_backing_directory", tmp.clone());
    }
    set("FLUX_JOB_TMPDIR", tmp);
    if let Some(host) = env.get_mut("HOSTNAME")
        && let Ok(name) = nix::unistd::gethostname()
    {
        *host = name.to_string_lossy().into_owned();
    }
    if let Some(dir) = task_tmpdir {
        env.insert("TMPDIR".into(), dir);
    }
    env
}

/// The events with which the job's eventlogs begin, on the leader. They travel with what follows.
fn write_headers(shell: &Shell) {
    if !shell.is_leader() {
        return;
    }
    let scope = shell.scope(None);
    for (key, name, context) in shell.input.header(&shell.job, &scope) {
        shell.store.add(key, name, context);
    }
    for (name, context) in shell.output.header(&shell.job, &scope) {
        shell.store.add(key::OUTPUT, name, context);
    }
}

/// Sends log lines to the job's output from now on, those held back first. The other shells do so
/// once the leader is there to take them.
pub(crate) fn open_log(shell: &Rc<Shell>) {
    // The log holds the shell weakly, since the shell holds the log.
    let sink = Rc::downgrade(shell);
    shell.log.set_sink(move |context| {
        if let Some(shell) = sink.upgrade() {
            shell.write_log(context);
        }
    });
}

/// Adds what plugins add to an event.
fn add_context(shell: &Shell, event: &str, context: &mut Value) {
    if let Some(extensions) = &shell.extensions
        && let Value::Object(context) = context
    {
        context.extend(extensions.context(event));
    }
}

/// Starts the tasks, with the events and barriers around that.
pub(crate) async fn start_tasks(shell: &Rc<Shell>) -> Result<(), Fatal> {
    let alone = shell.size() == 1;
    shell.hook("shell.init", None)?;
    open_files(shell)?;
    let coprocesses = Coprocesses::new(&shell.job)?.map(Rc::new);
    if let Some(coprocesses) = &coprocesses {
        coprocesses.prepare(shell);
    }
    shell.coprocesses.borrow_mut().clone_from(&coprocesses);
    if !alone {
        // What the leader wrote must be there before any other shell goes on.
        sync(shell).await?;
        barrier(shell).await?;
    }
    if !shell.is_leader() {
        open_log(shell);
    }
    crate::hwloc::export(shell).await?;
    shell.hook("shell.post-init", None)?;
    if shell.is_leader() {
        let mut context = json!({
            "service": shell.service,
            "leader-rank": shell.job.nodes[0].broker_rank,
            "size": shell.size(),
        });
        if shell.ptys.is_interactive() {
            context["pty"] = shell.ptys.first_session().into();
            if shell.ptys.captures() {
                context["capture"] = 1.into();
            }
        }
        add_context(shell, "shell.init", &mut context);
        shell.store.add(key::EXEC, "shell.init", object(context));
        if !alone {
            shell.store.flush();
        }
    }
    if let Some(sysmon) = Sysmon::new(&shell.job, &shell.log)? {
        begin(shell, sysmon).await?;
    }
    if let Some(coprocesses) = &coprocesses {
        coprocesses.launch(shell);
    }
    task::start_all(shell)?;
    shell.hook("shell.start", None)?;
    if !alone {
        barrier(shell).await?;
        if !shell.is_leader()
            && shell
                .tasks
                .borrow()
                .iter()
                .any(|task| task.stdin.borrow().is_some())
        {
            tokio::task::spawn_local(crate::input::follow(shell.clone()));
        }
    }
    if shell.is_leader() {
        let mut context = json!({"taskmap": shell.job.taskmap.to_wrapped()});
        if shell.job.switch(task::STOP) {
            // The tasks wait for a tool.
            context["sync"] = true.into();
        }
        add_context(shell, "shell.start", &mut context);
        shell.store.add(key::EXEC, "shell.start", object(context));
        // One commit for all the beginnings, and for the ends too if they come at once; what the
        // tasks write comes later in any case.
        match alone {
            true => shell.store.schedule_within(START_PAUSE),
            false => shell.store.flush(),
        }
    }
    Ok(())
}

/// Has usage told as the job wants it.
async fn begin(shell: &Shell, sysmon: Rc<Sysmon>) -> Result<(), Fatal> {
    match sysmon.period {
        Some(period) => drop(tokio::task::spawn_local(sysmon.clone().watch(period))),
        None => shell
            .client
            .subscribe(sysmon::HEARTBEAT)
            .await
            .map_err(|error| Fatal::call("event.subscribe", &error))?,
    }
    *shell.sysmon.borrow_mut() = Some(sysmon);
    Ok(())
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// Opens output files before any task runs, and sends the log to the one for standard error.
fn open_files(shell: &Rc<Shell>) -> Result<(), Fatal> {
    use crate::output::{Dest, Stream};
    let taskids = &shell.job.nodes[shell.rank as usize].taskids;
    for (local, rank) in (0..).zip(taskids.iter()) {
        let scope = shell.scope(Some((rank, local)));
        for stream in Stream::BOTH {
            let dest = shell.output.dest(stream, &scope, shell.is_leader())?;
            if let (Stream::Err, Dest::File(file), 0) = (stream, dest, local) {
                shell.log.set_file(file);
            }
        }
    }
    Ok(())
}

async fn sync(shell: &Rc<Shell>) -> Result<(), Fatal> {
    let synced = shell.store.sync().await;
    synced.map_err(|error| Fatal::call("kvs.commit", &error))
}

/// Waits for all shells of the job.
async fn barrier(shell: &Shell) -> Result<(), Fatal> {
    let request = ShellBarrier {
        id: shell.job.id,
        rank: shell.job.nodes[shell.rank as usize].broker_rank,
    };
    let call = shell
        .handle
        .call_untagged::<JobExecShellBarrier>(Dest::Any, &request);
    match call.await {
        Ok(_) => Ok(()),
        // Somebody else has failed and said so.
        Err(error) if error.errno == Errno::EIO => Err(Fatal::silent()),
        Err(error) => Err(Fatal::call("shell_barrier", &error)),
    }
}

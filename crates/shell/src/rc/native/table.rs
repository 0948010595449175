//! What plugins call, behind `interface.c`.
//!
//! Each of these fails with −1, or NULL, and `errno`, as flux-shell-plugins(7) says.

use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr;
use std::rc::Rc;

use foreign::answer::{self, Aux, give, number, pointer, status};
use foreign::flux::{Args, Connection, Flux, FreeFn, HandlerFn};
use foreign::{Library, Opaque, call, function};
use serde_json::{Map, Value};
use types::Errno;

use super::messages::{event_handler, rpc, service};
use super::tasks::{IoFn, channel_subscribe, command_changed, task, task_info, task_part};
use super::{Native, current};
use crate::fatal::Fatal;
use crate::log::{Level, Place};
use crate::mustache::{self, Scope};
use crate::rc::state::set_variable;
use crate::shell::Shell;

/// What can be had as JSON (`enum document`).
const OPTION: c_int = 0;
const ENVIRONMENT: c_int = 1;
const SHELL_INFO: c_int = 2;
const JOBSPEC_INFO: c_int = 3;
const RANK_INFO: c_int = 4;
const TASK_INFO: c_int = 5;

/// `struct table` of `interface.c`, in its order.
#[repr(C)]
struct Table {
    json: [Opaque; 4],
    get_shell: extern "C" fn(Opaque) -> Opaque,
    get_flux: extern "C" fn(Opaque) -> Opaque,
    aux_set: extern "C" fn(Opaque, *const c_char, Opaque, Option<FreeFn>) -> c_int,
    aux_get: extern "C" fn(Opaque, *const c_char) -> Opaque,
    get: extern "C" fn(Opaque, c_int, *const c_char, c_int, *mut *mut c_char) -> c_int,
    set_option: extern "C" fn(Opaque, *const c_char, *const c_char) -> c_int,
    getenv: extern "C" fn(Opaque, *const c_char) -> *const c_char,
    setenv: extern "C" fn(Opaque, c_int, *const c_char, *const c_char) -> c_int,
    unsetenv: extern "C" fn(Opaque, *const c_char) -> c_int,
    hwloc_xml: extern "C" fn(Opaque, *mut *const c_char) -> c_int,
    taskmap: extern "C" fn(Opaque) -> *const c_void,
    hostlist: extern "C" fn(Opaque) -> *const c_void,
    completion: extern "C" fn(Opaque, *const c_char, c_int) -> c_int,
    killall: extern "C" fn(Opaque, c_int),
    event_handler: extern "C" fn(Opaque, *const c_char, Option<HandlerFn>, Opaque) -> c_int,
    service: extern "C" fn(Opaque, *const c_char, Option<HandlerFn>, Opaque) -> c_int,
    rpc: extern "C" fn(Opaque, *const c_char, c_int, c_int, *const c_char) -> Opaque,
    plugstack_call: extern "C" fn(Opaque, *const c_char, Opaque) -> c_int,
    event_context: extern "C" fn(Opaque, *const c_char, *const c_char) -> c_int,
    task: extern "C" fn(Opaque, c_int) -> Opaque,
    task_part: extern "C" fn(Opaque, c_int) -> Opaque,
    channel_subscribe: extern "C" fn(Opaque, *const c_char, Option<IoFn>, Opaque) -> c_int,
    log: extern "C" fn(*const c_char, c_int, *const c_char, c_int, *const c_char),
    fatal: extern "C" fn(*const c_char, c_int, *const c_char),
    raise: extern "C" fn(*const c_char, c_int, c_int, *const c_char),
    setlevel: extern "C" fn(c_int, *const c_char) -> c_int,
    render: extern "C" fn(Opaque, c_int, Opaque, *const c_char) -> *mut c_char,
    is_per_rank: extern "C" fn(Opaque, *const c_char) -> c_int,
    command_changed: extern "C" fn(Opaque, *const c_char),
}

#[expect(unsafe_code, reason = "defined in interface.c")]
mod c {
    unsafe extern "C" {
        pub(super) fn ferroflux_shell_set_table(table: *const super::Table);
    }
}

/// Makes plugins find what they call.
pub(super) fn offer(flux: &Flux) -> Result<(), String> {
    let json = [
        flux.symbol(c"json_loads")?,
        flux.symbol(c"json_vunpack_ex")?,
        flux.symbol(c"json_vpack_ex")?,
        flux.symbol(c"json_dumps")?,
    ];
    let table = Box::new(Table {
        json,
        get_shell,
        get_flux,
        aux_set,
        aux_get,
        get,
        set_option,
        getenv,
        setenv,
        unsetenv,
        hwloc_xml,
        taskmap,
        hostlist,
        completion,
        killall,
        event_handler,
        service,
        rpc,
        plugstack_call,
        event_context,
        task,
        task_part,
        channel_subscribe,
        log,
        fatal,
        raise,
        setlevel,
        render,
        is_per_rank,
        command_changed,
    });
    // It is there for as long as the process is.
    let table: &'static Table = Box::leak(table);
    call!(c::ferroflux_shell_set_table, ptr::from_ref(table));
    Ok(())
}

/// What `flux_shell_t *` points to: nothing of it is looked at.
static SHELL: u8 = 0;

fn shell_pointer() -> Opaque {
    ptr::from_ref(&SHELL).cast_mut().cast()
}

/// The shell a plugin means. Errors: `EINVAL` if it is none.
pub(super) fn native(shell: Opaque) -> Result<Rc<Native>, Errno> {
    match shell == shell_pointer() {
        true => current().ok_or(Errno::EINVAL),
        false => Err(Errno::EINVAL),
    }
}

impl Native {
    /// The shell once it is there. Errors: `EAGAIN` before.
    pub(super) fn shell(&self) -> Result<Rc<Shell>, Errno> {
        self.shell.borrow().upgrade().ok_or(Errno::EAGAIN)
    }

    /// The library, or whoever is wrong there, has left an error number.
    pub(super) fn failed(&self, what: &str) -> Errno {
        let errno = Errno::from_io(&std::io::Error::last_os_error());
        self.state.log.error(format!("{what}: {errno}"));
        errno
    }

    /// What a name of the library stands for. Errors: `ENOSYS`, with a line in the log.
    pub(super) fn found<T>(&self, found: Result<T, String>) -> Result<T, Errno> {
        found.map_err(|text| {
            self.state.log.error(text);
            Errno::ENOSYS
        })
    }

    pub(super) fn handle(&self) -> Result<Connection, Errno> {
        let handle = self.connect();
        handle.map_err(|text| {
            self.state.log.error(text);
            Errno::ECONNREFUSED
        })
    }

    pub(super) fn info(&self, key: &str) -> Option<Value> {
        self.state.facts.info.get(key).cloned()
    }
}

/// A string that has to be there. Errors: `EINVAL`.
pub(super) fn string(text: *const c_char) -> Result<String, Errno> {
    call!(answer::string, text)
}

extern "C" fn get_shell(plugin: Opaque) -> Opaque {
    match plugin.is_null() {
        true => pointer(Err(Errno::EINVAL)),
        false => shell_pointer(),
    }
}

extern "C" fn get_flux(shell: Opaque) -> Opaque {
    pointer(native(shell).and_then(|native| Ok(native.handle()?.pointer())))
}

extern "C" fn aux_set(
    shell: Opaque,
    name: *const c_char,
    value: Opaque,
    free: Option<FreeFn>,
) -> c_int {
    let set = || {
        let native = native(shell)?;
        let name = match name.is_null() {
            // Only to be freed at the end.
            true if !value.is_null() && free.is_some() => format!("\0{value:p}"),
            true => return Err(Errno::EINVAL),
            false => string(name)?,
        };
        // What frees the former may set another.
        let former = match value.is_null() {
            true => native.aux.borrow_mut().remove(&name),
            false => native.aux.borrow_mut().insert(name, Aux { value, free }),
        };
        drop(former);
        Ok(())
    };
    status(set())
}

extern "C" fn aux_get(shell: Opaque, name: *const c_char) -> Opaque {
    let get = || {
        let native = native(shell)?;
        let name = string(name)?;
        let aux = native.aux.borrow();
        aux.get(&name).map(|aux| aux.value).ok_or(Errno::ENOENT)
    };
    pointer(get())
}

/// A document as JSON text. 1, 0 if there is none, or −1.
extern "C" fn get(
    owner: Opaque,
    what: c_int,
    name: *const c_char,
    rank: c_int,
    json: *mut *mut c_char,
) -> c_int {
    let get = || {
        let value = match what {
            OPTION => {
                let native = native(owner)?;
                match native.state.option(&string(name)?) {
                    Some(value) => value,
                    None => return Ok(0),
                }
            }
            ENVIRONMENT => {
                let native = native(owner)?;
                let env = native.state.env.borrow();
                let variables = env
                    .iter()
                    .map(|(name, value)| (name.clone(), value.as_str().into()));
                Value::Object(variables.collect())
            }
            SHELL_INFO => Value::Object(native(owner)?.state.info()),
            JOBSPEC_INFO => native(owner)?.state.facts.jobspec_info.clone(),
            RANK_INFO => {
                let native = native(owner)?;
                let facts = &native.state.facts;
                let rank = match rank {
                    -1 => facts.rank as usize,
                    rank => usize::try_from(rank).map_err(|_| Errno::EINVAL)?,
                };
                Value::Object(facts.ranks.get(rank).cloned().ok_or(Errno::EINVAL)?)
            }
            TASK_INFO => Value::Object(task_info(owner)?),
            _ => return Err(Errno::EINVAL),
        };
        if !json.is_null() {
            call!(answer::put, json, give(&value.to_string())?);
        }
        Ok(1)
    };
    number(get())
}

extern "C" fn set_option(shell: Opaque, name: *const c_char, json: *const c_char) -> c_int {
    let set = || {
        let native = native(shell)?;
        let name = string(name)?;
        let value = match json.is_null() {
            true => None,
            false => {
                let text = call!(foreign::text, json);
                Some(serde_json::from_str(&text).map_err(|_| Errno::EINVAL)?)
            }
        };
        native
            .state
            .set_option(&name, value)
            .map_err(|_| Errno::EINVAL)
    };
    status(set())
}

extern "C" fn getenv(shell: Opaque, name: *const c_char) -> *const c_char {
    let get = || {
        let native = native(shell)?;
        let name = string(name)?;
        let value = native.state.env.borrow().get(&name).cloned();
        let value = value.ok_or(Errno::ENOENT)?;
        Ok(native.keep(&value).cast_mut().cast())
    };
    pointer(get()).cast_const().cast()
}

extern "C" fn setenv(
    shell: Opaque,
    overwrite: c_int,
    name: *const c_char,
    value: *const c_char,
) -> c_int {
    let set = || {
        let native = native(shell)?;
        let (name, value) = (string(name)?, string(value)?);
        let mut env = native.state.env.borrow_mut();
        set_variable(&mut env, &name, value, overwrite != 0);
        Ok(())
    };
    status(set())
}

extern "C" fn unsetenv(shell: Opaque, name: *const c_char) -> c_int {
    let unset = || {
        let native = native(shell)?;
        let name = string(name)?;
        let former = native.state.env.borrow_mut().remove(&name);
        former.map(drop).ok_or(Errno::ENOENT)
    };
    status(unset())
}

extern "C" fn hwloc_xml(shell: Opaque, xml: *mut *const c_char) -> c_int {
    let get = || {
        let native = native(shell)?;
        if xml.is_null() {
            return Err(Errno::EINVAL);
        }
        let topology = crate::affinity::topology().map_err(|error| {
            native.state.log.error(format!("hwloc: {error}"));
            Errno::ENOENT
        })?;
        let host = nix::unistd::gethostname().unwrap_or_default();
        let text = native.keep(&topology.to_xml(&host.to_string_lossy()));
        call!(answer::put, xml, text);
        Ok(())
    };
    status(get())
}

/// What the library makes of a text, once.
fn decoded(
    native: &Native,
    place: &std::cell::Cell<Opaque>,
    function: Result<unsafe extern "C" fn(*const c_char, Opaque) -> Opaque, String>,
    text: &str,
) -> Result<Opaque, Errno> {
    if place.get().is_null() {
        let text = CString::new(text).map_err(|_| Errno::EINVAL)?;
        let function = native.found(function)?;
        let made = call!(function, text.as_ptr(), ptr::null_mut());
        if made.is_null() {
            return Err(Errno::EINVAL);
        }
        place.set(made);
    }
    Ok(place.get())
}

extern "C" fn taskmap(shell: Opaque) -> *const c_void {
    let get = || {
        let native = native(shell)?;
        let text = native.shell()?.job.taskmap.to_wrapped().to_string();
        let decode = function!(
            native.found(Library::all())?,
            c"taskmap_decode",
            fn(*const c_char, Opaque) -> Opaque
        );
        decoded(&native, &native.taskmap, decode, &text)
    };
    pointer(get()).cast_const()
}

extern "C" fn hostlist(shell: Opaque) -> *const c_void {
    let get = || {
        let native = native(shell)?;
        let hosts: Vec<String> = {
            let shell = native.shell()?;
            shell
                .job
                .nodes
                .iter()
                .map(|node| node.host.clone())
                .collect()
        };
        // Its one argument comes first; what follows is not looked at.
        let decode = function!(
            native.found(Library::all())?,
            c"hostlist_decode",
            fn(*const c_char, Opaque) -> Opaque
        );
        decoded(&native, &native.hostlist, decode, &hosts.join(","))
    };
    pointer(get()).cast_const()
}

extern "C" fn completion(shell: Opaque, name: *const c_char, add: c_int) -> c_int {
    let change = || {
        let native = native(shell)?;
        let name = string(name)?;
        let mut references = native.references.borrow_mut();
        if add != 0 {
            *references.entry(name).or_insert(0) += 1;
            return Ok(());
        }
        let count = references.get_mut(&name).ok_or(Errno::ENOENT)?;
        *count -= 1;
        if *count == 0 {
            references.remove(&name);
        }
        Ok(())
    };
    status(change())
}

extern "C" fn killall(shell: Opaque, signum: c_int) {
    if let Ok(shell) = native(shell).and_then(|native| native.shell()) {
        shell.signal_tasks(signum);
    }
}

extern "C" fn plugstack_call(shell: Opaque, topic: *const c_char, args: Opaque) -> c_int {
    let call = || {
        let native = native(shell)?;
        let topic = string(topic)?;
        let args = (!args.is_null()).then(|| call!(Args::from_pointer, args));
        match crate::rc::run_topic(&native.state, &native.plugins, &topic, args) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Errno::EINVAL),
            Err(fatal) => {
                native.state.die(fatal);
                Err(Errno::ECANCELED)
            }
        }
    };
    status(call())
}

extern "C" fn event_context(shell: Opaque, name: *const c_char, json: *const c_char) -> c_int {
    let add = || {
        let native = native(shell)?;
        let name = string(name)?;
        let more: Map<String, Value> =
            serde_json::from_str(&string(json)?).map_err(|_| Errno::EINVAL)?;
        let mut contexts = native.state.contexts.borrow_mut();
        contexts.entry(name).or_default().extend(more);
        Ok(())
    };
    status(add())
}

extern "C" fn log(
    component: *const c_char,
    level: c_int,
    file: *const c_char,
    line: c_int,
    text: *const c_char,
) {
    let Some(native) = current() else { return };
    let component = call!(foreign::text, component);
    let file = call!(foreign::text, file);
    let place = Place {
        file: &file,
        line: u32::try_from(line).unwrap_or(0),
    };
    let level = Level::from_number(level).unwrap_or(Level::Notice);
    let text = call!(foreign::text, text);
    let component = (!component.is_empty()).then_some(component.as_str());
    native.state.log.write_at(level, component, place, &text);
}

extern "C" fn fatal(component: *const c_char, code: c_int, text: *const c_char) {
    let Some(native) = current() else { return };
    let component = call!(foreign::text, component);
    let text = call!(foreign::text, text);
    let text = match component.is_empty() {
        true => text,
        false => format!("{component}: {text}"),
    };
    native.state.die(Fatal::new(text).with_code(code));
}

extern "C" fn raise(kind: *const c_char, severity: c_int, wait_status: c_int, text: *const c_char) {
    let Some(native) = current() else { return };
    let kind = call!(foreign::text, kind);
    let note = call!(foreign::text, text);
    match native.shell() {
        Ok(shell) => {
            let status = (wait_status >= 0).then_some(wait_status);
            let request = proto::job_manager::Raise {
                id: shell.job.id,
                severity,
                kind,
                note: Some(note),
                wait_status: status,
            };
            type Method = proto::job_manager::JobManagerRaise;
            // Nobody here would know what to do if it failed.
            drop(shell.handle.call::<Method>(rpc::Dest::Any, &request));
        }
        Err(_) => native.state.die(Fatal::new(note)),
    }
}

extern "C" fn setlevel(level: c_int, dest: *const c_char) -> c_int {
    let set = || {
        let native = current().ok_or(Errno::EINVAL)?;
        let known = level == -1 || (0..=7).contains(&level);
        if !known || !dest.is_null() && call!(foreign::text, dest).is_empty() {
            return Err(Errno::EINVAL);
        }
        let notice = Level::Notice as i32;
        native.state.set_verbosity(i64::from(level - notice));
        Ok(())
    };
    status(set())
}

/// Runs something with what templates are rendered for.
fn with_scope<T>(
    native: &Native,
    rank: c_int,
    task: Option<(u32, u32)>,
    render: impl FnOnce(&Scope<'_>) -> T,
) -> Result<T, Errno> {
    let shell = native.shell()?;
    let mut scope = shell.scope(task);
    if rank >= 0 {
        let rank = u32::try_from(rank).map_err(|_| Errno::EINVAL)?;
        if rank >= shell.size() {
            return Err(Errno::EINVAL);
        }
        scope.shell_rank = Some(rank);
    }
    Ok(render(&scope))
}

extern "C" fn render(
    shell: Opaque,
    rank: c_int,
    task: Opaque,
    template: *const c_char,
) -> *mut c_char {
    let render = || {
        let native = native(shell)?;
        let template = string(template)?;
        let info = match task.is_null() {
            true => native
                .state
                .task
                .borrow()
                .as_ref()
                .map(|task| task.info.clone()),
            false => Some(task_info(task)?),
        };
        let number = |key: &str| u32::try_from(info.as_ref()?.get(key)?.as_u64()?).ok();
        let task = number("rank").zip(number("localid"));
        let text = with_scope(&native, rank, task, |scope| {
            mustache::render(&template, scope)
        })?;
        Ok(give(&text)?.cast())
    };
    pointer(render()).cast()
}

extern "C" fn is_per_rank(shell: Opaque, template: *const c_char) -> c_int {
    let ask = || {
        let native = native(shell)?;
        let template = string(template)?;
        let per_rank = with_scope(&native, -1, None, |scope| {
            mustache::is_per_rank(&template, scope)
        })?;
        Ok(c_int::from(per_rank))
    };
    number(ask())
}

//! What plugins call, behind `interface.c`.
//!
//! Each of these fails with −1, or NULL, and `errno`, as flux-shell-plugins(7) says.

use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr;
use std::rc::Rc;

use foreign::{Library, Opaque, call, function};
use serde_json::{Map, Value};
use types::Errno;

use super::{Aux, FreeFn, HandlerFn, Native, current};
use crate::fatal::Fatal;
use crate::log::{Level, Place};
use crate::mustache::{self, Scope};
use crate::rc::state::set_variable;
use crate::shell::Shell;

type IoFn = unsafe extern "C" fn(Opaque, *const c_char, Opaque);

/// What can be had as JSON (`enum document`).
const OPTION: c_int = 0;
const ENVIRONMENT: c_int = 1;
const SHELL_INFO: c_int = 2;
const JOBSPEC_INFO: c_int = 3;
const RANK_INFO: c_int = 4;
const TASK_INFO: c_int = 5;

/// Which task.
const CURRENT_TASK: c_int = 0;
const FIRST_TASK: c_int = 1;

/// Which part of a task.
const COMMAND: c_int = 0;

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
pub(super) fn offer(library: &Library) -> Result<(), String> {
    let json = [
        library.symbol(c"json_loads")?,
        library.symbol(c"json_vunpack_ex")?,
        library.symbol(c"json_vpack_ex")?,
        library.symbol(c"json_dumps")?,
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

fn set_errno(errno: Errno) {
    // SAFETY: the address is this thread's own.
    #[expect(unsafe_code, reason = "errno")]
    unsafe {
        *libc::__errno_location() = errno.0;
    }
}

/// What C gets: 0, or −1 and `errno`.
fn status(result: Result<(), Errno>) -> c_int {
    number(result.map(|()| 0))
}

fn number(result: Result<c_int, Errno>) -> c_int {
    result.unwrap_or_else(|errno| {
        set_errno(errno);
        -1
    })
}

fn pointer(result: Result<Opaque, Errno>) -> Opaque {
    result.unwrap_or_else(|errno| {
        set_errno(errno);
        ptr::null_mut()
    })
}

/// What `flux_shell_t *` points to: nothing of it is looked at.
static SHELL: u8 = 0;

fn shell_pointer() -> Opaque {
    ptr::from_ref(&SHELL).cast_mut().cast()
}

/// The shell a plugin means. Errors: `EINVAL` if it is none.
fn native(shell: Opaque) -> Result<Rc<Native>, Errno> {
    match shell == shell_pointer() {
        true => current().ok_or(Errno::EINVAL),
        false => Err(Errno::EINVAL),
    }
}

impl Native {
    /// The shell once it is there. Errors: `EAGAIN` before.
    fn shell(&self) -> Result<Rc<Shell>, Errno> {
        self.shell.borrow().upgrade().ok_or(Errno::EAGAIN)
    }

    /// The library, or whoever is wrong there, has left an error number.
    fn failed(&self, what: &str) -> Errno {
        let errno = Errno::from_io(&std::io::Error::last_os_error());
        self.state.log.error(format!("{what}: {errno}"));
        errno
    }

    /// What a name of the library stands for. Errors: `ENOSYS`, with a line in the log.
    fn found<T>(&self, found: Result<T, String>) -> Result<T, Errno> {
        found.map_err(|text| {
            self.state.log.error(text);
            Errno::ENOSYS
        })
    }

    fn handle(&self) -> Result<Opaque, Errno> {
        let handle = self.connect();
        handle.map_err(|text| {
            self.state.log.error(text);
            Errno::ECONNREFUSED
        })
    }

    fn info(&self, key: &str) -> Option<Value> {
        self.state.facts.info.get(key).cloned()
    }
}

/// A string that has to be there. Errors: `EINVAL`.
fn string(text: *const c_char) -> Result<String, Errno> {
    match text.is_null() {
        true => Err(Errno::EINVAL),
        false => Ok(call!(foreign::text, text)),
    }
}

/// A string the caller frees.
fn give(text: &str) -> Result<*mut c_char, Errno> {
    let text = CString::new(text).map_err(|_| Errno::EINVAL)?;
    let copy = call!(libc::strdup, text.as_ptr());
    match copy.is_null() {
        true => Err(Errno::ENOMEM),
        false => Ok(copy),
    }
}

fn put<T>(place: *mut T, value: T) {
    if !place.is_null() {
        // SAFETY: it is not null, and a plugin gives the address of its own variable.
        #[expect(unsafe_code, reason = "a result by pointer")]
        unsafe {
            *place = value;
        }
    }
}

extern "C" fn get_shell(plugin: Opaque) -> Opaque {
    match plugin.is_null() {
        true => pointer(Err(Errno::EINVAL)),
        false => shell_pointer(),
    }
}

extern "C" fn get_flux(shell: Opaque) -> Opaque {
    pointer(native(shell).and_then(|native| native.handle()))
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
            put(json, give(&value.to_string())?);
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
        put(xml, native.keep(&topology.to_xml(&host.to_string_lossy())));
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

/// `struct flux_match`.
#[repr(C)]
struct Match {
    typemask: c_int,
    matchtag: u32,
    topic_glob: *const c_char,
}

/// `FLUX_MSGTYPE_EVENT`.
const EVENT: c_int = 4;

extern "C" fn event_handler(
    shell: Opaque,
    subtopic: *const c_char,
    handler: Option<HandlerFn>,
    arg: Opaque,
) -> c_int {
    let add = || {
        let native = native(shell)?;
        let subtopic = string(subtopic)?;
        let handler = handler.ok_or(Errno::EINVAL)?;
        let id = native.info("jobid").and_then(|id| id.as_u64());
        let topic = format!("shell-{}.{subtopic}", id.unwrap_or_default());
        let topic = CString::new(topic).map_err(|_| Errno::EINVAL)?;
        let handle = native.handle()?;
        let subscribe = native.found(function!(
            native.library,
            c"flux_event_subscribe",
            fn(Opaque, *const c_char) -> c_int
        ))?;
        let create = native.found(function!(
            native.library,
            c"flux_msg_handler_create",
            fn(Opaque, Match, HandlerFn, Opaque) -> Opaque
        ))?;
        let start = native.found(function!(
            native.library,
            c"flux_msg_handler_start",
            fn(Opaque) -> ()
        ))?;
        if call!(subscribe, handle, topic.as_ptr()) < 0 {
            return Err(native.failed("flux_event_subscribe"));
        }
        let which = Match {
            typemask: EVENT,
            matchtag: 0,
            topic_glob: topic.as_ptr(),
        };
        let added = call!(create, handle, which, handler, arg);
        if added.is_null() {
            return Err(native.failed("flux_msg_handler_create"));
        }
        call!(start, added);
        Ok(())
    };
    status(add())
}

extern "C" fn service(
    shell: Opaque,
    method: *const c_char,
    handler: Option<HandlerFn>,
    arg: Opaque,
) -> c_int {
    let register = || {
        let native = native(shell)?;
        let method = string(method)?;
        let handler = handler.ok_or(Errno::EINVAL)?;
        native.services.borrow_mut().insert(method, (handler, arg));
        Ok(())
    };
    status(register())
}

extern "C" fn rpc(
    shell: Opaque,
    method: *const c_char,
    rank: c_int,
    flags: c_int,
    json: *const c_char,
) -> Opaque {
    let call = || {
        let native = native(shell)?;
        let method = string(method)?;
        let service = native.info("service").ok_or(Errno::EINVAL)?;
        let service = service.as_str().unwrap_or_default();
        let topic = CString::new(format!("{service}.{method}")).map_err(|_| Errno::EINVAL)?;
        let rank = usize::try_from(rank).map_err(|_| Errno::EINVAL)?;
        let shell = native.shell()?;
        let node = shell.job.nodes.get(rank).ok_or(Errno::EINVAL)?;
        let handle = native.handle()?;
        let rpc = native.found(function!(
            native.library,
            c"flux_rpc",
            fn(Opaque, *const c_char, *const c_char, u32, c_int) -> Opaque
        ))?;
        let future = call!(rpc, handle, topic.as_ptr(), json, node.broker_rank, flags);
        match future.is_null() {
            true => Err(native.failed("flux_rpc")),
            false => Ok(future),
        }
    };
    pointer(call())
}

extern "C" fn plugstack_call(shell: Opaque, topic: *const c_char, args: Opaque) -> c_int {
    let call = || {
        let native = native(shell)?;
        let topic = string(topic)?;
        match crate::rc::run_topic(&native.state, &native.plugins, &topic, Some(args)) {
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

/// What `flux_shell_task_t *` is: a task's local index, from 1.
fn task_pointer(local: u64) -> Opaque {
    ptr::without_provenance_mut(usize::try_from(local + 1).unwrap_or(0))
}

fn local_of(task: Opaque) -> Result<u64, Errno> {
    let number = task.addr() as u64;
    number.checked_sub(1).ok_or(Errno::EINVAL)
}

/// What is known of a task. Errors: `EINVAL`.
fn task_info(task: Opaque) -> Result<Map<String, Value>, Errno> {
    let local = local_of(task)?;
    let native = current().ok_or(Errno::EINVAL)?;
    let of_topic = native.state.task.borrow();
    if let Some(current) = &*of_topic
        && current.info.get("localid").and_then(Value::as_u64) == Some(local)
    {
        return Ok(current.info.clone());
    }
    let shell = native.shell()?;
    let tasks = shell.tasks.borrow();
    let found = tasks.iter().find(|task| u64::from(task.local) == local);
    found.map(|task| task.info()).ok_or(Errno::EINVAL)
}

extern "C" fn task(shell: Opaque, which: c_int) -> Opaque {
    let native = match native(shell) {
        Ok(native) => native,
        Err(errno) => return pointer(Err(errno)),
    };
    if which == CURRENT_TASK {
        let task = native.state.task.borrow();
        let local = task
            .as_ref()
            .and_then(|task| task.info.get("localid")?.as_u64());
        // That there is none is no error.
        return local.map_or(ptr::null_mut(), task_pointer);
    }
    if which == FIRST_TASK {
        native.task_at.set(0);
    }
    let Ok(shell) = native.shell() else {
        return ptr::null_mut();
    };
    let at = native.task_at.get();
    native.task_at.set(at + 1);
    let tasks = shell.tasks.borrow();
    let task = tasks.get(at);
    task.map_or(ptr::null_mut(), |task| task_pointer(task.local.into()))
}

extern "C" fn task_part(task: Opaque, which: c_int) -> Opaque {
    let part = || {
        let local = local_of(task)?;
        let native = current().ok_or(Errno::EINVAL)?;
        let unsupported = |what: &str| {
            let text = format!("{what}: not supported by this shell");
            native.state.log.error(text);
            Errno::ENOSYS
        };
        if which != COMMAND {
            return Err(unsupported("flux_shell_task_subprocess"));
        }
        let of_topic = native.state.task.borrow();
        let about = of_topic
            .as_ref()
            .filter(|task| task.info.get("localid").and_then(Value::as_u64) == Some(local))
            .ok_or_else(|| unsupported("flux_shell_task_cmd of another task"))?;
        let known = native.command.get();
        if !known.is_null() {
            return Ok(known);
        }
        let command = native.found(make_command(&native, &about.env))?;
        native.command.set(command);
        Ok(command)
    };
    pointer(part())
}

/// `flux_cmd_t` with these variables.
fn make_command(native: &Native, env: &crate::rc::Environment) -> Result<Opaque, String> {
    let create = function!(
        native.library,
        c"flux_cmd_create",
        fn(c_int, *mut *mut c_char, *mut *mut c_char) -> Opaque
    )?;
    let words: Vec<CString> = env
        .iter()
        .filter_map(|(name, value)| CString::new(format!("{name}={value}")).ok())
        .collect();
    let mut pointers: Vec<*mut c_char> =
        words.iter().map(|word| word.as_ptr().cast_mut()).collect();
    pointers.push(ptr::null_mut());
    let command = call!(create, 0, ptr::null_mut(), pointers.as_mut_ptr());
    match command.is_null() {
        true => Err("flux_cmd_create: out of memory".to_owned()),
        false => Ok(command),
    }
}

/// A variable of a command was set.
extern "C" fn command_changed(command: Opaque, name: *const c_char) {
    if let Some(native) = current()
        && native.command.get() == command
    {
        let name = call!(foreign::text, name);
        native.command_names.borrow_mut().insert(name);
    }
}

/// Takes the variables of the command over into the task the topic is about.
pub(super) fn take_command(native: &Native) {
    let command = native.command.replace(ptr::null_mut());
    let names = native.command_names.take();
    if command.is_null() {
        return;
    }
    let get = function!(
        native.library,
        c"flux_cmd_getenv",
        fn(Opaque, *const c_char) -> *const c_char
    );
    let destroy = function!(native.library, c"flux_cmd_destroy", fn(Opaque) -> ());
    let (Ok(get), Ok(destroy)) = (get, destroy) else {
        return;
    };
    if let Some(task) = &mut *native.state.task.borrow_mut() {
        let known: Vec<String> = task.env.keys().cloned().chain(names).collect();
        for name in known {
            let Ok(key) = CString::new(name.as_str()) else {
                continue;
            };
            let value = call!(get, command, key.as_ptr());
            match value.is_null() {
                true => drop(task.env.remove(&name)),
                false => drop(task.env.insert(name, call!(foreign::text, value))),
            }
        }
    }
    call!(destroy, command);
}

extern "C" fn channel_subscribe(
    task: Opaque,
    channel: *const c_char,
    callback: Option<IoFn>,
    _: Opaque,
) -> c_int {
    let subscribe = || {
        local_of(task)?;
        let channel = string(channel)?;
        callback.ok_or(Errno::EINVAL)?;
        let native = current().ok_or(Errno::EINVAL)?;
        let text = format!("flux_shell_task_channel_subscribe {channel}: not supported");
        native.state.log.error(text);
        Err(Errno::ENOSYS)
    };
    status(subscribe())
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

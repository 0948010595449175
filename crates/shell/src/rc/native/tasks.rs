//! What plugins call about tasks.

use std::ffi::{CString, c_char, c_int};
use std::ptr;

use foreign::answer::{pointer, status};
use foreign::{Opaque, call, function};
use serde_json::{Map, Value};
use types::Errno;

use super::table::{native, string};
use super::{Native, current};

/// `flux_shell_task_io_f`.
pub(super) type IoFn = unsafe extern "C" fn(Opaque, *const c_char, Opaque);

/// Which task.
const CURRENT_TASK: c_int = 0;
const FIRST_TASK: c_int = 1;

/// Which part of a task.
const COMMAND: c_int = 0;

/// What `flux_shell_task_t *` is: a task's local index, from 1.
fn task_pointer(local: u64) -> Opaque {
    ptr::without_provenance_mut(usize::try_from(local + 1).unwrap_or(0))
}

fn local_of(task: Opaque) -> Result<u64, Errno> {
    let number = task.addr() as u64;
    number.checked_sub(1).ok_or(Errno::EINVAL)
}

/// What is known of a task. Errors: `EINVAL`.
pub(super) fn task_info(task: Opaque) -> Result<Map<String, Value>, Errno> {
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

pub(super) extern "C" fn task(shell: Opaque, which: c_int) -> Opaque {
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

pub(super) extern "C" fn task_part(task: Opaque, which: c_int) -> Opaque {
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
        native.flux,
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
pub(super) extern "C" fn command_changed(command: Opaque, name: *const c_char) {
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
        native.flux,
        c"flux_cmd_getenv",
        fn(Opaque, *const c_char) -> *const c_char
    );
    let destroy = function!(native.flux, c"flux_cmd_destroy", fn(Opaque) -> ());
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

pub(super) extern "C" fn channel_subscribe(
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

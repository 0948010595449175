//! The Lua interpreter of start-up scripts.
//!
//! The interface scripts see is in `prelude.lua`; here is what that calls. Functions answer `true`
//! and results, or `false` and a text: so errors are strings in Lua, as scripts expect.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::rc::Rc;

use mlua::{FromLuaMulti, IntoLua, IntoLuaMulti, Lua, MultiValue, Table};
use serde_json::{Map, Number, Value};

use crate::fatal::Fatal;
use crate::log::{Level, Place};

use super::state::{State, set_variable};
use super::{Handlers, Plugin, Registry};

/// How deep a table may be nested to become JSON.
const DEPTH_MAX: usize = 64;

/// An interpreter with everything in it that scripts may use.
///
/// Errors: the interpreter's own, for want of memory.
pub(super) fn interpreter(state: &Rc<State>, plugins: &Registry) -> Result<Lua, String> {
    // SAFETY: scripts may load libraries in C with `require`, which is what the site wants of them.
    #[expect(unsafe_code, reason = "scripts load libraries in C")]
    let lua = unsafe { Lua::unsafe_new() };
    let built = primitives(&lua, state, plugins).and_then(|raw| {
        let prelude = lua.load(include_str!("prelude.lua")).set_name("=shell");
        prelude.call::<()>(raw)
    });
    built.map_err(|error| text(&error))?;
    Ok(lua)
}

/// Runs a script.
///
/// Errors: what is wrong with it, with file and line.
pub(super) fn run(lua: &Lua, name: &str, script: &[u8]) -> Result<(), String> {
    let chunk = lua.load(script).set_name(name);
    chunk.exec().map_err(|error| text(&error))
}

/// Runs a file.
pub(super) fn run_file(lua: &Lua, path: &Path) -> Result<(), String> {
    let script = std::fs::read(path).map_err(|error| types::Errno::from_io(&error).to_string())?;
    // A first line for the system is none of Lua's; its end keeps the lines' numbers.
    let first = match script.starts_with(b"#") {
        true => script
            .iter()
            .position(|byte| *byte == b'\n')
            .unwrap_or(script.len()),
        false => 0,
    };
    run(lua, &format!("@{}", path.display()), &script[first..])
}

/// Runs what a script would have with `source`.
pub(super) fn source(lua: &Lua, pattern: &str) -> Result<(), String> {
    let source = lua.globals().get::<mlua::Function>("source");
    let run = source.and_then(|source| source.call::<()>(pattern));
    run.map_err(|error| text(&error))
}

/// Calls a handler with its topic. Returns whether it went well. Errors: what it raised.
pub(super) fn handle(function: &mlua::Function, topic: &str) -> Result<bool, String> {
    let result = function.call::<mlua::Value>(topic);
    let value = result.map_err(|error| text(&error))?;
    Ok(!matches!(value, mlua::Value::Boolean(false)))
}

/// What an error says, without the trace of calls.
fn text(error: &mlua::Error) -> String {
    let whole = match error {
        mlua::Error::CallbackError { cause, .. } => return text(cause),
        mlua::Error::RuntimeError(message) | mlua::Error::SyntaxError { message, .. } => {
            message.clone()
        }
        other => other.to_string(),
    };
    match whole.split_once("\nstack traceback:") {
        Some((message, _)) => message.to_owned(),
        None => whole,
    }
}

/// Gives Lua a function.
fn define<A: FromLuaMulti, R: IntoLuaMulti>(
    lua: &Lua,
    table: &Table,
    name: &'static str,
    function: impl Fn(&Lua, A) -> Result<R, String> + 'static,
) -> mlua::Result<()> {
    let wrapped = lua.create_function(move |lua, arguments: MultiValue| {
        let result = A::from_lua_multi(arguments, lua)
            .map_err(|error| format!("{name}: {}", text(&error)))
            .and_then(|arguments| function(lua, arguments));
        let mut answer = match result {
            Ok(values) => values.into_lua_multi(lua)?,
            Err(text) => {
                let failed = (false, text);
                return failed.into_lua_multi(lua);
            }
        };
        answer.push_front(mlua::Value::Boolean(true));
        Ok(answer)
    })?;
    table.set(name, wrapped)
}

/// Everything `prelude.lua` calls.
fn primitives(lua: &Lua, state: &Rc<State>, plugins: &Registry) -> mlua::Result<Table> {
    let raw = lua.create_table()?;
    facts(lua, &raw, state)?;
    options(lua, &raw, state)?;
    environment(lua, &raw, state)?;
    task(lua, &raw, state)?;
    logging(lua, &raw, state)?;
    loading(lua, &raw, state, plugins)?;
    Ok(raw)
}

fn facts(lua: &Lua, raw: &Table, state: &Rc<State>) -> mlua::Result<()> {
    let own = state.clone();
    define(lua, raw, "info", move |lua, ()| {
        to_lua(lua, &Value::Object(own.info()))
    })?;
    let own = state.clone();
    define(lua, raw, "rankinfo", move |lua, rank: i64| {
        let rank = match rank {
            -1 => i64::from(own.facts.rank),
            rank => rank,
        };
        let info = usize::try_from(rank).ok();
        let info = info.and_then(|rank| own.facts.ranks.get(rank));
        let info = info.ok_or_else(|| format!("shell.get_rankinfo: {rank}: Invalid argument"))?;
        to_lua(lua, &Value::Object(info.clone()))
    })?;
    let own = state.clone();
    define(lua, raw, "rcpath", move |_, ()| {
        Ok(own.facts.rcpath.clone())
    })?;
    let own = state.clone();
    define(lua, raw, "rcdirs", move |_, ()| {
        Ok(own.facts.rcdirs.clone())
    })
}

fn options(lua: &Lua, raw: &Table, state: &Rc<State>) -> mlua::Result<()> {
    let own = state.clone();
    define(lua, raw, "getopt", move |lua, name: String| {
        let value = own.option(&name);
        value.map_or(Ok(mlua::Value::Nil), |value| to_lua(lua, &value))
    })?;
    let own = state.clone();
    define(lua, raw, "options", move |lua, ()| {
        to_lua(lua, &own.options.borrow())
    })?;
    let own = state.clone();
    define(
        lua,
        raw,
        "setopt",
        move |_, (name, value): (String, mlua::Value)| {
            let value = match value {
                mlua::Value::Nil => None,
                value => Some(from_lua(&value)?),
            };
            own.set_option(&name, value)
        },
    )
}

fn environment(lua: &Lua, raw: &Table, state: &Rc<State>) -> mlua::Result<()> {
    let own = state.clone();
    define(lua, raw, "environ", move |_, ()| {
        Ok(own.env.borrow().clone())
    })?;
    let own = state.clone();
    define(lua, raw, "getenv", move |_, name: String| {
        Ok(own.env.borrow().get(&name).cloned())
    })?;
    let own = state.clone();
    define(
        lua,
        raw,
        "setenv",
        move |_, (name, value, overwrite): (String, String, bool)| {
            set_variable(&mut own.env.borrow_mut(), &name, value, overwrite);
            Ok(())
        },
    )?;
    let own = state.clone();
    define(lua, raw, "unsetenv", move |_, name: String| {
        own.env.borrow_mut().remove(&name);
        Ok(())
    })
}

fn task(lua: &Lua, raw: &Table, state: &Rc<State>) -> mlua::Result<()> {
    let outside = || "attempt to access task outside of task context".to_owned();
    let own = state.clone();
    define(lua, raw, "task_info", move |lua, ()| {
        let task = own.task.borrow();
        let task = task.as_ref().ok_or_else(outside)?;
        to_lua(lua, &Value::Object(task.info.clone()))
    })?;
    let own = state.clone();
    define(lua, raw, "task_getenv", move |_, name: String| {
        let task = own.task.borrow();
        let task = task.as_ref().ok_or_else(outside)?;
        Ok(task.env.get(&name).cloned())
    })?;
    let own = state.clone();
    define(
        lua,
        raw,
        "task_setenv",
        move |_, (name, value, overwrite): (String, String, bool)| {
            let mut task = own.task.borrow_mut();
            let task = task.as_mut().ok_or_else(outside)?;
            set_variable(&mut task.env, &name, value, overwrite);
            Ok(())
        },
    )?;
    let own = state.clone();
    define(lua, raw, "task_unsetenv", move |_, name: String| {
        let mut task = own.task.borrow_mut();
        task.as_mut().ok_or_else(outside)?.env.remove(&name);
        Ok(())
    })
}

/// What a line of a log comes with: level, text, file and line.
type Line = (i32, String, Option<String>, Option<u32>);

fn logging(lua: &Lua, raw: &Table, state: &Rc<State>) -> mlua::Result<()> {
    let own = state.clone();
    define(
        lua,
        raw,
        "log",
        move |_, (level, text, file, line): Line| {
            let level = Level::from_number(level).ok_or("log: no such level")?;
            let place = Place {
                file: file.as_deref().unwrap_or("initrc"),
                line: line.unwrap_or(0),
            };
            own.log.write_at(level, None, place, &text);
            Ok(())
        },
    )?;
    let own = state.clone();
    define(lua, raw, "die", move |_, text: String| {
        own.die(Fatal::new(text.clone()));
        Err::<(), _>(text)
    })?;
    let own = state.clone();
    define(lua, raw, "verbose", move |_, ()| Ok(own.verbosity()))?;
    let own = state.clone();
    define(lua, raw, "set_verbose", move |_, verbosity: mlua::Value| {
        let verbosity = match verbosity {
            mlua::Value::Boolean(verbose) => i64::from(verbose),
            mlua::Value::Integer(verbosity) => verbosity,
            _ => return Err("shell.verbose: not a number".to_owned()),
        };
        own.set_verbosity(verbosity);
        Ok(())
    })
}

fn loading(lua: &Lua, raw: &Table, state: &Rc<State>, plugins: &Registry) -> mlua::Result<()> {
    define(lua, raw, "glob", |_, pattern: mlua::LuaString| {
        glob(&pattern.as_bytes())
    })?;
    let own = state.clone();
    define(lua, raw, "searchpath", move |_, ()| {
        Ok(own.searchpath.borrow().clone())
    })?;
    let own = state.clone();
    define(lua, raw, "set_searchpath", move |_, path: String| {
        *own.searchpath.borrow_mut() = path;
        Ok(())
    })?;
    let all = plugins.clone();
    define(
        lua,
        raw,
        "register",
        move |_, (name, handlers): (Option<String>, Vec<Table>)| {
            let name = name.unwrap_or_else(|| format!("lua.{}", all.borrow().len()));
            let handler = |table: Table| Ok((table.get("topic")?, table.get("fn")?));
            let handlers: mlua::Result<_> = handlers.into_iter().map(handler).collect();
            let handlers = Handlers::Lua(handlers.map_err(|error| text(&error))?);
            super::add(&all, Plugin { name, handlers });
            Ok(())
        },
    )?;
    let all = plugins.clone();
    let own = state.clone();
    define(
        lua,
        raw,
        "load",
        move |_, (path, conf): (String, mlua::Value)| {
            let conf = match conf {
                mlua::Value::Nil => None,
                conf => Some(from_lua(&conf)?),
            };
            super::native::load(&own, &all, &path, conf.as_ref())
        },
    )
}

/// The files a pattern of the shell's names, in order.
fn glob(pattern: &[u8]) -> Result<Vec<String>, String> {
    let pattern = CString::new(pattern).map_err(|_| "NUL in a path".to_owned())?;
    // SAFETY: the structure is filled in by glob() and all zero is how it wants it.
    #[expect(unsafe_code, reason = "C interface")]
    let mut found: libc::glob_t = unsafe { std::mem::zeroed() };
    // SAFETY: the pattern lives during the call.
    #[expect(unsafe_code, reason = "C interface")]
    let result = unsafe { libc::glob(pattern.as_ptr(), libc::GLOB_TILDE, None, &mut found) };
    let mut paths = Vec::new();
    if result == 0 {
        for at in 0..found.gl_pathc {
            // SAFETY: as many strings are there as are counted, until they are freed below.
            #[expect(unsafe_code, reason = "C interface")]
            let path = unsafe { CStr::from_ptr(*found.gl_pathv.add(at)) };
            let path = OsStr::from_bytes(path.to_bytes());
            paths.push(path.to_string_lossy().into_owned());
        }
    }
    // SAFETY: what glob() filled in is freed once.
    #[expect(unsafe_code, reason = "C interface")]
    unsafe {
        libc::globfree(&mut found);
    }
    match result {
        0 | libc::GLOB_NOMATCH => Ok(paths),
        _ => Err(format!("{}: cannot be read", pattern.to_string_lossy())),
    }
}

/// JSON as Lua has it; null is nil.
fn to_lua(lua: &Lua, value: &Value) -> Result<mlua::Value, String> {
    let built = match value {
        Value::Null => Ok(mlua::Value::Nil),
        Value::Bool(value) => Ok(mlua::Value::Boolean(*value)),
        Value::Number(number) => match number.as_i64() {
            Some(number) => Ok(mlua::Value::Integer(number)),
            None => Ok(mlua::Value::Number(number.as_f64().unwrap_or(f64::NAN))),
        },
        Value::String(text) => text.as_str().into_lua(lua),
        Value::Array(values) => {
            let values: Result<Vec<_>, _> = values.iter().map(|value| to_lua(lua, value)).collect();
            values?.into_lua(lua)
        }
        Value::Object(map) => {
            let mut entries = BTreeMap::new();
            for (key, value) in map {
                entries.insert(key.as_str(), to_lua(lua, value)?);
            }
            entries.into_lua(lua)
        }
    };
    built.map_err(|error| text(&error))
}

/// What a script gives as JSON: a table is an array if it is a sequence, else an object.
fn from_lua(value: &mlua::Value) -> Result<Value, String> {
    from_lua_at(value, 0)
}

fn from_lua_at(value: &mlua::Value, depth: usize) -> Result<Value, String> {
    if depth > DEPTH_MAX {
        return Err("table is nested too deeply".to_owned());
    }
    match value {
        mlua::Value::Nil => Ok(Value::Null),
        mlua::Value::Boolean(value) => Ok((*value).into()),
        mlua::Value::Integer(number) => Ok((*number).into()),
        mlua::Value::Number(number) => Number::from_f64(*number)
            .map(Value::Number)
            .ok_or_else(|| format!("{number} is no value of JSON")),
        mlua::Value::String(text) => Ok(text.to_string_lossy().into()),
        mlua::Value::Table(table) => from_table(table, depth),
        other => Err(format!("a {} is no value of JSON", other.type_name())),
    }
}

fn from_table(table: &Table, depth: usize) -> Result<Value, String> {
    let mut list = Vec::new();
    let mut map = Map::new();
    for pair in table.pairs::<mlua::Value, mlua::Value>() {
        let (key, value) = pair.map_err(|error| text(&error))?;
        let value = from_lua_at(&value, depth + 1)?;
        let key = match key {
            // Lua lists a sequence in order.
            mlua::Value::Integer(at) if at == list.len() as i64 + 1 => {
                list.push(value);
                continue;
            }
            mlua::Value::Integer(key) => key.to_string(),
            mlua::Value::String(key) => key.to_string_lossy().to_owned(),
            other => return Err(format!("a {} is no key of JSON", other.type_name())),
        };
        map.insert(key, value);
    }
    if map.is_empty() && !list.is_empty() {
        return Ok(list.into());
    }
    for (at, value) in (1..).zip(list) {
        map.insert(usize::to_string(&at), value);
    }
    Ok(map.into())
}

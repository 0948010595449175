//! Plugins in C (flux-shell-plugins(7)).
//!
//! They run in the shell itself, which is the job's own process: what they do to it they do to
//! their job. They are linked to `libflux-core.so`, which comes with them. What they call of the
//! shell is in `interface.c`, which makes text of variable arguments, and behind it in [`table`].
//! A plugin that ends the job leaves its own functions for good, by a jump over nothing but C.
//!
//! A plugin that wants a `flux_t` gets a connection of its own, whose reactor is looked at every
//! [`PERIOD`]; jobs without such a plugin do not pay for it.

mod table;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr;
use std::rc::{Rc, Weak};
use std::time::Duration;

use foreign::{ErrorText, Library, Opaque, call, function};
use serde_json::{Map, Value};

use super::state::State;
use super::{Plugin, Registry};
use crate::shell::Shell;

/// How often plugins' timers and messages are looked at.
const PERIOD: Duration = Duration::from_millis(10);

/// The library plugins are linked to.
const LIBRARY: &str = "libflux-core.so.2";

/// Libraries beside it that plugins take for granted, since the reference's shell has them.
const OTHERS: [&str; 4] = [
    "libflux-idset.so.1",
    "libflux-hostlist.so.1",
    "libflux-taskmap.so.1",
    "libflux-optparse.so.1",
];

/// `FLUX_PLUGIN_RTLD_NOW`: what a plugin misses is said when it is loaded.
const LOAD_NOW: c_int = 2;

/// `FLUX_PLUGIN_ARG_*`: which arguments of a callback.
const ARG_IN: c_int = 0;
const ARG_OUT: c_int = 1;

/// `FLUX_REACTOR_NOWAIT`.
const NOWAIT: c_int = 1;

type PluginCall = unsafe extern "C" fn(Opaque, *const c_char, Opaque) -> c_int;
type FreeFn = unsafe extern "C" fn(Opaque);
type HandlerFn = unsafe extern "C" fn(Opaque, Opaque, *const c_void, Opaque);

thread_local! {
    static CURRENT: RefCell<Option<Rc<Native>>> = const { RefCell::new(None) };
}

#[expect(unsafe_code, reason = "defined in interface.c")]
mod c {
    use super::{Opaque, PluginCall, c_char, c_int};

    unsafe extern "C" {
        pub(super) fn ferroflux_shell_call(
            call: PluginCall,
            plugin: Opaque,
            text: *const c_char,
            args: Opaque,
        ) -> c_int;
        pub(super) fn ferroflux_shell_run(
            run: unsafe extern "C" fn(Opaque, c_int) -> c_int,
            reactor: Opaque,
            flags: c_int,
        ) -> c_int;
    }
}

/// A value plugins share.
struct Aux {
    value: Opaque,
    free: Option<FreeFn>,
}

impl Drop for Aux {
    fn drop(&mut self) {
        if let Some(free) = self.free
            && !self.value.is_null()
        {
            call!(free, self.value);
        }
    }
}

/// What all plugins in C have in common.
pub(super) struct Native {
    library: Library,
    state: Rc<State>,
    plugins: Registry,
    shell: RefCell<Weak<Shell>>,
    /// `flux_t`, once a plugin wanted one.
    handle: Cell<Opaque>,
    aux: RefCell<BTreeMap<String, Aux>>,
    /// Strings given out, which live as long as the shell.
    strings: RefCell<BTreeSet<CString>>,
    services: RefCell<BTreeMap<String, (HandlerFn, Opaque)>>,
    /// What keeps the shell from ending, and how often.
    references: RefCell<BTreeMap<String, u32>>,
    /// The task after which the next one comes.
    task_at: Cell<usize>,
    taskmap: Cell<Opaque>,
    hostlist: Cell<Opaque>,
    /// The command of the task the topic is about, once a plugin wanted it.
    command: Cell<Opaque>,
    /// Variables plugins have set in it.
    command_names: RefCell<BTreeSet<String>>,
}

fn string(text: &str) -> Result<CString, String> {
    CString::new(text).map_err(|_| format!("{text:?}: NUL in text"))
}

/// The plugins in C of this shell.
fn current() -> Option<Rc<Native>> {
    CURRENT.with_borrow(Clone::clone)
}

/// A loaded plugin.
pub(super) struct Loaded {
    native: Rc<Native>,
    pointer: Opaque,
}

/// Loads a plugin. Errors name the file.
pub(super) fn load(
    state: &Rc<State>,
    plugins: &Registry,
    path: &str,
    conf: Option<&Value>,
) -> Result<(), String> {
    let native = match current() {
        Some(native) => native,
        None => {
            let native = Rc::new(Native::new(state, plugins, path)?);
            CURRENT.set(Some(native.clone()));
            table::offer(&native.library)?;
            native
        }
    };
    let pointer = native.load(path, conf)?;
    let name = native.name_of(pointer);
    let name = match name.is_empty() {
        true => path.rsplit('/').next().unwrap_or(path).to_owned(),
        false => name,
    };
    let handlers = super::Handlers::Native(Loaded { native, pointer });
    super::add(plugins, Plugin { name, handlers });
    Ok(())
}

/// Tells plugins in C of the shell once it is there, and lets their connection live.
pub(crate) fn attach(shell: &Rc<Shell>) {
    let Some(native) = current() else { return };
    *native.shell.borrow_mut() = Rc::downgrade(shell);
    let shell = Rc::downgrade(shell);
    tokio::task::spawn_local(async move {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some(shell) = shell.upgrade() else { return };
            let lingered = native.lingers();
            native.run_reactor();
            if let Some(fatal) = native.state.fatal.take() {
                shell.die(fatal);
            }
            if lingered && !native.lingers() {
                shell.wake.notify_one();
            }
        }
    });
}

/// Whether plugins in C keep the shell from ending.
pub(crate) fn lingers() -> bool {
    current().is_some_and(|native| native.lingers())
}

/// Gives a request to the plugin that registered its method. Whether there is one.
pub(crate) fn deliver(message: &wire::Message) -> bool {
    let method = message.topic.as_ref().map_or("", |topic| topic.method());
    let Some(native) = current() else {
        return false;
    };
    let found = native.services.borrow().get(method).copied();
    let Some((handler, arg)) = found else {
        return false;
    };
    if let Err(text) = native.deliver(message, handler, arg) {
        native.state.log.error(format!("{method}: {text}"));
    }
    true
}

/// Unloads all plugins in C, so that what they free is freed.
pub(crate) fn unload() {
    let Some(native) = CURRENT.take() else { return };
    // What they free may log, or ask for the shell once more.
    CURRENT.set(Some(native.clone()));
    let plugins = native.plugins.take();
    let Ok(destroy) = function!(native.library, c"flux_plugin_destroy", fn(Opaque) -> ()) else {
        return;
    };
    for plugin in plugins {
        if let super::Handlers::Native(loaded) = &plugin.handlers {
            call!(destroy, loaded.pointer);
        }
    }
    native.aux.take();
    CURRENT.set(None);
}

impl Loaded {
    /// Whether it is there for a topic.
    pub(super) fn wants(&self, topic: &str) -> bool {
        let find = function!(
            self.native.library,
            c"flux_plugin_match_handler",
            fn(Opaque, *const c_char) -> Opaque
        );
        let (Ok(find), Ok(topic)) = (find, string(topic)) else {
            return false;
        };
        !call!(find, self.pointer, topic.as_ptr()).is_null()
    }

    /// Calls it. Returns whether it is content, and what it put out.
    pub(super) fn call(
        &self,
        topic: &str,
        given: &Map<String, Value>,
    ) -> Result<(bool, Map<String, Value>), String> {
        let args = self.native.args(given)?;
        let good = self.call_with(topic, args);
        let out = self.native.out(args);
        let destroy = function!(
            self.native.library,
            c"flux_plugin_arg_destroy",
            fn(Opaque) -> ()
        )?;
        call!(destroy, args);
        Ok((good?, out?))
    }

    pub(super) fn call_with(&self, topic: &str, args: Opaque) -> Result<bool, String> {
        let function = function!(
            self.native.library,
            c"flux_plugin_call",
            fn(Opaque, *const c_char, Opaque) -> c_int
        )?;
        let topic = string(topic)?;
        let rc = call!(
            c::ferroflux_shell_call,
            function,
            self.pointer,
            topic.as_ptr(),
            args
        );
        Ok(rc >= 0)
    }
}

/// `flux_plugin_load_dso`, in the form of a call of a plugin.
extern "C" fn load_file(plugin: Opaque, path: *const c_char, load: Opaque) -> c_int {
    // SAFETY: it is the address of that function, see `Native::load`.
    #[expect(unsafe_code, reason = "functions found by name have no type")]
    let load = unsafe {
        std::mem::transmute::<Opaque, unsafe extern "C" fn(Opaque, *const c_char) -> c_int>(load)
    };
    call!(load, plugin, path)
}

impl Native {
    fn new(state: &Rc<State>, plugins: &Registry, path: &str) -> Result<Native, String> {
        let library = Library::open(LIBRARY)
            .or_else(|_| Library::open_with(path, libc::RTLD_LAZY | libc::RTLD_GLOBAL))
            .map_err(|text| format!("plugin.load: {text}"))?;
        let directory = library.directory(c"flux_plugin_create");
        for name in OTHERS {
            let beside = directory
                .as_ref()
                .map(|directory| format!("{directory}/{name}"));
            // A plugin that needs what is not there says so when it is loaded.
            let _missing =
                Library::open(name).or_else(|_| Library::open(&beside.unwrap_or_default()));
        }
        Ok(Native {
            library,
            state: state.clone(),
            plugins: plugins.clone(),
            shell: RefCell::default(),
            handle: Cell::new(ptr::null_mut()),
            aux: RefCell::default(),
            strings: RefCell::default(),
            services: RefCell::default(),
            references: RefCell::default(),
            task_at: Cell::new(0),
            taskmap: Cell::new(ptr::null_mut()),
            hostlist: Cell::new(ptr::null_mut()),
            command: Cell::new(ptr::null_mut()),
            command_names: RefCell::default(),
        })
    }

    fn load(&self, path: &str, conf: Option<&Value>) -> Result<Opaque, String> {
        let library = &self.library;
        let create = function!(library, c"flux_plugin_create", fn() -> Opaque)?;
        let plugin = call!(create);
        if plugin.is_null() {
            return Err("out of memory".to_owned());
        }
        if let Some(conf) = conf {
            let set = function!(
                library,
                c"flux_plugin_set_conf",
                fn(Opaque, *const c_char) -> c_int
            )?;
            let conf = string(&conf.to_string())?;
            if call!(set, plugin, conf.as_ptr()) < 0 {
                return Err(format!("plugin.load: {path}: {}", self.error_of(plugin)));
            }
        }
        let set = function!(
            library,
            c"flux_plugin_set_flags",
            fn(Opaque, c_int) -> c_int
        )?;
        call!(set, plugin, LOAD_NOW);
        let file = string(path)?;
        let load = library.symbol(c"flux_plugin_load_dso")?;
        let rc = call!(
            c::ferroflux_shell_call,
            load_file,
            plugin,
            file.as_ptr(),
            load
        );
        match rc {
            ..0 => Err(format!("plugin.load: {path}: {}", self.error_of(plugin))),
            _ => Ok(plugin),
        }
    }

    fn name_of(&self, plugin: Opaque) -> String {
        let get = function!(
            self.library,
            c"flux_plugin_get_name",
            fn(Opaque) -> *const c_char
        );
        get.map_or_else(
            |_| String::new(),
            |get| call!(foreign::text, call!(get, plugin)),
        )
    }

    fn error_of(&self, plugin: Opaque) -> String {
        let get = function!(
            self.library,
            c"flux_plugin_strerror",
            fn(Opaque) -> *const c_char
        );
        get.map_or_else(|text| text, |get| call!(foreign::text, call!(get, plugin)))
    }

    fn args(&self, given: &Map<String, Value>) -> Result<Opaque, String> {
        let create = function!(self.library, c"flux_plugin_arg_create", fn() -> Opaque)?;
        let set = function!(
            self.library,
            c"flux_plugin_arg_set",
            fn(Opaque, c_int, *const c_char) -> c_int
        )?;
        let args = call!(create);
        let json = string(&Value::Object(given.clone()).to_string())?;
        match args.is_null() || call!(set, args, ARG_IN, json.as_ptr()) < 0 {
            true => Err("out of memory".to_owned()),
            false => Ok(args),
        }
    }

    fn out(&self, args: Opaque) -> Result<Map<String, Value>, String> {
        let get = function!(
            self.library,
            c"flux_plugin_arg_get",
            fn(Opaque, c_int, *mut *mut c_char) -> c_int
        )?;
        let mut json: *mut c_char = ptr::null_mut();
        if call!(get, args, ARG_OUT, &mut json) < 0 || json.is_null() {
            return Ok(Map::new());
        }
        let text = call!(foreign::text, json);
        call!(libc::free, json.cast());
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }

    /// The plugins' own connection. Errors: the library's text.
    fn connect(&self) -> Result<Opaque, String> {
        let known = self.handle.get();
        if !known.is_null() {
            return Ok(known);
        }
        let open = function!(
            self.library,
            c"flux_open_ex",
            fn(*const c_char, c_int, *mut ErrorText) -> Opaque
        )?;
        let mut error = ErrorText::new();
        let handle = call!(open, ptr::null(), 0, &mut error);
        if handle.is_null() {
            return Err(format!("flux_open: {}", error.text()));
        }
        self.handle.set(handle);
        Ok(handle)
    }

    fn run_reactor(&self) {
        let handle = self.handle.get();
        if handle.is_null() {
            return;
        }
        let get = function!(self.library, c"flux_get_reactor", fn(Opaque) -> Opaque);
        let run = function!(
            self.library,
            c"flux_reactor_run",
            fn(Opaque, c_int) -> c_int
        );
        if let (Ok(get), Ok(run)) = (get, run) {
            let reactor = call!(get, handle);
            // A watcher that failed has logged why.
            call!(c::ferroflux_shell_run, run, reactor, NOWAIT);
        }
    }

    fn deliver(
        &self,
        message: &wire::Message,
        handler: HandlerFn,
        arg: Opaque,
    ) -> Result<(), String> {
        /// The length of what precedes a message in the framing of the local connector.
        const HEADER: usize = 8;
        let handle = self.connect()?;
        let decode = function!(
            self.library,
            c"flux_msg_decode",
            fn(*const c_void, usize) -> Opaque
        )?;
        let release = function!(self.library, c"flux_msg_decref", fn(*const c_void) -> ())?;
        let mut frame = bytes::BytesMut::new();
        wire::encode_stream(message, &mut frame);
        let frame = &frame[HEADER..];
        let decoded = call!(decode, frame.as_ptr().cast(), frame.len());
        if decoded.is_null() {
            return Err("a request cannot be decoded".to_owned());
        }
        call!(handler, handle, ptr::null_mut(), decoded.cast_const(), arg);
        call!(release, decoded.cast_const());
        Ok(())
    }

    fn lingers(&self) -> bool {
        !self.references.borrow().is_empty()
    }

    /// A string that lives as long as the shell.
    fn keep(&self, text: &str) -> *const c_char {
        let Ok(text) = CString::new(text) else {
            return ptr::null();
        };
        let mut strings = self.strings.borrow_mut();
        if !strings.contains(&text) {
            strings.insert(text.clone());
        }
        // The bytes of a string do not move with it.
        strings.get(&text).map_or(ptr::null(), |text| text.as_ptr())
    }
}

/// Takes over what plugins have changed in the command of the task a topic is about.
pub(super) fn take_command() {
    if let Some(native) = current() {
        table::take_command(&native);
    }
}

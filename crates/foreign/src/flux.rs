//! The client library plugins are linked to, `libflux-core.so`, as far as programs that load
//! plugins call it.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;

use crate::{ErrorText, Library, Opaque, call, function};
use serde_json::{Map, Value};

/// The library plugins are linked to.
const NAME: &str = "libflux-core.so.2";

/// What a callback is told (`FLUX_PLUGIN_ARG_IN`).
pub const ARG_IN: c_int = 0;

/// What it puts out (`FLUX_PLUGIN_ARG_OUT`).
pub const ARG_OUT: c_int = 1;

/// `FLUX_PLUGIN_RTLD_NOW`: what a plugin misses is said when it is loaded.
const LOAD_NOW: c_int = 2;

/// `FLUX_POLLIN`.
const POLLIN: c_int = 1;

/// `flux_watcher_f`.
pub type WatcherFn = extern "C" fn(Opaque, Opaque, c_int, Opaque);
/// `flux_plugin_call` and whatever is called like it: a plugin, a text, arguments.
pub type CallFn = unsafe extern "C" fn(Opaque, *const c_char, Opaque) -> c_int;
/// `flux_msg_handler_f`.
pub type HandlerFn = unsafe extern "C" fn(Opaque, Opaque, *const c_void, Opaque);
/// A function for messages, with what it is given along.
#[derive(Clone, Copy, Debug)]
pub struct Handler {
    /// The function.
    pub function: HandlerFn,
    /// What its plugin wants it to be given.
    pub arg: Opaque,
}

/// `flux_free_f`.
pub type FreeFn = unsafe extern "C" fn(Opaque);
type Get = unsafe extern "C" fn(Opaque) -> *const c_char;

macro_rules! pointer {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name(Opaque);

        impl $name {
            /// The pointer, for functions in C.
            pub fn pointer(self) -> Opaque {
                self.0
            }

            /// What C gave us a pointer to.
            ///
            /// # Safety
            ///
            /// It is one of the library's, and lives for as long as this is used.
            #[expect(unsafe_code, reason = "foreign pointer")]
            pub unsafe fn from_pointer(pointer: Opaque) -> $name {
                $name(pointer)
            }
        }
    };
}

pointer! {
    /// `flux_t`: a connection.
    Connection
}
pointer! {
    /// `flux_plugin_t`.
    Plugin
}
pointer! {
    /// `flux_plugin_arg_t`: what a callback is told and puts out.
    Args
}

/// The library, with what is called often.
#[derive(Debug)]
pub struct Flux {
    library: Library,
    plugin_call: CallFn,
    match_handler: unsafe extern "C" fn(Opaque, *const c_char) -> Opaque,
    arg_create: unsafe extern "C" fn() -> Opaque,
    arg_destroy: unsafe extern "C" fn(Opaque),
    arg_set: unsafe extern "C" fn(Opaque, c_int, *const c_char) -> c_int,
    arg_get: unsafe extern "C" fn(Opaque, c_int, *mut *mut c_char) -> c_int,
}

fn string(text: &str) -> Result<CString, String> {
    CString::new(text).map_err(|_| format!("{text:?}: NUL in text"))
}

impl Flux {
    /// Finds the library: the system's, or that which a plugin brings along.
    ///
    /// Errors: the loader's text.
    pub fn find(plugin: &str) -> Result<Flux, String> {
        let library = Library::open(NAME).or_else(|_| {
            // Its functions are there whether or not the plugin turns out to be one.
            Library::open_with(plugin, libc::RTLD_LAZY | libc::RTLD_GLOBAL)
        })?;
        Ok(Flux {
            plugin_call: function!(
                library,
                c"flux_plugin_call",
                fn(Opaque, *const c_char, Opaque) -> c_int
            )?,
            match_handler: function!(
                library,
                c"flux_plugin_match_handler",
                fn(Opaque, *const c_char) -> Opaque
            )?,
            arg_create: function!(library, c"flux_plugin_arg_create", fn() -> Opaque)?,
            arg_destroy: function!(library, c"flux_plugin_arg_destroy", fn(Opaque) -> ())?,
            arg_set: function!(
                library,
                c"flux_plugin_arg_set",
                fn(Opaque, c_int, *const c_char) -> c_int
            )?,
            arg_get: function!(
                library,
                c"flux_plugin_arg_get",
                fn(Opaque, c_int, *mut *mut c_char) -> c_int
            )?,
            library,
        })
    }

    /// Loads libraries that come with it, if they are there: beside it, or where the system has
    /// its own.
    pub fn open_beside(&self, names: &[&str]) {
        let directory = self.library.directory(c"flux_plugin_create");
        for name in names {
            let beside = directory
                .as_ref()
                .map(|directory| format!("{directory}/{name}"));
            // A plugin that needs what is not there says so when it is loaded.
            let _missing =
                Library::open(name).or_else(|_| Library::open(&beside.unwrap_or_default()));
        }
    }

    /// The address of one of its functions. Errors: a text that names it.
    pub fn symbol(&self, name: &CStr) -> Result<Opaque, String> {
        self.library.symbol(name)
    }

    /// Connects to the instance of the environment, to log under a name if one is given.
    ///
    /// Errors: the library's text.
    pub fn connect(&self, appname: Option<&CStr>) -> Result<Connection, String> {
        let open = function!(
            self,
            c"flux_open_ex",
            fn(*const c_char, c_int, *mut ErrorText) -> Opaque
        )?;
        let mut error = ErrorText::new();
        let handle = call!(open, ptr::null(), 0, &mut error);
        if handle.is_null() {
            return Err(format!("flux_open: {}", error.text()));
        }
        if let Some(appname) = appname {
            let name = function!(
                self,
                c"flux_log_set_appname",
                fn(Opaque, *const c_char) -> ()
            )?;
            call!(name, handle, appname.as_ptr());
        }
        Ok(Connection(handle))
    }

    /// Calls a function whenever one of these is readable. Errors: a text.
    pub fn watch(
        &self,
        handle: Connection,
        descriptors: &[c_int],
        on_ready: WatcherFn,
    ) -> Result<(), String> {
        let reactor = self.reactor(handle)?;
        let create = function!(
            self,
            c"flux_fd_watcher_create",
            fn(Opaque, c_int, c_int, WatcherFn, Opaque) -> Opaque
        )?;
        let start = function!(self, c"flux_watcher_start", fn(Opaque) -> ())?;
        for fd in descriptors {
            let watcher = call!(create, reactor, *fd, POLLIN, on_ready, ptr::null_mut());
            if watcher.is_null() {
                return Err("cannot watch for orders".to_owned());
            }
            call!(start, watcher);
        }
        Ok(())
    }

    /// The reactor of a connection. Errors: a text.
    pub fn reactor(&self, handle: Connection) -> Result<Opaque, String> {
        let get = function!(self, c"flux_get_reactor", fn(Opaque) -> Opaque)?;
        Ok(call!(get, handle.0))
    }

    /// Runs the main loop. Errors: a text.
    pub fn run(&self, handle: Connection) -> Result<(), String> {
        let run = function!(self, c"flux_reactor_run", fn(Opaque, c_int) -> c_int)?;
        match call!(run, self.reactor(handle)?, 0) {
            ..0 => Err("the reactor failed".to_owned()),
            _ => Ok(()),
        }
    }

    /// A plugin that is to be loaded from a file. What it misses is said when it is.
    ///
    /// Errors: the library's text.
    pub fn plugin(&self, conf: Option<&Map<String, Value>>) -> Result<Plugin, String> {
        let create = function!(self, c"flux_plugin_create", fn() -> Opaque)?;
        let plugin = call!(create);
        if plugin.is_null() {
            return Err("out of memory".to_owned());
        }
        if let Some(conf) = conf {
            let set = function!(
                self,
                c"flux_plugin_set_conf",
                fn(Opaque, *const c_char) -> c_int
            )?;
            let conf = string(&Value::Object(conf.clone()).to_string())?;
            if call!(set, plugin, conf.as_ptr()) < 0 {
                return Err(self.plugin_error(Plugin(plugin)));
            }
        }
        let set = function!(self, c"flux_plugin_set_flags", fn(Opaque, c_int) -> c_int)?;
        call!(set, plugin, LOAD_NOW);
        Ok(Plugin(plugin))
    }

    /// Loads it. Errors: the library's text.
    pub fn load(&self, plugin: Plugin, path: &str) -> Result<(), String> {
        let load = function!(
            self,
            c"flux_plugin_load_dso",
            fn(Opaque, *const c_char) -> c_int
        )?;
        let path = string(path)?;
        match call!(load, plugin.0, path.as_ptr()) {
            ..0 => Err(self.plugin_error(plugin)),
            _ => Ok(()),
        }
    }

    fn text_of(&self, name: &CStr, plugin: Plugin) -> String {
        let Ok(address) = self.symbol(name) else {
            return String::new();
        };
        // SAFETY: functions named here take a plugin and answer a string.
        #[expect(unsafe_code, reason = "functions found by name have no type")]
        let get = unsafe { std::mem::transmute::<Opaque, Get>(address) };
        let text = call!(get, plugin.0);
        call!(crate::text, text)
    }

    /// What was wrong with it last.
    pub fn plugin_error(&self, plugin: Plugin) -> String {
        self.text_of(c"flux_plugin_strerror", plugin)
    }

    /// The name a plugin gave itself; empty if none.
    pub fn plugin_name(&self, plugin: Plugin) -> String {
        self.text_of(c"flux_plugin_get_name", plugin)
    }

    /// Unloads a plugin.
    pub fn destroy(&self, plugin: Plugin) {
        if let Ok(destroy) = function!(self, c"flux_plugin_destroy", fn(Opaque) -> ()) {
            call!(destroy, plugin.0);
        }
    }

    /// Whether a plugin is there for a topic.
    pub fn handles(&self, plugin: Plugin, topic: &CStr) -> bool {
        let handler = call!((self.match_handler), plugin.0, topic.as_ptr());
        !handler.is_null()
    }

    /// The function that calls a plugin.
    pub fn call_function(&self) -> CallFn {
        self.plugin_call
    }

    /// Calls a plugin. Whether it succeeded.
    pub fn call(&self, plugin: Plugin, topic: &CStr, args: Args) -> bool {
        call!((self.plugin_call), plugin.0, topic.as_ptr(), args.0) >= 0
    }

    /// Arguments of a callback. `None` for want of memory.
    pub fn args(&self, args: &Map<String, Value>) -> Option<Args> {
        let pointer = call!((self.arg_create));
        if pointer.is_null() {
            return None;
        }
        let new = Args(pointer);
        self.set_args(new, ARG_IN, args).then_some(new)
    }

    /// Adds to arguments. Whether that worked.
    pub fn set_args(&self, args: Args, which: c_int, add: &Map<String, Value>) -> bool {
        let json = serde_json::to_string(add).unwrap_or_default();
        let Ok(json) = CString::new(json) else {
            return false;
        };
        call!((self.arg_set), args.0, which, json.as_ptr()) >= 0
    }

    /// What plugins put out.
    pub fn out(&self, args: Args) -> Map<String, Value> {
        let mut json: *mut c_char = ptr::null_mut();
        if call!((self.arg_get), args.0, ARG_OUT, &mut json) < 0 || json.is_null() {
            return Map::new();
        }
        let text = call!(crate::text, json);
        call!(libc::free, json.cast());
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Frees arguments.
    pub fn destroy_args(&self, args: Args) {
        call!((self.arg_destroy), args.0);
    }

    /// Gives a message, as the local connector frames it but for the header, to who registered a
    /// service. Errors: a text.
    pub fn deliver(
        &self,
        handle: Connection,
        frame: &[u8],
        handler: Handler,
    ) -> Result<(), String> {
        let decode = function!(self, c"flux_msg_decode", fn(*const c_void, usize) -> Opaque)?;
        let release = function!(self, c"flux_msg_decref", fn(*const c_void) -> ())?;
        let message = call!(decode, frame.as_ptr().cast(), frame.len());
        if message.is_null() {
            return Err("a request cannot be decoded".to_owned());
        }
        let (function, arg) = (handler.function, handler.arg);
        let message_pointer = message.cast_const();
        call!(function, handle.0, ptr::null_mut(), message_pointer, arg);
        call!(release, message.cast_const());
        Ok(())
    }
}

//! Code in C that is loaded at run time: modules and plugins, and the client library they are
//! linked to.
//!
//! Such files are linked to `libflux-core.so`. Opening one loads that library too, and its
//! functions are then found by name: nothing of it is needed to build or run anything else. Who
//! calls one spells its signature with [`function!`], which must be that of the library's header.

#![allow(
    clippy::macro_metavars_in_unsafe,
    reason = "every use of `call!` is a call of foreign code"
)]

pub mod answer;
pub mod flux;

use std::ffi::{CStr, CString, c_char, c_int, c_void};

/// A pointer to what only the library looks into: `flux_t`, `flux_plugin_t` and others.
pub type Opaque = *mut c_void;

/// `flux_error_t`: a text that is cut to fit.
#[repr(C)]
#[derive(Debug)]
pub struct ErrorText([c_char; 160]);

impl Default for ErrorText {
    fn default() -> ErrorText {
        ErrorText([0; 160])
    }
}

impl ErrorText {
    /// No text.
    pub fn new() -> ErrorText {
        ErrorText::default()
    }

    /// The text.
    pub fn text(&self) -> String {
        let bytes: Vec<u8> = self
            .0
            .iter()
            .map(|&c| c as u8)
            .take_while(|&c| c != 0)
            .collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Finds a function by name and gives it the signature that follows.
///
/// The signature must be that of the function: a file that uses this lists all it uses.
#[macro_export]
macro_rules! function {
    ($library:expr, $name:literal, fn($($arg:ty),*) -> $ret:ty) => {{
        $library.symbol($name).map(|address| {
            // SAFETY: the signature is that of the library's header for this name.
            #[expect(unsafe_code, reason = "functions found by name have no type")]
            unsafe {
                std::mem::transmute::<$crate::Opaque, unsafe extern "C" fn($($arg),*) -> $ret>(
                    address,
                )
            }
        })
    }};
}

/// Calls a function found so, or another whose arguments are the caller's to vouch for. Pointers
/// given must be live for the call.
#[macro_export]
macro_rules! call {
    ($function:expr $(, $arg:expr)*) => {{
        // SAFETY: pointers given are live for the call; handles come from this library.
        #[expect(unsafe_code, reason = "foreign function")]
        unsafe { $function($($arg),*) }
    }};
}

/// The text of a string in C; empty for none.
///
/// # Safety
///
/// It must end with NUL and live for the call.
#[expect(unsafe_code, reason = "foreign string")]
pub unsafe fn text(string: *const c_char) -> String {
    if string.is_null() {
        return String::new();
    }
    // SAFETY: as the caller vouches.
    let text = unsafe { CStr::from_ptr(string) };
    text.to_string_lossy().into_owned()
}

/// A library, loaded for good.
#[derive(Clone, Debug)]
pub struct Library {
    library: Opaque,
    path: String,
}

impl Library {
    /// Loads a file with everything it needs, for everybody in this process to find.
    ///
    /// Errors: the loader's text, which names the file.
    pub fn open(path: &str) -> Result<Library, String> {
        Library::open_with(path, libc::RTLD_NOW | libc::RTLD_GLOBAL)
    }

    /// Loads a file with these flags of dlopen(3). Errors: as [`Library::open`].
    pub fn open_with(path: &str, flags: c_int) -> Result<Library, String> {
        let file = CString::new(path).map_err(|_| format!("{path:?}: NUL in path"))?;
        let library = call!(libc::dlopen, file.as_ptr(), flags);
        if library.is_null() {
            return Err(call!(text, libc::dlerror()));
        }
        Ok(Library {
            library,
            path: path.to_owned(),
        })
    }

    /// All that is loaded for everybody to find.
    ///
    /// Errors: as [`Library::open`].
    pub fn all() -> Result<Library, String> {
        let library = call!(libc::dlopen, std::ptr::null(), libc::RTLD_NOW);
        match library.is_null() {
            true => Err(call!(text, libc::dlerror())),
            false => Ok(Library {
                library,
                path: "loaded libraries".to_owned(),
            }),
        }
    }

    /// The directory of the file a name is defined in. `None` if it has none.
    pub fn directory(&self, name: &CStr) -> Option<String> {
        let address = self.symbol(name).ok()?;
        let mut info = libc::Dl_info {
            dli_fname: std::ptr::null(),
            dli_fbase: std::ptr::null_mut(),
            dli_sname: std::ptr::null(),
            dli_saddr: std::ptr::null_mut(),
        };
        if call!(libc::dladdr, address.cast_const(), &mut info) == 0 {
            return None;
        }
        let file = call!(text, info.dli_fname);
        file.rsplit_once('/')
            .map(|(directory, _)| directory.to_owned())
    }

    /// The address of a name in the file or what it needs. Errors: a text that names both.
    pub fn symbol(&self, name: &CStr) -> Result<Opaque, String> {
        let address = call!(libc::dlsym, self.library, name.as_ptr());
        if address.is_null() {
            return Err(format!(
                "{}: {} is not defined",
                self.path,
                name.to_string_lossy()
            ));
        }
        Ok(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let error = Library::open("/nowhere/none.so").expect_err("no such file");
        assert!(error.contains("/nowhere/none.so"), "{error}");
        let library = Library::open("libc.so.6").expect("every program has it");
        let getpid = function!(library, c"getpid", fn() -> c_int).expect("it is defined");
        assert_eq!(call!(getpid) as u32, std::process::id());
        let directory = library.directory(c"getpid").expect("it is a file");
        assert!(std::path::Path::new(&directory).join("libc.so.6").exists());
        Library::all()
            .expect("the program")
            .symbol(c"getpid")
            .expect("it is loaded");
        let error = library.symbol(c"no_such_name").expect_err("undefined");
        assert_eq!(error, "libc.so.6: no_such_name is not defined");
    }
}

//! What functions that C calls answer: a result, or −1 or NULL and `errno`.

use std::ffi::{CString, c_char, c_int};
use std::ptr;

use types::Errno;

use crate::flux::FreeFn;
use crate::{Opaque, call};

fn set_errno(errno: Errno) {
    // SAFETY: the address is this thread's own.
    #[expect(unsafe_code, reason = "errno")]
    unsafe {
        *libc::__errno_location() = errno.0;
    }
}

/// 0, or −1 and `errno`.
pub fn status(result: Result<(), Errno>) -> c_int {
    number(result.map(|()| 0))
}

/// A number, or −1 and `errno`.
pub fn number(result: Result<c_int, Errno>) -> c_int {
    result.unwrap_or_else(|errno| {
        set_errno(errno);
        -1
    })
}

/// A pointer, or NULL and `errno`.
pub fn pointer(result: Result<Opaque, Errno>) -> Opaque {
    result.unwrap_or_else(|errno| {
        set_errno(errno);
        ptr::null_mut()
    })
}

/// A string that has to be there. Errors: `EINVAL` for NULL.
///
/// # Safety
///
/// As [`crate::text`].
#[expect(unsafe_code, reason = "foreign string")]
pub unsafe fn string(text: *const c_char) -> Result<String, Errno> {
    match text.is_null() {
        true => Err(Errno::EINVAL),
        false => Ok(call!(crate::text, text)),
    }
}

/// A string the caller frees. Errors: `EINVAL` for NUL in it, `ENOMEM`.
pub fn give(text: &str) -> Result<*mut c_char, Errno> {
    let text = CString::new(text).map_err(|_| Errno::EINVAL)?;
    let copy = call!(libc::strdup, text.as_ptr());
    match copy.is_null() {
        true => Err(Errno::ENOMEM),
        false => Ok(copy),
    }
}

/// Gives a result by pointer, if there is one.
///
/// # Safety
///
/// It is NULL or the address of a variable of this type.
#[expect(unsafe_code, reason = "a result by pointer")]
pub unsafe fn put<T>(place: *mut T, value: T) {
    if !place.is_null() {
        // SAFETY: as the caller vouches.
        unsafe {
            *place = value;
        }
    }
}

/// A value a plugin has left with us, with what frees it.
#[derive(Debug)]
pub struct Aux {
    /// The value.
    pub value: Opaque,
    /// What frees it.
    pub free: Option<FreeFn>,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_numbers_and_errno() {
        assert_eq!(status(Ok(())), 0);
        assert_eq!(number(Ok(7)), 7);
        assert_eq!(status(Err(Errno::ENOENT)), -1);
        let left = std::io::Error::last_os_error();
        assert_eq!(Errno::from_io(&left), Errno::ENOENT);
        assert!(pointer(Err(Errno::EINVAL)).is_null());
        assert_eq!(call!(string, ptr::null()), Err(Errno::EINVAL));
        assert_eq!(call!(string, c"text".as_ptr()).as_deref(), Ok("text"));
        assert_eq!(give("a\0b"), Err(Errno::EINVAL));
        let mut place = 0;
        call!(put, &mut place, 3);
        call!(put, ptr::null_mut(), 4);
        assert_eq!(place, 3);
    }
}

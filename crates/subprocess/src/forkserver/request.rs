//! What the broker asks of its fork server, and what it hears.
//!
//! A request is a header, sent together with three descriptors (standard input, output and error),
//! and a body of that many bytes. A reply has a fixed size. Both ends are the same executable on
//! the same host, so numbers have its byte order.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use types::Errno;

/// Bytes of a header: the request's number and its body's size.
pub(super) const HEADER_SIZE: usize = 8;
/// Bytes of a reply: the request's number, and the process id or the negative error number.
pub(super) const REPLY_SIZE: usize = 8;
/// The largest body a server takes. The kernel allows a program's arguments and environment less.
pub(super) const BODY_MAX: usize = 16 << 20;

/// The process to make.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Request {
    /// Whether it leads a process group of its own.
    pub(crate) own_group: bool,
    /// Its working directory; empty for the server's.
    pub(crate) cwd: OsString,
    /// Its arguments, the program's name first.
    pub(crate) argv: Vec<OsString>,
    /// Its whole environment.
    pub(crate) env: Vec<(OsString, OsString)>,
}

pub(super) fn encode_header(number: u32, size: u32) -> [u8; HEADER_SIZE] {
    pair(number, size)
}

pub(super) fn decode_header(header: [u8; HEADER_SIZE]) -> (u32, usize) {
    let (number, size) = unpair(header);
    (number, size as usize)
}

pub(super) fn encode_reply(number: u32, result: Result<i32, Errno>) -> [u8; REPLY_SIZE] {
    let value = result.unwrap_or_else(|errno| -errno.0);
    pair(number, value as u32)
}

pub(super) fn decode_reply(reply: [u8; REPLY_SIZE]) -> (u32, Result<i32, Errno>) {
    let (number, value) = unpair(reply);
    let value = value as i32;
    let result = match value {
        1.. => Ok(value),
        _ => Err(Errno(value.saturating_neg())),
    };
    (number, result)
}

fn pair(first: u32, second: u32) -> [u8; 8] {
    (u64::from(first) | u64::from(second) << 32).to_le_bytes()
}

fn unpair(bytes: [u8; 8]) -> (u32, u32) {
    let both = u64::from_le_bytes(bytes);
    (both as u32, (both >> 32) as u32)
}

impl Request {
    /// The body: a byte for the group, then strings, each ended by NUL: the working directory, the
    /// number of arguments, the arguments, and the environment as `NAME=VALUE`.
    ///
    /// Errors: `EINVAL` a string with a NUL in it, or a variable's name with `=`; `E2BIG`.
    pub(super) fn encode(&self) -> Result<Vec<u8>, Errno> {
        let mut body = vec![u8::from(self.own_group)];
        push(&mut body, self.cwd.as_bytes())?;
        push(&mut body, self.argv.len().to_string().as_bytes())?;
        for word in &self.argv {
            push(&mut body, word.as_bytes())?;
        }
        for (name, value) in &self.env {
            let (name, value) = (name.as_bytes(), value.as_bytes());
            if name.is_empty() || name.contains(&b'=') || name.contains(&0) {
                return Err(Errno::EINVAL);
            }
            body.extend_from_slice(name);
            body.push(b'=');
            push(&mut body, value)?;
        }
        match body.len() <= BODY_MAX {
            true => Ok(body),
            false => Err(Errno(libc::E2BIG)),
        }
    }

    /// Reads a body; `None` if it is none.
    pub(super) fn decode(body: &[u8]) -> Option<Request> {
        let (group, rest) = body.split_first()?;
        let mut strings = rest.strip_suffix(b"\0")?.split(|byte| *byte == 0);
        let owned = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        let cwd = owned(strings.next()?);
        let argc: usize = std::str::from_utf8(strings.next()?).ok()?.parse().ok()?;
        let argv: Vec<OsString> = strings.by_ref().take(argc).map(owned).collect();
        if argv.len() != argc {
            return None;
        }
        let variable = |bytes: &[u8]| {
            let at = bytes.iter().position(|byte| *byte == b'=')?;
            (at > 0).then(|| (owned(&bytes[..at]), owned(&bytes[at + 1..])))
        };
        Some(Request {
            own_group: *group != 0,
            cwd,
            argv,
            env: strings.map(variable).collect::<Option<_>>()?,
        })
    }
}

fn push(body: &mut Vec<u8>, bytes: &[u8]) -> Result<(), Errno> {
    if bytes.contains(&0) {
        return Err(Errno::EINVAL);
    }
    body.extend_from_slice(bytes);
    body.push(0);
    Ok(())
}

/// Reads arbitrary bytes as a request; what is one must survive being written.
pub fn fuzz_request(data: &[u8]) {
    if let Some(request) = Request::decode(data) {
        let body = request.encode().expect("decoded strings hold no NUL");
        assert_eq!(Request::decode(&body), Some(request));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request {
            own_group: true,
            cwd: "/tmp".into(),
            argv: vec!["a".into(), String::new().into(), "c d".into()],
            env: vec![("X".into(), "1=2".into()), ("EMPTY".into(), "".into())],
        }
    }

    #[test]
    fn a_body_survives() {
        for request in [request(), Request::default()] {
            let body = request.encode().unwrap();
            assert_eq!(Request::decode(&body), Some(request));
        }
    }

    #[test]
    fn what_no_process_can_have_is_refused() {
        let mut bad = request();
        bad.argv.push("a\0b".into());
        assert_eq!(bad.encode(), Err(Errno::EINVAL));
        for name in ["", "A=B", "A\0"] {
            let mut bad = request();
            bad.env.push((name.into(), "".into()));
            assert_eq!(bad.encode(), Err(Errno::EINVAL));
        }
    }

    #[test]
    fn a_torn_body_is_none() {
        let body = request().encode().unwrap();
        for bad in [
            &b""[..],
            b"\x01",
            b"\x01\0",
            b"\0\x009\0a\0",
            b"\0\x000\0=x\0",
        ] {
            assert_eq!(Request::decode(bad), None, "{bad:?}");
        }
        assert_eq!(Request::decode(&body[..body.len() - 1]), None);
    }

    #[test]
    fn headers_and_replies_survive() {
        assert_eq!(decode_header(encode_header(7, 9)), (7, 9));
        for result in [Ok(1), Ok(i32::MAX), Err(Errno::EAGAIN)] {
            assert_eq!(decode_reply(encode_reply(3, result)), (3, result));
        }
    }
}

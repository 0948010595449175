//! Terminals and the clients attached to them: the terminus protocol.
//!
//! Servers have names of their own: a user's is `USERID-terminus`, a job shell's `SERVICE.terminus`.
//! Each session is one more method, called by the session's number; see [`session_topic`].

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Empty, rpc};

/// The name of a user's server.
pub fn user_service(userid: u32) -> String {
    format!("{userid}-terminus")
}

/// Where a session takes [`Order`]s.
pub fn session_topic(service: &str, id: u32) -> String {
    format!("{service}.{id}")
}

/// The size of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WinSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub cols: u16,
}

/// Which ways data goes for a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// The client sees the terminal and types.
    #[default]
    #[serde(rename = "rw")]
    ReadWrite,
    /// It only sees.
    #[serde(rename = "ro")]
    ReadOnly,
    /// It only types.
    #[serde(rename = "wo")]
    WriteOnly,
}

/// Bytes of a terminal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Data {
    /// The bytes as text.
    pub data: String,
    /// `base64` if the text is that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
}

impl Data {
    /// Encodes bytes: as text if they are text without NUL, which C programs could not tell from
    /// its end.
    pub fn new(bytes: &[u8]) -> Data {
        match std::str::from_utf8(bytes) {
            Ok(text) if !bytes.contains(&0) => Data {
                data: text.to_owned(),
                encoding: None,
            },
            _ => Data {
                data: BASE64.encode(bytes),
                encoding: Some("base64".to_owned()),
            },
        }
    }

    /// The bytes; `None` if they are not in the encoding named.
    pub fn bytes(self) -> Option<Vec<u8>> {
        match self.encoding.as_deref() {
            None | Some("UTF-8") => Some(self.data.into_bytes()),
            Some("base64") => BASE64.decode(self.data).ok(),
            Some(_) => None,
        }
    }
}

/// What a client says to a session. Errors: `ENOENT` no such session, or the client is not
/// attached, `EEXIST` it is already, `ENOSYS` unknown type, `EPROTO`, `EPERM`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Order {
    /// Attach; answered by a stream of [`Notice`]s.
    Attach {
        /// Which ways data goes.
        #[serde(default)]
        mode: Mode,
        /// The size of the client's terminal.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        winsize: Option<WinSize>,
    },
    /// Take another size.
    Resize {
        /// The size.
        winsize: WinSize,
    },
    /// Take what was typed.
    Data(Data),
    /// End the stream.
    Detach,
    /// Anything else.
    #[serde(other)]
    Unknown,
}

/// What a session tells a client that is attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Notice {
    /// The client is attached.
    Attach,
    /// The client shall tell its size.
    Resize,
    /// Output.
    Data(Data),
    /// Nothing more will come.
    Exit {
        /// Why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
        /// How the process ended, as of `wait(2)`.
        status: i32,
    },
    /// Anything else.
    #[serde(other)]
    Unknown,
}

/// A server and its sessions.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct List {
    /// The server.
    pub server: ServerInfo,
    /// Its sessions.
    pub sessions: Vec<SessionInfo>,
}

/// A server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServerInfo {
    /// Its name.
    pub service: String,
    /// The rank of its broker.
    pub rank: u32,
    /// When it was started.
    pub ctime: f64,
}

/// A session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SessionInfo {
    /// Its number.
    pub id: u32,
    /// What it is called.
    pub name: String,
    /// How many clients are attached.
    pub clients: usize,
    /// The process, -1 before it runs.
    pub pid: i32,
    /// Whether that has ended: 0 or 1.
    pub exited: i32,
    /// When it was started.
    pub ctime: f64,
}

/// A session to start.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct New {
    /// What to call it; after its program if that is empty.
    #[serde(default)]
    pub name: String,
    /// What to run; the user's shell if absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// Changes to the server's environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environ: Option<Map<String, Value>>,
    /// The working directory; the server's if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Whether, if not 0, the session stays until a client has been attached.
    #[serde(default)]
    pub wait: i32,
}

/// A session that was started.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Created {
    /// What it is called.
    pub name: String,
    /// Where it takes orders.
    pub pty_service: String,
    /// Its number.
    pub id: u32,
}

/// A signal to send.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Kill {
    /// The session.
    pub id: u32,
    /// The signal.
    pub signal: i32,
    /// Whether, if not 0, to answer only when the session has ended.
    #[serde(default)]
    pub wait: i32,
}

rpc! {
    /// Lists the sessions.
    TerminusList: "terminus", "list", Single, User, Empty => List
}
rpc! {
    /// Starts a session. Errors: those of `exec(2)`.
    TerminusNew: "terminus", "new", Single, User, New => Created
}
rpc! {
    /// Signals a session's process. Errors: `ENOENT` no such session, `ESRCH`, `EINVAL`.
    TerminusKill: "terminus", "kill", Single, User, Kill => Empty
}
rpc! {
    /// Kills all sessions and ends the server.
    TerminusKillServer: "terminus", "kill-server", Single, User, Empty => Empty
}

/// Decodes what a session and its clients send each other, and encodes it again.
pub fn fuzz(input: &[u8]) {
    let bytes = |data: Data| {
        if let Some(bytes) = data.bytes() {
            assert_eq!(Data::new(&bytes).bytes(), Some(bytes));
        }
    };
    if let Ok(Order::Data(data)) = serde_json::from_slice(input) {
        bytes(data);
    }
    if let Ok(Notice::Data(data)) = serde_json::from_slice(input) {
        bytes(data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_send_is_understood() {
        let check = |text: &str, expect: Option<Order>| {
            assert_eq!(serde_json::from_str(text).ok(), expect, "{text}");
        };
        let winsize = WinSize { rows: 25, cols: 80 };
        check(
            r#"{"type":"attach","mode":"wo","winsize":{"rows":25,"cols":80}}"#,
            Some(Order::Attach {
                mode: Mode::WriteOnly,
                winsize: Some(winsize),
            }),
        );
        check(r#"{"type":"attach","mode":"x"}"#, None);
        check(
            r#"{"type":"resize","winsize":{"rows":25,"cols":80}}"#,
            Some(Order::Resize { winsize }),
        );
        check(r#"{"type":"resize","winsize":{"rows":-1,"cols":80}}"#, None);
        check(r#"{"type":"detach"}"#, Some(Order::Detach));
        check(r#"{"type":"dance"}"#, Some(Order::Unknown));
        check("{}", None);
    }

    #[test]
    fn bytes_that_are_no_text_go_in_base64() {
        let check = |bytes: &[u8], expect: &str| {
            let text = serde_json::to_string(&Notice::Data(Data::new(bytes)));
            assert_eq!(text.ok().as_deref(), Some(expect));
            assert_eq!(Data::new(bytes).bytes().as_deref(), Some(bytes));
        };
        check("ƒ\r\n".as_bytes(), r#"{"type":"data","data":"ƒ\r\n"}"#);
        check(
            b"\0",
            r#"{"type":"data","data":"AA==","encoding":"base64"}"#,
        );
        check(
            b"\xff",
            r#"{"type":"data","data":"/w==","encoding":"base64"}"#,
        );
        let odd = Data {
            data: "!".to_owned(),
            encoding: Some("base64".to_owned()),
        };
        assert_eq!(odd.bytes(), None);
    }
}

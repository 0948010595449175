//! A process's side of the protocol.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use crate::line::Line;

/// Why the server could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The connection failed.
    #[error("{operation}: {source}")]
    Io {
        /// What was being done.
        operation: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The server's answer is not one.
    #[error("{operation}: unexpected answer '{answer}'")]
    Protocol {
        /// What was being done.
        operation: &'static str,
        /// What came.
        answer: String,
    },
    /// The server refused.
    #[error("{operation}: operation failed with rc={rc}")]
    Refused {
        /// What was being done.
        operation: &'static str,
        /// The server's code.
        rc: i64,
    },
}

/// A connection to the server, in use by this process alone.
#[derive(Debug)]
pub struct Client {
    reader: BufReader<UnixStream>,
    kvsname: String,
}

impl Client {
    /// Says hello over the socket whose descriptor `PMI_FD` names.
    pub fn connect(socket: UnixStream) -> Result<Client, ClientError> {
        let mut client = Client {
            reader: BufReader::new(socket),
            kvsname: String::new(),
        };
        let init = "cmd=init pmi_version=1 pmi_subversion=1";
        client.exchange("initialize", init, "response_to_init", None)?;
        let answer = client.exchange(
            "initialize",
            "cmd=get_my_kvsname",
            "my_kvsname",
            Some("kvsname"),
        )?;
        client.kvsname = answer.unwrap_or_default();
        Ok(client)
    }

    /// The name of the job.
    pub fn kvsname(&self) -> &str {
        &self.kvsname
    }

    /// Publishes a pair, visible to others after the next barrier.
    pub fn put(&mut self, key: &str, value: &str) -> Result<(), ClientError> {
        let line = format!("cmd=put kvsname={} key={key} value={value}", self.kvsname);
        self.exchange("put", &line, "put_result", None).map(drop)
    }

    /// Reads a pair; `None` if there is none.
    pub fn get(&mut self, key: &str) -> Result<Option<String>, ClientError> {
        let line = format!("cmd=get kvsname={} key={key}", self.kvsname);
        match self.exchange("get", &line, "get_result", Some("value")) {
            // Some launchers append a word of their own after the value.
            Ok(value) => Ok(value.map(|value| {
                value
                    .strip_suffix(" found=TRUE")
                    .map(str::to_owned)
                    .unwrap_or(value)
            })),
            Err(ClientError::Refused { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Waits until every process has come here.
    pub fn barrier(&mut self) -> Result<(), ClientError> {
        self.exchange("barrier", "cmd=barrier_in", "barrier_out", None)
            .map(drop)
    }

    /// Says goodbye.
    pub fn finalize(mut self) -> Result<(), ClientError> {
        self.exchange("finalize", "cmd=finalize", "finalize_ack", None)
            .map(drop)
    }

    /// Asks for the end of the whole program.
    pub fn abort(mut self, code: i32, message: &str) -> Result<(), ClientError> {
        let line = format!("cmd=abort exitcode={code} error_msg={message}\n");
        self.reader
            .get_mut()
            .write_all(line.as_bytes())
            .map_err(|source| ClientError::Io {
                operation: "abort",
                source,
            })
    }

    fn exchange(
        &mut self,
        operation: &'static str,
        line: &str,
        expect: &str,
        field: Option<&str>,
    ) -> Result<Option<String>, ClientError> {
        let io = |source| ClientError::Io { operation, source };
        self.reader
            .get_mut()
            .write_all(format!("{line}\n").as_bytes())
            .map_err(io)?;
        let mut answer = String::new();
        if self.reader.read_line(&mut answer).map_err(io)? == 0 {
            return Err(io(std::io::ErrorKind::UnexpectedEof.into()));
        }
        let parsed = Line::parse(&answer)
            .ok()
            .filter(|line| line.command() == expect);
        let Some(parsed) = parsed else {
            let answer = answer.trim_end().to_owned();
            return Err(ClientError::Protocol { operation, answer });
        };
        match parsed.number("rc") {
            None | Some(0) => {}
            Some(rc) => return Err(ClientError::Refused { operation, rc }),
        }
        Ok(field
            .and_then(|field| parsed.rest(field))
            .map(str::to_owned))
    }
}

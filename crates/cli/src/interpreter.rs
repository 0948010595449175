//! A Python interpreter that answers questions, for what users write in Python.
//!
//! It is asked a line of JSON at a time, over its standard input, which is a socket: what users'
//! code prints goes where it always did.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use types::Errno;

use crate::commands::python;

/// Gives a script `serve(answer)`, which calls `answer` with the members of each question.
const SERVE: &str = r#"
import json, os, socket, sys
def serve(answer):
    channel = socket.socket(fileno=os.dup(0)).makefile("rw", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for line in channel:
        try:
            reply = {"value": answer(**json.loads(line))}
        except Exception as error:
            reply = {"error": str(error) or type(error).__name__}
        sys.stdout.flush()
        channel.write(json.dumps(reply) + "\n")
        channel.flush()
"#;

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Reply<A> {
    Value(A),
    Error(String),
}

/// A running interpreter.
pub(crate) struct Interpreter {
    child: Child,
    channel: BufReader<UnixStream>,
}

impl Interpreter {
    /// Starts one with a script, which is to call `serve` at its end.
    pub(crate) fn start(script: &str) -> Result<Interpreter, String> {
        let mut command = python::interpreter_command();
        let failed = |error: std::io::Error| format!("Python: {}", Errno::from_io(&error));
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        command.arg("-c").arg(format!("{SERVE}{script}"));
        command.stdin(Stdio::from(OwnedFd::from(theirs)));
        let child = command.spawn().map_err(|error| {
            let python = command.get_program().display().to_string();
            format!("{python}: {}", Errno::from_io(&error))
        })?;
        Ok(Interpreter {
            child,
            channel: BufReader::new(ours),
        })
    }

    /// Asks a question. The error is what Python says.
    pub(crate) fn ask<A: DeserializeOwned>(
        &mut self,
        question: &impl Serialize,
    ) -> Result<A, String> {
        let mut line = serde_json::to_string(question).map_err(|error| error.to_string())?;
        line.push('\n');
        let asked = self.channel.get_mut().write_all(line.as_bytes());
        line.clear();
        let answered = asked.and_then(|()| self.channel.read_line(&mut line));
        match answered {
            Ok(0) => Err("Python ended".to_owned()),
            Err(error) => Err(format!("Python: {}", Errno::from_io(&error))),
            Ok(_) => match serde_json::from_str(&line) {
                Ok(Reply::Value(value)) => Ok(value),
                Ok(Reply::Error(text)) => Err(text),
                Err(error) => Err(format!("Python: {error}")),
            },
        }
    }
}

impl Drop for Interpreter {
    fn drop(&mut self) {
        // It may be busy with what nobody waits for any more, or be gone already.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

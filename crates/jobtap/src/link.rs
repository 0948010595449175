//! The socket to the job manager.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process;

use proto::jobtap::{Order, Report, encode};
use serde_json::Value;

/// The most that is read at once.
const CHUNK: usize = 64 * 1024;

pub(crate) struct Link {
    socket: UnixStream,
    input: Vec<u8>,
    /// Requests for services, which wait until no plugin is in the middle of something.
    pub(crate) deferred: VecDeque<Order>,
    answers: HashMap<u64, (Value, i32)>,
    asked: u64,
    /// What is written to the first of these makes the reactor look at orders again.
    wake: (UnixStream, UnixStream),
}

impl Link {
    /// The socket that is the standard input.
    pub(crate) fn open() -> io::Result<Link> {
        let input = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        if input.local_addr().is_err() {
            let text = "not a socket: this is started by the job manager";
            return Err(io::Error::other(text));
        }
        let wake = UnixStream::pair()?;
        wake.0.set_nonblocking(true)?;
        wake.1.set_nonblocking(true)?;
        Ok(Link {
            socket: input,
            input: Vec::new(),
            deferred: VecDeque::new(),
            answers: HashMap::new(),
            asked: 0,
            wake,
        })
    }

    /// What is readable when orders have come, and when they are to be looked at again.
    pub(crate) fn descriptors(&self) -> [RawFd; 2] {
        [self.socket.as_raw_fd(), self.wake.1.as_raw_fd()]
    }

    pub(crate) fn wake(&mut self) {
        // Full means that it will wake anyway.
        let _full = self.wake.0.write(&[0]);
    }

    pub(crate) fn woken(&mut self) {
        let mut bytes = [0; 64];
        while matches!(self.wake.1.read(&mut bytes), Ok(count) if count > 0) {}
    }

    /// Whether there are orders nobody would look at before the next come.
    pub(crate) fn has_more(&self) -> bool {
        !self.deferred.is_empty() || self.input.contains(&b'\n')
    }

    /// Reads once. A job manager that is gone, or speaks otherwise, ends the process.
    pub(crate) fn fill(&mut self) {
        let start = self.input.len();
        self.input.resize(start + CHUNK, 0);
        let count = match self.socket.read(&mut self.input[start..]) {
            Ok(0) => process::exit(0),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(_) => process::exit(0),
        };
        self.input.truncate(start + count);
    }

    /// The next order that has come whole.
    pub(crate) fn next(&mut self) -> Option<Order> {
        let end = self.input.iter().position(|byte| *byte == b'\n')?;
        let line: Vec<u8> = self.input.drain(..=end).collect();
        match serde_json::from_slice(&line) {
            Ok(order) => Some(order),
            Err(error) => {
                types::complain!("flux-jobtap-host: invalid order: {error}");
                process::exit(1);
            }
        }
    }

    /// The next order, waiting for it.
    pub(crate) fn receive(&mut self) -> Order {
        loop {
            if let Some(order) = self.next() {
                return order;
            }
            self.fill();
        }
    }

    pub(crate) fn send(&mut self, report: &Report) {
        if self.socket.write_all(encode(report).as_bytes()).is_err() {
            process::exit(0);
        }
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.asked += 1;
        self.asked
    }

    pub(crate) fn keep_answer(&mut self, number: u64, value: Value, errnum: i32) {
        self.answers.insert(number, (value, errnum));
    }

    pub(crate) fn take_answer(&mut self, number: u64) -> Option<(Value, i32)> {
        self.answers.remove(&number)
    }
}

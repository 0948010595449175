//! Where submission commands write what concerns a job: the terminal, or the files of `--log` and
//! `--log-stderr`, whose names may differ from copy to copy.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::rc::Rc;

use types::Errno;

use crate::fail::Fail;
use crate::options::Args;
use crate::{err, outln};

/// A file that several jobs may share.
#[derive(Clone, Debug)]
struct Sink(Rc<RefCell<File>>);

impl Sink {
    fn write(&self, bytes: &[u8]) -> Result<(), Fail> {
        let written = self.0.borrow_mut().write_all(bytes);
        written.map_err(|error| Fail::of("log", Errno::from_io(&error)))
    }
}

/// Where output and errors of one job go, if not to the terminal.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sinks {
    output: Option<Sink>,
    errors: Option<Sink>,
}

impl Sinks {
    /// Writes a line of the command's own output.
    pub(super) fn line(&self, text: &str) -> Result<(), Fail> {
        match &self.output {
            Some(sink) => sink.write(format!("{text}\n").as_bytes()),
            None => {
                outln!("{text}");
                Ok(())
            }
        }
    }

    /// Writes a line about what went wrong.
    pub(super) fn error_line(&self, text: &str) -> Result<(), Fail> {
        match &self.errors {
            Some(sink) => sink.write(format!("{text}\n").as_bytes()),
            None => {
                err!("{text}");
                Ok(())
            }
        }
    }

    /// Writes what a job wrote, where a file is to have it. Whether one was.
    pub(super) fn data(&self, stream: &str, bytes: &[u8]) -> Result<bool, Fail> {
        let sink = match stream {
            "stderr" => &self.errors,
            _ => &self.output,
        };
        match sink {
            Some(sink) => sink.write(bytes).map(|()| true),
            None => Ok(false),
        }
    }
}

/// The files in use, by name: jobs that name the same share it.
#[derive(Default)]
pub(super) struct Files(HashMap<String, Sink>);

impl Files {
    /// The sinks a job's options ask for. Errors follow the output unless they have a file of
    /// their own.
    pub(super) fn sinks(&mut self, args: &Args) -> Result<Sinks, Fail> {
        let output = self.open(args.get("log"))?;
        let errors = self
            .open(args.get("log-stderr"))?
            .or_else(|| output.clone());
        Ok(Sinks { output, errors })
    }

    fn open(&mut self, path: Option<&str>) -> Result<Option<Sink>, Fail> {
        let Some(path) = path else { return Ok(None) };
        if let Some(sink) = self.0.get(path) {
            return Ok(Some(sink.clone()));
        }
        let file = File::create(path).map_err(|error| Fail::of(path, Errno::from_io(&error)))?;
        let sink = Sink(Rc::new(RefCell::new(file)));
        self.0.insert(path.to_owned(), sink.clone());
        Ok(Some(sink))
    }
}

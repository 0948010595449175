//! `flux relay`: joins standard input and output to a broker's socket of this host.
//!
//! It is what the ssh connector runs at the other end. Both sides speak the same framing, so that
//! bytes are copied as they come.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use types::Errno;

use crate::driver::Invocation;
use crate::err;
use crate::options::{Family, Parser};

static PARSER: Parser = Parser {
    name: "flux relay",
    usage: "[OPTIONS] path",
    about: "Join standard input and output to local://path",
    family: Family::G,
    opts: &[],
};

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    let args = match PARSER.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let [path] = args.words.as_slice() else {
        err!("flux relay: path argument is required");
        return PARSER.wrong_words();
    };
    match relay(path) {
        Ok(()) => 0,
        Err(error) => {
            // Seen at the other end among what ssh says, hence the host's name.
            let host = crate::hostname().unwrap_or_default();
            err!("{host}: local://{path}: {}", Errno::from_io(&error));
            1
        }
    }
}

fn relay(path: &str) -> io::Result<()> {
    let mut socket = UnixStream::connect(path)?;
    // The broker's verdict comes first; a refusal is told here rather than passed on.
    let mut verdict = [0];
    socket.read_exact(&mut verdict)?;
    if verdict[0] != 0 {
        return Err(io::Error::from_raw_os_error(verdict[0].into()));
    }
    let mut up = socket.try_clone()?;
    std::thread::spawn(move || {
        // Either way this direction is over; the broker then closes the other.
        let _over = copy(&mut io::stdin().lock(), &mut up);
        let _closed = up.shutdown(Shutdown::Both);
    });
    let mut stdout = io::stdout().lock();
    stdout.write_all(&verdict)?;
    stdout.flush()?;
    match copy(&mut socket, &mut stdout) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
        over => over,
    }
}

/// Copies until the end, holding nothing back.
fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        to.write_all(&buffer[..count])?;
        to.flush()?;
    }
}

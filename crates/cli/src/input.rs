//! Standard input, read while other things happen.

use bytes::Bytes;
use tokio::sync::mpsc;

/// Bytes read at once.
const CHUNK: usize = 1 << 16;

/// Reads standard input on a thread of its own, since a file cannot be polled. An empty chunk is
/// its end.
pub(crate) fn read() -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        use std::io::Read;
        let mut stdin = std::io::stdin().lock();
        loop {
            let mut chunk = vec![0; CHUNK];
            let length = match stdin.read(&mut chunk) {
                Ok(length) => length,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                // An unreadable input is an empty one.
                Err(_) => 0,
            };
            chunk.truncate(length);
            if sender.blocking_send(chunk.into()).is_err() || length == 0 {
                return;
            }
        }
    });
    receiver
}

/// An input that is at its end.
pub(crate) fn ended() -> mpsc::Receiver<Bytes> {
    mpsc::channel(1).1
}

/// The next chunk; after the end of the input, and without one, that never comes.
pub(crate) async fn next(input: &mut Option<mpsc::Receiver<Bytes>>) -> Bytes {
    let chunk = match input {
        Some(receiver) => receiver.recv().await,
        None => None,
    };
    match chunk {
        Some(chunk) => chunk,
        None => std::future::pending().await,
    }
}

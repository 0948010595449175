//! Fuzz target: no line makes the server panic.

use crate::{Server, Settings};

/// Feeds arbitrary lines to a server.
pub fn fuzz_server(data: &[u8]) {
    let settings = Settings {
        kvsname: "x".into(),
        universe_size: 2,
        local_tasks: 2,
    };
    let mut server = Server::new(settings, Default::default());
    let mut out = Vec::new();
    for (at, line) in String::from_utf8_lossy(data).lines().enumerate() {
        server.on_line((at % 3) as u32, line, &mut out);
    }
}

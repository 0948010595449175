//! Gauges for a collector that speaks statsd, where `FLUX_FRIPP_STATSD` names one.
//!
//! A datagram has all gauges of a module, a line each. Nobody need be there to take it.

use std::cell::OnceCell;
use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::rc::Rc;

use module::{Host, Severity};
use types::Rank;

/// Names the collector: HOST:PORT.
const VARIABLE: &str = "FLUX_FRIPP_STATSD";

/// Where a module's gauges go.
pub(crate) struct Statsd {
    prefix: String,
    /// Once the collector's name is resolved.
    socket: Rc<OnceCell<UdpSocket>>,
}

impl Statsd {
    /// The gauges of a module called `appname` in the log, if a collector is named. If it cannot be
    /// reached, the log tells.
    pub(crate) fn open(
        host: Rc<dyn Host>,
        rank: Rank,
        appname: &'static str,
        name: &str,
    ) -> Option<Statsd> {
        let address = std::env::var(VARIABLE).ok()?;
        let statsd = Statsd {
            prefix: format!("flux.{rank}.{name}"),
            socket: Rc::default(),
        };
        let socket = statsd.socket.clone();
        // Names may take long to resolve.
        tokio::task::spawn_local(async move {
            match connect(&address).await {
                Ok(connected) => {
                    // Nobody else sets it.
                    let _new = socket.set(connected);
                }
                Err(why) => {
                    let text = format!("{VARIABLE} parse error: {why}: '{address}'");
                    host.log(Severity::Err, appname, &text);
                }
            }
        });
        Some(statsd)
    }

    /// Sends gauges.
    pub(crate) fn gauges(&self, gauges: &[(&str, u64)]) {
        let Some(socket) = self.socket.get() else {
            return;
        };
        // What gets lost is told anew with the next pulse.
        let _sent = socket.send(lines(&self.prefix, gauges).as_bytes());
    }
}

fn lines(prefix: &str, gauges: &[(&str, u64)]) -> String {
    let mut text = String::new();
    for (name, value) in gauges {
        let line = if text.is_empty() { "" } else { "\n" };
        // Writing to a string does not fail.
        let _written = write!(text, "{line}{prefix}.{name}:{value}|g");
    }
    text
}

async fn connect(address: &str) -> Result<UdpSocket, String> {
    if !address.contains(':') {
        return Err("missing colon delimiter".to_owned());
    }
    let looked_up = tokio::net::lookup_host(address).await;
    let mut found = looked_up.map_err(|error| error.to_string())?;
    let to = found.next().ok_or("Name or service not known")?;
    let connected = UdpSocket::bind(match to {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    })
    .and_then(|socket| {
        socket.connect(to)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    });
    connected.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gauges_are_lines() {
        let gauges = [("size", 7), ("flush-batch-count", 0)];
        let expect = "flux.3.content-cache.size:7|g\nflux.3.content-cache.flush-batch-count:0|g";
        assert_eq!(lines("flux.3.content-cache", &gauges), expect);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_datagram_arrives() {
        let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = collector.local_addr().unwrap().to_string();
        let socket = connect(&address).await.unwrap();
        socket.send(b"a.b:1|g").unwrap();
        let mut bytes = [0; 16];
        let count = collector.recv(&mut bytes).unwrap();
        assert_eq!(bytes[..count], *b"a.b:1|g");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_is_no_address_is_refused() {
        for address in ["localhost", "", "127.0.0.1:x", "127.0.0.1:99999", "::1"] {
            assert!(connect(address).await.is_err(), "{address}");
        }
    }
}

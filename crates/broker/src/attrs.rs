//! Broker attributes: named strings that say how the broker runs.
//!
//! Every name is known beforehand, with the ways it may change; unknown names are refused, so that
//! a misspelt setting is noticed.

use std::collections::BTreeMap;

use rpc::RpcError;
use serde_json::{Map, Value};
use types::Errno;

/// How an attribute may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    /// Not settable on the command line.
    readonly: bool,
    /// Fixed once it has a value.
    immutable: bool,
    /// Settable at run time without force.
    runtime: bool,
}

const PLAIN: Rules = Rules {
    readonly: false,
    immutable: false,
    runtime: false,
};
const IM: Rules = Rules {
    immutable: true,
    ..PLAIN
};
const RO: Rules = Rules {
    readonly: true,
    ..PLAIN
};
const RO_IM: Rules = Rules {
    readonly: true,
    ..IM
};
const RT: Rules = Rules {
    runtime: true,
    ..PLAIN
};
const RT_IM: Rules = Rules {
    runtime: true,
    ..IM
};

/// The attributes there are. A name ending in `*` stands for all that begin alike.
const KNOWN: &[(&str, Rules)] = &[
    ("broker.boot-method", IM),
    ("broker.cleanup-timeout", PLAIN),
    ("broker.critical-ranks", IM),
    ("broker.exit-norestart", PLAIN),
    ("broker.exit-restart", RT),
    ("broker.mapping", RO_IM),
    ("broker.module-nopanic", RT),
    ("broker.pid", RO_IM),
    ("broker.quorum", IM),
    ("broker.quorum-warn", IM),
    ("broker.rc1_path", PLAIN),
    ("broker.rc2_none", PLAIN),
    ("broker.rc2_pgrp", PLAIN),
    ("broker.rc3_path", PLAIN),
    ("broker.recovery-mode", PLAIN),
    ("broker.sd-notify", PLAIN),
    ("broker.sd-stop-timeout", IM),
    ("broker.shutdown-timeout", IM),
    ("broker.shutdown-warn", IM),
    ("broker.starttime", RO_IM),
    ("broker.unload-builtins-timeout", PLAIN),
    ("broker.uuid", RO_IM),
    ("conf.shell_initrc", RT),
    ("conf.shell_pluginpath", RT),
    ("config.path", IM),
    ("content.backing-module", PLAIN),
    ("content.dump", RT),
    ("content.hash", IM),
    ("content.restore", RT),
    ("cron.directory", PLAIN),
    ("hostlist", IM),
    ("hostname", IM),
    ("instance-level", RO_IM),
    ("jobid", RO_IM),
    ("jobid-path", RO_IM),
    ("local-uri", IM),
    ("log-critical-level", IM),
    ("log-filename", IM),
    ("log-forward-level", IM),
    ("log-level", IM),
    ("log-ring-size", IM),
    ("log-stderr-level", RT),
    ("log-stderr-mode", IM),
    ("log-syslog-enable", IM),
    ("log-syslog-level", IM),
    ("parent-kvs-namespace", RO_IM),
    ("parent-uri", RO_IM),
    ("rank", RO_IM),
    ("rundir", PLAIN),
    ("rundir-cleanup", IM),
    ("security.owner", RO_IM),
    ("size", RO_IM),
    ("statedir", PLAIN),
    ("statedir-cleanup", IM),
    ("tbon.child_rcvhwm", PLAIN),
    ("tbon.connect_timeout", PLAIN),
    ("tbon.descendants", RO),
    ("tbon.endpoint", RO),
    ("tbon.fanout", PLAIN),
    ("tbon.interface-hint", RT_IM),
    ("tbon.level", RO),
    ("tbon.maxlevel", RO),
    ("tbon.parent-endpoint", RO),
    ("tbon.prefertcp", PLAIN),
    ("tbon.tcp_user_timeout", PLAIN),
    ("tbon.topo", PLAIN),
    ("tbon.torpid_max", PLAIN),
    ("tbon.torpid_min", PLAIN),
    ("tbon.zmq_io_threads", PLAIN),
    ("tbon.zmqdebug", PLAIN),
    ("test-im.*", IM),
    ("test-nr.*", PLAIN),
    ("test-rd.*", RT),
    ("test-ro.*", RO),
    ("test.*", RT),
    ("vendor.*", RT_IM),
    ("version", RO),
];

fn rules(name: &str) -> Option<Rules> {
    KNOWN
        .iter()
        .find(|(known, _)| match known.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => *known == name,
        })
        .map(|(_, rules)| *rules)
}

/// Why the command line may not set an attribute.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AttrError {
    #[error("{0}: unknown attribute")]
    Unknown(String),
    #[error("{0}: attribute may not be set on the command line")]
    ReadOnly(String),
}

/// The attributes of this broker.
#[derive(Debug, Default)]
pub(crate) struct Attrs {
    values: BTreeMap<String, Option<String>>,
}

impl Attrs {
    /// The value; `None` if there is none.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name)?.as_deref()
    }

    /// Whether clients may keep the value.
    pub(crate) fn is_immutable(&self, name: &str) -> bool {
        rules(name).is_some_and(|rules| rules.immutable)
    }

    /// The attributes that will not change.
    pub(crate) fn immutable(&self) -> Map<String, Value> {
        self.values
            .iter()
            .filter(|(name, _)| self.is_immutable(name))
            .filter_map(|(name, value)| Some((name.clone(), value.clone()?.into())))
            .collect()
    }

    /// The names, those without a value included.
    pub(crate) fn names(&self) -> Vec<String> {
        self.values.keys().cloned().collect()
    }

    /// Sets an attribute for the broker itself, whatever its rules.
    pub(crate) fn put(&mut self, name: &str, value: impl Into<String>) {
        debug_assert!(
            rules(name).is_some(),
            "attribute {name} is not in the table"
        );
        self.values.insert(name.to_owned(), Some(value.into()));
    }

    /// Sets an attribute for the broker itself unless it has a value already.
    pub(crate) fn put_default(&mut self, name: &str, value: impl Into<String>) {
        if self.get(name).is_none() {
            self.put(name, value);
        }
    }

    /// Lists an attribute without a value.
    pub(crate) fn put_empty(&mut self, name: &str) {
        self.values.entry(name.to_owned()).or_insert(None);
    }

    /// Takes an attribute away for the broker itself.
    pub(crate) fn clear(&mut self, name: &str) {
        self.values.remove(name);
    }

    /// Sets an attribute from the command line.
    pub(crate) fn set_on_command_line(&mut self, name: &str, value: &str) -> Result<(), AttrError> {
        match rules(name) {
            None => Err(AttrError::Unknown(name.to_owned())),
            Some(rules) if rules.readonly => Err(AttrError::ReadOnly(name.to_owned())),
            Some(_) => {
                self.put(name, value);
                Ok(())
            }
        }
    }

    /// Whether a client may set an attribute at run time. Errors: `ENOENT` unknown, `EINVAL` not
    /// meant to change, `EPERM` immutable.
    pub(crate) fn check_set(&self, name: &str, force: bool) -> Result<(), RpcError> {
        let Some(rules) = rules(name) else {
            return Err(RpcError::new(Errno::ENOENT, "unknown attribute"));
        };
        // The first value may be given at any time.
        if !rules.runtime && !force && self.get(name).is_some() {
            return Err(RpcError::new(Errno::EINVAL, "attribute may not be updated"));
        }
        if rules.immutable && self.get(name).is_some() {
            return Err(Errno::EPERM.into());
        }
        Ok(())
    }

    /// Removes an attribute for a client. Errors: `EPERM` immutable. An absent one is no error.
    pub(crate) fn remove(&mut self, name: &str) -> Result<(), RpcError> {
        if self.get(name).is_some() && self.is_immutable(name) {
            return Err(Errno::EPERM.into());
        }
        self.values.remove(name);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_decide_who_may_set_what() {
        let mut attrs = Attrs::default();
        assert_eq!(
            attrs.set_on_command_line("nope", "1"),
            Err(AttrError::Unknown("nope".into()))
        );
        assert_eq!(
            attrs.set_on_command_line("rank", "1"),
            Err(AttrError::ReadOnly("rank".into()))
        );
        attrs
            .set_on_command_line("hostname", "fake")
            .expect("settable");
        attrs.put("test.x", "1");
        attrs.put("tbon.topo", "kary:2");
        let errno = |name: &str, force| attrs.check_set(name, force).map_err(|e| e.errno);
        assert_eq!(errno("test.x", false), Ok(()));
        assert_eq!(errno("test-nr.x", false), Ok(()));
        assert_eq!(errno("tbon.topo", false), Err(Errno::EINVAL));
        assert_eq!(errno("tbon.topo", true), Ok(()));
        assert_eq!(errno("hostname", false), Err(Errno::EINVAL));
        assert_eq!(errno("hostname", true), Err(Errno::EPERM));
        assert_eq!(errno("nope", true), Err(Errno::ENOENT));
        assert!(attrs.remove("hostname").is_err());
        assert_eq!(attrs.remove("never"), Ok(()));
    }
}

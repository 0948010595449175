//! Where a broker is: the URI forms a client accepts.

use std::path::PathBuf;

use types::Errno;

/// The run directory of a system instance, which a client falls back to without `FLUX_URI`.
const SYSTEM_RUNDIR: &str = "/run/flux";

/// A broker's place, as a client names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Uri {
    /// A socket of this host.
    Local(PathBuf),
    /// A socket of another host, reached through `ssh`.
    Ssh {
        /// `[user@]host`.
        host: String,
        /// Another port than ssh's own.
        port: Option<String>,
        /// The socket's path over there.
        path: String,
    },
    /// An enclosing instance: how many levels up, or the root.
    Ancestor(Ancestor),
}

/// An enclosing instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ancestor {
    /// This many levels up; 0 is the current instance.
    Up(usize),
    /// The outermost.
    Root,
}

/// A text that names no broker.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// An ancestor path with something else than `.` and `..` in it.
    #[error("{uri}: invalid URI path element '{element}'")]
    Element {
        /// The whole text.
        uri: String,
        /// What is wrong in it.
        element: String,
    },
    /// No URI at all, or one without a path.
    #[error("{0}: invalid URI")]
    Invalid(String),
    /// A scheme nobody serves.
    #[error("Unable to find connector name '{0}'")]
    Scheme(String),
}

impl UriError {
    /// The number a C client reports.
    pub fn errno(&self) -> Errno {
        match self {
            UriError::Element { .. } | UriError::Invalid(_) => Errno::EINVAL,
            UriError::Scheme(_) => Errno::ENOENT,
        }
    }
}

impl Uri {
    /// Reads a URI.
    pub fn parse(text: &str) -> Result<Uri, UriError> {
        if text.starts_with('.') || text.starts_with('/') {
            return ancestor(text).map(Uri::Ancestor);
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(UriError::Scheme(text.to_owned()));
        };
        match scheme {
            "local" => Ok(Uri::Local(PathBuf::from(rest))),
            "ssh" => ssh(rest).ok_or_else(|| UriError::Invalid(text.to_owned())),
            _ => Err(UriError::Scheme(scheme.to_owned())),
        }
    }

    /// The current instance: `FLUX_URI`, or else the system instance.
    pub fn from_env() -> Result<Uri, UriError> {
        match std::env::var("FLUX_URI") {
            Ok(text) if !text.is_empty() => Uri::parse(&text),
            _ => Ok(Uri::Local(PathBuf::from(SYSTEM_RUNDIR).join("local"))),
        }
    }
}

fn ancestor(text: &str) -> Result<Ancestor, UriError> {
    let mut up = 0;
    let root = text.starts_with('/');
    for element in text.split('/') {
        match element {
            "" | "." => {}
            ".." => up += 1,
            _ => {
                return Err(UriError::Element {
                    uri: text.to_owned(),
                    element: element.to_owned(),
                });
            }
        }
    }
    // The parent of the root is the root.
    Ok(if root {
        Ancestor::Root
    } else {
        Ancestor::Up(up)
    })
}

fn ssh(rest: &str) -> Option<Uri> {
    let (authority, path) = rest.split_at(rest.find('/')?);
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) => (host, Some(port.to_owned())),
        None => (authority, None),
    };
    // A host that begins with a dash would be an option to ssh.
    if host.is_empty() || host.starts_with('-') || path.len() < 2 || path.contains('?') {
        return None;
    }
    Some(Uri::Ssh {
        host: host.to_owned(),
        port,
        path: path.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read() {
        assert_eq!(
            Uri::parse("local:///run/x/local-0"),
            Ok(Uri::Local("/run/x/local-0".into()))
        );
        assert_eq!(
            Uri::parse("ssh://me@host:22/run/local-0"),
            Ok(Uri::Ssh {
                host: "me@host".into(),
                port: Some("22".into()),
                path: "/run/local-0".into()
            })
        );
        assert_eq!(Uri::parse("/"), Ok(Uri::Ancestor(Ancestor::Root)));
        assert_eq!(Uri::parse("."), Ok(Uri::Ancestor(Ancestor::Up(0))));
        assert_eq!(Uri::parse(".././.."), Ok(Uri::Ancestor(Ancestor::Up(2))));
    }

    #[test]
    fn bad_forms_say_what_is_wrong() {
        let text = |uri| Uri::parse(uri).expect_err("it is bad").to_string();
        assert_eq!(text("../x"), "../x: invalid URI path element 'x'");
        assert_eq!(text("ssh://host"), "ssh://host: invalid URI");
        assert_eq!(text("ssh://host/x?y=z"), "ssh://host/x?y=z: invalid URI");
        assert_eq!(
            text("ssh://-oProxyCommand=x/y"),
            "ssh://-oProxyCommand=x/y: invalid URI"
        );
        assert_eq!(text("foo://x"), "Unable to find connector name 'foo'");
    }
}

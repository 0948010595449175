//! Certificates: key pairs in files, in the ZPL format of CZMQ (ZeroMQ RFC 4).

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use thiserror::Error;

use crate::keys::{CurveKeypair, PublicKey, SecretKey};

/// Read permission for group and others.
const SHARED_READ: u32 = 0o044;

/// Why a certificate could not be read or written.
#[derive(Debug, Error)]
pub enum CertError {
    /// The file could not be opened, read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others could read the secret key.
    #[error("{0}: readable by group/other")]
    Exposed(PathBuf),
    /// The text is not a certificate; says where it goes wrong.
    #[error("{0}")]
    Syntax(&'static str),
    /// As `Syntax`, for a named file.
    #[error("{path}: {problem}")]
    BadFile {
        /// The file.
        path: PathBuf,
        /// Where it goes wrong.
        problem: String,
    },
}

/// A key pair with descriptive metadata.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The keys.
    pub keypair: CurveKeypair,
    /// Names and values, in file order.
    pub metadata: Vec<(String, String)>,
}

impl Certificate {
    /// A certificate with fresh keys and no metadata.
    pub fn generate() -> Certificate {
        Certificate {
            keypair: CurveKeypair::generate(),
            metadata: Vec::new(),
        }
    }

    /// The metadata with this name.
    pub fn metadata(&self, name: &str) -> Option<&str> {
        self.metadata
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    /// Reads a certificate that only its owner may read.
    /// Errors: [`CertError::Exposed`] when group or others can read it too.
    pub fn read(path: &Path) -> Result<Certificate, CertError> {
        let io_error = |source| CertError::Io {
            path: path.to_owned(),
            source,
        };
        let mut file = fs::File::open(path).map_err(io_error)?;
        // Asked of the open file, so that the answer is about what is read.
        let mode = file.metadata().map_err(io_error)?.mode();
        if mode & SHARED_READ != 0 {
            return Err(CertError::Exposed(path.to_owned()));
        }
        let mut text = String::new();
        io::Read::read_to_string(&mut file, &mut text).map_err(io_error)?;
        text.parse().map_err(|error: CertError| CertError::BadFile {
            path: path.to_owned(),
            problem: error.to_string(),
        })
    }

    /// Writes the certificate to `path`, replacing what is there, with mode 0600.
    /// Errors: [`CertError::Io`].
    pub fn write(&self, path: &Path) -> Result<(), CertError> {
        let io_error = |source| CertError::Io {
            path: path.to_owned(),
            source,
        };
        let mut options = fs::OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(path).map_err(io_error)?;
        // An older file keeps its mode when opened: narrow it before the secret goes in.
        file.set_permissions(fs::Permissions::from_mode(0o600))
            .map_err(io_error)?;
        file.write_all(self.to_string().as_bytes())
            .map_err(io_error)
    }
}

impl fmt::Display for Certificate {
    /// Writes the ZPL text, secret key included.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "#  ZeroMQ CURVE **Secret** Certificate")?;
        writeln!(f, "#  DO NOT DISTRIBUTE")?;
        writeln!(f)?;
        writeln!(f, "metadata")?;
        for (name, value) in &self.metadata {
            let value = value.replace(['"', '\n', '\r'], "_");
            writeln!(f, "    {name} = \"{value}\"")?;
        }
        writeln!(f, "curve")?;
        writeln!(f, "    public-key = \"{}\"", self.keypair.public)?;
        writeln!(f, "    secret-key = \"{}\"", self.keypair.secret.to_z85())
    }
}

impl FromStr for Certificate {
    type Err = CertError;

    /// Reads ZPL text. Sections other than `metadata` and `curve` are ignored.
    fn from_str(text: &str) -> Result<Certificate, CertError> {
        let mut section = "";
        let mut metadata = Vec::new();
        let (mut public, mut secret) = (None, None);
        for line in text.lines() {
            let content = line.trim();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            if !line.starts_with([' ', '\t']) {
                section = content;
                continue;
            }
            let (name, value) = split_property(content)?;
            match (section, name) {
                ("metadata", _) => metadata.push((name.to_owned(), value.to_owned())),
                ("curve", "public-key") => public = Some(value),
                ("curve", "secret-key") => secret = Some(value),
                _ => {}
            }
        }
        let public = public.ok_or(CertError::Syntax("certificate has no public-key"))?;
        let secret = secret.ok_or(CertError::Syntax("certificate has no secret-key"))?;
        let public: PublicKey = public
            .parse()
            .map_err(|_| CertError::Syntax("certificate public-key is malformed"))?;
        let secret: SecretKey = secret
            .parse()
            .map_err(|_| CertError::Syntax("certificate secret-key is malformed"))?;
        let keypair = CurveKeypair::from_secret(secret);
        if keypair.public != public {
            return Err(CertError::Syntax("certificate keys do not belong together"));
        }
        Ok(Certificate { keypair, metadata })
    }
}

/// Splits `name = "value"`; the quotes may be missing.
fn split_property(content: &str) -> Result<(&str, &str), CertError> {
    let (name, value) = content
        .split_once('=')
        .ok_or(CertError::Syntax("expected NAME = VALUE in certificate"))?;
    let value = value.trim();
    let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''));
    let value = match quote {
        Some(quote) => {
            value[1..]
                .split_once(quote)
                .ok_or(CertError::Syntax("unterminated string in certificate"))?
                .0
        }
        None => value
            .split_once(" #")
            .map_or(value, |(value, _comment)| value.trim_end()),
    };
    Ok((name.trim(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by another implementation.
    const FOREIGN: &str = r#"#  ZeroMQ CURVE **Secret** Certificate
#  DO NOT DISTRIBUTE

metadata
    name = "foo"
    keygen.hostname = "vm"
curve
    public-key = "/3cDBDW1q>!Ds-Z?^WX&sy0Gs9dDNhII.dJ&H<Kv"
    secret-key = "O:z-2g&[SQda$mG4aXfBxU2G2C<S*lvRJZ.t[-U)"
"#;

    /// A path of this test's own.
    fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("zmtp-cert-{}-{name}", std::process::id()))
    }

    #[test]
    fn reads_and_reproduces_foreign_text() {
        let cert: Certificate = FOREIGN.parse().unwrap();
        assert_eq!(cert.metadata("name"), Some("foo"));
        assert_eq!(cert.metadata("keygen.hostname"), Some("vm"));
        assert_eq!(cert.to_string(), FOREIGN);
    }

    #[test]
    fn file_is_private_even_over_a_public_one() {
        let path = scratch("private");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let cert = Certificate::generate();
        cert.write(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(
            Certificate::read(&path).unwrap().keypair.public,
            cert.keypair.public
        );

        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = Certificate::read(&path).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("{}: readable by group/other", path.display())
        );
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn bad_text_is_explained() {
        let check = |text: &str, expect: &str| {
            assert_eq!(text.parse::<Certificate>().unwrap_err().to_string(), expect);
        };
        check("", "certificate has no public-key");
        check("curve\n    x", "expected NAME = VALUE in certificate");
        check("curve\n    x = \"", "unterminated string in certificate");
        let other = CurveKeypair::generate().public.to_z85();
        let ours = "/3cDBDW1q>!Ds-Z?^WX&sy0Gs9dDNhII.dJ&H<Kv";
        check(
            &FOREIGN.replace(ours, &other),
            "certificate keys do not belong together",
        );
        check(
            &FOREIGN.replace(ours, "short"),
            "certificate public-key is malformed",
        );
    }
}

//! Whether a rank has the resources it should have.

use types::Errno;

use super::{Children, ResourceSet};

/// How strictly a kind of resource is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyMode {
    /// Exactly the expected resources.
    Strict,
    /// More than expected is fine.
    AllowExtra,
    /// Less than expected is fine.
    AllowMissing,
    /// Not compared.
    Ignore,
}

impl VerifyMode {
    /// The mode with the name configuration files use.
    pub fn from_name(name: &str) -> Option<VerifyMode> {
        match name {
            "strict" => Some(VerifyMode::Strict),
            "allow-extra" => Some(VerifyMode::AllowExtra),
            "allow-missing" => Some(VerifyMode::AllowMissing),
            "ignore" => Some(VerifyMode::Ignore),
            _ => None,
        }
    }
}

/// How each kind of resource is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyConfig {
    /// For types without a setting of their own.
    pub default: VerifyMode,
    /// For host names: only [`VerifyMode::Strict`] compares them.
    pub hostname: Option<VerifyMode>,
    /// For cores.
    pub core: Option<VerifyMode>,
    /// For GPUs.
    pub gpu: Option<VerifyMode>,
}

impl VerifyConfig {
    /// Everything must match exactly.
    pub const STRICT: VerifyConfig = VerifyConfig::all(VerifyMode::Strict);

    /// Nothing is compared.
    pub const IGNORE: VerifyConfig = VerifyConfig::all(VerifyMode::Ignore);

    const fn all(default: VerifyMode) -> VerifyConfig {
        VerifyConfig {
            default,
            hostname: None,
            core: None,
            gpu: None,
        }
    }

    fn mode(&self, kind: &str) -> VerifyMode {
        let own = match kind {
            "hostname" => self.hostname,
            "core" => self.core,
            "gpu" => self.gpu,
            _ => None,
        };
        own.unwrap_or(self.default)
    }
}

impl Default for VerifyConfig {
    /// What applies without configuration: extra resources are fine, GPUs are not compared because
    /// discovery may miss them, host names must match.
    fn default() -> VerifyConfig {
        VerifyConfig {
            default: VerifyMode::AllowExtra,
            hostname: Some(VerifyMode::Strict),
            core: None,
            gpu: Some(VerifyMode::Ignore),
        }
    }
}

/// How a rank differs from what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// A rank nobody expected.
    #[error("rank {0} not found in expected ranks")]
    Rank(u32),
    /// Another host.
    #[error("rank {rank} got hostname '{got}', expected '{expected}'")]
    Hostname {
        /// The rank.
        rank: u32,
        /// Its host name.
        got: String,
        /// The one it should have.
        expected: String,
    },
    /// Resources that should be there are not.
    #[error("rank {rank} ({host}) missing resources: {missing}")]
    Missing {
        /// The rank.
        rank: u32,
        /// Its host name.
        host: String,
        /// The missing resources in short form.
        missing: String,
    },
    /// Resources that should not be there are.
    #[error("rank {rank} ({host}) has extra resources: {extra}")]
    Extra {
        /// The rank.
        rank: u32,
        /// Its host name.
        host: String,
        /// The extra resources in short form.
        extra: String,
    },
}

impl VerifyError {
    /// The error number C programs report: `EINVAL`.
    pub fn errno(&self) -> Errno {
        Errno::EINVAL
    }
}

impl ResourceSet {
    /// Compares what ranks have (`actual`) with what they should have (this set).
    ///
    /// Errors: the first [`VerifyError`], by ascending rank.
    pub fn verify(&self, actual: &ResourceSet, config: &VerifyConfig) -> Result<(), VerifyError> {
        for (rank, got) in actual.nodes() {
            let expected = self.node(rank).ok_or(VerifyError::Rank(rank))?;
            let host = got.hostname.as_deref().unwrap_or_default();
            if config.mode("hostname") == VerifyMode::Strict
                && let Some(name) = expected.hostname.as_deref()
                && name != host
            {
                return Err(VerifyError::Hostname {
                    rank,
                    got: host.into(),
                    expected: name.into(),
                });
            }
            let missing = expected.children.difference(&got.children);
            let missing = keep(missing, config, VerifyMode::AllowMissing);
            if !missing.is_empty() {
                return Err(VerifyError::Missing {
                    rank,
                    host: host.into(),
                    missing: missing.to_string(),
                });
            }
            let extra = got.children.difference(&expected.children);
            let extra = keep(extra, config, VerifyMode::AllowExtra);
            if !extra.is_empty() {
                return Err(VerifyError::Extra {
                    rank,
                    host: host.into(),
                    extra: extra.to_string(),
                });
            }
        }
        Ok(())
    }
}

/// Drops the types whose mode does not mind.
fn keep(mut children: Children, config: &VerifyConfig, allowed: VerifyMode) -> Children {
    let minds = |kind: &str| ![VerifyMode::Ignore, allowed].contains(&config.mode(kind));
    if !minds("core") {
        children.cores = Default::default();
    }
    if !minds("gpu") {
        children.gpus = Default::default();
    }
    children.others.retain(|kind, _| minds(kind));
    children
}

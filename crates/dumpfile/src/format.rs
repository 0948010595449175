//! Which format a file's name asks for.

use crate::{Compression, Error};

/// What holds the entries together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// POSIX pax: ustar, with extensions where a name does not fit.
    Tar,
    /// The "new ASCII" format of cpio.
    Cpio,
    /// Zip, whose entries are compressed one by one.
    Zip,
}

/// A format of archives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// How entries are laid out.
    pub container: Container,
    /// How the whole is compressed.
    pub compression: Compression,
}

const fn tar(compression: Compression) -> Format {
    Format {
        container: Container::Tar,
        compression,
    }
}

const fn plain(container: Container) -> Format {
    Format {
        container,
        compression: Compression::None,
    }
}

/// The suffixes of each.
const SUFFIXES: &[(&str, Format)] = &[
    (".tar", tar(Compression::None)),
    (".tgz", tar(Compression::Gzip)),
    (".tar.gz", tar(Compression::Gzip)),
    (".tar.bz2", tar(Compression::Bzip2)),
    (".tar.xz", tar(Compression::Xz)),
    (".tar.zst", tar(Compression::Zstd)),
    (".tar.lz4", tar(Compression::Lz4)),
    (".cpio", plain(Container::Cpio)),
    (".zip", plain(Container::Zip)),
    (".jar", plain(Container::Zip)),
];

/// Suffixes of archives that other programs can write.
const UNSUPPORTED: &[&str] = &[".7z", ".iso", ".a", ".ar"];

impl Format {
    /// The format a file's name asks for; `-` is plain tar.
    ///
    /// # Errors
    ///
    /// No format has such a name.
    pub fn of_name(path: &str) -> Result<Format, Error> {
        if path == "-" {
            return Ok(plain(Container::Tar));
        }
        let found = SUFFIXES.iter().find(|(suffix, _)| path.ends_with(suffix));
        if let Some((_, format)) = found {
            return Ok(*format);
        }
        if UNSUPPORTED.iter().any(|suffix| path.ends_with(suffix)) {
            let known: Vec<&str> = SUFFIXES.iter().map(|(suffix, _)| *suffix).collect();
            return Err(Error::new(format!(
                "'{path}': this archive format is not supported, use one of {}",
                known.join(", ")
            )));
        }
        Err(Error::new(format!("No such format '{path}'")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suffix_names_the_format() {
        for (path, expect) in [
            ("-", Some(tar(Compression::None))),
            ("a.tar", Some(tar(Compression::None))),
            ("/x/a.tgz", Some(tar(Compression::Gzip))),
            ("a.tar.gz", Some(tar(Compression::Gzip))),
            ("a.tar.bz2", Some(tar(Compression::Bzip2))),
            ("a.tar.xz", Some(tar(Compression::Xz))),
            ("a.tar.zst", Some(tar(Compression::Zstd))),
            ("a.tar.lz4", Some(tar(Compression::Lz4))),
            ("a.cpio", Some(plain(Container::Cpio))),
            ("a.zip", Some(plain(Container::Zip))),
            ("a.jar", Some(plain(Container::Zip))),
            ("a.cpio.gz", None),
            ("a.iso", None),
            ("a", None),
        ] {
            assert_eq!(Format::of_name(path).ok(), expect, "{path}");
        }
        let wrong = Format::of_name("a.b").unwrap_err();
        assert_eq!(wrong.to_string(), "No such format 'a.b'");
        let wrong = Format::of_name("a.7z").unwrap_err().to_string();
        assert!(wrong.contains("'a.7z': this archive format"), "{wrong}");
    }
}

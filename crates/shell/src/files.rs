//! The job's temporary directory and the files it brings along (RFC 37).

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value};
use types::Errno;

use crate::fatal::Fatal;

const TYPE_MASK: u32 = 0o170_000;
const TYPE_DIRECTORY: u32 = 0o040_000;
const TYPE_SYMLINK: u32 = 0o120_000;

/// A directory that goes with the job.
pub(crate) struct TmpDir(PathBuf);

impl TmpDir {
    /// Makes the directory `name` in the first of `parents` that allows it.
    pub(crate) fn create(parents: &[PathBuf], name: &str) -> Result<TmpDir, Fatal> {
        let mut failure = Errno::ENOENT;
        for parent in parents {
            let path = parent.join(name);
            match std::fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(TmpDir(path)),
                Err(error) => failure = Errno::from_io(&error),
            }
        }
        Err(Fatal::new(format!(
            "error creating FLUX_JOB_TMPDIR: {failure}"
        )))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TmpDir {
    fn drop(&mut self) {
        // What cannot be removed stays for the administrator's cleanup; the job is over.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// Unpacks an archive below `directory`.
pub(crate) fn extract(archive: &Value, directory: &Path) -> Result<(), Fatal> {
    let fail = |path: &str, text: String| Fatal::new(format!("files: {path}: {text}"));
    match archive {
        Value::Object(files) => {
            for (path, file) in files {
                extract_one(path, file, directory).map_err(|text| fail(path, text))?;
            }
        }
        Value::Array(files) => {
            for file in files {
                let path = file.get("path").and_then(Value::as_str).unwrap_or_default();
                extract_one(path, file, directory).map_err(|text| fail(path, text))?;
            }
        }
        _ => return Err(Fatal::new("files: archive is neither array nor object")),
    }
    Ok(())
}

fn text(error: &std::io::Error) -> String {
    Errno::from_io(error).to_string()
}

fn extract_one(name: &str, file: &Value, directory: &Path) -> Result<(), String> {
    let relative = Path::new(name);
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    if name.is_empty() || !relative.components().all(plain) {
        return Err("invalid path".into());
    }
    let path = directory.join(relative);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|error| text(&error))?;
    }
    let file: &Map<String, Value> = file.as_object().ok_or("not an object")?;
    let mode = file.get("mode").and_then(Value::as_u64).ok_or("no mode")? as u32;
    let data = file.get("data");
    match mode & TYPE_MASK {
        TYPE_DIRECTORY => std::fs::create_dir_all(&path).map_err(|error| text(&error))?,
        TYPE_SYMLINK => {
            let target = data.and_then(Value::as_str).ok_or("no link target")?;
            return symlink(target, &path).map_err(|error| text(&error));
        }
        _ => {
            let bytes = content(data, file.get("encoding").and_then(Value::as_str))?;
            write_new(&path, &bytes, mode & 0o777)?;
        }
    }
    let permissions = std::fs::Permissions::from_mode(mode & 0o7777);
    std::fs::set_permissions(&path, permissions).map_err(|error| text(&error))
}

/// Writes a file that must not exist yet.
pub(crate) fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), String> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(mode);
    let mut file = options.open(path).map_err(|error| text(&error))?;
    file.write_all(bytes).map_err(|error| text(&error))
}

fn content(data: Option<&Value>, encoding: Option<&str>) -> Result<Vec<u8>, String> {
    match (data, encoding) {
        (None, _) => Ok(Vec::new()),
        (Some(Value::String(text)), Some("base64")) => {
            BASE64.decode(text).map_err(|_| "data is not base64".into())
        }
        (Some(Value::String(text)), Some("utf-8")) => Ok(text.clone().into_bytes()),
        (Some(_), Some("blobvec")) => Err("encoding blobvec is not supported here".into()),
        // Without an encoding the content is the JSON value itself.
        (Some(value), None) => Ok(value.to_string().into_bytes()),
        (Some(_), Some(other)) => Err(format!("unknown encoding {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn archives_unpack_below_their_directory_only() {
        let parent = std::env::temp_dir();
        let dir = TmpDir::create(&[parent], &format!("files-{}", std::process::id())).unwrap();
        let archive = json!({
            "script": {"mode": 0o100_700, "data": "#!/bin/sh\n", "encoding": "utf-8"},
            "sub/conf.json": {"mode": 0o100_600, "data": {"a": 1}},
            "link": {"mode": 0o120_777, "data": "script"},
        });
        extract(&archive, dir.path()).unwrap();
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(read("link"), "#!/bin/sh\n");
        assert_eq!(read("sub/conf.json"), r#"{"a":1}"#);
        let outside = json!({"../x": {"mode": 0o100_600, "data": "", "encoding": "utf-8"}});
        assert!(extract(&outside, dir.path()).is_err());
    }
}

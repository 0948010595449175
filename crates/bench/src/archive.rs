//! Files through archives: how fast they come in and go out.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::instance::Instance;
use crate::rows::Prepared;

/// What one rank stores and extracts, and what each of many does: 16 copies are to fit in memory.
const SIZE: usize = 1 << 30;
const SIZE_EACH: usize = 256 << 20;
const RANKS: u32 = 16;

/// A directory with a file in it, in memory where there is such a place. Dropping it removes it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(size: usize) -> Result<Scratch, String> {
        let memory = PathBuf::from("/dev/shm");
        let parent = match memory.is_dir() {
            true => memory,
            false => std::env::temp_dir(),
        };
        let dir = parent.join(format!("flux-bench-{}", std::process::id()));
        let failed = |error: std::io::Error| format!("{}: {error}", dir.display());
        std::fs::create_dir_all(&dir).map_err(failed)?;
        let scratch = Scratch(dir.clone());
        let mut file = std::fs::File::create(dir.join("data")).map_err(failed)?;
        let mut state = 1_u64;
        let mut block = vec![0; 1 << 20];
        for _ in 0..size / block.len() {
            // No two blobs are alike, nor can any be compressed.
            for word in block.as_chunks_mut::<8>().0 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                *word = state.to_ne_bytes();
            }
            file.write_all(&block).map_err(failed)?;
        }
        Ok(scratch)
    }

    fn text(&self) -> Result<&str, String> {
        self.0.to_str().ok_or("directory is not UTF-8".to_owned())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("{}: {error}", self.0.display());
        }
    }
}

fn create(instance: &Instance, scratch: &Scratch) -> Result<(), String> {
    let dir = scratch.text()?;
    instance.flux(&["archive", "create", "--overwrite", "-C", dir, "data"])?;
    Ok(())
}

fn megabytes_per_second(started: Instant) -> f64 {
    SIZE as f64 / 1e6 / started.elapsed().as_secs_f64()
}

/// Megabytes a second into an archive.
pub(crate) fn creation(flux: &Path) -> Prepared {
    let instance = Instance::start(flux, 1)?;
    let scratch = Scratch::new(SIZE)?;
    Ok(Box::new(move || {
        let started = Instant::now();
        create(&instance, &scratch)?;
        Ok(megabytes_per_second(started))
    }))
}

/// Megabytes a second out of an archive on one rank.
pub(crate) fn extraction(flux: &Path) -> Prepared {
    let instance = Instance::start(flux, 1)?;
    let scratch = Scratch::new(SIZE)?;
    create(&instance, &scratch)?;
    let out = scratch.0.join("out");
    std::fs::create_dir_all(&out).map_err(|error| error.to_string())?;
    Ok(Box::new(move || {
        let started = Instant::now();
        let dir = format!("{}/out", scratch.text()?);
        instance.flux(&["archive", "extract", "--overwrite", "-C", &dir])?;
        Ok(megabytes_per_second(started))
    }))
}

/// Seconds until every rank has the file.
pub(crate) fn distribution(flux: &Path) -> Prepared {
    let instance = Instance::start(flux, RANKS)?;
    let scratch = Scratch::new(SIZE_EACH)?;
    create(&instance, &scratch)?;
    Ok(Box::new(move || {
        let script = format!(
            "d={}/$(flux getattr rank); mkdir -p $d && \
             flux archive extract --waitcreate --overwrite -C $d",
            scratch.text()?
        );
        let started = Instant::now();
        instance.flux(&["exec", "-r", "all", "sh", "-c", &script])?;
        Ok(started.elapsed().as_secs_f64())
    }))
}

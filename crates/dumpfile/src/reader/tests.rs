//! Archives written by ours read back, and damage to them is noticed.

use std::cell::RefCell;
use std::io::Write;
use std::rc::Rc;

use super::*;
use crate::{Format, Stamp, Writer};

/// Formats by their suffix.
const SUFFIXES: [&str; 8] = [
    ".tar", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4", ".cpio", ".zip",
];
const STAMP: Stamp = Stamp {
    time: 1_700_000_001,
    uid: 1000,
    gid: 100,
};

/// Where an archive can be looked at once its writer is gone.
#[derive(Clone, Default)]
struct Shared(Rc<RefCell<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn files() -> Vec<(String, Vec<u8>)> {
    vec![
        ("a".into(), b"x".repeat(10)),
        ("empty".into(), Vec::new()),
        (
            "b/ü/c".into(),
            (0..2000u32).map(|at| (at / 3) as u8).collect(),
        ),
        (format!("long/{}", "n".repeat(300)), b"\0\xff".to_vec()),
    ]
}

fn archive(suffix: &str) -> Vec<u8> {
    let output = Shared::default();
    let format = Format::of_name(suffix).expect("a known suffix");
    let mut writer = Writer::new(format, Box::new(output.clone()), STAMP).expect("begun");
    for (name, bytes) in files() {
        writer.file(&name, &bytes).expect("written");
    }
    writer.symlink("link", "b/ü").expect("written");
    writer.finish().expect("finished");
    output.0.take()
}

fn open(bytes: &[u8]) -> Result<Reader, Error> {
    Reader::new("x", Box::new(Cursor::new(bytes.to_vec())))
}

/// What is in an archive: name, target, data and time of each entry.
type Contents = Vec<(String, String, Vec<u8>, u64)>;

fn read(bytes: &[u8]) -> Result<Contents, Error> {
    let mut reader = open(bytes)?;
    let mut all = Vec::new();
    let mut entries = reader.entries()?;
    while let Some(mut entry) = entries.next_entry()? {
        let data = match entry.kind {
            Kind::File => entry.bytes()?,
            _ => Vec::new(),
        };
        all.push((entry.name, entry.target, data, entry.time));
    }
    reader.finish()?;
    Ok(all)
}

#[test]
fn what_is_written_reads_back() {
    let mut expect: Contents = files()
        .into_iter()
        .map(|(name, data)| (name, String::new(), data, STAMP.time))
        .collect();
    expect.push(("link".into(), "b/ü".into(), Vec::new(), STAMP.time));
    for suffix in SUFFIXES {
        assert_eq!(read(&archive(suffix)), Ok(expect.clone()), "{suffix}");
    }
}

#[test]
fn cut_archives_are_noticed() {
    for suffix in SUFFIXES {
        let whole = archive(suffix);
        let checked = open(&whole).and_then(check_all);
        assert_eq!(checked, Ok(()), "{suffix}");
        // The last block of tar is only padding.
        let used = if suffix == ".tar" {
            whole.len() - 512
        } else {
            whole.len()
        };
        for length in 0..used {
            let checked = open(&whole[..length]).and_then(check_all);
            assert!(checked.is_err(), "{suffix} {length} of {}", whole.len());
        }
    }
}

#[test]
fn flipped_bits_are_noticed() {
    // tar alone has checksums of its headers only, zip one of the data, cpio a mere sum.
    for suffix in &SUFFIXES[1..6] {
        let whole = archive(suffix);
        let expect = read(&whole).expect("an archive");
        // The first ten bytes of gzip hold a name and time nobody checks.
        for at in 10..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x10;
            // Some bits have no bearing on the data.
            if let Ok(found) = read(&flipped) {
                assert_eq!(found, expect, "{suffix} {at}");
            }
        }
    }
}

#[test]
fn flipped_bits_of_data_are_noticed() {
    for suffix in [".cpio", ".zip"] {
        let whole = archive(suffix);
        let data = files().swap_remove(0).1;
        let at = whole.windows(data.len()).position(|window| window == data);
        // zip compresses it.
        let Some(at) = at else { continue };
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        let wrong = read(&flipped).expect_err("damaged").to_string();
        assert!(wrong.contains("checksum"), "{suffix}: {wrong}");
    }
}

#[test]
fn older_cpio_is_read() {
    let number = |value: u16| value.to_le_bytes();
    let binary = |name: &str, mode: u16, data: &[u8]| {
        let mut entry = Vec::new();
        let sizes = [name.len() as u16 + 1, 0, data.len() as u16];
        let fields = [0o070707, 0, 1, mode, 0, 0, 1, 0, 25940, 0];
        for field in fields.into_iter().chain(sizes) {
            entry.extend(number(field));
        }
        for part in [name.as_bytes(), b"\0"] {
            entry.extend(part);
        }
        entry.resize(entry.len().next_multiple_of(2), 0);
        entry.extend(data);
        entry.resize(entry.len().next_multiple_of(2), 0);
        entry
    };
    let all = [
        binary("ab", 0o100_644, b"xyz"),
        binary("l", 0o120_777, b"ab"),
        binary("TRAILER!!!", 0, b""),
    ];
    let little = all.concat();
    let big: Vec<u8> = {
        // Only the numbers are of the other order.
        let mut big = Vec::new();
        for entry in &all {
            let (header, rest) = entry.split_at(26);
            big.extend(header.chunks(2).flat_map(|pair| [pair[1], pair[0]]));
            big.extend(rest);
        }
        big
    };
    let odd = |name: &str, mode: u32, data: &str| {
        let size = name.len() + 1;
        format!(
            "070707{:06o}{:06o}{mode:06o}{:024o}{:011o}{size:06o}{:011o}{name}\0{data}",
            0,
            1,
            1,
            1_700_000_001u64,
            data.len()
        )
    };
    let portable = [
        odd("ab", 0o100_644, "xyz"),
        odd("l", 0o120_777, "ab"),
        odd("TRAILER!!!", 0, ""),
    ]
    .concat();
    for bytes in [little, big, portable.into_bytes()] {
        let mut reader = open(&bytes).expect("an archive");
        let mut entries = reader.entries().expect("entries");
        let mut file = entries.next_entry().expect("read").expect("an entry");
        assert_eq!((file.name.as_str(), file.kind), ("ab", Kind::File));
        assert_eq!(file.bytes().expect("read"), b"xyz");
        drop(file);
        let link = entries.next_entry().expect("read").expect("an entry");
        assert_eq!((link.kind, link.target.as_str()), (Kind::Symlink, "ab"));
        drop(link);
        assert!(entries.next_entry().expect("read").is_none());
        reader.finish().expect("whole");
    }
}

#[test]
fn what_is_no_archive_is_named() {
    let told = |bytes: &[u8]| {
        let checked = open(bytes).and_then(check_all);
        checked.expect_err("no archive").to_string()
    };
    assert_eq!(told(&[b'#'; 600]), "'x' is no archive of a known format");
    assert_eq!(told(b""), "'x' is truncated: there is no end marker");
    let absurd = b"070701".iter().chain(&[b'F'; 104]).copied();
    let absurd: Vec<u8> = absurd.collect();
    assert_eq!(
        told(&absurd),
        "error reading 'x': a name of 4294967295 bytes"
    );
    let name = [0xff, b'a'];
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..2].copy_from_slice(&name);
    header.set_size(0);
    header.set_cksum();
    assert_eq!(
        told(header.as_bytes()),
        "'x' has a name that is not UTF-8: \\xffa"
    );
}

//! FLUID job ids (RFC 19): the forms users write and read, and the generator.
//!
//! A FLUID is 40 bits of milliseconds, 14 bits of generator and 10 bits of sequence. The word list
//! is the public mnemonic encoding list by Oren Tirosh; the emoji table is the one of RFC 19.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use crate::{Errno, JobId};

const BASE58: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
const SEQUENCE_BITS: u32 = 10;
const GENERATOR_BITS: u32 = 14;
/// The largest generator number.
pub const GENERATOR_MAX: u16 = (1 << GENERATOR_BITS) - 1;
const TIMESTAMP_MAX: u64 = (1 << 40) - 1;

static WORDS: LazyLock<Table<&'static str>> =
    LazyLock::new(|| Table::new(include_str!("fluid_words.txt").split_whitespace().collect()));
static EMOJI: LazyLock<Table<char>> = LazyLock::new(|| {
    let text = include_str!("fluid_emoji.txt");
    Table::new(text.chars().filter(|c| !c.is_whitespace()).collect())
});

/// A digit alphabet that can be read both ways.
struct Table<T> {
    digits: Vec<T>,
    values: HashMap<T, u64>,
}

impl<T: Copy + Eq + std::hash::Hash> Table<T> {
    fn new(digits: Vec<T>) -> Self {
        let values = (0..)
            .zip(&digits)
            .map(|(value, &digit)| (digit, value))
            .collect();
        Table { digits, values }
    }

    fn base(&self) -> u64 {
        self.digits.len() as u64
    }
}

/// The text is no form of a job id (RFC 19).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed input")]
pub struct ParseIdError;

impl ParseIdError {
    /// The error number C programs report: `EINVAL`.
    pub fn errno(&self) -> Errno {
        Errno::EINVAL
    }
}

/// Whether ids begin with `f`, not `ƒ`. A program's decision, so libraries and their tests do not
/// depend on the environment.
static PLAIN: AtomicBool = AtomicBool::new(false);

/// Makes ids begin with `ƒ` if the locale's character set is UTF-8 and `FLUX_F58_FORCE_ASCII` is
/// unset, else with `f` (RFC 19). Programs call it once, before they write ids; otherwise `ƒ` is
/// written.
pub fn follow_locale() {
    let text = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let locale = text("LC_ALL")
        .or_else(|| text("LC_CTYPE"))
        .or_else(|| text("LANG"));
    let forced = std::env::var_os("FLUX_F58_FORCE_ASCII").is_some();
    PLAIN.store(forced || !shows_utf8(locale.as_deref()), Relaxed);
}

/// Whether a locale of this name, such as `en_US.UTF-8`, has that character set.
fn shows_utf8(locale: Option<&str>) -> bool {
    let codeset = locale
        .and_then(|name| name.split_once('.'))
        .map(|(_, codeset)| codeset);
    let codeset = codeset.map(|text| text.split('@').next().unwrap_or(text));
    codeset.is_some_and(is_utf8)
}

fn is_utf8(codeset: &str) -> bool {
    codeset.eq_ignore_ascii_case("utf-8") || codeset.eq_ignore_ascii_case("utf8")
}

/// The forms a job id can be written in (RFC 19).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Decimal.
    Dec,
    /// `0x9f7000000`.
    Hex,
    /// `0000.0009.f700.0000`.
    DotHex,
    /// The job's KVS directory, `job.0000.0009.f700.0000`.
    Kvs,
    /// `window-reverse-store--agent-academy-academy`.
    Words,
    /// Base 58 after `ƒ`, or `f` where the locale has no such character.
    F58,
    /// Base 58 after `f`.
    F58Plain,
    /// Base 576 of RFC 19.
    Emoji,
}

impl Encoding {
    /// The encoding with the name commands use: `dec`, `hex`, `dothex`, `kvs`, `words`, `f58`,
    /// `f58plain` or `emoji`.
    pub fn from_name(name: &str) -> Option<Encoding> {
        Some(match name {
            "dec" => Encoding::Dec,
            "hex" => Encoding::Hex,
            "dothex" => Encoding::DotHex,
            "kvs" => Encoding::Kvs,
            "words" => Encoding::Words,
            "f58" => Encoding::F58,
            "f58plain" => Encoding::F58Plain,
            "emoji" => Encoding::Emoji,
            _ => return None,
        })
    }
}

impl JobId {
    /// The id made of its three parts; bits that do not fit are dropped.
    pub fn from_parts(timestamp_ms: u64, generator: u16, sequence: u16) -> JobId {
        JobId(
            (timestamp_ms & TIMESTAMP_MAX) << (GENERATOR_BITS + SEQUENCE_BITS)
                | u64::from(generator & GENERATOR_MAX) << SEQUENCE_BITS
                | u64::from(sequence) & ((1 << SEQUENCE_BITS) - 1),
        )
    }

    /// Milliseconds since the instance's epoch at which the id was made.
    pub fn timestamp_ms(self) -> u64 {
        self.0 >> (GENERATOR_BITS + SEQUENCE_BITS)
    }

    /// The number of the generator that made the id.
    pub fn generator(self) -> u16 {
        (self.0 >> SEQUENCE_BITS) as u16 & GENERATOR_MAX
    }

    /// The id's number within its millisecond.
    pub fn sequence(self) -> u16 {
        (self.0 & ((1 << SEQUENCE_BITS) - 1)) as u16
    }

    /// The id in a given form.
    pub fn encode(self, encoding: Encoding) -> String {
        match encoding {
            Encoding::Dec => self.0.to_string(),
            Encoding::Hex => format!("{:#x}", self.0),
            Encoding::DotHex => self.dothex(),
            Encoding::Kvs => self.kvs_path(),
            Encoding::Words => self.words(),
            Encoding::F58 => self.f58(),
            Encoding::F58Plain => self.f58_plain(),
            Encoding::Emoji => self.emoji(),
        }
    }

    /// The main form, `ƒ28CyQtf`, or `f28CyQtf` as [`follow_locale`] decided.
    pub fn f58(self) -> String {
        match PLAIN.load(Relaxed) {
            true => self.f58_plain(),
            false => format!("ƒ{}", self.base58()),
        }
    }

    /// The main form with the ASCII prefix, `f28CyQtf`.
    pub fn f58_plain(self) -> String {
        format!("f{}", self.base58())
    }

    /// Four groups of four hexadecimal digits, `0000.0009.f700.0000`.
    pub fn dothex(self) -> String {
        let group = |shift: u32| (self.0 >> shift) as u16;
        format!(
            "{:04x}.{:04x}.{:04x}.{:04x}",
            group(48),
            group(32),
            group(16),
            group(0)
        )
    }

    /// The job's directory in the KVS (RFC 16), `job.0000.0009.f700.0000`.
    pub fn kvs_path(self) -> String {
        format!("job.{}", self.dothex())
    }

    /// The mnemonic form, `window-reverse-store--agent-academy-academy`.
    pub fn words(self) -> String {
        let half = |bits: u64| {
            let base = WORDS.base();
            let word = |value: u64| WORDS.digits[(value % base) as usize];
            format!(
                "{}-{}-{}",
                word(bits),
                word(bits / base),
                word(bits / base / base)
            )
        };
        format!("{}--{}", half(self.0 & 0xffff_ffff), half(self.0 >> 32))
    }

    /// The emoji form, most significant digit first.
    pub fn emoji(self) -> String {
        let mut digits = Vec::new();
        let mut left = self.0;
        loop {
            digits.push(EMOJI.digits[(left % EMOJI.base()) as usize]);
            left /= EMOJI.base();
            if left == 0 {
                return digits.iter().rev().collect();
            }
        }
    }

    fn base58(self) -> String {
        let mut digits = Vec::with_capacity(11);
        let mut left = self.0;
        loop {
            digits.push(char::from(BASE58[(left % 58) as usize]));
            left /= 58;
            if left == 0 {
                return digits.iter().rev().collect();
            }
        }
    }
}

impl fmt::Display for JobId {
    /// The F58 form (RFC 19), as [`JobId::f58`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.f58())
    }
}

impl FromStr for JobId {
    type Err = ParseIdError;

    /// Decodes any form of RFC 19, and a KVS path. Blanks around the id are ignored.
    fn from_str(text: &str) -> Result<JobId, ParseIdError> {
        let text = text.trim_matches(|c: char| c.is_ascii_whitespace());
        let text = text.strip_prefix("job.").unwrap_or(text);
        let value = if text.contains('.') {
            parse_dothex(text)
        } else if text.contains('-') {
            parse_words(text)
        } else if let Some(digits) = text.strip_prefix('ƒ').or_else(|| text.strip_prefix('f')) {
            parse_base58(digits)
        } else if text.as_bytes().starts_with(&[0xf0, 0x9f]) {
            parse_emoji(text)
        } else if let Some(digits) = text.strip_prefix("0x") {
            parse_digits(digits, 16)
        } else {
            parse_digits(text, 10)
        };
        value.map(JobId).ok_or(ParseIdError)
    }
}

/// Positional notation, most significant digit first; `None` on overflow or no digits.
fn parse_positional(base: u64, digits: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    let mut value = None;
    for digit in digits {
        value = Some(
            value
                .unwrap_or(0u64)
                .checked_mul(base)?
                .checked_add(digit?)?,
        );
    }
    value
}

fn parse_digits(text: &str, base: u32) -> Option<u64> {
    parse_positional(
        base.into(),
        text.chars().map(|c| c.to_digit(base).map(u64::from)),
    )
}

fn parse_base58(text: &str) -> Option<u64> {
    let value = |byte| {
        BASE58
            .iter()
            .position(|&digit| digit == byte)
            .map(|at| at as u64)
    };
    parse_positional(58, text.bytes().map(value))
}

fn parse_emoji(text: &str) -> Option<u64> {
    parse_positional(
        EMOJI.base(),
        text.chars().map(|c| EMOJI.values.get(&c).copied()),
    )
}

fn parse_dothex(text: &str) -> Option<u64> {
    let mut value = 0;
    let mut groups = 0;
    for group in text.split('.') {
        let digits = parse_digits(group, 16).filter(|&digits| digits <= 0xffff)?;
        value = value << 16 | digits;
        groups += 1;
        if groups > 4 {
            return None;
        }
    }
    (groups == 4).then_some(value)
}

fn parse_words(text: &str) -> Option<u64> {
    let mut digits = [0; 6];
    let mut count = 0;
    for word in text.split('-').filter(|word| !word.is_empty()) {
        *digits.get_mut(count)? = *WORDS.values.get(word)?;
        count += 1;
    }
    let base = WORDS.base();
    let half = |d: &[u64]| d[0] + base * (d[1] + base * d[2]);
    let (low, high) = (half(&digits[..3]), half(&digits[3..]));
    (count == 6 && low <= 0xffff_ffff && high <= 0xffff_ffff).then_some(high << 32 | low)
}

/// A generator is out of ids or misconfigured (RFC 19).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GenerateError {
    /// More than 40 bits of milliseconds have passed since the epoch.
    #[error("job id timestamp overflow")]
    TimestampOverflow,
    /// The generator number has more than 14 bits.
    #[error("job id generator {0} is out of range")]
    Generator(u32),
}

impl GenerateError {
    /// The error number C programs report.
    pub fn errno(self) -> Errno {
        match self {
            GenerateError::TimestampOverflow => Errno::EOVERFLOW,
            GenerateError::Generator(_) => Errno::EINVAL,
        }
    }
}

/// Makes job ids that never repeat and never go back (RFC 19).
///
/// The caller supplies the clock: milliseconds of any monotonic clock. When more than 1024 ids are
/// asked for within one millisecond, the timestamp runs ahead of the clock instead of waiting.
#[derive(Clone, Debug)]
pub struct FluidGenerator {
    generator: u16,
    /// What is added to the caller's clock to get timestamps.
    offset_ms: i128,
    timestamp_ms: u64,
    /// The next sequence number in `timestamp_ms`.
    sequence: u16,
}

impl FluidGenerator {
    /// A generator whose clock shows `timestamp_ms` when the caller's clock shows `now_ms`.
    ///
    /// Errors: [`GenerateError::Generator`] if the number has more than 14 bits.
    pub fn new(generator: u32, timestamp_ms: u64, now_ms: u64) -> Result<Self, GenerateError> {
        let number = u16::try_from(generator)
            .ok()
            .filter(|&n| n <= GENERATOR_MAX);
        Ok(FluidGenerator {
            generator: number.ok_or(GenerateError::Generator(generator))?,
            offset_ms: i128::from(timestamp_ms) - i128::from(now_ms),
            timestamp_ms,
            sequence: 0,
        })
    }

    /// The timestamp a generator started elsewhere must begin with to stay behind this one.
    pub fn timestamp_ms(&self, now_ms: u64) -> u64 {
        let clock = i128::from(now_ms) + self.offset_ms;
        self.timestamp_ms.max(u64::try_from(clock).unwrap_or(0))
    }

    /// The next id. Errors: [`GenerateError::TimestampOverflow`] after about 35 years.
    pub fn generate(&mut self, now_ms: u64) -> Result<JobId, GenerateError> {
        let mut timestamp = self.timestamp_ms(now_ms);
        let mut sequence = if timestamp > self.timestamp_ms {
            0
        } else {
            self.sequence
        };
        if sequence >= 1 << SEQUENCE_BITS {
            timestamp += 1;
            sequence = 0;
        }
        if timestamp > TIMESTAMP_MAX {
            return Err(GenerateError::TimestampOverflow);
        }
        self.timestamp_ms = timestamp;
        self.sequence = sequence + 1;
        Ok(JobId::from_parts(timestamp, self.generator, sequence))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tables_are_complete() {
        assert_eq!((WORDS.digits.len(), WORDS.values.len()), (1626, 1626));
        assert_eq!((EMOJI.digits.len(), EMOJI.values.len()), (576, 576));
    }

    #[test]
    fn encodes_every_form() {
        let rows: [(u64, [&str; 6]); 6] = [
            (
                0,
                [
                    "0x0",
                    "0000.0000.0000.0000",
                    "academy-academy-academy--academy-academy-academy",
                    "ƒ1",
                    "f1",
                    "😃",
                ],
            ),
            (
                1,
                [
                    "0x1",
                    "0000.0000.0000.0001",
                    "acrobat-academy-academy--academy-academy-academy",
                    "ƒ2",
                    "f2",
                    "😄",
                ],
            ),
            (
                42798678016,
                [
                    "0x9f7000000",
                    "0000.0009.f700.0000",
                    "window-reverse-store--agent-academy-academy",
                    "ƒ28CyQtf",
                    "f28CyQtf",
                    "🍟🈯📻🍹",
                ],
            ),
            (
                6731191091817518,
                [
                    "0x17e9fb8df16c2e",
                    "0017.e9fb.8df1.6c2e",
                    "reform-remote-galileo--heart-package-academy",
                    "ƒuZZybuNNy",
                    "fuZZybuNNy",
                    "👩💅📓😸👑🚓",
                ],
            ),
            (
                0xedaf97d000000,
                [
                    "0xedaf97d000000",
                    "000e.daf9.7d00.0000",
                    "random-idea-yoyo--sugar-printer-academy",
                    "ƒZemgA8Bzf",
                    "fZemgA8Bzf",
                    "💕🆙🔑🙅🍠👘",
                ],
            ),
            (
                u64::MAX,
                [
                    "0xffffffffffffffff",
                    "ffff.ffff.ffff.ffff",
                    "natural-analyze-verbal--natural-analyze-verbal",
                    "ƒjpXCZedGfVQ",
                    "fjpXCZedGfVQ",
                    "🚹💗💧👗😷📷📚",
                ],
            ),
        ];
        let names = ["hex", "dothex", "words", "f58", "f58plain", "emoji"];
        for (value, texts) in rows {
            let id = JobId(value);
            for (name, text) in names.iter().zip(texts) {
                let encoding = Encoding::from_name(name).unwrap();
                assert_eq!(id.encode(encoding), text);
                assert_eq!(text.parse(), Ok(id), "{text}");
            }
            assert_eq!(id.kvs_path(), format!("job.{}", texts[1]));
            assert_eq!(id.kvs_path().parse(), Ok(id));
            assert_eq!(value.to_string().parse(), Ok(id));
        }
    }

    #[test]
    fn reads_the_examples_of_rfc_19_back() {
        for text in [
            "ƒZemgA8Bzf",
            "ƒ278oEf7zGf",
            "🚹💂🙌😳💱🏃",
            "😄😹🎇📥🏧🙉🔞",
            "🚹💂🈳💰🎩🏃",
        ] {
            let id: JobId = text.parse().unwrap();
            assert!([id.f58(), id.emoji()].contains(&text.to_string()), "{text}");
        }
    }

    #[test]
    fn decodes_by_shape() {
        for (text, value) in [
            (" 12 ", 12),
            ("foo", 2714),
            ("010", 10),
            ("1.2.3.4", 281483566841860),
            ("job.f28CyQtf", 42798678016),
            ("job.42", 42),
            ("0x10", 16),
            ("academy-academy-academy-academy-academy-academy", 0),
        ] {
            assert_eq!(text.parse(), Ok(JobId(value)), "{text}");
        }
        for text in [
            "",
            "f",
            "ƒ",
            "0X10",
            "0x",
            "1x",
            "0.0.0.0.0",
            ".1",
            "jpXCZedGfVQ",
            "f0",
            "-1",
            "0x1.0",
            "18446744073709551616",
            "a-b-c--d-e-f",
            "academy-academy-academy",
            "🍟🈯📻🍹x",
            "f1zzzzzzzzzzz",
            "1.2.3",
            "1.2.3.10000",
            "verbal-verbal-verbal--verbal-verbal-verbal",
        ] {
            assert_eq!(text.parse::<JobId>(), Err(ParseIdError), "{text}");
        }
    }

    #[test]
    fn only_utf_8_locales_show_the_prefix() {
        for (locale, shown) in [
            (Some("en_US.UTF-8"), true),
            (Some("C.utf8"), true),
            (Some("de_DE.UTF-8@euro"), true),
            (Some("de_DE.ISO-8859-1"), false),
            (Some("C"), false),
            (None, false),
        ] {
            assert_eq!(shows_utf8(locale), shown, "{locale:?}");
        }
    }

    #[test]
    fn generated_ids_ascend_even_when_asked_too_fast_or_the_clock_stands() {
        let mut generator = FluidGenerator::new(3, 1000, 50).unwrap();
        let ids: Vec<JobId> = (0..3000).map(|_| generator.generate(50).unwrap()).collect();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(ids[0], JobId::from_parts(1000, 3, 0));
        assert_eq!(ids[1024], JobId::from_parts(1001, 3, 0));
        assert_eq!(generator.generate(40).unwrap().timestamp_ms(), 1002);
        assert_eq!(
            generator.generate(60).unwrap(),
            JobId::from_parts(1010, 3, 0)
        );
        assert_eq!(
            generator.generate(1 << 40),
            Err(GenerateError::TimestampOverflow)
        );
        assert_eq!(
            FluidGenerator::new(16384, 0, 0).unwrap_err(),
            GenerateError::Generator(16384)
        );
    }

    proptest! {
        #[test]
        fn every_form_round_trips(value: u64) {
            let id = JobId(value);
            for name in ["dec", "hex", "dothex", "kvs", "words", "f58", "f58plain", "emoji"] {
                let encoding = Encoding::from_name(name).unwrap();
                prop_assert_eq!(id.encode(encoding).parse(), Ok(id));
            }
            prop_assert_eq!(JobId::from_parts(id.timestamp_ms(), id.generator(), id.sequence()), id);
        }
    }
}

//! Flux standard duration (RFC 23): `1.5h`, `30`, `inf`.
//!
//! Two renderers exist because users see two: scripted commands and compiled commands of the
//! reference print the same duration differently, and scripts depend on both.

use std::time::Duration;

use crate::Errno;

/// The text is not a duration (RFC 23).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid Flux standard duration")]
pub struct FsdError;

impl FsdError {
    /// The error number C programs report: `EINVAL`.
    pub fn errno(self) -> Errno {
        Errno::EINVAL
    }
}

/// Decodes a duration to seconds; `inf` and `infinity` give [`f64::INFINITY`].
///
/// Errors: [`FsdError`] for anything else than a non-negative number with an optional unit
/// `ms`, `s`, `m`, `h` or `d`.
pub fn parse(text: &str) -> Result<f64, FsdError> {
    if text.eq_ignore_ascii_case("inf") || text.eq_ignore_ascii_case("infinity") {
        return Ok(f64::INFINITY);
    }
    let units = [
        ("ms", 1e-3),
        ("s", 1.0),
        ("m", 60.0),
        ("h", 3600.0),
        ("d", 86400.0),
    ];
    let (digits, scale) = units
        .iter()
        .find_map(|&(unit, scale)| Some((text.strip_suffix(unit)?, scale)))
        .unwrap_or((text, 1.0));
    // Rust's parser also takes words such as `nan`, which RFC 23 has no use for.
    let numeric = |b: u8| b.is_ascii_digit() || matches!(b, b'.' | b'+' | b'-' | b'e' | b'E');
    if !digits.bytes().all(numeric) {
        return Err(FsdError);
    }
    match digits.parse::<f64>() {
        Ok(number) if number.is_sign_positive() && (number * scale).is_finite() => {
            Ok(if scale == 1e-3 {
                number / 1e3
            } else {
                number * scale
            })
        }
        _ => Err(FsdError),
    }
}

/// Decodes a duration; `None` stands for infinity.
///
/// Errors: as [`parse`], also for durations that do not fit a [`Duration`].
pub fn parse_duration(text: &str) -> Result<Option<Duration>, FsdError> {
    match parse(text)? {
        seconds if seconds.is_infinite() => Ok(None),
        seconds => Duration::try_from_secs_f64(seconds)
            .map(Some)
            .map_err(|_| FsdError),
    }
}

/// The form of scripted commands (`{duration!F}` in listings): `inf`, `0s`, `1.500s`, `4.5m`.
pub fn format_scripted(seconds: f64) -> String {
    if seconds.is_infinite() {
        "inf".into()
    } else if seconds < 1e-3 {
        "0s".into()
    } else if seconds < 10.0 {
        format!("{seconds:.3}s")
    } else {
        let (value, unit) = large_unit(seconds);
        format!("{}{unit}", format_g(value, 4))
    }
}

/// The form of compiled commands (`uptime`, `overlay status`): `infinity`, `50ms`, `1.5s`, `4.5m`.
/// `precision` counts significant digits: 6 unless the command says otherwise.
pub fn format_compiled(seconds: f64, precision: usize) -> String {
    if seconds.is_infinite() {
        return "infinity".into();
    }
    let (value, unit) = if seconds > 0.0 && seconds < 0.1 {
        (seconds * 1e3, "ms")
    } else {
        large_unit(seconds)
    };
    format!("{}{unit}", format_g(value, precision))
}

/// The unit for a duration that is not tiny, and its value in that unit.
fn large_unit(seconds: f64) -> (f64, &'static str) {
    if seconds < 60.0 {
        (seconds, "s")
    } else if seconds < 3600.0 {
        (seconds / 60.0, "m")
    } else if seconds < 86400.0 {
        (seconds / 3600.0, "h")
    } else {
        (seconds / 86400.0, "d")
    }
}

/// What `printf("%.*g")` prints for a finite number.
pub fn format_g(value: f64, precision: usize) -> String {
    let precision = precision.max(1);
    if !value.is_finite() {
        return value.to_string();
    }
    let scientific = format!("{value:.*e}", precision - 1);
    let Some((mantissa, exponent)) = scientific.split_once('e') else {
        return scientific;
    };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trim = |digits: &str| match digits.contains('.') {
        true => digits
            .trim_end_matches('0')
            .trim_end_matches('.')
            .to_string(),
        false => digits.to_string(),
    };
    if exponent < -4 || exponent >= precision as i32 {
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{}e{sign}{:02}", trim(mantissa), exponent.abs())
    } else {
        let decimals = (precision as i32 - 1 - exponent).max(0) as usize;
        trim(&format!("{value:.decimals$}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn decodes_the_vectors_of_rfc_23() {
        for (text, seconds) in [
            ("2ms", 0.002),
            ("0.1s", 0.1),
            ("30", 30.0),
            ("1.2h", 4320.0),
            ("5m", 300.0),
            ("0s", 0.0),
            ("5d", 432000.0),
            ("inf", f64::INFINITY),
            ("INF", f64::INFINITY),
            ("infinity", f64::INFINITY),
            ("INFINITY", f64::INFINITY),
            ("1e2", 100.0),
            (".5", 0.5),
        ] {
            assert_eq!(parse(text), Ok(seconds), "{text}");
        }
    }

    #[test]
    fn refuses_other_text() {
        for text in [
            "", "s", "-1", "-1s", "nan", "infs", "1x", "1:30", "1 s", "5D", "1e999", "1mss",
        ] {
            assert_eq!(parse(text), Err(FsdError), "{text}");
        }
        assert_eq!(parse_duration("1.5m"), Ok(Some(Duration::from_secs(90))));
        assert_eq!(parse_duration("inf"), Ok(None));
        assert_eq!(parse_duration("1e300"), Err(FsdError));
    }

    #[test]
    fn renders_both_ways() {
        for (seconds, scripted, compiled) in [
            (f64::INFINITY, "inf", "infinity"),
            (0.0, "0s", "0s"),
            (0.0005, "0s", "0.5ms"),
            (0.05, "0.050s", "50ms"),
            (1.5, "1.500s", "1.5s"),
            (9.9999, "10.000s", "9.9999s"),
            (42.0, "42s", "42s"),
            (90.0, "1.5m", "1.5m"),
            (3600.0, "1h", "1h"),
            (12345.678, "3.429h", "3.42936h"),
            (86400.0, "1d", "1d"),
            (86400.0 * 12345.0, "1.234e+04d", "12345d"),
        ] {
            assert_eq!(format_scripted(seconds), scripted);
            assert_eq!(format_compiled(seconds, 6), compiled);
        }
        assert_eq!(format_compiled(12345.678, 2), "3.4h");
    }

    proptest! {
        #[test]
        fn what_we_print_can_be_read(seconds in 0.001f64..1e8) {
            let compiled = parse(&format_compiled(seconds, 6)).unwrap();
            prop_assert!((compiled - seconds).abs() <= seconds * 1e-5);
            prop_assert!((parse(&format_scripted(seconds)).unwrap() - seconds).abs() <= seconds * 1e-3 + 5e-4);
        }
    }
}

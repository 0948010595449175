//! Feeds random and mutated input to every decoder for a bounded time.
//!
//! `fuzz --seconds N [--target NAME] [--seed N]` runs each target for N seconds. Seeds are examples
//! of the RFCs; each round takes one, changes a few bytes and calls the target. A target fails by
//! panicking, after which the input that did it is printed. Runs on stable Rust, unlike coverage
//! guided fuzzers, and so can run in every check.

mod mutate;
mod targets;

use std::panic::catch_unwind;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use mutate::Mutator;
use targets::{TARGETS, Target};

/// Calls between looks at the clock.
const BATCH: usize = 256;

struct Options {
    seconds: f64,
    target: Option<String>,
    seed: u64,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        seconds: 1.0,
        target: None,
        seed: 1,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        let bad = |text: &str| format!("bad value '{text}'");
        match arg.as_str() {
            "--seconds" => {
                let text = value()?;
                let seconds = text
                    .parse()
                    .ok()
                    .filter(|s: &f64| s.is_finite() && *s >= 0.0);
                options.seconds = seconds.ok_or_else(|| bad(&text))?;
            }
            "--target" => options.target = Some(value()?),
            "--seed" => {
                let text = value()?;
                options.seed = text.parse().map_err(|_| bad(&text))?;
            }
            other => return Err(format!("unknown option {other}")),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(error) => {
            eprintln!("fuzz: {error}\nusage: fuzz [--seconds N] [--target NAME] [--seed N]");
            return ExitCode::from(2);
        }
    };
    let wanted = |target: &&Target| {
        options
            .target
            .as_deref()
            .is_none_or(|name| name == target.name)
    };
    let chosen: Vec<&Target> = TARGETS.iter().filter(wanted).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        eprintln!("fuzz: no such target; known: {}", names.join(" "));
        return ExitCode::from(2);
    }
    let mut failed = false;
    for target in chosen {
        match run(
            target,
            Duration::from_secs_f64(options.seconds),
            options.seed,
        ) {
            Ok(rounds) => println!("{}: ok, {rounds} rounds", target.name),
            Err(input) => {
                failed = true;
                println!(
                    "{}: FAILED on {:?}",
                    target.name,
                    String::from_utf8_lossy(&input)
                );
                println!("bytes: {input:02x?}");
            }
        }
    }
    match failed {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    }
}

/// Runs a target; gives the number of rounds, or the input that made it panic.
fn run(target: &Target, time: Duration, seed: u64) -> Result<u64, Vec<u8>> {
    let call = |input: &[u8]| match catch_unwind(|| (target.run)(input)) {
        Ok(()) => Ok(()),
        Err(_) => Err(input.to_vec()),
    };
    for seed in target.seeds {
        call(seed.as_bytes())?;
    }
    let mut mutator = Mutator::new(target.seeds, seed);
    let start = Instant::now();
    let mut rounds = 0;
    while start.elapsed() < time {
        for _ in 0..BATCH {
            call(&mutator.next_input())?;
            rounds += 1;
        }
    }
    Ok(rounds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_survives_a_short_run() {
        for target in TARGETS {
            assert_eq!(run(target, Duration::ZERO, 1), Ok(0), "{}", target.name);
        }
    }

    /// A fuzzer that cannot find a planted fault finds no real one.
    #[test]
    fn the_canary_dies() {
        let canary = Target {
            name: "canary",
            run: |input| assert!(!input.contains(&b'!'), "canary"),
            seeds: &["0-3", "7"],
        };
        assert!(run(&canary, Duration::from_secs(60), 1).is_err());
    }
}

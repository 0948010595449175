//! Benchmarks of a whole instance, as its users see it.
//!
//! `bench [--runs N] [--only NAME] [--against PATH]` prints one row a figure: the median of its
//! runs with the least and the most. With `--against`, another `flux` is measured in turn with
//! ours, run by run, so that both see the same machine.

mod archive;
mod instance;
mod probe;
mod rows;

use std::path::PathBuf;
use std::process::ExitCode;

use rows::{ROWS, Row, Unit};

struct Options {
    runs: usize,
    only: Option<String>,
    against: Option<PathBuf>,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        runs: 7,
        only: None,
        against: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--runs" => {
                let text = value()?;
                options.runs = text
                    .parse()
                    .ok()
                    .filter(|runs| *runs > 0)
                    .ok_or_else(|| format!("--runs: {text}: not a positive number"))?;
            }
            "--only" => options.only = Some(value()?),
            "--against" => options.against = Some(PathBuf::from(value()?)),
            other => return Err(format!("{other}: unknown option")),
        }
    }
    Ok(options)
}

/// The executable that `cargo` has built beside this one.
fn own_flux() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let flux = own.with_file_name("flux");
    if flux.exists() {
        return Ok(flux);
    }
    Err(format!(
        "{}: build it first: cargo xtask bench does",
        flux.display()
    ))
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("bench: {text}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let options = options()?;
    let mut contenders = vec![("ours", own_flux()?)];
    if let Some(path) = options.against {
        contenders.push(("other", path));
    }
    println!(
        "{:<44} {:<6} {:>12} {:>12} {:>12}",
        "what", "flux", "median", "least", "most"
    );
    for row in ROWS {
        if options
            .only
            .as_ref()
            .is_none_or(|only| row.name.contains(only.as_str()))
        {
            measure(row, &contenders, options.runs);
        }
    }
    println!(
        "{:<44} {:<6} {:>9.0} /s",
        "bare loop spawning `true`, 2 threads",
        "-",
        probe::bare_spawn_rate()
    );
    Ok(())
}

/// Measures a row for every contender in turn and prints it.
fn measure(row: &Row, contenders: &[(&str, PathBuf)], runs: usize) {
    let mut bench: Vec<_> = contenders
        .iter()
        .map(|(_, flux)| (row.prepare)(flux))
        .collect();
    let mut figures = vec![Vec::new(); contenders.len()];
    let mut errors = vec![None; contenders.len()];
    for _ in 0..runs.min(row.runs_max) {
        for (index, prepared) in bench.iter_mut().enumerate() {
            let figure = match prepared {
                Ok(prepared) => prepared.run(),
                Err(error) => Err(error.clone()),
            };
            match figure {
                Ok(figure) => figures[index].push(figure),
                Err(error) => errors[index] = Some(error),
            }
        }
    }
    for (index, (who, _)) in contenders.iter().enumerate() {
        let figures = &mut figures[index];
        figures.sort_by(f64::total_cmp);
        match figures.as_slice() {
            [] => {
                let error = errors[index].as_deref().unwrap_or("no figure");
                println!(
                    "{:<44} {who:<6} {}",
                    row.name,
                    error.lines().next().unwrap_or_default()
                );
            }
            [least, ..] => {
                let most = figures.last().unwrap_or(least);
                let median = figures[figures.len() / 2];
                let show = |figure: f64| show(figure, row.unit);
                println!(
                    "{:<44} {who:<6} {:>12} {:>12} {:>12}",
                    row.name,
                    show(median),
                    show(*least),
                    show(*most)
                );
            }
        }
    }
}

fn show(figure: f64, unit: Unit) -> String {
    match unit {
        Unit::Seconds if figure < 0.001 => format!("{:.1} us", figure * 1e6),
        Unit::Seconds => format!("{:.2} ms", figure * 1e3),
        Unit::PerSecond => format!("{figure:.0} /s"),
        Unit::Megabytes => format!("{figure:.1} MB"),
        Unit::MegabytesPerSecond => format!("{figure:.0} MB/s"),
    }
}

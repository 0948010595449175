//! `crash FLUX [--seed N] [--times N]`: kills a leader again and again, and checks what is left.
//! See `testkit::storm`.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    match run() {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(text) => {
            eprintln!("crash: {text}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<String, String> {
    let mut words = std::env::args().skip(1);
    let flux = words.next().ok_or("which flux?")?;
    let (mut seed, mut times) = (1, 200);
    while let Some(word) = words.next() {
        let number = match word.as_str() {
            "--seed" => &mut seed,
            "--times" => &mut times,
            other => return Err(format!("{other}: unknown option")),
        };
        let text = words
            .next()
            .ok_or_else(|| format!("{word} needs a value"))?;
        *number = text
            .parse()
            .map_err(|_| format!("{word}: {text}: not a number"))?;
    }
    let statedir = std::env::temp_dir().join(format!("flux-crash-{}", std::process::id()));
    std::fs::create_dir(&statedir).map_err(|error| error.to_string())?;
    let result = testkit::storm::run(Path::new(&flux), &statedir, seed, times);
    // After a failure the directory is evidence.
    if result.is_ok() {
        std::fs::remove_dir_all(&statedir).map_err(|error| error.to_string())?;
    }
    result.map_err(|error| format!("{error}\nthe state directory is {}", statedir.display()))
}

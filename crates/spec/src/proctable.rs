//! The processes of a job's tasks, as shells tell them to parallel debuggers.
//!
//! Each column is packed on its own: numbers as differences with runs, names as a prefix with
//! numbers. A table may be large, and whoever unpacks one may not trust its sender, so that
//! the number of rows is bounded before any is made.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use thiserror::Error;

/// More tasks than any job has.
pub const TASKS_MAX: usize = 1 << 24;

/// What is wrong with a packed table.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProctableError {
    /// A column that is not packed as columns are.
    #[error("proctable: invalid entry in {0}")]
    Entry(&'static str),
    /// A number out of range.
    #[error("proctable: number out of range in {0}")]
    Range(&'static str),
    /// Columns of different lengths.
    #[error("proctable: columns differ in length")]
    Lengths,
    /// More rows than [`TASKS_MAX`].
    #[error("proctable is too large")]
    TooLarge,
}

/// A task's process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// The task.
    pub task: u32,
    /// Its broker.
    pub broker: u32,
    /// Its host.
    pub host: String,
    /// Its program.
    pub executable: String,
    /// Its process id.
    pub pid: i32,
}

/// A packed table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Packed {
    hosts: Vec<Value>,
    executables: Vec<Value>,
    ids: Vec<Value>,
    pids: Vec<Value>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ranks: Vec<Value>,
}

impl Packed {
    /// Packs a table.
    pub fn new(rows: &[Process]) -> Packed {
        let numbers = |of: fn(&Process) -> i64| pack_numbers(rows.iter().map(of));
        Packed {
            hosts: pack_names(rows.iter().map(|row| row.host.as_str())),
            executables: pack_names(rows.iter().map(|row| row.executable.as_str())),
            ids: numbers(|row| row.task.into()),
            pids: numbers(|row| row.pid.into()),
            ranks: numbers(|row| row.broker.into()),
        }
    }

    /// Unpacks the table. Where the sender does not tell brokers, all are 0.
    pub fn unpack(&self) -> Result<Vec<Process>, ProctableError> {
        let ids = unpack_numbers(&self.ids, "ids")?;
        let pids = unpack_numbers(&self.pids, "pids")?;
        let hosts = unpack_names(&self.hosts, "hosts")?;
        let executables = unpack_names(&self.executables, "executables")?;
        let ranks = match self.ranks.as_slice() {
            [] => vec![0; ids.len()],
            ranks => unpack_numbers(ranks, "ranks")?,
        };
        let lengths = [pids.len(), hosts.len(), executables.len(), ranks.len()];
        if lengths.iter().any(|length| *length != ids.len()) {
            return Err(ProctableError::Lengths);
        }
        let names = hosts.into_iter().zip(executables);
        let numbers = ids.into_iter().zip(pids).zip(ranks);
        let rows = numbers.zip(names);
        rows.map(|(((task, pid), broker), (host, executable))| {
            Ok(Process {
                task: u32::try_from(task).map_err(|_| ProctableError::Range("ids"))?,
                broker: u32::try_from(broker).map_err(|_| ProctableError::Range("ranks"))?,
                host,
                executable,
                pid: i32::try_from(pid).map_err(|_| ProctableError::Range("pids"))?,
            })
        })
        .collect()
    }
}

/// A difference to the last number before, and how often what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    delta: i64,
    /// So many more numbers, each one more than the one before; negative: so many more of the same.
    more: i64,
}

/// Packs numbers: runs, and equal runs in a row as one with a count.
fn pack_numbers(numbers: impl Iterator<Item = i64>) -> Vec<Value> {
    let mut runs: Vec<Run> = Vec::new();
    let mut last = 0;
    for number in numbers {
        let step = number - last;
        last = number;
        match runs.last_mut() {
            Some(run) if step == 1 && run.more >= 0 => run.more += 1,
            Some(run) if step == 0 && run.more <= 0 => run.more -= 1,
            _ => runs.push(Run {
                delta: step,
                more: 0,
            }),
        }
    }
    let mut packed = Vec::new();
    for equal in runs.chunk_by(|a, b| a == b && a.more != 0) {
        let Run { delta, more } = equal[0];
        packed.push(match (more, equal.len() - 1) {
            (0, _) => json!(delta),
            (more, 0) => json!([delta, more]),
            (more, repeats) => json!([delta, more, repeats]),
        });
    }
    packed
}

fn unpack_numbers(packed: &[Value], column: &'static str) -> Result<Vec<i64>, ProctableError> {
    let mut numbers = Vec::new();
    for entry in packed {
        add_numbers(entry, column, &mut numbers)?;
    }
    Ok(numbers)
}

fn add_numbers(
    entry: &Value,
    column: &'static str,
    numbers: &mut Vec<i64>,
) -> Result<(), ProctableError> {
    let wrong = ProctableError::Entry(column);
    let int = |value: &Value| value.as_i64().ok_or(ProctableError::Entry(column));
    let (delta, more, repeats) = match entry {
        Value::Array(parts) => match parts.as_slice() {
            [delta, more] => (int(delta)?, int(more)?, 0),
            [delta, more, repeats] => (int(delta)?, int(more)?, int(repeats)?),
            _ => return Err(wrong),
        },
        number => (int(number)?, 0, 0),
    };
    let repeats = u64::try_from(repeats).map_err(|_| wrong)?;
    let count = (more.unsigned_abs().saturating_add(1)).saturating_mul(repeats.saturating_add(1));
    if count > (TASKS_MAX - numbers.len()) as u64 {
        return Err(ProctableError::TooLarge);
    }
    let step = i64::from(more > 0);
    let mut last = numbers.last().copied().unwrap_or(0);
    let mut add = |step: i64| {
        last = last.checked_add(step)?;
        numbers.push(last);
        Some(())
    };
    for _ in 0..=repeats {
        add(delta).ok_or(ProctableError::Range(column))?;
        for _ in 0..more.unsigned_abs() {
            add(step).ok_or(ProctableError::Range(column))?;
        }
    }
    Ok(())
}

/// Splits the number off the end of a name, if it is one that is written just so.
fn split(name: &str) -> (&str, Option<i64>) {
    let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    let mut at = name.len() - digits;
    // Zeros in front belong to the prefix.
    while at + 1 < name.len() && name[at..].starts_with('0') {
        at += 1;
    }
    match name[at..].parse() {
        Ok(number) => (&name[..at], Some(number)),
        Err(_) => (name, None),
    }
}

fn pack_names<'a>(names: impl Iterator<Item = &'a str>) -> Vec<Value> {
    let split: Vec<(&str, Option<i64>)> = names.map(split).collect();
    let mut packed = Vec::new();
    for same in split.chunk_by(|a, b| a.0 == b.0) {
        let prefix = same[0].0;
        packed.push(match same {
            [(_, Some(number))] => json!(format!("{prefix}{number}")),
            [(_, None)] => json!(prefix),
            _ => {
                let numbers = same.iter().map(|(_, number)| number.unwrap_or(-1));
                json!([prefix, pack_numbers(numbers)])
            }
        });
    }
    packed
}

fn unpack_names(packed: &[Value], column: &'static str) -> Result<Vec<String>, ProctableError> {
    let mut names = Vec::new();
    for entry in packed {
        match entry {
            Value::String(name) => names.push(name.clone()),
            Value::Array(parts) => {
                let [Value::String(prefix), Value::Array(numbers)] = parts.as_slice() else {
                    return Err(ProctableError::Entry(column));
                };
                for number in unpack_numbers(numbers, column)? {
                    names.push(match number {
                        -1 => prefix.clone(),
                        number => format!("{prefix}{number}"),
                    });
                }
            }
            _ => return Err(ProctableError::Entry(column)),
        }
        if names.len() > TASKS_MAX {
            return Err(ProctableError::TooLarge);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(task: u32, broker: u32, host: &str, pid: i32) -> Process {
        Process {
            task,
            broker,
            host: host.to_owned(),
            executable: "sleep".to_owned(),
            pid,
        }
    }

    #[test]
    fn equal_runs_are_counted() {
        let pack = |numbers: &[i64]| json!(pack_numbers(numbers.iter().copied()));
        assert_eq!(
            pack(&[0, 0, 1, 1, 2, 2, 3, 3]),
            json!([[0, -1], [1, -1, 2]])
        );
        assert_eq!(pack(&[0, 1, 2, 3]), json!([[0, 3]]));
        assert_eq!(
            pack(&[14576, 14578, 14574, 14580]),
            json!([14576, 2, -4, 6])
        );
        assert_eq!(pack(&[7, 7, 8, 3]), json!([[7, -1], 1, -5]));
        assert_eq!(pack(&[]), json!([]));
    }

    #[test]
    fn tables_survive_packing() {
        let rows = [
            row(0, 0, "foo1", 100),
            row(1, 0, "foo1", 101),
            row(2, 1, "foo2", 7),
            row(3, 2, "foo02", 8),
            row(4, 3, "bar", 9),
            row(6, 3, "9", 9),
        ];
        let packed = Packed::new(&rows);
        assert_eq!(packed.unpack().expect("packed"), rows);
        let text = serde_json::to_string(&packed).expect("JSON");
        let again: Packed = serde_json::from_str(&text).expect("a table");
        assert_eq!(again, packed);
    }

    #[test]
    fn wrong_tables_are_refused() {
        let unpack = |value: Value| {
            let packed: Packed = serde_json::from_value(value).expect("columns");
            packed.unpack().expect_err("wrong")
        };
        let table = |ids: Value, pids: Value| json!({"hosts": ["a"], "executables": ["b"], "ids": ids, "pids": pids});
        assert_eq!(
            unpack(table(json!([0, 1]), json!([5]))),
            ProctableError::Lengths
        );
        assert_eq!(
            unpack(table(json!(["x"]), json!([5]))),
            ProctableError::Entry("ids")
        );
        assert_eq!(
            unpack(table(json!([[0, i64::MIN, i64::MAX]]), json!([5]))),
            ProctableError::TooLarge
        );
        assert_eq!(
            unpack(table(json!([-1]), json!([5]))),
            ProctableError::Range("ids")
        );
        assert_eq!(
            unpack(table(json!([[i64::MAX, 1]]), json!([5]))),
            ProctableError::Range("ids")
        );
    }
}

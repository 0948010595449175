//! Attributes of inputs that a command line defines, in Python.
//!
//! `--define=NAME=CODE` has always been a Python expression, so Python evaluates it: one
//! interpreter for all, started by the first definition, asked a line at a time.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use serde::{Deserialize, Serialize};
use types::Errno;

use crate::commands::python;
use crate::fail::Fail;

/// Stands between the items of a list, which become words of their own in a command.
pub(super) const LIST_SEPARATOR: &str = "::list::";

/// Answers what it is asked. What the expressions print goes where errors do, since standard output
/// is for answers.
const EVALUATOR: &str = r#"
import json, os, sys
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
defined = {}
def answer(name, code=None, x=None, conversion=None, format=""):
    if code is not None:
        defined[name] = compile(code, name, "eval")
        return ""
    value = eval(defined[name], {"os": os, "sys": sys}, {"x": x})
    if conversion is not None:
        value = {"s": str, "r": repr, "a": ascii}[conversion](value)
    if isinstance(value, list):
        return "::list::".join([str(item) for item in value])
    return value.__format__(format)
for line in sys.stdin:
    try:
        reply = {"value": answer(**json.loads(line))}
    except Exception as error:
        reply = {"error": str(error)}
    print(json.dumps(reply), file=answers, flush=True)
"#;

/// How a value is shown: Python's conversion and format.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Rendering<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) conversion: Option<&'a str>,
    pub(super) format: &'a str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Question<'a> {
    Define {
        name: &'a str,
        code: &'a str,
    },
    Apply {
        name: &'a str,
        x: &'a str,
        #[serde(flatten)]
        rendering: &'a Rendering<'a>,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Value(String),
    Error(String),
}

/// The attributes a command line defines.
#[derive(Default)]
pub(super) struct Defines {
    names: Vec<String>,
    evaluator: Option<Evaluator>,
}

impl Defines {
    /// Takes in definitions, each `NAME=CODE`.
    pub(super) fn new<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Defines, Fail> {
        let mut defines = Defines::default();
        for text in texts {
            let invalid = |why: &str| Fail::new(format!("--define={text}: {why}"));
            let (name, code) = match text.split_once('=') {
                Some((name, code)) if !name.is_empty() => (name, code),
                _ => return Err(invalid("expected NAME=CODE")),
            };
            let evaluator = match &mut defines.evaluator {
                Some(evaluator) => evaluator,
                None => {
                    let started = Evaluator::start().map_err(|error| invalid(&error))?;
                    defines.evaluator.insert(started)
                }
            };
            let question = Question::Define { name, code };
            evaluator.ask(&question).map_err(|error| invalid(&error))?;
            defines.names.push(name.to_owned());
        }
        Ok(defines)
    }

    /// The value of an input's attribute.
    pub(super) fn apply(
        &mut self,
        name: &str,
        x: &str,
        rendering: &Rendering<'_>,
    ) -> Result<String, String> {
        match &mut self.evaluator {
            Some(evaluator) if self.names.iter().any(|known| known == name) => {
                evaluator.ask(&Question::Apply { name, x, rendering })
            }
            _ => Err(format!("Unknown input string method '.{name}'")),
        }
    }
}

/// A Python that evaluates.
struct Evaluator {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Evaluator {
    fn start() -> Result<Evaluator, String> {
        let mut command = python::interpreter_command();
        command.args(["-c", EVALUATOR]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| {
            let python = command.get_program().display().to_string();
            format!("{python}: {}", Errno::from_io(&error))
        })?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(questions), Some(answers)) => Ok(Evaluator {
                child,
                questions,
                answers: BufReader::new(answers),
            }),
            _ => Err(Errno::EPIPE.to_string()),
        }
    }

    fn ask(&mut self, question: &Question<'_>) -> Result<String, String> {
        let mut line = serde_json::to_string(question).map_err(|error| error.to_string())?;
        line.push('\n');
        let asked = self.questions.write_all(line.as_bytes());
        line.clear();
        let answered = asked.and_then(|()| self.answers.read_line(&mut line));
        match answered {
            Ok(0) => Err("Python ended".to_owned()),
            Err(error) => Err(format!("Python: {}", Errno::from_io(&error))),
            Ok(_) => match serde_json::from_str(&line) {
                Ok(Answer::Value(value)) => Ok(value),
                Ok(Answer::Error(text)) => Err(text),
                Err(error) => Err(format!("Python: {error}")),
            },
        }
    }
}

impl Drop for Evaluator {
    fn drop(&mut self) {
        // It may be busy with what nobody waits for any more, or be gone already.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

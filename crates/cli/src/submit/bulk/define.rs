//! Attributes of inputs that a command line defines, in Python.
//!
//! `--define=NAME=CODE` has always been a Python expression, so Python evaluates it: one
//! interpreter for all, started by the first definition.

use serde::Serialize;

use crate::fail::Fail;
use crate::interpreter::Interpreter;

/// Stands between the items of a list, which become words of their own in a command.
pub(super) const LIST_SEPARATOR: &str = "::list::";

/// Takes definitions, and applies them.
const EVALUATOR: &str = r#"
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
serve(answer)
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

/// The attributes a command line defines.
#[derive(Default)]
pub(super) struct Defines {
    names: Vec<String>,
    evaluator: Option<Interpreter>,
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
                    let started = Interpreter::start(EVALUATOR).map_err(|error| invalid(&error))?;
                    defines.evaluator.insert(started)
                }
            };
            let question = Question::Define { name, code };
            evaluator
                .ask::<String>(&question)
                .map_err(|error| invalid(&error))?;
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

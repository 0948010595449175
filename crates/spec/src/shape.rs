//! Resource requests as users type them (RFC 46): `slot=4{nodelevel}/node{-x}/core=4+`.

use serde_json::{Map, Value, json};
use types::Errno;

use crate::range::{Count, Operator, Range, RangeError};

/// Levels deeper than this are refused, so that parsing cannot exhaust the stack.
const DEPTH_MAX: usize = 64;

/// Why text is not a shape (RFC 46).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// Something else was expected.
    #[error("invalid shape: expected {expected} at '{rest}'")]
    Syntax {
        /// What was expected.
        expected: &'static str,
        /// The text from there on.
        rest: String,
    },
    /// A bad count.
    #[error("invalid count '{count}': {error}")]
    Count {
        /// The count.
        count: String,
        /// What is wrong with it.
        error: RangeError,
    },
    /// A slot that contains nothing.
    #[error("invalid shape: a slot must contain resources")]
    EmptySlot,
    /// Several slots of which one has no label.
    #[error("invalid shape: several slots need labels")]
    Label,
    /// Too many levels.
    #[error("shape is nested too deeply")]
    Depth,
}

impl ShapeError {
    /// The error number C programs report: `EINVAL`.
    pub fn errno(&self) -> Errno {
        Errno::EINVAL
    }
}

/// Expands a shape to the `resources` list of a jobspec (RFC 14). Errors: see [`ShapeError`].
pub fn parse(text: &str) -> Result<Value, ShapeError> {
    let mut parser = Parser {
        rest: text.trim(),
        slots: 0,
        unlabeled: 0,
    };
    let list = parser.list(0)?;
    if !parser.rest.is_empty() {
        return Err(parser.expected("end of shape"));
    }
    match parser.slots > 1 && parser.unlabeled > 0 {
        true => Err(ShapeError::Label),
        false => Ok(list),
    }
}

struct Parser<'a> {
    rest: &'a str,
    slots: usize,
    unlabeled: usize,
}

impl<'a> Parser<'a> {
    fn expected(&self, expected: &'static str) -> ShapeError {
        ShapeError::Syntax {
            expected,
            rest: self.rest.into(),
        }
    }

    fn eat(&mut self, c: char) -> bool {
        let rest = self.rest.strip_prefix(c);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn need(&mut self, c: char, expected: &'static str) -> Result<(), ShapeError> {
        match self.eat(c) {
            true => Ok(()),
            false => Err(self.expected(expected)),
        }
    }

    /// Takes text up to one of the given characters.
    fn until(&mut self, stop: &[char]) -> &'a str {
        let (taken, rest) = self
            .rest
            .split_at(self.rest.find(stop).unwrap_or(self.rest.len()));
        self.rest = rest;
        taken
    }

    /// Takes a string, quoted as in JSON or bare.
    fn string(&mut self, expected: &'static str) -> Result<String, ShapeError> {
        if self.rest.starts_with('"') {
            let value = self.json(expected)?;
            return Ok(value.as_str().unwrap_or_default().into());
        }
        const STOP: [char; 9] = ['=', '{', '}', '/', ';', '[', ']', ',', ':'];
        match self.until(&STOP) {
            "" => Err(self.expected(expected)),
            text => Ok(text.into()),
        }
    }

    /// Takes one strict JSON value.
    fn json(&mut self, expected: &'static str) -> Result<Value, ShapeError> {
        let mut stream = serde_json::Deserializer::from_str(self.rest).into_iter();
        match stream.next() {
            Some(Ok(value)) => {
                self.rest = &self.rest[stream.byte_offset()..];
                Ok(value)
            }
            _ => Err(self.expected(expected)),
        }
    }

    fn list(&mut self, depth: usize) -> Result<Value, ShapeError> {
        if depth > DEPTH_MAX {
            return Err(ShapeError::Depth);
        }
        if !self.eat('[') {
            return Ok(json!([self.vertex(depth)?]));
        }
        let mut list = vec![self.vertex(depth)?];
        while self.eat(';') {
            list.push(self.vertex(depth)?);
        }
        self.need(']', "';' or ']'")?;
        Ok(list.into())
    }

    fn vertex(&mut self, depth: usize) -> Result<Value, ShapeError> {
        let kind = self.string("a resource type")?;
        let count = match self.eat('=') {
            true => self.count()?,
            false => 1.into(),
        };
        let mut vertex = Map::new();
        vertex.insert("type".into(), kind.clone().into());
        vertex.insert("count".into(), count);
        if self.eat('{') {
            if kind == "slot" {
                vertex.insert("label".into(), self.string("a slot label")?.into());
                if !self.eat(',') && !self.rest.starts_with('}') {
                    return Err(self.expected("',' or '}'"));
                }
            }
            self.items(&mut vertex, depth)?;
        }
        if kind == "slot" {
            self.slots += 1;
            if !vertex.contains_key("label") {
                self.unlabeled += 1;
                vertex.insert("label".into(), "default".into());
            }
        }
        match self.eat('/') {
            true => {
                vertex.insert("with".into(), self.list(depth + 1)?);
            }
            false if kind == "slot" => return Err(ShapeError::EmptySlot),
            false => {}
        }
        Ok(vertex.into())
    }

    fn count(&mut self) -> Result<Value, ShapeError> {
        let text = match self.eat('[') {
            true => {
                let text = self.until(&[']']);
                self.need(']', "']'")?;
                text
            }
            false => self.until(&['{', '/', ';', ']']),
        };
        match text.parse() {
            Ok(Count::Fixed(count)) => Ok(count.into()),
            Ok(Count::Range(range)) => Ok(range_value(&range)),
            // As typed, less the brackets: RFC 14 takes the string as it is.
            Ok(Count::Set(_)) => Ok(text.into()),
            Err(error) => Err(ShapeError::Count {
                count: text.into(),
                error,
            }),
        }
    }

    /// Takes the items of a dictionary and its closing brace.
    fn items(&mut self, object: &mut Map<String, Value>, depth: usize) -> Result<(), ShapeError> {
        if depth > DEPTH_MAX {
            return Err(ShapeError::Depth);
        }
        if self.eat('}') {
            return Ok(());
        }
        loop {
            let sign = match (self.eat('+'), self.rest.starts_with('-')) {
                (true, _) => Some(true),
                (false, true) => {
                    self.eat('-');
                    Some(false)
                }
                (false, false) => None,
            };
            let key = match self.string("a key")? {
                key if key == "x" => "exclusive".into(),
                key => key,
            };
            let value = match sign {
                Some(value) => value.into(),
                None if self.eat(':') => self.value(depth)?,
                None => true.into(),
            };
            object.insert(key, value);
            if self.eat('}') {
                return Ok(());
            }
            self.need(',', "',' or '}'")?;
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value, ShapeError> {
        if self.eat('{') {
            let mut object = Map::new();
            self.items(&mut object, depth + 1)?;
            return Ok(object.into());
        }
        if self.rest.starts_with(['[', '"']) {
            return self.json("a value");
        }
        match self.until(&[',', '}']).trim() {
            "" => Err(self.expected("a value")),
            text => Ok(serde_json::from_str(text).unwrap_or_else(|_| text.into())),
        }
    }
}

/// A range as RFC 14 writes it. Operator and operand go with a maximum or when they say something.
fn range_value(range: &Range) -> Value {
    let mut object = Map::new();
    object.insert("min".into(), range.min.into());
    if let Some(max) = range.max {
        object.insert("max".into(), max.into());
    }
    if range.max.is_some() || (range.operator, range.operand) != (Operator::Add, 1) {
        object.insert("operator".into(), range.operator.as_str().into());
        object.insert("operand".into(), range.operand.into());
    }
    object.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every example of RFC 46, named by its use case of RFC 14.
    #[test]
    fn the_examples_of_rfc_46() {
        let slot_node = |count: Value| json!([{"type":"slot","count":count,"label":"default","with":[{"type":"node","count":1}]}]);
        for (case, shape, resources) in [
            ("1.1", "slot=4/node", slot_node(json!(4))),
            (
                "1.2",
                "slot=3-30/node",
                slot_node(json!({"min":3,"max":30,"operator":"+","operand":1})),
            ),
            (
                "1.3",
                "slot=4{nodelevel}/node{-x}/socket=2+/core=4+",
                json!([{"type":"slot","count":4,"label":"nodelevel","with":[{"type":"node","count":1,"exclusive":false,"with":[{"type":"socket","count":{"min":2},"with":[{"type":"core","count":{"min":4}}]}]}]}]),
            ),
            (
                "1.4",
                "slot=4{nodelevel}/node/socket=2/core=4",
                json!([{"type":"slot","count":4,"label":"nodelevel","with":[{"type":"node","count":1,"with":[{"type":"socket","count":2,"with":[{"type":"core","count":4}]}]}]}]),
            ),
            (
                "1.5",
                "[cluster/slot=2{ib}/node/[memory=4{unit:GB};ib10g];switch/slot=2{bicore}/node/core=2]",
                json!([{"type":"cluster","count":1,"with":[{"type":"slot","count":2,"label":"ib","with":[{"type":"node","count":1,"with":[{"type":"memory","count":4,"unit":"GB"},{"type":"ib10g","count":1}]}]}]},{"type":"switch","count":1,"with":[{"type":"slot","count":2,"label":"bicore","with":[{"type":"node","count":1,"with":[{"type":"core","count":2}]}]}]}]),
            ),
            (
                "1.6",
                "cluster=2/slot/node=1+{-x}/core=30",
                json!([{"type":"cluster","count":2,"with":[{"type":"slot","count":1,"label":"default","with":[{"type":"node","count":{"min":1},"exclusive":false,"with":[{"type":"core","count":30}]}]}]}]),
            ),
            (
                "1.7",
                "switch=3/slot/node=1+{-x}/core",
                json!([{"type":"switch","count":3,"with":[{"type":"slot","count":1,"label":"default","with":[{"type":"node","count":{"min":1},"exclusive":false,"with":[{"type":"core","count":1}]}]}]}]),
            ),
            ("1.8", "slot=4,9,16,25/node", slot_node(json!("4,9,16,25"))),
            (
                "2.3",
                "slot=10/core=2",
                json!([{"type":"slot","count":10,"label":"default","with":[{"type":"core","count":2}]}]),
            ),
            (
                "2.4",
                "node/[slot=10{read-db}/[core;memory=4{unit:GB}];slot{db}/[core=6;memory=24{unit:GB}]]",
                json!([{"type":"node","count":1,"with":[{"type":"slot","count":10,"label":"read-db","with":[{"type":"core","count":1},{"type":"memory","count":4,"unit":"GB"}]},{"type":"slot","count":1,"label":"db","with":[{"type":"core","count":6},{"type":"memory","count":24,"unit":"GB"}]}]}]),
            ),
            (
                "2.5",
                "slot=10/[memory=2+{unit:GB};core]",
                json!([{"type":"slot","count":10,"label":"default","with":[{"type":"memory","count":{"min":2},"unit":"GB"},{"type":"core","count":1}]}]),
            ),
            (
                "2.6",
                "slot=2{4GB-node}/node/memory=4+{unit:GB}",
                json!([{"type":"slot","count":2,"label":"4GB-node","with":[{"type":"node","count":1,"with":[{"type":"memory","count":{"min":4},"unit":"GB"}]}]}]),
            ),
            ("2.7", "slot/node", slot_node(json!(1))),
        ] {
            assert_eq!(
                parse(shape).as_ref().map(Value::to_string),
                Ok(resources.to_string()),
                "{case}"
            );
        }
    }

    #[test]
    fn dictionaries_take_booleans_objects_and_quotes() {
        assert_eq!(
            parse(r#"node=[1-4:2:*]{x,+a,-b,"c d":"e,f",n:5,o:{p:q,+r},l:[1,2]}"#).unwrap(),
            json!([{"type":"node","count":{"min":1,"max":4,"operator":"*","operand":2},
                "exclusive":true,"a":true,"b":false,"c d":"e,f","n":5,"o":{"p":"q","r":true},"l":[1,2]}])
        );
    }

    #[test]
    fn refuses_other_text() {
        for text in [
            "",
            "=4",
            "slot",
            "slot=4",
            "slot=0/node",
            "slot=x/node",
            "node{",
            "node{unit:}",
            "[node",
            "node]",
            "node/",
            "node;core",
            "slot{}/node",
            "[slot{a}/node;slot/node]",
            "node=[1",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(parse(&"a/".repeat(1000)), Err(ShapeError::Depth));
        assert!(parse(&("a{x:{".to_string() + &"x:{".repeat(1000))).is_err());
    }
}

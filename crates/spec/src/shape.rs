//! Resource requests as users type them (RFC 46): `slot=4{nodelevel}/node{-x}/core=4+`.
//!
//! Counts that are no numbers stay texts, as the reference has it, which RFC 14 allows.

use serde_json::{Map, Value};

/// How deep lists and values may be nested.
const DEPTH_MAX: usize = 64;

/// Reads a shape as a jobspec's `resources`. A slot without a label, of which there may be one if
/// it is the only slot, gets `label`.
///
/// # Errors
///
/// The shape is wrong; the text, for people, says where. Positions count characters from 0.
pub fn parse(text: &str, label: &str) -> Result<Vec<Value>, String> {
    let mut parser = Parser {
        text: text.chars().collect(),
        at: 0,
        depth: 0,
        slots: 0,
        unlabeled: 0,
        label,
    };
    let list = parser.list()?;
    match parser.peek() {
        None => {}
        Some(bracket @ (']' | '}')) => {
            let kind = if bracket == ']' { "brackets" } else { "braces" };
            return Err(format!(
                "Mismatched {kind} starting at position {}.",
                parser.at
            ));
        }
        Some(_) => return Err(parser.unexpected()),
    }
    match parser.slots > 1 && parser.unlabeled > 0 {
        true => Err("Multiple slots require labels".to_owned()),
        false => Ok(list),
    }
}

struct Parser<'a> {
    text: Vec<char>,
    at: usize,
    depth: usize,
    slots: usize,
    unlabeled: usize,
    label: &'a str,
}

/// What stands for itself.
fn is_special(c: char) -> bool {
    "[]{}/;=,:+-\"".contains(c)
}

/// What ends a word that is not quoted.
fn ends_word(c: char) -> bool {
    "[]{}/;=,:\"".contains(c) || c.is_whitespace()
}

impl Parser<'_> {
    /// The next character that is no blank.
    fn peek(&mut self) -> Option<char> {
        while self.text.get(self.at).is_some_and(|c| c.is_whitespace()) {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    fn accept(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, wanted: char) -> Result<(), String> {
        match self.accept(wanted) {
            true => Ok(()),
            false => Err(self.unexpected()),
        }
    }

    /// What is next should not be there.
    fn unexpected(&mut self) -> String {
        let Some(first) = self.peek() else {
            let text: String = self.text.iter().collect();
            return format!("Unexpected end of input in '{}'", text.trim_end());
        };
        let rest = &self.text[self.at..];
        let word: String = match is_special(first) {
            true => first.to_string(),
            false => rest.iter().take_while(|c| !ends_word(**c)).collect(),
        };
        format!("Invalid token '{word}' at position {}", self.at)
    }

    /// Reads what is between two marks, the first of which is next.
    fn within<T>(
        &mut self,
        close: char,
        kind: &str,
        inside: impl FnOnce(&mut Self) -> Result<T, String>,
    ) -> Result<T, String> {
        let start = self.at;
        self.at += 1;
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(format!("Nested too deeply at position {start}"));
        }
        let result = inside(self).and_then(|inner| self.expect(close).map(|()| inner));
        self.depth -= 1;
        match self.peek() {
            None if result.is_err() => Err(format!("Unclosed {kind} in position {start}")),
            _ => result,
        }
    }

    fn list(&mut self) -> Result<Vec<Value>, String> {
        if self.peek() != Some('[') {
            return Ok(vec![self.vertex()?]);
        }
        self.within(']', "bracket", |parser| {
            let mut list = vec![parser.vertex()?];
            while parser.accept(';') {
                list.push(parser.vertex()?);
            }
            Ok(list)
        })
    }

    fn vertex(&mut self) -> Result<Value, String> {
        let kind = self.word()?;
        let is_slot = kind == "slot";
        let mut vertex = Map::new();
        vertex.insert("type".into(), kind.into());
        let count = match self.accept('=') {
            true => self.count()?,
            false => 1.into(),
        };
        vertex.insert("count".into(), count);
        if is_slot {
            self.slots += 1;
        }
        if self.peek() == Some('{') {
            self.within('}', "brace", |parser| {
                if is_slot {
                    let label = parser.word()?;
                    vertex.insert("label".into(), label.into());
                } else if parser.peek() != Some('}') {
                    parser.item(&mut vertex)?;
                }
                while parser.accept(',') {
                    parser.item(&mut vertex)?;
                }
                Ok(())
            })?;
        } else if is_slot {
            self.unlabeled += 1;
            vertex.insert("label".into(), self.label.into());
        }
        if is_slot {
            self.expect('/')?;
        } else if !self.accept('/') {
            return Ok(vertex.into());
        }
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(format!("Nested too deeply at position {}", self.at));
        }
        vertex.insert("with".into(), self.list()?.into());
        self.depth -= 1;
        Ok(vertex.into())
    }

    /// A key and its value, or a key alone, which stands for true, or with a minus for false.
    fn item(&mut self, object: &mut Map<String, Value>) -> Result<(), String> {
        let sign = match self.peek() {
            Some('-') => Some(false),
            Some('+') => Some(true),
            _ => None,
        };
        self.at += usize::from(sign.is_some());
        let key = match self.word()? {
            key if key == "x" => "exclusive".to_owned(),
            key => key,
        };
        let value = match sign {
            Some(sign) => sign.into(),
            None if self.accept(':') => self.value()?,
            None => true.into(),
        };
        object.insert(key, value);
        Ok(())
    }

    /// JSON, but that words and the keys of objects need no quotes.
    fn value(&mut self) -> Result<Value, String> {
        match self.peek() {
            None | Some(',' | '}' | ']') => return Err(self.unexpected()),
            Some('{') => {
                return self.within('}', "brace", |parser| {
                    let mut object = Map::new();
                    if parser.peek() != Some('}') {
                        parser.item(&mut object)?;
                    }
                    while parser.accept(',') {
                        parser.item(&mut object)?;
                    }
                    Ok(object.into())
                });
            }
            Some('[') => {
                return self.within(']', "bracket", |parser| {
                    let mut list = Vec::new();
                    if parser.peek() != Some(']') {
                        list.push(parser.value()?);
                    }
                    while parser.accept(',') {
                        list.push(parser.value()?);
                    }
                    Ok(list.into())
                });
            }
            Some('"') => return self.quoted().map(Value::from),
            Some(_) => {}
        }
        let rest = &self.text[self.at..];
        let word: String = rest.iter().take_while(|c| !",}]".contains(**c)).collect();
        self.at += word.chars().count();
        let word = word.trim_end();
        Ok(serde_json::from_str(word).unwrap_or_else(|_| word.into()))
    }

    fn word(&mut self) -> Result<String, String> {
        match self.peek() {
            Some('"') => self.quoted(),
            Some(first) if !is_special(first) => {
                let rest = &self.text[self.at..];
                let word: String = rest.iter().take_while(|c| !ends_word(**c)).collect();
                self.at += word.chars().count();
                Ok(word)
            }
            _ => Err(self.unexpected()),
        }
    }

    /// A string of JSON.
    fn quoted(&mut self) -> Result<String, String> {
        let start = self.at;
        let mut escaped = false;
        let end = self.text[start + 1..].iter().position(|c| {
            let ends = *c == '"' && !escaped;
            escaped = *c == '\\' && !escaped;
            ends
        });
        let Some(end) = end else {
            return Err(format!("Unclosed quote \" at position {start}"));
        };
        self.at = start + end + 2;
        let text: String = self.text[start..self.at].iter().collect();
        serde_json::from_str(&text).map_err(|_| format!("Invalid string at position {start}"))
    }

    /// A number, a range (RFC 45) or an idset (RFC 22), with or without brackets.
    fn count(&mut self) -> Result<Value, String> {
        if self.peek() == Some('[') {
            return self.within(']', "bracket", Parser::bare_count);
        }
        self.bare_count()
    }

    fn bare_count(&mut self) -> Result<Value, String> {
        self.peek();
        let start = self.at;
        self.number()?;
        let mut plain = true;
        match self.text.get(self.at) {
            Some('+') => {
                plain = false;
                self.at += 1;
                self.steps()?;
            }
            Some('-') => {
                plain = false;
                self.at += 1;
                self.number()?;
                match self.text.get(self.at) {
                    Some(':') => self.steps()?,
                    _ => self.more_ids()?,
                }
            }
            Some(',') => {
                plain = false;
                self.more_ids()?;
            }
            _ => {}
        }
        match self.text.get(self.at) {
            Some(c) if !is_special(*c) && !c.is_whitespace() => {
                return Err(format!("Illegal character '{c}' at position {}", self.at));
            }
            _ => {}
        }
        let text: String = self.text[start..self.at].iter().collect();
        if !plain {
            return Ok(text.into());
        }
        let number: u64 = text
            .parse()
            .map_err(|_| format!("Number too large at position {start}"))?;
        Ok(number.into())
    }

    /// The operand and the operator of a range.
    fn steps(&mut self) -> Result<(), String> {
        if self.text.get(self.at) != Some(&':') {
            return Ok(());
        }
        self.at += 1;
        self.number()?;
        if self.text.get(self.at) != Some(&':') {
            return Ok(());
        }
        self.at += 1;
        match self.text.get(self.at) {
            Some('+' | '*' | '^') => self.at += 1,
            Some(c) => return Err(format!("Illegal character '{c}' at position {}", self.at)),
            None => return Err(self.unexpected()),
        }
        Ok(())
    }

    fn more_ids(&mut self) -> Result<(), String> {
        while self.text.get(self.at) == Some(&',') {
            self.at += 1;
            self.number()?;
            if self.text.get(self.at) == Some(&'-') {
                self.at += 1;
                self.number()?;
            }
        }
        Ok(())
    }

    /// Passes over a positive number.
    fn number(&mut self) -> Result<(), String> {
        match self.text.get(self.at) {
            Some('1'..='9') => {}
            Some(c) if !is_special(*c) && !c.is_whitespace() => {
                return Err(format!("Illegal character '{c}' at position {}", self.at));
            }
            _ => return Err(self.unexpected()),
        }
        while self.text.get(self.at).is_some_and(char::is_ascii_digit) {
            self.at += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn shapes_become_resources() {
        let core = json!([{"type": "core", "count": 1}]);
        let slot =
            |count: Value| json!([{"type": "slot", "count": count, "label": "task", "with": core}]);
        for (text, expect) in [
            (" slot / core ", slot(json!(1))),
            ("slot=2/core", slot(json!(2))),
            ("slot=3-30/core", slot(json!("3-30"))),
            ("slot=[2-8:2:^]/core", slot(json!("2-8:2:^"))),
            ("slot=2+:3/core", slot(json!("2+:3"))),
            ("slot=1-4,7/core{}", slot(json!("1-4,7"))),
            ("core=2", json!([{"type": "core", "count": 2}])),
            (
                "node=2{-x}/slot{a,x}/[core;\"my gpu\"=4{unit:GB}]",
                json!([{"type": "node", "count": 2, "exclusive": false, "with": [
                    {"type": "slot", "count": 1, "label": "a", "exclusive": true, "with": [
                        {"type": "core", "count": 1},
                        {"type": "my gpu", "count": 4, "unit": "GB"},
                    ]},
                ]}]),
            ),
            (
                "a{+x,b:1.5,c:\"q r\",d:[1,t],e:{f:g,h},i:true,j:k:l m,x:false}",
                json!([{"type": "a", "count": 1, "exclusive": false, "b": 1.5, "c": "q r",
                    "d": [1, "t"], "e": {"f": "g", "h": true}, "i": true, "j": "k:l m"}]),
            ),
            (
                "[slot{a}/core;slot{b}/core]",
                json!([{"type": "slot", "count": 1, "label": "a", "with": core},
                    {"type": "slot", "count": 1, "label": "b", "with": core}]),
            ),
        ] {
            let found = parse(text, "task").map(Value::from);
            assert_eq!(found, Ok(expect), "{text}");
        }
    }

    #[test]
    fn wrong_shapes_are_refused_by_place() {
        let deep = "[".repeat(100);
        for (text, expect) in [
            ("slot/", "Unexpected end of input in 'slot/'"),
            ("slot", "Unexpected end of input in 'slot'"),
            ("slot/core{unit:GB", "Unclosed brace in position 9"),
            ("[slot/core", "Unclosed bracket in position 0"),
            ("slot/core{a:\"x}", "Unclosed quote \" at position 12"),
            ("slot/core]", "Mismatched brackets starting at position 9."),
            ("slot/core x", "Invalid token 'x' at position 10"),
            ("slot/core;gpu", "Invalid token ';' at position 9"),
            ("slot=0/core", "Illegal character '0' at position 5"),
            ("slot=01/core", "Illegal character '0' at position 5"),
            ("slot=1.5/core", "Illegal character '.' at position 6"),
            ("slot=-1/core", "Invalid token '-' at position 5"),
            ("slot=2:8/core", "Invalid token ':' at position 6"),
            ("slot=2{}/core", "Invalid token '}' at position 7"),
            ("slot{x:1}/core", "Invalid token ':' at position 6"),
            ("slot/core{a:}", "Invalid token '}' at position 12"),
            ("slot/core{a:b,}", "Invalid token '}' at position 14"),
            ("slot/core{--x}", "Invalid token '-' at position 11"),
            ("slot/[[core]]", "Invalid token '[' at position 6"),
            ("[]", "Invalid token ']' at position 1"),
            ("", "Unexpected end of input in ''"),
            ("[slot/core;slot/core]", "Multiple slots require labels"),
            (
                "slot=99999999999999999999/core",
                "Number too large at position 5",
            ),
            (&deep, "Invalid token '[' at position 1"),
        ] {
            assert_eq!(parse(text, "task"), Err(expect.to_owned()), "{text}");
        }
        let deep = "a/".repeat(100);
        assert!(parse(&deep, "task").is_err_and(|text| text.starts_with("Nested too")));
    }
}

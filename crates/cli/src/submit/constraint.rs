//! Constraint expressions (RFC 35) into constraint objects (RFC 31).

use serde_json::{Value, json};

/// How deep parentheses may nest.
const DEPTH_MAX: usize = 64;

/// Parses an expression. The error says what is wrong with it.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    let mut parser = Parser {
        tokens: tokens(text)?,
        at: 0,
        depth: 0,
    };
    let value = parser.or()?;
    match parser.peek() {
        None => Ok(value),
        Some(Token::Close(at)) => Err(format!("Mismatched parentheses starting at position {at}")),
        Some(token) => Err(format!("Syntax error at '{}'", token.text())),
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    And,
    Or,
    Not,
    Open(usize),
    Close(usize),
    Word(String),
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Token::And => "and",
            Token::Or => "or",
            Token::Not => "not",
            Token::Open(_) => "(",
            Token::Close(_) => ")",
            Token::Word(word) => word,
        }
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut chars = text.char_indices().peekable();
    while let Some(&(at, c)) = chars.peek() {
        match c {
            c if c.is_whitespace() => {
                chars.next();
            }
            '(' => {
                tokens.push(Token::Open(at));
                chars.next();
            }
            ')' => {
                tokens.push(Token::Close(at));
                chars.next();
            }
            '&' | '|' => {
                chars.next();
                chars.next_if(|&(_, next)| next == c);
                tokens.push(if c == '&' { Token::And } else { Token::Or });
            }
            '-' => {
                chars.next();
                tokens.push(Token::Not);
            }
            _ => {
                let mut word = String::new();
                let mut quote = None;
                while let Some(&(_, c)) = chars.peek() {
                    match quote {
                        Some(open) if c == open => quote = None,
                        Some(_) => word.push(c),
                        None if c == '"' || c == '\'' => quote = Some(c),
                        None if c.is_whitespace() || "()&|".contains(c) => break,
                        None => word.push(c),
                    }
                    chars.next();
                }
                if let Some(open) = quote {
                    return Err(format!("Unclosed quote {open} at position {at}"));
                }
                tokens.push(match word.as_str() {
                    "and" => Token::And,
                    "or" => Token::Or,
                    "not" => Token::Not,
                    _ => Token::Word(word),
                });
            }
        }
    }
    Ok(tokens)
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn or(&mut self) -> Result<Value, String> {
        let mut terms = vec![self.and()?];
        while self.peek() == Some(&Token::Or) {
            self.next();
            terms.push(self.and()?);
        }
        Ok(join("or", terms))
    }

    fn and(&mut self) -> Result<Value, String> {
        let mut terms = vec![self.term()?];
        loop {
            match self.peek() {
                Some(Token::And) => {
                    self.next();
                }
                Some(Token::Not | Token::Open(_) | Token::Word(_)) => {}
                Some(Token::Or | Token::Close(_)) | None => break,
            }
            let term = self.term()?;
            // Neighbouring properties are one list.
            let more = term.get("properties").and_then(Value::as_array).cloned();
            match (
                terms.last_mut().and_then(|last| last.get_mut("properties")),
                more,
            ) {
                (Some(Value::Array(list)), Some(more)) => list.extend(more),
                _ => terms.push(term),
            }
        }
        Ok(join("and", terms))
    }

    fn term(&mut self) -> Result<Value, String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err("expression is nested too deeply".to_owned());
        }
        let value = match self.next() {
            Some(Token::Not) => Ok(json!({"not": [self.term()?]})),
            Some(Token::Open(at)) => {
                if self.peek().is_none() {
                    return Err(format!("Unclosed parenthesis in position {at}"));
                }
                let value = self.or()?;
                match self.next() {
                    Some(Token::Close(_)) => Ok(value),
                    _ => Err(format!("Unclosed parenthesis in position {at}")),
                }
            }
            Some(Token::Word(word)) => Ok(operand(&word)),
            Some(Token::Close(at)) => {
                Err(format!("Mismatched parentheses starting at position {at}"))
            }
            Some(token) => Err(format!("Syntax error at '{}'", token.text())),
            None => Err("Unexpected end of input".to_owned()),
        };
        self.depth -= 1;
        value
    }
}

fn join(operator: &str, mut terms: Vec<Value>) -> Value {
    if terms.len() == 1 {
        return terms.remove(0);
    }
    json!({ operator: terms })
}

fn operand(word: &str) -> Value {
    match word.split_once(':') {
        Some(("host" | "hosts" | "hostlist", value)) => json!({"hostlist": [value]}),
        Some(("rank" | "ranks", value)) => json!({"ranks": [value]}),
        Some(("property" | "properties", value)) => properties(value),
        Some((operator, value)) => json!({ operator: [value] }),
        None => properties(word),
    }
}

fn properties(text: &str) -> Value {
    let list: Vec<&str> = text.split(',').collect();
    json!({ "properties": list })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, json: &str) {
        let expect: Value = serde_json::from_str(json).expect("JSON");
        assert_eq!(parse(text), Ok(expect), "{text}");
    }

    #[test]
    fn expressions() {
        check("a,b", r#"{"properties":["a","b"]}"#);
        check(
            "a|b",
            r#"{"or":[{"properties":["a"]},{"properties":["b"]}]}"#,
        );
        check(
            "foo,bar host:a[1-2] and not rank:3",
            r#"{"and":[{"properties":["foo","bar"]},{"hostlist":["a[1-2]"]},{"not":[{"ranks":["3"]}]}]}"#,
        );
        check(
            "a (b or -c)",
            r#"{"and":[{"properties":["a"]},{"or":[{"properties":["b"]},{"not":[{"properties":["c"]}]}]}]}"#,
        );
        check("a&b", r#"{"properties":["a","b"]}"#);
    }

    #[test]
    fn errors() {
        assert_eq!(
            parse("a("),
            Err("Unclosed parenthesis in position 1".to_owned())
        );
        assert!(parse("and").is_err());
        assert!(parse(&"(".repeat(1000)).is_err());
    }
}

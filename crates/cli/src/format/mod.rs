//! The format strings of listings: Python's `str.format` with columns that fit themselves.
//!
//! [`Format::parse`] checks a format against a command's fields; [`Format::fit`] drops and widens
//! columns by what the rows hold; then header and rows are text.

mod named;
mod spec;
mod value;

pub(crate) use named::{Named, NoFormat, choose, files};
pub(crate) use spec::Spec;
pub(crate) use value::Value;

/// A row: where a format's fields come from.
pub(crate) trait Row {
    /// The value of a field that the command has.
    fn field(&self, name: &str) -> Result<Value, String>;
}

/// A replacement field with the literal text in front of it.
#[derive(Clone, Debug)]
struct Field {
    text: String,
    name: String,
    conversion: Option<char>,
    spec: String,
    drop_empty: bool,
    widen: bool,
}

/// A parsed format.
#[derive(Clone, Debug)]
pub(crate) struct Format {
    fields: Vec<Field>,
    /// Literal text after the last field.
    tail: String,
    /// Keys to sort by, from the `sort:` prefix.
    pub(crate) sort: Vec<String>,
    headings: Vec<String>,
    /// The field that was written in doubled braces.
    doubled: Option<String>,
}

/// What stands in front of a field to have its column dropped, widened or both.
const SENTINELS: [(&str, bool, bool); 3] = [
    ("?+:", true, true),
    ("?:", true, false),
    ("+:", false, true),
];

impl Format {
    /// Parses a format. `heading` names the fields there are.
    pub(crate) fn parse(
        text: &str,
        heading: impl Fn(&str) -> Option<String>,
    ) -> Result<Format, String> {
        let (sort, text) = split_sort(text);
        for key in &sort {
            let name = key.trim_start_matches('-');
            if heading(name).is_none() {
                return Err(format!("Invalid sort key: {name}"));
            }
        }
        // There is no escaping of braces: a field in doubled braces fails when it is shown.
        let doubled = text.find("{{").map(|at| {
            let inner = &text[at + 2..];
            inner
                .split(['}', ':', '!'])
                .next()
                .unwrap_or(inner)
                .to_owned()
        });
        let text = text.replace("{{", "{").replace("}}", "}");
        let mut fields = Vec::new();
        let mut headings = Vec::new();
        let mut rest = text.as_str();
        let tail = loop {
            let Some(open) = rest.find(['{', '}']) else {
                break rest.to_owned();
            };
            if rest[open..].starts_with('}') {
                return Err("Single '}' encountered in format string".to_owned());
            }
            let (before, inner) = (&rest[..open], &rest[open + 1..]);
            if inner.is_empty() {
                return Err("Single '{' encountered in format string".to_owned());
            }
            let close = inner
                .find('}')
                .ok_or_else(|| "expected '}' before end of string".to_owned())?;
            let field = parse_field(before, &inner[..close])?;
            let name = heading(&field.name)
                .ok_or_else(|| format!("Unknown format field: {}", field.name))?;
            headings.push(name);
            fields.push(field);
            rest = &inner[close + 1..];
        };
        let mut format = Format {
            fields,
            tail,
            sort,
            headings,
            doubled,
        };
        format.read_sentinels();
        Ok(format)
    }

    fn read_sentinels(&mut self) {
        let mut any = false;
        for field in &mut self.fields {
            let found = SENTINELS
                .iter()
                .find(|(mark, ..)| field.text.ends_with(mark));
            if let Some((_, drop_empty, widen)) = found {
                field.drop_empty = *drop_empty;
                field.widen = *widen;
                any = true;
            }
        }
        if any {
            for field in &mut self.fields {
                for (mark, ..) in SENTINELS {
                    field.text = field.text.replace(mark, "");
                }
            }
        }
    }

    /// The names of the fields and sort keys, which tell what to ask for.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let keys = self.sort.iter().map(|key| key.trim_start_matches('-'));
        self.fields
            .iter()
            .map(|field| field.name.as_str())
            .chain(keys)
    }

    /// Whether a column has this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|field| field.name == name)
    }

    /// Drops fields by name, with text in front of them that is only blank.
    pub(crate) fn remove(&mut self, gone: impl Fn(&str) -> bool) {
        let mut text = String::new();
        let mut kept = Vec::new();
        let headings = std::mem::take(&mut self.headings);
        for (mut field, heading) in std::mem::take(&mut self.fields).into_iter().zip(headings) {
            if gone(&field.name) {
                if !field.text.trim().is_empty() {
                    text.push_str(&field.text);
                }
                continue;
            }
            field.text.insert_str(0, &std::mem::take(&mut text));
            kept.push(field);
            self.headings.push(heading);
        }
        self.tail.insert_str(0, &text);
        self.fields = kept;
    }

    /// Takes width, precision and truncation off some fields, so that rows can be compared.
    pub(crate) fn without_width(&self, name: impl Fn(&str) -> bool) -> Format {
        let mut format = self.clone();
        for field in &mut format.fields {
            if name(&field.name) {
                field.spec.clear();
            }
        }
        format
    }

    /// Drops the columns in which every row is empty and widens those that ask for it.
    pub(crate) fn fit<R: Row>(&mut self, rows: &[R], header: bool) -> Result<(), String> {
        let mut fields = Vec::new();
        let mut headings = Vec::new();
        let all = std::mem::take(&mut self.fields).into_iter();
        for (mut field, heading) in all.zip(std::mem::take(&mut self.headings)) {
            if field.drop_empty {
                let mut empty = true;
                for row in rows {
                    let text = field.convert(&row.field(&field.name)?)?.plain();
                    if !value::is_empty(&text) {
                        empty = false;
                        break;
                    }
                }
                if empty {
                    continue;
                }
            }
            if field.widen {
                let mut width = if header { heading.chars().count() } else { 0 };
                for row in rows {
                    let text = field.render_wide(&row.field(&field.name)?)?;
                    width = width.max(text.chars().count());
                }
                field.set_width(width)?;
            }
            fields.push(field);
            headings.push(heading);
        }
        self.fields = fields;
        self.headings = headings;
        Ok(())
    }

    /// The header line.
    pub(crate) fn header(&self) -> String {
        let mut line = String::new();
        for (field, heading) in self.fields.iter().zip(&self.headings) {
            line.push_str(&field.text);
            let (_, spec) = field.parts();
            line.push_str(
                &Spec::parse(spec).map_or_else(|_| heading.clone(), |spec| spec.header(heading)),
            );
        }
        line.push_str(&self.tail);
        line
    }

    /// A row's line.
    pub(crate) fn row(&self, row: &impl Row) -> Result<String, String> {
        if let Some(name) = &self.doubled {
            return Err(format!("\"Invalid format field '{name}'\""));
        }
        let mut line = String::new();
        for field in &self.fields {
            line.push_str(&field.text);
            line.push_str(&field.render(&row.field(&field.name)?)?);
        }
        line.push_str(&self.tail);
        Ok(line)
    }

    /// Sorts rows by the format's keys, the last first, each keeping the order of equals.
    pub(crate) fn sort<R: Row>(&self, rows: &mut [R]) -> Result<(), String> {
        for key in self.sort.iter().rev() {
            let (name, reverse) = match key.strip_prefix('-') {
                Some(name) => (name, true),
                None => (key.as_str(), false),
            };
            for row in rows.iter() {
                row.field(name)?;
            }
            rows.sort_by(|a, b| {
                let value = |row: &R| row.field(name).unwrap_or(Value::None);
                let order = value(a).compare(&value(b));
                if reverse { order.reverse() } else { order }
            });
        }
        Ok(())
    }
}

/// Splits the `sort:` prefix from a format.
fn split_sort(text: &str) -> (Vec<String>, &str) {
    let Some(rest) = text.strip_prefix("sort:") else {
        return (Vec::new(), text);
    };
    let end = rest.find([' ', '{']).unwrap_or(rest.len());
    let keys = rest[..end].split(',').filter(|key| !key.is_empty());
    let rest_text = rest[end..].strip_prefix(' ').unwrap_or(&rest[end..]);
    (keys.map(str::to_owned).collect(), rest_text)
}

fn parse_field(before: &str, inner: &str) -> Result<Field, String> {
    let (head, spec) = match inner.split_once(':') {
        Some((head, spec)) => (head, spec),
        None => (inner, ""),
    };
    let (name, conversion) = match head.split_once('!') {
        Some((name, conversion)) => {
            let mut chars = conversion.chars();
            match (chars.next(), chars.next()) {
                (Some(conversion), None) => (name, Some(conversion)),
                (None, _) => {
                    return Err("end of string while looking for conversion specifier".to_owned());
                }
                _ => return Err("expected ':' after conversion specifier".to_owned()),
            }
        }
        None => (head, None),
    };
    Ok(Field {
        text: before.to_owned(),
        name: name.to_owned(),
        conversion,
        spec: spec.to_owned(),
        drop_empty: false,
        widen: false,
    })
}

impl Field {
    /// The time pattern, if the conversion takes one, and the ordinary spec.
    fn parts(&self) -> (Option<&str>, &str) {
        match self.spec.split_once("::") {
            Some((pattern, spec)) => (Some(pattern), spec),
            None if self.conversion == Some('d') => match self.spec.strip_suffix('h') {
                Some(pattern) if pattern.ends_with('%') || !pattern.contains('%') => {
                    (Some(&self.spec), "")
                }
                Some(pattern) => (Some(pattern), "h"),
                None => (Some(&self.spec), ""),
            },
            None => (None, &self.spec),
        }
    }

    fn convert(&self, value: &Value) -> Result<Value, String> {
        value.convert(self.conversion, self.parts().0)
    }

    fn render(&self, value: &Value) -> Result<String, String> {
        Spec::parse(self.parts().1)?.apply(&self.convert(value)?)
    }

    /// As [`Field::render`] without cutting.
    fn render_wide(&self, value: &Value) -> Result<String, String> {
        let mut spec = Spec::parse(self.parts().1)?;
        let converted = self.convert(value)?;
        if spec.is_text(&converted) {
            spec.precision = None;
        }
        spec.width = None;
        spec.apply(&converted)
    }

    fn set_width(&mut self, width: usize) -> Result<(), String> {
        let (pattern, spec) = self.parts();
        let mut spec = Spec::parse(spec)?;
        let width = width.max(spec.width.unwrap_or(0));
        spec.width = Some(width);
        spec.precision = spec.precision.map(|precision| precision.max(width));
        let text = spec.to_string();
        self.spec = match pattern {
            Some(pattern) => format!("{pattern}::{text}"),
            None => text,
        };
        Ok(())
    }
}

/// Cuts a line to a width, marking the cut.
pub(crate) fn cut(line: &str, width: Option<usize>) -> String {
    match width {
        Some(width) if width > 0 && line.chars().count() > width => {
            let mut cut: String = line.chars().take(width - 1).collect();
            cut.push('+');
            cut
        }
        _ => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pair(&'static str, i64);

    impl Row for Pair {
        fn field(&self, name: &str) -> Result<Value, String> {
            Ok(match name {
                "a" => Value::Str(self.0.to_owned()),
                _ => Value::Int(self.1),
            })
        }
    }

    fn heading(name: &str) -> Option<String> {
        ["a", "b"].contains(&name).then(|| name.to_uppercase())
    }

    fn table(text: &str, rows: &[Pair]) -> Vec<String> {
        let mut format = Format::parse(text, heading).expect("valid");
        format.fit(rows, true).expect("valid");
        let mut lines = vec![format.header()];
        lines.extend(rows.iter().map(|row| format.row(row).expect("valid")));
        lines
    }

    #[test]
    fn columns_fit_themselves() {
        let rows = [Pair("x", 1), Pair("yyyy", 22)];
        assert_eq!(
            table("{a:<2.2} {b:>4}", &rows),
            ["A     B", "x     1", "yy   22"]
        );
        assert_eq!(
            table("+:{a:<2.2} {b}", &rows),
            ["A    B", "x    1", "yyyy 22"]
        );
        assert_eq!(table("?:{a} {b}", &[Pair("", 1)]), [" B", " 1"]);
        assert_eq!(table("{a:<3.3+}", &rows), ["A  ", "x  ", "yy+"]);
        assert_eq!(
            table("{a!r:>8}", &rows),
            ["       A", "     'x'", "  'yyyy'"]
        );
    }

    #[test]
    fn mistakes_are_told_in_python_words() {
        let fail = |text: &str| Format::parse(text, heading).expect_err("wrong");
        assert_eq!(fail("{c}"), "Unknown format field: c");
        assert_eq!(fail("{a"), "expected '}' before end of string");
        assert_eq!(fail("sort:c {a}"), "Invalid sort key: c");
        let format = Format::parse("{a:d}", heading).expect("valid so far");
        assert_eq!(
            format.row(&Pair("x", 1)),
            Err("Unknown format code 'd' for object of type 'str'".to_owned())
        );
    }

    #[test]
    fn rows_sort_by_class_then_value() {
        let format = Format::parse("sort:-b {a}", heading).expect("valid");
        let mut rows = [Pair("x", 1), Pair("y", 3), Pair("z", 2)];
        format.sort(&mut rows).expect("valid");
        assert_eq!(rows.each_ref().map(|row| row.1), [3, 2, 1]);
    }
}

//! MySQL's JSON paths: `$.key[0]`, `$[last]`, `$[0 to 2]`, `$.*`, `$[*]`, `$**.key`.

use serde_json::Value;

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Leg {
    Key(String),
    AnyKey,
    Cell(Place),
    Range(Place, Place),
    AnyCell,
    /// Any number of steps, none included.
    Deep,
}

/// A cell counted from the start, or from the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    FromStart(usize),
    FromLast(usize),
}

impl Place {
    /// None before the first cell.
    pub fn in_array(self, length: usize) -> Option<usize> {
        match self {
            Self::FromStart(idx) => Some(idx),
            Self::FromLast(back) => length.checked_sub(1)?.checked_sub(back),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Path {
    pub legs: Vec<Leg>,
}

impl Path {
    /// Whether it can mean several values.
    pub fn is_plural(&self) -> bool {
        self.legs.iter().any(|it| matches!(it, Leg::AnyKey | Leg::AnyCell | Leg::Range(..) | Leg::Deep))
    }

    /// Errs with the byte at which it cannot be read on.
    pub fn parse(text: &str) -> Result<Self, usize> {
        let mut reader = Reader { text, at: 0 };
        reader.blanks();
        reader.expect("$")?;
        let mut legs = vec![];
        loop {
            reader.blanks();
            if reader.at == text.len() {
                // `**` has to be followed by what it leads to.
                return if legs.last() == Some(&Leg::Deep) { Err(reader.at) } else { Ok(Self { legs }) };
            }
            legs.push(reader.leg()?);
        }
    }

    /// All values that the path means, in the document's order.
    pub fn find<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        let mut found = vec![value];
        for leg in &self.legs {
            let mut next = vec![];
            for value in found {
                step(value, leg, &mut next);
            }
            found = next;
        }
        // `**` can come to a value by more than one way.
        let mut unique: Vec<&Value> = vec![];
        if self.legs.contains(&Leg::Deep) {
            for value in found {
                if !unique.iter().any(|it| std::ptr::eq(*it, value)) {
                    unique.push(value);
                }
            }
            return unique;
        }
        found
    }
}

fn step<'v>(value: &'v Value, leg: &Leg, out: &mut Vec<&'v Value>) {
    match (leg, value) {
        (Leg::Key(key), Value::Object(map)) => out.extend(map.get(key)),
        (Leg::AnyKey, Value::Object(map)) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort_by(|a, b| super::json::key_order(a, b));
            out.extend(keys.into_iter().filter_map(|key| map.get(key)));
        }
        (Leg::Cell(place), Value::Array(cells)) => out.extend(place.in_array(cells.len()).and_then(|it| cells.get(it))),
        // What is no array counts as one of a single cell.
        (Leg::Cell(place), other) if place.in_array(1) == Some(0) => out.push(other),
        (Leg::Range(from, to), Value::Array(cells)) => {
            let from = from.in_array(cells.len()).unwrap_or(0);
            if let Some(to) = to.in_array(cells.len()) {
                out.extend(cells.iter().take(to.saturating_add(1)).skip(from));
            }
        }
        (Leg::Range(from, _), other) if from.in_array(1) == Some(0) => out.push(other),
        (Leg::AnyCell, Value::Array(cells)) => out.extend(cells),
        (Leg::Deep, value) => {
            out.push(value);
            match value {
                Value::Array(cells) => cells.iter().for_each(|it| step(it, leg, out)),
                Value::Object(map) => {
                    let mut keys: Vec<&String> = map.keys().collect();
                    keys.sort_by(|a, b| super::json::key_order(a, b));
                    keys.into_iter().filter_map(|key| map.get(key)).for_each(|it| step(it, leg, out));
                }
                _ => {}
            }
        }
        _ => {}
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn blanks(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn takes(&mut self, word: &str) -> bool {
        let found = self.rest().starts_with(word);
        self.at += if found { word.len() } else { 0 };
        found
    }

    fn expect(&mut self, word: &str) -> Result<(), usize> {
        if self.takes(word) { Ok(()) } else { Err(self.at) }
    }

    fn leg(&mut self) -> Result<Leg, usize> {
        if self.takes("**") {
            return Ok(Leg::Deep);
        }
        if self.takes(".") {
            self.blanks();
            if self.takes("*") {
                return Ok(Leg::AnyKey);
            }
            return self.key().map(Leg::Key);
        }
        self.expect("[")?;
        self.blanks();
        if self.takes("*") {
            self.blanks();
            self.expect("]")?;
            return Ok(Leg::AnyCell);
        }
        let from = self.place()?;
        self.blanks();
        if self.takes("to") {
            self.blanks();
            let to = self.place()?;
            self.blanks();
            self.expect("]")?;
            return Ok(Leg::Range(from, to));
        }
        self.expect("]")?;
        Ok(Leg::Cell(from))
    }

    fn key(&mut self) -> Result<String, usize> {
        if self.rest().starts_with('"') {
            // The end is the first quote that no backslash stands before.
            let mut is_escaped = false;
            for (idx, letter) in self.rest().char_indices().skip(1) {
                if letter == '"' && !is_escaped {
                    let quoted = &self.rest()[..=idx];
                    let key = serde_json::from_str(quoted).map_err(|_| self.at)?;
                    self.at += idx + 1;
                    return Ok(key);
                }
                is_escaped = letter == '\\' && !is_escaped;
            }
            return Err(self.at);
        }
        let is_in_name = |it: char| it.is_alphanumeric() || it == '_' || it == '$';
        let n = self.rest().find(|it| !is_in_name(it)).unwrap_or(self.rest().len());
        let key = self.rest()[..n].to_owned();
        if key.is_empty() || key.starts_with(|it: char| it.is_ascii_digit()) {
            return Err(self.at);
        }
        self.at += n;
        Ok(key)
    }

    fn number(&mut self) -> Result<usize, usize> {
        let n = self.rest().bytes().take_while(u8::is_ascii_digit).count();
        let number = self.rest()[..n].parse().map_err(|_| self.at)?;
        self.at += n;
        Ok(number)
    }

    fn place(&mut self) -> Result<Place, usize> {
        if !self.takes("last") {
            return self.number().map(Place::FromStart);
        }
        self.blanks();
        if !self.takes("-") {
            return Ok(Place::FromLast(0));
        }
        self.blanks();
        self.number().map(Place::FromLast)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, document: &str, expected: &str) {
        let document: Value = serde_json::from_str(document).unwrap();
        let found = Path::parse(path).unwrap().find(&document);
        assert_eq!(serde_json::to_string(&found).unwrap(), expected, "{path}");
    }

    #[test]
    fn paths_find_their_values() {
        check("$", "1", "[1]");
        check("$.a.b[1]", r#"{"a": {"b": [1, 2]}}"#, "[2]");
        check(r#"$."a b""#, r#"{"a b": 3}"#, "[3]");
        check("$[last - 1]", "[1, 2, 3]", "[2]");
        check("$[1 to last]", "[1, 2, 3]", "[2,3]");
        check("$[0]", "5", "[5]");
        check("$.*", r#"{"bb": 1, "a": 2}"#, "[2,1]");
        check("$**.b", r#"{"a": {"b": 1}, "b": {"b": 2}}"#, r#"[{"b":2},1,2]"#);
        check("$.x", "[1]", "[]");
        for wrong in ["", "a", "$.", "$[", "$[a]", "$**", "$.1", "$[1", r#"$."a"#] {
            assert!(Path::parse(wrong).is_err(), "{wrong}");
        }
    }
}

//! Bytes to lines and fields, as MySQL's `LOAD DATA` tells them apart.
//!
//! No library reads this: terminators of several bytes, `LINES STARTING BY`, `\N`, escapes and enclosures together.

use sheaf_common::{ErrorCode, WireError};
use sheaf_planners::parser::load::LineFormat;

/// The longest line. What is longer has other terminators than the statement says.
const LINE_BYTES_MAX: usize = 64 << 20;

/// One line's fields. Reused from line to line.
#[derive(Debug, Default)]
pub struct Record {
    data: Vec<u8>,
    /// Where each field ends in `data`, and whether it is NULL.
    fields: Vec<(usize, bool)>,
}

impl Record {
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// None for NULL. There has to be such a field.
    pub fn get(&self, idx: usize) -> Option<&[u8]> {
        let start = idx.checked_sub(1).map_or(0, |before| self.fields[before].0);
        let (end, is_null) = self.fields[idx];
        (!is_null).then(|| &self.data[start..end])
    }

    fn clear(&mut self) {
        self.data.clear();
        self.fields.clear();
    }
}

/// Takes lines out of bytes that come in pieces.
#[derive(Debug)]
pub struct Lines {
    format: LineFormat,
    buffer: Vec<u8>,
    /// Where the next line begins.
    at: usize,
    /// Bytes below which the next line is known not to be whole.
    bytes_min: usize,
    is_over: bool,
    /// Bytes that may be more than themselves, without and within an enclosure.
    special: [bool; 256],
    special_enclosed: [bool; 256],
}

/// What ends a field.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Field,
    Line,
    /// The end of the file.
    File,
}

impl Lines {
    /// Errs when the format has no ends of fields: lines of fixed widths are not read.
    pub fn new(format: LineFormat) -> Result<Self, WireError> {
        if format.field_end.is_empty() {
            let text = "LOAD DATA of fields that nothing ends (FIELDS TERMINATED BY '') is not supported";
            return Err(WireError::new(ErrorCode::Unsupported, text));
        }
        let (mut special, mut special_enclosed) = ([false; 256], [false; 256]);
        let ends = [&format.field_end, &format.line_end];
        for byte in ends.iter().filter_map(|it| it.as_bytes().first()).chain(&format.escape) {
            special[usize::from(*byte)] = true;
        }
        for byte in format.enclosure.iter().chain(&format.escape) {
            special_enclosed[usize::from(*byte)] = true;
        }
        Ok(Self { format, buffer: vec![], at: 0, bytes_min: 1, is_over: false, special, special_enclosed })
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.at);
        self.at = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// Nothing more comes: what is left is the last line.
    pub fn end(&mut self) {
        self.is_over = true;
    }

    /// The next line; `false` if it is not whole yet, or if there is none.
    pub fn next(&mut self, record: &mut Record) -> Result<bool, WireError> {
        let n_bytes = self.buffer.len() - self.at;
        if n_bytes == 0 || (n_bytes < self.bytes_min && !self.is_over) {
            return Ok(false);
        }
        record.clear();
        let scan = Scan { lines: self, input: &self.buffer[self.at..], record };
        if let Some((n_read, is_line)) = scan.line() {
            self.at += n_read;
            self.bytes_min = 1;
            return Ok(is_line);
        }
        if n_bytes > LINE_BYTES_MAX {
            let text = format!(
                "a line has more than {} MiB: see whether LINES TERMINATED BY and ENCLOSED BY are those of the file",
                LINE_BYTES_MAX >> 20
            );
            return Err(WireError::new(ErrorCode::InvalidArgument, text));
        }
        // Begun anew at each piece, a long line would take the square of its length.
        self.bytes_min = n_bytes * 2;
        Ok(false)
    }
}

/// One attempt at a line.
struct Scan<'a> {
    lines: &'a Lines,
    input: &'a [u8],
    record: &'a mut Record,
}

/// What comes next in the input may be a terminator.
enum Found {
    Yes,
    No,
    /// More bytes will tell.
    Open,
}

impl Scan<'_> {
    /// How many bytes were read, and whether they are a line; none if that cannot be told yet.
    fn line(mut self) -> Option<(usize, bool)> {
        let mut at = 0;
        let start = self.lines.format.line_start.as_bytes();
        if !start.is_empty() {
            match self.input.windows(start.len()).position(|it| it == start) {
                Some(found) => at = found + start.len(),
                None if self.lines.is_over => return Some((self.input.len(), false)),
                None => return None,
            }
        }
        loop {
            let (next, ending) = self.field(at)?;
            at = next;
            if ending != Ending::Field {
                return Some((at, true));
            }
        }
    }

    fn field(&mut self, at: usize) -> Option<(usize, Ending)> {
        match (self.input.get(at), self.lines.format.enclosure) {
            (Some(byte), Some(enclosure)) if *byte == enclosure => self.enclosed(at + 1, enclosure),
            (None, _) if !self.lines.is_over => None,
            _ => self.bare(at),
        }
    }

    fn bare(&mut self, mut at: usize) -> Option<(usize, Ending)> {
        let start = self.record.data.len();
        let mut is_escaped_null = false;
        loop {
            at += self.plain(at, &self.lines.special);
            let Some(byte) = self.input.get(at).copied() else {
                if !self.lines.is_over {
                    return None;
                }
                self.close(start, is_escaped_null);
                return Some((at, Ending::File));
            };
            if let Some((next, ending)) = self.ending(at)? {
                self.close(start, is_escaped_null);
                return Some((next, ending));
            }
            if Some(byte) == self.lines.format.escape {
                is_escaped_null = self.record.data.len() == start && self.input.get(at + 1) == Some(&b'N');
                at = self.escaped(at)?;
            } else {
                self.record.data.push(byte);
                at += 1;
            }
        }
    }

    fn enclosed(&mut self, mut at: usize, enclosure: u8) -> Option<(usize, Ending)> {
        loop {
            at += self.plain(at, &self.lines.special_enclosed);
            let Some(byte) = self.input.get(at).copied() else {
                if !self.lines.is_over {
                    return None;
                }
                self.record.fields.push((self.record.data.len(), false));
                return Some((at, Ending::File));
            };
            if byte == enclosure {
                if self.input.get(at + 1) == Some(&enclosure) {
                    self.record.data.push(enclosure);
                    at += 2;
                    continue;
                }
                if self.input.len() == at + 1 && !self.lines.is_over {
                    return None;
                }
                let ending = match self.ending(at + 1)? {
                    None if self.input.len() == at + 1 => Some((at + 1, Ending::File)),
                    ending => ending,
                };
                if let Some(ending) = ending {
                    self.record.fields.push((self.record.data.len(), false));
                    return Some(ending);
                }
                // One that ends nothing is part of the field.
                self.record.data.push(byte);
                at += 1;
            } else {
                at = self.escaped(at)?;
            }
        }
    }

    /// Takes over bytes that are nothing but themselves; how many.
    fn plain(&mut self, at: usize, special: &[bool; 256]) -> usize {
        let rest = self.input.get(at..).unwrap_or_default();
        let n_bytes = rest.iter().position(|it| special[usize::from(*it)]).unwrap_or(rest.len());
        self.record.data.extend_from_slice(&rest[..n_bytes]);
        n_bytes
    }

    /// The end of a field or line that stands here and what comes behind it; none if there is none.
    fn ending(&self, at: usize) -> Option<Option<(usize, Ending)>> {
        let format = &self.lines.format;
        for (end, ending) in [(&format.line_end, Ending::Line), (&format.field_end, Ending::Field)] {
            match self.stands(at, end.as_bytes()) {
                Found::Yes => return Some(Some((at + end.len(), ending))),
                Found::Open => return None,
                Found::No => {}
            }
        }
        Some(None)
    }

    fn stands(&self, at: usize, end: &[u8]) -> Found {
        let rest = self.input.get(at..).unwrap_or_default();
        match (end.is_empty(), rest.starts_with(end)) {
            (true, _) => Found::No,
            (_, true) => Found::Yes,
            _ if rest.len() < end.len() && end.starts_with(rest) && !self.lines.is_over => Found::Open,
            _ => Found::No,
        }
    }

    /// An escape and what it stands before; where the input goes on.
    fn escaped(&mut self, at: usize) -> Option<usize> {
        let Some(next) = self.input.get(at + 1).copied() else {
            if !self.lines.is_over {
                return None;
            }
            self.record.data.push(self.input[at]);
            return Some(at + 1);
        };
        self.record.data.push(match next {
            b'0' => 0,
            b'b' => 8,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'Z' => 26,
            other => other,
        });
        Some(at + 2)
    }

    fn close(&mut self, start: usize, is_escaped_null: bool) {
        let field = &self.record.data[start..];
        let is_null = (is_escaped_null && field == b"N") || (self.lines.format.enclosure.is_some() && field == b"NULL");
        if is_null {
            self.record.data.truncate(start);
        }
        self.record.fields.push((self.record.data.len(), is_null));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(format: &LineFormat, text: &[u8], piece: usize) -> Vec<Vec<Option<String>>> {
        let mut lines = Lines::new(format.clone()).unwrap();
        let (mut all, mut record) = (vec![], Record::default());
        let mut take = |lines: &mut Lines| {
            while lines.next(&mut record).unwrap() {
                let field = |idx| record.get(idx).map(|it| String::from_utf8_lossy(it).into_owned());
                all.push((0..record.len()).map(field).collect());
            }
        };
        for bytes in text.chunks(piece) {
            lines.push(bytes);
            take(&mut lines);
        }
        lines.end();
        take(&mut lines);
        all
    }

    /// The same whatever the pieces are.
    fn check(format: &LineFormat, text: &str, expected: &[&[Option<&str>]]) {
        let expected: Vec<Vec<Option<String>>> =
            expected.iter().map(|line| line.iter().map(|it| it.map(str::to_owned)).collect()).collect();
        for piece in [1, 2, 3, 5, 1 << 20] {
            assert_eq!(read(format, text.as_bytes(), piece), expected, "{text:?} in pieces of {piece}");
        }
    }

    fn csv() -> LineFormat {
        LineFormat { field_end: ",".into(), enclosure: Some(b'"'), ..LineFormat::default() }
    }

    #[test]
    fn tabs_newlines_and_escapes() {
        let format = LineFormat::default();
        check(&format, "", &[]);
        check(&format, "1\ta\n2\tb\n", &[&[Some("1"), Some("a")], &[Some("2"), Some("b")]]);
        check(&format, "1\ta\n2\tb", &[&[Some("1"), Some("a")], &[Some("2"), Some("b")]]);
        check(&format, "\\N\tN\t\\N1\t\\\\N\n", &[&[None, Some("N"), Some("N1"), Some("\\N")]]);
        check(&format, "a\\tb\\\nc\\x\\0\t\n\n", &[&[Some("a\tb\ncx\0"), Some("")], &[Some("")]]);
        check(&format, "a\\", &[&[Some("a\\")]]);
        check(&format, "NULL\t\"q\"\n", &[&[Some("NULL"), Some("\"q\"")]]);
    }

    #[test]
    fn enclosures() {
        check(&csv(), "\"a,b\",c\n", &[&[Some("a,b"), Some("c")]]);
        check(&csv(), "\"a\"\"b\",\"\",NULL,\"NULL\"\n", &[&[Some("a\"b"), Some(""), None, Some("NULL")]]);
        check(&csv(), "\"a\nb\",\"c\\\"d\"\nx\"y,z", &[&[Some("a\nb"), Some("c\"d")], &[Some("x\"y"), Some("z")]]);
        // Ended by nothing that ends a field, it is part of the field.
        check(&csv(), "\"a\"b\",c\n", &[&[Some("a\"b"), Some("c")]]);
        check(&csv(), "\"open", &[&[Some("open")]]);
        check(&csv(), "\"last\"", &[&[Some("last")]]);
        let doubled = LineFormat { escape: None, ..csv() };
        check(&doubled, "\"a\\\",\\N\n", &[&[Some("a\\"), Some("\\N")]]);
        let same = LineFormat { escape: Some(b'"'), ..csv() };
        check(&same, "\"a\"\"b\",c\n", &[&[Some("a\"b"), Some("c")]]);
    }

    #[test]
    fn terminators_of_several_bytes() {
        let format = LineFormat { field_end: "||".into(), line_end: "\r\n".into(), ..LineFormat::default() };
        check(&format, "a|b||c\r\nd\r||e\n\r\n", &[&[Some("a|b"), Some("c")], &[Some("d\r"), Some("e\n")]]);
        check(&format, "a|", &[&[Some("a|")]]);
        let format = LineFormat { line_start: "xxx".into(), field_end: ",".into(), ..LineFormat::default() };
        check(
            &format,
            "xxxabc,1\nsomething xxxdef,2\n\"ghi\",3\n",
            &[&[Some("abc"), Some("1")], &[Some("def"), Some("2")]],
        );
        let format = LineFormat { line_end: String::new(), field_end: ",".into(), ..LineFormat::default() };
        check(&format, "a\nb,c\n", &[&[Some("a\nb"), Some("c\n")]]);
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let fixed = LineFormat { field_end: String::new(), ..LineFormat::default() };
        assert_eq!(Lines::new(fixed).unwrap_err().code, ErrorCode::Unsupported);
        let mut lines = Lines::new(LineFormat::default()).unwrap();
        let (mut record, piece) = (Record::default(), vec![b'x'; 8 << 20]);
        let refused = (0..40).find_map(|_| {
            lines.push(&piece);
            lines.next(&mut record).err()
        });
        assert_eq!(refused.unwrap().code, ErrorCode::InvalidArgument);
    }
}

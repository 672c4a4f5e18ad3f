//! The chapter of string functions. Positions count characters from 1; texts are compared byte by byte.

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use datafusion::error::Result;

use super::columns::{Call, TEXT_BYTES_MAX};
use super::{Chapter, Definition, MANY, Returns, is_text, numerals, text_type};

const STRING: Chapter = Chapter::Text;

pub(super) const FUNCTIONS: &[Definition] = &[
    Definition::new(STRING, "ascii", 1..=1, Returns::Int, |c| {
        let x = c.bytes(0)?;
        c.ints_of(|row| x.get(row).map(|it| it.first().map_or(0, |it| i64::from(*it))))
    }),
    Definition::new(STRING, "bin", 1..=1, Returns::Text, |c| in_base(c, 2)),
    Definition::new(STRING, "bit_length", 1..=1, Returns::Int, |c| {
        let x = c.bytes(0)?;
        c.ints_of(|row| i64::try_from(x.get(row)?.len()).ok()?.checked_mul(8))
    }),
    Definition::new(STRING, "char", 1..=MANY, Returns::Text, char_of),
    Definition::new(STRING, "char_length", 1..=1, Returns::Int, char_length),
    Definition::new(STRING, "character_length", 1..=1, Returns::Int, char_length),
    Definition::new(STRING, "concat", 1..=MANY, Returns::Text, concat),
    Definition::new(STRING, "concat_ws", 2..=MANY, Returns::Text, concat_ws),
    Definition::new(STRING, "elt", 2..=MANY, Returns::Text, elt),
    Definition::new(STRING, "export_set", 3..=5, Returns::Text, export_set),
    Definition::new(STRING, "field", 2..=MANY, Returns::Int, field),
    Definition::new(STRING, "find_in_set", 2..=2, Returns::Int, |c| {
        let (x, set) = (c.text(0)?, c.text(1)?);
        c.ints_of(|row| {
            let (x, set) = (x.get(row)?, set.get(row)?);
            if set.is_empty() {
                return Some(0);
            }
            Some(set.split(',').position(|it| it == x).map_or(0, |it| it as i64 + 1))
        })
    }),
    Definition::new(STRING, "format", 2..=3, Returns::Text, format_number),
    Definition::new(STRING, "from_base64", 1..=1, Returns::Text, |c| {
        let x = c.bytes(0)?;
        c.texts_of(|row| String::from_utf8(from_base64(x.get(row)?)?).ok())
    }),
    Definition::new(STRING, "hex", 1..=1, Returns::Text, hex),
    Definition::new(STRING, "insert", 4..=4, Returns::Text, insert),
    Definition::new(STRING, "instr", 2..=2, Returns::Int, |c| {
        let (whole, part) = (c.text(0)?, c.text(1)?);
        c.ints_of(|row| Some(position(whole.get(row)?, part.get(row)?, 1)))
    }),
    Definition::new(STRING, "lcase", 1..=1, Returns::Text, |c| text(c, lower)),
    Definition::new(STRING, "left", 2..=2, Returns::Text, |c| {
        let (x, n) = (c.text(0)?, c.int(1)?);
        c.texts_of(|row| Some(first(x.get(row)?, n.get(row)?).to_owned()))
    }),
    Definition::new(STRING, "length", 1..=1, Returns::Int, length),
    Definition::new(STRING, "locate", 2..=3, Returns::Int, |c| {
        let (part, whole, from) = (c.text(0)?, c.text(1)?, c.int(2)?);
        let has_start = c.n_arguments() == 3;
        c.ints_of(|row| {
            let from = if has_start { from.get(row)? } else { 1 };
            Some(position(whole.get(row)?, part.get(row)?, from))
        })
    }),
    Definition::new(STRING, "lower", 1..=1, Returns::Text, |c| text(c, lower)),
    Definition::new(STRING, "lpad", 3..=3, Returns::Text, |c| pad(c, true)),
    Definition::new(STRING, "ltrim", 1..=1, Returns::Text, |c| text(c, |it| it.trim_start_matches(' ').to_owned())),
    Definition::new(STRING, "make_set", 2..=MANY, Returns::Text, make_set),
    Definition::new(STRING, "mid", 2..=3, Returns::Text, substring),
    Definition::new(STRING, "oct", 1..=1, Returns::Text, |c| in_base(c, 8)),
    Definition::new(STRING, "octet_length", 1..=1, Returns::Int, length),
    Definition::new(STRING, "ord", 1..=1, Returns::Int, |c| {
        let x = c.text(0)?;
        c.ints_of(|row| {
            let Some(first) = x.get(row)?.chars().next() else { return Some(0) };
            let mut buffer = [0; 4];
            Some(first.encode_utf8(&mut buffer).bytes().fold(0i64, |value, byte| value << 8 | i64::from(byte)))
        })
    }),
    Definition::new(STRING, "position", 2..=2, Returns::Int, |c| {
        let (part, whole) = (c.text(0)?, c.text(1)?);
        c.ints_of(|row| Some(position(whole.get(row)?, part.get(row)?, 1)))
    }),
    Definition::new(STRING, "quote", 1..=1, Returns::Text, quote),
    Definition::new(STRING, "repeat", 2..=2, Returns::Text, |c| {
        let (x, n) = (c.text(0)?, c.int(1)?);
        c.texts_of(|row| {
            let (x, n) = (x.get(row)?, usize::try_from(n.get(row)?.max(0)).ok()?);
            (x.len().checked_mul(n)? <= TEXT_BYTES_MAX).then(|| x.repeat(n))
        })
    }),
    Definition::new(STRING, "replace", 3..=3, Returns::Text, |c| {
        let (x, from, to) = (c.text(0)?, c.text(1)?, c.text(2)?);
        c.texts_of(|row| {
            let (x, from, to) = (x.get(row)?, from.get(row)?, to.get(row)?);
            if from.is_empty() {
                return Some(x.to_owned());
            }
            let n_found = x.matches(from).count();
            let n_bytes = n_found.checked_mul(to.len())?.checked_add(x.len())?;
            (n_bytes <= TEXT_BYTES_MAX + n_found * from.len()).then(|| x.replace(from, to))
        })
    }),
    Definition::new(STRING, "reverse", 1..=1, Returns::Text, |c| text(c, |it| it.chars().rev().collect())),
    Definition::new(STRING, "right", 2..=2, Returns::Text, |c| {
        let (x, n) = (c.text(0)?, c.int(1)?);
        c.texts_of(|row| {
            let (x, n) = (x.get(row)?, usize::try_from(n.get(row)?.max(0)).ok()?);
            let skipped = x.chars().count().saturating_sub(n);
            Some(x.chars().skip(skipped).collect())
        })
    }),
    Definition::new(STRING, "rpad", 3..=3, Returns::Text, |c| pad(c, false)),
    Definition::new(STRING, "rtrim", 1..=1, Returns::Text, |c| text(c, |it| it.trim_end_matches(' ').to_owned())),
    Definition::new(STRING, "soundex", 1..=1, Returns::Text, |c| text(c, soundex)),
    Definition::new(STRING, "space", 1..=1, Returns::Text, |c| {
        let n = c.int(0)?;
        c.texts_of(|row| {
            let n = usize::try_from(n.get(row)?.max(0)).ok()?;
            (n <= TEXT_BYTES_MAX).then(|| " ".repeat(n))
        })
    }),
    Definition::new(STRING, "strcmp", 2..=2, Returns::Int, |c| {
        let (a, b) = (c.text(0)?, c.text(1)?);
        c.ints_of(|row| Some(a.get(row)?.cmp(b.get(row)?) as i64))
    }),
    Definition::new(STRING, "substr", 2..=3, Returns::Text, substring),
    Definition::new(STRING, "substring", 2..=3, Returns::Text, substring),
    Definition::new(STRING, "substring_index", 3..=3, Returns::Text, |c| {
        let (x, part, n) = (c.text(0)?, c.text(1)?, c.int(2)?);
        c.texts_of(|row| Some(substring_index(x.get(row)?, part.get(row)?, n.get(row)?).to_owned()))
    }),
    Definition::new(STRING, "to_base64", 1..=1, Returns::Text, |c| {
        let x = c.bytes(0)?;
        c.texts_of(|row| Some(to_base64(x.get(row)?)))
    }),
    Definition::new(STRING, "trim", 1..=1, Returns::Text, |c| text(c, |it| it.trim_matches(' ').to_owned())),
    Definition::new(STRING, "op.trim", 3..=3, Returns::Text, trim),
    Definition::new(STRING, "ucase", 1..=1, Returns::Text, |c| text(c, upper)),
    Definition::new(STRING, "unhex", 1..=1, Returns::Bytes, |c| {
        let x = c.bytes(0)?;
        c.bytes_of(|row| from_hex(x.get(row)?))
    }),
    Definition::new(STRING, "upper", 1..=1, Returns::Text, |c| text(c, upper)),
    Definition::new(STRING, "weight_string", 1..=1, Returns::Bytes, |c| {
        let x = c.bytes(0)?;
        c.bytes_of(|row| Some(x.get(row)?.to_vec()))
    }),
    // Several values as one text that no other values have; NULL if one is: what COUNT(DISTINCT a, b) counts.
    Definition::new(STRING, "op.key", 1..=MANY, Returns::Text, |c| {
        let parts = (0..c.n_arguments()).map(|idx| c.text(idx)).collect::<Result<Vec<_>>>()?;
        c.texts_of(|row| {
            let mut out = String::new();
            for part in &parts {
                let part = part.get(row)?;
                out.push_str(&part.len().to_string());
                out.push(':');
                out.push_str(part);
            }
            Some(out)
        })
    }),
    // A text as it is, all else as MySQL writes it; what LIKE and its kin take.
    Definition::new(STRING, "op.text", 1..=1, Returns::By(text_type), |c| {
        let x = c.text(0)?;
        c.texts_of(|row| x.get(row).map(str::to_owned))
    })
    .simplified(|args, types| is_text(&types[0]).then(|| args[0].clone())),
];

fn text(c: &Call, f: fn(&str) -> String) -> Result<ArrayRef> {
    let x = c.text(0)?;
    c.texts_of(|row| x.get(row).map(f))
}

/// Letter by letter: one whose capital would be two letters, as that of `ß`, stays.
fn upper(text: &str) -> String {
    let capital = |letter: char| {
        let mut capitals = letter.to_uppercase();
        if capitals.len() == 1 { capitals.next().unwrap_or(letter) } else { letter }
    };
    text.chars().map(capital).collect()
}

fn lower(text: &str) -> String {
    let small = |letter: char| {
        let mut smalls = letter.to_lowercase();
        if smalls.len() == 1 { smalls.next().unwrap_or(letter) } else { letter }
    };
    text.chars().map(small).collect()
}

fn length(c: &Call) -> Result<ArrayRef> {
    let x = c.bytes(0)?;
    c.ints_of(|row| i64::try_from(x.get(row)?.len()).ok())
}

fn char_length(c: &Call) -> Result<ArrayRef> {
    let x = c.text(0)?;
    c.ints_of(|row| i64::try_from(x.get(row)?.chars().count()).ok())
}

fn in_base(c: &Call, base: u64) -> Result<ArrayRef> {
    let x = c.uint(0)?;
    c.texts_of(|row| Some(numerals::in_base(x.get(row)?, base)))
}

/// NULL if any part is.
fn concat(c: &Call) -> Result<ArrayRef> {
    let parts = (0..c.n_arguments()).map(|idx| c.text(idx)).collect::<Result<Vec<_>>>()?;
    c.texts_of(|row| {
        let mut out = String::new();
        for part in &parts {
            out.push_str(part.get(row)?);
        }
        Some(out)
    })
}

fn concat_ws(c: &Call) -> Result<ArrayRef> {
    let parts = (0..c.n_arguments()).map(|idx| c.text(idx)).collect::<Result<Vec<_>>>()?;
    c.texts_of(|row| {
        let separator = parts[0].get(row)?;
        let there: Vec<&str> = parts[1..].iter().filter_map(|it| it.get(row)).collect();
        Some(there.join(separator))
    })
}

/// Each number as the bytes of a character, the highest first; bytes that are no UTF-8 give NULL.
fn char_of(c: &Call) -> Result<ArrayRef> {
    let codes = (0..c.n_arguments()).map(|idx| c.int(idx)).collect::<Result<Vec<_>>>()?;
    c.texts_of(|row| {
        let mut bytes = Vec::with_capacity(codes.len());
        for code in codes.iter().filter_map(|it| it.get(row)) {
            let all = (code as u32).to_be_bytes();
            let skipped = all.iter().take(3).take_while(|it| **it == 0).count();
            bytes.extend_from_slice(&all[skipped..]);
        }
        String::from_utf8(bytes).ok()
    })
}

fn elt(c: &Call) -> Result<ArrayRef> {
    let n = c.int(0)?;
    let texts = (1..c.n_arguments()).map(|idx| c.text(idx)).collect::<Result<Vec<_>>>()?;
    c.texts_of(|row| {
        let idx = usize::try_from(n.get(row)?.checked_sub(1)?).ok()?;
        texts.get(idx)?.get(row).map(str::to_owned)
    })
}

/// Texts are compared as texts, numbers as numbers, a mixture as doubles.
fn field(c: &Call) -> Result<ArrayRef> {
    let idxs = 0..c.n_arguments();
    if idxs.clone().all(|idx| matches!(c.data_type(idx), DataType::Utf8 | DataType::Null)) {
        let texts = idxs.map(|idx| c.text(idx)).collect::<Result<Vec<_>>>()?;
        return c.ints_of(|row| {
            let wanted = texts[0].get(row);
            let found = wanted.and_then(|it| texts[1..].iter().position(|text| text.get(row) == Some(it)));
            Some(found.map_or(0, |it| it as i64 + 1))
        });
    }
    let floats = idxs.map(|idx| c.float(idx)).collect::<Result<Vec<_>>>()?;
    c.ints_of(|row| {
        let wanted = floats[0].get(row);
        let found = wanted.and_then(|it| floats[1..].iter().position(|number| number.get(row) == Some(it)));
        Some(found.map_or(0, |it| it as i64 + 1))
    })
}

fn export_set(c: &Call) -> Result<ArrayRef> {
    let (bits, on, off, separator, n) = (c.uint(0)?, c.text(1)?, c.text(2)?, c.text(3)?, c.int(4)?);
    let n_arguments = c.n_arguments();
    c.texts_of(|row| {
        let (bits, on, off) = (bits.get(row)?, on.get(row)?, off.get(row)?);
        let separator = if n_arguments > 3 { separator.get(row)? } else { "," };
        let n = if n_arguments > 4 { n.get(row)? } else { 64 };
        let n = if (0..=64).contains(&n) { n } else { 64 };
        let shown: Vec<&str> = (0..n).map(|bit| if bits >> bit & 1 == 1 { on } else { off }).collect();
        Some(shown.join(separator))
    })
}

fn make_set(c: &Call) -> Result<ArrayRef> {
    let bits = c.uint(0)?;
    let texts = (1..c.n_arguments()).map(|idx| c.text(idx)).collect::<Result<Vec<_>>>()?;
    c.texts_of(|row| {
        let bits = bits.get(row)?;
        let chosen = texts.iter().enumerate().filter(|(idx, _)| *idx < 64 && bits >> idx & 1 == 1);
        Some(chosen.filter_map(|(_, it)| it.get(row)).collect::<Vec<_>>().join(","))
    })
}

fn format_number(c: &Call) -> Result<ArrayRef> {
    let digits = c.int(1)?;
    let is_exact =
        !matches!(c.data_type(0), DataType::Float16 | DataType::Float32 | DataType::Float64 | DataType::Utf8);
    let (texts, floats) = (c.text(0)?, c.float(0)?);
    c.texts_of(|row| {
        let digits = digits.get(row)?.clamp(0, 30) as usize;
        let rounded = if is_exact && numerals::is_number(texts.get(row)?) {
            numerals::round_text(texts.get(row)?, digits)
        } else {
            let value = numerals::round_float(floats.get(row)?, digits as i64);
            format!("{value:.digits$}")
        };
        Some(numerals::grouped(&rounded))
    })
}

/// Of a number its hexadecimal digits, of a text those of its bytes.
fn hex(c: &Call) -> Result<ArrayRef> {
    if c.data_type(0).is_numeric() || *c.data_type(0) == DataType::Boolean {
        return in_base(c, 16);
    }
    let x = c.bytes(0)?;
    c.texts_of(|row| Some(to_hex(x.get(row)?, b"0123456789ABCDEF")))
}

pub(super) fn to_hex(bytes: &[u8], digits: &[u8; 16]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        out.push(char::from(digits[usize::from(byte >> 4)]));
        out.push(char::from(digits[usize::from(byte & 15)]));
    }
    out
}

/// An odd number of digits begins with a zero that is left out.
fn from_hex(digits: &[u8]) -> Option<Vec<u8>> {
    let value = |digit: u8| char::from(digit).to_digit(16).and_then(|it| u8::try_from(it).ok());
    let (first, pairs) = if digits.len() % 2 == 1 { digits.split_at(1) } else { digits.split_at(0) };
    let mut bytes = Vec::with_capacity(digits.len() / 2 + 1);
    if let [digit] = first {
        bytes.push(value(*digit)?);
    }
    for pair in pairs.chunks_exact(2) {
        bytes.push(value(pair[0])? << 4 | value(pair[1])?);
    }
    Some(bytes)
}

fn insert(c: &Call) -> Result<ArrayRef> {
    let (x, at, n, new) = (c.text(0)?, c.int(1)?, c.int(2)?, c.text(3)?);
    c.texts_of(|row| {
        let (x, at, n, new) = (x.get(row)?, at.get(row)?, n.get(row)?, new.get(row)?);
        let length = x.chars().count() as i64;
        if at < 1 || at > length {
            return Some(x.to_owned());
        }
        let rest = length - at + 1;
        let n = if n < 0 || n > rest { rest } else { n };
        let from = byte_at(x, at - 1);
        let to = byte_at(x, at - 1 + n);
        Some([&x[..from], new, &x[to..]].concat())
    })
}

/// Where the character of an index begins; the text's end for those behind it. Negative ones count as 0.
fn byte_at(text: &str, idx: i64) -> usize {
    let Ok(idx) = usize::try_from(idx) else { return 0 };
    text.char_indices().nth(idx).map_or(text.len(), |(at, _)| at)
}

fn first(text: &str, n: i64) -> &str {
    &text[..byte_at(text, n)]
}

/// Where a part first stands at or behind a position, 0 if nowhere.
pub(super) fn position(whole: &str, part: &str, from: i64) -> i64 {
    if from < 1 || from > whole.chars().count() as i64 + 1 {
        return 0;
    }
    let start = byte_at(whole, from - 1);
    whole[start..].find(part).map_or(0, |at| whole[start..start + at].chars().count() as i64 + from)
}

fn pad(c: &Call, is_left: bool) -> Result<ArrayRef> {
    let (x, n, filling) = (c.text(0)?, c.int(1)?, c.text(2)?);
    c.texts_of(|row| {
        let (x, n, filling) = (x.get(row)?, usize::try_from(n.get(row)?).ok()?, filling.get(row)?);
        let length = x.chars().count();
        if n <= length {
            return Some(x.chars().take(n).collect());
        }
        if filling.is_empty() || n > TEXT_BYTES_MAX {
            return if filling.is_empty() { Some(String::new()) } else { None };
        }
        let filled: String = filling.chars().cycle().take(n - length).collect();
        Some(if is_left { filled + x } else { x.to_owned() + &filled })
    })
}

fn quote(c: &Call) -> Result<ArrayRef> {
    let x = c.text(0)?;
    c.texts_of(|row| {
        let Some(x) = x.get(row) else { return Some("NULL".to_owned()) };
        let mut out = String::with_capacity(x.len() + 2);
        out.push('\'');
        for letter in x.chars() {
            match letter {
                '\'' | '\\' => out.extend(['\\', letter]),
                '\0' => out.push_str("\\0"),
                '\u{1a}' => out.push_str("\\Z"),
                other => out.push(other),
            }
        }
        out.push('\'');
        Some(out)
    })
}

fn substring(c: &Call) -> Result<ArrayRef> {
    let (x, from, n) = (c.text(0)?, c.int(1)?, c.int(2)?);
    let has_length = c.n_arguments() == 3;
    c.texts_of(|row| {
        let (x, from) = (x.get(row)?, from.get(row)?);
        let n = if has_length { n.get(row)? } else { i64::MAX };
        // Counting from the end needs the length; from the start it would cost a walk for nothing.
        let start = match from {
            1.. => from - 1,
            0 => return Some(String::new()),
            _ => (x.chars().count() as i64).checked_add(from)?,
        };
        if start < 0 || n <= 0 {
            return Some(String::new());
        }
        let rest = &x[byte_at(x, start)..];
        Some(first(rest, n).to_owned())
    })
}

fn substring_index<'a>(text: &'a str, part: &str, n: i64) -> &'a str {
    if part.is_empty() || n == 0 {
        return "";
    }
    let Ok(nth) = usize::try_from(n.unsigned_abs() - 1) else { return text };
    if n > 0 {
        text.match_indices(part).nth(nth).map_or(text, |(at, _)| &text[..at])
    } else {
        text.rmatch_indices(part).nth(nth).map_or(text, |(at, _)| &text[at + part.len()..])
    }
}

/// `TRIM(LEADING|TRAILING|BOTH part FROM text)`: text, part, side.
fn trim(c: &Call) -> Result<ArrayRef> {
    let (x, part, side) = (c.text(0)?, c.text(1)?, c.text(2)?);
    c.texts_of(|row| {
        let (mut x, part, side) = (x.get(row)?, part.get(row)?, side.get(row)?);
        if part.is_empty() {
            return Some(x.to_owned());
        }
        if side != "trailing" {
            x = x.trim_start_matches(part);
        }
        if side != "leading" {
            x = x.trim_end_matches(part);
        }
        Some(x.to_owned())
    })
}

/// The first letter and the classes of the consonants behind it, at least four characters.
fn soundex(text: &str) -> String {
    const CLASSES: [u8; 26] = *b"01230120022455012623010202";
    let mut letters = text.chars().filter(char::is_ascii_alphabetic).map(|it| it.to_ascii_uppercase());
    let Some(first) = letters.next() else { return String::new() };
    let class = |letter: char| CLASSES[usize::from(letter as u8 - b'A')];
    let mut out = String::from(first);
    let mut last = class(first);
    for letter in letters {
        let class = class(letter);
        // Vowels do not part two letters of a class.
        if class != b'0' && class != last {
            out.push(char::from(class));
            last = class;
        }
    }
    while out.len() < 4 {
        out.push('0');
    }
    out
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// A new line after each 76 characters, as MySQL has it.
fn to_base64(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 4 / 3 + 4);
    for (idx, chunk) in bytes.chunks(3).enumerate() {
        if idx > 0 && idx % 19 == 0 {
            out.push('\n');
        }
        let all = chunk.iter().fold(0u32, |value, byte| value << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            match place <= chunk.len() {
                true => out.push(char::from(BASE64[(all >> (18 - 6 * place) & 63) as usize])),
                false => out.push('='),
            }
        }
    }
    out
}

/// None if it is not base 64; blanks do not count.
fn from_base64(text: &[u8]) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.iter().copied().filter(|it| !it.is_ascii_whitespace()).collect();
    if !digits.len().is_multiple_of(4) {
        return None;
    }
    let n_padding = digits.iter().rev().take_while(|it| **it == b'=').count();
    if n_padding > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() / 4 * 3);
    for chunk in digits[..digits.len() - n_padding].chunks(4) {
        let mut all = 0u32;
        for digit in chunk {
            all = all << 6 | u32::try_from(BASE64.iter().position(|it| it == digit)?).ok()?;
        }
        all <<= 6 * (4 - chunk.len());
        bytes.extend_from_slice(&all.to_be_bytes()[1..chunk.len()]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_64_goes_both_ways() {
        for text in ["", "a", "ab", "abc", "abcd", "Zürich", &"x".repeat(100)] {
            let encoded = to_base64(text.as_bytes());
            assert_eq!(from_base64(encoded.as_bytes()).as_deref(), Some(text.as_bytes()), "{encoded}");
        }
        assert_eq!(to_base64(b"abc"), "YWJj");
        assert!(["a", "a===", "a b!", "===="].iter().all(|it| from_base64(it.as_bytes()).is_none()));
    }

    #[test]
    fn parts_of_texts() {
        assert_eq!(substring_index("www.mysql.com", ".", 2), "www.mysql");
        assert_eq!(substring_index("www.mysql.com", ".", -2), "mysql.com");
        assert_eq!(substring_index("a", ".", i64::MIN), "a");
        assert_eq!(position("foobarbar", "bar", 5), 7);
        assert_eq!([position("äöü", "ü", 1), position("a", "", 2), position("a", "", 3)], [3, 2, 0]);
        assert_eq!([soundex("Hello"), soundex("Quadratically")], ["H400", "Q36324"]);
        assert_eq!(from_hex(b"4D7953514C").as_deref(), Some(b"MySQL".as_slice()));
        assert_eq!(from_hex(b"GG"), None);
    }
}

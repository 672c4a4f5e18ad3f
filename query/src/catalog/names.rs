//! Names that a statement writes in another case than the catalog does.

/// The name as it is written, else the only one that differs in case alone.
pub fn find<'a>(names: impl IntoIterator<Item = &'a str>, wanted: &str) -> Option<&'a str> {
    let lower = wanted.to_lowercase();
    let mut alike = vec![];
    for name in names {
        if name == wanted {
            return Some(name);
        }
        if name.to_lowercase() == lower {
            alike.push(name);
        }
    }
    match alike.as_slice() {
        [only] => Some(only),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_names_come_first() {
        assert_eq!(find(["T", "t"], "t"), Some("t"));
        assert_eq!(find(["T", "x"], "t"), Some("T"));
        assert_eq!(find(["Tt", "tT"], "tt"), None);
        assert_eq!(find(["a"], "b"), None);
    }
}

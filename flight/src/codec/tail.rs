//! The end of a `Debug` text: the only place where some of DataFusion's fields can be seen.

use std::fmt::{Debug, Write};

/// More than the longest end that anybody looks for.
const BYTES: usize = 96;

struct Tail(String);

impl Write for Tail {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let text = &text[text.floor_char_boundary(text.len().saturating_sub(BYTES))..];
        self.0.push_str(text);
        if self.0.len() > 2 * BYTES {
            let cut = self.0.floor_char_boundary(self.0.len() - BYTES);
            self.0.drain(..cut);
        }
        Ok(())
    }
}

/// The last characters of `{value:?}`, without the memory for all of it.
pub(super) fn debug_tail(value: &dyn Debug) -> String {
    let mut tail = Tail(String::new());
    // A `Tail` takes all that is written; an error would be the value's own, and what it wrote is then no known end.
    let _ = write!(tail, "{value:?}");
    tail.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_end() {
        let long = vec!["größer".to_owned(); 1000];
        assert!(format!("{long:?}").ends_with(&debug_tail(&long)));
        assert!(debug_tail(&long).len() >= BYTES);
        assert_eq!(debug_tail(&1), "1");
    }
}

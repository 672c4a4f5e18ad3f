//! What long commands say while they run: on a terminal one line that changes, elsewhere a line a step.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// The line of standard error that says what goes on.
pub struct Progress {
    terminal: bool,
    shown: Option<Instant>,
}

/// A terminal's line is drawn again at most this often.
const REDRAW: Duration = Duration::from_millis(80);

impl Progress {
    pub fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), shown: None }
    }

    /// Shows what goes on now; on a terminal the next call overwrites it, elsewhere nothing is shown.
    pub fn now(&mut self, text: &str) {
        if !self.terminal || self.shown.is_some_and(|at| at.elapsed() < REDRAW) {
            return;
        }
        self.shown = Some(Instant::now());
        eprint!("\r\x1b[2K{text}");
        let _ = std::io::stderr().flush();
    }

    /// Shows what came to an end, on a line that stays.
    pub fn done(&mut self, text: &str) {
        self.clear();
        eprintln!("{text}");
    }

    /// Takes away what [`Self::now`] shows.
    pub fn clear(&mut self) {
        if self.shown.take().is_some() {
            eprint!("\r\x1b[2K");
            let _ = std::io::stderr().flush();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// A number of bytes for people, three digits at most.
pub fn bytes(n_bytes: u64) -> String {
    let mut value = n_bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1000.0 {
            let digits = usize::from(unit != "B" && value < 99.95);
            return format!("{value:.digits$} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// So many of something.
pub fn count(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

/// A time for people.
pub fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{} ms", time.as_millis())
    } else {
        format!("{:.2} s", time.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(200 << 20), "200 MiB");
        assert_eq!(bytes(1000 << 20), "1.0 GiB");
        assert_eq!(bytes(5 << 40), "5.0 TiB");
        assert_eq!((count(1, "core"), count(2, "core")), ("1 core".to_owned(), "2 cores".to_owned()));
        assert_eq!(seconds(Duration::from_millis(42)), "42 ms");
        assert_eq!(seconds(Duration::from_millis(1234)), "1.23 s");
    }
}

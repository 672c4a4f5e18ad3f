//! What a statement has done so far, as one line that changes.

use std::time::Duration;

use unicode_width::UnicodeWidthStr;

use super::backend::Snapshot;
use crate::progress::bytes;

/// How far a bar is drawn.
const BAR: usize = 20;

/// A number of rows in at most four digits.
pub fn rows(n: u64) -> String {
    let mut value = n as f64;
    for unit in ["", "K", "M", "G"] {
        if value < 999.5 || unit == "G" {
            let digits = usize::from(!unit.is_empty() && value < 99.95);
            return format!("{value:.digits$}{unit}");
        }
        value /= 1000.0;
    }
    n.to_string()
}

/// A time that grows: tenths first, then minutes.
pub fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{:.1} s", time.as_secs_f64()),
        60..3600 => format!("{}:{:02} min", seconds / 60, seconds % 60),
        _ => format!("{}:{:02} h", seconds / 3600, seconds / 60 % 60),
    }
}

/// How long the tasks that are left take when they take as long as those that are done. `None` while none is done.
fn rest(snapshot: &Snapshot, elapsed: Duration) -> Option<Duration> {
    let left = snapshot.tasks.checked_sub(snapshot.tasks_done)?;
    if snapshot.tasks_done == 0 || left == 0 {
        return None;
    }
    Some(elapsed.mul_f64(left as f64 / snapshot.tasks_done as f64))
}

/// The line, at most `width` columns of a terminal.
///
/// `n_read` are rows that have come to the client.
pub fn line(snapshot: Option<&Snapshot>, n_read: u64, elapsed: Duration, width: usize) -> String {
    let mut parts = Vec::new();
    let mut bar = String::new();
    if let Some(it) = snapshot {
        let full = (it.tasks_done as usize * BAR).checked_div(it.tasks as usize).unwrap_or(0);
        bar = format!("[{}{}] ", "=".repeat(full), " ".repeat(BAR - full));
        parts.push(format!("stages {}/{}", it.stages_done, it.stages));
        parts.push(format!("tasks {}/{}", it.tasks_done, it.tasks));
        parts.push(format!("{} rows", rows(it.rows)));
        parts.push(bytes(it.bytes));
    } else if n_read == 0 {
        parts.push("running".to_owned());
    }
    if n_read > 0 {
        parts.push(format!("{} rows read", rows(n_read)));
    }
    parts.push(clock(elapsed));
    if let Some(rest) = snapshot.and_then(|it| rest(it, elapsed)) {
        parts.push(format!("~{} left", clock(rest)));
    }
    parts.push("Ctrl-C cancels".to_owned());
    // What fits: the last parts go first, then the bar.
    loop {
        let line = format!("{bar}{}", parts.join(" · "));
        if line.width() < width.max(1) {
            return line;
        }
        if !bar.is_empty() && parts.len() <= 4 {
            bar.clear();
        } else if parts.pop().is_none() {
            return String::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: Snapshot =
        Snapshot { stages: 3, stages_done: 1, tasks: 9, tasks_done: 3, rows: 1_234_567, bytes: 34 << 20 };

    #[test]
    fn the_line_tells_what_is_known() {
        let at = Duration::from_millis(3400);
        assert_eq!(
            line(Some(&HALF), 0, at, 200),
            "[======              ] stages 1/3 · tasks 3/9 · 1.2M rows · 34.0 MiB · 3.4 s · ~6.8 s left · Ctrl-C cancels"
        );
        assert_eq!(line(None, 0, at, 200), "running · 3.4 s · Ctrl-C cancels");
        assert_eq!(line(None, 2000, at, 200), "2.0K rows read · 3.4 s · Ctrl-C cancels");
        for width in 0..120 {
            assert!(line(Some(&HALF), 5, at, width).width() < width.max(1), "{width}");
        }
    }

    #[test]
    fn no_guess_without_a_finished_task() {
        let none = Snapshot { tasks_done: 0, ..HALF };
        assert_eq!(rest(&none, Duration::from_secs(1)), None);
        let all = Snapshot { tasks_done: 9, ..HALF };
        assert_eq!(rest(&all, Duration::from_secs(1)), None);
    }

    #[test]
    fn numbers_stay_short() {
        let shown = [0, 999, 1000, 99_949, 123_456, 999_499, 999_500, 5_000_000_000_000].map(rows);
        assert_eq!(shown, ["0", "999", "1.0K", "99.9K", "123K", "999K", "1.0M", "5000G"]);
        assert_eq!(clock(Duration::from_secs(75)), "1:15 min");
        assert_eq!(clock(Duration::from_secs(3 * 3600 + 120)), "3:02 h");
    }
}

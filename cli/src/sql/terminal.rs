//! The terminal: its size and colours.

use std::io::{self, IsTerminal};

/// Columns and lines of the terminal that standard output or standard error is; `None` where it is none.
pub fn size() -> Option<(usize, usize)> {
    for descriptor in [libc::STDOUT_FILENO, libc::STDERR_FILENO] {
        // SAFETY: a plain struct of numbers, for which zeros are a value.
        let mut size: libc::winsize = unsafe { std::mem::zeroed() };
        // SAFETY: the call writes one `winsize`, which lives until it returns.
        let answered = unsafe { libc::ioctl(descriptor, libc::TIOCGWINSZ, &raw mut size) } == 0;
        if answered && size.ws_col > 0 && size.ws_row > 0 {
            return Some((usize::from(size.ws_col), usize::from(size.ws_row)));
        }
    }
    None
}

/// Whether colours are wanted: on a terminal, unless `NO_COLOR` says otherwise.
pub fn has_colours() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|it| it.is_empty())
}

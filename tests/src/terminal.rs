//! A process on a terminal of its own: what a person would type goes in, what they would see comes out.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Columns and lines of the terminal.
const SIZE: (u16, u16) = (120, 30);

/// Dropping it kills the process.
pub struct Terminal {
    child: Child,
    keyboard: File,
    /// All that was shown, escape sequences included.
    shown: Arc<Mutex<Vec<u8>>>,
    /// What [`Terminal::wait_for`] has passed already.
    seen: usize,
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A new terminal: the end that a person holds, and the end that a process gets.
fn open() -> io::Result<(OwnedFd, OwnedFd)> {
    let (mut person, mut process) = (0, 0);
    let size = libc::winsize { ws_col: SIZE.0, ws_row: SIZE.1, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the call writes two descriptors and reads one size; names and modes are not asked for.
    check(unsafe {
        libc::openpty(
            &mut person,
            &mut process,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            (&raw const size).cast_mut(),
        )
    })?;
    // SAFETY: both were just made and belong to nobody else.
    let ends = unsafe { (OwnedFd::from_raw_fd(person), OwnedFd::from_raw_fd(process)) };
    for end in [&ends.0, &ends.1] {
        // SAFETY: sets a flag of a descriptor that is open. Other children must not hold the terminal open.
        check(unsafe { libc::fcntl(end.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) })?;
    }
    Ok(ends)
}

impl Terminal {
    /// Starts a command on a terminal. It dies with the test's process.
    pub fn start(mut command: Command) -> io::Result<Self> {
        let (person, process) = open()?;
        command.stdin(process.try_clone()?).stdout(process.try_clone()?).stderr(process);
        command.env("TERM", "xterm-256color").env_remove("NO_COLOR").env_remove("PAGER");
        // SAFETY: only calls that are safe between fork and exec are made, and nothing is allocated.
        unsafe {
            command.pre_exec(|| {
                if libc::setsid() == -1 || libc::ioctl(0, libc::TIOCSCTTY, 0) == -1 {
                    return Err(io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn()?;
        // The command holds the process's end open in this process too.
        drop(command);
        let keyboard = File::from(person);
        let mut screen = keyboard.try_clone()?;
        let shown = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&shown);
        // Ends when the process has closed its end.
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = screen.read(&mut bytes) {
                sink.lock().expect("no reader panics").extend_from_slice(&bytes[..n]);
            }
        });
        Ok(Self { child, keyboard, shown, seen: 0 })
    }

    pub fn type_keys(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("the terminal is open");
    }

    /// All that was shown so far, without escape sequences.
    pub fn text(&self) -> String {
        plain(&self.shown.lock().expect("no reader panics"))
    }

    /// Waits until a text is shown behind what was waited for before. Gives what came with it.
    ///
    /// Panics with all that was shown when it does not come in time.
    pub fn wait_for(&mut self, text: &str, patience: Duration) -> String {
        let deadline = Instant::now() + patience;
        loop {
            let all = self.text();
            if let Some(at) = all.get(self.seen..).and_then(|rest| rest.find(text)) {
                let end = self.seen + at + text.len();
                let found = all[self.seen..end].to_owned();
                self.seen = end;
                return found;
            }
            assert!(Instant::now() < deadline, "{text:?} did not come within {patience:?}; shown:\n{all}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for the end of the process.
    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be asked for its state") {
                return status;
            }
            assert!(Instant::now() < deadline, "the process did not end within {patience:?}; shown:\n{}", self.text());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A terminal's output without what moves its cursor or sets its colours. Always a prefix of what it is later.
fn plain(bytes: &[u8]) -> String {
    let mut text = String::new();
    let shown = String::from_utf8_lossy(bytes);
    let mut chars = shown.chars();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' => {
                // `ESC [ … letter`, or `ESC letter`.
                if chars.next() == Some('[') {
                    chars.by_ref().find(|c| c.is_ascii_alphabetic() || *c == '~');
                }
            }
            '\r' | '\x07' => {}
            other => text.push(other),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_sees_a_terminal() {
        let mut command = Command::new("sh");
        command.args(["-c", "test -t 0 && test -t 1 && stty size && read line && echo \"got $line\""]);
        let mut terminal = Terminal::start(command).expect("a terminal can be had");
        terminal.wait_for("30 120", Duration::from_secs(10));
        terminal.type_keys("hello\n");
        terminal.wait_for("got hello", Duration::from_secs(10));
        assert!(terminal.wait(Duration::from_secs(10)).success());
    }

    #[test]
    fn escapes_are_left_out() {
        assert_eq!(plain(b"\x1b[1;34mSELECT\x1b[0m 1\r\n\x1b[K"), "SELECT 1\n");
    }
}

//! Passwords, which a terminal must not show.

use std::io::{self, BufRead, IsTerminal, Read, Write};

/// Asks for a password. On a terminal it is not shown while it is typed; from a pipe it is the next line.
///
/// Errs with `Interrupted` on Ctrl-C.
pub fn ask(prompt: &str) -> io::Result<String> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        let mut line = String::new();
        stdin.lock().read_line(&mut line)?;
        return Ok(line.trim_end_matches(['\n', '\r']).to_owned());
    }
    eprint!("{prompt}");
    io::stderr().flush()?;
    let hidden = Hidden::new()?;
    let typed = typed_line(stdin.lock().bytes());
    drop(hidden);
    eprintln!();
    typed
}

/// What was typed up to Enter, where the terminal itself edits nothing.
fn typed_line(bytes: impl Iterator<Item = io::Result<u8>>) -> io::Result<String> {
    const CTRL_C: u8 = 0x03;
    const CTRL_D: u8 = 0x04;
    const BACKSPACE: [u8; 2] = [0x08, 0x7f];
    let mut typed = Vec::new();
    for byte in bytes {
        match byte? {
            b'\n' | b'\r' => break,
            CTRL_C => return Err(io::ErrorKind::Interrupted.into()),
            CTRL_D => break,
            byte if BACKSPACE.contains(&byte) => {
                // A character is its first byte and all that go on from it.
                while typed.pop().is_some_and(|byte: u8| byte & 0xc0 == 0x80) {}
            }
            byte => typed.push(byte),
        }
    }
    String::from_utf8(typed).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the password is not UTF-8"))
}

/// The terminal shows nothing that is typed, and gives every key to this process, until this is dropped.
struct Hidden(libc::termios);

impl Hidden {
    fn new() -> io::Result<Self> {
        // SAFETY: a plain struct of numbers, for which zeros are a value.
        let mut state: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: the call writes one `termios`, which lives until it returns.
        if unsafe { libc::tcgetattr(libc::STDIN_FILENO, &raw mut state) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let before = Self(state);
        // A signal would end the process and leave the terminal mute.
        state.c_lflag &= !(libc::ECHO | libc::ICANON | libc::ISIG);
        // SAFETY: the call reads one `termios`.
        if unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSAFLUSH, &raw const state) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(before)
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // SAFETY: the call reads one `termios`.
        unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSAFLUSH, &raw const self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(keys: &str) -> io::Result<String> {
        typed_line(keys.bytes().map(Ok))
    }

    #[test]
    fn a_password_is_typed_key_by_key() {
        assert_eq!(typed("secret\r").unwrap(), "secret");
        assert_eq!(typed("sä\x7f\x7fxü\n").unwrap(), "xü");
        assert_eq!(typed("\x7f\n").unwrap(), "");
        assert_eq!(typed("half\x03").unwrap_err().kind(), io::ErrorKind::Interrupted);
    }
}

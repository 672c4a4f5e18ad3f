//! Where panics happened, for the errors that they are turned into.
//!
//! Whoever catches a panic has its message but not its place; only the process's panic hook sees both. So the hook notes
//! the last few, and [`locate`] finds the place by the message.

use std::collections::VecDeque;
use std::panic::PanicHookInfo;
use std::sync::{Mutex, Once, PoisonError};

/// Panics that are remembered. They are looked up at once, so that more than a few at a time are a flood.
const RECENT_MAX: usize = 64;

struct Noted {
    message: String,
    location: String,
}

static RECENT: Mutex<VecDeque<Noted>> = Mutex::new(VecDeque::new());

/// Notes every panic of the process from now on, before the hook that was there.
pub fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            note(panic);
            before(panic);
        }));
    });
}

/// Remembers one panic; for hooks.
pub fn note(panic: &PanicHookInfo<'_>) {
    let Some(location) = panic.location() else { return };
    let message = panic.payload_as_str().unwrap_or("no message").to_owned();
    let location = format!("{}:{}:{}", in_crate(location.file()), location.line(), location.column());
    let mut recent = RECENT.lock().unwrap_or_else(PoisonError::into_inner);
    if recent.len() == RECENT_MAX {
        recent.pop_front();
    }
    recent.push_back(Noted { message, location });
}

/// The place of the latest panic whose message `text` is or quotes, as `crate/src/file.rs:line:column`.
pub fn locate(text: &str) -> Option<String> {
    let recent = RECENT.lock().unwrap_or_else(PoisonError::into_inner);
    recent.iter().rev().find(|noted| text.contains(&noted.message)).map(|noted| noted.location.clone())
}

/// A source file from its crate's folder on: where the build machine kept it is nobody's business.
fn in_crate(file: &str) -> &str {
    let Some(src) = file.rfind("/src/") else { return file };
    file[..src].rfind('/').map_or(file, |start| &file[start + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caught_panic_has_a_place() {
        watch();
        let line = line!() + 1;
        let caught = std::panic::catch_unwind(|| panic!("the {}th wheel", 5));
        assert!(caught.is_err());
        let location = locate("task 7 panicked with message \"the 5th wheel\"").expect("it was noted");
        assert!(location.starts_with(&format!("common/src/panics.rs:{line}:")), "{location}");
        assert_eq!(locate("nobody panicked like this"), None);
    }

    #[test]
    fn paths_begin_at_the_crate() {
        assert_eq!(
            in_crate("/home/x/registry/src/index-1/arrow-59.0.0/src/array/mod.rs"),
            "arrow-59.0.0/src/array/mod.rs"
        );
        assert_eq!(in_crate("flight/src/worker.rs"), "flight/src/worker.rs");
        assert_eq!(in_crate("main.rs"), "main.rs");
    }
}

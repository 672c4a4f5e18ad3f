//! Which build of the server this process is. Plans go only between processes of the same: a plan holds what the code
//! that reads it must understand to the last bit, so that two builds of one version may differ.

use std::sync::OnceLock;

static ID: OnceLock<String> = OnceLock::new();

/// Says which build this process is, once, before anything asks; a later call changes nothing.
pub fn announce(id: &str) {
    ID.get_or_init(|| id.to_owned());
}

/// The build; the version alone where nobody said more.
pub fn id() -> &'static str {
    ID.get().map_or(env!("CARGO_PKG_VERSION"), String::as_str)
}

//! The `sheaf` executable under test.
//!
//! `CARGO_BIN_EXE_*` names only a package's own binaries, and the server belongs to another package. So it is found
//! beside the test executable, after Cargo was asked once a test run to bring it up to date with the sources: a stale
//! server would test yesterday's code.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// The path of an up-to-date `sheaf`, or what `SHEAF_BIN` names.
///
/// Panics when it cannot be built: no test makes sense without it.
pub fn sheaf() -> &'static PathBuf {
    static SHEAF: OnceLock<PathBuf> = OnceLock::new();
    SHEAF.get_or_init(|| match std::env::var_os("SHEAF_BIN") {
        Some(path) => PathBuf::from(path),
        None => build(),
    })
}

fn build() -> PathBuf {
    // <target>/<profile>/deps/it-<hash>
    let exe = std::env::current_exe().expect("a running process has a path");
    let profile_dir = exe.ancestors().nth(2).expect("cargo puts test executables two folders deep");
    let target_dir = profile_dir.parent().expect("a profile's folder stands in the target folder");
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // What Cargo tells a test about its package is not for the build of another: ring is compiled anew where
    // CARGO_MANIFEST_DIR has changed, and the whole engine with it.
    let of_package = |name: &str| name.starts_with("CARGO_MANIFEST_") || name.starts_with("CARGO_PKG_");
    for (name, _) in std::env::vars_os().filter(|(name, _)| of_package(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    // The whole workspace's features, as `cargo test` at the root has them: another set would compile the engine again.
    let output = command
        .current_dir(crate::root())
        .args(["build", "--offline", "--workspace", "--bin", "sheaf", "--profile", profile, "--target-dir"])
        .arg(target_dir)
        .output()
        .expect("cargo runs this test, so it can be run");
    assert!(output.status.success(), "cannot build sheaf:\n{}", String::from_utf8_lossy(&output.stderr));
    let path = profile_dir.join(format!("sheaf{}", std::env::consts::EXE_SUFFIX));
    assert!(path.exists(), "cargo built no {}", path.display());
    path
}

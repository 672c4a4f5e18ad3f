//! Names the build: the version, and the commit where it is built from a repository. `SHEAF_COMMIT` says it elsewhere.

use std::process::Command;

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok().filter(|it| it.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=SHEAF_COMMIT");
    // Written at each commit.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|it| std::path::Path::new(it).exists()) {
        println!("cargo::rerun-if-changed={log}");
    }
    let given = std::env::var("SHEAF_COMMIT").ok().filter(|it| !it.is_empty());
    let commit = given.or_else(|| git(&["rev-parse", "--short=12", "HEAD"]));
    let version = env!("CARGO_PKG_VERSION");
    let build = commit.map_or_else(|| version.to_owned(), |commit| format!("{version}+{commit}"));
    println!("cargo::rustc-env=SHEAF_BUILD={build}");
}

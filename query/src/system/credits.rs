//! Who made it, and what it is made of.

/// Name, version and licence of each crate that the workspace names, tab-separated, by name.
const CRATES: &str = include_str!("credits.tsv");
/// One a line, in the order of their first commit.
const CONTRIBUTORS: &str = include_str!("contributors.txt");

pub(super) fn contributors() -> impl Iterator<Item = &'static str> {
    CONTRIBUTORS.lines()
}

pub(super) fn crates() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    CRATES.lines().filter_map(|line| {
        let mut parts = line.split('\t');
        Some((parts.next()?, parts.next()?, parts.next()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dependency_is_credited() {
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
        let manifest = std::fs::read_to_string(manifest).unwrap();
        let dependencies = manifest.split("[workspace.dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
        let credited: Vec<&str> = crates().map(|(name, ..)| name).collect();
        // A continuation of a list of features starts with a space or a quote.
        let lines = dependencies.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_alphabetic()));
        for name in lines.filter_map(|line| line.split_once(" = ")).map(|(name, _)| name) {
            if !name.starts_with("sheaf-") {
                assert!(credited.contains(&name), "{name} is missing in query/src/system/credits.tsv");
            }
        }
        assert!(credited.is_sorted());
        assert!(contributors().count() > 0);
    }
}

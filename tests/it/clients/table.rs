//! The tables of `website/docs/connect.md`: client, what was tried, what came of it.

use std::collections::BTreeMap;

use sheaf_tests::root;

/// What was tried with each client, in the order of the table.
#[derive(Default)]
pub struct Results(Vec<(&'static str, Vec<String>)>);

impl Results {
    pub fn add(&mut self, client: &'static str, tried: Vec<String>) {
        self.0.push((client, tried));
    }

    /// Panics where a table says anything else of these clients; with `UPDATE=1` writes it instead. `are_all` says that
    /// others have no row.
    pub fn check(self, table: &str, are_all: bool) {
        let path = root().join("website/docs/connect.md");
        let page = std::fs::read_to_string(&path).expect("the page is part of the project");
        let (begin, end) = (format!("<!-- clients: {table} -->\n"), "<!-- end -->");
        let (before, rest) = page.split_once(&begin).unwrap_or_else(|| panic!("the page has no {begin}"));
        let (old, after) = rest.split_once(end).expect("the table has an end");
        let row = |client: &str, tried: &[String]| format!("| {client} | {} | works |", tried.join("; "));
        let rows: Vec<String> = self.0.iter().map(|(client, tried)| row(client, tried)).collect();
        if std::env::var_os("UPDATE").is_some() {
            let text = format!("\n| client | what was tried | result |\n|---|---|---|\n{}\n\n", rows.join("\n"));
            std::fs::write(&path, format!("{before}{begin}{text}{end}{after}")).expect("the page can be written");
            return;
        }
        let name_of = |row: &str| row.split('|').nth(1).unwrap_or_default().trim().to_owned();
        let known: BTreeMap<String, &str> =
            old.lines().filter(|it| it.starts_with("| ")).map(|it| (name_of(it), it)).collect();
        for row in &rows {
            let found = known.get(&name_of(row)).copied().unwrap_or_default();
            assert_eq!(found, row, "website/docs/connect.md says something else; UPDATE=1 writes what was tried");
        }
        // One that was skipped on this machine may have a row, one that nobody knows may not: the heading is the other.
        assert!(!are_all || known.len() > rows.len(), "rows are missing");
    }
}

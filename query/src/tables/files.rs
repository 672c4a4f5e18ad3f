//! Which files a location holds, and what their names say.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use glob::{MatchOptions, Pattern};
use object_store::ObjectMeta;
use object_store::path::Path as StorePath;
use serde::{Deserialize, Serialize};

use super::TableError;
use super::roots::{Location, Roots};
use super::sources::local_path;

/// Folders below a location that are looked into at most; guards against links that go in circles.
const DEPTH_MAX: usize = 32;

const COMPRESSIONS: [&str; 4] = ["gz", "bz2", "xz", "zst"];

pub(super) const MATCH: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

/// How the files of a table are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    Parquet,
    Csv,
    Json,
    /// Arrow's IPC files and streams.
    Arrow,
    /// A folder whose log says which of its files are the table.
    Delta,
}

impl FileKind {
    /// The name after STORED AS.
    pub fn name(self) -> &'static str {
        match self {
            Self::Parquet => "PARQUET",
            Self::Csv => "CSV",
            Self::Json => "JSON",
            Self::Arrow => "ARROW",
            Self::Delta => "DELTA",
        }
    }

    /// Whether a file is lines of text, of which an empty one has none.
    pub fn is_text(self) -> bool {
        matches!(self, Self::Csv | Self::Json)
    }

    /// Errs when there is no such format.
    pub fn parse(name: &str) -> Result<Self, TableError> {
        match name.to_ascii_uppercase().as_str() {
            "PARQUET" => Ok(Self::Parquet),
            "CSV" => Ok(Self::Csv),
            "JSON" | "NDJSON" | "JSONL" => Ok(Self::Json),
            "ARROW" => Ok(Self::Arrow),
            "DELTA" => Ok(Self::Delta),
            _ => Err(TableError::Unsupported { what: format!("file format '{name}'") }),
        }
    }

    /// The format that a file's name announces, whether compressed or not.
    pub fn of_path(path: &str) -> Option<Self> {
        let name = path.rsplit(['/', '\\']).next()?;
        let mut endings = name.rsplit('.').peekable();
        if endings.peek().is_some_and(|ending| COMPRESSIONS.contains(ending)) {
            endings.next();
        }
        let ending = endings.next()?;
        // What is left is the stem: a name without one is all ending, or has none.
        endings.next()?;
        match ending.to_ascii_lowercase().as_str() {
            "parquet" | "pq" => Some(Self::Parquet),
            "csv" | "tsv" => Some(Self::Csv),
            "json" | "ndjson" | "jsonl" => Some(Self::Json),
            "arrow" | "arrows" | "feather" => Some(Self::Arrow),
            _ => None,
        }
    }
}

/// The compression that a file's name announces, as DataFusion's options call it.
pub fn compression_of_path(path: &str) -> Option<&'static str> {
    let ending = path.rsplit('.').next()?;
    let found = COMPRESSIONS.into_iter().find(|it| *it == ending)?;
    Some(match found {
        "gz" => "gzip",
        "bz2" => "bzip2",
        "zst" => "zstd",
        other => other,
    })
}

/// Whether a name in FROM is meant as a path: it has a folder, a pattern, or the ending of a format.
pub fn looks_like_path(name: &str) -> bool {
    name.contains('/') || name.contains('*') || FileKind::of_path(name).is_some()
}

/// One file of a location.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundFile {
    /// What comes before the path in messages: the address of its store, nothing for a file on disk.
    pub origin: Arc<str>,
    /// Within its store. Invariant: of a file on disk, canonical and within the roots.
    pub path: StorePath,
    /// The `key=value` folders between the location and the file, outermost first.
    pub partitions: Vec<(String, String)>,
    /// Size and time, where the listing told them.
    pub meta: Option<ObjectMeta>,
}

impl FoundFile {
    fn local(path: &Path, partitions: Vec<(String, String)>) -> Result<Self, TableError> {
        Ok(Self { origin: Arc::from(""), path: local_path(path)?, partitions, meta: None })
    }

    /// The location that is this file alone.
    pub fn location(&self) -> String {
        match self.origin.is_empty() {
            true => format!("/{}", percent_decoded(self.path.as_ref())),
            false => self.shown(),
        }
    }

    /// As messages show it.
    pub fn shown(&self) -> String {
        format!("{}/{}", self.origin, self.path)
    }
}

/// The `key=value` among folders.
pub(super) fn partitions<'a>(folders: impl Iterator<Item = &'a str>) -> Vec<(String, String)> {
    let pair = |folder: &str| folder.split_once('=').map(|(key, value)| (key.to_owned(), percent_decoded(value)));
    folders.filter_map(pair).collect()
}

/// All files of a location, sorted by path; names that start with `.` or `_` are no data. Touches the disk.
///
/// A folder holds the files directly in it and those below folders named `key=value`; of those, only files of `kind`
/// count, or all if `None`. Errs when a file leads outside the roots.
pub fn list(roots: &Roots, location: &Location, kind: Option<FileKind>) -> Result<Vec<FoundFile>, TableError> {
    if !location.is_folder {
        return Ok(vec![FoundFile::local(&location.path, vec![])?]);
    }
    let pattern = match &location.pattern {
        Some(pattern) => Some(
            Pattern::new(pattern)
                .map_err(|error| TableError::invalid(format!("pattern '{pattern}' is malformed: {error}")))?,
        ),
        None => None,
    };
    // A pattern without `**` matches at one depth only.
    let depth_max = match &location.pattern {
        Some(pattern) if !pattern.contains("**") => Path::new(pattern).components().count() - 1,
        _ => DEPTH_MAX,
    };
    let mut walk = Walk { roots, top: &location.path, pattern, kind, depth_max, seen: HashSet::new(), found: vec![] };
    walk.folder(&location.path, 0)?;
    walk.found.sort_by(|a, b| a.path.cmp(&b.path));
    // Two links may lead to one file; its rows are read once.
    walk.found.dedup_by(|a, b| a.path == b.path);
    Ok(walk.found)
}

struct Walk<'a> {
    roots: &'a Roots,
    top: &'a Path,
    pattern: Option<Pattern>,
    kind: Option<FileKind>,
    depth_max: usize,
    /// Canonical folders that were entered.
    seen: HashSet<PathBuf>,
    found: Vec<FoundFile>,
}

impl Walk<'_> {
    fn folder(&mut self, folder: &Path, depth: usize) -> Result<(), TableError> {
        let shown = || folder.display().to_string();
        let unreadable = |error| TableError::unreadable(shown(), error);
        let canonical = folder.canonicalize().map_err(unreadable)?;
        if self.roots.is_private(&canonical) {
            return Ok(());
        }
        self.roots.check(&canonical, &shown())?;
        if depth > self.depth_max || !self.seen.insert(canonical) {
            return Ok(());
        }
        for entry in fs::read_dir(folder).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with(['.', '_']) {
                continue;
            }
            // A link that leads nowhere, or a file that has just gone, is no file of the table.
            let Ok(metadata) = fs::metadata(&path) else { continue };
            if metadata.is_dir() && (self.pattern.is_some() || name.contains('=')) {
                self.folder(&path, depth + 1)?;
            } else if metadata.is_file() {
                self.file(&path, &name)?;
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, name: &str) -> Result<(), TableError> {
        let below = path.strip_prefix(self.top).unwrap_or(path);
        let wanted = match &self.pattern {
            Some(pattern) => pattern.matches_path_with(below, MATCH),
            None => self.kind.is_none_or(|kind| FileKind::of_path(name) == Some(kind)),
        };
        if !wanted {
            return Ok(());
        }
        let Ok(canonical) = path.canonicalize() else { return Ok(()) };
        if self.roots.is_private(&canonical) {
            return Ok(());
        }
        self.roots.check(&canonical, &path.display().to_string())?;
        let folders: Vec<_> =
            below.parent().into_iter().flat_map(Path::components).map(|it| it.as_os_str().to_string_lossy()).collect();
        self.found.push(FoundFile::local(&canonical, partitions(folders.iter().map(AsRef::as_ref)))?);
        Ok(())
    }
}

/// `%2F` back to `/`, as writers of partitioned tables escape values. What is no escape stays as it is.
fn percent_decoded(text: &str) -> String {
    let hex = |bytes: &[u8]| u8::from_str_radix(std::str::from_utf8(bytes).ok()?, 16).ok();
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'%' if bytes.len() >= at + 3 && hex(&bytes[at + 1..at + 3]).is_some() => {
                decoded.extend(hex(&bytes[at + 1..at + 3]));
                at += 3;
            }
            byte => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::roots::tests::sandbox;
    use super::*;

    fn touch(path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }

    fn names(roots: &Roots, text: &str, kind: Option<FileKind>) -> Vec<String> {
        let files = list(roots, &roots.resolve(text).unwrap(), kind).unwrap();
        let root = &roots.folders()[0];
        let below = |file: &FoundFile| Path::new(&file.shown()).strip_prefix(root).unwrap().display().to_string();
        files.iter().map(below).collect()
    }

    #[test]
    fn folders_and_patterns_hold_their_files() {
        let (folder, roots) = sandbox();
        let files = ["t/a.csv", "t/b.csv.gz", "t/c.json", "t/.hidden.csv", "t/_tmp.csv", "t/d=1/x.csv", "t/deep/y.csv"];
        for file in files {
            touch(&folder.path().join("root").join(file));
        }
        assert_eq!(names(&roots, "t", Some(FileKind::Csv)), ["t/a.csv", "t/b.csv.gz", "t/d=1/x.csv"]);
        assert_eq!(names(&roots, "t/*.csv", None), ["t/a.csv"]);
        assert_eq!(names(&roots, "t/*/?.csv", None), ["t/d=1/x.csv", "t/deep/y.csv"]);
        assert_eq!(names(&roots, "t/**/*.csv", None), ["t/a.csv", "t/d=1/x.csv", "t/deep/y.csv"]);
        assert_eq!(names(&roots, "t/c.json", None), ["t/c.json"]);
    }

    #[test]
    fn a_link_must_not_leave_the_roots() {
        let (folder, roots) = sandbox();
        touch(&folder.path().join("secret.csv"));
        touch(&folder.path().join("root/t/a.csv"));
        std::os::unix::fs::symlink(folder.path().join("secret.csv"), folder.path().join("root/t/b.csv")).unwrap();
        let listed = list(&roots, &roots.resolve("t").unwrap(), Some(FileKind::Csv));
        assert!(matches!(listed, Err(TableError::AccessDenied { .. })), "{listed:?}");
    }

    #[test]
    fn links_in_circles_end() {
        let (folder, roots) = sandbox();
        touch(&folder.path().join("root/t/a.csv"));
        std::os::unix::fs::symlink(folder.path().join("root/t"), folder.path().join("root/t/k=v")).unwrap();
        assert_eq!(names(&roots, "t", Some(FileKind::Csv)), ["t/a.csv"]);
    }

    #[test]
    fn partitions_are_read_from_folders() {
        let (folder, roots) = sandbox();
        touch(&folder.path().join("root/t/y=2024/m=a%2Fb/a.parquet"));
        let files = list(&roots, &roots.resolve("t").unwrap(), Some(FileKind::Parquet)).unwrap();
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(files[0].partitions, [pair("y", "2024"), pair("m", "a/b")]);
    }

    #[test]
    fn names_tell_the_format() {
        assert_eq!(FileKind::of_path("a/b.parquet"), Some(FileKind::Parquet));
        assert_eq!(FileKind::of_path("b.CSV"), Some(FileKind::Csv));
        assert_eq!(FileKind::of_path("b.csv.zst"), Some(FileKind::Csv));
        assert_eq!(FileKind::of_path("b.jsonl"), Some(FileKind::Json));
        assert_eq!(FileKind::of_path("csv"), None);
        assert_eq!(FileKind::of_path("a.b/csv"), None);
        assert!(looks_like_path("a/b") && looks_like_path("x.json") && looks_like_path("*") && !looks_like_path("t"));
        assert_eq!(compression_of_path("a.csv.gz"), Some("gzip"));
        assert_eq!(compression_of_path("a.csv"), None);
        assert_eq!(percent_decoded("%zz%4"), "%zz%4");
    }
}

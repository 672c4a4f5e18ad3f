//! The folders whose files statements may read, and the way from a location's text to a path within them.

use std::io;
use std::path::{Component, Path, PathBuf};

use super::TableError;

/// Characters that make a path segment a pattern.
pub(super) const PATTERN: [char; 3] = ['*', '?', '['];

/// The allow-list. Paths are compared after every symbolic link and `..` is resolved.
#[derive(Debug, Clone)]
pub struct Roots {
    /// Where relative locations start.
    base: PathBuf,
    /// Invariant: canonical.
    folders: Vec<PathBuf>,
    /// What is the server's own, wherever it lies. Invariant: canonical.
    private: Vec<PathBuf>,
}

/// A location that was found to be within the roots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The file or folder; for a pattern the folder above its first segment. Invariant: canonical.
    pub path: PathBuf,
    /// What files have to match, relative to `path`.
    pub pattern: Option<String>,
    pub is_folder: bool,
}

impl Location {
    /// The text that resolves to this location from anywhere.
    pub fn text(&self) -> String {
        match &self.pattern {
            Some(pattern) => self.path.join(pattern).display().to_string(),
            None => self.path.display().to_string(),
        }
    }
}

impl Roots {
    /// Relative locations start at `base`; only what is below one of `folders` may be read.
    ///
    /// Errs when one of them does not exist or cannot be opened.
    pub fn new(base: &Path, folders: &[PathBuf]) -> io::Result<Self> {
        let named = |path: &Path| {
            path.canonicalize().map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
        };
        let folders = folders.iter().map(|it| named(it)).collect::<io::Result<_>>()?;
        Ok(Self { base: named(base)?, folders, private: vec![] })
    }

    /// The same without files and folders that are the server's own: keys, accounts, and what others read. They need
    /// not exist yet.
    pub fn without(mut self, private: impl IntoIterator<Item = PathBuf>) -> Self {
        let canonical = |path: &Path| match (path.canonicalize(), path.parent(), path.file_name()) {
            (Ok(path), ..) => path,
            (Err(_), Some(parent), Some(name)) => {
                parent.canonicalize().unwrap_or_else(|_| parent.to_owned()).join(name)
            }
            (Err(_), ..) => path.to_owned(),
        };
        // No path is the beginning of every path.
        let named = private.into_iter().filter(|it| !it.as_os_str().is_empty());
        self.private.extend(named.map(|it| canonical(&it)));
        self
    }

    /// Whether a canonical path is one of the server's own. Patterns pass over those; whoever names one is refused.
    pub(super) fn is_private(&self, path: &Path) -> bool {
        self.private.iter().any(|it| path.starts_with(it))
    }

    pub fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    /// Finds what a location's text stands for: a file, a folder, or a pattern of files. Touches the disk.
    ///
    /// Errs when it leads outside the roots, or when it names neither something that exists nor a pattern.
    pub fn resolve(&self, text: &str) -> Result<Location, TableError> {
        let path = self.base.join(local_path(text)?);
        let is_pattern = text.contains(PATTERN);
        match path.canonicalize() {
            Ok(path) => {
                self.check(&path, text)?;
                let is_folder = path.is_dir();
                Ok(Location { path, pattern: None, is_folder })
            }
            Err(_) if is_pattern => self.resolve_pattern(&path, text),
            Err(error) => Err(self.missing(&path, text, error)),
        }
    }

    /// Finds the path that something new, a file or a folder, is to get; what is there already is found as well.
    /// Touches the disk.
    ///
    /// Errs when it leads outside the roots.
    pub fn resolve_new(&self, text: &str) -> Result<PathBuf, TableError> {
        if text.contains(PATTERN) {
            return Err(TableError::invalid(format!("location '{text}' is a pattern, and cannot be written to")));
        }
        let path = self.base.join(local_path(text)?);
        let mut rest = vec![];
        let mut above = path.as_path();
        let existing = loop {
            match (above.canonicalize(), above.parent(), above.components().next_back()) {
                (Ok(existing), ..) => break existing,
                // A link that leads nowhere would be followed by whoever writes to it.
                (Err(_), Some(parent), Some(Component::Normal(name))) if !above.is_symlink() => {
                    rest.push(name);
                    above = parent;
                }
                (Err(error), ..) => return Err(self.missing(&path, text, error)),
            }
        };
        let new = rest.iter().rev().fold(existing.clone(), |path, name| path.join(name));
        self.check(&existing, text)?;
        self.check(&new, text)?;
        if !rest.is_empty() && !existing.is_dir() {
            return Err(TableError::invalid(format!("'{}' is not a folder", existing.display())));
        }
        Ok(new)
    }

    /// Errs unless a canonical path is within a root. `text` is what the error shows.
    pub fn check(&self, path: &Path, text: &str) -> Result<(), TableError> {
        match self.folders.iter().any(|folder| path.starts_with(folder)) && !self.is_private(path) {
            true => Ok(()),
            false => Err(TableError::AccessDenied { path: text.to_owned() }),
        }
    }

    fn resolve_pattern(&self, path: &Path, text: &str) -> Result<Location, TableError> {
        let is_literal = |it: &Component<'_>| !it.as_os_str().to_string_lossy().contains(PATTERN);
        let prefix: PathBuf = path.components().take_while(is_literal).collect();
        let rest: PathBuf = path.components().skip_while(is_literal).collect();
        if rest.components().any(|it| !matches!(it, Component::Normal(_))) {
            return Err(TableError::invalid(format!("pattern '{text}' must not lead upwards")));
        }
        let canonical = prefix.canonicalize().map_err(|error| self.missing(&prefix, text, error))?;
        self.check(&canonical, text)?;
        Ok(Location { path: canonical, pattern: Some(rest.to_string_lossy().into_owned()), is_folder: true })
    }

    /// Why a path could not be resolved, without telling what exists outside the roots.
    fn missing(&self, path: &Path, text: &str, error: io::Error) -> TableError {
        let existing = path.ancestors().find_map(|it| it.canonicalize().ok());
        if let Some(Err(denied)) = existing.map(|it| self.check(&it, text)) {
            return denied;
        }
        match error.kind() {
            io::ErrorKind::NotFound => TableError::FileNotFound { path: text.to_owned() },
            _ => TableError::unreadable(text, error),
        }
    }
}

/// The path of a location on this machine's disk.
fn local_path(text: &str) -> Result<&Path, TableError> {
    let path = match text.split_once("://") {
        Some(("file", rest)) if rest.starts_with('/') => rest,
        Some((scheme, _)) if scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c)) => {
            return Err(TableError::Unsupported { what: format!("location '{text}': only local files") });
        }
        _ => text,
    };
    match path.is_empty() || path.contains('\0') {
        true => Err(TableError::invalid(format!("location '{text}' is not a path"))),
        false => Ok(Path::new(path)),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A folder that is a root, and its [`Roots`]. Removed when the guard goes.
    pub(crate) fn sandbox() -> (tempfile::TempDir, Roots) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        std::fs::create_dir(&root).unwrap();
        let roots = Roots::new(&root, std::slice::from_ref(&root)).unwrap();
        (folder, roots)
    }

    fn denied(roots: &Roots, text: &str) -> bool {
        matches!(roots.resolve(text), Err(TableError::AccessDenied { .. }))
    }

    #[test]
    fn nothing_leads_outside() {
        let (folder, roots) = sandbox();
        std::fs::write(folder.path().join("secret.csv"), "a\n1\n").unwrap();
        std::os::unix::fs::symlink(folder.path(), folder.path().join("root/up")).unwrap();
        for text in ["../secret.csv", "/etc/passwd", "up/secret.csv", "up/*.csv", "../*.csv", "../none", "/"] {
            assert!(denied(&roots, text), "{text}: {:?}", roots.resolve(text));
        }
    }

    #[test]
    fn what_is_the_servers_own_is_no_file_of_a_table() {
        let (folder, roots) = sandbox();
        let root = folder.path().join("root");
        for name in ["data/cache", "data/tables"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
            std::fs::write(root.join(name).join("a.csv"), "a\n1\n").unwrap();
        }
        std::os::unix::fs::symlink(root.join("data/cache"), root.join("link")).unwrap();
        let roots = roots.without(["data/cache", "data/metadata"].map(|it| root.join(it)));
        for text in ["data/cache/a.csv", "data/cache", "data/cache/*.csv", "link/a.csv", "data/tables/../cache/a.csv"] {
            assert!(denied(&roots, text), "{text}: {:?}", roots.resolve(text));
        }
        for text in ["data/metadata", "data/metadata/x.csv", "data/cache/new.csv", "link/new.csv"] {
            assert!(matches!(roots.resolve_new(text), Err(TableError::AccessDenied { .. })), "{text}");
        }
        assert!(roots.resolve("data/tables/a.csv").is_ok() && roots.resolve_new("data/other").is_ok());
        // A pattern above finds what is not the server's.
        let found = super::super::files::list(&roots, &roots.resolve("**/*.csv").unwrap(), None).unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].shown().ends_with("data/tables/a.csv"), "{found:?}");
    }

    #[test]
    fn new_files_stay_inside() {
        let (folder, roots) = sandbox();
        let root = folder.path().join("root").canonicalize().unwrap();
        std::os::unix::fs::symlink(folder.path(), root.join("up")).unwrap();
        std::os::unix::fs::symlink(folder.path().join("gone"), root.join("dangling")).unwrap();
        std::fs::write(root.join("file"), "").unwrap();
        for text in ["../x", "/etc/x/y", "up/x.csv", "a/../../x", "dangling", "dangling/x", "a*", "file/x", "x/../y"] {
            assert!(roots.resolve_new(text).is_err(), "{text}: {:?}", roots.resolve_new(text));
        }
        assert_eq!(roots.resolve_new("a/b/c.csv").unwrap(), root.join("a/b/c.csv"));
        assert_eq!(roots.resolve_new("a/b/").unwrap(), root.join("a/b"));
        assert_eq!(roots.resolve_new("file").unwrap(), root.join("file"));
    }

    #[test]
    fn finds_files_folders_and_patterns() {
        let (folder, roots) = sandbox();
        let root = folder.path().join("root").canonicalize().unwrap();
        std::fs::create_dir(root.join("t")).unwrap();
        std::fs::write(root.join("t/a[1].csv"), "").unwrap();
        let location = |path: &str, pattern: Option<&str>, is_folder| Location {
            path: root.join(path),
            pattern: pattern.map(str::to_owned),
            is_folder,
        };
        assert_eq!(roots.resolve("t").unwrap(), location("t", None, true));
        assert_eq!(roots.resolve("t/a[1].csv").unwrap(), location("t/a[1].csv", None, false));
        assert_eq!(roots.resolve("t/*.csv").unwrap(), location("t", Some("*.csv"), true));
        let url = format!("file://{}", root.join("t").display());
        assert_eq!(roots.resolve(&url).unwrap(), location("t", None, true));
        assert!(matches!(roots.resolve("none.csv"), Err(TableError::FileNotFound { path }) if path == "none.csv"));
        assert!(matches!(roots.resolve("s3://b/x.csv"), Err(TableError::Unsupported { .. })));
        assert!(matches!(roots.resolve(""), Err(TableError::Invalid { .. })));
    }
}

//! Which folder of a metadata folder is the store, as its files `FORMAT` and `CURRENT` say.
//!
//! | `FORMAT` | `CURRENT` | the store is |
//! |---|---|---|
//! | missing | | made: a new folder begins with format 1 |
//! | 1 | is not there | `store` |
//! | 2 | is not there | `store`, which is about to be replaced for the first time |
//! | 2 | `store-N` | that folder |
//!
//! Both files are replaced as a whole: written beside, flushed, renamed, and the folder flushed. `CURRENT` is the only
//! thing that says which folder counts: all others are what an earlier store or an interrupted rewrite left behind.
//! Servers that know format 1 only would take `store` for the store, so format 2 is written first, which they refuse.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::metadata::error::{MetadataError, Result};

const FORMAT_FILE: &str = "FORMAT";
const CURRENT_FILE: &str = "CURRENT";
/// What `FORMAT` says before the number, so that another program's folder is not taken for ours.
const FORMAT_NAME: &str = "sheafdb metadata";
/// The store is in `store`.
const FIRST: u64 = 1;
/// The store is where `CURRENT` says.
const WITH_CURRENT: u64 = 2;
/// The folder of the first store; later ones have a number behind it.
const STORE: &str = "store";

/// Where the store is. The number 0 is the folder without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    format: u64,
    pub number: u64,
}

/// A step of [`Layout::switch`], after which a process may end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SwitchStep {
    FormatPrepared,
    FormatWritten,
    CurrentPrepared,
    CurrentWritten,
}

/// Why the store is still, or perhaps is not, where it was.
#[derive(Debug)]
pub enum SwitchError {
    /// It is where it was.
    NotBegun(io::Error),
    /// The next to open the folder decides.
    Unknown(io::Error),
}

impl Layout {
    /// Reads where the store is; a folder without one becomes one of format 1.
    ///
    /// Errs when a newer server wrote it, and when the files do not fit together. Then nothing was changed.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(FORMAT_FILE);
        let numbers = numbers(dir).map_err(failed("read", dir))?;
        let has_store = !numbers.is_empty() || dir.join(CURRENT_FILE).exists();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            // The file is written before the store is made.
            Err(error) if error.kind() == ErrorKind::NotFound && has_store => {
                return Err(damaged(&path, "it is missing".to_owned()));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                replace(dir, FORMAT_FILE, &format_text(FIRST)).map_err(failed("write", &path))?;
                return Ok(Self { format: FIRST, number: 0 });
            }
            Err(error) => return Err(failed("read", &path)(error)),
        };
        let number = text.trim_end().strip_prefix(FORMAT_NAME).and_then(|rest| rest.trim().parse::<u64>().ok());
        let format = match number {
            Some(found @ (FIRST | WITH_CURRENT)) => found,
            Some(found) if found > WITH_CURRENT => {
                return Err(MetadataError::NewerFormat { path, found, known: WITH_CURRENT });
            }
            _ => return Err(damaged(&path, format!("it says {text:?}, not {:?}", format_text(WITH_CURRENT)))),
        };
        let layout = Self { format, number: read_current(dir, format)?.unwrap_or(0) };
        // sled would make what is missing, and an empty store would pass for a new one. Where nothing else is, this is one:
        // the process that wrote `FORMAT` ended before it made the store.
        let (store, is_new) = (layout.folder(dir), format == FIRST && numbers.iter().all(|number| *number == 0));
        let is_whole = store.join("db").exists() && store.join("conf").exists();
        if !is_new && !is_whole {
            return Err(damaged(&store, "it is missing, or its files are".to_owned()));
        }
        Ok(layout)
    }

    /// The store's folder.
    pub fn folder(&self, dir: &Path) -> PathBuf {
        folder(dir, self.number)
    }

    /// Makes another folder the store, all of which is on disk. From `CurrentWritten` on no crash brings the old one back.
    pub fn switch(
        &mut self,
        dir: &Path,
        number: u64,
        mut at: impl FnMut(SwitchStep),
    ) -> std::result::Result<(), SwitchError> {
        if self.format != WITH_CURRENT {
            prepare(dir, FORMAT_FILE, &format_text(WITH_CURRENT)).map_err(SwitchError::NotBegun)?;
            at(SwitchStep::FormatPrepared);
            // Whichever of the two there is after a crash: without `CURRENT` they say the same.
            put_in_place(dir, FORMAT_FILE).map_err(SwitchError::NotBegun)?;
            at(SwitchStep::FormatWritten);
            self.format = WITH_CURRENT;
        }
        prepare(dir, CURRENT_FILE, &format!("{STORE}-{number}\n")).map_err(SwitchError::NotBegun)?;
        at(SwitchStep::CurrentPrepared);
        put_in_place(dir, CURRENT_FILE).map_err(SwitchError::Unknown)?;
        at(SwitchStep::CurrentWritten);
        self.number = number;
        Ok(())
    }

    /// Folders beside the store that do not count.
    pub fn leftovers(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let numbers = numbers(dir)?.into_iter().filter(|number| *number != self.number);
        Ok(numbers.map(|number| folder(dir, number)).collect())
    }

    /// A number that no folder has, and none had whose removal may still be under way.
    pub fn next_number(&self, dir: &Path) -> io::Result<u64> {
        Ok(numbers(dir)?.into_iter().fold(self.number, u64::max) + 1)
    }
}

/// The folder of a number.
pub fn folder(dir: &Path, number: u64) -> PathBuf {
    match number {
        0 => dir.join(STORE),
        number => dir.join(format!("{STORE}-{number}")),
    }
}

/// The number in a name like `store-7`.
fn parse(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(STORE)?.strip_prefix('-')?;
    let number: u64 = digits.parse().ok().filter(|number| *number > 0)?;
    // Not `store-07` nor `store-+7`: a number has one folder.
    (number.to_string() == digits).then_some(number)
}

fn numbers(dir: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = vec![];
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| if name == STORE { Some(0) } else { parse(name) });
        if let (Some(number), true) = (number, entry.file_type()?.is_dir()) {
            numbers.push(number);
        }
    }
    Ok(numbers)
}

fn read_current(dir: &Path, format: u64) -> Result<Option<u64>> {
    let path = dir.join(CURRENT_FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", &path)(error)),
    };
    if format != WITH_CURRENT {
        return Err(damaged(&path, format!("{FORMAT_FILE} says {format}, which has no such file")));
    }
    match text.strip_suffix('\n').and_then(parse) {
        Some(number) => Ok(Some(number)),
        None => Err(damaged(&path, format!("it says {text:?}, which names no folder of ours"))),
    }
}

fn format_text(format: u64) -> String {
    format!("{FORMAT_NAME} {format}\n")
}

fn replace(dir: &Path, name: &str, text: &str) -> io::Result<()> {
    prepare(dir, name, text)?;
    put_in_place(dir, name)
}

fn partial(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.partial"))
}

/// Writes what a file is to be beside it, and flushes that.
fn prepare(dir: &Path, name: &str, text: &str) -> io::Result<()> {
    let mut file = File::create(partial(dir, name))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn put_in_place(dir: &Path, name: &str) -> io::Result<()> {
    fs::rename(partial(dir, name), dir.join(name))?;
    // The new name is on disk only once its folder is.
    File::open(dir)?.sync_all()
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> MetadataError {
    let path = path.to_owned();
    move |source| MetadataError::File { action, path, source }
}

fn damaged(path: &Path, reason: String) -> MetadataError {
    MetadataError::Damaged { place: path.display().to_string(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(dir: &Path, number: u64) {
        let folder = folder(dir, number);
        fs::create_dir_all(&folder).unwrap();
        for file in ["db", "conf"] {
            fs::write(folder.join(file), "x").unwrap();
        }
    }

    #[test]
    fn a_switch_is_seen_by_who_opens_the_folder_next() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let mut layout = Layout::open(dir).unwrap();
        assert_eq!((layout.number, layout.folder(dir)), (0, dir.join("store")));
        make(dir, 0);
        for number in 1..4 {
            assert_eq!(layout.next_number(dir).unwrap(), number);
            make(dir, number);
            let before = Layout::open(dir).unwrap();
            let mut steps = vec![];
            let store_at = |step| match step {
                SwitchStep::CurrentWritten => number,
                _ => number - 1,
            };
            let at = |step| {
                assert_eq!(Layout::open(dir).unwrap().number, store_at(step), "{step:?}");
                steps.push(step);
            };
            layout.switch(dir, number, at).unwrap();
            // The format changes once.
            assert_eq!(steps.len(), if number == 1 { 4 } else { 2 });
            assert_eq!(Layout::open(dir).unwrap(), layout);
            assert_eq!((before.number, layout.number), (number - 1, number));
            assert_eq!(layout.leftovers(dir).unwrap().len() as u64, number);
        }
        assert_eq!(fs::read_to_string(dir.join(CURRENT_FILE)).unwrap(), "store-3\n");
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let check = |format: &str, current: Option<&str>, folders: &[u64], expected: &str| {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(FORMAT_FILE), format).unwrap();
            if let Some(current) = current {
                fs::write(dir.path().join(CURRENT_FILE), current).unwrap();
            }
            folders.iter().for_each(|number| make(dir.path(), *number));
            let error = Layout::open(dir.path()).expect_err("it does not fit").to_string();
            assert!(error.contains(expected), "{error}");
        };
        check("sheafdb metadata 1\n", Some("store-1\n"), &[0, 1], "has no such file");
        check("sheafdb metadata 2\n", Some("store-1\n"), &[0], "store-1 is damaged");
        check("sheafdb metadata 2\n", None, &[], "store is damaged");
        check("sheafdb metadata 1\n", None, &[1], "store is damaged");
        for text in ["", "store-1", "store\n", "store-01\n", "store-0\n", "store-1\nx\n", "../store-1\n"] {
            check("sheafdb metadata 2\n", Some(text), &[0, 1], "names no folder of ours");
        }
        check("sheafdb metadata 3\n", None, &[0], "run the newer server");
        for text in ["", "other 1", "sheafdb metadata x", "sheafdb metadata 0"] {
            check(text, None, &[0], "it says");
        }
        // The file itself is gone.
        for number in [0, 1] {
            let dir = tempfile::tempdir().unwrap();
            make(dir.path(), number);
            let error = Layout::open(dir.path()).expect_err("it is no new folder").to_string();
            assert!(error.contains("it is missing"), "{error}");
        }
    }
}

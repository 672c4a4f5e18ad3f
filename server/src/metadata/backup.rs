//! Metadata of a node that is stopped: checked, written into a file, and brought back from one.
//!
//! The file is lines of JSON that people can read: what it is, then one object a line, then how many there were and the
//! CRC-32 of all lines before.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sheaf_common::definitions::{Definitions, Object, Record};

use super::disk::{Disk, Identity, Loaded};
use super::error::{MetadataError, Result};
use super::group::is_of_node;
use super::replica::Replica;
use super::store::sled_store::SledStore;

const FORMAT: &str = "sheafdb metadata export";
const VERSION: u64 = 1;
/// The only replica of a cluster that begins from a file.
const FIRST_REPLICA: u64 = 1;

/// What was found sound in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    pub identity: Identity,
    pub voters: Vec<u64>,
    pub learners: Vec<u64>,
    pub term: u64,
    /// The log has the entries after the first index, up to the second.
    pub log: (u64, u64),
    pub commit: u64,
    pub applied: u64,
    pub definitions: Arc<Definitions>,
}

/// Reads all that a metadata folder has, and with it every checksum.
///
/// Errs when there is none, when it is damaged or of a newer version, and when a server has it open.
pub fn check(dir: &Path) -> Result<Summary> {
    // Opening makes what is missing: a mistyped folder must not become one.
    if !dir.join("FORMAT").exists() {
        return Err(MetadataError::empty(dir.display()));
    }
    let loaded = Disk::new(Box::new(SledStore::open(dir)?)).load()?;
    let Loaded { identity, hard_state, conf_state, cut, entries, state } =
        loaded.ok_or_else(|| MetadataError::empty(dir.display()))?;
    Ok(Summary {
        identity,
        voters: conf_state.voters,
        learners: conf_state.learners,
        term: hard_state.term,
        log: (cut.index, cut.index + entries.len() as u64),
        commit: hard_state.commit,
        applied: state.applied(),
        definitions: Arc::clone(state.definitions()),
    })
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: String,
    version: u64,
    cluster: u64,
    applied: u64,
}

/// Read before the rest, which a newer version may have changed.
#[derive(Deserialize)]
struct AnyHeader {
    format: String,
    version: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    object: Object,
    record: Record,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Footer {
    objects: usize,
    crc32: u32,
}

/// The objects of a file, and the log index that they are of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// The cluster that it was written of.
    pub cluster: u64,
    pub applied: u64,
    pub objects: BTreeMap<Object, Arc<Record>>,
}

/// Writes what a folder has into a file, which must not be there yet. Only its owner may read it: it has the verifiers of
/// passwords and the keys of stored connections.
///
/// Errs as [`check`] does, and when the file cannot be written.
pub fn export(dir: &Path, path: &Path) -> Result<Summary> {
    let summary = check(dir)?;
    let header = Header {
        format: FORMAT.to_owned(),
        version: VERSION,
        cluster: summary.identity.cluster,
        applied: summary.applied,
    };
    let mut text = line(&header);
    let mut n_objects = 0;
    for (object, record) in summary.definitions.objects() {
        text += &line(&Line { object: object.clone(), record: record.as_ref().clone() });
        n_objects += 1;
    }
    let crc32 = crc32fast::hash(text.as_bytes());
    text += &line(&Footer { objects: n_objects, crc32 });
    let write = || {
        let mut file = private_file(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|source| MetadataError::File { action: "write", path: path.to_owned(), source })?;
    Ok(summary)
}

/// A new file that nobody but its owner may read.
fn private_file(path: &Path) -> std::io::Result<File> {
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn line(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("our own types are JSON") + "\n"
}

/// Reads a file that [`export`] wrote.
///
/// Errs when it is damaged, cut off, or of a newer version.
pub fn read(path: &Path) -> Result<Export> {
    let failed = |source| MetadataError::File { action: "read", path: path.to_owned(), source };
    let text = fs::read_to_string(path).map_err(failed)?;
    let damaged = |reason: String| MetadataError::Damaged { place: path.display().to_string(), reason };
    let whole = text.strip_suffix('\n').ok_or_else(|| damaged("its last line is cut off".to_owned()))?;
    let first = whole.lines().next().unwrap_or_default();
    let any: AnyHeader = serde_json::from_str(first).map_err(|error| damaged(error.to_string()))?;
    if any.format != FORMAT {
        return Err(damaged(format!("it says {:?}, not {FORMAT:?}", any.format)));
    }
    if any.version > VERSION {
        return Err(MetadataError::NewerFormat { path: path.to_owned(), found: any.version, known: VERSION });
    }
    let (body, last) = whole.rsplit_once('\n').ok_or_else(|| damaged("it has one line only".to_owned()))?;
    let footer: Footer = serde_json::from_str(last)
        .map_err(|error| damaged(format!("its last line is not that of a whole file: {error}")))?;
    let body_bytes = &text.as_bytes()[..body.len() + 1];
    if crc32fast::hash(body_bytes) != footer.crc32 {
        return Err(damaged("its checksum does not match".to_owned()));
    }
    let header: Header = serde_json::from_str(first).map_err(|error| damaged(error.to_string()))?;
    let mut objects = BTreeMap::new();
    for (line, no) in body.lines().zip(1..).skip(1) {
        let Line { object, record } =
            serde_json::from_str(line).map_err(|error| damaged(format!("line {no}: {error}")))?;
        objects.insert(object, Arc::new(record));
    }
    match objects.len() == footer.objects {
        true => Ok(Export { cluster: header.cluster, applied: header.applied, objects }),
        false => Err(damaged(format!("it has {} objects and says {}", objects.len(), footer.objects))),
    }
}

/// Begins a new cluster in an empty folder, with what a file has; nodes are left out, they enter themselves. Returns how
/// many objects it has.
///
/// Errs when the file cannot be read, and when the folder has metadata already.
pub fn import(path: &Path, dir: &Path) -> Result<usize> {
    let Export { applied, mut objects, .. } = read(path)?;
    objects.retain(|object, _| !is_of_node(object));
    let identity = Identity { cluster: rand::random_range(1..=u64::MAX), replica: FIRST_REPLICA };
    let n_objects = objects.len();
    Replica::create_from(Box::new(SledStore::open(dir)?), identity, applied, objects)?;
    Ok(n_objects)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::command::{Change, IfExists};
    use super::super::node::MetadataNode;
    use super::super::replica::Options;
    use super::super::transport::Alone;
    use super::*;

    const WAIT: Duration = Duration::from_secs(10);

    /// A folder with a database, a table and a node.
    async fn filled(dir: &Path) {
        let identity = Identity { cluster: 7, replica: 1 };
        Replica::create(Box::new(SledStore::open(dir).unwrap()), identity, &[1]).unwrap();
        let store = Box::new(SledStore::open(dir).unwrap());
        let node = MetadataNode::start(store, Options::new(1), |_, _| Alone).unwrap();
        for object in [Object::database("d"), Object::table("d", "t\n\"x\""), Object::node("n")] {
            node.change(vec![Change::create(object, "{\"a\": 1}", IfExists::Fail)], WAIT).await.unwrap();
        }
        node.stop(WAIT).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_exported_can_be_imported_and_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new, file) = (dir.path().join("old"), dir.path().join("new"), dir.path().join("file"));
        filled(&old).await;
        let summary = export(&old, &file).unwrap();
        assert_eq!((summary.identity.cluster, summary.definitions.objects().count()), (7, 3));
        assert!(export(&old, &file).is_err(), "a file is never overwritten");
        #[cfg(unix)]
        {
            let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&file).unwrap().permissions());
            assert_eq!(mode & 0o777, 0o600);
        }
        assert_eq!(read(&file).unwrap().applied, summary.applied);
        assert_eq!(import(&file, &new).unwrap(), 2);
        assert!(import(&file, &new).is_err(), "what is there stays");
        let after = check(&new).unwrap();
        assert_ne!(after.identity.cluster, 7);
        let table = Object::table("d", "t\n\"x\"");
        assert_eq!(after.definitions.get(&table), summary.definitions.get(&table));
        assert!(after.definitions.get(&Object::node("n")).is_none());
        // Versions go on where they were: who read one before cannot take another for it.
        let store = Box::new(SledStore::open(&new).unwrap());
        let node = MetadataNode::start(store, Options::new(2), |_, _| Alone).unwrap();
        let applied = node.change(vec![Change::drop(table)], WAIT).await.unwrap();
        assert!(applied.index > summary.applied);
        node.stop(WAIT).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_file_that_was_changed_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (old, file) = (dir.path().join("old"), dir.path().join("file"));
        filled(&old).await;
        export(&old, &file).unwrap();
        let text = fs::read_to_string(&file).unwrap();
        let edits: [String; 5] = [
            text.replacen("\\\"a\\\": 1", "\\\"a\\\": 2", 1),
            text.lines().take(2).map(|line| format!("{line}\n")).collect(),
            text.trim_end().to_owned(),
            text.replacen("sheafdb metadata export", "something else", 1),
            String::new(),
        ];
        for edited in edits {
            assert_ne!(edited, text);
            fs::write(&file, edited).unwrap();
            let error = read(&file).unwrap_err();
            assert!(matches!(error, MetadataError::Damaged { .. }), "{error}");
        }
        fs::write(&file, text.replacen("\"version\":1", "\"version\":2", 1)).unwrap();
        assert!(matches!(read(&file), Err(MetadataError::NewerFormat { found: 2, .. })));
    }

    #[test]
    fn a_folder_without_metadata_stays_without() {
        let dir = tempfile::tempdir().unwrap();
        let error = check(&dir.path().join("none")).unwrap_err();
        assert!(error.to_string().contains("none"), "{error}");
        assert!(!dir.path().join("none").exists());
    }
}

//! Blocks of objects as files of a folder: one file a block, checked when it is read.
//!
//! The file's name says which block it is, so that a folder is an index of itself after a restart. It is written under
//! another name first and not flushed: what a power cut damages is found by its checksum and fetched again.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;

/// Begins each file; the digit is the version of the format.
const MAGIC: [u8; 8] = *b"SHEAFBL1";
/// Magic, checksum, length.
const HEADER_BYTES: usize = 8 + 4 + 4;
const ENDING: &str = "block";
const UNFINISHED: &str = "tmp";

/// Which block of which object. Names are hashes, long enough for no two things to have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId {
    /// Of the store, with its credentials, and the path.
    pub object: u128,
    /// Of what tells one content of the object from another.
    pub version: u128,
    /// From 0.
    pub index: u32,
}

/// A block that a folder holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    pub id: BlockId,
    /// As a file, with its header.
    pub bytes: u64,
    pub written: SystemTime,
}

/// How many bytes of disk a block of so many bytes takes.
pub fn file_bytes(data: &Bytes) -> u64 {
    (data.len() + HEADER_BYTES) as u64
}

impl BlockId {
    /// Below the cache's folder; spread over folders, which stay small.
    pub fn path(&self) -> PathBuf {
        let name = format!("{:032x}-{:032x}-{:x}.{ENDING}", self.object, self.version, self.index);
        Path::new(&name[..2]).join(&name)
    }

    fn of_name(name: &str) -> Option<Self> {
        let mut parts = name.strip_suffix(ENDING)?.strip_suffix('.')?.split('-');
        let mut hash = || u128::from_str_radix(parts.next().filter(|it| it.len() == 32)?, 16).ok();
        let (object, version) = (hash()?, hash()?);
        let index = u32::from_str_radix(parts.next()?, 16).ok()?;
        let id = Self { object, version, index };
        // What reads as a name and is written in another way is not ours.
        let is_ours = parts.next().is_none() && id.path().file_name().is_some_and(|it| it == name);
        is_ours.then_some(id)
    }

    /// What the checksum covers beside the data: a file under another's name must not pass for it.
    fn salt(&self) -> Vec<u8> {
        [&self.object.to_le_bytes()[..], &self.version.to_le_bytes(), &self.index.to_le_bytes()].concat()
    }

    fn checksum(&self, data: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.salt());
        hasher.update(data);
        hasher.finalize()
    }
}

/// Writes a block. After an error there is none of its name, or an older one.
pub fn write(folder: &Path, id: &BlockId, data: &Bytes) -> std::io::Result<()> {
    let path = folder.join(id.path());
    // Two writers of one block do not meet: who is later wins, with the same bytes.
    let unfinished = path.with_extension(format!("{}.{UNFINISHED}", uuid::Uuid::new_v4().simple()));
    let written = create(&unfinished).and_then(|mut file| {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(&MAGIC);
        header[8..12].copy_from_slice(&id.checksum(data).to_le_bytes());
        let len = u32::try_from(data.len()).map_err(std::io::Error::other)?;
        header[12..].copy_from_slice(&len.to_le_bytes());
        file.write_all(&header)?;
        file.write_all(data)?;
        fs::rename(&unfinished, &path)
    });
    if written.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    written
}

/// Makes a file, and its folder if it is not there: somebody may have emptied the cache.
fn create(path: &Path) -> std::io::Result<File> {
    match File::create_new(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            fs::create_dir_all(path.parent().unwrap_or(path))?;
            File::create_new(path)
        }
        made => made,
    }
}

/// Reads a block. Errs when it is not there, and with `InvalidData` when it is not what was written.
pub fn read(folder: &Path, id: &BlockId) -> std::io::Result<Bytes> {
    let damaged = || std::io::Error::from(std::io::ErrorKind::InvalidData);
    let mut file = File::open(folder.join(id.path()))?;
    let mut header = [0; HEADER_BYTES];
    file.read_exact(&mut header).map_err(|_| damaged())?;
    let number = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let (checksum, len) = (number(8), number(12));
    // A damaged length must not become an allocation.
    if header[..8] != MAGIC || file.metadata()?.len() != u64::from(len) + HEADER_BYTES as u64 {
        return Err(damaged());
    }
    let mut data = Vec::with_capacity(len as usize);
    file.read_to_end(&mut data)?;
    match data.len() == len as usize && id.checksum(&data) == checksum {
        true => Ok(data.into()),
        false => Err(damaged()),
    }
}

pub fn remove(folder: &Path, id: &BlockId) {
    // One that is gone already is as good; one that cannot be removed is met again at the next start.
    let _ = fs::remove_file(folder.join(id.path()));
}

/// All blocks of a folder, which is made if it is not there. What an earlier run left unfinished is removed.
pub fn scan(folder: &Path) -> std::io::Result<Vec<Found>> {
    fs::create_dir_all(folder)?;
    let mut found = vec![];
    for entry in fs::read_dir(folder)? {
        let below = entry?.path();
        if !below.is_dir() {
            continue;
        }
        for entry in fs::read_dir(&below)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if name.ends_with(UNFINISHED) {
                let _ = fs::remove_file(entry.path());
            } else if let (Some(id), Ok(metadata)) = (BlockId::of_name(name), entry.metadata()) {
                let written = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                found.push(Found { id, bytes: metadata.len(), written });
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: BlockId = BlockId { object: 7 << 120, version: 11, index: 300 };

    #[test]
    fn a_block_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        for data in [Bytes::from_static(b"some bytes"), Bytes::new()] {
            write(folder.path(), &ID, &data).unwrap();
            assert_eq!(read(folder.path(), &ID).unwrap(), data);
            let found = scan(folder.path()).unwrap();
            assert_eq!((found.len(), found[0].id, found[0].bytes), (1, ID, file_bytes(&data)));
        }
        remove(folder.path(), &ID);
        assert!(scan(folder.path()).unwrap().is_empty());
        assert_eq!(read(folder.path(), &ID).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    }

    #[test]
    fn each_damage_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(ID.path());
        write(folder.path(), &ID, &Bytes::from_static(b"0123456789")).unwrap();
        let whole = fs::read(&path).unwrap();
        let broken = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            assert_eq!(read(folder.path(), &ID).unwrap_err().kind(), std::io::ErrorKind::InvalidData);
        };
        for byte in 0..whole.len() {
            let mut changed = whole.clone();
            changed[byte] ^= 1;
            broken(&changed);
            broken(&whole[..byte]);
        }
        broken(&[&whole[..], b"x"].concat());
        // The file of one block under the name of another.
        let other = BlockId { index: 301, ..ID };
        fs::write(folder.path().join(other.path()), &whole).unwrap();
        assert_eq!(read(folder.path(), &other).unwrap_err().kind(), std::io::ErrorKind::InvalidData);
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &ID, &Bytes::from_static(b"x")).unwrap();
        let below = folder.path().join(ID.path());
        let below = below.parent().unwrap();
        fs::write(below.join("notes.txt"), "x").unwrap();
        fs::write(below.join("0-0-0.block"), "x").unwrap();
        fs::write(below.join("left.tmp"), "x").unwrap();
        fs::write(folder.path().join("notes.txt"), "x").unwrap();
        assert_eq!(scan(folder.path()).unwrap().len(), 1);
        assert!(
            below.join("notes.txt").exists() && below.join("0-0-0.block").exists() && !below.join("left.tmp").exists()
        );
    }
}

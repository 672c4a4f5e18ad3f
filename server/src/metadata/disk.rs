//! Log, votes and state as keys and values of a [`Store`].
//!
//! | key | value |
//! |---|---|
//! | `i` | [`Identity`], JSON |
//! | `h`, `c` | Raft's hard state and the group's members, protobuf |
//! | `t` | index and term of the last entry that was cut off the log, JSON |
//! | `a` | the last applied index, JSON |
//! | `l` + index | a log entry, protobuf |
//! | `o` + object as JSON | a [`Record`], JSON |
//! | `r` + index | a remembered outcome, JSON |
//!
//! Indices are 8 bytes, the highest first, so that keys sort as numbers do. Values are wrapped by the frame that finds
//! damage.

use std::collections::BTreeMap;
use std::sync::Arc;

use protobuf::Message as _;
use raft::eraftpb::{ConfState, Entry, HardState};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::command::Object;
use super::error::{MetadataError, Result};
use super::frame;
use super::state::{Delta, Record, Remembered, State};
use super::store::{Batch, Store};

const IDENTITY: &[u8] = b"i";
const HARD_STATE: &[u8] = b"h";
const CONF_STATE: &[u8] = b"c";
const CUT: &[u8] = b"t";
const APPLIED: &[u8] = b"a";
const ENTRY: u8 = b'l';
const OBJECT: u8 = b'o';
const REMEMBERED: u8 = b'r';

/// Whose copy this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Drawn when the cluster was made; copies of two clusters must not meet.
    pub cluster: u64,
    /// This copy's number in its group. Never 0, never given twice: a node that lost its disk gets a new one.
    pub replica: u64,
}

/// Where an entry stands in the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    pub index: u64,
    pub term: u64,
}

/// All that was on disk.
#[derive(Debug)]
pub struct Loaded {
    pub identity: Identity,
    pub hard_state: HardState,
    pub conf_state: ConfState,
    pub cut: Position,
    /// Without gaps, from the one after the cut.
    pub entries: Vec<Entry>,
    pub state: State,
}

fn numbered(kind: u8, index: u64) -> Vec<u8> {
    let mut key = vec![kind];
    key.extend_from_slice(&index.to_be_bytes());
    key
}

fn object_key(object: &Object) -> Vec<u8> {
    let mut key = vec![OBJECT];
    key.extend(json(object));
    key
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("our own types are JSON")
}

fn proto(message: &impl protobuf::Message) -> Vec<u8> {
    message.write_to_bytes().expect("a message without required fields is always whole")
}

fn put(batch: &mut Batch, key: Vec<u8>, payload: &[u8]) {
    let value = frame::wrap(&key, payload);
    batch.put(key, value);
}

/// Changes to be kept together.
#[derive(Default)]
pub struct DiskBatch(Batch);

impl DiskBatch {
    pub fn identity(&mut self, identity: Identity) {
        put(&mut self.0, IDENTITY.to_vec(), &json(&identity));
    }

    pub fn hard_state(&mut self, hard_state: &HardState) {
        put(&mut self.0, HARD_STATE.to_vec(), &proto(hard_state));
    }

    pub fn conf_state(&mut self, conf_state: &ConfState) {
        put(&mut self.0, CONF_STATE.to_vec(), &proto(conf_state));
    }

    /// Adds entries; those with the same or a higher index go, up to `last`, which was the last one so far.
    pub fn append(&mut self, entries: &[Entry], last: u64) {
        for entry in entries {
            put(&mut self.0, numbered(ENTRY, entry.index), &proto(entry));
        }
        if let Some(entry) = entries.last() {
            self.remove_entries(entry.index + 1, last);
        }
    }

    fn remove_entries(&mut self, first: u64, last: u64) {
        (first..=last).for_each(|index| self.0.remove(numbered(ENTRY, index)));
    }

    /// Cuts the log off after `cut`; `before` is where it was cut so far.
    pub fn cut(&mut self, before: Position, cut: Position) {
        self.remove_entries(before.index + 1, cut.index);
        put(&mut self.0, CUT.to_vec(), &json(&cut));
    }

    /// What applying one entry changed.
    pub fn applied(&mut self, index: u64, delta: &Delta) {
        for (object, record) in &delta.objects {
            match record {
                Some(record) => put(&mut self.0, object_key(object), &json(record.as_ref())),
                None => self.0.remove(object_key(object)),
            }
        }
        for (index, remembered) in &delta.remembered {
            match remembered {
                Some(remembered) => put(&mut self.0, numbered(REMEMBERED, *index), &json(remembered)),
                None => self.0.remove(numbered(REMEMBERED, *index)),
            }
        }
        put(&mut self.0, APPLIED.to_vec(), &json(&index));
    }

    /// Puts a whole state in the place of another, and empties the log.
    pub fn restore(&mut self, before: &State, log: std::ops::RangeInclusive<u64>, after: &State, cut: Position) {
        self.remove_entries(*log.start(), *log.end());
        before.definitions().objects().for_each(|(object, _)| self.0.remove(object_key(object)));
        before.remembered().for_each(|(index, _)| self.0.remove(numbered(REMEMBERED, index)));
        put(&mut self.0, CUT.to_vec(), &json(&cut));
        let delta = Delta {
            objects: after
                .definitions()
                .objects()
                .map(|(object, record)| (object.clone(), Some(Arc::clone(record))))
                .collect(),
            remembered: after.remembered().map(|(index, it)| (index, Some(it.clone()))).collect(),
        };
        self.applied(after.applied(), &delta);
    }
}

/// Bytes that wait for a flush; beyond, they are written without.
const WAITING_BYTES_MAX: usize = 1 << 20;

/// A store that holds what a replica must not forget.
pub struct Disk {
    store: Box<dyn Store>,
    /// What need not be flushed goes with the next batch that is: to the store, each batch is work of its own, and what
    /// was applied is mostly written a moment before the next entries are.
    waiting: Batch,
    waiting_bytes: usize,
}

impl Disk {
    pub fn new(store: Box<dyn Store>) -> Self {
        Self { store, waiting: Batch::default(), waiting_bytes: 0 }
    }

    /// Keeps a batch; `flush` waits until it and all before it are safe. Without, a crash loses it, and all that came
    /// after it.
    pub fn write(&mut self, batch: DiskBatch, flush: bool) -> Result<()> {
        let bytes = |(key, value): &(Vec<u8>, Option<Vec<u8>>)| key.len() + value.as_ref().map_or(0, Vec::len);
        self.waiting_bytes += batch.0.writes.iter().map(bytes).sum::<usize>();
        self.waiting.writes.extend(batch.0.writes);
        let is_much = self.waiting_bytes >= WAITING_BYTES_MAX;
        if (flush || is_much) && !self.waiting.is_empty() {
            self.waiting_bytes = 0;
            self.store.write(std::mem::take(&mut self.waiting))?;
        }
        match flush {
            true => self.store.flush(),
            false => Ok(()),
        }
    }

    /// See [`Store::tend`].
    pub fn tend(&mut self) -> Result<()> {
        self.store.tend()
    }

    /// Everything on disk, or `None` if there is nothing yet.
    ///
    /// Errs when a value is damaged or missing; nothing is guessed.
    pub fn load(&self) -> Result<Option<Loaded>> {
        let damaged = |key: &[u8], reason: String| MetadataError::Damaged {
            place: self.store.place(),
            reason: format!("the value of key {:?}: {reason}", String::from_utf8_lossy(key)),
        };
        let mut singles: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        let (mut entries, mut objects, mut remembered) = (vec![], BTreeMap::new(), BTreeMap::new());
        for (key, value) in self.store.scan()? {
            let payload = frame::unwrap(&key, &value).map_err(|reason| damaged(&key, reason))?;
            let index = || <[u8; 8]>::try_from(key.get(1..).unwrap_or_default()).map(u64::from_be_bytes);
            match (key.first(), index()) {
                (Some(&ENTRY), Ok(index)) => {
                    let mut entry = Entry::default();
                    entry.merge_from_bytes(payload).map_err(|error| damaged(&key, error.to_string()))?;
                    if entry.index != index {
                        return Err(damaged(&key, format!("it is entry {}", entry.index)));
                    }
                    entries.push(entry);
                }
                (Some(&REMEMBERED), Ok(index)) => {
                    let it: Remembered = parse(payload).map_err(|reason| damaged(&key, reason))?;
                    remembered.insert(index, it);
                }
                (Some(&OBJECT), _) => {
                    let object: Object = parse(&key[1..]).map_err(|reason| damaged(&key, reason))?;
                    let record: Record = parse(payload).map_err(|reason| damaged(&key, reason))?;
                    objects.insert(object, Arc::new(record));
                }
                _ if [IDENTITY, HARD_STATE, CONF_STATE, CUT, APPLIED].contains(&key.as_slice()) => {
                    let payload = payload.to_vec();
                    singles.insert(key, payload);
                }
                _ => return Err(damaged(&key, "it is not a key of ours".to_owned())),
            }
        }
        if singles.is_empty() && entries.is_empty() && objects.is_empty() && remembered.is_empty() {
            return Ok(None);
        }
        let single = |key: &[u8]| singles.get(key).ok_or_else(|| damaged(key, "it is missing".to_owned()));
        let identity: Identity = parse(single(IDENTITY)?).map_err(|reason| damaged(IDENTITY, reason))?;
        let cut: Position = parse(single(CUT)?).map_err(|reason| damaged(CUT, reason))?;
        let applied: u64 = parse(single(APPLIED)?).map_err(|reason| damaged(APPLIED, reason))?;
        let (mut hard_state, mut conf_state) = (HardState::default(), ConfState::default());
        hard_state.merge_from_bytes(single(HARD_STATE)?).map_err(|error| damaged(HARD_STATE, error.to_string()))?;
        conf_state.merge_from_bytes(single(CONF_STATE)?).map_err(|error| damaged(CONF_STATE, error.to_string()))?;
        let last = cut.index + entries.len() as u64;
        if let Some((expected, entry)) = (cut.index + 1..).zip(&entries).find(|(expected, it)| it.index != *expected) {
            return Err(damaged(&numbered(ENTRY, expected), format!("it is missing, the next is {}", entry.index)));
        }
        if applied < cut.index || applied > last || hard_state.commit > last {
            let reason = format!(
                "{applied} applied, {} committed, but the log goes from {} to {last}",
                hard_state.commit, cut.index
            );
            return Err(damaged(APPLIED, reason));
        }
        // Commit indices are kept without a flush of their own; whatever was applied was committed.
        hard_state.commit = hard_state.commit.max(applied);
        let state = State::new(applied, objects, remembered);
        Ok(Some(Loaded { identity, hard_state, conf_state, cut, entries, state }))
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> std::result::Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

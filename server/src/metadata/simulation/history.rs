//! What clients asked and saw, and whether it can have been.

use std::collections::BTreeMap;

use crate::metadata::command::{Change, IfExists, Object, Request, RequestId};
use crate::metadata::state::State;

/// Name, version and value of all settings.
pub type Settings = BTreeMap<String, (u64, String)>;

pub fn settings(state: &State) -> Settings {
    let setting = |object: &Object| match object {
        Object::Setting { name } => Some(name.clone()),
        _ => None,
    };
    state
        .definitions()
        .objects()
        .filter_map(|(object, record)| Some((setting(object)?, (record.version, record.definition.clone()))))
        .collect()
}

/// The answer to a call.
#[derive(Debug, Clone, PartialEq)]
pub enum Seen {
    /// `None` was refused.
    Command {
        index: Option<u64>,
    },
    Read {
        index: u64,
        settings: Settings,
    },
    /// It may or may not have happened.
    Nothing,
}

#[derive(Debug)]
struct Call {
    begun: u64,
    /// Of a command.
    id: Option<RequestId>,
    ended: Option<(u64, Seen)>,
}

/// Everything that happened.
#[derive(Debug, Default)]
pub struct History {
    calls: Vec<Call>,
    /// The log, as far as anybody applied it.
    log: BTreeMap<u64, Option<Request>>,
    /// All states that were seen, by index.
    images: BTreeMap<u64, Vec<u8>>,
}

impl History {
    pub fn command(&mut self, now: u64, id: RequestId) -> u64 {
        self.calls.push(Call { begun: now, id: Some(id), ended: None });
        self.calls.len() as u64 - 1
    }

    pub fn read(&mut self, now: u64) -> u64 {
        self.calls.push(Call { begun: now, id: None, ended: None });
        self.calls.len() as u64 - 1
    }

    pub fn finish(&mut self, call: u64, now: u64, seen: Seen) {
        self.calls[call as usize].ended = Some((now, seen));
    }

    fn seen(&self, call: u64) -> Option<&Seen> {
        self.calls[call as usize].ended.as_ref().map(|(_, seen)| seen)
    }

    pub fn took_effect(&self, call: u64) -> bool {
        matches!(self.seen(call), Some(Seen::Command { index: Some(_) }))
    }

    pub fn has_read(&self, call: u64) -> bool {
        matches!(self.seen(call), Some(Seen::Read { .. }))
    }

    /// How many calls took effect, were refused, read, and stayed without an answer.
    pub fn counts(&self) -> [usize; 4] {
        let mut counts = [0; 4];
        for call in &self.calls {
            let kind = match &call.ended {
                Some((_, Seen::Command { index: Some(_) })) => 0,
                Some((_, Seen::Command { index: None })) => 1,
                Some((_, Seen::Read { .. })) => 2,
                Some((_, Seen::Nothing)) | None => 3,
            };
            counts[kind] += 1;
        }
        counts
    }

    /// A replica applied entries and has this state now. All replicas must agree, at once and for ever.
    pub fn applied(&mut self, replica: u64, entries: Vec<(u64, Option<Request>)>, state: &State) {
        if entries.is_empty() {
            return;
        }
        for (index, request) in entries {
            let known = self.log.entry(index).or_insert_with(|| request.clone());
            assert_eq!(*known, request, "replica {replica} has another entry {index}");
        }
        let image = state.image();
        let known = self.images.entry(state.applied()).or_insert_with(|| image.clone());
        assert!(*known == image, "replica {replica} has another state at {}", state.applied());
    }

    /// Replays the log with a model, and puts every call at its place.
    pub fn check(&self) {
        let first = self.log.keys().next().copied().unwrap_or(2);
        let mut model = Model::default();
        let mut states = BTreeMap::from([(first - 1, Settings::new())]);
        for (expected, (index, request)) in (first..).zip(&self.log) {
            assert_eq!(expected, *index, "an entry was applied by nobody");
            if let Some(request) = request {
                model.apply(*index, request);
            }
            states.insert(*index, model.settings.clone());
        }
        // Twice the index for a command, one more for a read that saw it.
        let place = |call: &Call| -> Option<u64> {
            match (&call.ended, call.id) {
                (Some((_, Seen::Read { index, .. })), None) => Some(2 * index + 1),
                (_, Some(id)) => model.outcomes.get(&id).map(|(index, _)| 2 * index),
                _ => None,
            }
        };
        for call in &self.calls {
            match &call.ended {
                Some((_, Seen::Command { index })) => {
                    let id = call.id.expect("a command has an id");
                    let Some((at, is_ok)) = model.outcomes.get(&id) else { panic!("{id:?} was answered and is lost") };
                    let is_ok = is_ok.unwrap_or(index.is_some());
                    assert_eq!(*index, is_ok.then_some(*at), "{id:?} at {at} was answered otherwise");
                }
                Some((_, Seen::Read { index, settings })) => {
                    assert_eq!(*settings, states[index], "a read at {index} saw something else");
                }
                Some((_, Seen::Nothing)) | None => {}
            }
        }
        // By time: nothing may come before what had ended when it began.
        let mut begun: Vec<&Call> = self.calls.iter().collect();
        begun.sort_by_key(|call| call.begun);
        let mut ended: Vec<(u64, u64)> =
            self.calls.iter().filter_map(|call| Some((call.answered()?, place(call)?))).collect();
        ended.sort_unstable();
        let (mut ended, mut highest) = (ended.into_iter().peekable(), 0);
        for call in begun {
            while let Some((_, place)) = ended.next_if(|(at, _)| *at < call.begun) {
                highest = highest.max(place);
            }
            let Some(place) = place(call) else { continue };
            let is_read = call.id.is_none();
            assert!(place > highest || (is_read && place == highest), "{call:?} took place before what ended earlier");
        }
    }

    /// Everything in one text, to compare two runs.
    pub fn trace(&self) -> String {
        format!("{:?} {:?}", self.calls, self.log)
    }
}

impl Call {
    fn answered(&self) -> Option<u64> {
        match &self.ended {
            Some((_, Seen::Nothing)) | None => None,
            Some((at, _)) => Some(*at),
        }
    }
}

/// What the commands of the simulation's clients do, written down a second time.
#[derive(Debug, Default)]
struct Model {
    settings: Settings,
    /// Place of the first time, and whether it took effect. Changes of members are judged by Raft's own state, which
    /// the model does not have.
    outcomes: BTreeMap<RequestId, (u64, Option<bool>)>,
}

impl Model {
    fn apply(&mut self, index: u64, request: &Request) {
        if self.outcomes.contains_key(&request.id) {
            return;
        }
        if request.member.is_some() {
            self.outcomes.insert(request.id, (index, None));
            return;
        }
        let mut settings = self.settings.clone();
        let is_ok = request.changes.iter().all(|change| {
            let Object::Setting { name } = change.object() else { panic!("clients change settings only") };
            let found = settings.get(name).map(|(version, _)| *version);
            match change {
                Change::Create { definition, if_exists, .. } => {
                    settings.insert(name.clone(), (index, definition.clone()));
                    found.is_none() || *if_exists == IfExists::Replace
                }
                Change::Alter { definition, expected, .. } => {
                    settings.insert(name.clone(), (index, definition.clone()));
                    found.is_some_and(|found| expected.is_none_or(|expected| expected == found))
                }
                Change::Drop { .. } => settings.remove(name).is_some(),
            }
        });
        if is_ok {
            self.settings = settings;
        }
        self.outcomes.insert(request.id, (index, Some(is_ok)));
    }
}

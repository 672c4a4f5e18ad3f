//! The state machine: what the commands of the log amount to.
//!
//! Deterministic: the same entries give the same state on every coordinator, whatever its clock, locale or build.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
pub use sheaf_common::definitions::{Definitions, Record, Written};

use super::command::{Applied, Object, Outcome, Refusal, Request, RequestId};

/// For how many log entries an outcome is remembered, so that a command sent again gets the same answer.
pub const REMEMBERED_ENTRIES: u64 = 100_000;

/// An outcome that is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remembered {
    pub id: RequestId,
    pub outcome: Outcome,
}

/// What one log entry changes, to be kept in one batch with its index.
#[derive(Debug, Default)]
pub struct Delta {
    pub objects: Written,
    /// By log index; `None` forgets.
    pub remembered: BTreeMap<u64, Option<Remembered>>,
}

/// Everything the cluster agrees on, as of one log index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    applied: u64,
    /// Shared with readers, and copied when one still has it while it is changed.
    definitions: Arc<Definitions>,
    /// By log index, the oldest first.
    remembered: BTreeMap<u64, Remembered>,
    /// Invariant: the ids of `remembered`, with their index.
    ids: BTreeMap<RequestId, u64>,
}

/// A state as it travels in a snapshot and as it is exported.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Image<O, R, M> {
    applied: u64,
    objects: Vec<(O, R)>,
    remembered: Vec<(u64, M)>,
}

impl State {
    /// The state whose parts were read from disk.
    pub fn new(applied: u64, objects: BTreeMap<Object, Arc<Record>>, remembered: BTreeMap<u64, Remembered>) -> Self {
        let ids = remembered.iter().map(|(index, it)| (it.id, *index)).collect();
        Self { applied, definitions: Arc::new(Definitions::new(applied, objects)), remembered, ids }
    }

    /// The last log index in it.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    pub fn definitions(&self) -> &Arc<Definitions> {
        &self.definitions
    }

    pub fn remembered(&self) -> impl Iterator<Item = (u64, &Remembered)> {
        self.remembered.iter().map(|(index, it)| (*index, it))
    }

    /// The whole state as bytes; equal states give equal bytes.
    pub fn image(&self) -> Vec<u8> {
        let objects = self.definitions.objects().map(|(object, record)| (object, record.as_ref())).collect();
        let remembered = self.remembered().collect();
        let image = Image { applied: self.applied, objects, remembered };
        serde_json::to_vec(&image).expect("a state has text keys and no foreign types")
    }

    /// The state of an image, or what is wrong with the bytes.
    pub fn of_image(bytes: &[u8]) -> Result<Self, String> {
        let image: Image<Object, Record, Remembered> =
            serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let objects = image.objects.into_iter().map(|(object, record)| (object, Arc::new(record))).collect();
        Ok(Self::new(image.applied, objects, image.remembered.into_iter().collect()))
    }

    /// What the entry at `index` would answer and change. Nothing is changed yet; see [`State::commit`].
    ///
    /// An id that was seen before gets its first outcome again, and an empty delta.
    pub fn prepare(&self, index: u64, request: &Request) -> (Outcome, Delta) {
        let mut delta = Delta::default();
        if let Some(seen) = self.ids.get(&request.id) {
            return (self.remembered[seen].outcome.clone(), delta);
        }
        if index.saturating_sub(request.since) > REMEMBERED_ENTRIES {
            return (Err(Refusal::Expired), delta);
        }
        let prepared = request.check().and_then(|()| self.definitions.prepare(index, &request.changes));
        let outcome = prepared.map(|(effects, written)| {
            delta.objects = written;
            Applied { index, effects }
        });
        self.remember(index, request.id, outcome.clone(), &mut delta);
        (outcome, delta)
    }

    /// As [`State::prepare`] for a command that something outside the state refused.
    pub fn refuse(&self, index: u64, id: RequestId, refusal: Refusal) -> (Outcome, Delta) {
        let mut delta = Delta::default();
        self.remember(index, id, Err(refusal.clone()), &mut delta);
        (Err(refusal), delta)
    }

    fn remember(&self, index: u64, id: RequestId, outcome: Outcome, delta: &mut Delta) {
        // By index and never by clock, so that all copies forget at the same entry.
        let too_old = index.saturating_sub(REMEMBERED_ENTRIES);
        delta.remembered.extend(self.remembered.range(..too_old).map(|(index, _)| (*index, None)));
        delta.remembered.insert(index, Some(Remembered { id, outcome }));
    }

    /// Makes the entry at `index` part of the state.
    ///
    /// # Panics
    /// When entries come out of order: the copy would differ from all others.
    pub fn commit(&mut self, index: u64, delta: &Delta) {
        assert_eq!(index, self.applied + 1, "log entries are applied one after the other");
        self.applied = index;
        if !delta.objects.is_empty() {
            Arc::make_mut(&mut self.definitions).commit(index, &delta.objects);
        }
        for (index, remembered) in &delta.remembered {
            match remembered {
                Some(it) => {
                    self.ids.insert(it.id, *index);
                    self.remembered.insert(*index, it.clone());
                }
                None => {
                    if let Some(it) = self.remembered.remove(index) {
                        self.ids.remove(&it.id);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::command::{Change, Effect, IfExists, Right};

    /// A state, and the log that made it.
    #[derive(Default)]
    struct Machine {
        state: State,
        sequence: u64,
    }

    impl Machine {
        fn send(&mut self, request: &Request) -> Outcome {
            let index = self.state.applied + 1;
            let (outcome, delta) = self.state.prepare(index, request);
            self.state.commit(index, &delta);
            outcome
        }

        fn request(&mut self, changes: Vec<Change>) -> Request {
            self.sequence += 1;
            let id = RequestId { client: 7, sequence: self.sequence };
            Request { id, since: self.state.applied, changes, member: None }
        }

        fn run(&mut self, changes: Vec<Change>) -> Result<Vec<Effect>, Refusal> {
            let request = self.request(changes);
            self.send(&request).map(|applied| applied.effects)
        }

        fn one(&mut self, change: Change) -> Result<Effect, Refusal> {
            self.run(vec![change]).map(|effects| effects[0])
        }

        fn create(&mut self, object: Object) -> Result<Effect, Refusal> {
            self.one(Change::create(object, "", IfExists::Fail))
        }
    }

    fn relations(machine: &Machine, database: &str) -> usize {
        let all = &machine.state.definitions;
        all.tables(database).count() + all.views(database).count()
    }

    fn view(database: &str, name: &str) -> Object {
        Object::View { database: database.to_owned(), name: name.to_owned() }
    }

    fn user(name: &str) -> Object {
        Object::User { name: name.to_owned() }
    }

    fn role(name: &str) -> Object {
        Object::Role { name: name.to_owned() }
    }

    fn grant(grantee: &str, role: &str) -> Object {
        Object::Grant { grantee: grantee.to_owned(), right: Right::Role { name: role.to_owned() } }
    }

    #[test]
    fn objects_come_and_go() {
        let mut it = Machine::default();
        assert_eq!(it.create(Object::table("d", "t")), Err(Refusal::NotFound { object: Object::database("d") }));
        assert_eq!(it.create(Object::database("d")), Ok(Effect::Created));
        assert_eq!(it.create(Object::table("d", "t")), Ok(Effect::Created));
        assert_eq!(it.create(view("d", "t")), Err(Refusal::Exists { object: Object::table("d", "t") }));
        assert_eq!(it.create(view("d", "v")), Ok(Effect::Created));
        let again = |if_exists| Change::create(Object::table("d", "t"), "2", if_exists);
        assert_eq!(it.one(again(IfExists::Fail)), Err(Refusal::Exists { object: Object::table("d", "t") }));
        assert_eq!(it.one(again(IfExists::Keep)), Ok(Effect::Nothing));
        assert_eq!(it.state.definitions.get(&Object::table("d", "t")).unwrap().definition, "");
        assert_eq!(it.one(again(IfExists::Replace)), Ok(Effect::Replaced));
        assert_eq!(it.state.definitions.get(&Object::table("d", "t")).unwrap().definition, "2");
        assert_eq!(relations(&it, "d"), 2);
        let drop =
            |cascade| Change::Drop { object: Object::database("d"), if_missing_keep: true, cascade, expected: None };
        assert_eq!(it.one(drop(false)), Err(Refusal::NotEmpty { object: Object::database("d"), others: 2 }));
        assert_eq!(it.one(drop(true)), Ok(Effect::Dropped { others: 2 }));
        assert_eq!(it.one(drop(true)), Ok(Effect::Nothing));
        assert_eq!(it.state.definitions.objects().count(), 0);
    }

    #[test]
    fn a_neighbour_with_a_longer_name_is_another_database() {
        let mut it = Machine::default();
        for name in ["a", "ab", "a\u{1}"] {
            it.create(Object::database(name)).unwrap();
            it.create(Object::table(name, "t")).unwrap();
        }
        assert_eq!(relations(&it, "a"), 1);
        assert_eq!(relations(&it, ""), 0);
    }

    #[test]
    fn a_command_is_all_or_nothing() {
        let mut it = Machine::default();
        it.create(Object::database("d")).unwrap();
        let before = it.state.definitions.clone();
        let table = |name: &str| Change::create(Object::table("d", name), "", IfExists::Fail);
        assert!(it.run(vec![table("a"), table("b"), table("a")]).is_err());
        assert_eq!(it.state.definitions, before);
        // Later changes see earlier ones: a rename is one command.
        it.run(vec![table("a"), Change::drop(Object::table("d", "a")), table("b")]).unwrap();
        assert_eq!(relations(&it, "d"), 1);
        let all = vec![
            Change::create(Object::database("e"), "", IfExists::Fail),
            Change::create(Object::table("e", "t"), "", IfExists::Fail),
        ];
        assert_eq!(it.run(all), Ok(vec![Effect::Created, Effect::Created]));
    }

    #[test]
    fn versions_are_compared() {
        let mut it = Machine::default();
        it.create(Object::database("d")).unwrap();
        let table = Object::table("d", "t");
        it.create(table.clone()).unwrap();
        let version = it.state.definitions.get(&table).unwrap().version;
        let commit = |definition: &str| Change::alter(table.clone(), definition, Some(version));
        assert_eq!(it.one(commit("first")), Ok(Effect::Altered));
        let refused = it.one(commit("second"));
        assert_eq!(
            refused,
            Err(Refusal::VersionChanged { object: table.clone(), expected: version, found: version + 1 })
        );
        let record = it.state.definitions.get(&table).unwrap();
        assert_eq!((record.definition.as_str(), record.created), ("first", version));
    }

    #[test]
    fn sealed_databases_take_no_tables() {
        let mut it = Machine::default();
        let sealed = Change::Create {
            object: Object::database("tpch"),
            definition: String::new(),
            if_exists: IfExists::Fail,
            sealed: true,
        };
        it.one(sealed).unwrap();
        assert_eq!(it.create(Object::table("tpch", "t")), Err(Refusal::Sealed { object: Object::database("tpch") }));
    }

    #[test]
    fn grants_live_with_those_who_have_them() {
        let mut it = Machine::default();
        for object in [user("u"), role("r"), role("s")] {
            it.create(object).unwrap();
        }
        assert_eq!(it.create(role("u")), Err(Refusal::Exists { object: user("u") }));
        assert_eq!(it.create(grant("nobody", "r")), Err(Refusal::NotFound { object: user("nobody") }));
        for object in [grant("u", "r"), grant("r", "s")] {
            it.create(object).unwrap();
        }
        assert_eq!(it.create(grant("s", "r")), Err(Refusal::Cycle { role: "s".to_owned() }));
        assert_eq!(it.create(grant("r", "r")), Err(Refusal::Cycle { role: "r".to_owned() }));
        assert_eq!(it.one(Change::drop(role("r"))), Ok(Effect::Dropped { others: 2 }));
        assert_eq!(it.state.definitions.objects().count(), 2);
        // A user can be granted like a role, and takes that along too.
        it.create(user("v")).unwrap();
        it.create(grant("u", "v")).unwrap();
        assert_eq!(it.create(grant("v", "u")), Err(Refusal::Cycle { role: "v".to_owned() }));
        assert_eq!(it.one(Change::drop(user("v"))), Ok(Effect::Dropped { others: 1 }));
    }

    #[test]
    fn grants_of_a_connection_go_with_it_and_those_of_a_table_stay() {
        let mut it = Machine::default();
        let on_connection = Object::grant("u", Right::Connection { name: "c".to_owned() });
        let privilege = |table: &str| Right::Privilege {
            privilege: "SELECT".to_owned(),
            database: Some("d".to_owned()),
            table: Some(table.to_owned()),
        };
        it.create(user("u")).unwrap();
        assert_eq!(it.create(on_connection.clone()), Err(Refusal::NotFound { object: Object::connection("c") }));
        for object in [Object::connection("c"), on_connection.clone(), Object::database("d"), Object::table("d", "t")] {
            it.create(object).unwrap();
        }
        it.create(Object::grant("u", privilege("t"))).unwrap();
        assert_eq!(it.one(Change::drop(Object::connection("c"))), Ok(Effect::Dropped { others: 1 }));
        assert!(it.state.definitions.get(&on_connection).is_none());
        let drop =
            Change::Drop { object: Object::database("d"), if_missing_keep: false, cascade: true, expected: None };
        assert_eq!(it.one(drop), Ok(Effect::Dropped { others: 1 }));
        assert!(it.state.definitions.get(&Object::grant("u", privilege("t"))).is_some());
    }

    #[test]
    fn a_command_sent_twice_is_applied_once() {
        let mut it = Machine::default();
        let request = it.request(vec![Change::create(Object::database("d"), "", IfExists::Fail)]);
        let first = it.send(&request);
        assert!(first.is_ok());
        it.one(Change::drop(Object::database("d"))).unwrap();
        assert_eq!(it.send(&request), first);
        assert!(it.state.definitions.get(&Object::database("d")).is_none());
        // A refusal is an outcome as well: it must not become a yes when sent again.
        let request = it.request(vec![Change::drop(Object::database("d"))]);
        assert!(it.send(&request).is_err());
        it.create(Object::database("d")).unwrap();
        assert!(it.send(&request).is_err());
        assert!(it.state.definitions.get(&Object::database("d")).is_some());
    }

    #[test]
    fn outcomes_are_forgotten_by_index_and_never_applied_again() {
        let mut it = Machine::default();
        let request = it.request(vec![Change::create(Object::setting("a"), "1", IfExists::Replace)]);
        it.send(&request).unwrap();
        let first = it.state.applied;
        for _ in 0..=REMEMBERED_ENTRIES {
            it.one(Change::create(Object::setting("b"), "1", IfExists::Replace)).unwrap();
        }
        assert!(it.state.remembered.len() as u64 <= REMEMBERED_ENTRIES + 1);
        assert!(!it.state.remembered.contains_key(&first));
        assert_eq!(it.state.ids.len(), it.state.remembered.len());
        assert_eq!(it.send(&request), Err(Refusal::Expired));
    }

    #[test]
    fn names_are_checked() {
        let mut it = Machine::default();
        for name in ["", "a\0b", &"x".repeat(1025)] {
            assert!(matches!(it.create(Object::database(name)), Err(Refusal::Invalid { .. })), "{name:?}");
        }
        assert!(matches!(it.run(vec![]), Err(Refusal::Invalid { .. })));
    }

    #[test]
    fn an_image_gives_the_state_back() {
        let mut it = Machine::default();
        it.create(Object::database("d")).unwrap();
        let _ = it.create(Object::database("d"));
        it.create(user("u")).unwrap();
        let image = it.state.image();
        assert_eq!(State::of_image(&image).unwrap(), it.state);
        assert!(State::of_image(&image[..image.len() - 1]).is_err());
    }
}

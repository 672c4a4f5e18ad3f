//! What changes amount to: every object with its definition, and how a change is decided.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, OnceLock};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Change, Effect, IfExists, Object, Refusal, Right};

/// An object as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Log index of the last change.
    pub version: u64,
    /// Log index of the creation.
    pub created: u64,
    pub definition: String,
    #[serde(default)]
    pub sealed: bool,
    #[serde(skip)]
    parsed: Parsed,
}

impl Record {
    /// A record of the change at `index`.
    fn new(index: u64, definition: &str, sealed: bool) -> Self {
        let definition = definition.to_owned();
        Self { version: index, created: index, definition, sealed, parsed: Parsed::default() }
    }

    /// The definition, which must be the JSON of a `T`. Read once: later calls for the same type share what came of it.
    ///
    /// Errs with the reason when it is none.
    pub fn parsed<T: DeserializeOwned + Send + Sync + 'static>(&self) -> Result<Arc<T>, String> {
        if let Some(Ok(known)) = self.parsed.0.get().map(|it| Arc::clone(it).downcast::<T>()) {
            return Ok(known);
        }
        let parsed: T = serde_json::from_str(&self.definition).map_err(|error| error.to_string())?;
        let parsed = Arc::new(parsed);
        // Another type was asked for before, or another thread was faster: then this one is not kept.
        let _ = self.parsed.0.set(Arc::clone(&parsed) as _);
        Ok(parsed)
    }
}

/// What a definition was read as. No part of a record's value.
#[derive(Default)]
struct Parsed(OnceLock<Arc<dyn Any + Send + Sync>>);

impl Clone for Parsed {
    /// Empty: whoever clones a record changes its definition.
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for Parsed {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Parsed {}

impl fmt::Debug for Parsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.get().is_some() { "read" } else { "not read" })
    }
}

/// What a command writes; `None` removes.
pub type Written = BTreeMap<Object, Option<Arc<Record>>>;

/// All objects as of one moment. Two are equal when they have the same objects.
#[derive(Debug, Clone, Default)]
pub struct Definitions {
    /// Log index of the last change; goes up with every change, also with one that leaves no object behind.
    version: u64,
    objects: BTreeMap<Object, Arc<Record>>,
}

impl PartialEq for Definitions {
    fn eq(&self, other: &Self) -> bool {
        self.objects == other.objects
    }
}

impl Eq for Definitions {}

impl Definitions {
    /// Those that were kept somewhere, as of log index `version`.
    pub fn new(version: u64, objects: BTreeMap<Object, Arc<Record>>) -> Self {
        Self { version, objects }
    }

    /// Goes up with every change: what was derived from one version need not be derived again.
    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn get(&self, object: &Object) -> Option<&Arc<Record>> {
        self.objects.get(object)
    }

    /// The same, with the object as it is kept.
    pub fn get_with_key(&self, object: &Object) -> Option<(&Object, &Arc<Record>)> {
        self.objects.get_key_value(object)
    }

    /// Everything, ordered by kind, then by name.
    pub fn objects(&self) -> impl Iterator<Item = (&Object, &Arc<Record>)> {
        self.objects.iter()
    }

    pub fn databases(&self) -> impl Iterator<Item = (&str, &Arc<Record>)> {
        self.after(Object::database("")).map_while(|(object, record)| match object {
            Object::Database { name } => Some((name.as_str(), record)),
            _ => None,
        })
    }

    /// Tables of a database, by name.
    pub fn tables<'a>(&'a self, database: &'a str) -> impl Iterator<Item = (&'a str, &'a Arc<Record>)> {
        self.after(Object::table(database, "")).map_while(move |(object, record)| match object {
            Object::Table { database: of, name } if of == database => Some((name.as_str(), record)),
            _ => None,
        })
    }

    /// Views of a database, by name.
    pub fn views<'a>(&'a self, database: &'a str) -> impl Iterator<Item = (&'a str, &'a Arc<Record>)> {
        let first = Object::View { database: database.to_owned(), name: String::new() };
        self.after(first).map_while(move |(object, record)| match object {
            Object::View { database: of, name } if of == database => Some((name.as_str(), record)),
            _ => None,
        })
    }

    pub fn users(&self) -> impl Iterator<Item = (&str, &Arc<Record>)> {
        self.after(Object::User { name: String::new() }).map_while(|(object, record)| match object {
            Object::User { name } => Some((name.as_str(), record)),
            _ => None,
        })
    }

    pub fn roles(&self) -> impl Iterator<Item = (&str, &Arc<Record>)> {
        self.after(Object::Role { name: String::new() }).map_while(|(object, record)| match object {
            Object::Role { name } => Some((name.as_str(), record)),
            _ => None,
        })
    }

    /// The rights of a user or a role, without those of its roles.
    pub fn grants_of<'a>(&'a self, grantee: &'a str) -> impl Iterator<Item = (&'a Right, &'a Arc<Record>)> {
        // The least right of all.
        let right = Right::Privilege { privilege: String::new(), database: None, table: None };
        let first = Object::Grant { grantee: grantee.to_owned(), right };
        self.after(first).map_while(move |(object, record)| match object {
            Object::Grant { grantee: of, right } if of == grantee => Some((right, record)),
            _ => None,
        })
    }

    /// Global settings that differ from their defaults.
    pub fn settings(&self) -> impl Iterator<Item = (&str, &Arc<Record>)> {
        self.after(Object::setting("")).map_while(|(object, record)| match object {
            Object::Setting { name } => Some((name.as_str(), record)),
            _ => None,
        })
    }

    pub fn connections(&self) -> impl Iterator<Item = (&str, &Arc<Record>)> {
        self.after(Object::Connection { name: String::new() }).map_while(|(object, record)| match object {
            Object::Connection { name } => Some((name.as_str(), record)),
            _ => None,
        })
    }

    pub fn nodes(&self) -> impl Iterator<Item = (&str, &Arc<Record>)> {
        self.after(Object::node("")).map_while(|(object, record)| match object {
            Object::Node { name } => Some((name.as_str(), record)),
            _ => None,
        })
    }

    fn after(&self, first: Object) -> impl Iterator<Item = (&Object, &Arc<Record>)> {
        self.objects.range(first..)
    }

    /// What changes at `index` would answer and write, all of them or none. Nothing is changed yet; see
    /// [`Definitions::commit`].
    pub fn prepare(&self, index: u64, changes: &[Change]) -> Result<(Vec<Effect>, Written), Refusal> {
        Change::check(changes)?;
        let mut draft = Draft { index, state: self, written: BTreeMap::new() };
        let effects = changes.iter().map(|change| draft.change(change)).collect::<Result<Vec<_>, _>>()?;
        Ok((effects, draft.written))
    }

    /// Makes what [`Definitions::prepare`] gave at `index` part of the whole.
    pub fn commit(&mut self, index: u64, written: &Written) {
        if written.is_empty() {
            return;
        }
        self.version = index;
        for (object, record) in written {
            match record {
                Some(record) => self.objects.insert(object.clone(), Arc::clone(record)),
                None => self.objects.remove(object),
            };
        }
    }
}

/// The changes of one command over a state that is left alone until all of them are found good.
struct Draft<'a> {
    index: u64,
    state: &'a Definitions,
    written: Written,
}

impl Draft<'_> {
    fn get(&self, object: &Object) -> Option<&Arc<Record>> {
        match self.written.get(object) {
            Some(record) => record.as_ref(),
            None => self.state.get(object),
        }
    }

    fn has(&self, object: &Object) -> bool {
        self.get(object).is_some()
    }

    /// All objects as the command sees them.
    fn matching(&self, wanted: impl Fn(&Object) -> bool) -> BTreeSet<Object> {
        let before = self.state.objects.keys().filter(|object| !self.written.contains_key(*object));
        let written = self.written.iter().filter(|(_, record)| record.is_some()).map(|(object, _)| object);
        before.chain(written).filter(|object| wanted(object)).cloned().collect()
    }

    fn change(&mut self, change: &Change) -> Result<Effect, Refusal> {
        match change {
            Change::Create { object, definition, if_exists, sealed } => {
                self.check_place(object)?;
                let before = self.get(object).cloned();
                match (&before, if_exists) {
                    (Some(_), IfExists::Fail) => return Err(Refusal::Exists { object: object.clone() }),
                    (Some(_), IfExists::Keep) => return Ok(Effect::Nothing),
                    (Some(_), IfExists::Replace) | (None, _) => {}
                }
                let record = Record::new(self.index, definition, *sealed);
                self.written.insert(object.clone(), Some(Arc::new(record)));
                Ok(if before.is_some() { Effect::Replaced } else { Effect::Created })
            }
            Change::Alter { object, definition, expected } => {
                let Some(before) = self.get(object) else {
                    return Err(Refusal::NotFound { object: object.clone() });
                };
                check_version(object, before, *expected)?;
                let record = Record { version: self.index, definition: definition.clone(), ..before.as_ref().clone() };
                self.written.insert(object.clone(), Some(Arc::new(record)));
                Ok(Effect::Altered)
            }
            Change::Drop { object, if_missing_keep, cascade, expected } => {
                let Some(before) = self.get(object) else {
                    return match if_missing_keep {
                        true => Ok(Effect::Nothing),
                        false => Err(Refusal::NotFound { object: object.clone() }),
                    };
                };
                check_version(object, before, *expected)?;
                let others = self.dependents(object);
                let n_others = others.len() as u64;
                if matches!(object, Object::Database { .. }) && !others.is_empty() && !cascade {
                    return Err(Refusal::NotEmpty { object: object.clone(), others: n_others });
                }
                self.written.extend(others.into_iter().chain([object.clone()]).map(|gone| (gone, None)));
                Ok(Effect::Dropped { others: n_others })
            }
        }
    }

    /// Whether what an object needs is there, and no object of another kind has its name.
    fn check_place(&self, object: &Object) -> Result<(), Refusal> {
        let rival = match object {
            Object::Table { database, name } | Object::View { database, name } => {
                let place = Object::database(database);
                match self.get(&place) {
                    None => return Err(Refusal::NotFound { object: place }),
                    Some(record) if record.sealed => return Err(Refusal::Sealed { object: place }),
                    Some(_) => {}
                }
                let (database, name) = (database.clone(), name.clone());
                match object {
                    Object::Table { .. } => Object::View { database, name },
                    _ => Object::Table { database, name },
                }
            }
            Object::User { name } => Object::Role { name: name.clone() },
            Object::Role { name } => Object::User { name: name.clone() },
            Object::Grant { grantee, right } => return self.check_grant(grantee, right),
            Object::Database { .. } | Object::Setting { .. } | Object::Connection { .. } | Object::Node { .. } => {
                return Ok(());
            }
        };
        match self.has(&rival) {
            true => Err(Refusal::Exists { object: rival }),
            false => Ok(()),
        }
    }

    fn check_grant(&self, grantee: &str, right: &Right) -> Result<(), Refusal> {
        let user = Object::user(grantee);
        if !self.has(&user) && !self.has(&Object::role(grantee)) {
            return Err(Refusal::NotFound { object: user });
        }
        let name = match right {
            Right::Privilege { .. } => return Ok(()),
            Right::Connection { name } => {
                let connection = Object::connection(name);
                return match self.has(&connection) {
                    true => Ok(()),
                    false => Err(Refusal::NotFound { object: connection }),
                };
            }
            Right::Role { name } => name,
        };
        let role = Object::role(name);
        if !self.has(&role) && !self.has(&Object::user(name)) {
            return Err(Refusal::NotFound { object: role });
        }
        // Whoever checks a right walks from role to role, and must come to an end.
        let (mut seen, mut open) = (BTreeSet::new(), vec![name.clone()]);
        while let Some(role) = open.pop() {
            if role == grantee {
                return Err(Refusal::Cycle { role });
            }
            if seen.insert(role.clone()) {
                let is_role_of = |it: &Object| match it {
                    Object::Grant { grantee, right: Right::Role { .. } } => *grantee == role,
                    _ => false,
                };
                open.extend(self.matching(is_role_of).into_iter().filter_map(|it| match it {
                    Object::Grant { right: Right::Role { name }, .. } => Some(name),
                    _ => None,
                }));
            }
        }
        Ok(())
    }

    /// What goes when an object goes.
    fn dependents(&self, object: &Object) -> BTreeSet<Object> {
        match object {
            Object::Database { name } => self.matching(
                |it| matches!(it, Object::Table { database, .. } | Object::View { database, .. } if database == name),
            ),
            Object::User { name } | Object::Role { name } => self.matching(|it| match it {
                Object::Grant { grantee, right: Right::Role { name: role } } => grantee == name || role == name,
                Object::Grant { grantee, .. } => grantee == name,
                _ => false,
            }),
            Object::Connection { name } => self.matching(
                |it| matches!(it, Object::Grant { right: Right::Connection { name: used }, .. } if used == name),
            ),
            Object::Table { .. }
            | Object::View { .. }
            | Object::Grant { .. }
            | Object::Setting { .. }
            | Object::Node { .. } => BTreeSet::new(),
        }
    }
}

fn check_version(object: &Object, record: &Record, expected: Option<u64>) -> Result<(), Refusal> {
    match expected {
        Some(expected) if expected != record.version => {
            Err(Refusal::VersionChanged { object: object.clone(), expected, found: record.version })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Text {
        text: String,
    }

    fn commit(definitions: &mut Definitions, index: u64, change: Change) {
        let (_, written) = definitions.prepare(index, &[change]).unwrap();
        definitions.commit(index, &written);
    }

    #[test]
    fn definitions_are_read_once() {
        let mut all = Definitions::default();
        commit(&mut all, 1, Change::create(Object::setting("a"), r#"{"text": "x"}"#, IfExists::Fail));
        let record = Arc::clone(all.get(&Object::setting("a")).unwrap());
        let first = record.parsed::<Text>().unwrap();
        assert_eq!(*first, Text { text: "x".to_owned() });
        assert!(Arc::ptr_eq(&first, &record.parsed::<Text>().unwrap()));
        assert!(record.parsed::<u64>().is_err());
        commit(&mut all, 2, Change::alter(Object::setting("a"), r#"{"text": "y"}"#, Some(1)));
        assert_eq!(all.get(&Object::setting("a")).unwrap().parsed::<Text>().unwrap().text, "y");
    }

    #[test]
    fn kinds_are_told_apart() {
        let mut all = Definitions::default();
        let user = |name: &str| Object::User { name: name.to_owned() };
        let grant = |grantee: &str, privilege: &str, database: Option<&str>| Object::Grant {
            grantee: grantee.to_owned(),
            right: Right::Privilege {
                privilege: privilege.to_owned(),
                database: database.map(str::to_owned),
                table: None,
            },
        };
        let objects = [
            Object::database("d"),
            Object::database("d2"),
            Object::table("d", "t"),
            Object::table("d2", "t2"),
            Object::View { database: "d".to_owned(), name: "v".to_owned() },
            user("u"),
            user("u2"),
            grant("u", "SELECT", None),
            grant("u", "SELECT", Some("d")),
            grant("u2", "SELECT", None),
            Object::setting("s"),
            Object::Connection { name: "c".to_owned() },
            Object::node("n"),
        ];
        let objects: Vec<Object> = [objects.to_vec(), vec![Object::Role { name: "r".to_owned() }]].concat();
        for (index, object) in (1..).zip(objects) {
            commit(&mut all, index, Change::create(object, "", IfExists::Fail));
        }
        assert_eq!(all.databases().map(|(name, _)| name).collect::<Vec<_>>(), ["d", "d2"]);
        assert_eq!(all.tables("d").map(|(name, _)| name).collect::<Vec<_>>(), ["t"]);
        assert_eq!(all.views("d").map(|(name, _)| name).collect::<Vec<_>>(), ["v"]);
        assert_eq!((all.views("d2").count(), all.tables("none").count()), (0, 0));
        assert_eq!((all.users().count(), all.roles().count(), all.settings().count()), (2, 1, 1));
        assert_eq!((all.connections().count(), all.nodes().count()), (1, 1));
        assert_eq!((all.grants_of("u").count(), all.grants_of("u2").count(), all.grants_of("r").count()), (2, 1, 0));
        assert_eq!(all.version(), 14);
    }
}

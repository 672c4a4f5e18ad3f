//! MySQL's privileges: their names, and on what each can be granted.

use std::fmt;
use std::ops::{BitAnd, BitOr, BitOrAssign, Sub};
use std::sync::LazyLock;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Where a privilege holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Column,
    Table,
    Database,
    Global,
}

macro_rules! privileges {
    ($($variant:ident $name:literal $level:ident,)*) => {
        /// Each with the least level on which it can be granted, in the order in which MySQL writes them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Privilege {
            $($variant,)*
        }

        impl Privilege {
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// As SQL writes it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The least level on which it can be granted; on all above too.
            pub fn level(self) -> Level {
                match self { $(Self::$variant => Level::$level,)* }
            }
        }
    };
}

privileges! {
    Select "SELECT" Column,
    Insert "INSERT" Column,
    Update "UPDATE" Column,
    Delete "DELETE" Table,
    Create "CREATE" Table,
    Drop "DROP" Table,
    Reload "RELOAD" Global,
    Shutdown "SHUTDOWN" Global,
    Process "PROCESS" Global,
    File "FILE" Global,
    References "REFERENCES" Column,
    Index "INDEX" Table,
    Alter "ALTER" Table,
    ShowDatabases "SHOW DATABASES" Global,
    Super "SUPER" Global,
    CreateTemporaryTables "CREATE TEMPORARY TABLES" Database,
    LockTables "LOCK TABLES" Database,
    Execute "EXECUTE" Database,
    ReplicationSlave "REPLICATION SLAVE" Global,
    ReplicationClient "REPLICATION CLIENT" Global,
    CreateView "CREATE VIEW" Table,
    ShowView "SHOW VIEW" Table,
    CreateRoutine "CREATE ROUTINE" Database,
    AlterRoutine "ALTER ROUTINE" Database,
    CreateUser "CREATE USER" Global,
    Event "EVENT" Database,
    Trigger "TRIGGER" Table,
    CreateTablespace "CREATE TABLESPACE" Global,
    CreateRole "CREATE ROLE" Global,
    DropRole "DROP ROLE" Global,
    // What MySQL calls dynamic privileges; only those that something here asks for.
    ConnectionAdmin "CONNECTION_ADMIN" Global,
    RoleAdmin "ROLE_ADMIN" Global,
    SetAnyDefiner "SET_ANY_DEFINER" Global,
    SystemUser "SYSTEM_USER" Global,
    SystemVariablesAdmin "SYSTEM_VARIABLES_ADMIN" Global,
    // Not among those of ALL.
    GrantOption "GRANT OPTION" Table,
}

impl Privilege {
    /// By its name in capitals.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|it| it.name() == name)
    }

    /// Whether `SHOW GRANTS` gives it a line apart.
    pub fn is_dynamic(self) -> bool {
        self.name().contains('_')
    }

    fn bit(self) -> u64 {
        1 << self as u32
    }
}

/// A set of privileges.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Privileges(u64);

impl Privileges {
    pub const NONE: Self = Self(0);

    /// What `ALL PRIVILEGES` means on a level.
    pub fn all_of(level: Level) -> Self {
        let granted = |it: &&Privilege| it.level() <= level && **it != Privilege::GrantOption;
        Privilege::ALL.iter().filter(granted).copied().collect()
    }

    pub fn has(self, privilege: Privilege) -> bool {
        self.0 & privilege.bit() != 0
    }

    pub fn has_any(self, of: &[Privilege]) -> bool {
        of.iter().any(|it| self.has(*it))
    }

    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether nothing is left but what says nothing of any database.
    pub fn is_global_only(self) -> bool {
        // Made once: lists ask for each of many tables.
        static OF_DATABASES: LazyLock<Privileges> = LazyLock::new(|| {
            let is_of_database = |it: &Privilege| it.level() != Level::Global && *it != Privilege::GrantOption;
            Privilege::ALL.iter().copied().filter(is_of_database).collect()
        });
        (self & *OF_DATABASES).is_empty()
    }

    /// In MySQL's order.
    pub fn iter(self) -> impl Iterator<Item = Privilege> {
        Privilege::ALL.iter().copied().filter(move |it| self.has(*it))
    }

    pub fn with(self, privilege: Privilege) -> Self {
        Self(self.0 | privilege.bit())
    }

    pub fn without(self, privilege: Privilege) -> Self {
        Self(self.0 & !privilege.bit())
    }

    /// Their names, joined.
    pub fn names(self) -> String {
        self.iter().map(Privilege::name).collect::<Vec<_>>().join(", ")
    }
}

impl FromIterator<Privilege> for Privileges {
    fn from_iter<I: IntoIterator<Item = Privilege>>(all: I) -> Self {
        all.into_iter().fold(Self::NONE, Self::with)
    }
}

impl From<Privilege> for Privileges {
    fn from(privilege: Privilege) -> Self {
        Self(privilege.bit())
    }
}

impl BitOr for Privileges {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitAnd for Privileges {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl BitOrAssign for Privileges {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl Sub for Privileges {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl fmt::Debug for Privileges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{}}}", self.names())
    }
}

/// By name, so that what is kept does not depend on their order here.
impl Serialize for Privileges {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(Privilege::name))
    }
}

/// One that this version does not know is an error: dropping it in silence would take a right away.
impl<'de> Deserialize<'de> for Privileges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let names = Vec::<String>::deserialize(deserializer)?;
        let known = |name: &String| {
            Privilege::of_name(name).ok_or_else(|| D::Error::custom(format!("unknown privilege {name:?}")))
        };
        names.iter().map(known).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_kept_by_names() {
        let set: Privileges = [Privilege::Select, Privilege::ShowView, Privilege::GrantOption].into_iter().collect();
        let text = serde_json::to_string(&set).unwrap();
        assert_eq!(text, r#"["SELECT","SHOW VIEW","GRANT OPTION"]"#);
        assert_eq!(serde_json::from_str::<Privileges>(&text).unwrap(), set);
        assert!(serde_json::from_str::<Privileges>(r#"["FLY"]"#).is_err());
    }

    #[test]
    fn all_means_what_a_level_has() {
        assert_eq!(Privileges::all_of(Level::Column).names(), "SELECT, INSERT, UPDATE, REFERENCES");
        assert_eq!(
            Privileges::all_of(Level::Table).names(),
            "SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, REFERENCES, INDEX, ALTER, CREATE VIEW, SHOW VIEW, TRIGGER"
        );
        assert!(!Privileges::all_of(Level::Global).has(Privilege::GrantOption));
        assert!(!Privileges::all_of(Level::Database).has(Privilege::File));
        assert!(Privilege::ALL.len() <= 64);
    }
}

//! What a statement created, as it is kept.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use serde::{Deserialize, Serialize};
use sheaf_planners::generator::TpchTable;
use sheaf_planners::generator::tpch::exact_scale;
use sheaf_planners::parser::is_secret_name;

use super::CatalogError;
use super::connection::OPTION;
use crate::managed::definition::ManagedDef;
use crate::tables::analyzed::TableStatistics;
use crate::tables::external::FilesDef;

/// A database. Its tables have definitions of their own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DatabaseDef {
    pub name: String,
    pub engine: DatabaseEngine,
    /// Milliseconds since 1970; `None` for the one that always is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_ms: Option<i64>,
}

impl DatabaseDef {
    pub fn new(name: &str, engine: DatabaseEngine, created_ms: Option<i64>) -> Self {
        Self { name: name.to_owned(), engine, created_ms }
    }
}

/// Where a database's tables come from.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DatabaseEngine {
    /// From statements.
    Default,
    /// The eight tables of TPC-H, generated when they are read.
    Tpch {
        #[serde(with = "exact_scale")]
        scale: f64,
    },
}

impl DatabaseEngine {
    /// Reads `ENGINE = name(option = value, …)`. Names are not case-sensitive.
    pub fn parse(name: &str, options: &[(String, String)]) -> Result<Self, CatalogError> {
        let wrong = |reason: String| Err(CatalogError::Engine { reason });
        let engine = match name.to_ascii_lowercase().as_str() {
            "default" | "atomic" => Self::Default,
            "tpch" => Self::Tpch { scale: 1.0 },
            _ => return wrong(format!("there is no engine '{name}'")),
        };
        let mut engine = engine;
        for (option, value) in options {
            match (&mut engine, option.to_ascii_lowercase().as_str()) {
                (Self::Tpch { scale }, "scale") => match value.trim().parse() {
                    Ok(value) => *scale = value,
                    Err(_) => return wrong(format!("scale '{value}' is not a number")),
                },
                _ => return wrong(format!("engine '{name}' has no option '{option}'")),
            }
        }
        engine.check()?;
        Ok(engine)
    }

    pub(super) fn check(&self) -> Result<(), CatalogError> {
        match self {
            Self::Tpch { scale } if !TpchTable::SCALES.contains(scale) => {
                let (min, max) = (TpchTable::SCALES.start(), TpchTable::SCALES.end());
                Err(CatalogError::Engine { reason: format!("scale {scale} is not between {min} and {max}") })
            }
            Self::Tpch { .. } | Self::Default => Ok(()),
        }
    }
}

impl fmt::Display for DatabaseEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("Default"),
            Self::Tpch { scale } => write!(f, "TPCH(scale = {scale})"),
        }
    }
}

/// A table that a statement created.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableDef {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_ms: Option<i64>,
    /// What ANALYZE TABLE found out. Versions that do not know it pass over it.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "shared")]
    pub statistics: Option<Arc<TableStatistics>>,
    #[serde(flatten)]
    pub source: TableSource,
}

/// What a definition shares with those who use it.
mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<T: Serialize, S: Serializer>(value: &Option<Arc<T>>, serializer: S) -> Result<S::Ok, S::Error> {
        value.as_deref().serialize(serializer)
    }

    pub fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Arc<T>>, D::Error> {
        Ok(Option::deserialize(deserializer)?.map(Arc::new))
    }
}

/// Where a table's rows are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TableSource {
    /// In files that others wrote.
    Files(FilesDef),
    /// In a Delta Lake table of ours.
    Managed(ManagedDef),
}

impl TableDef {
    pub fn new(name: &str, files: FilesDef) -> Self {
        Self::of(name, TableSource::Files(files))
    }

    pub fn managed(name: &str, def: ManagedDef) -> Self {
        Self::of(name, TableSource::Managed(def))
    }

    fn of(name: &str, source: TableSource) -> Self {
        Self { name: name.to_owned(), created_ms: None, statistics: None, source }
    }

    /// The table's columns.
    pub fn schema(&self) -> SchemaRef {
        match &self.source {
            TableSource::Files(files) => files.schema(),
            TableSource::Managed(def) => def.schema(),
        }
    }

    /// What is said of the table where its engine is asked for.
    pub fn engine(&self) -> &'static str {
        match &self.source {
            TableSource::Files(files) => files.format.name(),
            TableSource::Managed(_) => "DELTA",
        }
    }

    /// The exact name of the stored connection that the table's files are read with.
    pub fn connection(&self) -> Option<&str> {
        match &self.source {
            TableSource::Files(files) => files.connection.as_deref(),
            TableSource::Managed(_) => None,
        }
    }

    /// Paths, patterns or the URL of where the rows are.
    pub fn locations(&self) -> String {
        match &self.source {
            TableSource::Files(files) => files.locations.join(", "),
            TableSource::Managed(def) => def.location.clone(),
        }
    }

    /// The statement that creates the table, in our own syntax.
    pub fn create_statement(&self) -> String {
        let files = match &self.source {
            TableSource::Files(files) => files,
            TableSource::Managed(def) => return def.create_statement(&self.name),
        };
        let quoted = |text: &str| format!("`{}`", text.replace('`', "``"));
        let text = |text: &str| format!("'{}'", text.replace('\'', "''"));
        let locations: Vec<_> = files.locations.iter().map(|it| text(it)).collect();
        let location = match locations.as_slice() {
            [one] => one.clone(),
            many => format!("({})", many.join(", ")),
        };
        let mut sql = format!("CREATE EXTERNAL TABLE {} STORED AS {}", quoted(&self.name), files.format.name());
        if !files.partitions.is_empty() {
            let names: Vec<_> = files.partitions.iter().map(|column| quoted(&column.name)).collect();
            sql += &format!(" PARTITIONED BY ({})", names.join(", "));
        }
        sql += &format!(" LOCATION {location}");
        let shown = |name: &String, value: &String| if is_secret_name(name) { "***".to_owned() } else { value.clone() };
        let store = files.store.0.iter().map(|(name, value)| (name, shown(name, value)));
        let format = files.options.iter().map(|(name, value)| (name, value.clone()));
        let connection = files.connection.iter().map(|name| (OPTION.to_owned(), name.clone()));
        let named = store.chain(format).map(|(name, value)| (name.clone(), value));
        let options: Vec<_> = connection.chain(named).collect();
        if !options.is_empty() {
            let options = options.iter().map(|(name, value)| format!("{} {}", text(name), text(value)));
            sql += &format!(" OPTIONS ({})", options.collect::<Vec<_>>().join(", "));
        }
        sql
    }
}

/// A definition as it is kept.
///
/// Errs when a value has no form as JSON.
pub(super) fn text_of(definition: &impl Serialize) -> Result<String, CatalogError> {
    let unwritable = |error: serde_json::Error| CatalogError::Unreadable {
        object: "a new definition".to_owned(),
        reason: error.to_string(),
    };
    serde_json::to_string(definition).map_err(unwritable)
}

#[cfg(test)]
mod tests {
    use super::super::tests::table;
    use super::*;

    #[test]
    fn engines_are_read_from_sql() {
        let options = |value: &str| vec![("Scale".to_owned(), value.to_owned())];
        assert_eq!(DatabaseEngine::parse("TPCH", &options("0.5")).unwrap(), DatabaseEngine::Tpch { scale: 0.5 });
        assert_eq!(DatabaseEngine::parse("Default", &[]).unwrap(), DatabaseEngine::Default);
        for (name, options) in
            [("InnoDB", vec![]), ("tpch", options("x")), ("tpch", options("-1")), ("default", options("1"))]
        {
            assert!(matches!(DatabaseEngine::parse(name, &options), Err(CatalogError::Engine { .. })), "{name}");
        }
    }

    #[test]
    fn definitions_read_back() {
        let database = DatabaseDef::new("d", DatabaseEngine::Tpch { scale: 0.1 }, Some(7));
        assert_eq!(serde_json::from_str::<DatabaseDef>(&text_of(&database).unwrap()).unwrap(), database);
        let text = text_of(&table("t")).unwrap();
        assert_eq!(serde_json::from_str::<TableDef>(&text).unwrap(), table("t"));
        assert!(text.contains(r#""type":"Int64""#) && !text.contains("statistics"), "{text}");
        let statistics = TableStatistics { rows: 7, ..TableStatistics::default() };
        let analyzed = TableDef { statistics: Some(Arc::new(statistics)), ..table("t") };
        assert_eq!(serde_json::from_str::<TableDef>(&text_of(&analyzed).unwrap()).unwrap(), analyzed);
        // What is not known, of a newer version say, is passed over.
        let newer = text.replacen('{', r#"{"later":{"a":1},"#, 1);
        assert_eq!(serde_json::from_str::<TableDef>(&newer).unwrap(), table("t"));
    }

    #[test]
    fn a_table_tells_how_it_was_made() {
        let mut it = table("a`b");
        let TableSource::Files(files) = &mut it.source else { panic!("{it:?}") };
        files.options.insert("format.delimiter".into(), "'".into());
        let expected = "CREATE EXTERNAL TABLE `a``b` STORED AS PARQUET LOCATION '/nowhere' \
                        OPTIONS ('format.delimiter' '''')";
        assert_eq!(it.create_statement(), expected);
        let TableSource::Files(files) = &mut it.source else { panic!("{it:?}") };
        files.options.clear();
        files.store.0.insert("s3.secret_access_key".into(), "hush".into());
        files.store.0.insert("s3.region".into(), "here".into());
        let statement = it.create_statement();
        assert!(statement.ends_with("OPTIONS ('s3.region' 'here', 's3.secret_access_key' '***')"), "{statement}");
        assert!(!format!("{it:?}").contains("hush"));
    }
}

//! What a statement created, as it is kept.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sheaf_planners::generator::TpchTable;
use sheaf_planners::generator::tpch::exact_scale;

use super::CatalogError;
use crate::tables::external::FilesDef;

/// A database and its tables.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DatabaseDef {
    pub name: String,
    pub engine: DatabaseEngine,
    /// Milliseconds since 1970; `None` for the one that always is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_ms: Option<i64>,
    /// By name. Invariant: empty unless the engine is `Default`.
    #[serde(default, with = "by_name")]
    pub tables: BTreeMap<String, Arc<TableDef>>,
}

impl DatabaseDef {
    pub fn new(name: &str, engine: DatabaseEngine, created_ms: Option<i64>) -> Self {
        Self { name: name.to_owned(), engine, created_ms, tables: BTreeMap::new() }
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
    pub files: FilesDef,
}

impl TableDef {
    pub fn new(name: &str, files: FilesDef) -> Self {
        Self { name: name.to_owned(), created_ms: None, files }
    }

    /// The statement that creates the table, in our own syntax.
    pub fn create_statement(&self) -> String {
        let quoted = |text: &str| format!("`{}`", text.replace('`', "``"));
        let text = |text: &str| format!("'{}'", text.replace('\'', "''"));
        let locations: Vec<_> = self.files.locations.iter().map(|it| text(it)).collect();
        let location = match locations.as_slice() {
            [one] => one.clone(),
            many => format!("({})", many.join(", ")),
        };
        let mut sql = format!("CREATE EXTERNAL TABLE {} STORED AS {}", quoted(&self.name), self.files.format.name());
        if !self.files.partitions.is_empty() {
            let names: Vec<_> = self.files.partitions.iter().map(|column| quoted(&column.name)).collect();
            sql += &format!(" PARTITIONED BY ({})", names.join(", "));
        }
        sql += &format!(" LOCATION {location}");
        if !self.files.options.is_empty() {
            let options = self.files.options.iter().map(|(name, value)| format!("{} {}", text(name), text(value)));
            sql += &format!(" OPTIONS ({})", options.collect::<Vec<_>>().join(", "));
        }
        sql
    }
}

/// Tables as a list: their names stand in them already.
mod by_name {
    use super::*;

    pub fn serialize<S: serde::Serializer>(
        tables: &BTreeMap<String, Arc<TableDef>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(tables.values().map(AsRef::as_ref))
    }

    pub fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<String, Arc<TableDef>>, D::Error> {
        let tables = Vec::<TableDef>::deserialize(deserializer)?;
        Ok(tables.into_iter().map(|table| (table.name.clone(), Arc::new(table))).collect())
    }
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
        let mut database = DatabaseDef::new("d", DatabaseEngine::Tpch { scale: 0.1 }, Some(7));
        database.tables.insert("t".to_owned(), Arc::new(table("t")));
        let text = serde_json::to_string(&database).unwrap();
        assert_eq!(serde_json::from_str::<DatabaseDef>(&text).unwrap(), database);
        assert!(text.contains(r#""type":"Int64""#), "{text}");
    }

    #[test]
    fn a_table_tells_how_it_was_made() {
        let mut it = table("a`b");
        it.files.options.insert("format.delimiter".into(), "'".into());
        let expected = "CREATE EXTERNAL TABLE `a``b` STORED AS PARQUET LOCATION '/nowhere' \
                        OPTIONS ('format.delimiter' '''')";
        assert_eq!(it.create_statement(), expected);
    }
}

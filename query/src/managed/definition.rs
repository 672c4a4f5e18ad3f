//! What the catalog keeps of a managed table, and the first actions of its log.
//!
//! Columns stand in both: the log is what counts, the catalog answers SHOW without reading it. Defaults are in the
//! catalog alone, so other engines do not see them.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use deltalake_core::kernel::Action;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::log::now_ms;
use super::types::{delta_field, has_local_timestamp};
use crate::tables::external::TypeName;
use crate::tables::mysql_types::mysql_type;

/// A column of a managed table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagedColumn {
    pub name: String,
    /// The type that it is kept in.
    #[serde(rename = "type")]
    pub type_name: TypeName,
    pub nullable: bool,
    /// SQL of what a row gets that names no value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

impl ManagedColumn {
    pub fn field(&self) -> Field {
        Field::new(&self.name, self.type_name.0.clone(), self.nullable)
    }

    /// Its default as MySQL shows it: a text without its quotes.
    pub fn shown_default(&self) -> Option<String> {
        let default = self.default.as_deref()?;
        let inner = default.strip_prefix('\'').and_then(|it| it.strip_suffix('\''));
        Some(inner.map_or_else(|| default.to_owned(), |it| it.replace("''", "'")))
    }
}

/// A managed table. Kept in the catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagedDef {
    /// The URL of its folder. No two tables ever have the same one.
    pub location: String,
    pub columns: Vec<ManagedColumn>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partition_columns: Vec<String>,
    /// Columns by which rows are sorted within each file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cluster_columns: Vec<String>,
    /// CHECK constraints: name and condition.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

impl ManagedDef {
    pub fn schema(&self) -> SchemaRef {
        Arc::new(Schema::new(self.columns.iter().map(ManagedColumn::field).collect::<Vec<_>>()))
    }

    pub fn column(&self, name: &str) -> Option<&ManagedColumn> {
        let exact = self.columns.iter().find(|it| it.name == name);
        exact.or_else(|| self.columns.iter().find(|it| it.name.eq_ignore_ascii_case(name)))
    }

    /// The statement that creates the table, in our own syntax.
    pub fn create_statement(&self, name: &str) -> String {
        let quoted = |text: &str| format!("`{}`", text.replace('`', "``"));
        let text = |text: &str| format!("'{}'", text.replace('\'', "''"));
        let names = |names: &[String]| names.iter().map(|it| quoted(it)).collect::<Vec<_>>().join(", ");
        let mut lines = vec![];
        for column in &self.columns {
            let mut line = format!("  {} {}", quoted(&column.name), mysql_type(&column.type_name.0).column_type);
            if !column.nullable {
                line += " NOT NULL";
            }
            if let Some(default) = &column.default {
                line += &format!(" DEFAULT {default}");
            }
            if let Some(comment) = &column.comment {
                line += &format!(" COMMENT {}", text(comment));
            }
            lines.push(line);
        }
        for (name, condition) in &self.checks {
            lines.push(format!("  CONSTRAINT {} CHECK ({condition})", quoted(name)));
        }
        let mut sql = format!("CREATE TABLE {} (\n{}\n)", quoted(name), lines.join(",\n"));
        if !self.partition_columns.is_empty() {
            sql += &format!(" PARTITIONED BY ({})", names(&self.partition_columns));
        }
        if !self.cluster_columns.is_empty() {
            sql += &format!(" CLUSTER BY ({})", names(&self.cluster_columns));
        }
        if let Some(comment) = &self.comment {
            sql += &format!(" COMMENT {}", text(comment));
        }
        sql
    }

    /// The `protocol` and `metaData` actions of a new table. `name` is what other engines show.
    pub fn first_actions(&self, name: &str) -> Result<Vec<Action>, serde_json::Error> {
        [json!({"protocol": self.protocol()}), json!({"metaData": self.metadata(name, &Uuid::new_v4().to_string())})]
            .into_iter()
            .map(serde_json::from_value)
            .collect()
    }

    /// The `metaData` action with the columns as they are here; `id` is the log's own name of the table.
    pub fn metadata(&self, name: &str, id: &str) -> Value {
        let fields: Vec<_> = self.columns.iter().map(|it| delta_field(&it.field(), it.comment.as_deref())).collect();
        let schema = json!({"type": "struct", "fields": fields}).to_string();
        let checks = self
            .checks
            .iter()
            .map(|(name, condition)| (format!("delta.constraints.{name}"), Value::String(condition.clone())));
        let mut metadata = json!({
            "id": id,
            "name": name,
            "format": {"provider": "parquet", "options": {}},
            "schemaString": schema,
            "partitionColumns": self.partition_columns,
            "configuration": checks.collect::<serde_json::Map<_, _>>(),
            "createdTime": now_ms(),
        });
        if let Some(comment) = &self.comment {
            metadata["description"] = comment.clone().into();
        }
        metadata
    }

    /// The least that a reader and a writer of the table must know.
    pub fn protocol(&self) -> Value {
        let has_local = self.columns.iter().any(|it| has_local_timestamp(&it.type_name.0));
        match (has_local, self.checks.is_empty()) {
            (true, true) => json!({
                "minReaderVersion": 3, "minWriterVersion": 7,
                "readerFeatures": ["timestampNtz"], "writerFeatures": ["timestampNtz"],
            }),
            (true, false) => json!({
                "minReaderVersion": 3, "minWriterVersion": 7,
                "readerFeatures": ["timestampNtz"], "writerFeatures": ["timestampNtz", "checkConstraints"],
            }),
            (false, true) => json!({"minReaderVersion": 1, "minWriterVersion": 2}),
            (false, false) => json!({"minReaderVersion": 1, "minWriterVersion": 3}),
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, TimeUnit};

    use super::*;

    #[test]
    fn a_new_table_begins_with_what_it_is() {
        let column = |name: &str, data_type| ManagedColumn {
            name: name.into(),
            type_name: TypeName(data_type),
            nullable: false,
            default: Some("1".into()),
            comment: Some("it's".into()),
        };
        let mut def = ManagedDef {
            location: "file:///t/".into(),
            columns: vec![column("a", DataType::Int32)],
            partition_columns: vec![],
            cluster_columns: vec![],
            checks: vec![],
            comment: Some("c".into()),
        };
        let text = serde_json::to_string(&def).unwrap();
        assert_eq!(serde_json::from_str::<ManagedDef>(&text).unwrap(), def);
        let actions = serde_json::to_value(def.first_actions("t").unwrap()).unwrap();
        assert_eq!(actions[0]["protocol"]["minWriterVersion"], 2);
        let schema: Value = serde_json::from_str(actions[1]["metaData"]["schemaString"].as_str().unwrap()).unwrap();
        let expected = json!({"name": "a", "type": "integer", "nullable": false, "metadata": {"comment": "it's"}});
        assert_eq!(schema["fields"][0], expected);
        def.columns.push(column("t", DataType::Timestamp(TimeUnit::Microsecond, None)));
        def.checks.push(("positive".into(), "a > 0".into()));
        let actions = serde_json::to_value(def.first_actions("t").unwrap()).unwrap();
        assert_eq!(actions[1]["metaData"]["configuration"]["delta.constraints.positive"], "a > 0");
        let features = actions[0]["protocol"]["writerFeatures"].as_array().unwrap();
        assert_eq!(features.len(), 2, "{features:?}");
    }
}

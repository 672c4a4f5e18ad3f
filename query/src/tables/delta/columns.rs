//! A Delta table's columns: as statements name them, and as its files do.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use datafusion::datasource::file_format::parquet::transform_schema_to_view;
use delta_kernel::actions::Protocol;
use delta_kernel::engine::arrow_conversion::TryIntoArrow;
use deltalake_core::kernel::Snapshot;

use crate::tables::TableError;

/// What a table may ask of its readers that we do. All but the first two concern its log, which the library reads.
const READER_FEATURES: [&str; 7] = [
    "columnMapping",
    "deletionVectors",
    "timestampNtz",
    "typeWidening",
    "typeWidening-preview",
    "v2Checkpoint",
    "vacuumProtocolCheck",
];
/// The reader version from which features are listed by name.
const FEATURES_READER_VERSION: i64 = 3;
const PHYSICAL_NAME: &str = "delta.columnMapping.physicalName";
const MAPPING_MODE: &str = "delta.columnMapping.mode";

/// One column of a table.
#[derive(Debug, Clone, PartialEq)]
pub struct DeltaColumn {
    /// As statements see it.
    pub field: FieldRef,
    /// What the files and the log call it.
    pub physical: String,
    /// Its values stand in the log and not in the files.
    pub is_partition: bool,
}

/// All columns, in the table's order.
#[derive(Debug, Clone, PartialEq)]
pub struct DeltaColumns(pub Vec<DeltaColumn>);

impl DeltaColumns {
    /// Errs with a list of what the table asks for when we cannot read it.
    pub fn of(snapshot: &Snapshot, shown: &str) -> Result<Self, TableError> {
        check_features(snapshot.protocol(), shown)?;
        let mapping = snapshot.metadata().configuration().get(MAPPING_MODE).map(String::as_str);
        let is_mapped = match mapping {
            None | Some("none") => false,
            Some("name") => true,
            Some(other) => {
                let what = format!("column mapping by {other}, which Delta table '{shown}' has,");
                return Err(TableError::Unsupported { what });
            }
        };
        let schema: Schema = snapshot
            .schema()
            .as_ref()
            .try_into_arrow()
            .map_err(|error| TableError::Unsupported { what: format!("a column type of '{shown}' ({error})") })?;
        let partitions = snapshot.metadata().partition_columns();
        let as_read = transform_schema_to_view(&schema);
        let column = |(field, as_read): (&FieldRef, &FieldRef)| {
            let physical = match is_mapped {
                true => field.metadata().get(PHYSICAL_NAME).unwrap_or(field.name()).clone(),
                false => field.name().clone(),
            };
            if is_mapped && renames_within(field.data_type()) {
                let what = format!("column mapping within the nested column '{}' of '{shown}'", field.name());
                return Err(TableError::Unsupported { what });
            }
            let is_partition = partitions.contains(field.name());
            let field = Field::new(field.name(), plain(as_read.data_type()), field.is_nullable());
            Ok(DeltaColumn { field: Arc::new(field), physical, is_partition })
        };
        Ok(Self(schema.fields().iter().zip(as_read.fields()).map(column).collect::<Result<_, _>>()?))
    }

    /// As statements see the table.
    pub fn schema(&self) -> SchemaRef {
        Arc::new(Schema::new(self.0.iter().map(|it| Arc::clone(&it.field)).collect::<Fields>()))
    }

    /// The columns that files hold, under the names that they have there.
    pub fn file_schema(&self) -> SchemaRef {
        Arc::new(Schema::new(self.of_files().map(physical_field).collect::<Vec<_>>()))
    }

    /// The partition columns, under the names that the log has for them.
    pub fn partition_fields(&self) -> Vec<FieldRef> {
        self.partitions().map(|it| Arc::new(physical_field(it))).collect()
    }

    pub fn partitions(&self) -> impl Iterator<Item = &DeltaColumn> {
        self.0.iter().filter(|it| it.is_partition)
    }

    pub fn of_files(&self) -> impl Iterator<Item = &DeltaColumn> {
        self.0.iter().filter(|it| !it.is_partition)
    }

    /// For each column its place in a scan, which has the files' columns before the partitions'.
    pub fn scan_order(&self) -> Vec<usize> {
        let n_of_files = self.of_files().count();
        let (mut of_files, mut partitions) = (0, n_of_files);
        let place = |it: &DeltaColumn| {
            let next = if it.is_partition { &mut partitions } else { &mut of_files };
            *next += 1;
            *next - 1
        };
        self.0.iter().map(place).collect()
    }
}

fn physical_field(column: &DeltaColumn) -> Field {
    Field::new(&column.physical, column.field.data_type().clone(), column.field.is_nullable())
}

/// The type without the log's remarks on its fields, which would make equal types differ.
fn plain(data_type: &DataType) -> DataType {
    let field = |it: &FieldRef| Arc::new(Field::new(it.name(), plain(it.data_type()), it.is_nullable()));
    match data_type {
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(field).collect()),
        DataType::List(item) => DataType::List(field(item)),
        DataType::Map(entries, sorted) => DataType::Map(field(entries), *sorted),
        other => other.clone(),
    }
}

/// Whether a field within a nested type has another name in the files.
fn renames_within(data_type: &DataType) -> bool {
    let renamed = |it: &FieldRef| {
        it.metadata().get(PHYSICAL_NAME).is_some_and(|name| name != it.name()) || renames_within(it.data_type())
    };
    match data_type {
        DataType::Struct(fields) => fields.iter().any(renamed),
        DataType::List(item) => renames_within(item.data_type()),
        DataType::Map(entries, _) => renames_within(entries.data_type()),
        _ => false,
    }
}

fn check_features(protocol: &Protocol, shown: &str) -> Result<(), TableError> {
    // The library keeps the list to itself, but writes it as the log does.
    let unreadable = |error| TableError::unreadable(shown, error);
    let protocol: HashMap<String, serde_json::Value> =
        serde_json::to_value(protocol).and_then(serde_json::from_value).map_err(unreadable)?;
    let version = protocol.get("minReaderVersion").and_then(serde_json::Value::as_i64).unwrap_or(i64::MAX);
    if version > FEATURES_READER_VERSION {
        let what = format!("Delta table '{shown}', which needs readers of version {version},");
        return Err(TableError::Unsupported { what });
    }
    let listed = protocol.get("readerFeatures").and_then(serde_json::Value::as_array);
    let names = listed.into_iter().flatten().filter_map(serde_json::Value::as_str);
    let missing: Vec<&str> = names.filter(|it| !READER_FEATURES.contains(it)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let what = format!("Delta table '{shown}', which needs readers that know {},", missing.join(", "));
    Err(TableError::Unsupported { what })
}

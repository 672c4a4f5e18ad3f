//! Leaves that read: files, batches in memory, `generate_series`.

use std::str::FromStr;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use datafusion::catalog::memory::MemorySourceConfig;
use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{
    ArrowSource, CsvSource, FileScanConfig, FileScanConfigBuilder, FileSource, JsonSource, ParquetSource,
};
use datafusion::datasource::source::{DataSource, DataSourceExec};
use datafusion::functions_table::generate_series::{Empty, GenericSeriesState, TimestampValue};
use datafusion::object_store::memory::InMemory;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_expr_adapter::DefaultPhysicalExprAdapterFactory;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::memory::LazyMemoryExec;

use super::decode::{Decoder, columns_from_wire, corrupt, required, schema_from_wire};
use super::encode::{Encoder, columns_to_wire, refuse, schema_to_wire};
use super::parquet::with_page_index;
use super::wire::{self, NodeKind};

/// A table in memory that is larger stays where it is: its rows would go to each worker with the plan.
const MEMORY_BYTES_MAX: usize = 32 << 20;

pub(super) fn encode_file_scan(to: &Encoder, plan: &Arc<dyn ExecutionPlan>) -> Result<Option<NodeKind>> {
    let Some(exec) = plan.downcast_ref::<DataSourceExec>() else { return Ok(None) };
    let Some(config) = exec.data_source().downcast_ref::<FileScanConfig>() else { return Ok(None) };
    check_table_schema(config)?;
    check_files(config)?;
    let source = config.file_source();
    let mut scan = wire::FileScan {
        limit: config.limit.map(|limit| limit as u64),
        preserve_order: config.preserve_order,
        compression: config.file_compression_type.get_variant().to_string(),
        default_adapter: check_adapter(config)?,
        ..Default::default()
    };
    if let Some(parquet) = source.downcast_ref::<ParquetSource>() {
        let crypto = &parquet.table_parquet_options().crypto;
        if crypto.factory_id.is_some() || crypto.file_decryption.is_some() {
            return refuse("a scan of Parquet", "its files are encrypted");
        }
    } else if let Some(csv) = source.downcast_ref::<CsvSource>() {
        scan.csv_terminator = csv.terminator().map(u32::from);
    } else if source.is::<JsonSource>() {
        scan.json_array = is_json_array(config)?;
    } else if source.is::<ArrowSource>() {
        scan.arrow_stream = source.file_type() == "arrow_stream";
    } else {
        return refuse(&format!("a scan of {}", source.file_type()), "there is no encoding for it");
    }
    scan.node = Some(Box::new(to.upstream(plan)?));
    Ok(Some(NodeKind::FileScan(scan)))
}

/// Upstream puts all columns into one list and takes those of the files out by comparing.
fn check_table_schema(config: &FileScanConfig) -> Result<()> {
    let schema = config.file_source().table_schema();
    let partition_cols = schema.table_partition_cols();
    if let Some(twice) = schema.file_schema().fields().iter().find(|field| partition_cols.iter().any(|it| it == *field))
    {
        return refuse("a scan of files", format!("column {:?} is both in the files and in their paths", twice.name()));
    }
    let n_columns = schema.file_schema().fields().len() + partition_cols.len();
    if schema.table_schema().fields().len() != n_columns {
        return refuse("a scan of files", "it has columns that its reader makes");
    }
    Ok(())
}

/// Extensions of a file say which of its parts to read; without them rows would come twice.
fn check_files(config: &FileScanConfig) -> Result<()> {
    let files = config.file_groups.iter().flat_map(|group| group.files());
    match files.into_iter().find(|file| !file.extensions.is_empty()) {
        Some(file) => refuse(&format!("the file {}", file.object_meta.location), "it has an access plan of its own"),
        None => Ok(()),
    }
}

/// Whether the default adapter was set explicitly, which is the same as none at all but for the text of the plan.
fn check_adapter(config: &FileScanConfig) -> Result<bool> {
    match &config.expr_adapter_factory {
        None => Ok(false),
        Some(factory) if format!("{factory:?}") == format!("{DefaultPhysicalExprAdapterFactory:?}") => Ok(true),
        Some(_) => refuse("a scan of files", "it has a schema adapter of its own"),
    }
}

/// The format has no getter, but only lines can be read by range: the reader says so before it touches the file.
fn is_json_array(config: &FileScanConfig) -> Result<bool> {
    let source = config.file_source().with_batch_size(1);
    let opener = source.create_file_opener(Arc::new(InMemory::new()), config, 0)?;
    let probe = PartitionedFile::new_with_range("probe".to_owned(), 1, 0, 1);
    Ok(opener.open(probe).is_err())
}

pub(super) fn decode_file_scan(from: &Decoder, node: &wire::FileScan) -> Result<Arc<dyn ExecutionPlan>> {
    let plan = from.upstream(node.node.as_deref())?;
    let exec = required(plan.downcast_ref::<DataSourceExec>(), "a scan")?;
    let config = required(exec.data_source().downcast_ref::<FileScanConfig>(), "a scan of files")?;
    let compression = match node.compression.as_str() {
        "" => FileCompressionType::UNCOMPRESSED,
        name => FileCompressionType::from_str(name)?,
    };
    let mut builder = FileScanConfigBuilder::from(config.clone())
        .with_limit(node.limit.map(|limit| limit as usize))
        .with_file_compression_type(compression)
        .with_source(decode_source(node, config.file_source())?);
    if node.default_adapter {
        builder = builder.with_expr_adapter(Some(Arc::new(DefaultPhysicalExprAdapterFactory)));
    }
    let mut config = builder.build();
    // Not through the builder, which sets it wherever the files have an order.
    config.preserve_order = node.preserve_order;
    Ok(DataSourceExec::from_data_source(config))
}

fn decode_source(node: &wire::FileScan, source: &Arc<dyn FileSource>) -> Result<Arc<dyn FileSource>> {
    if let Some(csv) = source.downcast_ref::<CsvSource>() {
        let terminator = node.csv_terminator.map(u8::try_from).transpose();
        let Ok(terminator) = terminator else { return corrupt("a terminator that is no byte") };
        return Ok(Arc::new(csv.with_terminator(terminator)));
    }
    if let Some(json) = source.downcast_ref::<JsonSource>() {
        return Ok(Arc::new(json.clone().with_newline_delimited(!node.json_array)));
    }
    if let Some(parquet) = source.downcast_ref::<ParquetSource>() {
        let parquet = with_page_index(parquet);
        return Ok(Arc::new(match parquet.table_parquet_options().global.metadata_size_hint {
            Some(hint) => parquet.with_metadata_size_hint(hint),
            None => parquet,
        }));
    }
    if node.arrow_stream {
        let stream = ArrowSource::new_stream_file_source(source.table_schema().clone());
        return match source.projection() {
            Some(projection) => required(stream.try_pushdown_projection(projection)?, "a projection"),
            None => Ok(Arc::new(stream)),
        };
    }
    Ok(Arc::clone(source))
}

pub(super) fn encode_memory(to: &Encoder, plan: &Arc<dyn ExecutionPlan>) -> Result<Option<NodeKind>> {
    let Some(exec) = plan.downcast_ref::<DataSourceExec>() else { return Ok(None) };
    let Some(source) = exec.data_source().downcast_ref::<MemorySourceConfig>() else { return Ok(None) };
    let bytes: usize = source.partitions().iter().flatten().map(RecordBatch::get_array_memory_size).sum();
    if bytes > MEMORY_BYTES_MAX {
        return refuse("a table in memory", format!("it has {bytes} bytes, more than {MEMORY_BYTES_MAX}"));
    }
    let whole = |ordering: &LexOrdering| -> Result<wire::Ordering> {
        let exprs: Vec<PhysicalSortExpr> =
            ordering.iter().map(|sort| unproject(sort, source.projection().as_deref())).collect::<Result<_>>()?;
        to.ordering(&exprs)
    };
    Ok(Some(NodeKind::Memory(wire::Memory {
        partitions: source.partitions().iter().map(|batches| to_ipc(batches)).collect::<Result<_>>()?,
        schema: Some(schema_to_wire(&source.original_schema())?),
        projection: columns_to_wire(source.projection().as_deref()),
        orderings: source.sort_information().iter().map(whole).collect::<Result<_>>()?,
        show_sizes: source.show_sizes(),
        fetch: DataSource::fetch(source).map(|fetch| fetch as u64),
    })))
}

/// The source keeps its orderings over the projected columns but takes them over all columns.
fn unproject(sort: &PhysicalSortExpr, projection: Option<&[usize]>) -> Result<PhysicalSortExpr> {
    let Some(projection) = projection else { return Ok(sort.clone()) };
    let expr = Arc::clone(&sort.expr)
        .transform(|expr: Arc<dyn PhysicalExpr>| match expr.downcast_ref::<Column>() {
            Some(column) => match projection.get(column.index()) {
                Some(index) => Ok(Transformed::yes(Arc::new(Column::new(column.name(), *index)) as _)),
                None => refuse("a table in memory", "its order names a column that it does not have"),
            },
            None => Ok(Transformed::no(expr)),
        })
        .data()?;
    Ok(PhysicalSortExpr::new(expr, sort.options))
}

pub(super) fn decode_memory(from: &Decoder, node: &wire::Memory) -> Result<Arc<dyn ExecutionPlan>> {
    let schema = schema_from_wire(&node.schema)?;
    let partitions: Vec<Vec<RecordBatch>> =
        node.partitions.iter().map(|bytes| from_ipc(bytes)).collect::<Result<_>>()?;
    let ordering = |it: &wire::Ordering| required(from.ordering(Some(it), &schema)?, "an ordering");
    let orderings = node.orderings.iter().map(ordering).collect::<Result<_>>()?;
    let source = MemorySourceConfig::try_new(&partitions, schema, columns_from_wire(&node.projection))?
        .with_limit(node.fetch.map(|fetch| fetch as usize))
        .with_show_sizes(node.show_sizes)
        .try_with_sort_information(orderings)?;
    Ok(DataSourceExec::from_data_source(source))
}

/// No batch is no byte: a stream needs a schema, and an empty partition knows none.
fn to_ipc(batches: &[RecordBatch]) -> Result<Vec<u8>> {
    let Some(first) = batches.first() else { return Ok(vec![]) };
    let mut writer = StreamWriter::try_new(Vec::new(), &first.schema())?;
    for batch in batches {
        writer.write(batch)?;
    }
    Ok(writer.into_inner()?)
}

fn from_ipc(bytes: &[u8]) -> Result<Vec<RecordBatch>> {
    if bytes.is_empty() {
        return Ok(vec![]);
    }
    let reader = StreamReader::try_new(bytes, None)?;
    Ok(reader.collect::<std::result::Result<_, _>>()?)
}

/// Upstream knows `generate_series`, but neither its projection nor its order.
pub(super) fn encode_series(to: &Encoder, plan: &Arc<dyn ExecutionPlan>) -> Result<Option<NodeKind>> {
    let Some(exec) = plan.downcast_ref::<LazyMemoryExec>() else { return Ok(None) };
    let [generator] = exec.generators().as_slice() else {
        return refuse("LazyMemoryExec", "it has more than one generator");
    };
    let (is_series, is_int) = {
        let state = generator.read();
        let is_int = state.as_any().is::<GenericSeriesState<i64>>();
        (is_int || state.as_any().is::<Empty>() || state.as_any().is::<GenericSeriesState<TimestampValue>>(), is_int)
    };
    if !is_series {
        return refuse("LazyMemoryExec", format!("its generator {} has no encoding", generator.read()));
    }
    // The cached ordering of the properties is older than `add_ordering`.
    let ordering = exec.properties().eq_properties.output_ordering();
    let ordering = ordering.map(|ordering| to.ordering(&ordering)).transpose()?;
    if !exec.schema().fields().is_empty() {
        let node = Some(Box::new(to.upstream(plan)?));
        return Ok(Some(NodeKind::Series(wire::Series { node, projection: None, ordering })));
    }
    // Only the rows are counted. The one column that there was is not to be seen any more; for numbers it is known.
    if !is_int {
        return refuse("LazyMemoryExec", "its column is not read");
    }
    let schema = Arc::new(Schema::new(vec![Field::new("value", DataType::Int64, false)]));
    let whole: Arc<dyn ExecutionPlan> = Arc::new(LazyMemoryExec::try_new(schema, vec![Arc::clone(generator)])?);
    let node = Some(Box::new(to.upstream(&whole)?));
    Ok(Some(NodeKind::Series(wire::Series { node, projection: columns_to_wire(Some(&[])), ordering: None })))
}

pub(super) fn decode_series(from: &Decoder, node: &wire::Series) -> Result<Arc<dyn ExecutionPlan>> {
    let plan = from.upstream(node.node.as_deref())?;
    let whole = required(plan.downcast_ref::<LazyMemoryExec>(), "a series")?;
    let mut exec = LazyMemoryExec::try_new(whole.schema(), whole.generators().clone())?
        .with_projection(columns_from_wire(&node.projection));
    if let Some(ordering) = from.ordering(node.ordering.as_ref(), &exec.schema())? {
        exec.add_ordering(ordering);
    }
    Ok(Arc::new(exec))
}

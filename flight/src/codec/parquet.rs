//! How a task's scans open Parquet files: footer and page index together, from the cache of the process.
//!
//! DataFusion's reader asks for the footer alone and, where its filter may profit, reads the page index after it, past
//! the cache: each split of a file would read and decode it again. Where a query is planned that does not show, since
//! looking up statistics has put both into the cache; a worker plans nothing.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::common::Result;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::ParquetFileReaderFactory;
use datafusion::datasource::physical_plan::{FileSource, ParquetSource};
use datafusion::parquet::arrow::arrow_reader::ArrowReaderOptions;
use datafusion::parquet::arrow::async_reader::AsyncFileReader;
use datafusion::parquet::errors::Result as ParquetResult;
use datafusion::parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::FutureExt;
use futures::future::BoxFuture;

/// A scan whose files are opened with their page indexes, if it can use them.
pub(super) fn with_page_index(source: &ParquetSource) -> ParquetSource {
    let is_used = source.filter().is_some() && source.table_parquet_options().global.enable_page_index;
    match source.parquet_file_reader_factory() {
        Some(readers) if is_used => {
            source.clone().with_parquet_file_reader_factory(Arc::new(IndexedReaders(Arc::clone(readers))))
        }
        _ => source.clone(),
    }
}

#[derive(Debug)]
struct IndexedReaders(Arc<dyn ParquetFileReaderFactory>);

impl ParquetFileReaderFactory for IndexedReaders {
    fn create_reader(
        &self,
        partition_index: usize,
        file: PartitionedFile,
        metadata_size_hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>> {
        let reader = self.0.create_reader(partition_index, file, metadata_size_hint, metrics)?;
        Ok(Box::new(IndexedReader(reader)))
    }
}

struct IndexedReader(Box<dyn AsyncFileReader + Send>);

impl AsyncFileReader for IndexedReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        self.0.get_bytes(range)
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, ParquetResult<Vec<Bytes>>> {
        self.0.get_byte_ranges(ranges)
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, ParquetResult<Arc<ParquetMetaData>>> {
        async move {
            let footer = self.0.get_metadata(options).await?;
            if !lacks_page_index(&footer) {
                return Ok(footer);
            }
            let options = options.cloned().unwrap_or_default().with_page_index_policy(PageIndexPolicy::Optional);
            self.0.get_metadata(Some(&options)).await
        }
        .boxed()
    }
}

/// Whether the file has a page index that was not read. One without any must not be looked at again and again.
fn lacks_page_index(footer: &ParquetMetaData) -> bool {
    let is_read = footer.column_index().is_some() && footer.offset_index().is_some();
    let mut columns = footer.row_groups().iter().flat_map(|group| group.columns());
    !is_read && columns.any(|it| it.column_index_offset().is_some() && it.offset_index_offset().is_some())
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, RecordBatch};
    use arrow::datatypes::{DataType, Field, Schema};
    use datafusion::datasource::physical_plan::parquet::CachedParquetFileReaderFactory;
    use datafusion::execution::runtime_env::RuntimeEnv;
    use datafusion::object_store::memory::InMemory;
    use datafusion::object_store::path::Path;
    use datafusion::object_store::{ObjectStore, ObjectStoreExt};
    use datafusion::parquet::arrow::ArrowWriter;
    use datafusion::parquet::file::properties::{EnabledStatistics, WriterProperties};

    use super::*;

    /// What two readers of a file of one column get when they ask for its footer.
    async fn read_twice(statistics: EnabledStatistics, offset_index: bool) -> [Arc<ParquetMetaData>; 2] {
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, false)]));
        let properties = WriterProperties::builder()
            .set_statistics_enabled(statistics)
            .set_offset_index_disabled(!offset_index)
            .build();
        let mut writer = ArrowWriter::try_new(vec![], Arc::clone(&schema), Some(properties)).unwrap();
        let batch = RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(vec![1, 2, 3]))]).unwrap();
        writer.write(&batch).unwrap();
        let path = Path::from("a.parquet");
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        store.put(&path, writer.into_inner().unwrap().into()).await.unwrap();
        let file = PartitionedFile::new_from_meta(store.head(&path).await.unwrap());
        let cache = RuntimeEnv::default().cache_manager.get_file_metadata_cache();
        let readers = IndexedReaders(Arc::new(CachedParquetFileReaderFactory::new(store, cache)));
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Skip);
        let read = async || {
            let mut reader = readers.create_reader(0, file.clone(), None, &ExecutionPlanMetricsSet::new()).unwrap();
            reader.get_metadata(Some(&options)).await.unwrap()
        };
        [read().await, read().await]
    }

    #[tokio::test]
    async fn page_indexes_are_read_once() {
        let [first, second] = read_twice(EnabledStatistics::Page, true).await;
        assert!(first.column_index().is_some() && first.offset_index().is_some());
        assert!(Arc::ptr_eq(&first, &second), "the second reader did not get it from the cache");
    }

    #[tokio::test]
    async fn files_without_page_indexes_are_not_asked_again() {
        let [first, second] = read_twice(EnabledStatistics::None, false).await;
        assert!(first.column_index().is_none());
        assert!(Arc::ptr_eq(&first, &second), "the second reader did not get it from the cache");
    }
}

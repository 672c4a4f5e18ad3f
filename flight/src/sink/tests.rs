//! Rows of a plan and where they end up.

use std::collections::HashSet;

use arrow::array::{ArrayRef, AsArray, Int64Array, StringViewArray};
use arrow::datatypes::Int64Type;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::physical_expr::expressions::col;
use datafusion::physical_plan::repartition::BatchPartitioner;
use futures::TryStreamExt;
use sheaf_common::{QueryId, StageId, TaskId};

use super::*;
use crate::exchange::{ExchangeRegistry, ExchangeShape};

const N_TARGETS: usize = 5;

fn batch(from: i64, n: i64) -> RecordBatch {
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(from..from + n));
    let texts = (from..from + n).map(|i| format!("a text that is too long to be inlined {i}"));
    let texts: ArrayRef = Arc::new(StringViewArray::from_iter_values(texts));
    RecordBatch::try_from_iter([("n", numbers), ("t", texts)]).unwrap()
}

fn plan(partitions: &[Vec<RecordBatch>]) -> Arc<dyn ExecutionPlan> {
    MemorySourceConfig::try_new_exec(partitions, batch(0, 1).schema(), None).unwrap()
}

fn exchange(context: &TaskContext, partitions: usize) -> Arc<Exchange> {
    let registry = ExchangeRegistry::new(Arc::clone(context.memory_pool()));
    let task = TaskId { query: QueryId(1), stage: StageId(1), task: 0, attempt: 0 };
    registry.create(task, ExchangeShape { partitions, readers: 1, limit_bytes: 1 << 30, retained: false }).unwrap()
}

async fn rows(exchange: &Arc<Exchange>, partition: usize) -> Vec<RecordBatch> {
    let segments: Vec<_> = exchange.read(partition).unwrap().try_collect().await.unwrap();
    segments.iter().map(|segment| segment.batch.clone()).collect()
}

fn hash_output(partitions: usize) -> StageOutput {
    let exprs = vec![col("n", &batch(0, 1).schema()).unwrap()];
    StageOutput::Hash { exprs, partitions }
}

#[tokio::test]
async fn each_row_goes_once_to_the_partition_that_datafusion_would_choose() {
    for n_targets in [1, N_TARGETS, 8] {
        check_targets(n_targets).await;
    }
}

async fn check_targets(n_targets: usize) {
    let context = Arc::new(TaskContext::default());
    let exchange = exchange(&context, n_targets);
    let input = [vec![batch(0, 7), batch(7, 0), batch(7, 20_000)], vec![], vec![batch(20_007, 30_000)]];
    run(plan(&input), &hash_output(n_targets), &context, &exchange).await.unwrap();
    exchange.finish();
    let mut seen = HashSet::new();
    for target in 0..n_targets {
        for batch in rows(&exchange, target).await {
            assert!(batch.num_rows() <= context.session_config().batch_size());
            for n in batch.column(0).as_primitive::<Int64Type>().values() {
                assert!(seen.insert(*n), "{n} came twice");
            }
            let texts = batch.column(1).as_string_view();
            let held: usize = texts.data_buffers().iter().map(|buffer| buffer.len()).sum();
            assert!(held <= 2 * texts.total_buffer_bytes_used(), "a batch drags others' strings along");
            let StageOutput::Hash { exprs, partitions } = hash_output(n_targets) else { unreachable!() };
            let mut theirs = BatchPartitioner::new_hash_partitioner(exprs, partitions, Default::default()).unwrap();
            theirs
                .partition(batch, |it, _| {
                    assert_eq!(it, target);
                    Ok(())
                })
                .unwrap();
        }
    }
    assert_eq!(seen.len(), 50_007);
    assert_eq!(context.memory_pool().reserved(), 0);
}

#[tokio::test]
async fn batches_are_few_and_large() {
    let context = Arc::new(TaskContext::default());
    let exchange = exchange(&context, N_TARGETS);
    let small: Vec<RecordBatch> = (0..400).map(|i| batch(i * 100, 100)).collect();
    run(plan(&[small]), &hash_output(N_TARGETS), &context, &exchange).await.unwrap();
    exchange.finish();
    for target in 0..N_TARGETS {
        assert_eq!(rows(&exchange, target).await.len(), 1);
    }
}

#[tokio::test]
async fn a_single_partition_keeps_order() {
    let context = Arc::new(TaskContext::default());
    let exchange = exchange(&context, 1);
    let input: Vec<RecordBatch> = (0..10).map(|i| batch(i * 10, 10)).collect();
    run(plan(std::slice::from_ref(&input)), &StageOutput::Gather, &context, &exchange).await.unwrap();
    exchange.finish();
    assert_eq!(rows(&exchange, 0).await, input);
}

#[tokio::test]
async fn a_producer_that_nobody_reads_ends_early() {
    let context = Arc::new(TaskContext::default());
    let registry = ExchangeRegistry::new(Arc::clone(context.memory_pool()));
    let task = TaskId { query: QueryId(1), stage: StageId(1), task: 0, attempt: 0 };
    let shape = ExchangeShape { partitions: 1, readers: 1, limit_bytes: 1, retained: false };
    let exchange = registry.create(task, shape).unwrap();
    let mut reader = exchange.read(0).unwrap();
    let input: Vec<RecordBatch> = (0..1000).map(|i| batch(i, 1)).collect();
    let output = StageOutput::Gather;
    let plan = plan(&[input]);
    let run = run(plan, &output, &context, &exchange);
    let limit = async {
        reader.next().await.unwrap().unwrap();
        drop(reader);
    };
    let (outcome, ()) = tokio::join!(run, limit);
    outcome.unwrap();
    assert!(exchange.pushed().0 < 10);
    let pool: &Arc<dyn MemoryPool> = context.memory_pool();
    assert_eq!(pool.reserved(), 0);
}

#[tokio::test]
async fn rows_without_columns_keep_their_number() {
    let empty = batch(0, 3).project(&[]).unwrap();
    let rows = interleave(&[&empty], &[(0, 0), (0, 2)]).unwrap();
    assert_eq!(rows.num_rows(), 2);
}

//! Any exchange under any pressure: every reading has every row, in order; nothing hangs, nothing is left.

use std::sync::atomic::{AtomicBool, Ordering};

use datafusion::execution::memory_pool::MemoryConsumer;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;

use super::spilling::Worker;
use super::*;

/// One run's choices.
#[derive(Debug)]
struct Plan {
    seed: u64,
    partitions: usize,
    readers: usize,
    retained: bool,
    limit_bytes: usize,
    memory: usize,
    n_batches: i64,
    rows_max: usize,
    /// Whether an operator takes and gives back memory all the while.
    has_operator: bool,
    /// Whether retention ends while rows still flow.
    ends_retention: bool,
}

impl Plan {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let retained = rng.random();
        Self {
            seed,
            partitions: rng.random_range(1..5),
            readers: rng.random_range(1..4),
            retained,
            limit_bytes: [1, 10_000, 1 << 30][rng.random_range(0..3)],
            memory: [32 << 10, 256 << 10, 1 << 30][rng.random_range(0..3)],
            n_batches: rng.random_range(1..200),
            rows_max: rng.random_range(1..500),
            has_operator: rng.random(),
            ends_retention: retained && rng.random_range(0..4) == 0,
        }
    }
}

fn numbered(value: i64, rows: usize) -> RecordBatch {
    RecordBatch::try_from_iter([("a", Arc::new(Int64Array::from(vec![value; rows])) as _)]).unwrap()
}

/// Everything that a reading gives, or its first rows when it is to leave early; at a random pace.
async fn read(mut reader: ExchangeReader, mut rng: StdRng, patience: usize) -> Vec<i64> {
    let mut values = vec![];
    while values.len() < patience
        && let Some(segment) = reader.next().await
    {
        values.push(value(&segment.unwrap()));
        match rng.random_range(0..20) {
            0 => tokio::time::sleep(Duration::from_millis(1)).await,
            1..8 => tokio::task::yield_now().await,
            _ => {}
        }
    }
    values
}

/// Takes what memory it can get, and gives it back.
async fn operate(pool: Arc<dyn MemoryPool>, mut rng: StdRng, memory: usize, stop: Arc<AtomicBool>) {
    let can_spill = rng.random();
    let account = MemoryConsumer::new("operator").with_can_spill(can_spill).register(&pool);
    while !stop.load(Ordering::Relaxed) {
        if account.try_grow(rng.random_range(0..memory / 4)).is_err() {
            account.free();
        }
        assert!(pool.reserved() <= memory, "{pool}");
        tokio::task::yield_now().await;
    }
}

async fn check(plan: &Plan) {
    let mut rng = StdRng::seed_from_u64(!plan.seed);
    let worker = Worker::new(plan.memory, 1 << 30);
    let shape = ExchangeShape {
        partitions: plan.partitions,
        readers: plan.readers,
        limit_bytes: plan.limit_bytes,
        retained: plan.retained,
    };
    let id = task(plan.seed, 0);
    let exchange = worker.registry.create(id, shape).unwrap();
    let batches: Vec<(usize, i64, usize)> = (0..plan.n_batches)
        .map(|value| (rng.random_range(0..plan.partitions), value, rng.random_range(1..=plan.rows_max)))
        .collect();
    let expected: Vec<Vec<i64>> = (0..plan.partitions)
        .map(|partition| batches.iter().filter(|it| it.0 == partition).map(|it| it.1).collect())
        .collect();

    let mut others = JoinSet::new();
    let stop = Arc::new(AtomicBool::new(false));
    if plan.has_operator {
        let rng = StdRng::seed_from_u64(rng.random());
        others.spawn(operate(Arc::clone(&worker.pool), rng, plan.memory, Arc::clone(&stop)));
    }
    let mut readings = JoinSet::new();
    for partition in 0..plan.partitions {
        for _ in 0..plan.readers {
            let reader = exchange.read(partition).unwrap();
            let patience = if rng.random_range(0..8) == 0 { rng.random_range(0..10) } else { usize::MAX };
            let rng = StdRng::seed_from_u64(rng.random());
            readings.spawn(async move { (partition, patience, read(reader, rng, patience).await) });
        }
    }
    let ends_at = plan.ends_retention.then(|| rng.random_range(0..plan.n_batches));
    for (partition, value, rows) in batches {
        exchange.push(partition, numbered(value, rows)).await.unwrap();
        if ends_at == Some(value) {
            worker.registry.end_retention(id.query);
        }
    }
    exchange.finish();
    while let Some(reading) = readings.join_next().await {
        let (partition, patience, values) = reading.unwrap();
        let expected = &expected[partition];
        assert_eq!(values, expected[..expected.len().min(patience)], "partition {partition}");
    }
    if plan.retained && !plan.ends_retention {
        // Whoever lost their rows come again.
        for (partition, expected) in expected.iter().enumerate() {
            let rng = StdRng::seed_from_u64(rng.random());
            match worker.registry.open(id, partition, WAIT).await {
                Ok(reader) => {
                    assert_eq!(&read(reader, rng, usize::MAX).await, expected, "partition {partition}, again");
                }
                // An operator that cannot spill comes before what was read.
                Err(error) => {
                    assert!(plan.has_operator && error.code == ErrorCode::MemoryRefused, "{error}");
                }
            }
        }
    } else {
        assert_eq!(exchange.buffered_bytes(), 0, "all was read");
    }
    stop.store(true, Ordering::Relaxed);
    others.join_all().await;
    drop(exchange);
    if rng.random() {
        worker.registry.release(&[id]);
    } else {
        worker.registry.cancel(id.query);
    }
    worker.assert_idle("at the end").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_reading_has_every_row_and_nothing_is_left() {
    let n_seeds = if std::env::var_os("SHEAF_FULL").is_some() { 3_000 } else { 150 };
    for seed in 0..n_seeds {
        let plan = Plan::new(seed);
        let checked = tokio::spawn(async move {
            let outcome = tokio::time::timeout(WAIT, check(&plan)).await;
            outcome.unwrap_or_else(|_| panic!("hangs: {plan:?}"));
        });
        // The panic that says what is wrong was printed already.
        checked.await.unwrap_or_else(|error| panic!("{error}: {:?}", Plan::new(seed)));
    }
}

/// A query may end at any moment: nothing of it may be left, whoever is reading or writing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_that_ends_at_any_moment_leaves_nothing() {
    for seed in 0..40 {
        let plan = Plan { memory: 32 << 10, ..Plan::new(seed) };
        let worker = Worker::new(plan.memory, 1 << 30);
        let (partitions, readers, limit_bytes, retained) =
            (plan.partitions, plan.readers, plan.limit_bytes, plan.retained);
        let id = task(seed, 0);
        let shape = ExchangeShape { partitions, readers, limit_bytes, retained };
        let exchange = worker.registry.create(id, shape).unwrap();
        let mut tasks: JoinSet<()> = JoinSet::new();
        for partition in 0..partitions {
            let mut reader = exchange.read(partition).unwrap();
            tasks.spawn(async move { while let Some(Ok(_)) = reader.next().await {} });
        }
        tasks.spawn(async move {
            let mut value = 0;
            while exchange.push(value as usize % partitions, numbered(value, 100)).await.is_ok() {
                value += 1;
            }
        });
        tokio::time::sleep(Duration::from_millis(seed % 10)).await;
        worker.registry.cancel(id.query);
        let ended = tokio::time::timeout(WAIT, tasks.join_all()).await;
        ended.unwrap_or_else(|_| panic!("hangs: seed {seed}"));
        worker.assert_idle("at the end").await;
    }
}

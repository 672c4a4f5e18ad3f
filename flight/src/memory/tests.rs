//! Who gets memory, who is refused, and that nothing is ever lost or given out twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

const LIMIT: usize = 16_000;

fn pool() -> (Arc<NodeMemoryPool>, Arc<dyn MemoryPool>) {
    let pool = Arc::new(NodeMemoryPool::new(LIMIT));
    (Arc::clone(&pool), pool)
}

fn fixed(pool: &Arc<dyn MemoryPool>) -> MemoryReservation {
    MemoryConsumer::new("HashJoinInput[0]").register(pool)
}

fn spilling(pool: &Arc<dyn MemoryPool>) -> MemoryReservation {
    MemoryConsumer::new("ExternalSorter[0]").with_can_spill(true).register(pool)
}

/// Holds memory and gives back what it is asked for, as far as it is not `stuck`.
struct Holder {
    account: MemoryReservation,
    stuck: usize,
    relieved: AtomicUsize,
}

impl Evict for Holder {
    fn evict(&self, bytes: usize, keep: usize) -> usize {
        let bytes = bytes.min(self.account.size().saturating_sub(keep.max(self.stuck)));
        // Another thread may have been faster.
        self.account.try_shrink(bytes).map_or(0, |_| bytes)
    }

    fn relieve(&self) {
        self.relieved.fetch_add(1, Ordering::Relaxed);
    }
}

fn holder(pool: &(Arc<NodeMemoryPool>, Arc<dyn MemoryPool>), stuck: usize) -> Arc<Holder> {
    let account = MemoryConsumer::new("exchanges").register(&pool.1);
    let holder = Arc::new(Holder { account, stuck, relieved: AtomicUsize::new(0) });
    let weak: Weak<dyn Evict> = Arc::downgrade(&(Arc::clone(&holder) as Arc<dyn Evict>));
    pool.0.set_evictable(holder.account.consumer(), weak);
    holder
}

fn message(error: DataFusionError) -> String {
    match error {
        DataFusionError::ResourcesExhausted(text) => text,
        other => panic!("not a refusal: {other}"),
    }
}

#[test]
fn a_refusal_names_who_holds_what_and_what_to_change() {
    let (_, pool) = pool();
    let (join, sort) = (fixed(&pool), spilling(&pool));
    join.try_grow(12_000).unwrap();
    sort.try_grow(2_000).unwrap();
    let text = message(join.try_grow(4_000).unwrap_err());
    let expected = "memory refused: HashJoinInput[0] asked for 3.9 KB beside the 11.7 KB that it holds, 2000.0 B too \
                    much; of the node's 15.6 KB (--memory) 13.7 KB are held: HashJoinInput[0] 11.7 KB, \
                    ExternalSorter[0] 2000.0 B; raise --memory, or lower max_threads, batch_size or the number of \
                    queries at a time";
    assert_eq!(text, expected);
    assert_eq!(pool.reserved(), 14_000, "a refused request takes nothing");
}

#[test]
fn those_that_spill_get_equal_shares_whoever_comes_first() {
    let (_, pool) = pool();
    let join = fixed(&pool);
    join.try_grow(4_000).unwrap();
    let sorts = [spilling(&pool), spilling(&pool), spilling(&pool)];
    sorts[0].try_grow(8_000).unwrap();
    assert_eq!(pool.reserved(), 12_000, "up to three quarters, nobody is held to a share");
    let text = message(sorts[0].try_grow(1).unwrap_err());
    assert!(text.contains("more than its share of 3.9 KB"), "{text}");
    // A second reservation of the same consumer is no way around its share.
    assert!(sorts[0].new_empty().try_grow(1).is_err());
    sorts[1].try_grow(2_000).unwrap();
    sorts[2].try_grow(600).unwrap();
    // Refused, it spills; then the others get what is theirs.
    sorts[0].free();
    sorts[1].try_grow(2_000).unwrap();
    sorts[2].try_grow(3_400).unwrap();
    sorts[0].try_grow(2_000).unwrap();
    assert!(sorts[1].try_grow(1).is_err());
    drop(sorts);
    let alone = spilling(&pool);
    alone.try_grow(10_000).unwrap();
    assert!(alone.try_grow(1).is_err(), "the last eighth is for those that hold little");
    let late = spilling(&pool);
    late.try_grow(1_000).unwrap();
    assert_eq!(pool.reserved(), 15_000);
}

#[test]
fn what_is_refused_is_taken_from_exchanges_first() {
    let both = pool();
    let holder = holder(&both, 0);
    holder.account.try_grow(8_000).unwrap();
    assert!(holder.account.try_grow(1).is_err(), "half of the limit is theirs");
    let join = fixed(&both.1);
    join.try_grow(8_000).unwrap();
    assert!(holder.relieved.load(Ordering::Relaxed) > 0, "above seven eighths");
    join.try_grow(3_000).unwrap();
    assert_eq!((holder.account.size(), both.1.reserved()), (5_000, LIMIT));
    assert!(holder.account.try_grow(1).is_err(), "those who can be evicted evict nobody");
    join.try_grow(5_000).unwrap();
    assert_eq!((holder.account.size(), both.1.reserved()), (0, LIMIT));
    assert!(join.try_grow(1).is_err());
    join.free();
    holder.account.try_grow(8_000).unwrap();
    let sort = spilling(&both.1);
    sort.try_grow(13_000).unwrap();
    assert_eq!(holder.account.size(), 1_000, "those that spill leave them a sixteenth");
    assert!(sort.try_grow(2_000).is_err());
}

#[test]
fn what_cannot_be_evicted_is_refused_and_not_waited_for() {
    let both = pool();
    let holder = holder(&both, 5_000);
    holder.account.try_grow(8_000).unwrap();
    let join = fixed(&both.1);
    join.try_grow(11_000).unwrap();
    assert!(join.try_grow(1).is_err());
    assert_eq!((holder.account.size(), both.1.reserved()), (5_000, LIMIT));
}

/// Requests, gifts and leavings of all kinds, from several threads: the limit holds at every moment, and in the end
/// everything has been given back.
fn check_random(seed: u64) {
    const N_THREADS: u64 = 3;
    let both = pool();
    let holder = holder(&both, seed as usize % 3 * 1_000);
    std::thread::scope(|scope| {
        for thread in 0..N_THREADS {
            let (pool, holder) = (Arc::clone(&both.1), Arc::clone(&holder));
            scope.spawn(move || {
                let mut rng = StdRng::seed_from_u64(seed * N_THREADS + thread);
                let mut held: Vec<MemoryReservation> = vec![];
                for _ in 0..2_000 {
                    match rng.random_range(0..6) {
                        0 if held.len() < 6 => held.push(if rng.random() { fixed(&pool) } else { spilling(&pool) }),
                        1 if !held.is_empty() => drop(held.swap_remove(rng.random_range(0..held.len()))),
                        2 | 3 if !held.is_empty() => {
                            let one = &held[rng.random_range(0..held.len())];
                            let before = one.size();
                            let bytes = rng.random_range(0..6_000);
                            let granted = one.try_grow(bytes).is_ok();
                            assert_eq!(one.size(), before + if granted { bytes } else { 0 }, "seed {seed}");
                        }
                        4 if !held.is_empty() => {
                            let one = &held[rng.random_range(0..held.len())];
                            one.shrink(rng.random_range(0..=one.size()));
                        }
                        // Only the first, since `size` and `shrink` of one account are two steps.
                        5 if thread == 0 => {
                            let _ = holder.account.try_grow(rng.random_range(0..3_000));
                        }
                        _ => {}
                    }
                    assert!(pool.reserved() <= LIMIT, "seed {seed}: {pool}");
                }
            });
        }
    });
    let left = holder.account.free();
    assert_eq!(both.1.reserved(), 0, "seed {seed}, {left} of them were the exchanges'");
    drop(holder);
    let state = both.0.state.lock();
    assert_eq!((state.consumers.len(), state.n_spilling), (0, 0), "seed {seed}");
}

#[test]
fn the_limit_holds_and_everything_comes_back() {
    for seed in 0..20 {
        check_random(seed);
    }
}

//! Joins that emit rows of their build side, where that side is small: it is broadcast all the same.
//!
//! Each row of the build side gets a number before it is sent ([`RowIdExec`]). Each task joins with its own share of
//! the probe side and puts out what it can say of a build row by that; a shuffle by the number brings together what
//! the tasks say of the same row, and [`MergeCopiesExec`] decides. The probe side, often the largest table of the
//! query, stays where it is read.
//!
//! Outer joins are not among them: what they put out is rows of both sides, as many as there are matches, and all of
//! those would be shuffled for the sake of the few that have none.

use std::sync::Arc;

use datafusion::common::{JoinType, Result, internal_datafusion_err};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode};

use super::{
    Distribution, PlanRef, Scatter, estimated_output_bytes, is_hash, one_partition, strip_coalesce, strip_hash,
};
use crate::boundary::NetworkBoundaryExec;
use crate::merge_copies::{Keep, MergeCopiesExec};
use crate::row_id::RowIdExec;

/// What a byte of the build side costs in each task that joins with it, in bytes of a shuffle: it is sent, put into a
/// hash table that a shuffle would have divided among the tasks, and in the worst case it is sent again to be merged.
const COPY_COST: u64 = 3;

impl Scatter<'_> {
    /// The join with its build side broadcast; `None` where that is not possible or does not pay.
    pub(super) fn cut_build_rows_join(&mut self, join: &HashJoinExec) -> Result<Option<(PlanRef, Distribution)>> {
        match Copies::of(join) {
            Some(copies) if self.copies_pay(join) => self.cut_copies(join, copies).map(Some),
            _ => Ok(None),
        }
    }

    /// Whether a copy of the build side for every task costs less than the shuffles that it saves. Unknown sizes do
    /// not pay: the shuffle is the safe choice.
    fn copies_pay(&self, join: &HashJoinExec) -> bool {
        let (left, right) = (strip_hash(&join.left), strip_hash(&join.right));
        let (Some(left_bytes), Some(right_bytes)) = (estimated_output_bytes(&left), estimated_output_bytes(&right))
        else {
            return false;
        };
        if left_bytes > self.options.broadcast_bytes_max {
            return false;
        }
        // A side that has the partitions of the join already would not be shuffled.
        let is_shuffled = |side: &PlanRef| join.mode == PartitionMode::CollectLeft || is_hash(side);
        let shuffled = [(&join.left, left_bytes), (&join.right, right_bytes)];
        let saved = shuffled.into_iter().filter(|(side, _)| is_shuffled(side)).map(|(_, bytes)| bytes);
        let saved = saved.fold(0u64, u64::saturating_add);
        left_bytes.saturating_mul(self.options.workers as u64).saturating_mul(COPY_COST) <= saved
    }

    fn cut_copies(&mut self, join: &HashJoinExec, copies: Copies) -> Result<(PlanRef, Distribution)> {
        let (right, right_distribution) = self.cut(&strip_coalesce(&strip_hash(&join.right)))?;
        let (left, left_distribution) = self.cut(&strip_coalesce(&strip_hash(&join.left)))?;
        let builder = join.builder().with_partition_mode(PartitionMode::CollectLeft);
        if right_distribution == Distribution::Single {
            // One task sees all probe rows: what it says of a build row is final.
            let left = match left_distribution {
                Distribution::Single => left,
                Distribution::Spread => self.one_task(left, false, None)?,
            };
            let join = builder.with_new_children(vec![one_partition(left), right])?.recompute_properties();
            return Ok((join.build_exec()?, Distribution::Single));
        }
        let left: PlanRef = Arc::new(RowIdExec::try_new(left)?);
        let left = self.broadcast(left, left_distribution)?;
        let join = builder
            .with_projection(Some(copies.projection))
            // A task that stopped early would keep back rows that are known to be wanted only where tasks meet.
            .with_fetch(if copies.keep == Keep::FromAny { join.fetch() } else { None })
            .with_new_children(vec![one_partition(left), right])?
            .recompute_properties()
            .build_exec()?;
        let schema = join.schema();
        let last = schema.fields().len() - 1;
        let id: Arc<dyn PhysicalExpr> = Arc::new(Column::new(schema.field(last).name(), last));
        let shuffled = self.shuffle(join, right_distribution, &[id])?;
        // Known now that the stage of the join is closed, and the same whatever runs it.
        let tasks = shuffled.downcast_ref::<NetworkBoundaryExec>().map(|boundary| boundary.producers);
        let tasks = tasks.ok_or_else(|| internal_datafusion_err!("a shuffle is no network boundary"))?;
        Ok((Arc::new(MergeCopiesExec::try_new(shuffled, copies.keep, tasks)?), Distribution::Spread))
    }
}

/// How the build rows of a join come together again.
struct Copies {
    keep: Keep,
    /// The columns of the join that are wanted, then the row id, in terms of a build side with the row id at its end.
    projection: Vec<usize>,
}

impl Copies {
    fn of(join: &HashJoinExec) -> Option<Self> {
        let build_columns = join.left.schema().fields().len();
        let wanted: Vec<usize> = match &join.projection {
            Some(columns) => columns.to_vec(),
            None => (0..join.join_schema().fields().len()).collect(),
        };
        let keep = match join.join_type {
            JoinType::LeftSemi => Keep::FromAny,
            JoinType::LeftAnti => Keep::FromAll,
            // The mark comes after the build side's columns.
            JoinType::LeftMark => Keep::Marked { column: wanted.iter().position(|&column| column == build_columns)? },
            JoinType::Inner
            | JoinType::Left
            | JoinType::Right
            | JoinType::Full
            | JoinType::RightSemi
            | JoinType::RightAnti
            | JoinType::RightMark => return None,
        };
        let moved = |column: usize| if column < build_columns { column } else { column + 1 };
        Some(Self { keep, projection: wanted.into_iter().map(moved).chain([build_columns]).collect() })
    }
}

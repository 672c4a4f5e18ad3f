//! ScatterOptimizer: cuts a physical plan into stages at network boundaries.
//!
//! It takes DataFusion's plan for as many partitions as the cluster has and walks it from the leaves up. Each
//! subtree comes back with its [`Distribution`]: derived, not asserted. DataFusion's own exchanges become network
//! boundaries; where a node's requirement is not met by what came back, a boundary is added; where a join's build
//! side is small, a shuffle becomes a broadcast (by `build_rows` where the join emits rows of that side). Every stage
//! is then checked by DataFusion's own sanity rule.
//!
//! One trap runs through the file: a scan of one partition meets requirements ("single partition", "sorted as a
//! whole", "at most n rows") that it no longer meets once its splits go to several tasks. So a scan in a stage shows
//! at least two partitions ([`LeafSlotExec`]), and `restore_limit` and `keep_order` look at what
//! the original node had.

mod determinacy;

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{JoinType, Result, Statistics, internal_datafusion_err, internal_err, not_impl_err};
use datafusion::physical_expr::{
    EquivalenceProperties, LexOrdering, OrderingRequirements, Partitioning, PhysicalExpr, PhysicalSortExpr,
};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::filter_pushdown::FilterPushdown;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_optimizer::sanity_checker::SanityCheckPlan;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::distribution_requirements::ChildSatisfactionOptions;
use datafusion::physical_plan::execution_plan::replace_children_if_necessary;
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec, PartitionMode};
use datafusion::physical_plan::limit::{GlobalLimitExec, LocalLimitExec};
use datafusion::physical_plan::recursive_query::RecursiveQueryExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::scalar_subquery::ScalarSubqueryExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::union::{InterleaveExec, UnionExec, can_interleave};
use datafusion::physical_plan::{Distribution as Requirement, ExecutionPlan, ExecutionPlanProperties};
use sheaf_common::StageId;

use crate::boundary::NetworkBoundaryExec;
use crate::keep_nan::KeepNan;
use crate::leaf::{LeafSlotExec, strip_splits};
use crate::namesakes::guarded;
use crate::splits::{LeafSplits, PlanSplits, statistics};
use crate::stage::{BoundaryKind, DistributedPlan, Leaf, ScalarSubquery, StageOutput, StagePlan};

mod build_rows;

type PlanRef = Arc<dyn ExecutionPlan>;

/// Stack that must be free before one more level of a plan is walked, and what is added when it is not.
const STACK_RED_ZONE: usize = 256 * 1024;
const STACK_GROWTH: usize = 4 * 1024 * 1024;

/// Bytes that a column of unknown size is taken for, by whether its values have a fixed width.
const FIXED_COLUMN_BYTES: usize = 8;
const VARIABLE_COLUMN_BYTES: usize = 32;

/// Where the rows of a subtree are, seen from the tasks of the stage that it runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distribution {
    /// All rows in one task: the stage has no other.
    Single,
    /// Each row in one task of possibly many. Which keys share a partition is said by the plan's own partitioning.
    Spread,
}

/// Cuts physical plans into stages. Usable without the server: it needs a plan and the size of the cluster.
#[derive(Debug, Clone)]
pub struct ScatterOptimizer {
    /// Workers that may run tasks; at least 1.
    pub workers: usize,
    /// Partitions that one task of a shuffled stage runs; at least 1.
    pub partitions_per_task: usize,
    /// Bytes of a build side up to which it may be broadcast.
    pub broadcast_bytes_max: u64,
    /// Bytes that a scan must read to deserve one more task; 0: every worker gets one.
    pub bytes_per_task: u64,
}

impl ScatterOptimizer {
    /// Consumer partitions of every shuffle: what the plan's `target_partitions` should be. At least 2, since
    /// DataFusion plans no exchange for a single partition.
    pub fn partitions(&self) -> usize {
        self.workers * self.partitions_per_task()
    }

    fn partitions_per_task(&self) -> usize {
        self.partitions_per_task.max(2usize.div_ceil(self.workers))
    }

    /// The settings that a plan must have been made with: see [`Self::optimize`].
    pub fn configure(&self, config: &mut ConfigOptions) {
        config.execution.target_partitions = self.partitions();
        // Broadcast or shuffle is decided here, by bytes moved, not by DataFusion for one process.
        config.optimizer.hash_join_single_partition_threshold = 0;
        config.optimizer.hash_join_single_partition_threshold_rows = 0;
        config.optimizer.repartition_file_min_size = 0;
        config.optimizer.prefer_existing_sort = false;
        config.optimizer.enable_round_robin_repartition = true;
    }

    /// Cuts `plan`, made under [`Self::configure`] and without the rule that pushes dynamic filters: that one runs
    /// here, for each stage on its own, since a dynamic filter never crosses a boundary.
    ///
    /// `splits` are those of the same plan's leaves. Errs when the plan has something that cannot be cut or a check
    /// fails; the caller then runs the plan in one process and says why.
    pub fn optimize(
        &self,
        plan: &Arc<dyn ExecutionPlan>,
        splits: &PlanSplits,
        config: &ConfigOptions,
    ) -> Result<DistributedPlan> {
        let mut scatter =
            Scatter { options: self, splits, config, stages: vec![], subqueries: vec![], leaf_splits: vec![] };
        let (root, distribution) = scatter.cut(plan)?;
        let root = match distribution {
            Distribution::Single => root,
            Distribution::Spread => scatter.one_task(root, keep_order(plan), None)?,
        };
        scatter.finish(root)
    }
}

/// Whether a consumer may rely on the order of `original` as a whole, which it can when that had one partition.
fn keep_order(original: &PlanRef) -> bool {
    original.output_partitioning().partition_count() == 1 && original.output_ordering().is_some()
}

/// The state of one cut.
struct Scatter<'a> {
    options: &'a ScatterOptimizer,
    splits: &'a PlanSplits,
    config: &'a ConfigOptions,
    stages: Vec<StagePlan>,
    subqueries: Vec<ScalarSubquery>,
    /// The splits of each leaf, by its number. Remembered when the leaf is met: later rules rebuild the leaf itself.
    leaf_splits: Vec<LeafSplits>,
}

impl Scatter<'_> {
    /// A subtree as it runs in its stage, and where its rows are.
    fn cut(&mut self, plan: &PlanRef) -> Result<(PlanRef, Distribution)> {
        let (cut, distribution) = stacker::maybe_grow(STACK_RED_ZONE, STACK_GROWTH, || self.cut_node(plan))?;
        self.restore_limit(plan, cut, distribution)
    }

    fn cut_node(&mut self, plan: &PlanRef) -> Result<(PlanRef, Distribution)> {
        if plan.is::<RecursiveQueryExec>() {
            // The loop and all that it reads stay in one task, as DataFusion planned them.
            return Ok((Arc::clone(plan), Distribution::Single));
        }
        if plan.children().is_empty() {
            return self.cut_leaf(plan);
        }
        if let Some(node) = plan.downcast_ref::<ScalarSubqueryExec>() {
            return self.cut_scalar_subqueries(node);
        }
        if let Some(node) = plan.downcast_ref::<RepartitionExec>() {
            return self.cut_repartition(node);
        }
        if let Some(node) = plan.downcast_ref::<CoalescePartitionsExec>() {
            return self.cut_coalesce(plan, node);
        }
        if let Some(node) = plan.downcast_ref::<SortPreservingMergeExec>() {
            return self.cut_merge(plan, node);
        }
        if let Some(node) = plan.downcast_ref::<SortExec>() {
            return self.cut_sort(plan, node);
        }
        if plan.is::<UnionExec>() || plan.is::<InterleaveExec>() {
            return self.cut_union(plan);
        }
        if let Some(node) = plan.downcast_ref::<HashJoinExec>() {
            return self.cut_hash_join(plan, node);
        }
        if let Some(node) = plan.downcast_ref::<NestedLoopJoinExec>() {
            return self.cut_nested_loop_join(plan, node);
        }
        if plan.is::<CrossJoinExec>() {
            return self.cut_collected_join(plan);
        }
        self.cut_other(plan)
    }

    /// A scan: its splits are taken out and come with the tasks.
    fn cut_leaf(&mut self, plan: &PlanRef) -> Result<(PlanRef, Distribution)> {
        let splits = self.splits.get(plan);
        let splits = splits.ok_or_else(|| internal_datafusion_err!("the splits of {} are not known", plan.name()))?;
        let slot = LeafSlotExec::new(self.leaf_splits.len(), Arc::clone(plan), self.options.partitions());
        self.leaf_splits.push(splits.clone());
        Ok((Arc::new(slot), Distribution::Spread))
    }

    /// Each subquery becomes a plan of its own that runs first; the node itself is gone.
    fn cut_scalar_subqueries(&mut self, node: &ScalarSubqueryExec) -> Result<(PlanRef, Distribution)> {
        for subquery in node.subqueries() {
            let (plan, distribution) = self.cut(&subquery.plan)?;
            let plan = match distribution {
                Distribution::Single => plan,
                Distribution::Spread => self.one_task(plan, keep_order(&subquery.plan), None)?,
            };
            let (results, index) = (node.results().clone(), subquery.index);
            self.subqueries.push(ScalarSubquery { plan, results, index });
        }
        self.cut(node.input())
    }

    fn cut_repartition(&mut self, node: &RepartitionExec) -> Result<(PlanRef, Distribution)> {
        let (input, distribution) = self.cut(node.input())?;
        match node.partitioning() {
            // More partitions for their own sake: the splits have seen to that.
            Partitioning::RoundRobinBatch(_) | Partitioning::UnknownPartitioning(_) => Ok((input, distribution)),
            Partitioning::Hash(exprs, _) => {
                let ordering = node.preserve_order().then(|| node.input().output_ordering().cloned()).flatten();
                let shuffled = self.shuffle(input, distribution, exprs)?;
                Ok((sorted(shuffled, ordering), Distribution::Spread))
            }
            other => not_impl_err!("a repartition by {other} cannot be spread over workers"),
        }
    }

    fn cut_coalesce(&mut self, plan: &PlanRef, node: &CoalescePartitionsExec) -> Result<(PlanRef, Distribution)> {
        let (input, distribution) = self.cut(node.input())?;
        if distribution == Distribution::Single {
            return Ok((replace_children_if_necessary(Arc::clone(plan), vec![input])?, Distribution::Single));
        }
        let gathered = self.gather(input, distribution, node.fetch())?;
        Ok((replace_children_if_necessary(Arc::clone(plan), vec![gathered])?, Distribution::Single))
    }

    fn cut_merge(&mut self, plan: &PlanRef, node: &SortPreservingMergeExec) -> Result<(PlanRef, Distribution)> {
        let (input, distribution) = self.cut(node.input())?;
        let input = ensure_order(input, Some(node.expr().clone()))?;
        let input = match distribution {
            Distribution::Single => input,
            Distribution::Spread => self.merge(input, node.expr().clone(), node.fetch())?,
        };
        Ok((replace_children_if_necessary(Arc::clone(plan), vec![input])?, Distribution::Single))
    }

    fn cut_sort(&mut self, plan: &PlanRef, node: &SortExec) -> Result<(PlanRef, Distribution)> {
        let (input, distribution) = self.cut(node.input())?;
        if distribution == Distribution::Single || node.preserve_partitioning() {
            return Ok((replace_children_if_necessary(Arc::clone(plan), vec![input])?, distribution));
        }
        // Planned over one partition: sorted in each task, then merged.
        let sort = SortExec::new(node.expr().clone(), input).with_fetch(node.fetch()).with_preserve_partitioning(true);
        let merged = self.merge(Arc::new(sort), node.expr().clone(), node.fetch())?;
        let merge = SortPreservingMergeExec::new(node.expr().clone(), merged).with_fetch(node.fetch());
        Ok((Arc::new(merge), Distribution::Single))
    }

    fn cut_union(&mut self, plan: &PlanRef) -> Result<(PlanRef, Distribution)> {
        let cut: Vec<_> = plan.children().into_iter().map(|child| self.cut(child)).collect::<Result<_>>()?;
        let spread = cut.iter().any(|(_, distribution)| *distribution == Distribution::Spread);
        let mut inputs = vec![];
        for (input, distribution) in cut {
            // Rows that are in one task are handed to one task of the stage that the union runs in.
            let input = match distribution {
                Distribution::Single if spread => self.gather(input, distribution, None)?,
                _ => input,
            };
            inputs.push(input);
        }
        let distribution = if spread { Distribution::Spread } else { Distribution::Single };
        if plan.is::<InterleaveExec>() && !can_interleave(inputs.iter()) {
            return Ok((UnionExec::try_new(inputs)?, distribution));
        }
        Ok((replace_children_if_necessary(Arc::clone(plan), inputs)?, distribution))
    }

    fn cut_hash_join(&mut self, plan: &PlanRef, join: &HashJoinExec) -> Result<(PlanRef, Distribution)> {
        if join.null_aware {
            return self.cut_null_aware_join(plan, join);
        }
        if let Some(cut) = self.cut_build_rows_join(join)? {
            return Ok(cut);
        }
        match join.mode {
            PartitionMode::CollectLeft if !emits_build_rows(join.join_type) => self.cut_collected_join(plan),
            PartitionMode::CollectLeft => {
                // The build side's unmatched rows are known only where all probes of their key are: by key, then.
                let children = vec![strip_coalesce(&join.left), strip_coalesce(&join.right)];
                let join = join.builder().with_partition_mode(PartitionMode::Partitioned);
                let join = join.with_new_children(children)?.recompute_properties();
                self.cut_other(&join.build_exec()?)
            }
            PartitionMode::Partitioned | PartitionMode::Auto => {
                if !emits_build_rows(join.join_type) && self.broadcast_pays(&join.left, &join.right) {
                    let children = vec![strip_hash(&join.left), strip_hash(&join.right)];
                    let join = join.builder().with_partition_mode(PartitionMode::CollectLeft);
                    let join = join.with_new_children(children)?.recompute_properties();
                    return self.cut_collected_join(&join.build_exec()?);
                }
                self.cut_other(plan)
            }
        }
    }

    /// Whether sending all of `left` to every worker moves less than shuffling both sides.
    fn broadcast_pays(&self, left: &PlanRef, right: &PlanRef) -> bool {
        let Some(left_bytes) = estimated_output_bytes(&strip_hash(left)) else { return false };
        if left_bytes > self.options.broadcast_bytes_max {
            return false;
        }
        let Some(right_bytes) = estimated_output_bytes(&strip_hash(right)) else { return true };
        let copies = self.options.workers as u64;
        left_bytes.saturating_mul(copies) <= left_bytes.saturating_add(right_bytes)
    }

    /// `NOT IN` over a subquery with NULLs: whether the subquery has one must be known to every task, so the outer
    /// side is split and every task reads the whole subquery.
    fn cut_null_aware_join(&mut self, plan: &PlanRef, join: &HashJoinExec) -> Result<(PlanRef, Distribution)> {
        let (outer, outer_distribution) = self.cut(&strip_coalesce(&join.left))?;
        let (subquery, distribution) = self.cut(&strip_coalesce(&strip_hash(&join.right)))?;
        let subquery = match (outer_distribution, distribution) {
            (Distribution::Single, Distribution::Single) => subquery,
            _ => self.broadcast(subquery, distribution)?,
        };
        let children = vec![one_partition(outer), one_partition(subquery)];
        Ok((replace_children_if_necessary(Arc::clone(plan), children)?, outer_distribution))
    }

    fn cut_nested_loop_join(&mut self, plan: &PlanRef, join: &NestedLoopJoinExec) -> Result<(PlanRef, Distribution)> {
        match *join.join_type() {
            // No key to split by, and both sides' unmatched rows are asked for.
            JoinType::Full => {
                let children = [join.left(), join.right()].map(|side| -> Result<PlanRef> {
                    let (side, distribution) = self.cut(&strip_coalesce(side))?;
                    Ok(one_partition(match distribution {
                        Distribution::Single => side,
                        Distribution::Spread => self.one_task(side, false, None)?,
                    }))
                });
                let children = children.into_iter().collect::<Result<_>>()?;
                Ok((replace_children_if_necessary(Arc::clone(plan), children)?, Distribution::Single))
            }
            join_type if emits_build_rows(join_type) => self.cut(&join.swap_inputs()?),
            _ => self.cut_collected_join(plan),
        }
    }

    /// A join that holds its whole left side and streams its right: the left is sent to every task of the right.
    fn cut_collected_join(&mut self, plan: &PlanRef) -> Result<(PlanRef, Distribution)> {
        let children = plan.children();
        let (right, right_distribution) = self.cut(&strip_coalesce(children[1]))?;
        let (left, left_distribution) = self.cut(&strip_coalesce(children[0]))?;
        let left = match (left_distribution, right_distribution) {
            (Distribution::Single, Distribution::Single) => left,
            (Distribution::Spread, Distribution::Single) => self.one_task(left, false, None)?,
            (_, Distribution::Spread) => self.broadcast(left, left_distribution)?,
        };
        let plan = replace_children_if_necessary(Arc::clone(plan), vec![one_partition(left), right])?;
        Ok((plan, right_distribution))
    }

    /// Every other node: its children are brought to what it requires of them.
    fn cut_other(&mut self, plan: &PlanRef) -> Result<(PlanRef, Distribution)> {
        let requirements = plan.input_distribution_requirements();
        let orders = plan.required_input_ordering();
        let originals: Vec<PlanRef> = plan.children().into_iter().cloned().collect();
        let mut children: Vec<(PlanRef, Distribution)> =
            originals.iter().map(|child| self.cut(child)).collect::<Result<_>>()?;
        let any_spread = children.iter().any(|(_, distribution)| *distribution == Distribution::Spread);
        let all_single = !any_spread || !works_by_partition(plan.as_ref());
        for idx in 0..children.len() {
            let (child, distribution) = children[idx].clone();
            let order = orders[idx].clone().and_then(ordering);
            let to_one =
                all_single || matches!(requirements.child_distribution(idx), Some(Requirement::SinglePartition));
            children[idx] = if to_one {
                if distribution == Distribution::Single {
                    continue;
                }
                let fetch = plan.downcast_ref::<GlobalLimitExec>().and_then(|it| Some(it.skip() + it.fetch()?));
                let keep_order = order.is_some() || keep_order(&originals[idx]);
                (self.one_task(child, keep_order, fetch)?, Distribution::Single)
            } else {
                let options = ChildSatisfactionOptions::new().with_allow_subset(children.len() == 1);
                let satisfied = requirements.child_satisfaction(idx, child.as_ref(), options)?.is_satisfied();
                let mixed = any_spread && distribution == Distribution::Single;
                if satisfied && !mixed {
                    continue;
                }
                (
                    self.shuffle_for(child, distribution, requirements.child_distribution(idx), order)?,
                    Distribution::Spread,
                )
            };
        }
        // Both sides of a join must be cut by the same function into the same number of partitions.
        let sides: Vec<&dyn ExecutionPlan> = children.iter().map(|(child, _)| child.as_ref()).collect();
        if !all_single && !requirements.unsatisfied_co_partitioned_children(plan.name(), &sides)?.is_empty() {
            for idx in 0..children.len() {
                let (child, distribution) = children[idx].clone();
                let order = orders[idx].clone().and_then(ordering);
                let requirement = requirements.child_distribution(idx);
                children[idx] = (self.shuffle_for(child, distribution, requirement, order)?, Distribution::Spread);
            }
        }
        let spread = children.iter().any(|(_, distribution)| *distribution == Distribution::Spread);
        let distribution = if spread { Distribution::Spread } else { Distribution::Single };
        let children = children
            .into_iter()
            .zip(orders)
            .map(|((child, _), order)| ensure_order(child, order.and_then(ordering)))
            .collect::<Result<_>>()?;
        Ok((replace_children_if_necessary(Arc::clone(plan), children)?, distribution))
    }

    /// A shuffle by the keys that a node requires, sorted again where it also requires an order.
    fn shuffle_for(
        &mut self,
        child: PlanRef,
        distribution: Distribution,
        requirement: Option<&Requirement>,
        ordering: Option<LexOrdering>,
    ) -> Result<PlanRef> {
        let Some(Requirement::KeyPartitioned(exprs)) = requirement else {
            return internal_err!("a node requires {requirement:?} of an input that does not have it");
        };
        // A sort below the shuffle would be lost: it moves above.
        let child = match child.downcast_ref::<SortExec>() {
            Some(sort) if ordering.is_some() && sort.fetch().is_none() => Arc::clone(sort.input()),
            _ => child,
        };
        let shuffled = self.shuffle(child, distribution, exprs)?;
        Ok(sorted(shuffled, ordering))
    }

    /// Puts back a limit that DataFusion left to a node of a single partition, once there are several.
    fn restore_limit(
        &mut self,
        original: &PlanRef,
        cut: PlanRef,
        distribution: Distribution,
    ) -> Result<(PlanRef, Distribution)> {
        let Some(fetch) = original.fetch() else { return Ok((cut, distribution)) };
        if distribution == Distribution::Single || original.output_partitioning().partition_count() > 1 {
            return Ok((cut, distribution));
        }
        let single = self.one_task(cut, keep_order(original), Some(fetch))?;
        Ok((Arc::new(GlobalLimitExec::new(single, 0, Some(fetch))), Distribution::Single))
    }

    /// All rows of a spread plan in one partition of one task, of a new stage.
    fn one_task(&mut self, plan: PlanRef, keep_order: bool, fetch: Option<usize>) -> Result<PlanRef> {
        match plan.output_ordering().cloned() {
            Some(ordering) if keep_order => {
                let merged = self.merge(plan, ordering.clone(), fetch)?;
                Ok(Arc::new(SortPreservingMergeExec::new(ordering, merged).with_fetch(fetch)))
            }
            _ => Ok(Arc::new(CoalescePartitionsExec::new(self.gather(plan, Distribution::Spread, fetch)?))),
        }
    }

    fn gather(&mut self, plan: PlanRef, distribution: Distribution, fetch: Option<usize>) -> Result<PlanRef> {
        let plan = match fetch {
            // A task never needs to send more than the consumer will take.
            Some(fetch) if plan.fetch().is_none_or(|own| own > fetch) => {
                Arc::new(LocalLimitExec::new(plan, fetch)) as PlanRef
            }
            _ => plan,
        };
        let equivalences = unordered(&plan);
        let (stage, producers) = self.close(plan, distribution, StageOutput::Gather)?;
        let partitioning = Partitioning::UnknownPartitioning(producers);
        Ok(Arc::new(NetworkBoundaryExec::new(stage, BoundaryKind::Gather, producers, equivalences, partitioning)))
    }

    fn merge(&mut self, plan: PlanRef, ordering: LexOrdering, fetch: Option<usize>) -> Result<PlanRef> {
        let plan: PlanRef = Arc::new(SortPreservingMergeExec::new(ordering, plan).with_fetch(fetch));
        let equivalences = plan.equivalence_properties().clone();
        let (stage, producers) = self.close(plan, Distribution::Spread, StageOutput::Gather)?;
        let partitioning = Partitioning::UnknownPartitioning(producers);
        Ok(Arc::new(NetworkBoundaryExec::new(stage, BoundaryKind::Merge, producers, equivalences, partitioning)))
    }

    fn broadcast(&mut self, plan: PlanRef, distribution: Distribution) -> Result<PlanRef> {
        let equivalences = unordered(&plan);
        let (stage, producers) = self.close(plan, distribution, StageOutput::Broadcast)?;
        let partitioning = Partitioning::UnknownPartitioning(1);
        Ok(Arc::new(NetworkBoundaryExec::new(stage, BoundaryKind::Broadcast, producers, equivalences, partitioning)))
    }

    fn shuffle(
        &mut self,
        plan: PlanRef,
        distribution: Distribution,
        exprs: &[Arc<dyn PhysicalExpr>],
    ) -> Result<PlanRef> {
        let equivalences = unordered(&plan);
        let partitions = self.options.partitions();
        let output = StageOutput::Hash { exprs: exprs.to_vec(), partitions };
        let (stage, producers) = self.close(plan, distribution, output)?;
        let partitioning = Partitioning::Hash(exprs.to_vec(), partitions);
        Ok(Arc::new(NetworkBoundaryExec::new(stage, BoundaryKind::Shuffle, producers, equivalences, partitioning)))
    }

    /// Ends the open stage with this output; returns its id and its tasks.
    fn close(&mut self, plan: PlanRef, distribution: Distribution, output: StageOutput) -> Result<(StageId, usize)> {
        let plan = FilterPushdown::new_post_optimization().optimize(plan, self.config)?;
        let plan = KeepNan.optimize(plan, self.config)?;
        let plan = SanityCheckPlan::new().optimize(plan, self.config)?;
        let (plan, leaves, inputs) = self.take_leaves(plan)?;
        let task_count = match distribution {
            Distribution::Single => 1,
            Distribution::Spread => self.task_count(&plan, &leaves),
        };
        let stage = StageId(self.stages.len() as u32 + 1);
        let leaves = leaves.into_iter().map(|(leaf, _)| leaf).collect();
        let partitions_per_task = self.options.partitions_per_task();
        let is_determinate = determinacy::is_determinate(&plan, &output, &self.stages)?;
        self.stages.push(StagePlan {
            stage,
            plan,
            output,
            leaves,
            inputs,
            task_count,
            partitions_per_task,
            readers: 1,
            is_determinate,
        });
        Ok((stage, task_count))
    }

    /// The template without its splits, the leaves with them (and the tasks that an estimator asked for), and the
    /// stages that are read.
    #[expect(clippy::type_complexity, reason = "three things that are found in one walk, used once")]
    fn take_leaves(&self, plan: PlanRef) -> Result<(PlanRef, Vec<(Leaf, Option<usize>)>, Vec<StageId>)> {
        let (mut leaves, mut inputs) = (vec![], vec![]);
        let plan = plan.transform_up(|node| {
            if let Some(boundary) = node.downcast_ref::<NetworkBoundaryExec>() {
                inputs.push(boundary.stage);
            }
            let Some(slot) = node.downcast_ref::<LeafSlotExec>() else { return Ok(Transformed::no(node)) };
            let known = &self.leaf_splits[slot.leaf];
            let leaf = Leaf {
                id: slot.leaf,
                splits: known.splits.clone(),
                rows: known.rows,
                bytes: known.bytes,
                table_files: known.table_files,
            };
            leaves.push((leaf, known.tasks));
            let stripped = LeafSlotExec::new(slot.leaf, strip_splits(slot.input()), self.options.partitions());
            Ok(Transformed::yes(Arc::new(stripped) as PlanRef))
        })?;
        Ok((plan.data, leaves, inputs))
    }

    /// Tasks of a spread stage: all workers behind a shuffle, else as many as the largest scan deserves.
    fn task_count(&self, plan: &PlanRef, leaves: &[(Leaf, Option<usize>)]) -> usize {
        let workers = self.options.workers;
        let mut shuffled = false;
        // The closure never errs.
        let _ = plan.apply(|node| {
            let boundary = node.downcast_ref::<NetworkBoundaryExec>();
            shuffled |= boundary.is_some_and(|it| it.kind == BoundaryKind::Shuffle);
            Ok(TreeNodeRecursion::Continue)
        });
        if shuffled {
            return workers;
        }
        let deserved = leaves.iter().map(|(leaf, tasks)| match tasks {
            Some(tasks) => *tasks,
            None => {
                let bytes: u64 = leaf.splits.iter().map(|split| split.weight()).sum();
                let by_bytes = match self.options.bytes_per_task {
                    0 => workers,
                    per_task => usize::try_from(bytes.div_ceil(per_task)).unwrap_or(workers),
                };
                by_bytes.min(leaf.splits.len())
            }
        });
        deserved.max().unwrap_or(1).clamp(1, workers)
    }

    /// Checks what is left for the coordinator, and tells every broadcast how many tasks will read it.
    fn finish(mut self, root: PlanRef) -> Result<DistributedPlan> {
        let root = SanityCheckPlan::new().optimize(root, self.config)?;
        let mut consumers: Vec<(PlanRef, usize)> =
            self.stages.iter().map(|stage| (Arc::clone(&stage.plan), stage.task_count)).collect();
        consumers.push((Arc::clone(&root), 1));
        consumers.extend(self.subqueries.iter().map(|subquery| (Arc::clone(&subquery.plan), 1)));
        for (plan, tasks) in consumers {
            plan.apply(|node| {
                if let Some(boundary) = node.downcast_ref::<NetworkBoundaryExec>()
                    && boundary.kind == BoundaryKind::Broadcast
                {
                    self.stages[boundary.stage.0 as usize - 1].readers = tasks;
                }
                Ok(TreeNodeRecursion::Continue)
            })?;
        }
        for plan in self.subqueries.iter().map(|subquery| &subquery.plan).chain([&root]) {
            if plan.exists(|node| Ok(node.is::<LeafSlotExec>()))? {
                return internal_err!("a scan was left in the coordinator's part of the plan");
            }
        }
        let reason = self.stages.is_empty().then(|| "nothing in it can be spread".to_owned());
        Ok(DistributedPlan { stages: self.stages, root, subqueries: self.subqueries, reason })
    }
}

/// Nodes whose output partition `i` is made of nothing but their inputs' partitions `i`. A node that is not named here
/// runs in one task: never wrong, at worst slow.
fn works_by_partition(plan: &dyn ExecutionPlan) -> bool {
    const NAMES: [&str; 19] = [
        "AggregateExec",
        "AsyncFuncExec",
        "BoundedWindowAggExec",
        "BufferExec",
        "CoalesceBatchesExec",
        "CooperativeExec",
        "FilterExec",
        "GlobalLimitExec",
        "HashJoinExec",
        "LocalLimitExec",
        "PartialSortExec",
        "PartitionedTopKExec",
        "ProjectionExec",
        "SortExec",
        "SortMergeJoinExec",
        "SymmetricHashJoinExec",
        "TableSinkExec",
        "UnnestExec",
        "WindowAggExec",
    ];
    NAMES.contains(&plan.name())
}

/// Whether a join's output has rows of the build (left) side that no single probe partition can decide on.
fn emits_build_rows(join_type: JoinType) -> bool {
    match join_type {
        JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark | JoinType::Full => true,
        JoinType::Inner | JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => false,
    }
}

/// The input of a node that only brings partitions together.
fn strip_coalesce(plan: &PlanRef) -> PlanRef {
    match plan.downcast_ref::<CoalescePartitionsExec>() {
        Some(node) if node.fetch().is_none() => Arc::clone(node.input()),
        _ => Arc::clone(plan),
    }
}

/// The input of a node that only splits rows by hash.
fn strip_hash(plan: &PlanRef) -> PlanRef {
    match plan.downcast_ref::<RepartitionExec>() {
        Some(node) if is_hash(plan) => Arc::clone(node.input()),
        _ => Arc::clone(plan),
    }
}

/// Whether a node only splits rows by hash.
fn is_hash(plan: &PlanRef) -> bool {
    plan.downcast_ref::<RepartitionExec>()
        .is_some_and(|node| matches!(node.partitioning(), Partitioning::Hash(..)) && !node.preserve_order())
}

/// The plan in one partition of its task: no boundary, only its own partitions brought together.
fn one_partition(plan: PlanRef) -> PlanRef {
    if plan.output_partitioning().partition_count() == 1 { plan } else { Arc::new(CoalescePartitionsExec::new(plan)) }
}

/// The plan sorted within each partition, where an order is asked for.
fn sorted(plan: PlanRef, ordering: Option<LexOrdering>) -> PlanRef {
    match ordering {
        Some(ordering) => Arc::new(SortExec::new(ordering, plan).with_preserve_partitioning(true)),
        None => plan,
    }
}

/// An ordering that meets a requirement; none for what a node would only like to have.
fn ordering(requirements: OrderingRequirements) -> Option<LexOrdering> {
    match requirements {
        OrderingRequirements::Hard(mut alternatives) => {
            LexOrdering::new(alternatives.swap_remove(0).into_iter().map(PhysicalSortExpr::from))
        }
        OrderingRequirements::Soft(_) => None,
    }
}

/// The plan with an order in each partition that it may have lost on the way: one that held only because a single
/// partition or a constant made it hold.
fn ensure_order(plan: PlanRef, ordering: Option<LexOrdering>) -> Result<PlanRef> {
    match &ordering {
        Some(wanted) if !plan.equivalence_properties().ordering_satisfy(wanted.iter().cloned())? => {
            Ok(sorted(plan, ordering))
        }
        _ => Ok(plan),
    }
}

/// What holds for rows of `plan` wherever they go and in whatever order they come.
fn unordered(plan: &PlanRef) -> EquivalenceProperties {
    let mut equivalences = plan.equivalence_properties().clone();
    equivalences.clear_orderings();
    equivalences.clear_per_partition_constants();
    equivalences
}

/// Bytes that a plan is estimated to put out; `None` when not even its rows are known.
fn estimated_output_bytes(plan: &PlanRef) -> Option<u64> {
    let known: Arc<Statistics> = statistics(plan);
    if let Some(bytes) = known.total_byte_size.get_value() {
        return Some(*bytes as u64);
    }
    let rows = *known.num_rows.get_value()?;
    let width: usize = plan
        .schema()
        .fields()
        .iter()
        .map(|field| field.data_type().primitive_width().map_or(VARIABLE_COLUMN_BYTES, |it| it.max(FIXED_COLUMN_BYTES)))
        .sum();
    Some((rows as u64).saturating_mul(width as u64))
}

/// DataFusion's physical rules for a plan that will be cut: all but the ones that run on each stage, later.
///
/// A dynamic filter that was pushed over a future boundary would wait there for a value that never comes.
pub fn physical_rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let mut rules = PhysicalOptimizer::new().rules;
    let post = FilterPushdown::new_post_optimization();
    rules.retain(|rule| rule.name() != post.name());
    rules.push(Arc::new(KeepNan));
    guarded(rules)
}

#[cfg(test)]
mod tests;

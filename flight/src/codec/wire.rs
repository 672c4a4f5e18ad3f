//! The messages that a stage's bytes are made of.
//!
//! Plans and expressions are not nested: each is an entry of a table and names its children by their numbers, which
//! are always lower than its own. So the depth of a message does not grow with that of the plan.

use datafusion_proto::protobuf::{Partitioning, PhysicalExprNode, PhysicalPlanNode, Schema, WindowFrame};

/// Goes up with every change that an older reader would not see.
pub const VERSION: u32 = 1;

#[derive(Clone, PartialEq, prost::Message)]
pub struct Stage {
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// Each an [`Expr`], encoded. Equal ones stand here once.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub exprs: Vec<Vec<u8>>,
    /// Each a [`Node`], encoded. The last is the root.
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub nodes: Vec<Vec<u8>>,
    #[prost(message, optional, tag = "4")]
    pub output: Option<Output>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Output {
    #[prost(enumeration = "OutputKind", tag = "1")]
    pub kind: i32,
    #[prost(uint32, repeated, tag = "2")]
    pub exprs: Vec<u32>,
    #[prost(uint64, tag = "3")]
    pub partitions: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum OutputKind {
    Hash = 0,
    Broadcast = 1,
    Gather = 2,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Expr {
    #[prost(oneof = "ExprKind", tags = "1, 2, 3, 4")]
    pub kind: Option<ExprKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum ExprKind {
    #[prost(message, tag = "1")]
    Upstream(Box<PhysicalExprNode>),
    #[prost(message, tag = "2")]
    Function(Function),
    #[prost(message, tag = "3")]
    Cast(Cast),
    #[prost(message, tag = "4")]
    Literal(Literal),
}

/// A scalar function with all of its return field.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Function {
    /// Under which it is registered.
    #[prost(string, tag = "1")]
    pub function: String,
    /// Under which the plan shows it.
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(uint32, repeated, tag = "3")]
    pub args: Vec<u32>,
    /// The return field, alone.
    #[prost(message, optional, tag = "4")]
    pub field: Option<Schema>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Cast {
    #[prost(uint32, tag = "1")]
    pub expr: u32,
    /// The target field, alone.
    #[prost(message, optional, tag = "2")]
    pub field: Option<Schema>,
    /// The target field says all of the output, not only the type.
    #[prost(bool, tag = "3")]
    pub explicit: bool,
    /// Values that cannot be cast become NULL.
    #[prost(bool, tag = "4")]
    pub safe: bool,
    /// `TRY_CAST`.
    #[prost(bool, tag = "5")]
    pub is_try: bool,
}

/// A literal with metadata on its field.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Literal {
    #[prost(uint32, tag = "1")]
    pub expr: u32,
    /// A field that carries the metadata, alone.
    #[prost(message, optional, tag = "2")]
    pub field: Option<Schema>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct SortExpr {
    #[prost(uint32, tag = "1")]
    pub expr: u32,
    #[prost(bool, tag = "2")]
    pub descending: bool,
    #[prost(bool, tag = "3")]
    pub nulls_first: bool,
}

/// A list that may be absent, which is not the same as empty.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Columns {
    #[prost(uint64, repeated, tag = "1")]
    pub columns: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Ordering {
    #[prost(message, repeated, tag = "1")]
    pub exprs: Vec<SortExpr>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Node {
    #[prost(oneof = "NodeKind", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18")]
    pub kind: Option<NodeKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum NodeKind {
    #[prost(message, tag = "1")]
    Upstream(Upstream),
    #[prost(message, tag = "2")]
    Boundary(Boundary),
    #[prost(message, tag = "3")]
    Slot(Slot),
    #[prost(message, tag = "4")]
    Generator(Generator),
    #[prost(message, tag = "5")]
    Limit(Limit),
    #[prost(message, tag = "6")]
    PartialSort(PartialSort),
    #[prost(message, tag = "7")]
    PartitionedTopK(PartitionedTopK),
    #[prost(message, tag = "8")]
    PiecewiseMergeJoin(PiecewiseMergeJoin),
    #[prost(message, tag = "9")]
    RecursiveQuery(RecursiveQuery),
    #[prost(message, tag = "10")]
    WorkTable(WorkTable),
    #[prost(message, tag = "11")]
    Window(Window),
    #[prost(message, tag = "12")]
    FileScan(FileScan),
    #[prost(message, tag = "13")]
    Memory(Memory),
    #[prost(message, tag = "14")]
    Projection(Projection),
    #[prost(message, tag = "15")]
    Series(Series),
    #[prost(message, tag = "16")]
    RowId(RowId),
    #[prost(message, tag = "17")]
    MergeCopies(MergeCopies),
    #[prost(message, tag = "18")]
    TableSink(TableSink),
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Upstream {
    #[prost(message, optional, boxed, tag = "1")]
    pub node: Option<Box<PhysicalPlanNode>>,
    /// A limit that does not fit into the node's own field.
    #[prost(uint64, optional, tag = "2")]
    pub fetch: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Boundary {
    #[prost(uint32, tag = "1")]
    pub stage: u32,
    #[prost(enumeration = "BoundaryKind", tag = "2")]
    pub kind: i32,
    #[prost(uint64, tag = "3")]
    pub producers: u64,
    #[prost(message, optional, tag = "4")]
    pub schema: Option<Schema>,
    #[prost(message, optional, tag = "5")]
    pub ordering: Option<Ordering>,
    #[prost(message, optional, tag = "6")]
    pub partitioning: Option<Partitioning>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum BoundaryKind {
    Shuffle = 0,
    Broadcast = 1,
    Gather = 2,
    Merge = 3,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Slot {
    #[prost(uint64, tag = "1")]
    pub leaf: u64,
    #[prost(uint32, tag = "2")]
    pub input: u32,
    #[prost(uint64, tag = "3")]
    pub partitions: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Generator {
    /// What makes the rows, as JSON.
    #[prost(string, tag = "1")]
    pub generator: String,
    #[prost(message, repeated, tag = "2")]
    pub partitions: Vec<Ranges>,
    #[prost(message, optional, tag = "3")]
    pub projection: Option<Columns>,
    #[prost(uint64, optional, tag = "4")]
    pub fetch: Option<u64>,
    #[prost(bool, tag = "5")]
    pub local: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Ranges {
    /// Start and end of each in turn.
    #[prost(uint64, repeated, tag = "1")]
    pub bounds: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Limit {
    #[prost(uint32, tag = "1")]
    pub input: u32,
    /// Of each partition, not of all rows.
    #[prost(bool, tag = "2")]
    pub local: bool,
    #[prost(uint64, tag = "3")]
    pub skip: u64,
    #[prost(uint64, optional, tag = "4")]
    pub fetch: Option<u64>,
    #[prost(message, optional, tag = "5")]
    pub required_ordering: Option<Ordering>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PartialSort {
    #[prost(uint32, tag = "1")]
    pub input: u32,
    #[prost(message, optional, tag = "2")]
    pub ordering: Option<Ordering>,
    #[prost(uint64, tag = "3")]
    pub common_prefix_length: u64,
    #[prost(bool, tag = "4")]
    pub preserve_partitioning: bool,
    #[prost(uint64, optional, tag = "5")]
    pub fetch: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PartitionedTopK {
    #[prost(uint32, tag = "1")]
    pub input: u32,
    #[prost(message, optional, tag = "2")]
    pub ordering: Option<Ordering>,
    #[prost(uint64, tag = "3")]
    pub partition_prefix_len: u64,
    #[prost(uint64, tag = "4")]
    pub fetch: u64,
    /// `rank()`, else `row_number()`.
    #[prost(bool, tag = "5")]
    pub is_rank: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PiecewiseMergeJoin {
    #[prost(uint32, tag = "1")]
    pub buffered: u32,
    #[prost(uint32, tag = "2")]
    pub streamed: u32,
    #[prost(uint32, tag = "3")]
    pub on_buffered: u32,
    #[prost(uint32, tag = "4")]
    pub on_streamed: u32,
    /// As SQL spells it.
    #[prost(string, tag = "5")]
    pub operator: String,
    #[prost(string, tag = "6")]
    pub join_type: String,
    #[prost(uint64, tag = "7")]
    pub num_partitions: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct RecursiveQuery {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "2")]
    pub schema: Option<Schema>,
    #[prost(uint32, tag = "3")]
    pub static_term: u32,
    #[prost(uint32, tag = "4")]
    pub recursive_term: u32,
    #[prost(bool, tag = "5")]
    pub is_distinct: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct WorkTable {
    #[prost(string, tag = "1")]
    pub name: String,
    /// After the projection.
    #[prost(message, optional, tag = "2")]
    pub schema: Option<Schema>,
    #[prost(message, optional, tag = "3")]
    pub projection: Option<Columns>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Window {
    #[prost(uint32, tag = "1")]
    pub input: u32,
    #[prost(message, repeated, tag = "2")]
    pub exprs: Vec<WindowExpr>,
    #[prost(bool, tag = "3")]
    pub can_repartition: bool,
    /// Runs with bounded memory, over an input in this order.
    #[prost(message, optional, tag = "4")]
    pub bounded: Option<InputOrder>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct InputOrder {
    #[prost(bool, tag = "1")]
    pub sorted: bool,
    /// Only these columns are sorted; absent: none or, if `sorted`, all.
    #[prost(message, optional, tag = "2")]
    pub partially: Option<Columns>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct WindowExpr {
    #[prost(enumeration = "WindowKind", tag = "1")]
    pub kind: i32,
    #[prost(string, tag = "2")]
    pub function: String,
    #[prost(string, tag = "3")]
    pub name: String,
    #[prost(uint32, repeated, tag = "4")]
    pub args: Vec<u32>,
    #[prost(uint32, repeated, tag = "5")]
    pub partition_by: Vec<u32>,
    #[prost(message, repeated, tag = "6")]
    pub order_by: Vec<SortExpr>,
    #[prost(message, optional, tag = "7")]
    pub frame: Option<WindowFrame>,
    #[prost(bool, tag = "8")]
    pub ignore_nulls: bool,
    #[prost(bool, tag = "9")]
    pub distinct: bool,
    #[prost(bool, tag = "10")]
    pub reversed: bool,
    /// The aggregate's own ORDER BY.
    #[prost(message, repeated, tag = "11")]
    pub aggregate_order_by: Vec<SortExpr>,
    #[prost(string, tag = "12")]
    pub human_display: String,
    #[prost(string, tag = "13")]
    pub human_display_alias: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum WindowKind {
    Function = 0,
    PlainAggregate = 1,
    SlidingAggregate = 2,
}

/// A scan of files: the upstream message and what it leaves out.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FileScan {
    #[prost(message, optional, boxed, tag = "1")]
    pub node: Option<Box<PhysicalPlanNode>>,
    #[prost(uint64, optional, tag = "2")]
    pub limit: Option<u64>,
    #[prost(bool, tag = "3")]
    pub preserve_order: bool,
    /// Empty: none.
    #[prost(string, tag = "4")]
    pub compression: String,
    #[prost(uint32, optional, tag = "5")]
    pub csv_terminator: Option<u32>,
    #[prost(bool, tag = "6")]
    pub json_array: bool,
    #[prost(bool, tag = "7")]
    pub arrow_stream: bool,
    /// The files have the reader's default adapter between their schema and the table's set explicitly.
    #[prost(bool, tag = "8")]
    pub default_adapter: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Memory {
    /// Each partition an Arrow IPC stream.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub partitions: Vec<Vec<u8>>,
    /// Before the projection.
    #[prost(message, optional, tag = "2")]
    pub schema: Option<Schema>,
    #[prost(message, optional, tag = "3")]
    pub projection: Option<Columns>,
    /// Over the columns before the projection.
    #[prost(message, repeated, tag = "4")]
    pub orderings: Vec<Ordering>,
    #[prost(bool, tag = "5")]
    pub show_sizes: bool,
    #[prost(uint64, optional, tag = "6")]
    pub fetch: Option<u64>,
}

/// A projection whose schema has metadata, which its expressions may not say.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Projection {
    #[prost(uint32, tag = "1")]
    pub input: u32,
    #[prost(uint32, repeated, tag = "2")]
    pub exprs: Vec<u32>,
    #[prost(string, repeated, tag = "3")]
    pub aliases: Vec<String>,
    #[prost(message, optional, tag = "4")]
    pub schema: Option<Schema>,
}

/// `generate_series` and `range`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Series {
    /// Before the projection.
    #[prost(message, optional, boxed, tag = "1")]
    pub node: Option<Box<PhysicalPlanNode>>,
    #[prost(message, optional, tag = "2")]
    pub projection: Option<Columns>,
    #[prost(message, optional, tag = "3")]
    pub ordering: Option<Ordering>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct RowId {
    #[prost(uint32, tag = "1")]
    pub input: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct MergeCopies {
    #[prost(uint32, tag = "1")]
    pub input: u32,
    #[prost(enumeration = "Keep", tag = "2")]
    pub keep: i32,
    /// The mark, where that is what is kept.
    #[prost(uint64, optional, tag = "3")]
    pub column: Option<u64>,
    #[prost(uint64, tag = "4")]
    pub tasks: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct TableSink {
    #[prost(uint32, tag = "1")]
    pub input: u32,
    /// What is written and where, as JSON.
    #[prost(string, tag = "2")]
    pub target: String,
    /// The table's columns.
    #[prost(message, optional, tag = "3")]
    pub schema: Option<Schema>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum Keep {
    FromAny = 0,
    FromAll = 1,
    Marked = 2,
}

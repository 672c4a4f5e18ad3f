//! The eight TPC-H tables as streams of Arrow batches, cut into parts that any task can make on its own.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use datafusion::common::stats::Precision;
use serde::{Deserialize, Serialize};
use tpchgen::distribution::Distributions;
use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator, PartSuppGenerator,
    RegionGenerator, SupplierGenerator,
};
use tpchgen::text::TextPool;
use tpchgen_arrow::{
    CustomerArrow, LineItemArrow, NationArrow, OrderArrow, PartArrow, PartSuppArrow, RegionArrow, SupplierArrow,
};

/// Rows of a part, counted in the table that drives it: `orders` drives `lineitem`, `part` drives `partsupp`.
/// Small enough that a few cores share the work of scale 0.1, large enough that a part's start-up does not show.
const DRIVING_ROWS_PER_PART: u64 = 8192;

/// Lines of an order on average: TPC-H draws them evenly from 1 to 7.
const LINES_PER_ORDER: u64 = 4;
const SUPPLIERS_PER_PART: u64 = 4;

/// Text that stands in for the real pool where no comment is read. All other columns draw from streams of their own.
const SMALL_POOL_BYTES: i32 = 64 * 1024;

/// Batches of one part, in the order of the table's key.
pub type PartBatches = Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>> + Send>;

/// One of the tables of TPC-H.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TpchTable {
    Customer,
    Lineitem,
    Nation,
    Orders,
    Part,
    Partsupp,
    Region,
    Supplier,
}

impl TpchTable {
    pub const ALL: [TpchTable; 8] = [
        Self::Customer,
        Self::Lineitem,
        Self::Nation,
        Self::Orders,
        Self::Part,
        Self::Partsupp,
        Self::Region,
        Self::Supplier,
    ];

    /// The smallest and largest scale that the generator makes sense of: below, a table would have no supplier.
    pub const SCALES: std::ops::RangeInclusive<f64> = 0.001..=100_000.0;

    pub fn name(self) -> &'static str {
        match self {
            Self::Customer => "customer",
            Self::Lineitem => "lineitem",
            Self::Nation => "nation",
            Self::Orders => "orders",
            Self::Part => "part",
            Self::Partsupp => "partsupp",
            Self::Region => "region",
            Self::Supplier => "supplier",
        }
    }

    /// All columns, none of them nullable.
    pub fn schema(self) -> SchemaRef {
        match self {
            Self::Customer => CustomerArrow::schema_ref(),
            Self::Lineitem => LineItemArrow::schema_ref(),
            Self::Nation => NationArrow::schema_ref(),
            Self::Orders => OrderArrow::schema_ref(),
            Self::Part => PartArrow::schema_ref(),
            Self::Partsupp => PartSuppArrow::schema_ref(),
            Self::Region => RegionArrow::schema_ref(),
            Self::Supplier => SupplierArrow::schema_ref(),
        }
    }

    /// How many parts the table has at this scale. Depends on nothing else, so that all nodes agree on it.
    pub fn parts(self, scale: f64) -> u64 {
        self.driving_rows(scale).div_ceil(DRIVING_ROWS_PER_PART).clamp(1, i32::MAX as u64)
    }

    /// Rows of the parts `start..end`. Exact but for `lineitem`, whose lines per order are drawn.
    pub fn rows(self, scale: f64, start: u64, end: u64) -> Precision<usize> {
        let parts = self.parts(scale);
        let total = self.driving_rows(scale);
        // Every part has the same number of rows, the last one also what is left over.
        let first_row = |part: u64| if part >= parts { total } else { total / parts * part };
        let driving = first_row(end).saturating_sub(first_row(start));
        let rows = |per_row: u64| usize::try_from(driving.saturating_mul(per_row)).unwrap_or(usize::MAX);
        match self {
            Self::Lineitem => Precision::Inexact(rows(LINES_PER_ORDER)),
            Self::Partsupp => Precision::Exact(rows(SUPPLIERS_PER_PART)),
            _ => Precision::Exact(rows(1)),
        }
    }

    /// An estimate of the distinct values of each column that is a key, by its index.
    pub fn key_values(self, scale: f64) -> Vec<(usize, u64)> {
        let of = |table: Self| table.driving_rows(scale).max(1);
        match self {
            // A third of the customers never order.
            Self::Customer => vec![(0, of(self)), (3, 25)],
            Self::Lineitem => vec![(0, of(Self::Orders)), (1, of(Self::Part)), (2, of(Self::Supplier))],
            Self::Nation => vec![(0, 25), (2, 5)],
            Self::Orders => vec![(0, of(self)), (1, (of(Self::Customer) * 2 / 3).max(1))],
            Self::Part => vec![(0, of(self))],
            Self::Partsupp => vec![(0, of(Self::Part)), (1, of(Self::Supplier))],
            Self::Region => vec![(0, 5)],
            Self::Supplier => vec![(0, of(self)), (3, 25)],
        }
    }

    /// Generates one part, from 0. `comments` says whether text columns have to hold their real text.
    ///
    /// The first part that needs real text builds a pool of 300 MiB, which takes a second or two: see
    /// [`prepare_text`].
    pub fn batches(self, scale: f64, part: u64, batch_size: usize, comments: bool) -> PartBatches {
        let parts = self.parts(scale) as i32;
        let part = i32::try_from(part + 1).unwrap_or(i32::MAX);
        let words = Distributions::static_default();
        let text = if comments { TextPool::get_or_init_default() } else { small_pool() };
        macro_rules! rows {
            ($arrow:ident, $generator:expr) => {
                Box::new($arrow::new($generator).with_batch_size(batch_size))
            };
        }
        match self {
            Self::Customer => rows!(
                CustomerArrow,
                CustomerGenerator::new_with_distributions_and_text_pool(scale, part, parts, words, text)
            ),
            Self::Lineitem => rows!(
                LineItemArrow,
                LineItemGenerator::new_with_distributions_and_text_pool(scale, part, parts, words, text)
            ),
            Self::Nation => {
                rows!(NationArrow, NationGenerator::new_with_distributions_and_text_pool(words, text))
            }
            Self::Orders => {
                rows!(OrderArrow, OrderGenerator::new_with_distributions_and_text_pool(scale, part, parts, words, text))
            }
            Self::Part => {
                rows!(PartArrow, PartGenerator::new_with_distributions_and_text_pool(scale, part, parts, words, text))
            }
            Self::Partsupp => {
                rows!(PartSuppArrow, PartSuppGenerator::new_with_text_pool(scale, part, parts, text))
            }
            Self::Region => {
                rows!(RegionArrow, RegionGenerator::new_with_distributions_and_text_pool(words, text))
            }
            Self::Supplier => rows!(
                SupplierArrow,
                SupplierGenerator::new_with_distributions_and_text_pool(scale, part, parts, words, text)
            ),
        }
    }

    /// Whether a projection reads text that comes from the pool.
    pub fn reads_comments(self, projection: Option<&[usize]>) -> bool {
        let schema = self.schema();
        let is_comment = |column: usize| schema.field(column).name().ends_with("_comment");
        match projection {
            Some(columns) => columns.iter().copied().any(is_comment),
            None => true,
        }
    }

    /// Estimated bytes of one value of each column in memory.
    pub fn column_bytes(self) -> Vec<usize> {
        let width = |name: &str, data_type: &DataType| match data_type {
            DataType::Utf8View if name.ends_with("_comment") => 64,
            DataType::Utf8View if name.ends_with("_name") || name.ends_with("_address") => 40,
            DataType::Utf8View => 16,
            other => other.primitive_width().unwrap_or(8),
        };
        self.schema().fields().iter().map(|field| width(field.name(), field.data_type())).collect()
    }

    /// Rows of the table whose rows decide how many this one has.
    fn driving_rows(self, scale: f64) -> u64 {
        let rows = match self {
            Self::Customer => CustomerGenerator::calculate_row_count(scale, 1, 1),
            Self::Lineitem | Self::Orders => OrderGenerator::calculate_row_count(scale, 1, 1),
            Self::Nation => 25,
            Self::Part | Self::Partsupp => PartGenerator::calculate_row_count(scale, 1, 1),
            Self::Region => 5,
            Self::Supplier => SupplierGenerator::calculate_row_count(scale, 1, 1),
        };
        u64::try_from(rows).unwrap_or(0)
    }
}

impl fmt::Display for TpchTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for TpchTable {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|table| table.name() == text);
        found.ok_or_else(|| format!("TPC-H has no table {text:?}"))
    }
}

/// A scale as text: JSON's numbers may come back a bit off, and then two nodes would not agree on a table's rows.
pub mod exact_scale {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(scale: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(scale)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|_| D::Error::custom(format!("scale '{text}' is not a number")))
    }
}

/// Whether [`prepare_text`] has nothing left to do.
pub fn text_is_ready() -> bool {
    READY.get().is_some()
}

/// Builds the text that comments are cut from; takes a second or two once a process. To be called off the runtime.
pub fn prepare_text() {
    TextPool::get_or_init_default();
    READY.get_or_init(|| ());
}

static READY: OnceLock<()> = OnceLock::new();

fn small_pool() -> &'static TextPool {
    static POOL: OnceLock<TextPool> = OnceLock::new();
    POOL.get_or_init(|| TextPool::new(SMALL_POOL_BYTES, Distributions::static_default()))
}

#[cfg(test)]
mod tests {
    use arrow::compute::concat_batches;

    use super::*;

    fn all(table: TpchTable, parts: std::ops::Range<u64>) -> RecordBatch {
        let batches: Vec<_> =
            parts.flat_map(|part| table.batches(0.02, part, 1000, false)).collect::<Result<_, _>>().unwrap();
        concat_batches(&table.schema(), &batches).unwrap()
    }

    #[test]
    fn parts_make_up_the_table() {
        for table in TpchTable::ALL {
            let parts = table.parts(0.02);
            let rows = all(table, 0..parts).num_rows();
            match table.rows(0.02, 0, parts) {
                Precision::Exact(exact) => assert_eq!(exact, rows, "{table}"),
                estimate => {
                    let estimate = *estimate.get_value().unwrap() as f64;
                    assert!((estimate / rows as f64 - 1.0).abs() < 0.02, "{table}: {estimate} of {rows}");
                }
            }
        }
        assert_eq!(TpchTable::Lineitem.parts(0.02), 4);
    }

    #[test]
    fn a_part_is_the_same_whoever_makes_it() {
        let table = TpchTable::Orders;
        let whole = all(table, 0..4);
        let last = all(table, 3..4);
        assert_eq!(
            whole.slice(whole.num_rows() - last.num_rows(), last.num_rows()).columns()[..8],
            last.columns()[..8]
        );
    }

    #[test]
    fn only_comments_need_the_text() {
        for table in TpchTable::ALL {
            let whole = table.batches(0.01, 0, 500, true).next().unwrap().unwrap();
            let quick = table.batches(0.01, 0, 500, false).next().unwrap().unwrap();
            for (column, field) in table.schema().fields().iter().enumerate() {
                let is_same = whole.column(column) == quick.column(column);
                assert_eq!(is_same, !table.reads_comments(Some(&[column])), "{}", field.name());
            }
        }
    }

    #[test]
    fn names_read_back() {
        for table in TpchTable::ALL {
            assert_eq!(table.name().parse(), Ok(table));
        }
        assert!("regions".parse::<TpchTable>().is_err());
    }
}

//! `sheaf_row_id()`: a number for each row that no other row of the plan has.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use arrow::array::UInt64Array;
use arrow::datatypes::DataType;
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

pub const ROW_ID: &str = "sheaf_row_id";

/// Where this process goes on. It begins anywhere among 2^64 numbers: that two processes come to the same ones while
/// they work for one plan is as likely as losing both disks meanwhile.
static NEXT: LazyLock<AtomicU64> = LazyLock::new(|| AtomicU64::new(RandomState::new().build_hasher().finish()));

/// Volatile: two rows that are equal in all else are told apart by it.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct RowId {
    signature: Signature,
}

impl RowId {
    pub fn new() -> Self {
        Self { signature: Signature::nullary(Volatility::Volatile) }
    }
}

impl ScalarUDFImpl for RowId {
    fn name(&self) -> &str {
        ROW_ID
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::UInt64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows as u64;
        let first = NEXT.fetch_add(rows, Ordering::Relaxed);
        let ids = UInt64Array::from_iter_values((0..rows).map(|it| first.wrapping_add(it)));
        Ok(ColumnarValue::Array(Arc::new(ids)))
    }
}

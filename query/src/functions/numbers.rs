//! `numbers(n)`: one column `number`, from 0 below `n`.

use std::sync::Arc;

use datafusion::catalog::{TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::error::Result;

use super::arguments::{count, wrong};
use crate::tables::generated::GeneratedTable;

#[derive(Debug)]
pub(super) struct Numbers {
    name: &'static str,
    is_local: bool,
}

impl Numbers {
    /// Scanned in parallel, by all workers.
    pub fn new(name: &'static str) -> Self {
        Self { name, is_local: false }
    }

    /// One partition that stays where the statement arrived.
    pub fn local(name: &'static str) -> Self {
        Self { name, is_local: true }
    }
}

impl TableFunctionImpl for Numbers {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let [n] = args.exprs() else {
            return Err(wrong(format!("{} takes one argument, got {}", self.name, args.exprs().len())));
        };
        let table = GeneratedTable::numbers(count(self.name, n)?);
        Ok(Arc::new(if self.is_local { table.local() } else { table }))
    }
}

#[cfg(test)]
mod tests {
    use crate::catalog::provider::tests::{answer, session};

    #[tokio::test]
    async fn numbers_count() {
        let (_folder, _tables, session) = session();
        for name in ["numbers", "numbers_mt", "numbers_local"] {
            let sql = format!("select count(*), sum(number), max(number) from {name}(10 * 10)");
            let text = answer(&session, &sql).await.unwrap();
            assert!(text.contains("| 100 ") && text.contains("| 4950 ") && text.contains("| 99 "), "{text}");
        }
        assert!(answer(&session, "select * from numbers(0)").await.unwrap().contains("++"));
        for wrong in ["numbers(-1)", "numbers('x')", "numbers()", "numbers(1, 2)", "numbers(1.5)"] {
            let error = answer(&session, &format!("select * from {wrong}")).await.unwrap_err().to_string();
            assert!(error.contains("numbers"), "{wrong}: {error}");
        }
    }
}

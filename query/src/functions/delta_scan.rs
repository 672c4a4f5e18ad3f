//! `delta_scan('folder'[, version])`: a Delta table that the catalog does not know.

use std::sync::Arc;

use datafusion::catalog::{Session, TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::TableReference;
use datafusion::error::Result;

use super::arguments::{count, text, wrong};
use super::read_files::wait;
use crate::tables::TableError;
use crate::tables::delta::{self, AsOf, DeltaTable};
use crate::tables::sources::{Sources, StoreOptions};

const NAME: &str = "delta_scan";

#[derive(Debug)]
pub(super) struct DeltaScan {
    sources: Arc<Sources>,
}

impl DeltaScan {
    pub fn new(sources: Arc<Sources>) -> Self {
        Self { sources }
    }

    async fn open(
        &self,
        session: &dyn Session,
        location: &str,
        version: Option<u64>,
    ) -> std::result::Result<DeltaTable, TableError> {
        let reference = TableReference::bare(format!("{NAME}({location})"));
        let newest = delta::open(session, &self.sources, reference, location, &StoreOptions::default()).await?;
        match version {
            Some(version) => newest.as_of(&AsOf::Version(version)).await,
            None => Ok(newest),
        }
    }
}

impl TableFunctionImpl for DeltaScan {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let (location, version) = match args.exprs() {
            [location] => (text(NAME, location)?, None),
            [location, version] => (text(NAME, location)?, Some(count(NAME, version)?)),
            _ => return Err(wrong(format!("{NAME} takes a folder and, if not the newest is meant, a version"))),
        };
        let table = wait(self.open(args.session(), &location, version))
            .map_err(|source| TableError::unreadable(NAME, source))??;
        Ok(match version {
            Some(_) => Arc::new(table),
            None => Arc::new(table.pin(args.session())),
        })
    }
}

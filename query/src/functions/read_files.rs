//! `read_parquet('path')`, `read_csv('path')`, `read_json('path')`: files whose format is said, not guessed.

use std::future::Future;
use std::sync::Arc;

use datafusion::catalog::{Session, TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::TableReference;
use datafusion::error::Result;
use tokio::runtime::{Builder, Handle, RuntimeFlavor};

use super::arguments::{text, wrong};
use crate::tables::TableError;
use crate::tables::external::{FilesRequest, FilesTable, define};
use crate::tables::files::FileKind;
use crate::tables::sources::Sources;

#[derive(Debug)]
pub(super) struct ReadFiles {
    name: &'static str,
    format: FileKind,
    sources: Arc<Sources>,
}

impl ReadFiles {
    pub fn new(name: &'static str, format: FileKind, sources: Arc<Sources>) -> Self {
        Self { name, format, sources }
    }

    async fn open(&self, session: &dyn Session, locations: Vec<String>) -> std::result::Result<FilesTable, TableError> {
        let reference = TableReference::bare(format!("{}({})", self.name, locations.join(", ")));
        let request = FilesRequest { format: Some(self.format), locations, ..FilesRequest::default() };
        let def = define(session, &self.sources, request).await?;
        Ok(FilesTable::new(reference, def, Arc::clone(&self.sources)))
    }
}

impl TableFunctionImpl for ReadFiles {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        if args.exprs().is_empty() {
            return Err(wrong(format!("{} takes at least one path", self.name)));
        }
        let locations = args.exprs().iter().map(|it| text(self.name, it)).collect::<Result<Vec<_>>>()?;
        let table = wait(self.open(args.session(), locations))
            .map_err(|source| TableError::unreadable(self.name, source))??;
        Ok(Arc::new(table))
    }
}

/// Waits in a place where DataFusion's planner cannot: it asks for a function's columns without `async`.
///
/// On a runtime of several threads the others go on with this one's work; else a thread of its own does it, for the
/// one that waits may be the only one.
pub(super) fn wait<T: Send>(work: impl Future<Output = T> + Send) -> std::io::Result<T> {
    match Handle::try_current() {
        Ok(handle) if handle.runtime_flavor() == RuntimeFlavor::MultiThread => {
            Ok(tokio::task::block_in_place(|| handle.block_on(work)))
        }
        _ => {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            std::thread::scope(|scope| {
                let thread = scope.spawn(move || runtime.block_on(work));
                thread.join().map_err(|_| std::io::Error::other("the reader of the files panicked"))
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::catalog::provider::tests::{answer, session};

    async fn check() {
        let (folder, _tables, session) = session();
        // The name says nothing of the format.
        std::fs::write(folder.path().join("root/a.txt"), "n\n1\n2\n").unwrap();
        let text = answer(&session, "select sum(n) as s from read_csv('a.txt')").await.unwrap();
        assert!(text.contains("| 3 |"), "{text}");
        for (sql, part) in [
            ("select * from read_parquet('a.txt')", "cannot read file"),
            ("select * from read_csv('/etc/passwd')", "denied"),
            ("select * from read_csv(1)", "has to be a text"),
            ("select * from read_csv()", "at least one path"),
        ] {
            let error = answer(&session, sql).await.unwrap_err().to_string();
            assert!(error.contains(part), "{sql}: {error}");
        }
    }

    #[tokio::test]
    async fn reads_on_one_thread() {
        check().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn reads_on_several_threads() {
        check().await;
    }
}

//! Table functions: what may stand in FROM with arguments.

pub mod arguments;
mod numbers;
mod read_files;

use std::sync::Arc;

use datafusion::catalog::TableFunctionImpl;
use datafusion::prelude::SessionContext;

use crate::catalog::provider::Tables;
use crate::tables::files::FileKind;
use numbers::Numbers;
use read_files::ReadFiles;

/// All table functions of ours by name. DataFusion's own (`generate_series`, `range`) come with its defaults.
pub fn table_functions(tables: &Arc<Tables>) -> Vec<(&'static str, Arc<dyn TableFunctionImpl>)> {
    let read = |name, format| Arc::new(ReadFiles::new(name, format, Arc::clone(&tables.roots))) as _;
    vec![
        ("numbers", Arc::new(Numbers::new("numbers"))),
        ("numbers_local", Arc::new(Numbers::local("numbers_local"))),
        ("numbers_mt", Arc::new(Numbers::new("numbers_mt"))),
        ("read_csv", read("read_csv", FileKind::Csv)),
        ("read_json", read("read_json", FileKind::Json)),
        ("read_parquet", read("read_parquet", FileKind::Parquet)),
    ]
}

/// Makes our functions known to a session.
pub fn register(session: &SessionContext, tables: &Arc<Tables>) {
    for (name, function) in table_functions(tables) {
        session.register_udtf(name, function);
    }
}

//! Functions of ours: table functions, which may stand in FROM with arguments, MySQL's scalar functions, and one for
//! tests.

pub mod arguments;
mod delta_scan;
pub mod mysql;
mod numbers;
pub mod planted;
mod read_files;

use std::sync::Arc;

use datafusion::catalog::TableFunctionImpl;
use datafusion::prelude::SessionContext;

use crate::catalog::provider::Tables;
use crate::tables::files::FileKind;
use delta_scan::DeltaScan;
use numbers::Numbers;
use read_files::ReadFiles;

/// All table functions of ours by name. DataFusion's own (`generate_series`, `range`) come with its defaults.
pub fn table_functions(tables: &Arc<Tables>) -> Vec<(&'static str, Arc<dyn TableFunctionImpl>)> {
    let read = |name, format| Arc::new(ReadFiles::new(name, format, Arc::clone(&tables.sources))) as _;
    vec![
        ("delta_scan", Arc::new(DeltaScan::new(Arc::clone(&tables.sources)))),
        ("numbers", Arc::new(Numbers::new("numbers"))),
        ("numbers_local", Arc::new(Numbers::local("numbers_local"))),
        ("numbers_mt", Arc::new(Numbers::new("numbers_mt"))),
        ("read_csv", read("read_csv", FileKind::Csv)),
        ("read_json", read("read_json", FileKind::Json)),
        ("read_parquet", read("read_parquet", FileKind::Parquet)),
    ]
}

/// Whether a table function makes its rows up. Of all others it is taken that they read files or ask other servers, which
/// takes the privilege `FILE`.
pub(crate) fn reads_nothing(name: &str) -> bool {
    const GENERATORS: [&str; 5] = ["generate_series", "numbers", "numbers_local", "numbers_mt", "range"];
    GENERATORS.iter().any(|it| it.eq_ignore_ascii_case(name))
}

/// Makes our functions known to a session.
pub fn register(session: &SessionContext, tables: &Arc<Tables>) {
    for (name, function) in table_functions(tables) {
        session.register_udtf(name, function);
    }
}

//! What the statements of a session change.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use datafusion::common::ScalarValue;
use sheaf_common::settings::Settings;
use sheaf_common::{Classify, QueryId};
use sheaf_planners::parser::Statement;
use sheaf_planners::warnings::QueryWarnings;

use crate::access::AccountName;
use crate::context::QueryContext;
use crate::coordinator::Counts;
use crate::error::QueryError;
use crate::metrics;
use crate::variables::Variables;

/// Warnings that are kept with their text; further ones are only counted.
const WARNINGS_MAX: usize = 64;
/// MySQL's number for a division by zero.
const DIVISION_BY_ZERO: u16 = 1365;
/// And for a value that a conversion did not take whole.
const TRUNCATED: u16 = 1292;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Note,
    Warning,
    Error,
}

impl Level {
    pub fn name(self) -> &'static str {
        match self {
            Self::Note => "Note",
            Self::Warning => "Warning",
            Self::Error => "Error",
        }
    }
}

/// One line of `SHOW WARNINGS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    pub level: Level,
    pub code: u16,
    pub message: String,
}

pub(crate) struct State {
    pub database: Option<String>,
    pub variables: Variables,
    pub user_variables: HashMap<String, ScalarValue>,
    pub settings: Settings,
    /// DataFusion's options that the session set. Invariant: each was accepted once.
    pub options: BTreeMap<String, String>,
    pub warnings: Vec<Warning>,
    /// Those that were not kept included.
    pub warning_total: u64,
    /// Whether the last statement asked about those.
    pub is_diagnostic: bool,
    pub in_transaction: bool,
    /// What the client logged in with.
    pub login_collation: u16,
    /// What `PREPARE` was given, by name in small letters.
    pub prepared: HashMap<String, Statement>,
    /// Those that are on.
    pub roles: BTreeSet<AccountName>,
    /// Rows of the last answer with rows.
    pub found_rows: i64,
    /// Rows that the last statement changed; -1 after one that answered with rows.
    pub row_count: i64,
    /// The query whose rows were read last, and what it took.
    pub last_query: Option<(QueryId, Counts)>,
}

impl State {
    pub fn new(variables: Variables, settings: Settings, database: Option<String>) -> Self {
        Self {
            database,
            variables,
            user_variables: HashMap::new(),
            settings,
            options: BTreeMap::new(),
            warnings: vec![],
            warning_total: 0,
            is_diagnostic: false,
            in_transaction: false,
            login_collation: 0,
            prepared: HashMap::new(),
            roles: BTreeSet::new(),
            found_rows: 0,
            row_count: 0,
            last_query: None,
        }
    }

    /// A statement begins. It has no warnings yet, unless it is to show those of the one before.
    pub fn begin(&mut self, is_diagnostic: bool) {
        self.is_diagnostic = is_diagnostic;
        if !is_diagnostic {
            self.warnings.clear();
            self.warning_total = 0;
        }
    }

    pub fn warn(&mut self, level: Level, code: u16, message: String) {
        self.warning_total += 1;
        if self.warnings.len() < WARNINGS_MAX {
            self.warnings.push(Warning { level, code, message });
        }
    }

    pub fn fail(&mut self, error: &QueryError) {
        metrics::failed();
        self.row_count = -1;
        self.warn(Level::Error, error.code().numbers().mysql, error.to_string());
    }

    /// A statement without rows is done.
    pub fn done(&mut self, affected_rows: u64, warnings: &QueryWarnings) {
        metrics::finished();
        self.row_count = i64::try_from(affected_rows).unwrap_or(i64::MAX);
        self.count(warnings);
    }

    /// A statement's rows have all been read.
    pub fn read(&mut self, n_rows: u64, context: &QueryContext) {
        metrics::read(n_rows, context.stats.counts());
        if let Some(counts) = context.stats.counts() {
            self.last_query = Some((context.query, Counts { rows: n_rows, ..counts }));
        }
        self.found_rows = i64::try_from(n_rows).unwrap_or(i64::MAX);
        self.row_count = -1;
        self.count(&context.warnings);
    }

    fn count(&mut self, warnings: &QueryWarnings) {
        let n_divisions = warnings.divisions_by_zero();
        let n_kept = usize::try_from(n_divisions).unwrap_or(usize::MAX).min(WARNINGS_MAX);
        for _ in 0..n_kept {
            self.warn(Level::Warning, DIVISION_BY_ZERO, "division by 0".to_owned());
        }
        self.warning_total += n_divisions - n_kept as u64;
        let truncations = warnings.truncations();
        self.warning_total += truncations.n_values - truncations.texts.len() as u64;
        for text in truncations.texts {
            self.warn(Level::Warning, TRUNCATED, text);
        }
    }

    pub fn error_count(&self) -> usize {
        self.warnings.iter().filter(|it| it.level == Level::Error).count()
    }
}

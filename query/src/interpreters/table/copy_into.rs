//! `COPY INTO t FROM 'path'`: files into a table, each of them once.
//!
//! All files that were not loaded before are read by one plan, whose tasks write the table's files; a value that does
//! not fit makes a row that is left out and counted, and too many of those end the statement. Where rows may be left
//! out, a file that cannot be read at all is found by trying each alone.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema};
use datafusion::common::{DFSchema, TableReference};
use datafusion::datasource::provider_as_source;
use datafusion::functions::expr_fn::{coalesce, concat};
use datafusion::logical_expr::{Expr as PlanExpr, LogicalPlan, LogicalPlanBuilder, cast, lit, try_cast, when};
use futures::StreamExt;
use sheaf_common::{Classify, ErrorCode, WireError};
use sheaf_planners::parser::CopyInto;
use sheaf_planners::table_sink::LOAD_COLUMNS;

use super::insert::position;
use super::retry::{Manner, retried};
use super::rows_of::default_of;
use super::{Answer, Attempt, QueryContext, QueryError, Session, Target, change_of, commit, failed};
use crate::interpreters::rows::Rows;
use crate::managed::loads::{Load, Loads};
use crate::managed::log::{Snapshot, now_ms};
use crate::managed::writer::{LoadedSource, Written};
use crate::tables::external::{FilesDef, FilesRequest, FilesTable, define};
use crate::tables::files::{FileKind, FoundFile};
use crate::tables::{TableError, wire};

/// Files whose columns are looked at at once.
const LOOKS_MAX: usize = 16;

pub(super) fn report() -> Rows {
    Rows::new(&["file", "status", "#rows_loaded", "#rows_rejected", "first_error"])
}

pub(super) async fn run(session: &Session, context: &Arc<QueryContext>, copy: CopyInto) -> Result<Answer, QueryError> {
    let (copy, request) = (&copy, &Request::of(&copy)?);
    let run = |target: Arc<Target>, attempt| async move {
        let snapshot = target.latest(context).await?;
        Loader { context, target: &target, snapshot: &snapshot, copy, request }.load(attempt).await
    };
    retried(session, context, &copy.table, Manner::Adds, run).await
}

/// The statement's options.
struct Request {
    format: FileKind,
    /// Those of the store and of the format.
    options: HashMap<String, String>,
    /// Rows, or whole files, that may be left out.
    rejects_max: u64,
    /// Files that were loaded before are loaded again.
    force: bool,
}

impl Request {
    fn of(copy: &CopyInto) -> Result<Self, QueryError> {
        let invalid = |text: String| QueryError::InvalidArgument(text);
        let format = match &copy.format {
            Some(name) => FileKind::parse(name).map_err(table_failed)?,
            None => FileKind::of_path(&copy.location).ok_or_else(|| {
                invalid(format!("cannot tell the format of '{}' by its name: say FILE_FORMAT = CSV", copy.location))
            })?,
        };
        if format == FileKind::Delta {
            return Err(QueryError::unsupported("COPY INTO from a Delta table: INSERT … SELECT … FROM delta_scan()"));
        }
        let (mut continues, mut limit, mut force, mut options) = (false, None, false, HashMap::new());
        for (name, value) in &copy.options {
            match name.as_str() {
                "on_error" => {
                    continues = match value.to_ascii_lowercase().as_str() {
                        "continue" => true,
                        "abort" => false,
                        _ => return Err(invalid(format!("on_error '{value}' is neither continue nor abort"))),
                    }
                }
                "error_limit" => {
                    let parsed = value.parse::<u64>();
                    limit = Some(parsed.map_err(|_| invalid(format!("error_limit '{value}' is not a number")))?);
                }
                "force" => {
                    force = match value.to_ascii_lowercase().as_str() {
                        "true" | "1" => true,
                        "false" | "0" => false,
                        _ => return Err(invalid(format!("force '{value}' is neither true nor false"))),
                    }
                }
                _ => _ = options.insert(name.clone(), value.clone()),
            }
        }
        if limit.is_some() && !continues {
            return Err(invalid("error_limit needs on_error = 'continue'".to_owned()));
        }
        let rejects_max = if continues { limit.unwrap_or(u64::MAX) } else { 0 };
        Ok(Self { format, options, rejects_max, force })
    }
}

fn table_failed(error: TableError) -> QueryError {
    QueryError::Wire(wire(&error))
}

/// What became of one file.
enum Outcome {
    /// It was loaded by an earlier statement.
    Skipped,
    Loaded(LoadedSource),
    /// Nothing of it could be read.
    Failed(String),
}

struct Loader<'a> {
    context: &'a Arc<QueryContext>,
    target: &'a Target,
    snapshot: &'a Arc<Snapshot>,
    copy: &'a CopyInto,
    request: &'a Request,
}

impl Loader<'_> {
    async fn load(&self, attempt: u32) -> Result<Answer, QueryError> {
        let mut loads = self.target.log.loads().await.map_err(failed)?;
        let mut outcomes: BTreeMap<String, Outcome> = BTreeMap::new();
        let mut new = vec![];
        for file in self.files().await? {
            let name = file.shown();
            match loads.files.contains_key(&name) && !self.request.force {
                true => _ = outcomes.insert(name, Outcome::Skipped),
                false => new.push(file),
            }
        }
        let mut defs = vec![];
        for (file, def) in self.defs(&new).await? {
            match def {
                Ok(def) => defs.push((file, def)),
                Err(error) => self.give_up(&mut outcomes, file, error)?,
            }
        }
        let mut attempt = Attempt::new(self.context, &self.target.log, attempt);
        let written = self.write(&mut attempt, defs, &mut outcomes).await?;
        for source in written.sources {
            match outcomes.get_mut(&source.source) {
                Some(Outcome::Loaded(before)) => before.add(source),
                _ => _ = outcomes.insert(source.source.clone(), Outcome::Loaded(source)),
            }
        }
        let rejects: u64 = outcomes.values().map(Outcome::rejects).sum();
        if rejects > self.request.rejects_max {
            let first = outcomes.iter().find_map(|(name, it)| Some(format!("'{name}': {}", it.error()?)));
            let text = format!("{rejects} rows or files could not be loaded; the first: {}", first.unwrap_or_default());
            return Err(QueryError::InvalidArgument(text));
        }
        self.commit(attempt, &written.files, &outcomes, &mut loads).await?;
        let mut rows = report();
        for (name, outcome) in outcomes {
            let (status, loaded, rejected) = outcome.counts();
            let error = outcome.error().map(str::to_owned);
            rows.push(vec![Some(name), Some(status.to_owned()), Some(loaded), Some(rejected), error]);
        }
        rows.answer()
    }

    /// All files of the location.
    async fn files(&self) -> Result<Vec<FoundFile>, QueryError> {
        let sources = &self.context.engine.tables().sources;
        let session = self.context.session_state.as_ref();
        let (store, _) = self.files_request(&self.copy.location).split_options();
        let store = sources.store(session, std::slice::from_ref(&self.copy.location), &store).map_err(table_failed)?;
        let found = sources.list(session, &store, &self.copy.location, Some(self.request.format)).await;
        let found = found.map_err(table_failed)?.as_ref().clone();
        match found.iter().find(|it| !it.partitions.is_empty()) {
            Some(file) => {
                let what = format!("COPY INTO from folders named key=value, such as that of '{}',", file.shown());
                Err(QueryError::unsupported(what))
            }
            None => Ok(found),
        }
    }

    fn files_request(&self, location: &str) -> FilesRequest {
        FilesRequest {
            format: Some(self.request.format),
            locations: vec![location.to_owned()],
            options: self.request.options.clone(),
            ..FilesRequest::default()
        }
    }

    /// What each file is as a table of its own, or why it is none.
    async fn defs(&self, files: &[FoundFile]) -> Result<Vec<(String, Result<FilesDef, TableError>)>, QueryError> {
        let sources = &self.context.engine.tables().sources;
        let session = self.context.session_state.as_ref();
        let looks: Vec<_> = files
            .iter()
            .map(|file| async move {
                let mut def = define(session, sources, self.files_request(&file.location())).await;
                if let Ok(def) = &mut def
                    && self.request.format == FileKind::Csv
                {
                    // Texts: what is no value of its column is told by us, and not the end of the file.
                    for column in &mut def.columns {
                        column.type_name.0 = DataType::Utf8;
                        column.nullable = true;
                    }
                }
                (file.shown(), def)
            })
            .collect();
        Ok(futures::stream::iter(looks).buffered(LOOKS_MAX).collect().await)
    }

    /// Leaves a file out, if that is allowed.
    fn give_up(
        &self,
        outcomes: &mut BTreeMap<String, Outcome>,
        file: String,
        error: TableError,
    ) -> Result<(), QueryError> {
        let n_before = outcomes.values().filter(|it| matches!(it, Outcome::Failed(_))).count() as u64;
        if n_before >= self.request.rejects_max {
            return Err(table_failed(error));
        }
        outcomes.insert(file, Outcome::Failed(wire(&error).message));
        Ok(())
    }

    /// Writes the rows of files; those that cannot be read are left out if that is allowed.
    async fn write(
        &self,
        attempt: &mut Attempt,
        defs: Vec<(String, FilesDef)>,
        outcomes: &mut BTreeMap<String, Outcome>,
    ) -> Result<Written, QueryError> {
        if defs.is_empty() {
            return Ok(Written::default());
        }
        for (file, _) in &defs {
            // One without a row says nothing of itself.
            let nothing = LoadedSource { source: file.clone(), ..LoadedSource::default() };
            outcomes.insert(file.clone(), Outcome::Loaded(nothing));
        }
        let part = attempt.part(0);
        let error = match self.write_at_once(&part, &defs).await {
            Ok(written) => {
                attempt.absorb(part);
                return Ok(written);
            }
            Err(error) => error,
        };
        if self.request.rejects_max == 0 || !is_of_a_file(&error) {
            return Err(error);
        }
        drop(part);
        let mut written = Written::default();
        for (number, def) in defs.into_iter().enumerate() {
            let part = attempt.part(number + 1);
            match self.write_at_once(&part, std::slice::from_ref(&def)).await {
                Ok(more) => {
                    attempt.absorb(part);
                    written.extend(more);
                }
                Err(error) if is_of_a_file(&error) => {
                    outcomes.insert(def.0, Outcome::Failed(error.to_string()));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }

    async fn write_at_once(&self, attempt: &Attempt, defs: &[(String, FilesDef)]) -> Result<Written, QueryError> {
        let mut groups: Vec<FilesDef> = vec![];
        for (_, def) in defs {
            let alike = groups.iter_mut().find(|it| it.columns == def.columns && it.options == def.options);
            match alike {
                Some(group) => group.locations.extend(def.locations.iter().cloned()),
                None => groups.push(def.clone()),
            }
        }
        let mut builder = None;
        for def in groups {
            let plan = self.rows_of(def)?;
            builder = Some(match builder {
                None => LogicalPlanBuilder::from(plan),
                Some(before) => LogicalPlanBuilder::union(before, plan)?,
            });
        }
        let Some(plan) = builder.map(LogicalPlanBuilder::build).transpose()? else { return Ok(Written::default()) };
        let mut to = attempt.table_destination(self.target, self.snapshot);
        to.target.rejects_max = Some(self.request.rejects_max);
        super::write(self.context, plan, &to).await
    }

    /// The table's columns, the file, and why a row is left out.
    fn rows_of(&self, def: FilesDef) -> Result<LogicalPlan, QueryError> {
        let [source, error] = LOAD_COLUMNS;
        let reference = TableReference::bare("files");
        let columns = self.columns(&def)?;
        let sources = Arc::clone(&self.context.engine.tables().sources);
        let table = FilesTable::new(reference.clone(), def, sources).with_path_column(source);
        let plan = LogicalPlanBuilder::scan(reference, provider_as_source(Arc::new(table)), None)?.build()?;
        let given = plan.schema().columns();
        let schema = &self.snapshot.schema;
        let (mut values, mut errors) = (vec![], vec![]);
        for (field, from) in schema.fields().iter().zip(columns) {
            let Some(from) = from else {
                let default = default_of(self.context, &self.target.def, field.name(), field.is_nullable())?;
                values.push(cast(default, field.data_type().clone()).alias(field.name()));
                continue;
            };
            let raw = PlanExpr::Column(given[from].clone());
            let value = fitting(&raw, plan.schema().field(from), field)?;
            let text = cast(raw.clone(), DataType::Utf8);
            let shown = || format!("column '{}'", field.name());
            if plan.schema().field(from).data_type() != field.data_type() {
                let is_lost = raw.clone().is_not_null().and(value.clone().is_null());
                let why =
                    concat(vec![lit(format!("{}: '", shown())), text, lit(format!("' is no {}", name_of(field)))]);
                errors.push(when(is_lost, why).end()?);
            }
            if !field.is_nullable() {
                errors.push(when(value.clone().is_null(), lit(format!("{} cannot be null", shown()))).end()?);
            }
            values.push(value.alias(field.name()));
        }
        let n_columns = values.len();
        let source_column = PlanExpr::Column(given[given.len() - 1].clone());
        values.push(cast(source_column, DataType::Utf8).alias(source));
        values.push(first_of(errors).alias(error));
        let plan = LogicalPlanBuilder::from(plan).project(values)?.build()?;
        self.checked(plan, n_columns)
    }

    /// Rows that break a constraint are left out like others that the table does not take.
    fn checked(&self, plan: LogicalPlan, n_columns: usize) -> Result<LogicalPlan, QueryError> {
        let schema = &self.snapshot.schema;
        if self.snapshot.checks.is_empty() {
            return Ok(plan);
        }
        let given = plan.schema().columns();
        // NULL is no violation: columns of rows that are wrong already may well be.
        let nullable: Fields = schema.fields().iter().map(|it| it.as_ref().clone().with_nullable(true)).collect();
        let columns = DFSchema::try_from(Schema::new(nullable))?;
        let [source, error] = LOAD_COLUMNS;
        let mut errors = vec![PlanExpr::Column(given[n_columns + 1].clone())];
        for (name, condition) in &self.snapshot.checks {
            let condition = self.context.session_state.create_logical_expr(condition, &columns)?;
            let text = lit(format!("check constraint '{name}' is violated"));
            errors.push(when(condition.is_false(), text).end()?);
        }
        let mut values: Vec<PlanExpr> = given[..=n_columns].iter().cloned().map(PlanExpr::Column).collect();
        values[n_columns] = values[n_columns].clone().alias(source);
        values.push(first_of(errors).alias(error));
        Ok(LogicalPlanBuilder::from(plan).project(values)?.build()?)
    }

    /// For each of the table's columns its position in the files, if they have it.
    ///
    /// Errs when the files have a column that the table has not.
    fn columns(&self, def: &FilesDef) -> Result<Vec<Option<usize>>, QueryError> {
        let schema = &self.snapshot.schema;
        let mut found = vec![None; schema.fields().len()];
        let file = def.locations.first().map_or("", String::as_str);
        let n_given = def.columns.len() + def.partitions.len();
        let is_named = def.format != FileKind::Csv
            || def.options.get("format.has_header").is_none_or(|it| it.eq_ignore_ascii_case("true"));
        if !self.copy.columns.is_empty() || !is_named {
            let places: Vec<usize> = match self.copy.columns.is_empty() {
                true => (0..schema.fields().len()).collect(),
                false => {
                    let places = self.copy.columns.iter().map(|it| position(self.target, self.snapshot, it));
                    places.collect::<Result<_, _>>()?
                }
            };
            if places.len() != n_given {
                let text = format!("file '{file}' has {n_given} columns, {} are to be loaded", places.len());
                return Err(QueryError::Wire(WireError::new(ErrorCode::ValueCount, text)));
            }
            for (from, place) in places.into_iter().enumerate() {
                if found[place].replace(from).is_some() {
                    let name = schema.field(place).name();
                    return Err(QueryError::InvalidArgument(format!("column '{name}' is specified twice")));
                }
            }
            return Ok(found);
        }
        for (from, column) in def.columns.iter().chain(&def.partitions).enumerate() {
            let place = schema.fields().iter().position(|it| it.name().eq_ignore_ascii_case(&column.name));
            let Some(place) = place else {
                let text = format!(
                    "unknown column '{}' in table '{}.{}', which file '{file}' has",
                    column.name, self.target.database, self.target.name
                );
                return Err(QueryError::Wire(WireError::new(ErrorCode::ColumnNotFound, text)));
            };
            found[place] = Some(from);
        }
        Ok(found)
    }

    /// Makes the rows part of the table, and remembers where they are from.
    async fn commit(
        &self,
        attempt: Attempt,
        files: &[crate::managed::writer::WrittenFile],
        outcomes: &BTreeMap<String, Outcome>,
        loads: &mut Loads,
    ) -> Result<(), QueryError> {
        let at_ms = now_ms();
        let mut n_loaded = 0;
        for (name, outcome) in outcomes {
            if let Outcome::Loaded(source) = outcome {
                loads.files.insert(name.clone(), Load { rows: source.loaded, at_ms });
                n_loaded += 1;
            }
        }
        if n_loaded == 0 {
            return Ok(());
        }
        let number = self.target.log.write_loads(loads).await.map_err(failed)?;
        let mut change = change_of(self.context, "COPY INTO", files);
        change.read_version = Some(self.snapshot.version);
        change.loads = Some(number);
        change.is_blind = true;
        change.parameters.insert("location".to_owned(), self.copy.location.as_str().into());
        change.metrics.insert("numLoadedFiles".to_owned(), n_loaded.into());
        commit(attempt, change).await?;
        self.target.log.forget_loads_before(number).await;
        Ok(())
    }
}

impl Outcome {
    /// Rows that were left out; a file that could not be read counts as one.
    fn rejects(&self) -> u64 {
        match self {
            Self::Skipped => 0,
            Self::Loaded(source) => source.rejected,
            Self::Failed(_) => 1,
        }
    }

    fn error(&self) -> Option<&str> {
        match self {
            Self::Skipped => None,
            Self::Loaded(source) => source.error.as_deref(),
            Self::Failed(error) => Some(error),
        }
    }

    fn counts(&self) -> (&'static str, String, String) {
        match self {
            Self::Skipped => ("SKIPPED", "0".to_owned(), "0".to_owned()),
            Self::Failed(_) => ("FAILED", "0".to_owned(), "0".to_owned()),
            Self::Loaded(it) => {
                let status = if it.rejected == 0 { "LOADED" } else { "PARTIALLY_LOADED" };
                (status, it.loaded.to_string(), it.rejected.to_string())
            }
        }
    }
}

/// Whether an error says something of the file that was read, and not of the server or the statement.
fn is_of_a_file(error: &QueryError) -> bool {
    matches!(error.code(), ErrorCode::FileUnreadable | ErrorCode::TypeMismatch)
}

/// A value of a file in the type of the table's column; NULL where it is none of that type.
fn fitting(raw: &PlanExpr, from: &Field, field: &Field) -> Result<PlanExpr, QueryError> {
    if from.data_type().is_numeric() && field.data_type().is_temporal() {
        let text = format!("a number cannot go into column '{}', which has dates or times", field.name());
        return Err(QueryError::Wire(WireError::new(ErrorCode::TypeMismatch, text)));
    }
    Ok(try_cast(raw.clone(), field.data_type().clone()))
}

/// A column's type as messages call it.
fn name_of(field: &Field) -> String {
    crate::tables::mysql_types::mysql_type(field.data_type()).column_type.to_uppercase()
}

/// The first that is not NULL.
fn first_of(errors: Vec<PlanExpr>) -> PlanExpr {
    let nothing = || cast(lit(datafusion::common::ScalarValue::Null), DataType::Utf8);
    match errors.is_empty() {
        true => nothing(),
        false => cast(coalesce(errors.into_iter().chain([nothing()]).collect()), DataType::Utf8),
    }
}

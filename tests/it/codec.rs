//! Every plan of the SQL suites is cut into stages as a coordinator does it; each stage is encoded, decoded and encoded
//! again, and both encodings are the same bytes.
//!
//! The plans are made by plain DataFusion over the suites' files: no server takes part, so that a plan which the server
//! runs undistributed because it cannot be encoded does not pass unseen.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use datafusion::error::DataFusionError;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::{CsvReadOptions, JsonReadOptions, ParquetReadOptions, SessionConfig, SessionContext};
use datafusion::scalar::ScalarValue;
use sheaf_flight::codec::{decode_stage, encode_stage};
use sheaf_planners::scatter::{ScatterOptimizer, physical_rules};
use sheaf_planners::{DistributedPlan, splits};
use sheaf_tests::{alone, fixtures, suite};

async fn context(files: &Path) -> SessionContext {
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(3));
    let at = |name: &str| format!("{}/", files.join(name).display());
    for name in ["facts", "empty", "one", "skewed"] {
        let made = [
            context.register_parquet(name, at(name), ParquetReadOptions::default()).await,
            context.register_csv(format!("{name}_csv"), at(&format!("{name}_csv")), CsvReadOptions::new()).await,
            context
                .register_json(format!("{name}_json"), at(&format!("{name}_json")), JsonReadOptions::default())
                .await,
            context
                .register_parquet(
                    format!("{name}_hive"),
                    at(&format!("{name}_hive")),
                    ParquetReadOptions::default()
                        .table_partition_cols(vec![("p".to_owned(), arrow::datatypes::DataType::Int32)]),
                )
                .await,
        ];
        for made in made {
            made.unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
    for name in ["dims", "no_dims", "types"] {
        let made = context.register_parquet(name, at(name), ParquetReadOptions::default()).await;
        made.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    context
}

/// The queries of a suite, in order, without what is expected of them.
fn queries(file: &PathBuf) -> Vec<String> {
    let records = sqllogictest::parse_file::<sqllogictest::DefaultColumnType>(file);
    let records = records.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let sql = |record| match record {
        sqllogictest::Record::Query { sql, .. } => Some(sql),
        _ => None,
    };
    records.into_iter().filter_map(sql).collect()
}

/// The plan cut for three workers, or `None` for what DataFusion alone does not plan: a MySQL session's own words.
async fn cut(
    context: &SessionContext,
    sql: &str,
    hash_joins: bool,
) -> Option<Result<DistributedPlan, DataFusionError>> {
    let options =
        ScatterOptimizer { workers: 3, partitions_per_task: 2, broadcast_bytes_max: 10 << 20, bytes_per_task: 0 };
    let mut config = context.copied_config().with_create_default_catalog_and_schema(false);
    options.configure(config.options_mut());
    config.options_mut().optimizer.prefer_hash_join = hash_joins;
    let state = SessionStateBuilder::new_from_existing(context.state())
        .with_config(config)
        .with_physical_optimizer_rules(physical_rules())
        .build();
    let logical = state.create_logical_plan(sql).await.ok()?;
    if !matches!(logical, LogicalPlan::Statement(_) | LogicalPlan::Ddl(_)) {
        let plan = state.create_physical_plan(&logical).await.ok()?;
        let runtime = context.runtime_env();
        let splits = splits::of_plan(&plan, &runtime, options.workers, options.partitions(), None).await;
        return Some(splits.and_then(|splits| options.optimize(&plan, &splits, state.config_options())));
    }
    None
}

/// The stages that were encoded; errs with the first that is not the same when it comes back.
fn round_trip(context: &SessionContext, plan: &DistributedPlan) -> Result<usize, String> {
    // Any value of the field will do: a subquery's is a literal by the time its reader is encoded.
    for subquery in &plan.subqueries {
        let schema = subquery.plan.schema();
        let field = schema.field(0);
        let value = match field.is_nullable() {
            true => ScalarValue::try_from(field.data_type()),
            false => ScalarValue::new_default(field.data_type()),
        };
        let value = value.map_err(|error| error.to_string())?;
        subquery.results.set(subquery.index, value).map_err(|error| error.to_string())?;
    }
    let task = context.task_ctx();
    for stage in &plan.stages {
        let bytes = encode_stage(&stage.plan, &stage.output).map_err(|error| error.to_string())?;
        let (decoded, output) = decode_stage(&bytes, &task).map_err(|error| error.to_string())?;
        if decoded.schema() != stage.plan.schema() {
            return Err(format!(
                "{} has schema {:?} instead of {:?}",
                stage.stage,
                decoded.schema(),
                stage.plan.schema()
            ));
        }
        let again = encode_stage(&decoded, &output).map_err(|error| error.to_string())?;
        if bytes != again {
            let plan =
                |plan: &Arc<_>| format!("{}", datafusion::physical_plan::displayable(Arc::as_ref(plan)).indent(true));
            let (before, after): (String, String) = (plan(&stage.plan), plan(&decoded));
            return Err(format!("{} is another after decoding:\n{before}\n{after}", stage.stage));
        }
    }
    Ok(plan.stages.len())
}

#[test]
fn plans_of_the_suites_come_back_as_they_were() {
    alone(Duration::from_secs(120), async {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        fixtures::write(dir.path());
        let context = context(dir.path()).await;
        let suites = sheaf_tests::root().join("tests/suites");
        let (mut n_plans, mut n_stages, mut failures) = (0, 0, Vec::new());
        for file in suite::files(&suites) {
            let hash_joins = !file.ends_with("join_sort_merge.slt");
            for sql in queries(&file) {
                let Some(plan) = cut(&context, &sql, hash_joins).await else { continue };
                n_plans += 1;
                match plan.map_err(|error| error.to_string()).and_then(|plan| round_trip(&context, &plan)) {
                    Ok(n) => n_stages += n,
                    Err(error) => failures.push(format!("{sql}\n  {error}")),
                }
            }
        }
        eprintln!("{n_plans} plans, {n_stages} stages");
        let n_wrong = failures.len();
        assert!(failures.is_empty(), "{n_wrong} of {n_plans} plans do not come back:\n{}", failures.join("\n"));
        assert!(n_plans > 700 && n_stages > 1_000, "only {n_plans} plans with {n_stages} stages");
    });
}

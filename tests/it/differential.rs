//! Random queries: one process and a cluster of three workers must give the same rows.
//!
//! Query `i` of a run comes from seed `SHEAF_SEED + i` alone, so a failure is replayed by the seed that it prints with
//! `SHEAF_SEED=<seed> SHEAF_QUERIES=1 cargo test --release differential`. Queries are built so that their rows are decided:
//! a LIMIT stands under an order by all columns, windows order by all that they show, and the tables' fractions are
//! multiples of one quarter, whose sums are exact in any order.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use sheaf_tests::{Client, Cluster, ClusterSpec, Failure, Table, alone, number_from_env};

const DEADLINE: Duration = Duration::from_secs(240);
/// Sessions that work through the queries at once.
const N_SESSIONS: u64 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Int,
    Float,
    Text,
    Bool,
}

#[derive(Debug, Clone)]
struct Column {
    sql: String,
    kind: Kind,
}

/// What stands after FROM, and the columns it offers.
struct Relation {
    sql: String,
    columns: Vec<Column>,
}

/// A whole SELECT whose columns are named c0, c1, ….
struct Select {
    sql: String,
    kinds: Vec<Kind>,
}

struct Generator {
    rng: StdRng,
    n_aliases: usize,
}

impl Generator {
    fn new(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), n_aliases: 0 }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        items.choose(&mut self.rng).expect("every list to pick from has items").clone()
    }

    fn alias(&mut self) -> String {
        self.n_aliases += 1;
        format!("t{}", self.n_aliases)
    }

    fn query(&mut self) -> String {
        let select = match self.rng.random_range(0..100) {
            0..60 => self.select(2),
            60..75 => self.set_operation(),
            _ => self.limited(),
        };
        select.sql
    }

    fn select(&mut self, depth: u32) -> Select {
        match self.rng.random_range(0..10) {
            0..3 => self.plain(depth),
            3..7 => self.aggregate(depth),
            7..9 => self.window(depth),
            _ => self.distinct(depth),
        }
    }

    fn table(&mut self) -> Relation {
        let name =
            self.pick(&["facts", "facts", "facts", "skewed", "skewed", "one", "empty", "dims", "dims", "no_dims"]);
        let alias = self.alias();
        let columns: &[(&str, Kind)] = if name.ends_with("dims") {
            &[("k", Kind::Int), ("name", Kind::Text), ("w", Kind::Int), ("region", Kind::Int)]
        } else {
            &[
                ("id", Kind::Int),
                ("k", Kind::Int),
                ("g", Kind::Text),
                ("v", Kind::Int),
                ("d", Kind::Float),
                ("ok", Kind::Bool),
            ]
        };
        let columns = columns.iter().map(|&(column, kind)| Column { sql: format!("{alias}.{column}"), kind }).collect();
        Relation { sql: format!("{name} AS {alias}"), columns }
    }

    fn relation(&mut self, depth: u32) -> Relation {
        match self.rng.random_range(0..10) {
            0..5 => self.table(),
            5..7 if depth > 0 => self.derived(depth - 1),
            _ if depth > 0 => self.join(depth - 1),
            _ => self.table(),
        }
    }

    fn derived(&mut self, depth: u32) -> Relation {
        let inner = if self.chance(80) { self.select(depth) } else { self.limited() };
        let alias = self.alias();
        let columns = inner.kinds.iter().enumerate();
        let columns = columns.map(|(index, &kind)| Column { sql: format!("{alias}.c{index}"), kind }).collect();
        Relation { sql: format!("({}) AS {alias}", inner.sql), columns }
    }

    fn join(&mut self, depth: u32) -> Relation {
        let left = self.relation(depth);
        let right = self.table();
        let how = self.pick(&["JOIN", "JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN", "CROSS JOIN"]);
        let mut sql = format!("{} {how} {}", left.sql, right.sql);
        if how != "CROSS JOIN" {
            let (a, b) = (self.column(&left.columns, Kind::Int), self.column(&right.columns, Kind::Int));
            write!(sql, " ON {a} = {b}").expect("writing to a string");
            if self.chance(25) {
                let (a, b) = (self.column(&left.columns, Kind::Int), self.column(&right.columns, Kind::Int));
                let operator = self.pick(&["<", ">", "=", "<>"]);
                write!(sql, " AND {a} {operator} {b}").expect("writing to a string");
            }
        }
        let columns = left.columns.into_iter().chain(right.columns).collect();
        Relation { sql, columns }
    }

    /// A column of the kind, or a constant where there is none.
    fn column(&mut self, columns: &[Column], kind: Kind) -> String {
        let fitting: Vec<&Column> = columns.iter().filter(|column| column.kind == kind).collect();
        match fitting.choose(&mut self.rng) {
            Some(column) => column.sql.clone(),
            None => match kind {
                Kind::Int => self.rng.random_range(0..10).to_string(),
                Kind::Float => "2.25E0".to_owned(),
                Kind::Text => "'b'".to_owned(),
                Kind::Bool => "true".to_owned(),
            },
        }
    }

    fn value(&mut self, columns: &[Column], kind: Kind, depth: u32) -> String {
        if depth == 0 || self.chance(50) {
            return self.column(columns, kind);
        }
        let a = self.value(columns, kind, depth - 1);
        let b = self.value(columns, kind, depth - 1);
        match kind {
            Kind::Int => match self.rng.random_range(0..5) {
                0 => format!("({a} + {b})"),
                1 => format!("({a} - {b})"),
                2 => format!("(({a}) % 7)"),
                3 => format!("coalesce({a}, {b}, 5)"),
                _ => format!("CASE WHEN {} THEN {a} ELSE {b} END", self.condition(columns, 0)),
            },
            Kind::Float => match self.rng.random_range(0..2) {
                0 => format!("({a} + {b})"),
                _ => format!("coalesce({a}, {b})"),
            },
            Kind::Text => match self.rng.random_range(0..3) {
                0 => format!("concat({a}, {b})"),
                1 => format!("upper({a})"),
                _ => format!("nullif({a}, {b})"),
            },
            Kind::Bool => self.condition(columns, depth - 1),
        }
    }

    fn condition(&mut self, columns: &[Column], depth: u32) -> String {
        let number = self.rng.random_range(-20..60);
        let int = self.column(columns, Kind::Int);
        match self.rng.random_range(0..if depth > 0 { 13 } else { 7 }) {
            0 => format!("{int} > {number}"),
            1 => format!("{int} IS NULL"),
            2 => format!("{int} IS NOT NULL"),
            3 => format!("{int} IN (1, 2, {number})"),
            4 => format!("{} LIKE '%b%'", self.column(columns, Kind::Text)),
            5 => format!("{} <= {}", self.column(columns, Kind::Int), int),
            6 => format!("{int} BETWEEN {} AND {}", number - 10, number + 10),
            7 => format!("({} AND {})", self.condition(columns, depth - 1), self.condition(columns, depth - 1)),
            8 => format!("({} OR {})", self.condition(columns, depth - 1), self.condition(columns, depth - 1)),
            9 => format!("NOT ({})", self.condition(columns, depth - 1)),
            10 => {
                let table = self.table();
                let (inner, not) = (self.column(&table.columns, Kind::Int), self.pick(&["", "NOT "]));
                let filter = if self.chance(50) { format!(" WHERE {inner} IS NOT NULL") } else { String::new() };
                format!("{int} {not}IN (SELECT {inner} FROM {}{filter})", table.sql)
            }
            11 => {
                let table = self.table();
                let (inner, not) = (self.column(&table.columns, Kind::Int), self.pick(&["", "NOT "]));
                format!("{not}EXISTS (SELECT 1 FROM {} WHERE {inner} = {int})", table.sql)
            }
            _ => {
                let table = self.table();
                let inner = self.column(&table.columns, Kind::Int);
                let aggregate = self.pick(&["max", "min", "count"]);
                let operator = self.pick(&["<", ">", "="]);
                format!("{int} {operator} (SELECT {aggregate}({inner}) FROM {})", table.sql)
            }
        }
    }

    fn filter(&mut self, columns: &[Column]) -> String {
        if self.chance(65) { format!(" WHERE {}", self.condition(columns, 2)) } else { String::new() }
    }

    fn kinds(&mut self, most: usize) -> Vec<Kind> {
        let n = self.rng.random_range(1..=most);
        (0..n).map(|_| self.pick(&[Kind::Int, Kind::Int, Kind::Int, Kind::Text, Kind::Float, Kind::Bool])).collect()
    }

    fn plain(&mut self, depth: u32) -> Select {
        let kinds = self.kinds(4);
        self.plain_of(&kinds, depth)
    }

    fn plain_of(&mut self, kinds: &[Kind], depth: u32) -> Select {
        let relation = self.relation(depth);
        let list: Vec<String> = kinds.iter().map(|&kind| self.value(&relation.columns, kind, 2)).collect();
        let filter = self.filter(&relation.columns);
        Select { sql: format!("SELECT {} FROM {}{filter}", named(&list, 0), relation.sql), kinds: kinds.to_vec() }
    }

    fn distinct(&mut self, depth: u32) -> Select {
        let select = self.plain(depth);
        Select { sql: select.sql.replacen("SELECT", "SELECT DISTINCT", 1), ..select }
    }

    fn aggregate(&mut self, depth: u32) -> Select {
        let relation = self.relation(depth);
        let columns = &relation.columns;
        let n_keys = self.rng.random_range(0..3);
        let mut kinds: Vec<Kind> = (0..n_keys).map(|_| self.pick(&[Kind::Int, Kind::Text, Kind::Bool])).collect();
        let keys: Vec<String> = kinds.iter().map(|&kind| self.column(columns, kind)).collect();
        // A constant is no key: as a number it would name a column by its place.
        let is_column = |key: &String| columns.iter().any(|column| column.sql == *key);
        let keys: Vec<String> = keys.into_iter().filter(is_column).collect();
        kinds.truncate(keys.len());
        for (kind, key) in kinds.iter_mut().zip(&keys) {
            *kind = columns.iter().find(|column| column.sql == *key).expect("the keys are columns").kind;
        }
        let mut list = keys.clone();
        for _ in 0..self.rng.random_range(1..4) {
            let int = self.value(columns, Kind::Int, 1);
            let (aggregate, kind) = match self.rng.random_range(0..8) {
                0 => ("count(*)".to_owned(), Kind::Int),
                1 => (format!("count({int})"), Kind::Int),
                2 => (format!("sum({int})"), Kind::Int),
                3 => (format!("min({int})"), Kind::Int),
                4 => (format!("max({})", self.value(columns, Kind::Text, 1)), Kind::Text),
                5 => (format!("avg({int})"), Kind::Float),
                6 => (format!("count(DISTINCT {int})"), Kind::Int),
                _ => (format!("sum({})", self.column(columns, Kind::Float)), Kind::Float),
            };
            list.push(aggregate);
            kinds.push(kind);
        }
        let filter = self.filter(columns);
        let mut sql = format!("SELECT {} FROM {}{filter}", named(&list, 0), relation.sql);
        if !keys.is_empty() {
            write!(sql, " GROUP BY {}", keys.join(", ")).expect("writing to a string");
            if self.chance(25) {
                write!(sql, " HAVING count(*) > {}", self.rng.random_range(0..4)).expect("writing to a string");
            }
        }
        Select { sql, kinds }
    }

    fn window(&mut self, depth: u32) -> Select {
        let relation = self.relation(depth.min(1));
        let columns = &relation.columns;
        let mut kinds = self.kinds(3);
        let mut list: Vec<String> = kinds.iter().map(|&kind| self.column(columns, kind)).collect();
        let total = list.join(", ");
        let partition = if self.chance(60) { format!("PARTITION BY {} ", list[0]) } else { String::new() };
        let int = list.iter().zip(&kinds).find(|(_, kind)| **kind == Kind::Int).map(|(column, _)| column.clone());
        let argument = int.unwrap_or_else(|| "1".to_owned());
        let function = match self.rng.random_range(0..7) {
            0 => format!("row_number() OVER ({partition}ORDER BY {total})"),
            1 => format!("rank() OVER ({partition}ORDER BY {})", list[list.len() - 1]),
            2 => format!("dense_rank() OVER ({partition}ORDER BY {total})"),
            3 => format!("sum({argument}) OVER ({partition}ORDER BY {total})"),
            4 => format!("count({argument}) OVER ({})", partition.trim_end()),
            5 => format!("max({argument}) OVER ({partition}ORDER BY {total} ROWS BETWEEN 2 PRECEDING AND CURRENT ROW)"),
            _ => format!("lag({argument}) OVER ({partition}ORDER BY {total})"),
        };
        list.push(function);
        kinds.push(Kind::Int);
        let filter = self.filter(columns);
        Select { sql: format!("SELECT {} FROM {}{filter}", named(&list, 0), relation.sql), kinds }
    }

    fn set_operation(&mut self) -> Select {
        let kinds = self.kinds(3);
        let mut select = self.plain_of(&kinds, 1);
        for _ in 0..self.rng.random_range(1..3) {
            let next = self.plain_of(&kinds, 1);
            let operation = self.pick(&["UNION", "UNION ALL", "INTERSECT", "EXCEPT"]);
            select.sql = format!("({}) {operation} ({})", select.sql, next.sql);
        }
        select
    }

    fn limited(&mut self) -> Select {
        let inner = if self.chance(80) { self.select(1) } else { self.set_operation() };
        let alias = self.alias();
        let names: Vec<String> = (0..inner.kinds.len()).map(|index| format!("{alias}.c{index}")).collect();
        let order: Vec<String> = names
            .iter()
            .map(|name| format!("{name} {}", self.pick(&["", "DESC", "NULLS FIRST", "DESC NULLS LAST"])))
            .collect();
        let (limit, offset) = (self.rng.random_range(0..30), self.rng.random_range(0..5));
        let list = named(&names, 0);
        let order = order.join(", ");
        let sql =
            format!("SELECT {list} FROM ({}) AS {alias} ORDER BY {order} LIMIT {limit} OFFSET {offset}", inner.sql);
        Select { sql, kinds: inner.kinds }
    }
}

/// `a AS c0, b AS c1, …`, counted from `first`.
fn named(list: &[String], first: usize) -> String {
    let items: Vec<String> = list.iter().enumerate().map(|(at, item)| format!("{item} AS c{}", at + first)).collect();
    items.join(", ")
}

/// What both answers have to agree in: the rows in any order, or the error's number.
fn outcome(answer: &Result<Table, Failure>) -> Result<Vec<Vec<String>>, Option<u16>> {
    match answer {
        Ok(table) => Ok(table.clone().sorted()),
        Err(failure) => Err(failure.code),
    }
}

fn show(answer: &Result<Vec<Vec<String>>, Option<u16>>, failure: Option<&Failure>) -> String {
    match (answer, failure) {
        (Ok(rows), _) => {
            let first: Vec<String> = rows.iter().take(12).map(|row| row.join(" | ")).collect();
            format!("{} rows\n    {}", rows.len(), first.join("\n    "))
        }
        (Err(_), Some(failure)) => failure.to_string(),
        (Err(code), None) => format!("{code:?}"),
    }
}

#[derive(Default)]
struct Tally {
    n_ok: AtomicU64,
    n_rows: AtomicU64,
}

async fn compare(one: &mut Client, many: &mut Client, seed: u64, tally: &Tally) -> Option<String> {
    let sql = Generator::new(seed).query();
    let (left, right) = (one.query(&sql).await, many.query(&sql).await);
    let (a, b) = (outcome(&left), outcome(&right));
    if let Ok(rows) = &a {
        tally.n_ok.fetch_add(1, Ordering::Relaxed);
        tally.n_rows.fetch_add(rows.len() as u64, Ordering::Relaxed);
    } else if std::env::var_os("SHEAF_VERBOSE").is_some() {
        eprintln!("seed {seed}: {}\n  {sql}", show(&a, left.as_ref().err()));
    }
    if a == b && !matches!(a, Err(None)) {
        return None;
    }
    let (a, b) = (show(&a, left.as_ref().err()), show(&b, right.as_ref().err()));
    Some(format!("SHEAF_SEED={seed} SHEAF_QUERIES=1\n  {sql}\n  one process: {a}\n  cluster: {b}"))
}

#[test]
fn differential() {
    let seed = number_from_env("SHEAF_SEED", 20_240_229);
    let n_queries = number_from_env("SHEAF_QUERIES", 2_000);
    let deadline = DEADLINE + Duration::from_millis(100 * n_queries.saturating_sub(2_000));
    alone(deadline, async {
        let one = Cluster::start_with_fixtures(ClusterSpec::default()).await;
        let many = Cluster::start_with_fixtures(ClusterSpec::workers(3)).await;
        let tally = Arc::new(Tally::default());
        let mut sessions = tokio::task::JoinSet::new();
        for session in 0..N_SESSIONS {
            let mut left = one.connect_to(Some("suite")).await;
            let mut right = many.connect_distributed(Some("suite")).await;
            let tally = Arc::clone(&tally);
            sessions.spawn(async move {
                let mut failures = Vec::new();
                for index in (session..n_queries).step_by(N_SESSIONS as usize) {
                    failures.extend(compare(&mut left, &mut right, seed + index, &tally).await);
                    // A broken server fails all: the first dozen says enough.
                    if failures.len() >= 12 {
                        break;
                    }
                }
                failures
            });
        }
        let failures: Vec<String> = sessions.join_all().await.into_iter().flatten().collect();
        assert!(failures.is_empty(), "{} of {n_queries} queries differ:\n\n{}", failures.len(), failures.join("\n\n"));
        let (n_ok, n_rows) = (tally.n_ok.load(Ordering::Relaxed), tally.n_rows.load(Ordering::Relaxed));
        eprintln!("{n_ok} of {n_queries} queries gave {n_rows} rows, the others the same error on both");
        assert!(n_ok * 10 >= n_queries * 9, "only {n_ok} of {n_queries} queries gave rows: the generator tests errors");
    });
}

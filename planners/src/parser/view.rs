//! `CREATE VIEW`, `ALTER VIEW`, `DROP VIEW`, and the text that a view is kept as: the client's own, in which each table
//! names its database and each `*` became the columns that it stood for.

use std::collections::BTreeSet;
use std::ops::{ControlFlow, Range};

use datafusion::sql::sqlparser::ast::{
    Expr, GroupByExpr, Ident, ObjectName, Query, Select, SelectItem, SelectItemQualifiedWildcardKind, SetExpr,
    TableFactor, Value, Visit, Visitor, WildcardAdditionalOptions, With,
};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Span, Token};

use super::source::Source;
use super::{Failure, QueryStatement, SqlDialect, StatementKind, StatementParser, UserRef, on_big_stack, parse};
use crate::error::PlanError;

/// A statement about views.
#[derive(Debug, Clone)]
pub enum ViewStatement {
    Create(Box<CreateView>),
    Drop { names: Vec<ObjectName>, if_exists: bool },
}

/// What `CREATE VIEW` does where the name is taken; `ALTER VIEW` is one of its forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ViewManner {
    Create,
    IfNotExists,
    OrReplace,
    Alter,
}

#[derive(Debug, Clone)]
pub struct CreateView {
    pub name: ObjectName,
    pub manner: ViewManner,
    /// In MySQL's word; it changes nothing, since every view is planned within the query that uses it.
    pub algorithm: &'static str,
    /// None is who runs the statement.
    pub definer: Option<UserRef>,
    /// By the rights of whoever uses it, not by those of its definer.
    pub is_invokers: bool,
    /// Empty where the query names the columns.
    pub columns: Vec<Ident>,
    pub query: QueryStatement,
    /// The query as it was written.
    pub text: String,
    /// `WITH CHECK OPTION`.
    pub checks_rows: bool,
}

impl StatementParser<'_> {
    /// Whether `VIEW` is what the statement makes or changes; `n` words are read.
    pub(super) fn is_view(&self, n: usize) -> bool {
        const OTHERS: [&str; 6] = ["PROCEDURE", "FUNCTION", "TRIGGER", "EVENT", "TABLE", "AS"];
        /// More than the longest head has.
        const HEAD_TOKENS: usize = 24;
        if !self.is_word(n, &["ALGORITHM", "DEFINER", "SQL", "VIEW"]) {
            return false;
        }
        let mut head = (n..n + HEAD_TOKENS).take_while(|it| !self.is_word(*it, &OTHERS));
        head.any(|it| self.is_word(it, &["VIEW"]))
    }

    /// `CREATE [OR REPLACE] … VIEW` or `ALTER … VIEW`; nothing is read yet.
    pub(super) fn parse_view(&mut self) -> Result<StatementKind, Failure> {
        let is_alter = self.sql.parse_keyword(Keyword::ALTER);
        if !is_alter {
            self.sql.expect_keyword_is(Keyword::CREATE)?;
        }
        let or_replace = !is_alter && self.sql.parse_keywords(&[Keyword::OR, Keyword::REPLACE]);
        let algorithm = self.parse_algorithm()?;
        let mut definer = None;
        if self.consume_word("DEFINER") {
            self.sql.expect_token(&Token::Eq)?;
            definer = Some(self.accounts().user()?);
        }
        let mut is_invokers = false;
        if self.consume_word("SQL") {
            self.expect_word("SECURITY")?;
            is_invokers = self.consume_word("INVOKER");
            if !is_invokers {
                self.expect_word("DEFINER")?;
            }
        }
        self.sql.expect_keyword_is(Keyword::VIEW)?;
        let if_not_exists = !is_alter && self.sql.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
        let manner = match (is_alter, or_replace, if_not_exists) {
            (true, ..) => ViewManner::Alter,
            (_, true, true) => {
                return Ok(self.sql.expected("either OR REPLACE or IF NOT EXISTS", self.sql.peek_token())?);
            }
            (_, true, _) => ViewManner::OrReplace,
            (.., true) => ViewManner::IfNotExists,
            _ => ViewManner::Create,
        };
        let name = self.sql.parse_object_name(false)?;
        let mut columns = vec![];
        if self.sql.consume_token(&Token::LParen) {
            columns = self.sql.parse_comma_separated(|it| it.parse_identifier())?;
            self.sql.expect_token(&Token::RParen)?;
        }
        self.sql.expect_keyword_is(Keyword::AS)?;
        if self.is_word(0, &["INSERT", "UPDATE", "DELETE", "MERGE"]) {
            return Ok(self.sql.expected("a query", self.sql.peek_token())?);
        }
        let start = self.sql.peek_token_ref().span.start;
        let query = self.parse_query()?;
        let end = self.sql.get_current_token().span.end;
        let executed = self.source.executed(self.dialect)?;
        let text = executed.get(self.source.offset(start)..self.source.offset(end)).unwrap_or_default();
        let text = text.trim_end().to_owned();
        let checks_rows = self.sql.parse_keyword(Keyword::WITH);
        if checks_rows {
            let _ = self.sql.parse_one_of_keywords(&[Keyword::CASCADED, Keyword::LOCAL]);
            self.expect_word("CHECK")?;
            self.expect_word("OPTION")?;
        }
        let create = CreateView { name, manner, algorithm, definer, is_invokers, columns, query, text, checks_rows };
        Ok(StatementKind::View(Box::new(ViewStatement::Create(Box::new(create)))))
    }

    fn parse_algorithm(&mut self) -> Result<&'static str, Failure> {
        if !self.consume_word("ALGORITHM") {
            return Ok("UNDEFINED");
        }
        self.sql.expect_token(&Token::Eq)?;
        for algorithm in ["UNDEFINED", "MERGE", "TEMPTABLE"] {
            if self.consume_word(algorithm) {
                return Ok(algorithm);
            }
        }
        Ok(self.sql.expected("UNDEFINED, MERGE or TEMPTABLE", self.sql.peek_token())?)
    }
}

/// The one query of a text.
pub fn query_of(text: &str, dialect: SqlDialect) -> Result<QueryStatement, PlanError> {
    let mut statements = parse(text, dialect)?;
    match (statements.pop().map(|it| it.kind), statements.is_empty()) {
        (Some(StatementKind::Query(query)), true) => Ok(*query),
        _ => Err(PlanError::Syntax { message: "the text is not one query".to_owned(), line: 1, column: 1 }),
    }
}

/// Whether a query asks for variables or parameters, which mean something to one session only.
pub fn has_variables(query: &Query) -> bool {
    struct Variables;

    impl Visitor for Variables {
        type Break = ();

        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            let is_variable = |it: &Ident| it.quote_style.is_none() && it.value.starts_with('@');
            let found = match expr {
                Expr::Identifier(ident) => is_variable(ident),
                Expr::CompoundIdentifier(parts) => parts.first().is_some_and(is_variable),
                Expr::Value(value) => matches!(value.value, Value::Placeholder(_)),
                _ => false,
            };
            if found { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }
    }

    on_big_stack(|| query.visit(&mut Variables).is_break())
}

/// A query's text with `database` before the name of each table that has none.
pub fn qualified(text: &str, dialect: SqlDialect, database: &str) -> Result<String, PlanError> {
    let query = query_of(text, dialect)?;
    let source = Source::new(text);
    let mut tables = UnqualifiedTables { is_mysql: dialect.is_mysql(), ctes: BTreeSet::new(), found: vec![] };
    on_big_stack(|| {
        let ControlFlow::Continue(()) = query.query.visit(&mut tables);
    });
    let prefix = format!("{}.", quoted(database));
    let before = |(name, span): (String, Span)| {
        let at = source.offset(span.start);
        (!tables.ctes.contains(&name)).then(|| (at..at, prefix.clone()))
    };
    Ok(edited(text, tables.found.into_iter().filter_map(before).collect()))
}

/// One `*` or `t.*` of a query's text.
#[derive(Debug)]
pub struct Wildcard {
    /// Where it stands, in bytes.
    pub range: Range<usize>,
    /// A query that has the columns which it stands for, and no others.
    pub probe: Box<Query>,
}

/// All of them in the SELECT lists that make a query's columns.
pub fn wildcards(text: &str, dialect: SqlDialect) -> Result<Vec<Wildcard>, PlanError> {
    let query = query_of(text, dialect)?.query;
    let source = Source::new(text);
    Ok(on_big_stack(|| {
        let mut selects = vec![];
        selects_of(&query.body, query.with.as_ref(), &mut selects);
        let of_select = |(select, with): (&Select, Option<&With>)| {
            let found = |item: &SelectItem| {
                let span = wildcard_span(item)?;
                let range = source.offset(span.start)..source.offset(span.end);
                Some(Wildcard { range, probe: probe(&query, with, select, item) })
            };
            select.projection.iter().filter_map(found).collect::<Vec<_>>()
        };
        selects.into_iter().flat_map(of_select).collect()
    }))
}

/// A query's text with each of the wildcards replaced by columns: their table, if they have one, and their name.
pub fn with_columns(text: &str, wildcards: Vec<(Wildcard, Vec<Vec<String>>)>) -> String {
    let column = |parts: &Vec<String>| parts.iter().map(|it| quoted(it)).collect::<Vec<_>>().join(".");
    let edit = |(wildcard, columns): (Wildcard, Vec<Vec<String>>)| {
        (wildcard.range, columns.iter().map(column).collect::<Vec<_>>().join(", "))
    };
    edited(text, wildcards.into_iter().map(edit).collect())
}

/// Whether every column of a query has a name that does not come from the words of an expression.
pub fn names_its_columns(query: &Query) -> bool {
    let mut selects = vec![];
    selects_of(&query.body, None, &mut selects);
    let Some((first, _)) = selects.first() else { return false };
    first.projection.iter().all(|item| match item {
        SelectItem::ExprWithAlias { .. } => true,
        SelectItem::UnnamedExpr(expr) => matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_)),
        _ => false,
    })
}

/// A name as every dialect of ours reads it.
pub fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

fn edited(text: &str, mut edits: Vec<(Range<usize>, String)>) -> String {
    edits.sort_by_key(|(range, _)| range.start);
    let (mut edited, mut at) = (String::with_capacity(text.len()), 0);
    for (range, new) in edits {
        edited.push_str(text.get(at..range.start).unwrap_or_default());
        edited.push_str(&new);
        at = range.end;
    }
    edited.push_str(text.get(at..).unwrap_or_default());
    edited
}

/// Tables of FROM clauses without a database, in small letters, and what WITH clauses name.
struct UnqualifiedTables {
    is_mysql: bool,
    ctes: BTreeSet<String>,
    found: Vec<(String, Span)>,
}

impl Visitor for UnqualifiedTables {
    type Break = std::convert::Infallible;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Self::Break> {
        let ctes = query.with.iter().flat_map(|it| &it.cte_tables);
        self.ctes.extend(ctes.map(|it| it.alias.name.value.to_lowercase()));
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Self::Break> {
        if let TableFactor::Table { name, args: None, .. } = factor
            && let [part] = name.0.as_slice()
            && let Some(ident) = part.as_ident()
        {
            let is_dual = self.is_mysql && ident.quote_style.is_none() && ident.value.eq_ignore_ascii_case("dual");
            // A text is the path of a file.
            if !is_dual && ident.quote_style != Some('\'') {
                self.found.push((ident.value.to_lowercase(), ident.span));
            }
        }
        ControlFlow::Continue(())
    }
}

fn selects_of<'a>(body: &'a SetExpr, with: Option<&'a With>, selects: &mut Vec<(&'a Select, Option<&'a With>)>) {
    match body {
        SetExpr::Select(select) => selects.push((select, with)),
        SetExpr::Query(query) => selects_of(&query.body, query.with.as_ref().or(with), selects),
        SetExpr::SetOperation { left, right, .. } => {
            selects_of(left, with, selects);
            selects_of(right, with, selects);
        }
        _ => {}
    }
}

/// None for other items, and for those that leave out or rename columns: they stay as they are.
fn wildcard_span(item: &SelectItem) -> Option<Span> {
    let plain = |options: &WildcardAdditionalOptions| {
        let WildcardAdditionalOptions {
            wildcard_token: star,
            opt_ilike: None,
            opt_exclude: None,
            opt_except: None,
            opt_replace: None,
            opt_rename: None,
            opt_alias: None,
        } = options
        else {
            return None;
        };
        Some(star.0.span)
    };
    match item {
        SelectItem::Wildcard(options) => plain(options),
        SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), options) => {
            let first = name.0.first()?.as_ident()?.span;
            Some(Span::new(first.start, plain(options)?.end))
        }
        _ => None,
    }
}

/// `SELECT item FROM …` with the WITH and FROM clauses that the item stands among.
fn probe(query: &Query, with: Option<&With>, select: &Select, item: &SelectItem) -> Box<Query> {
    let mut probe = Box::new(query.clone());
    let mut select = select.clone();
    select.projection = vec![item.clone()];
    select.distinct = None;
    select.selection = None;
    select.group_by = GroupByExpr::Expressions(vec![], vec![]);
    select.having = None;
    select.qualify = None;
    select.sort_by = vec![];
    probe.with = with.cloned();
    probe.body = Box::new(SetExpr::Select(Box::new(select)));
    probe.order_by = None;
    probe.limit_clause = None;
    probe.fetch = None;
    probe.locks = vec![];
    probe
}

#[cfg(test)]
mod tests {
    use super::*;

    const MYSQL: SqlDialect = SqlDialect::MySql { ansi_quotes: false };

    fn view(sql: &str) -> CreateView {
        let statements = parse(sql, MYSQL).unwrap_or_else(|it| panic!("{sql}: {it}"));
        match statements.into_iter().next().map(|it| it.kind) {
            Some(StatementKind::View(statement)) => match *statement {
                ViewStatement::Create(create) => *create,
                other => panic!("{sql}: {other:?}"),
            },
            other => panic!("{sql}: {other:?}"),
        }
    }

    #[test]
    fn views_are_made_in_many_words() {
        let sql = "CREATE OR REPLACE ALGORITHM=MERGE DEFINER=`a`@`%` SQL SECURITY INVOKER VIEW d.v (x, `y z`) AS \
                   SELECT 1, 'a''\\\\b' WITH CASCADED CHECK OPTION";
        let create = view(sql);
        assert_eq!((create.manner, create.algorithm), (ViewManner::OrReplace, "MERGE"));
        assert_eq!(create.definer, Some(UserRef::Named { user: "a".into(), host: "%".into() }));
        assert!(create.is_invokers && create.checks_rows);
        assert_eq!((create.columns.len(), create.text.as_str()), (2, "SELECT 1, 'a''\\\\b'"));
        // As dumps write it.
        let dumped = "/*!50001 CREATE ALGORITHM=UNDEFINED */\n/*!50013 DEFINER=`r`@`h` SQL SECURITY DEFINER */\n\
                      /*!50001 VIEW `v` AS select `t`.`a` AS `a` from `t` */";
        let create = view(dumped);
        assert_eq!(create.text, "select `t`.`a` AS `a` from `t`");
        assert_eq!((create.manner, create.is_invokers, create.checks_rows), (ViewManner::Create, false, false));
        assert_eq!(view("ALTER VIEW v AS SELECT 1").manner, ViewManner::Alter);
        assert_eq!(view("CREATE VIEW IF NOT EXISTS v AS SELECT 1").manner, ViewManner::IfNotExists);
        for wrong in [
            "CREATE VIEW v AS",
            "CREATE VIEW AS SELECT 1",
            "CREATE OR REPLACE VIEW IF NOT EXISTS v AS SELECT 1",
            "CREATE ALGORITHM=FAST VIEW v AS SELECT 1",
            "CREATE VIEW v AS INSERT INTO t VALUES (1)",
            "CREATE VIEW v (a AS SELECT 1",
            "CREATE VIEW v AS SELECT 1 WITH CHECK",
        ] {
            assert!(parse(wrong, MYSQL).is_err(), "{wrong}");
        }
    }

    #[test]
    fn tables_get_their_database_and_nothing_else_does() {
        for (text, expected) in [
            ("SELECT a FROM t", "SELECT a FROM `d`.t"),
            ("SELECT 'é', t.a FROM t JOIN e.u u ON 1", "SELECT 'é', t.a FROM `d`.t JOIN e.u u ON 1"),
            ("WITH c AS (SELECT * FROM t) SELECT * FROM c", "WITH c AS (SELECT * FROM `d`.t) SELECT * FROM c"),
            ("SELECT 1 FROM DUAL", "SELECT 1 FROM DUAL"),
            ("SELECT * FROM numbers(3)", "SELECT * FROM numbers(3)"),
            ("SELECT (SELECT max(x) FROM `t 1`)", "SELECT (SELECT max(x) FROM `d`.`t 1`)"),
            ("SELECT a FROM t VERSION AS OF 3", "SELECT a FROM `d`.t VERSION AS OF 3"),
        ] {
            assert_eq!(qualified(text, MYSQL, "d").unwrap(), expected);
        }
        assert_eq!(qualified("SELECT 1 FROM t", MYSQL, "a`b").unwrap(), "SELECT 1 FROM `a``b`.t");
    }

    #[test]
    fn wildcards_become_columns() {
        let text = "SELECT x, t.*, (SELECT count(*) FROM t) n FROM t UNION SELECT * FROM u ORDER BY 1";
        let found = wildcards(text, MYSQL).unwrap();
        let probes: Vec<String> = found.iter().map(|it| it.probe.to_string()).collect();
        assert_eq!(probes, ["SELECT t.* FROM t", "SELECT * FROM u"]);
        let columns = |names: &[&str]| names.iter().map(|it| vec!["t".to_owned(), (*it).to_owned()]).collect();
        let replaced = found.into_iter().zip([columns(&["a", "b"]), columns(&["c"])]).collect();
        let expected =
            "SELECT x, `t`.`a`, `t`.`b`, (SELECT count(*) FROM t) n FROM t UNION SELECT `t`.`c` FROM u ORDER BY 1";
        assert_eq!(with_columns(text, replaced), expected);
    }

    #[test]
    fn variables_are_seen() {
        for (text, expected) in
            [("SELECT @a", true), ("SELECT 1 WHERE 1 < @@port", true), ("SELECT a FROM t WHERE b = '@c'", false)]
        {
            assert_eq!(has_variables(&query_of(text, MYSQL).unwrap().query), expected, "{text}");
        }
    }
}

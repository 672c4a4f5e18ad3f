//! The names of a result's columns as MySQL gives them: an expression without an alias is named by its own text.

use std::collections::HashMap;

use datafusion::sql::sqlparser::ast::{Expr, Query, Select, SelectItem, SetExpr, Value};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan};

use super::source::Source;

/// One item of the outermost SELECT list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputName {
    Column(String),
    /// `*` or `t.*`: as many columns as it turns out, which keep their names.
    Wildcard,
}

/// The names of a query's columns; none for `VALUES` and the like.
pub(super) fn output_names(query: &Query, tokens: &[TokenWithSpan], source: &Source) -> Vec<OutputName> {
    let Some(select) = first_select(&query.body) else { return vec![] };
    let texts = item_texts(select, tokens, source);
    let name = |(idx, item): (usize, &SelectItem)| {
        let name = match item {
            SelectItem::ExprWithAlias { alias, .. } => alias.value.clone(),
            SelectItem::UnnamedExpr(Expr::Identifier(ident)) => ident.value.clone(),
            SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) if !starts_with_at(parts.first()) => {
                parts.last().map(|it| it.value.clone()).unwrap_or_default()
            }
            SelectItem::UnnamedExpr(Expr::Value(value)) if matches!(value.value, Value::SingleQuotedString(_)) => {
                value.clone().into_string().unwrap_or_default()
            }
            SelectItem::UnnamedExpr(expr) => match &texts {
                Some(texts) => texts[idx].to_owned(),
                None => expr.to_string(),
            },
            _ => return OutputName::Wildcard,
        };
        OutputName::Column(name)
    };
    select.projection.iter().enumerate().map(name).collect()
}

fn starts_with_at(ident: Option<&datafusion::sql::sqlparser::ast::Ident>) -> bool {
    ident.is_some_and(|it| it.quote_style.is_none() && it.value.starts_with('@'))
}

/// The SELECT that names the columns: the leftmost arm of set operations.
fn first_select(body: &SetExpr) -> Option<&Select> {
    let mut body = body;
    loop {
        match body {
            SetExpr::Select(select) => return Some(select),
            SetExpr::Query(query) => body = &query.body,
            SetExpr::SetOperation { left, .. } => body = left,
            _ => return None,
        }
    }
}

/// The text of each item, found by the commas between SELECT and what ends its list; none if the count differs.
fn item_texts<'a>(select: &Select, tokens: &[TokenWithSpan], source: &Source<'a>) -> Option<Vec<&'a str>> {
    let start = select.select_token.0.span.start;
    let first = tokens.iter().position(|it| it.span.start == start && it.token != Token::EOF)? + 1;
    let mut texts = vec![];
    let mut depth = 0usize;
    let mut item: Option<(Location, Location)> = None;
    for TokenWithSpan { token, span } in &tokens[first..] {
        match token {
            Token::Whitespace(_) => continue,
            Token::LParen | Token::LBracket | Token::LBrace => depth += 1,
            Token::RParen | Token::RBracket | Token::RBrace if depth == 0 => break,
            Token::RParen | Token::RBracket | Token::RBrace => depth -= 1,
            Token::Comma if depth == 0 => {
                texts.push(item.take());
                continue;
            }
            Token::Word(word) if depth == 0 && word.quote_style.is_none() => {
                if item.is_none() && texts.is_empty() && is_select_modifier(&word.value) {
                    continue;
                }
                if ends_select_list(word.keyword) {
                    break;
                }
            }
            Token::EOF => break,
            _ => {}
        }
        let (start, _) = item.unwrap_or((span.start, span.end));
        item = Some((start, span.end));
    }
    texts.push(item);
    if texts.len() != select.projection.len() {
        return None;
    }
    let text = |it: Option<(Location, Location)>| {
        it.map(|(start, end)| source.slice(source.offset(start)..source.offset(end)).trim())
    };
    texts.into_iter().map(text).collect()
}

fn is_select_modifier(word: &str) -> bool {
    const MODIFIERS: [&str; 10] = [
        "ALL",
        "DISTINCT",
        "DISTINCTROW",
        "HIGH_PRIORITY",
        "STRAIGHT_JOIN",
        "SQL_SMALL_RESULT",
        "SQL_BIG_RESULT",
        "SQL_BUFFER_RESULT",
        "SQL_NO_CACHE",
        "SQL_CALC_FOUND_ROWS",
    ];
    MODIFIERS.iter().any(|it| it.eq_ignore_ascii_case(word))
}

fn ends_select_list(keyword: Keyword) -> bool {
    matches!(
        keyword,
        Keyword::FROM
            | Keyword::WHERE
            | Keyword::GROUP
            | Keyword::HAVING
            | Keyword::WINDOW
            | Keyword::QUALIFY
            | Keyword::ORDER
            | Keyword::LIMIT
            | Keyword::OFFSET
            | Keyword::FETCH
            | Keyword::UNION
            | Keyword::EXCEPT
            | Keyword::INTERSECT
            | Keyword::MINUS
            | Keyword::INTO
            | Keyword::FOR
            | Keyword::LOCK
            | Keyword::PROCEDURE
    )
}

/// Gives a schema's field names their MySQL form. Names of columns that a wildcard stands for stay; where several
/// wildcards make it unclear which those are, so do all between them.
pub fn renamed(fields: &[String], names: &[OutputName]) -> Vec<String> {
    let mut renamed = fields.to_vec();
    let n_wildcards = names.iter().filter(|it| matches!(it, OutputName::Wildcard)).count();
    if n_wildcards == 0 && names.len() != fields.len() {
        return renamed;
    }
    let columns = |it: &OutputName| match it {
        OutputName::Column(name) => Some(name.clone()),
        OutputName::Wildcard => None,
    };
    for (field, name) in renamed.iter_mut().zip(names.iter().map_while(columns)) {
        *field = name;
    }
    if n_wildcards > 0 {
        for (field, name) in renamed.iter_mut().rev().zip(names.iter().rev().map_while(columns)) {
            *field = name;
        }
    }
    renamed
}

/// Gives equal items of one SELECT list names of their own, since the planner wants distinct ones; the client sees
/// the names of [`output_names`]. Whether there were any.
pub(super) fn part_equal_items(query: &mut Query) -> bool {
    let Some(select) = first_select_mut(&mut query.body) else { return false };
    let mut has_equal = false;
    let mut seen: HashMap<String, usize> = HashMap::new();
    for (idx, item) in select.projection.iter_mut().enumerate() {
        let name = match item {
            // A column may come twice under one name when its tables differ; the planner settles those by table.
            SelectItem::UnnamedExpr(expr) => expr.to_string().to_lowercase(),
            SelectItem::ExprWithAlias { alias, .. } => alias.value.to_lowercase(),
            _ => continue,
        };
        if seen.insert(name.clone(), idx).is_none() {
            continue;
        }
        let alias = datafusion::sql::sqlparser::ast::Ident::with_quote('`', format!("{name} #{}", idx + 1));
        *item = match std::mem::replace(item, SelectItem::Wildcard(Default::default())) {
            SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => {
                SelectItem::ExprWithAlias { expr, alias }
            }
            other => other,
        };
        has_equal = true;
    }
    has_equal
}

fn first_select_mut(body: &mut SetExpr) -> Option<&mut Select> {
    match body {
        SetExpr::Select(select) => Some(select),
        SetExpr::Query(query) => first_select_mut(&mut query.body),
        SetExpr::SetOperation { left, .. } => first_select_mut(left),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(fields: &[&str], names: &[Option<&str>], expected: &[&str]) {
        let fields: Vec<String> = fields.iter().map(|it| (*it).to_owned()).collect();
        let name = |it: &Option<&str>| it.map_or(OutputName::Wildcard, |it| OutputName::Column(it.to_owned()));
        let names: Vec<OutputName> = names.iter().map(name).collect();
        assert_eq!(renamed(&fields, &names), expected);
    }

    #[test]
    fn without_wildcards_all_are_named() {
        check(&["a", "b"], &[Some("X"), Some("Y")], &["X", "Y"]);
    }

    #[test]
    fn a_wildcard_keeps_its_own_names() {
        check(&["a", "b", "c", "d"], &[Some("X"), None, Some("Z")], &["X", "b", "c", "Z"]);
    }

    #[test]
    fn what_does_not_fit_stays() {
        check(&["a", "b"], &[Some("X")], &["a", "b"]);
    }
}

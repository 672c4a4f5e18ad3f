//! Small tables of text, as `SHOW` answers with, and their filters.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::common::cast::as_boolean_array;
use datafusion::execution::SessionState;
use datafusion::sql::sqlparser::ast::{Expr, ExprWithAlias, VisitMut, VisitorMut};
use sheaf_planners::parser::ShowFilter;

use crate::answer::Answer;
use crate::error::QueryError;
use crate::session::of_batches;

/// Rows of text under named columns. A name that begins with `#` is one of whole numbers.
pub(super) struct Rows {
    columns: Vec<String>,
    /// Invariant: each as long as `columns`.
    rows: Vec<Vec<Option<String>>>,
}

impl Rows {
    pub fn new(columns: &[&str]) -> Self {
        Self { columns: columns.iter().map(|it| (*it).to_owned()).collect(), rows: vec![] }
    }

    pub fn push(&mut self, row: Vec<Option<String>>) {
        debug_assert_eq!(row.len(), self.columns.len());
        self.rows.push(row);
    }

    pub fn retain(&mut self, keep: impl FnMut(&Vec<Option<String>>) -> bool) {
        self.rows.retain(keep);
    }

    pub fn schema(&self) -> SchemaRef {
        let field = |name: &String| match name.strip_prefix('#') {
            Some(name) => Field::new(name, DataType::Int64, true),
            None => Field::new(name, DataType::Utf8, true),
        };
        Arc::new(Schema::new(self.columns.iter().map(field).collect::<Vec<_>>()))
    }

    fn batch(&self) -> Result<RecordBatch, QueryError> {
        let column = |(idx, name): (usize, &String)| -> ArrayRef {
            let values = self.rows.iter().map(|row| row[idx].as_deref());
            match name.starts_with('#') {
                true => Arc::new(values.map(|it| it.and_then(|it| it.parse().ok())).collect::<Int64Array>()),
                false => Arc::new(values.collect::<StringArray>()),
            }
        };
        let columns = self.columns.iter().enumerate().map(column).collect();
        Ok(RecordBatch::try_new(self.schema(), columns)?)
    }

    pub fn answer(self) -> Result<Answer, QueryError> {
        let batch = self.batch()?;
        Ok(Answer::Rows(of_batches(batch.schema(), vec![batch])))
    }

    /// The rows that a filter keeps. LIKE looks at the column `like_column`, whose name it then tells.
    pub fn filtered(
        mut self,
        filter: Option<ShowFilter>,
        like_column: usize,
        state: &SessionState,
    ) -> Result<Answer, QueryError> {
        match filter {
            None => self.answer(),
            Some(ShowFilter::Like(pattern)) => {
                self.retain(|row| row[like_column].as_deref().is_some_and(|it| is_like(&pattern, it)));
                self.answer()
            }
            Some(ShowFilter::Where(condition)) => {
                let batch = self.batch()?;
                let kept = evaluate(&batch, *condition, state)?;
                let batch = filter_record_batch(&batch, &kept)?;
                Ok(Answer::Rows(of_batches(batch.schema(), vec![batch])))
            }
        }
    }
}

/// The condition for each row, as the engine sees it.
fn evaluate(batch: &RecordBatch, mut condition: Expr, state: &SessionState) -> Result<BooleanArray, QueryError> {
    let schema = batch.schema();
    let _ = condition.visit(&mut SpellColumns { schema: &schema });
    let schema = DFSchema::try_from(schema.as_ref().clone())?;
    let condition = ExprWithAlias { expr: condition, alias: None };
    let condition = state.create_logical_expr_from_sql_expr(condition, &schema)?;
    let condition = state.create_physical_expr(condition, &schema)?;
    let kept = condition.evaluate(batch)?.into_array(batch.num_rows())?;
    let kept = arrow::compute::cast(&kept, &DataType::Boolean)?;
    Ok(as_boolean_array(&kept)?.clone())
}

/// Columns are named in any letters: `variable_name` for `Variable_name`.
struct SpellColumns<'a> {
    schema: &'a SchemaRef,
}

impl VisitorMut for SpellColumns<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> std::ops::ControlFlow<()> {
        if let Expr::Identifier(ident) = expr
            && let Some(field) = self.schema.fields().iter().find(|it| it.name().eq_ignore_ascii_case(&ident.value))
        {
            ident.value.clone_from(field.name());
        }
        std::ops::ControlFlow::Continue(())
    }
}

/// MySQL's LIKE without regard to letters: `%` any text, `_` any character, a backslash takes the next as it is.
pub(super) fn is_like(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.to_lowercase().chars().collect();
    let text: Vec<char> = text.to_lowercase().chars().collect();
    let (mut at, mut idx) = (0, 0);
    // Where the last `%` stood and how much it took: what is tried longer when the rest does not fit.
    let mut retry: Option<(usize, usize)> = None;
    while idx < text.len() {
        let (literal, width) = match pattern.get(at) {
            Some('\\') if at + 1 < pattern.len() => (Some(pattern[at + 1]), 2),
            Some('%') => {
                retry = Some((at, idx));
                at += 1;
                continue;
            }
            Some('_') => (None, 1),
            Some(other) => (Some(*other), 1),
            None => (Some('\0'), 0),
        };
        if width > 0 && literal.is_none_or(|it| it == text[idx]) {
            at += width;
            idx += 1;
        } else if let Some((percent, taken)) = retry {
            at = percent + 1;
            idx = taken + 1;
            retry = Some((percent, idx));
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|it| *it == '%')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("lower_case%", "Lower_Case_Table_Names", true),
            ("lower\\_case%", "lowerxcase", false),
            ("%a%b", "xxaxxbxxb", true),
            ("a_c", "abc", true),
            ("a_c", "ac", false),
            ("", "", true),
            ("%", "", true),
            ("abc", "abcd", false),
        ] {
            assert_eq!(is_like(pattern, text), expected, "{pattern} {text}");
        }
    }
}

//! MySQL's scalar functions, by the chapters of its manual.
//!
//! A session that speaks MySQL calls them by MySQL's names; plans call them `mysql_…`, since the engine has functions
//! of the same names that mean something else, and other sessions use those. Each takes arguments of any type and
//! converts them as MySQL does, so that a text that is no number or date gives 0 or NULL and never an error.

mod casts;
mod columns;
mod compare;
mod dates;
mod intervals;
mod json;
mod json_path;
mod moments;
mod numbers;
mod numerals;
mod operators;
mod regexps;
pub(crate) mod sleep;
mod texts;
mod various;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::RangeInclusive;
use std::sync::{Arc, LazyLock};

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use sheaf_common::{ErrorCode, WireError};

use crate::mysql_semantics;

use columns::Call;
pub(crate) use operators::{MySqlOperators, list_beside};

/// What the plan's names begin with.
pub const PREFIX: &str = "mysql_";

/// A chapter of the manual, as the table in the documentation is ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Chapter {
    Comparison,
    Numeric,
    Date,
    Text,
    RegularExpression,
    Cast,
    Bit,
    Hash,
    Json,
    Various,
}

impl Chapter {
    pub fn title(self) -> &'static str {
        match self {
            Self::Comparison => "Comparison and control flow",
            Self::Numeric => "Numeric",
            Self::Date => "Date and time",
            Self::Text => "String",
            Self::RegularExpression => "Regular expressions",
            Self::Cast => "Casts",
            Self::Bit => "Bit operators",
            Self::Hash => "Hashes",
            Self::Json => "JSON",
            Self::Various => "Miscellaneous",
        }
    }
}

/// The type of a function's result.
#[derive(Clone, Copy)]
enum Returns {
    Bool,
    Int,
    UInt,
    Float,
    Text,
    Bytes,
    Date,
    DateTime,
    /// MySQL's TIME, as a duration.
    Time,
    /// By the arguments' types, and their values where they are constant.
    By(fn(&Arguments) -> Result<DataType>),
}

/// What is known of a call's arguments when it is planned.
struct Arguments<'a> {
    types: Vec<DataType>,
    values: &'a [Option<&'a ScalarValue>],
}

impl Arguments<'_> {
    fn data_type(&self, idx: usize) -> &DataType {
        self.types.get(idx).unwrap_or(&DataType::Null)
    }

    fn value(&self, idx: usize) -> Option<&ScalarValue> {
        self.values.get(idx).copied().flatten()
    }

    /// A constant whole number.
    fn int(&self, idx: usize) -> Option<i64> {
        match self.value(idx)?.cast_to(&DataType::Int64).ok()? {
            ScalarValue::Int64(value) => value,
            _ => None,
        }
    }

    fn text(&self, idx: usize) -> Option<&str> {
        match self.value(idx)? {
            ScalarValue::Utf8(text) | ScalarValue::Utf8View(text) | ScalarValue::LargeUtf8(text) => text.as_deref(),
            _ => None,
        }
    }
}

/// From arguments and their types to something simpler.
type Simplify = fn(&[Expr], &[DataType]) -> Option<Expr>;

/// One function.
pub(crate) struct Definition {
    /// MySQL's, in small letters.
    pub name: &'static str,
    pub chapter: Chapter,
    n_arguments: RangeInclusive<usize>,
    returns: Returns,
    run: fn(&Call) -> Result<ArrayRef>,
    /// What it becomes where its arguments' types make it simpler; none leaves it.
    simplify: Option<Simplify>,
    /// Each row has a value of its own.
    is_volatile: bool,
}

/// As many arguments as one likes.
const MANY: usize = usize::MAX;

impl Definition {
    const fn new(
        chapter: Chapter,
        name: &'static str,
        n_arguments: RangeInclusive<usize>,
        returns: Returns,
        run: fn(&Call) -> Result<ArrayRef>,
    ) -> Self {
        Self { name, chapter, n_arguments, returns, run, simplify: None, is_volatile: false }
    }

    const fn simplified(mut self, simplify: fn(&[Expr], &[DataType]) -> Option<Expr>) -> Self {
        self.simplify = Some(simplify);
        self
    }

    const fn volatile(mut self) -> Self {
        self.is_volatile = true;
        self
    }

    fn return_type(&self, arguments: &Arguments) -> Result<DataType> {
        Ok(match self.returns {
            Returns::Bool => DataType::Boolean,
            Returns::Int => DataType::Int64,
            Returns::UInt => DataType::UInt64,
            Returns::Float => DataType::Float64,
            Returns::Text => DataType::Utf8,
            Returns::Bytes => DataType::Binary,
            Returns::Date => DataType::Date32,
            Returns::DateTime => DATETIME,
            Returns::Time => TIME,
            Returns::By(decide) => decide(arguments)?,
        })
    }
}

const DATETIME: DataType = DataType::Timestamp(TimeUnit::Microsecond, None);
const TIME: DataType = DataType::Duration(TimeUnit::Microsecond);

/// All of them, chapter by chapter.
fn definitions() -> impl Iterator<Item = &'static Definition> {
    [
        compare::FUNCTIONS,
        numbers::FUNCTIONS,
        casts::FUNCTIONS,
        operators::FUNCTIONS,
        dates::FUNCTIONS,
        intervals::FUNCTIONS,
        texts::FUNCTIONS,
        regexps::FUNCTIONS,
        json::FUNCTIONS,
        various::FUNCTIONS,
    ]
    .into_iter()
    .flatten()
}

/// The function of a MySQL name in small letters, if it is one of these.
pub(crate) fn find(name: &str) -> Option<&'static Definition> {
    static BY_NAME: LazyLock<std::collections::HashMap<&'static str, &'static Definition>> =
        LazyLock::new(|| definitions().map(|it| (it.name, it)).collect());
    BY_NAME.get(name).copied()
}

/// Errs with MySQL's 1582 when a call has a number of arguments that the function does not take.
pub(crate) fn check_count(definition: &Definition, n_arguments: usize) -> std::result::Result<(), WireError> {
    if definition.n_arguments.contains(&n_arguments) {
        return Ok(());
    }
    Err(wrong_count(definition.name))
}

fn wrong_count(name: &str) -> WireError {
    let text = format!("incorrect parameter count in the call to native function '{name}'");
    WireError::new(ErrorCode::ParameterCount, text)
}

/// All functions of MySQL's manual that a MySQL session can call, by chapter: the table of the documentation.
pub fn chapters() -> Vec<(&'static str, Vec<String>)> {
    let shown = |names: Vec<&str>| {
        let mut names: Vec<String> = names.iter().map(|it| it.to_uppercase()).collect();
        names.sort_unstable();
        names
    };
    // What only plans call has a point in its name.
    let public = || definitions().filter(|it| !it.name.contains('.'));
    let mut kinds: Vec<Chapter> = public().map(|it| it.chapter).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let of = |chapter| public().filter(|it| it.chapter == chapter).map(|it| it.name).collect();
    let mut chapters: Vec<_> = kinds.into_iter().map(|it| (it.title(), shown(of(it)))).collect();
    let rewritten = mysql_semantics::REWRITTEN.iter().map(|(name, ..)| *name).filter(|it| find(it).is_none());
    chapters.push(("The clock", shown(mysql_semantics::clocks().collect())));
    chapters.push(("Written out by the session", shown(rewritten.collect())));
    chapters.push(("Aggregates", shown(mysql_semantics::AGGREGATES.to_vec())));
    chapters
}

/// All of them for a registry.
pub fn functions() -> Vec<Arc<ScalarUDF>> {
    let defined = definitions().map(|definition| Arc::new(ScalarUDF::from(MySqlFunction::new(definition))));
    defined.chain([sleep::function()]).collect()
}

/// One of them as a function that plans can hold, for calls that the server itself writes.
fn function(name: &str) -> Result<Arc<ScalarUDF>> {
    match find(name) {
        Some(definition) => Ok(Arc::new(ScalarUDF::from(MySqlFunction::new(definition)))),
        None => datafusion::common::internal_err!("there is no function {name:?}"),
    }
}

/// A call of one of them.
fn call(name: &str, arguments: Vec<Expr>) -> Result<Expr> {
    Ok(function(name)?.call(arguments))
}

struct MySqlFunction {
    definition: &'static Definition,
    name: String,
    signature: Signature,
}

impl MySqlFunction {
    fn new(definition: &'static Definition) -> Self {
        let volatility = if definition.is_volatile { Volatility::Volatile } else { Volatility::Immutable };
        let signature = match *definition.n_arguments.start() {
            0 => Signature::one_of(
                vec![
                    datafusion::logical_expr::TypeSignature::Nullary,
                    datafusion::logical_expr::TypeSignature::VariadicAny,
                ],
                volatility,
            ),
            _ => Signature::variadic_any(volatility),
        };
        Self { definition, name: format!("{PREFIX}{}", definition.name), signature }
    }
}

impl fmt::Debug for MySqlFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MySqlFunction({})", self.name)
    }
}

impl PartialEq for MySqlFunction {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for MySqlFunction {}

impl Hash for MySqlFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for MySqlFunction {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.definition.return_type(&Arguments { types: types.to_vec(), values: &[] })
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let n_arguments = args.arg_fields.len();
        check_count(self.definition, n_arguments).map_err(external)?;
        let types = args.arg_fields.iter().map(|it| it.data_type().clone()).collect();
        let data_type = self.definition.return_type(&Arguments { types, values: args.scalar_arguments })?;
        let field = Field::new(&self.name, data_type, true);
        Ok(Arc::new(if json::gives_json(self.definition.name) { json::marked(field) } else { field }))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        check_count(self.definition, args.args.len()).map_err(external)?;
        let is_constant =
            !self.definition.is_volatile && args.args.iter().all(|it| matches!(it, ColumnarValue::Scalar(_)));
        let call = Call::new(&args, if is_constant { 1 } else { args.number_rows })?;
        let mut array = (self.definition.run)(&call)?;
        // Functions compute texts in one of their three types.
        if is_text(array.data_type()) && is_text(args.return_field.data_type()) {
            array = arrow::compute::cast(&array, args.return_field.data_type())?;
        }
        if array.data_type() != args.return_field.data_type() {
            return datafusion::common::internal_err!(
                "function {} gave {} in place of {}",
                self.name,
                array.data_type(),
                args.return_field.data_type()
            );
        }
        call.report(args.number_rows);
        match is_constant {
            true => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?)),
            false => Ok(ColumnarValue::Array(array)),
        }
    }

    fn simplify(&self, args: Vec<Expr>, context: &SimplifyContext) -> Result<ExprSimplifyResult> {
        let Some(simplify) = self.definition.simplify else { return Ok(ExprSimplifyResult::Original(args)) };
        let types = args.iter().map(|it| context.get_data_type(it)).collect::<Result<Vec<_>>>()?;
        match simplify(&args, &types) {
            Some(simpler) => Ok(ExprSimplifyResult::Simplified(simpler)),
            None => Ok(ExprSimplifyResult::Original(args)),
        }
    }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8)
}

/// A text's own type, for what only hands texts on; `Utf8` for all else.
fn text_type(arguments: &Arguments) -> Result<DataType> {
    let own = arguments.data_type(0);
    Ok(if is_text(own) { own.clone() } else { DataType::Utf8 })
}

fn external(error: WireError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// An error that a statement ends with, under a code of ours.
fn refused<T>(code: ErrorCode, text: impl Into<String>) -> Result<T> {
    Err(external(WireError::new(code, text)))
}

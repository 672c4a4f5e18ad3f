//! What has to be known of prepared statements to read their executions: how many parameters each has, the types that
//! the client bound last, and values sent ahead.

use std::collections::{BTreeMap, HashMap};

use datafusion::common::ScalarValue;

use super::parameter::{ParameterError, ParameterType};
use super::reply::ErrorReply;
use super::wire::{take_array, take_bytes, take_u8, take_u16, take_u32};

/// An execution, read.
#[derive(Debug, PartialEq)]
pub struct Execution {
    pub statement: u32,
    /// The client fetches the rows bit by bit.
    pub with_cursor: bool,
    /// A value may be none that we can hold; the statement is not run then.
    pub parameters: Result<Vec<ScalarValue>, ParameterError>,
}

/// The prepared statements of one connection.
#[derive(Debug)]
pub struct Statements {
    by_id: HashMap<u32, Statement>,
    /// Of all statements together: what a client may leave here without executing anything.
    long_data_bytes: usize,
    long_data_bytes_max: usize,
}

#[derive(Debug, Default)]
struct Statement {
    n_parameters: usize,
    /// Invariant: none, or one for each parameter.
    types: Vec<ParameterType>,
    /// By the parameter's index, from 0.
    long_data: BTreeMap<usize, Vec<u8>>,
    /// Told at the next execution, since long data has no reply.
    long_data_error: Option<ParameterError>,
}

impl Statements {
    pub fn new(long_data_bytes_max: usize) -> Self {
        Self { by_id: HashMap::new(), long_data_bytes: 0, long_data_bytes_max }
    }

    pub fn insert(&mut self, statement: u32, n_parameters: usize) {
        self.close(statement);
        self.by_id.insert(statement, Statement { n_parameters, ..Statement::default() });
    }

    /// Bytes that were sent ahead and not used yet.
    #[cfg(test)]
    pub fn long_data_bytes(&self) -> usize {
        self.long_data_bytes
    }

    /// Forgets a statement; nothing happens if it is unknown.
    pub fn close(&mut self, statement: u32) {
        if let Some(statement) = self.by_id.remove(&statement) {
            self.long_data_bytes -= statement.long_data_bytes();
        }
    }

    pub fn clear(&mut self) {
        self.by_id.clear();
        self.long_data_bytes = 0;
    }

    /// Forgets what was sent ahead.
    pub fn reset(&mut self, statement: u32) -> Result<(), ErrorReply> {
        let known = self.by_id.get_mut(&statement).ok_or_else(|| unknown(statement, "RESET"))?;
        self.long_data_bytes -= known.long_data_bytes();
        known.long_data.clear();
        known.long_data_error = None;
        Ok(())
    }

    /// Keeps a piece of a value: `COM_STMT_SEND_LONG_DATA`, which has no reply, whatever is wrong with it.
    pub fn send_ahead(&mut self, mut body: &[u8]) {
        let rest = &mut body;
        let (Some(statement), Some(parameter)) = (take_u32(rest), take_u16(rest)) else { return };
        let Some(statement) = self.by_id.get_mut(&statement) else { return };
        let (parameter, n_parameters) = (usize::from(parameter), statement.n_parameters);
        if parameter >= n_parameters {
            let error = ParameterError::NoSuchParameter { index: parameter + 1, n_parameters };
            statement.long_data_error.get_or_insert(error);
        } else if rest.len() > self.long_data_bytes_max - self.long_data_bytes {
            let error = ParameterError::LongDataTooLarge { bytes_max: self.long_data_bytes_max };
            statement.long_data_error.get_or_insert(error);
        } else {
            self.long_data_bytes += rest.len();
            statement.long_data.entry(parameter).or_default().extend_from_slice(rest);
        }
    }

    /// Reads what follows the code of `COM_STMT_EXECUTE`. What was sent ahead is used up, also by an execution that fails.
    pub fn execute(&mut self, mut body: &[u8]) -> Result<Execution, ErrorReply> {
        const READ_ONLY_CURSOR: u8 = 1;
        let rest = &mut body;
        let id = take_u32(rest).ok_or_else(|| ErrorReply::malformed("EXECUTE has no statement id"))?;
        let known = self.by_id.get_mut(&id).ok_or_else(|| unknown(id, "EXECUTE"))?;
        self.long_data_bytes -= known.long_data_bytes();
        let ahead = std::mem::take(&mut known.long_data);
        let error = known.long_data_error.take();
        // How often to execute: always once.
        let (Some(flags), Some(_)) = (take_u8(rest), take_u32(rest)) else {
            return Err(ErrorReply::malformed("EXECUTE has no flags"));
        };
        let parameters = match error {
            Some(error) => Err(error),
            None => known.parameters(rest, &ahead),
        };
        Ok(Execution { statement: id, with_cursor: flags & READ_ONLY_CURSOR != 0, parameters })
    }
}

impl Statement {
    fn long_data_bytes(&self) -> usize {
        self.long_data.values().map(Vec::len).sum()
    }

    fn parameters(
        &mut self,
        input: &mut &[u8],
        ahead: &BTreeMap<usize, Vec<u8>>,
    ) -> Result<Vec<ScalarValue>, ParameterError> {
        let n_parameters = self.n_parameters;
        if n_parameters == 0 {
            return Ok(Vec::new());
        }
        let cut_off = ParameterError::CutOff { index: 1 };
        let nulls = take_bytes(input, n_parameters.div_ceil(8)).ok_or(cut_off.clone())?;
        let are_types_given = take_u8(input).ok_or(cut_off)? != 0;
        if are_types_given {
            let types = (1..=n_parameters).map(|index| {
                let bytes = take_array(input).ok_or(ParameterError::CutOff { index })?;
                Ok(ParameterType::decode(bytes))
            });
            self.types = types.collect::<Result<_, _>>()?;
        }
        // A statement without types would otherwise be a statement without parameters.
        if self.types.len() != n_parameters {
            return Err(ParameterError::Untyped);
        }
        let values = self.types.iter().enumerate().map(|(i, value_type)| match ahead.get(&i) {
            Some(bytes) => value_type.long_scalar(bytes, i + 1),
            None if nulls[i / 8] & 1 << (i % 8) != 0 => Ok(ScalarValue::Null),
            None => value_type.take_scalar(input, i + 1),
        });
        values.collect()
    }
}

pub fn unknown(statement: u32, verb: &str) -> ErrorReply {
    ErrorReply::new(1243, "HY000", format!("unknown prepared statement handler ({statement}) given to {verb}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: u32 = 9;

    fn statements(n_parameters: usize) -> Statements {
        let mut statements = Statements::new(10);
        statements.insert(ID, n_parameters);
        statements
    }

    fn body(flags: u8, rest: &[u8]) -> Vec<u8> {
        [&ID.to_le_bytes()[..], &[flags, 1, 0, 0, 0], rest].concat()
    }

    fn execute(statements: &mut Statements, rest: &[u8]) -> Result<Vec<ScalarValue>, ParameterError> {
        statements.execute(&body(0, rest)).unwrap().parameters
    }

    fn ahead(statements: &mut Statements, parameter: u16, data: &[u8]) {
        statements.send_ahead(&[&ID.to_le_bytes()[..], &parameter.to_le_bytes(), data].concat());
    }

    fn int(value: i64) -> ScalarValue {
        ScalarValue::Int64(Some(value))
    }

    fn text(value: &str) -> ScalarValue {
        ScalarValue::Utf8(Some(value.into()))
    }

    #[test]
    fn types_are_those_of_an_earlier_execution() {
        let mut known = statements(2);
        assert_eq!(execute(&mut known, &[0, 0, 7]), Err(ParameterError::Untyped));
        assert_eq!(execute(&mut known, &[0b10, 1, 1, 0, 253, 0, 5]), Ok(vec![int(5), ScalarValue::Null]));
        assert_eq!(execute(&mut known, b"\0\0\x07\x02ok"), Ok(vec![int(7), text("ok")]));
        assert_eq!(execute(&mut known, &[0b11, 0]), Ok(vec![ScalarValue::Null; 2]));
        // Bound anew.
        assert_eq!(execute(&mut known, &[0, 1, 253, 0, 1, 0, 1, b'x', 5]), Ok(vec![text("x"), int(5)]));
        assert_eq!(execute(&mut known, &[0, 0, 1, b'y', 6]), Ok(vec![text("y"), int(6)]));
    }

    #[test]
    fn more_parameters_than_bits_of_a_byte() {
        let mut known = statements(9);
        let rest = [&[0xFF, 0, 1][..], &[1, 0].repeat(9), &[42]].concat();
        let values = execute(&mut known, &rest).unwrap();
        assert_eq!((&values[..8], &values[8]), (&vec![ScalarValue::Null; 8][..], &int(42)));
    }

    #[test]
    fn what_ends_too_early_is_refused() {
        let whole = [0, 1, 1, 0, 253, 0, 5, 2, b'o', b'k'];
        let mut known = statements(2);
        for end in 0..whole.len() {
            assert!(matches!(execute(&mut known, &whole[..end]), Err(ParameterError::CutOff { .. })), "{end} bytes");
        }
        assert!(execute(&mut known, &whole).is_ok());
        for end in 0..9 {
            assert_eq!(known.execute(&body(0, &[])[..end]).unwrap_err().code, 1835, "{end} bytes");
        }
        assert_eq!(known.execute(&[1, 0, 0, 0]).unwrap_err().code, 1243);
        assert_eq!(execute(&mut statements(0), &[]), Ok(vec![]));
        assert!(known.execute(&body(1, &whole)).unwrap().with_cursor);
    }

    #[test]
    fn what_is_sent_ahead_is_used_once() {
        let mut known = statements(2);
        ahead(&mut known, 1, b"lo");
        ahead(&mut known, 1, b"ng");
        assert_eq!(execute(&mut known, &[0, 1, 1, 0, 253, 0, 5]), Ok(vec![int(5), text("long")]));
        assert_eq!(execute(&mut known, b"\0\0\x05\x02ok"), Ok(vec![int(5), text("ok")]));
        // Nothing is a value too.
        ahead(&mut known, 1, b"");
        assert_eq!(execute(&mut known, &[0, 0, 5]), Ok(vec![int(5), text("")]));
        ahead(&mut known, 1, b"lost");
        known.reset(ID).unwrap();
        assert_eq!(execute(&mut known, b"\0\0\x05\x02ok"), Ok(vec![int(5), text("ok")]));
        assert_eq!(known.long_data_bytes, 0);
        assert_eq!(known.reset(1).unwrap_err().code, 1243);
    }

    #[test]
    fn too_much_or_for_no_parameter_is_told_at_the_execution() {
        let mut known = statements(1);
        known.insert(10, 1);
        let on =
            |statement: u32, n_bytes: usize| [&statement.to_le_bytes()[..], &[0, 0], &vec![b'x'; n_bytes]].concat();
        known.send_ahead(&on(10, 6));
        known.send_ahead(&on(ID, 5));
        assert_eq!(execute(&mut known, &[0, 1, 253, 0]), Err(ParameterError::LongDataTooLarge { bytes_max: 10 }));
        known.close(10);
        known.send_ahead(&on(ID, 10));
        assert_eq!(execute(&mut known, &[0, 1, 253, 0]), Ok(vec![text("xxxxxxxxxx")]));
        ahead(&mut known, 1, b"x");
        let error = ParameterError::NoSuchParameter { index: 2, n_parameters: 1 };
        assert_eq!(execute(&mut known, &[0, 1, 253, 0]), Err(error));
        // Unknown statements and cut packets have no reply.
        known.send_ahead(&on(77, 3));
        known.send_ahead(&[9, 0, 0]);
        assert_eq!(known.long_data_bytes, 0);
    }
}

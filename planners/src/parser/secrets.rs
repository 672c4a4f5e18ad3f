//! A statement's text as it may be shown: what opens doors is taken out.

use std::ops::Range;

use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::source::Source;

const HIDDEN: &str = "'***'";

/// Whether an option of this name holds a secret, such as `s3.secret_access_key`.
pub fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["key", "secret", "token", "password", "sas", "credential"].iter().any(|it| name.contains(it))
}

/// The text of `range`, in which the values of secret options are stars.
pub(super) fn shown(source: &Source, tokens: &[TokenWithSpan], range: Range<usize>) -> String {
    let mut shown = source.slice(range.clone()).to_owned();
    let text: Vec<&TokenWithSpan> = tokens.iter().filter(|it| !matches!(it.token, Token::Whitespace(_))).collect();
    let is_options =
        |it: &&TokenWithSpan| matches!(&it.token, Token::Word(it) if it.value.eq_ignore_ascii_case("options"));
    let Some(start) = text.iter().position(is_options) else { return shown };
    // From the end, so that what is replaced does not move what comes before it.
    for at in (start + 2..text.len()).rev() {
        let value = text[at];
        if !matches!(value.token, Token::SingleQuotedString(_) | Token::DoubleQuotedString(_)) {
            continue;
        }
        let name = if text[at - 1].token == Token::Eq { text[at.saturating_sub(2)] } else { text[at - 1] };
        let is_secret = match &name.token {
            Token::SingleQuotedString(name) | Token::DoubleQuotedString(name) => is_secret_name(name),
            Token::Word(word) => is_secret_name(&word.value),
            _ => false,
        };
        let (from, to) = (source.offset(value.span.start), source.offset(value.span.end));
        if is_secret && from >= range.start && to <= range.end {
            shown.replace_range(from - range.start..to - range.start, HIDDEN);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::super::{SqlDialect, parse};

    #[test]
    fn secrets_are_taken_out() {
        let sql = "SELECT 1; CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 's3://ä/key' OPTIONS ('s3.region' 'here', \
                   's3.secret_access_key' 'hu''sh', s3.access_key_id 'who', 'format.delimiter' ';') ; SELECT 'token'";
        let statements = parse(sql, SqlDialect::MySql { ansi_quotes: false }).unwrap();
        let expected = "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 's3://ä/key' OPTIONS ('s3.region' 'here', \
                        's3.secret_access_key' '***', s3.access_key_id '***', 'format.delimiter' ';')";
        assert_eq!(statements[1].text.as_ref(), expected);
        assert_eq!(statements[2].text.as_ref(), "SELECT 'token'");
    }
}

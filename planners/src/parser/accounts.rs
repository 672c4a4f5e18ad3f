//! Statements about accounts: users, roles, and what they may do.

use std::fmt;

use datafusion::sql::sqlparser::ast::Ident;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan};

use super::Failure;
use crate::error::PlanError;

/// A password, or what is kept of one. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// For the one place that makes a verifier of it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(***)")
    }
}

/// Whom a statement is about. A host that is not written is `%`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserRef {
    /// `CURRENT_USER`, `USER()`, or nobody named.
    Current,
    Named {
        user: String,
        host: String,
    },
}

/// How a user proves who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// Not said.
    None,
    /// `IDENTIFIED [WITH plugin] BY 'password' [REPLACE 'old']`.
    Password { plugin: Option<String>, password: Password, replaces: Option<Password> },
    /// `IDENTIFIED WITH plugin [AS 'verifier']`.
    Verifier { plugin: String, verifier: Option<Password> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserSpec {
    pub user: UserRef,
    pub credential: Credential,
}

/// What `CREATE USER` and `ALTER USER` say of all their users; none where nothing is said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserOptions {
    pub is_locked: Option<bool>,
    pub requires_tls: Option<bool>,
    pub comment: Option<String>,
}

/// `SELECT (a, b)`: a privilege by its name in capitals, one space between words, and the columns that it is limited to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrivilegeItem {
    pub name: String,
    pub columns: Vec<Ident>,
}

/// What privileges are granted on. A database of none is the session's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GrantTarget {
    Global,
    Database(Option<String>),
    Table {
        database: Option<String>,
        table: String,
    },
    /// A stored connection.
    Connection(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoleChoice {
    Default,
    None,
    All,
    AllExcept(Vec<UserRef>),
    Roles(Vec<UserRef>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountStatement {
    CreateUser {
        if_not_exists: bool,
        users: Vec<UserSpec>,
        default_roles: Vec<UserRef>,
        options: UserOptions,
    },
    AlterUser {
        if_exists: bool,
        users: Vec<UserSpec>,
        options: UserOptions,
    },
    DropUser {
        if_exists: bool,
        users: Vec<UserRef>,
    },
    RenameUser(Vec<(UserRef, UserRef)>),
    SetPassword {
        user: UserRef,
        password: Password,
        replaces: Option<Password>,
    },
    CreateRole {
        if_not_exists: bool,
        roles: Vec<UserRef>,
    },
    DropRole {
        if_exists: bool,
        roles: Vec<UserRef>,
    },
    Grant {
        privileges: Vec<PrivilegeItem>,
        on: GrantTarget,
        to: Vec<UserRef>,
        with_grant_option: bool,
    },
    /// `if_exists` makes a warning of a right that nobody has, `ignores_unknown` of a user that is not there.
    Revoke {
        privileges: Vec<PrivilegeItem>,
        on: GrantTarget,
        from: Vec<UserRef>,
        if_exists: bool,
        ignores_unknown: bool,
    },
    /// `REVOKE ALL PRIVILEGES, GRANT OPTION`: on whatever it is.
    RevokeAll {
        from: Vec<UserRef>,
        if_exists: bool,
        ignores_unknown: bool,
    },
    GrantRoles {
        roles: Vec<UserRef>,
        to: Vec<UserRef>,
        with_admin_option: bool,
    },
    RevokeRoles {
        roles: Vec<UserRef>,
        from: Vec<UserRef>,
        if_exists: bool,
        ignores_unknown: bool,
    },
    SetRole(RoleChoice),
    SetDefaultRole {
        roles: RoleChoice,
        to: Vec<UserRef>,
        if_exists: bool,
    },
}

type Result<T, E = Failure> = std::result::Result<T, E>;

/// Reads a statement about accounts. The places of what must not be shown are noted, since the statement's text goes into
/// process lists and logs.
pub(super) struct AccountParser<'a, 'b> {
    pub parser: &'a mut Parser<'b>,
    pub secrets: &'a mut Vec<Span>,
}

impl AccountParser<'_, '_> {
    /// What follows `CREATE`, if it is `USER` or `ROLE`.
    pub fn create(&mut self) -> Result<AccountStatement> {
        let is_role = self.user_or_role()?;
        let if_not_exists = self.parser.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
        if is_role {
            return Ok(AccountStatement::CreateRole { if_not_exists, roles: self.users()? });
        }
        let users = self.list(Self::user_spec)?;
        let mut default_roles = vec![];
        if self.words(&["DEFAULT", "ROLE"]) {
            default_roles = self.users()?;
        }
        let options = self.options()?;
        Ok(AccountStatement::CreateUser { if_not_exists, users, default_roles, options })
    }

    /// What follows `ALTER`.
    pub fn alter(&mut self) -> Result<AccountStatement> {
        self.expect_word("USER")?;
        let if_exists = self.parser.parse_keywords(&[Keyword::IF, Keyword::EXISTS]);
        let users = self.list(Self::user_spec)?;
        if let [UserSpec { user, credential: Credential::None }] = users.as_slice()
            && self.words(&["DEFAULT", "ROLE"])
        {
            let to = vec![user.clone()];
            return Ok(AccountStatement::SetDefaultRole { roles: self.role_choice()?, to, if_exists });
        }
        let options = self.options()?;
        Ok(AccountStatement::AlterUser { if_exists, users, options })
    }

    /// What follows `DROP`.
    pub fn drop(&mut self) -> Result<AccountStatement> {
        let is_role = self.user_or_role()?;
        let if_exists = self.parser.parse_keywords(&[Keyword::IF, Keyword::EXISTS]);
        let names = self.users()?;
        Ok(match is_role {
            true => AccountStatement::DropRole { if_exists, roles: names },
            false => AccountStatement::DropUser { if_exists, users: names },
        })
    }

    /// What follows `RENAME`.
    pub fn rename(&mut self) -> Result<AccountStatement> {
        self.expect_word("USER")?;
        let pairs = self.list(|this| {
            let from = this.user()?;
            this.expect_word("TO")?;
            Ok::<_, ParserError>((from, this.user()?))
        })?;
        Ok(AccountStatement::RenameUser(pairs))
    }

    /// What follows `GRANT`.
    pub fn grant(&mut self) -> Result<AccountStatement> {
        if !self.is_on_something() {
            let roles = self.users()?;
            self.expect_word("TO")?;
            let to = self.users()?;
            let with_admin_option = self.words(&["WITH", "ADMIN", "OPTION"]);
            return Ok(AccountStatement::GrantRoles { roles, to, with_admin_option });
        }
        let privileges = self.list(Self::privilege)?;
        let on = self.target()?;
        self.expect_word("TO")?;
        let to = self.users()?;
        let with_grant_option = self.words(&["WITH", "GRANT", "OPTION"]);
        Ok(AccountStatement::Grant { privileges, on, to, with_grant_option })
    }

    /// What follows `REVOKE`.
    pub fn revoke(&mut self) -> Result<AccountStatement> {
        let if_exists = self.words(&["IF", "EXISTS"]);
        if !self.is_on_something() {
            if self.words(&["ALL", "PRIVILEGES", ",", "GRANT", "OPTION"])
                || self.words(&["ALL", ",", "GRANT", "OPTION"])
            {
                self.expect_word("FROM")?;
                let from = self.users()?;
                return Ok(AccountStatement::RevokeAll { from, if_exists, ignores_unknown: self.ignores_unknown() });
            }
            let roles = self.users()?;
            self.expect_word("FROM")?;
            let from = self.users()?;
            return Ok(AccountStatement::RevokeRoles {
                roles,
                from,
                if_exists,
                ignores_unknown: self.ignores_unknown(),
            });
        }
        let privileges = self.list(Self::privilege)?;
        let on = self.target()?;
        self.expect_word("FROM")?;
        let from = self.users()?;
        let ignores_unknown = self.ignores_unknown();
        Ok(AccountStatement::Revoke { privileges, on, from, if_exists, ignores_unknown })
    }

    /// What follows `SET`, if it is about accounts; none if it is about variables.
    pub fn set(&mut self) -> Result<Option<AccountStatement>> {
        let assigns = |it: &Token| matches!(it, Token::Eq | Token::Assignment | Token::Comma | Token::EOF);
        let follows = self.parser.peek_nth_token_ref(1).token.clone();
        if self.is_word(0, "PASSWORD") && (follows == Token::Eq || self.is_word(1, "FOR")) {
            self.parser.advance_token();
            let user = if self.words(&["FOR"]) { self.user()? } else { UserRef::Current };
            self.parser.expect_token(&Token::Eq)?;
            let password = self.secret()?;
            let replaces = if self.words(&["REPLACE"]) { Some(self.secret()?) } else { None };
            return Ok(Some(AccountStatement::SetPassword { user, password, replaces }));
        }
        if self.is_word(0, "DEFAULT") && self.words(&["DEFAULT", "ROLE"]) {
            let roles = self.role_choice()?;
            self.expect_word("TO")?;
            let to = self.users()?;
            return Ok(Some(AccountStatement::SetDefaultRole { roles, to, if_exists: false }));
        }
        if self.is_word(0, "ROLE") && !assigns(&follows) {
            self.parser.advance_token();
            return Ok(Some(AccountStatement::SetRole(self.role_choice()?)));
        }
        Ok(None)
    }

    /// `FOR user [USING role, …]` of `SHOW GRANTS`.
    pub fn grants_of(&mut self) -> Result<(UserRef, Vec<UserRef>), ParserError> {
        if !self.words(&["FOR"]) {
            return Ok((UserRef::Current, vec![]));
        }
        let user = self.user()?;
        let using = if self.words(&["USING"]) { self.users()? } else { vec![] };
        Ok((user, using))
    }

    /// `'user'@'host'`, `user@host`, `user`, `CURRENT_USER[()]`.
    pub fn user(&mut self) -> Result<UserRef, ParserError> {
        let token = self.parser.next_token();
        let (user, host) = match token.token {
            Token::SingleQuotedString(user) | Token::DoubleQuotedString(user) => (user, self.host()?),
            Token::Word(word) if word.quote_style.is_some() => (word.value, self.host()?),
            Token::Word(word) => {
                let name = word.value.to_ascii_uppercase();
                if name == "CURRENT_USER" || (name == "USER" && self.parser.peek_token_ref().token == Token::LParen) {
                    if self.parser.consume_token(&Token::LParen) {
                        self.parser.expect_token(&Token::RParen)?;
                    }
                    return Ok(UserRef::Current);
                }
                // Outside quotes `@` is a letter to the tokenizer.
                match word.value.split_once('@') {
                    Some((user, host)) => (user.to_owned(), Some(self.host_from(host.to_owned(), token.span)?)),
                    None => (word.value, self.host()?),
                }
            }
            _ => return self.parser.expected("the name of a user", token),
        };
        let host = host.unwrap_or_else(|| "%".to_owned()).to_lowercase();
        // The names end up in texts with one line for each.
        const NAME_CHARS_MAX: usize = 32;
        const HOST_CHARS_MAX: usize = 255;
        if user.chars().count() > NAME_CHARS_MAX || host.chars().count() > HOST_CHARS_MAX {
            let message =
                format!("expected: a user of at most {NAME_CHARS_MAX} characters, a host of {HOST_CHARS_MAX}");
            return Err(ParserError::ParserError(message));
        }
        Ok(UserRef::Named { user, host })
    }

    /// `@host`, if there is one.
    fn host(&mut self) -> Result<Option<String>, ParserError> {
        match self.parser.peek_token_ref().clone() {
            TokenWithSpan { token: Token::AtSign, span } => {
                self.parser.advance_token();
                self.host_from(String::new(), span).map(Some)
            }
            TokenWithSpan { token: Token::Word(word), span } if word.quote_style.is_none() => {
                let Some(host) = word.value.strip_prefix('@') else { return Ok(None) };
                self.parser.advance_token();
                self.host_from(host.to_owned(), span).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The rest of a host of which `host`, the end of the token at `span`, is read: a quoted text, or what goes on without
    /// a space.
    fn host_from(&mut self, mut host: String, mut span: Span) -> Result<String, ParserError> {
        if host.is_empty() {
            let token = self.parser.next_token();
            span = token.span;
            match token.token {
                Token::SingleQuotedString(text) | Token::DoubleQuotedString(text) => return Ok(text),
                Token::Word(word) if word.quote_style.is_some() => return Ok(word.value),
                Token::Word(word) => host = word.value,
                Token::Number(text, _) => host = text,
                _ => return self.parser.expected("the name of a host", token),
            }
        }
        loop {
            let TokenWithSpan { token, span: next } = self.parser.peek_token_ref().clone();
            if next.start != span.end {
                return Ok(host);
            }
            match token {
                Token::Period => host.push('.'),
                Token::Number(text, _) => host.push_str(&text),
                Token::Word(word) if word.quote_style.is_none() => host.push_str(&word.value),
                _ => return Ok(host),
            }
            span = next;
            self.parser.advance_token();
        }
    }

    fn users(&mut self) -> Result<Vec<UserRef>, ParserError> {
        self.list(Self::user)
    }

    fn list<T, E>(&mut self, one: impl Fn(&mut Self) -> Result<T, E>) -> Result<Vec<T>, E> {
        let mut all = vec![one(self)?];
        while self.parser.consume_token(&Token::Comma) {
            all.push(one(self)?);
        }
        Ok(all)
    }

    fn user_spec(&mut self) -> Result<UserSpec> {
        let user = self.user()?;
        if !self.words(&["IDENTIFIED"]) {
            return Ok(UserSpec { user, credential: Credential::None });
        }
        let plugin = if self.words(&["WITH"]) { Some(self.name()?) } else { None };
        let credential = if self.words(&["BY"]) {
            if self.words(&["RANDOM", "PASSWORD"]) {
                return self.refused("IDENTIFIED BY RANDOM PASSWORD");
            }
            let password = self.secret()?;
            let replaces = if self.words(&["REPLACE"]) { Some(self.secret()?) } else { None };
            if self.words(&["RETAIN", "CURRENT", "PASSWORD"]) {
                return self.refused("RETAIN CURRENT PASSWORD");
            }
            Credential::Password { plugin, password, replaces }
        } else {
            let Some(plugin) = plugin else {
                return Ok(self.parser.expected_ref("BY or WITH", self.parser.peek_token_ref())?);
            };
            let verifier = if self.words(&["AS"]) { Some(self.secret()?) } else { None };
            Credential::Verifier { plugin, verifier }
        };
        Ok(UserSpec { user, credential })
    }

    /// `REQUIRE …`, `ACCOUNT …`, `PASSWORD …`, `COMMENT …` in any order. What MySQL has and we have not is refused unless
    /// it says that nothing is asked for.
    fn options(&mut self) -> Result<UserOptions> {
        let mut options = UserOptions::default();
        loop {
            if self.words(&["REQUIRE"]) {
                options.requires_tls = Some(if self.words(&["NONE"]) {
                    false
                } else if self.words(&["SSL"]) {
                    true
                } else {
                    return self.refused("REQUIRE X509, ISSUER, SUBJECT or CIPHER");
                });
            } else if self.words(&["ACCOUNT", "LOCK"]) {
                options.is_locked = Some(true);
            } else if self.words(&["ACCOUNT", "UNLOCK"]) {
                options.is_locked = Some(false);
            } else if self.words(&["COMMENT"]) {
                options.comment = Some(self.text()?);
            } else if self.is_word(0, "PASSWORD") {
                self.parser.advance_token();
                self.password_option()?;
            } else if self.words(&["DISCARD", "OLD", "PASSWORD"]) {
                // There never is one.
            } else if self.words(&["FAILED_LOGIN_ATTEMPTS"]) || self.words(&["PASSWORD_LOCK_TIME"]) {
                self.zero("FAILED_LOGIN_ATTEMPTS and PASSWORD_LOCK_TIME")?;
            } else if self.words(&["WITH"]) {
                const LIMITS: [&str; 4] = [
                    "MAX_QUERIES_PER_HOUR",
                    "MAX_UPDATES_PER_HOUR",
                    "MAX_CONNECTIONS_PER_HOUR",
                    "MAX_USER_CONNECTIONS",
                ];
                let mut n_limits = 0;
                while LIMITS.iter().any(|limit| self.words(&[limit])) {
                    self.zero("a limit of an account's resources")?;
                    n_limits += 1;
                }
                if n_limits == 0 {
                    let found = self.parser.peek_token_ref();
                    return Ok(self.parser.expected_ref("a limit such as MAX_USER_CONNECTIONS", found)?);
                }
            } else if self.words(&["ATTRIBUTE"]) {
                return self.refused("ATTRIBUTE");
            } else {
                return Ok(options);
            }
        }
    }

    /// What follows `PASSWORD`: accepted where it says that nothing is asked for.
    fn password_option(&mut self) -> Result<()> {
        let harmless: [&[&str]; 8] = [
            &["EXPIRE", "NEVER"],
            &["EXPIRE", "DEFAULT"],
            &["HISTORY", "DEFAULT"],
            &["REUSE", "INTERVAL", "DEFAULT"],
            &["REQUIRE", "CURRENT", "DEFAULT"],
            &["REQUIRE", "CURRENT", "OPTIONAL"],
            &["HISTORY", "0"],
            &["REUSE", "INTERVAL", "0", "DAY"],
        ];
        if harmless.iter().any(|words| self.words(words)) {
            return Ok(());
        }
        self.refused("PASSWORD EXPIRE, HISTORY, REUSE INTERVAL or REQUIRE CURRENT")
    }

    fn zero(&mut self, what: &str) -> Result<()> {
        match self.parser.parse_literal_uint()? {
            0 => Ok(()),
            _ => self.refused(what),
        }
    }

    fn refused<T>(&self, what: &str) -> Result<T> {
        Err(Failure::Plan(PlanError::Unsupported(format!("{what} is not supported for an account"))))
    }

    /// Words up to a comma, brackets or `ON`.
    fn privilege(&mut self) -> Result<PrivilegeItem> {
        let mut words = vec![];
        while let Token::Word(word) = &self.parser.peek_token_ref().token {
            if word.quote_style.is_none() && word.keyword == Keyword::ON {
                break;
            }
            words.push(word.value.to_ascii_uppercase());
            self.parser.advance_token();
        }
        if words.is_empty() {
            return Ok(self.parser.expected_ref("a privilege", self.parser.peek_token_ref())?);
        }
        let mut columns = vec![];
        if self.parser.consume_token(&Token::LParen) {
            columns = self.list(|this| this.parser.parse_identifier())?;
            self.parser.expect_token(&Token::RParen)?;
        }
        Ok(PrivilegeItem { name: words.join(" "), columns })
    }

    /// `ON [TABLE] *.*`, `db.*`, `db.t`, `t` or `*`; `ON CONNECTION c`.
    fn target(&mut self) -> Result<GrantTarget> {
        self.expect_word("ON")?;
        if self.is_word(0, "FUNCTION") || self.is_word(0, "PROCEDURE") {
            let follows = &self.parser.peek_nth_token_ref(1).token;
            if !matches!(follows, Token::Period) && !self.is_word(1, "TO") && !self.is_word(1, "FROM") {
                return self.refused("a privilege on stored routines, of which there are none,");
            }
        }
        // A table may be called so: then a dot, or the account, comes next.
        if self.is_word(0, "CONNECTION") && matches!(&self.parser.peek_nth_token_ref(1).token, Token::Word(_)) {
            let is_table = (self.is_word(1, "TO") || self.is_word(1, "FROM"))
                && !self.is_word(2, "TO")
                && !self.is_word(2, "FROM");
            if !is_table {
                self.parser.advance_token();
                return Ok(GrantTarget::Connection(self.parser.parse_identifier()?.value));
            }
        }
        if self.is_word(0, "TABLE") && !matches!(self.parser.peek_nth_token_ref(1).token, Token::Period) {
            self.parser.advance_token();
        }
        if self.parser.consume_token(&Token::Mul) {
            if !self.parser.consume_token(&Token::Period) {
                return Ok(GrantTarget::Database(None));
            }
            self.parser.expect_token(&Token::Mul)?;
            return Ok(GrantTarget::Global);
        }
        let first = self.parser.parse_identifier()?.value;
        if !self.parser.consume_token(&Token::Period) {
            return Ok(GrantTarget::Table { database: None, table: first });
        }
        if self.parser.consume_token(&Token::Mul) {
            return Ok(GrantTarget::Database(Some(first)));
        }
        let table = self.parser.parse_identifier()?.value;
        Ok(GrantTarget::Table { database: Some(first), table })
    }

    fn role_choice(&mut self) -> Result<RoleChoice, ParserError> {
        if self.words(&["DEFAULT"]) {
            return Ok(RoleChoice::Default);
        }
        if self.words(&["NONE"]) {
            return Ok(RoleChoice::None);
        }
        if self.words(&["ALL"]) {
            return Ok(match self.words(&["EXCEPT"]) {
                true => RoleChoice::AllExcept(self.users()?),
                false => RoleChoice::All,
            });
        }
        self.users().map(RoleChoice::Roles)
    }

    fn user_or_role(&mut self) -> Result<bool, ParserError> {
        if self.words(&["ROLE"]) {
            return Ok(true);
        }
        self.expect_word("USER").map(|()| false)
    }

    fn ignores_unknown(&mut self) -> bool {
        self.words(&["IGNORE", "UNKNOWN", "USER"])
    }

    /// Whether `ON` comes before whoever is granted to or revoked from: privileges then, roles else.
    fn is_on_something(&self) -> bool {
        let mut n = 0;
        loop {
            match &self.parser.peek_nth_token_ref(n).token {
                Token::Word(word) if word.quote_style.is_none() => match word.keyword {
                    Keyword::ON => return true,
                    Keyword::TO | Keyword::FROM => return false,
                    _ => {}
                },
                Token::EOF => return false,
                _ => {}
            }
            n += 1;
        }
    }

    /// A password or a verifier.
    fn secret(&mut self) -> Result<Password, ParserError> {
        let token = self.parser.next_token();
        let span = token.span;
        match token.token {
            Token::SingleQuotedString(text) | Token::DoubleQuotedString(text) => {
                self.secrets.push(span);
                Ok(Password(text))
            }
            Token::HexStringLiteral(digits) => {
                self.secrets.push(span);
                let bytes = unhex(&digits).and_then(|bytes| String::from_utf8(bytes).ok());
                bytes.map(Password).ok_or_else(|| ParserError::ParserError("expected: hexadecimal text".to_owned()))
            }
            _ => self.parser.expected("a quoted text", TokenWithSpan { token: token.token, span }),
        }
    }

    fn text(&mut self) -> Result<String, ParserError> {
        let token = self.parser.next_token();
        match token.token {
            Token::SingleQuotedString(text) | Token::DoubleQuotedString(text) => Ok(text),
            _ => self.parser.expected("a quoted text", token),
        }
    }

    /// A plugin's name, quoted in any way or not at all.
    fn name(&mut self) -> Result<String, ParserError> {
        match &self.parser.peek_token_ref().token {
            Token::Word(_) => Ok(self.parser.parse_identifier()?.value),
            _ => self.text(),
        }
    }

    /// Whether the `n`-th token from here is this word, unquoted.
    fn is_word(&self, n: usize, word: &str) -> bool {
        is_word(&self.parser.peek_nth_token_ref(n).token, word)
    }

    /// Goes past these words if all of them follow; a comma and numbers count as words.
    fn words(&mut self, words: &[&str]) -> bool {
        if !words.iter().enumerate().all(|(n, word)| self.is_word(n, word)) {
            return false;
        }
        words.iter().for_each(|_| self.parser.advance_token());
        true
    }

    fn expect_word(&mut self, word: &str) -> Result<(), ParserError> {
        match self.words(&[word]) {
            true => Ok(()),
            false => self.parser.expected_ref(word, self.parser.peek_token_ref()),
        }
    }
}

fn is_word(token: &Token, expected: &str) -> bool {
    match token {
        Token::Word(word) => word.quote_style.is_none() && word.value.eq_ignore_ascii_case(expected),
        Token::Number(text, _) => text == expected,
        Token::Comma => expected == ",",
        _ => false,
    }
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let digits = digits.as_bytes();
    let pairs =
        digits.chunks(2).map(|pair| std::str::from_utf8(pair).ok().and_then(|it| u8::from_str_radix(it, 16).ok()));
    if digits.len().is_multiple_of(2) { pairs.collect() } else { None }
}

#[cfg(test)]
mod tests {
    use super::super::{SqlDialect, StatementKind, parse};
    use super::*;

    fn read(sql: &str) -> (AccountStatement, String) {
        let mut statements =
            parse(sql, SqlDialect::MySql { ansi_quotes: false }).unwrap_or_else(|e| panic!("{sql}: {e}"));
        let statement = statements.remove(0);
        match statement.kind {
            StatementKind::Account(account) => (*account, statement.text.to_string()),
            other => panic!("{sql}: {other:?}"),
        }
    }

    fn user(user: &str, host: &str) -> UserRef {
        UserRef::Named { user: user.into(), host: host.into() }
    }

    #[test]
    fn names_in_every_quoting() {
        for (written, expected) in [
            ("'u'@'h'", user("u", "h")),
            ("`u`@`h`", user("u", "h")),
            ("\"u\"@\"h\"", user("u", "h")),
            ("u@h", user("u", "h")),
            ("u@'%.example.com'", user("u", "%.example.com")),
            ("'u'@LocalHost", user("u", "localhost")),
            ("u@10.0.0.1", user("u", "10.0.0.1")),
            ("u@db1.example.com", user("u", "db1.example.com")),
            ("u", user("u", "%")),
            ("''@''", user("", "")),
            ("'a@b'", user("a@b", "%")),
            ("current_user", UserRef::Current),
            ("CURRENT_USER()", UserRef::Current),
            ("USER()", UserRef::Current),
            ("user@h", user("user", "h")),
        ] {
            let (statement, _) = read(&format!("DROP USER IF EXISTS {written}, x"));
            let expected = AccountStatement::DropUser { if_exists: true, users: vec![expected, user("x", "%")] };
            assert_eq!(statement, expected, "{written}");
        }
    }

    #[test]
    fn passwords_are_not_in_the_text() {
        for sql in [
            "CREATE USER a IDENTIFIED BY 'hush', b@h IDENTIFIED WITH caching_sha2_password BY \"hush\" ACCOUNT LOCK",
            "ALTER USER USER() IDENTIFIED BY 'hush' REPLACE 'hush'",
            "SET PASSWORD FOR 'é'@'h' = 'hush'",
            "CREATE USER a IDENTIFIED WITH mysql_native_password AS 'hush'",
            "CREATE USER a IDENTIFIED WITH mysql_native_password AS 0x68757368",
        ] {
            let (statement, text) = read(sql);
            assert!(!text.contains("hush") && !text.contains("68757368"), "{text}");
            assert!(text.contains("<secret>"), "{text}");
            assert!(!format!("{statement:?}").contains("hush"));
        }
    }

    #[test]
    fn options_are_read_and_what_is_not_done_is_refused() {
        let (statement, text) =
            read("create user if not exists a identified by 'x' default role r, s require ssl password expire never");
        assert_eq!(text.matches("<secret>").count(), 1);
        let AccountStatement::CreateUser { if_not_exists: true, default_roles, options, .. } = statement else {
            panic!()
        };
        assert_eq!(default_roles, [user("r", "%"), user("s", "%")]);
        assert_eq!(options, UserOptions { requires_tls: Some(true), ..UserOptions::default() });
        for sql in [
            "CREATE USER a PASSWORD EXPIRE",
            "CREATE USER a REQUIRE X509",
            "CREATE USER a WITH MAX_USER_CONNECTIONS 3",
            "CREATE USER a IDENTIFIED BY RANDOM PASSWORD",
        ] {
            let error = parse(sql, SqlDialect::MySql { ansi_quotes: false }).expect_err(sql);
            assert!(matches!(error, PlanError::Unsupported(_)), "{sql}: {error:?}");
        }
    }

    #[test]
    fn grants_and_revokes() {
        let item = |name: &str, columns: &[&str]| PrivilegeItem {
            name: name.into(),
            columns: columns.iter().map(|it| Ident::new(*it)).collect(),
        };
        let (statement, _) = read("GRANT SELECT (a, b), show  view ON db.t TO u@h, r WITH GRANT OPTION");
        assert_eq!(
            statement,
            AccountStatement::Grant {
                privileges: vec![item("SELECT", &["a", "b"]), item("SHOW VIEW", &[])],
                on: GrantTarget::Table { database: Some("db".into()), table: "t".into() },
                to: vec![user("u", "h"), user("r", "%")],
                with_grant_option: true,
            }
        );
        for (on, expected) in [
            ("*.*", GrantTarget::Global),
            ("*", GrantTarget::Database(None)),
            ("`d\\_b`.*", GrantTarget::Database(Some("d\\_b".into()))),
            ("TABLE t", GrantTarget::Table { database: None, table: "t".into() }),
            ("CONNECTION c", GrantTarget::Connection("c".into())),
            ("connection `to`", GrantTarget::Connection("to".into())),
            ("connection", GrantTarget::Table { database: None, table: "connection".into() }),
            ("connection.t", GrantTarget::Table { database: Some("connection".into()), table: "t".into() }),
        ] {
            let (statement, _) = read(&format!("REVOKE IF EXISTS ALL PRIVILEGES ON {on} FROM u IGNORE UNKNOWN USER"));
            let AccountStatement::Revoke { on, privileges, if_exists: true, ignores_unknown: true, .. } = statement
            else {
                panic!("{statement:?}")
            };
            assert_eq!((on, privileges), (expected, vec![item("ALL PRIVILEGES", &[])]));
        }
        let (statement, _) = read("REVOKE ALL PRIVILEGES, GRANT OPTION FROM u");
        assert!(matches!(statement, AccountStatement::RevokeAll { .. }));
        let (statement, _) = read("GRANT 'r'@'%', s TO u WITH ADMIN OPTION");
        let roles = vec![user("r", "%"), user("s", "%")];
        assert_eq!(
            statement,
            AccountStatement::GrantRoles { roles: roles.clone(), to: vec![user("u", "%")], with_admin_option: true }
        );
        let (statement, _) = read("REVOKE r, s FROM u");
        assert!(matches!(statement, AccountStatement::RevokeRoles { roles: it, .. } if it == roles));
    }

    #[test]
    fn roles_are_chosen() {
        for (sql, expected) in [
            ("SET ROLE DEFAULT", RoleChoice::Default),
            ("SET ROLE NONE", RoleChoice::None),
            ("SET ROLE ALL EXCEPT r", RoleChoice::AllExcept(vec![user("r", "%")])),
            ("SET ROLE r, 's'@'h'", RoleChoice::Roles(vec![user("r", "%"), user("s", "h")])),
        ] {
            assert_eq!(read(sql).0, AccountStatement::SetRole(expected), "{sql}");
        }
        let expected =
            AccountStatement::SetDefaultRole { roles: RoleChoice::All, to: vec![user("u", "%")], if_exists: false };
        assert_eq!(read("SET DEFAULT ROLE ALL TO u").0, expected);
        assert_eq!(read("ALTER USER u DEFAULT ROLE ALL").0, expected);
        let other = parse("SET role = 'x', password_history = 1", SqlDialect::MySql { ansi_quotes: false });
        assert!(matches!(other.unwrap()[0].kind, StatementKind::Set(_)));
    }
}

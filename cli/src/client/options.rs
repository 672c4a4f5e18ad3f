//! The options of every command that asks a server: where it is, who asks, and how far the server is trusted.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use clap::Args;
use sheaf_common::config::{ConfigValue, HostPort};

use super::tls::{SslMode, Tls, TlsError};
use super::{Login, password};

#[derive(Debug, Args)]
pub struct LoginArgs {
    /// The server, as HOST or HOST:PORT.
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1", env = "SHEAF_SQL_HOST")]
    pub host: String,
    /// The server's port for MySQL clients.
    #[arg(long, short = 'P', value_name = "PORT", default_value_t = 3307, env = "SHEAF_SQL_PORT")]
    pub port: u16,
    /// The user to log in as.
    #[arg(long, short, value_name = "NAME", default_value = "root", env = "SHEAF_SQL_USER")]
    pub user: String,
    /// The password, as -pTEXT or --password=TEXT; without a text it is asked for.
    #[arg(long, short, value_name = "TEXT", num_args = 0..=1, require_equals = true, default_missing_value = "",
        env = "SHEAF_SQL_PASSWORD", hide_env_values = true)]
    pub password: Option<String>,
    /// Whether to use TLS [default: preferred, and verify-ca with --ssl-ca].
    #[arg(long, value_name = "MODE", value_enum, ignore_case = true, env = "SHEAF_SQL_SSL_MODE")]
    pub ssl_mode: Option<SslMode>,
    /// A file of PEM: the certificates of the authorities that are trusted.
    #[arg(long, value_name = "FILE", env = "SHEAF_SQL_SSL_CA")]
    pub ssl_ca: Option<PathBuf>,
}

/// The names of these options, for those that go without a server.
pub const IDS: [&str; 6] = ["host", "port", "user", "password", "ssl_mode", "ssl_ca"];

/// Why a server is not even asked. The user's to mend.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    #[error("cannot read the password")]
    Password(#[source] io::Error),
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl LoginArgs {
    pub fn address(&self) -> HostPort {
        HostPort::parse(&self.host).unwrap_or_else(|| HostPort::new(&self.host, self.port))
    }

    /// Asks for the password, if that is wanted.
    pub fn login(&self, database: Option<String>) -> Result<Login, LoginError> {
        let tls = Tls::new(self.ssl_mode, self.ssl_ca.as_deref())?;
        let password = match &self.password {
            Some(empty) if empty.is_empty() => Some(password::ask("password: ").map_err(LoginError::Password)?),
            given => given.clone(),
        };
        Ok(Login { address: self.address(), user: self.user.clone(), password, database, tls })
    }
}

/// Writes `-pTEXT` as `--password=TEXT`: people type it, and what reads the command line takes it for `-p -T -E -X -T`.
pub fn attached_passwords(arguments: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    arguments.map(|it| match it.to_str().and_then(|text| text.strip_prefix("-p")) {
        Some(password) if !password.is_empty() && !password.starts_with('=') => format!("--password={password}").into(),
        _ => it,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct CommandLine {
        #[command(flatten)]
        args: LoginArgs,
    }

    fn parse(arguments: &[&str]) -> LoginArgs {
        let line = ["sql"].iter().chain(arguments).map(OsString::from);
        <CommandLine as clap::Parser>::try_parse_from(attached_passwords(line)).unwrap().args
    }

    #[test]
    fn a_host_may_have_its_port() {
        assert_eq!(parse(&["--host", "db", "-P", "1"]).address(), HostPort::new("db", 1));
        assert_eq!(parse(&["--host", "db:2", "-P", "1"]).address(), HostPort::new("db", 2));
        assert_eq!(parse(&[]).address(), HostPort::new("127.0.0.1", 3307));
    }

    #[test]
    fn passwords_are_given_as_to_the_mysql_client() {
        assert_eq!(parse(&["-psecret"]).password.as_deref(), Some("secret"));
        assert_eq!(parse(&["-p=secret"]).password.as_deref(), Some("secret"));
        assert_eq!(parse(&["--password=se=cret"]).password.as_deref(), Some("se=cret"));
        assert_eq!(parse(&["-p", "-u", "ann"]).password.as_deref(), Some(""), "to be asked for");
        assert_eq!(parse(&["-u", "ann"]).password, None);
    }

    #[test]
    fn modes_are_spelled_in_both_ways() {
        for text in ["verify-ca", "VERIFY_CA"] {
            assert_eq!(parse(&["--ssl-mode", text]).ssl_mode, Some(SslMode::VerifyCa));
        }
        let error = parse(&["--ssl-mode", "verify-identity"]).login(None).err().unwrap().to_string();
        assert!(error.contains("--ssl-ca"), "{error}");
    }
}

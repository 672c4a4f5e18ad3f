//! What statements ask their session: variables, and functions such as `DATABASE()`.

use datafusion::common::ScalarValue;
use sheaf_common::settings::Settings;
use sheaf_planners::parser::VariableScope;

use super::Session;
use crate::access::{AccountName, Identity};
use crate::error::QueryError;
use crate::mysql_semantics::SessionValues;
use crate::variables::MYSQL_VERSION;

impl SessionValues for Session {
    fn system_variable(&self, scope: VariableScope, name: &str) -> Result<ScalarValue, QueryError> {
        let unknown = || QueryError::UnknownVariable { name: name.to_owned() };
        if scope == VariableScope::Global {
            let globals = self.engine.globals();
            return setting(&globals.settings, name).or_else(|| globals.variables.get(name)).ok_or_else(unknown);
        }
        let state = self.state.lock();
        match name.to_ascii_lowercase().as_str() {
            "warning_count" => return Ok(count(state.warning_total)),
            "error_count" => return Ok(count(state.error_count() as u64)),
            _ => {}
        }
        if let Some(value) = setting(&state.settings, name).or_else(|| state.variables.get(name)) {
            return Ok(value);
        }
        let options = self.engine.options_of(&state, self.is_mysql());
        let entry = options.entries().into_iter().find(|it| it.key.eq_ignore_ascii_case(name));
        entry.map(|it| ScalarValue::Utf8(it.value)).ok_or_else(unknown)
    }

    fn user_variable(&self, name: &str) -> ScalarValue {
        self.state.lock().user_variables.get(name).cloned().unwrap_or(ScalarValue::Null)
    }

    fn information(&self, function: &str) -> Option<ScalarValue> {
        let state = self.state.lock();
        Some(match function {
            "version" if self.is_mysql() => ScalarValue::from(MYSQL_VERSION),
            "database" | "schema" => ScalarValue::Utf8(state.database.clone()),
            "user" | "session_user" | "system_user" => ScalarValue::from(format!("{}@{}", self.user, self.client_host)),
            "current_user" => ScalarValue::from(match self.identity() {
                Identity::Account(account) => account.plain(),
                Identity::Embedder => format!("{}@%", self.user),
            }),
            "current_role" if state.roles.is_empty() => ScalarValue::from("NONE"),
            "current_role" => {
                let roles: Vec<String> = state.roles.iter().map(AccountName::in_backticks).collect();
                ScalarValue::from(roles.join(","))
            }
            "connection_id" => count(self.connection_id),
            "last_insert_id" => ScalarValue::Int64(Some(0)),
            "found_rows" => ScalarValue::Int64(Some(state.found_rows)),
            "row_count" => ScalarValue::Int64(Some(state.row_count)),
            _ => return None,
        })
    }
}

fn count(value: u64) -> ScalarValue {
    ScalarValue::Int64(i64::try_from(value).ok())
}

/// One of SheafDB's settings: numbers and switches as numbers.
fn setting(settings: &Settings, name: &str) -> Option<ScalarValue> {
    let text = settings.get(name)?;
    Some(match text.as_str() {
        "on" => ScalarValue::Int64(Some(1)),
        "off" => ScalarValue::Int64(Some(0)),
        _ => match text.parse::<i64>() {
            Ok(value) => ScalarValue::Int64(Some(value)),
            Err(_) => text.parse::<u64>().map_or(ScalarValue::Utf8(Some(text)), |it| ScalarValue::UInt64(Some(it))),
        },
    })
}

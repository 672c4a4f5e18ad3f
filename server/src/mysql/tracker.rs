//! What a client knows of its session, and what it has to be told when that changes.

use sheaf_query::Session;

use super::reply::StateChange;

/// The state that was told last.
#[derive(Debug, Default)]
pub struct Tracker {
    database: Option<String>,
    variables: Vec<(&'static str, String)>,
}

impl Tracker {
    /// Of a session that just began.
    pub fn new(session: &Session) -> Self {
        Self { database: None, variables: session.tracked_variables() }
    }

    /// What changed since the last call, in the kinds that the session's variables `session_track_…` ask for.
    pub fn changes(&mut self, session: &Session) -> Vec<StateChange> {
        let is_on = |variable: &str| session.variable(variable) == "1";
        let now = Self { database: session.database(), variables: session.tracked_variables() };
        let before = std::mem::replace(self, now);
        let mut changes = changed_variables(&before.variables, &self.variables);
        if self.database != before.database && is_on("session_track_schema") {
            changes.extend(self.database.clone().map(StateChange::Database));
        }
        if !changes.is_empty() && is_on("session_track_state_change") {
            changes.push(StateChange::Any);
        }
        changes
    }
}

/// Of those that were tracked before as well; a value that was never told is no change.
fn changed_variables(before: &[(&str, String)], now: &[(&str, String)]) -> Vec<StateChange> {
    let is_changed = |(name, value): &&(&str, String)| before.iter().any(|(it, old)| it == name && old != value);
    let changed = now.iter().filter(is_changed);
    changed.map(|(name, value)| StateChange::Variable { name: (*name).to_owned(), value: value.clone() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_tracked_before_and_differs_is_told() {
        let before = [("autocommit", "ON".to_owned()), ("sql_mode", "A".to_owned())];
        let now = [("autocommit", "OFF".to_owned()), ("sql_mode", "A".to_owned()), ("time_zone", "UTC".to_owned())];
        let told = StateChange::Variable { name: "autocommit".into(), value: "OFF".into() };
        assert_eq!(changed_variables(&before, &now), [told]);
        assert_eq!(changed_variables(&[], &now), []);
    }
}

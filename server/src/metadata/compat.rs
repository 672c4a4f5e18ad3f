//! What a release has written is read by the next: texts of the log and of snapshots as they were written once. They
//! are never changed, only added to.

use super::command::{Object, Outcome, Request};
use super::group::NodeDef;
use super::state::State;

/// Commands of 0.1.0 in the order of the log, each with its outcome.
const LOG: [(&str, &str); 7] = [
    (
        r#"{"id":{"client":7,"sequence":1},"since":0,"changes":[{"create":{"object":{"database":{"name":"d"}},"definition":"","if_exists":"fail","sealed":false}}]}"#,
        r#"{"Ok":{"index":1,"effects":["created"]}}"#,
    ),
    (
        r#"{"id":{"client":7,"sequence":2},"since":1,"changes":[{"create":{"object":{"table":{"database":"d","name":"t"}},"definition":"1","if_exists":"keep","sealed":false}},{"create":{"object":{"view":{"database":"d","name":"v"}},"definition":"2","if_exists":"replace","sealed":false}}]}"#,
        r#"{"Ok":{"index":2,"effects":["created","created"]}}"#,
    ),
    (
        r#"{"id":{"client":8,"sequence":1},"since":2,"changes":[{"alter":{"object":{"table":{"database":"d","name":"t"}},"definition":"3","expected":2}}]}"#,
        r#"{"Ok":{"index":3,"effects":["altered"]}}"#,
    ),
    (
        r#"{"id":{"client":8,"sequence":2},"since":2,"changes":[{"alter":{"object":{"table":{"database":"d","name":"t"}},"definition":"4","expected":2}}]}"#,
        r#"{"Err":{"version_changed":{"object":{"table":{"database":"d","name":"t"}},"expected":2,"found":3}}}"#,
    ),
    (
        r#"{"id":{"client":8,"sequence":3},"since":4,"changes":[{"drop":{"object":{"database":{"name":"d"}},"if_missing_keep":false,"cascade":false,"expected":null}}]}"#,
        r#"{"Err":{"not_empty":{"object":{"database":{"name":"d"}},"others":2}}}"#,
    ),
    (
        r#"{"id":{"client":8,"sequence":4},"since":4,"changes":[{"create":{"object":{"setting":{"name":"s"}},"definition":"5","if_exists":"replace","sealed":false}},{"create":{"object":{"connection":{"name":"c"}},"definition":"6","if_exists":"fail","sealed":false}},{"drop":{"object":{"view":{"database":"d","name":"none"}},"if_missing_keep":true,"cascade":false,"expected":null}}]}"#,
        r#"{"Ok":{"index":6,"effects":["created","created","nothing"]}}"#,
    ),
    (
        r#"{"id":{"client":8,"sequence":5},"since":4,"changes":[{"create":{"object":{"node":{"name":"n"}},"definition":"{}","if_exists":"keep","sealed":false}}],"member":{"add_learner":{"replica":5}}}"#,
        r#"{"Ok":{"index":7,"effects":["created"]}}"#,
    ),
];

/// A snapshot of 0.1.0 of such a state.
const IMAGE: &str = r#"{"applied":2,"objects":[[{"database":{"name":"d"}},{"version":1,"created":1,"definition":"","sealed":false}],[{"table":{"database":"d","name":"t"}},{"version":2,"created":2,"definition":"1","sealed":false}]],"remembered":[[2,{"id":{"client":7,"sequence":2},"outcome":{"Ok":{"index":2,"effects":["created"]}}}]]}"#;

#[test]
fn the_log_of_the_last_release_is_read() {
    let mut state = State::default();
    for (index, (command, outcome)) in (1..).zip(LOG) {
        let request: Request = serde_json::from_str(command).unwrap_or_else(|error| panic!("{command}: {error}"));
        let expected: Outcome = serde_json::from_str(outcome).unwrap_or_else(|error| panic!("{outcome}: {error}"));
        let (found, delta) = state.prepare(index, &request);
        assert_eq!(found, expected, "{command}");
        state.commit(index, &delta);
    }
    let definition = |object: Object| state.definitions().get(&object).map(|it| it.definition.clone());
    assert_eq!(definition(Object::table("d", "t")).as_deref(), Some("3"));
    assert_eq!(definition(Object::node("n")).as_deref(), Some("{}"));
}

#[test]
fn a_snapshot_of_the_last_release_is_read() {
    let state = State::of_image(IMAGE.as_bytes()).unwrap();
    assert_eq!((state.applied(), state.remembered().count()), (2, 1));
    assert!(state.definitions().get(&Object::table("d", "t")).is_some());
}

#[test]
fn a_node_of_the_last_release_and_of_the_next_is_known() {
    let node =
        r#"{"replica":5,"token":9,"coordinator_no":2,"host":"h","port":9090,"role":"coordinator","version":"0.1.0"}"#;
    let read = |text: &str| serde_json::from_str::<NodeDef>(text).unwrap();
    let next = node.replace("}", r#","more":true}"#);
    assert_eq!(read(node), read(&next));
}

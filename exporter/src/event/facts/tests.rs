use std::collections::HashSet;

use super::{Key, Value};
use crate::event::{ConfigurationChange, Happening, Trigger};

#[test]
fn no_two_facts_have_one_name() {
    for name in [Key::plain, Key::attribute] {
        let names: HashSet<_> = Key::ALL.iter().map(|key| name(*key)).collect();
        assert_eq!(names.len(), Key::ALL.len());
    }
    // What every line of the audit log has.
    let taken = ["sequence", "time", "event", "severity", "message", "previous", "local", "remote", "application"];
    assert!(Key::ALL.iter().all(|key| !taken.contains(&key.plain())));
}

#[test]
fn facts_are_one_object_with_plain_names() {
    let change = Happening::ConfigurationChanged(ConfigurationChange {
        by: Trigger::Signal,
        hash_before: "ab".to_owned(),
        hash: "cd".to_owned(),
        difference: vec!["flows.clients: 20 -> 30".to_owned()],
        generation: 2,
    });
    let facts = change.facts();
    assert!(facts.fields.contains(&(Key::By, Value::Text("signal".into()))));
    assert_eq!(
        serde_json::to_string(&facts).expect("can be written"),
        r#"{"by":"signal","generation":2,"configuration_before":"ab","configuration":"cd","difference":["flows.clients: 20 -> 30"]}"#
    );
}

use std::{
    collections::HashSet,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{Key, MAX_LIST, MAX_TEXT, Value, rfc3339, shortened, shortened_list};
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
fn every_time_can_be_written() {
    let far = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    for (time, text) in [
        (UNIX_EPOCH, "1970-01-01T00:00:00.000000000Z"),
        (UNIX_EPOCH - Duration::from_secs(1), "1970-01-01T00:00:00.000000000Z"),
        (far(1_700_000_000) + Duration::from_nanos(7), "2023-11-14T22:13:20.000000007Z"),
        (far(1 << 40), "9999-12-31T23:59:59.000000000Z"),
    ] {
        assert_eq!(rfc3339(time), text);
    }
    let now = SystemTime::now();
    assert_eq!(humantime::parse_rfc3339(&rfc3339(now)).expect("is one"), now);
}

#[test]
fn what_is_too_long_is_cut_between_letters() {
    for letter in ["a", "ä", "€", "𝄞"] {
        let cut = shortened(&letter.repeat(MAX_TEXT)).into_owned();
        assert!(cut.len() <= MAX_TEXT && cut.len() > MAX_TEXT - 8, "{}", cut.len());
        assert_eq!(cut.ends_with('…'), letter != "a", "{cut}");
    }
    assert_eq!(shortened("as it is"), "as it is");
}

#[test]
fn a_long_list_says_how_many_are_left_out() {
    let texts: Vec<_> = (0..1000).map(|number| format!("{number:0>100}")).collect();
    let kept = shortened_list(&texts);
    assert_eq!(kept.len() - 1, MAX_LIST / 101);
    assert_eq!(kept.last(), Some(&format!("and {} more", 1000 - MAX_LIST / 101)));
    assert_eq!(shortened_list(&texts[..3]), texts[..3]);
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

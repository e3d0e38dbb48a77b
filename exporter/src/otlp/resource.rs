//! Who sends: the attributes of the resource that all telemetry is about.

use std::{collections::BTreeMap, fs, path::Path};

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_semantic_conventions::attribute::{
    HOST_ID, HOST_NAME, OS_TYPE, SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION,
};
use rustix::system::uname;
use uuid::{Uuid, uuid};

/// The namespace of instances (semantic conventions, `service.instance.id`).
const INSTANCES: Uuid = uuid!("4d63009a-8d0f-11ee-aad7-4c796ed8e320");

/// Where a machine's own identifier is (machine-id(5)).
const MACHINE_ID: [&str; 2] = ["/etc/machine-id", "/var/lib/dbus/machine-id"];

/// The resource, with `configured` attributes over those that are found out.
///
/// `instance` is what tells this exporter from others on the same host. After a restart it is the same instance: its counters
/// go on.
pub(super) fn resource(configured: &BTreeMap<String, String>, instance: &str) -> Resource {
    let host = uname().nodename().to_string_lossy().into_owned();
    let machine = MACHINE_ID.iter().find_map(|path| machine_id(Path::new(path)));
    let whole = format!("{}/{instance}", machine.as_deref().unwrap_or(&host));
    let mut attributes = BTreeMap::from([
        (SERVICE_NAME.to_owned(), env!("CARGO_PKG_NAME").to_owned()),
        (SERVICE_VERSION.to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        (SERVICE_INSTANCE_ID.to_owned(), Uuid::new_v5(&INSTANCES, whole.as_bytes()).to_string()),
        (HOST_NAME.to_owned(), host),
        (OS_TYPE.to_owned(), "linux".to_owned()),
    ]);
    attributes.extend(machine.map(|machine| (HOST_ID.to_owned(), machine)));
    attributes.extend(configured.clone());
    let attributes = attributes.into_iter().map(|(key, value)| KeyValue::new(key, value));
    Resource::builder_empty().with_attributes(attributes).build()
}

fn machine_id(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let machine = text.trim();
    // Until the first start it may say "uninitialized".
    let is_one = machine.len() == 32 && machine.bytes().all(|one| one.is_ascii_hexdigit());
    is_one.then(|| machine.to_owned())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs};

    use opentelemetry::Key;

    use super::{machine_id, resource};

    #[test]
    fn an_instance_is_the_same_after_a_restart_and_another_on_the_same_host() {
        let id = |instance| resource(&BTreeMap::new(), instance).get(&Key::new("service.instance.id"));
        assert_eq!(id("/sys/fs/bpf/tidewaiter/1"), id("/sys/fs/bpf/tidewaiter/1"));
        assert_ne!(id("/sys/fs/bpf/tidewaiter/1"), id("/sys/fs/bpf/tidewaiter/2"));
    }

    #[test]
    fn what_is_configured_goes_before_what_is_found_out() {
        let configured = [("service.name", "edge"), ("deployment.environment.name", "test")];
        let configured = configured.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let resource = resource(&configured, "");
        let get = |key| resource.get(&Key::new(key)).map(|value| value.to_string());
        assert_eq!(get("service.name").as_deref(), Some("edge"));
        assert_eq!(get("deployment.environment.name").as_deref(), Some("test"));
        assert_eq!(get("service.version").as_deref(), Some(env!("CARGO_PKG_VERSION")));
        assert_eq!(get("os.type").as_deref(), Some("linux"));
    }

    #[test]
    fn a_machine_has_an_identifier_or_none_yet() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        for (text, machine) in [
            ("0123456789abcdef0123456789abcdef\n", Some("0123456789abcdef0123456789abcdef")),
            ("uninitialized\n", None),
            ("", None),
        ] {
            fs::write(file.path(), text).expect("can be written");
            assert_eq!(machine_id(file.path()).as_deref(), machine, "{text:?}");
        }
    }
}

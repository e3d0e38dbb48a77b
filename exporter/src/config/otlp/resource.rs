//! Attributes of the resource, whose names have dots in them.

use std::collections::BTreeMap;

use figment::{
    Error, Metadata, Profile, Provider,
    value::{Dict, Map, Value},
};
use serde::{Deserialize, Serialize};

/// `[otlp.resource]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RawResource(pub(super) BTreeMap<String, String>);

/// A layer of the configuration in which the names of attributes are whole.
///
/// TOML makes tables of what is written without quotes, `deployment.environment.name = "production"`, and so does the environment
/// of `TIDEWAITER_OTLP__RESOURCE__SERVICE__NAME`. Layers that write it in different ways would not go over each other.
pub(in crate::config) struct Flattened<P>(pub(in crate::config) P);

impl<P: Provider> Provider for Flattened<P> {
    fn metadata(&self) -> Metadata {
        self.0.metadata()
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        let mut profiles = self.0.data()?;
        for set in profiles.values_mut() {
            if let Some(Value::Dict(_, otlp)) = set.get_mut("otlp")
                && let Some(Value::Dict(_, resource)) = otlp.get_mut("resource")
            {
                *resource = flatten(std::mem::take(resource));
            }
        }
        Ok(profiles)
    }
}

fn flatten(table: Dict) -> Dict {
    let mut flat = Dict::new();
    for (name, value) in table {
        match value {
            Value::Dict(_, inner) => {
                flat.extend(flatten(inner).into_iter().map(|(rest, value)| (format!("{name}.{rest}"), value)));
            }
            value => {
                flat.insert(name, value);
            }
        }
    }
    flat
}

//! The configuration file: its values, and on which line each stands.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use figment::{
    Error, Metadata, Profile, Provider,
    providers::Serialized,
    value::{Dict, Map},
};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::error::{ConfigurationError, Place, Problem};

/// A configuration file that was read and is TOML. It may hold secrets, so it cannot be shown.
#[derive(Clone)]
pub struct File {
    /// Where it is.
    pub path: PathBuf,
    text: String,
    table: toml::Table,
}

impl File {
    /// Reads the file at `path`.
    pub fn read(path: &Path) -> Result<Self, ConfigurationError> {
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(path, text),
            Err(source) => Err(ConfigurationError::Unreadable { path: path.to_owned(), source }),
        }
    }

    /// As [`File::read`], but a file that is not there is no error.
    pub fn read_if_present(path: &Path) -> Result<Option<Self>, ConfigurationError> {
        match Self::read(path) {
            Err(ConfigurationError::Unreadable { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            read => read.map(Some),
        }
    }

    fn parse(path: &Path, text: String) -> Result<Self, ConfigurationError> {
        match text.parse() {
            Ok(table) => Ok(Self { path: path.to_owned(), text, table }),
            Err(error) => Err(Problem {
                key: String::new(),
                place: Place::File { path: path.to_owned(), line: error.span().map(|span| line_of(&text, span.start)) },
                message: format!("not valid TOML: {}", error.message()),
            }
            .into()),
        }
    }

    /// The line on which the value at `key` stands, or the nearest thing around it that the file has; counted from 1.
    pub fn line(&self, key: &[String]) -> Option<usize> {
        let table = DeTable::parse(&self.text).ok()?;
        locate(table.get_ref(), key).map(|offset| line_of(&self.text, offset))
    }

    /// Whether the file says anything at `key`.
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }
}

impl Provider for &File {
    fn metadata(&self) -> Metadata {
        Metadata::from("configuration file", self.path.as_path())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        Serialized::globals(&self.table).data()
    }
}

/// The offset of the value at `key` in `table`, as deep as the file goes.
fn locate(table: &DeTable<'_>, key: &[String]) -> Option<usize> {
    let (first, rest) = key.split_first()?;
    let Some((name, value)) = table.iter().find(|(name, _)| name.get_ref().as_ref() == first.as_str()) else {
        return locate_by_parts(table, first);
    };
    Some(locate_in_value(value, rest).unwrap_or(name.span().start))
}

/// The offset of what is called `name`, whose dots may have been written as those between tables.
fn locate_by_parts(table: &DeTable<'_>, name: &str) -> Option<usize> {
    table.iter().find_map(|(part, value)| {
        let rest = name.strip_prefix(part.get_ref().as_ref())?.strip_prefix('.')?;
        locate_in_value(value, &[rest.to_owned()])
    })
}

fn locate_in_value(value: &Spanned<DeValue<'_>>, key: &[String]) -> Option<usize> {
    match value.get_ref() {
        DeValue::Table(table) => locate(table, key),
        DeValue::Array(array) => {
            let (index, rest) = key.split_first()?;
            let item = array.get(index.parse::<usize>().ok()?)?;
            Some(locate_in_value(item, rest).unwrap_or(item.span().start))
        }
        _ => None,
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|&byte| byte == b'\n').count() + 1
}

//! Prefixes of rules, as they are written or in files.

use std::path::{Path, PathBuf};

use ipnet::IpNet;
use sha2::{Digest as _, Sha256};

use crate::{
    audit::Hash,
    chain::chain,
    config::{
        error::{Place, Problem},
        one_or_many::OneOrMany,
        validate::Check,
    },
    guard::prefix_file::{LineProblem, PrefixFileError, parse_prefix, read_prefixes},
};

impl Check<'_> {
    /// The prefixes that are written at `key`, and in the files that are named beside it; `None` if there is neither key.
    pub(super) fn prefixes(
        &mut self,
        key: &str,
        inline: Option<OneOrMany<String>>,
        files: Option<OneOrMany<PathBuf>>,
    ) -> Option<Vec<IpNet>> {
        if inline.is_none() && files.is_none() {
            return None;
        }
        let mut prefixes = Vec::new();
        for (place, text) in inline.into_iter().flat_map(|some| some.0).enumerate() {
            match parse_prefix(&text) {
                Ok(prefix) => prefixes.push(prefix),
                Err(error) => self.problem(format!("{key}.{place}"), error.to_string()),
            }
        }
        for (place, path) in files.into_iter().flat_map(|some| some.0).enumerate() {
            let path = self.resolved(&format!("{key}_file.{place}"), path);
            self.files.note(&path);
            match read_prefixes(&path) {
                Ok(read) => {
                    self.contents.push((format!("{key}_file.{place}.prefixes"), summary(&read)));
                    prefixes.extend(read);
                }
                Err(PrefixFileError::Invalid { path, problems, more }) => self.prefix_lines(key, &path, problems, more),
                Err(error) => self.problem(format!("{key}_file"), chain(&error)),
            }
        }
        prefixes.sort_unstable();
        prefixes.dedup();
        Some(prefixes)
    }

    /// Notes what is wrong with lines of a file of prefixes.
    fn prefix_lines(&mut self, key: &str, path: &Path, problems: Vec<LineProblem>, more: usize) {
        let lines = problems.into_iter().map(|LineProblem { line, error }| (Some(line), error.to_string()));
        let rest = (more > 0).then(|| (None, format!("{more} more lines like these")));
        for (line, message) in lines.chain(rest) {
            let place = Place::File { path: path.to_owned(), line };
            self.note(Problem { key: format!("{key}_file"), place, message });
        }
    }
}

/// How many prefixes there are, and a hash of them: what tells one list from another.
fn summary(prefixes: &[IpNet]) -> String {
    let mut hasher = Sha256::new();
    for prefix in prefixes {
        hasher.update(format!("{prefix}\n"));
    }
    format!("{} ({})", prefixes.len(), Hash::from(hasher))
}

//! stub until merged
use std::path::Path;
use ipnet::IpNet;
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PrefixFileError(String);
pub fn read(path: &Path) -> Result<Vec<IpNet>, PrefixFileError> { let text = std::fs::read_to_string(path).map_err(|e| PrefixFileError(e.to_string()))?; text.lines().filter(|l| !l.is_empty()).map(parse_prefix).collect() }
pub fn parse_prefix(text: &str) -> Result<IpNet, PrefixFileError> { text.parse().or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from)).map_err(|_| PrefixFileError(format!("found {text:?}, expected a prefix"))) }

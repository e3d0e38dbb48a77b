//! The configuration that is in force, and another one in its place: when SIGHUP, a change of its files or a request asks for that.
//!
//! What may take long (reading files, working rules out) is done by another thread, so that scrapes and flows go on meanwhile.
//! Then all of it is put in force, or nothing.

mod loaded;

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind},
    sync::mpsc::{Receiver, Sender, channel},
    task::{JoinHandle, spawn_blocking},
    time::{Interval, MissedTickBehavior, interval},
};
use tracing::{debug, info, warn};

use self::loaded::{InForce, Loaded, Ready, Refusal, is_within};
use super::{DaemonError, following::Following, on_signal};
use crate::{
    accounting::change::Change,
    chain::chain,
    cli::Overrides,
    config::{
        ApiSource, Configuration, LogLevel,
        error::ConfigurationError,
        read_files::{Looks, ReadFiles},
    },
    event::{ConfigurationChange, Happening, Trigger},
    http::Shared,
    logging::Level,
    reload::{Answer, QUEUE, Request, Standing, Taken},
};

/// Time between two looks whether files have changed. They are read once they were the same twice.
const LOOKS: Duration = Duration::from_secs(1);

/// Where the configuration is read from.
#[derive(Clone, Debug)]
pub struct Source {
    /// The file, if one is named.
    pub file: Option<PathBuf>,
    /// What the command line sets.
    pub overrides: Overrides,
}

impl Source {
    /// Reads it, and says from which files.
    pub fn load(&self) -> (Result<Configuration, ConfigurationError>, ReadFiles) {
        let mut files = ReadFiles::default();
        (Configuration::load_with_files(self.file.as_deref(), &self.overrides, &mut files), files)
    }
}

/// What it takes to read the configuration anew.
#[derive(Debug)]
pub struct Renewal {
    /// Where from.
    pub source: Source,
    /// From which files it was read at the start.
    pub files: ReadFiles,
    /// How much is logged.
    pub level: Level,
}

/// Who asks.
#[derive(Debug)]
pub(super) struct Asked {
    by: Trigger,
    answer: Option<Request>,
}

/// Reads the configuration anew.
pub(super) struct Reloads {
    source: Source,
    level: Level,
    log_level: LogLevel,
    in_force: Arc<InForce>,
    standing: Arc<Standing>,
    hang_up: Signal,
    requests: Receiver<Request>,
    watches: bool,
    looks: Interval,
    files: ReadFiles,
    /// How the files were at the last look.
    seen: Looks,
    /// Why the files, as they are, were refused: it is told once.
    refused: Option<String>,
    under_way: Option<(Asked, JoinHandle<Loaded>)>,
}

impl Reloads {
    /// From `configuration` on, which was just read.
    pub(super) fn new(renewal: Renewal, configuration: &Configuration) -> Result<(Self, Sender<Request>), DaemonError> {
        let Renewal { source, files, level } = renewal;
        let (sender, requests) = channel(QUEUE);
        let mut looks = interval(LOOKS);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let reloads = Self {
            source,
            level,
            log_level: configuration.log.level,
            in_force: Arc::new(InForce::by(configuration)),
            standing: Arc::new(Standing::default()),
            hang_up: on_signal(SignalKind::hangup())?,
            requests,
            watches: configuration.watch,
            looks,
            seen: files.look(),
            files,
            refused: None,
            under_way: None,
        };
        Ok((reloads, sender))
    }

    /// How the configuration stands.
    pub(super) fn standing(&self) -> Arc<Standing> {
        Arc::clone(&self.standing)
    }

    /// Waits until somebody has asked for the configuration, and it was read. May be cancelled: what is under way goes on.
    pub(super) async fn next(&mut self, shared: &Shared) -> (Asked, Loaded) {
        loop {
            if let Some((_, task)) = &mut self.under_way {
                let loaded = task.await.unwrap_or_else(|error| Loaded::failed(format!("cannot read it: {error}")));
                if let Some((asked, _)) = self.under_way.take() {
                    return (asked, loaded);
                }
            }
            let asked = tokio::select! {
                _ = self.hang_up.recv() => Asked { by: Trigger::Signal, answer: None },
                Some(answer) = self.requests.recv() => Asked { by: Trigger::Http, answer: Some(answer) },
                _ = self.looks.tick() => {
                    if !self.have_files_changed() {
                        continue;
                    }
                    Asked { by: Trigger::File, answer: None }
                }
            };
            self.begin(asked, shared);
        }
    }

    /// Whether the files are not what was read, and have been the same for a while: whoever writes one has come to an end.
    fn have_files_changed(&mut self) -> bool {
        if !self.watches {
            return false;
        }
        let looks = self.files.look();
        let is_settled = looks == self.seen;
        self.seen = looks;
        is_settled && !self.files.were(&self.seen)
    }

    fn begin(&mut self, asked: Asked, shared: &Shared) {
        let drafted = shared.accounting().draft();
        let (source, in_force) = (self.source.clone(), Arc::clone(&self.in_force));
        let task = spawn_blocking(move || match drafted {
            Ok((draft, apis)) => Loaded::by(&source, &in_force, draft, &apis),
            Err(error) => Loaded::failed(chain(&error)),
        });
        self.under_way = Some((asked, task));
    }

    /// Puts in force what was read, if that can be; tells everybody what has come of it.
    pub(super) async fn take(&mut self, (asked, loaded): (Asked, Loaded), shared: &Shared, following: &mut Following) {
        let Loaded { files, ready } = loaded;
        if let Some(files) = files {
            self.seen = files.look();
            self.files = files;
        }
        let taken = match ready {
            Ok(None) => {
                let generation = self.standing.note_taken(false);
                let hash = self.in_force.fingerprint.hash();
                // Who looks at files looks often; who asks is told.
                match asked.by {
                    Trigger::File => debug!(generation, "the configuration is what it was"),
                    by => info!(by = by.as_str(), generation, "the configuration is what it was: nothing changes"),
                }
                Ok(Taken { generation, hash, difference: Vec::new() })
            }
            Ok(Some(ready)) => match self.put_in_force(*ready, asked.by, shared, following).await {
                Ok(Some(taken)) => Ok(taken),
                // What the rules were worked out for has changed meanwhile: again.
                Ok(None) => return self.begin(asked, shared),
                Err(refusal) => Err(refusal),
            },
            Err(refusal) => Err(refusal),
        };
        let answer = match taken {
            Ok(taken) => {
                self.refused = None;
                Answer::Taken(taken)
            }
            Err(refusal) => self.refuse(asked.by, refusal, shared),
        };
        if let Some(request) = asked.answer {
            // Whoever asked need not wait for it.
            let _ = request.send(answer);
        }
    }

    /// `None` if it has to be worked out again.
    async fn put_in_force(
        &mut self,
        Ready { configuration, rules }: Ready,
        by: Trigger,
        shared: &Shared,
        following: &mut Following,
    ) -> Result<Option<Taken>, Refusal> {
        let next = InForce::by(&configuration);
        let Configuration { interfaces, apis, anomalies: thresholds, log, watch, .. } = configuration;
        let has_other_interfaces = self.in_force.changed_keys(&next).any(|key| is_within(key, "interfaces"));
        if has_other_interfaces {
            let links = following.follower.links().await;
            let links =
                links.map_err(|error| Refusal::Failed(format!("cannot list the network interfaces: {error}")))?;
            links.validate(&interfaces).map_err(|error| Refusal::Refused(error.to_string()))?;
        }
        let apis = match apis {
            ApiSource::Configured(apis) => Some(apis),
            ApiSource::Discovered(_) => None,
        };
        match shared.accounting().apply(Change { apis, rules, thresholds }) {
            Ok(()) => {}
            Err(error) if error.is_outdated() => return Ok(None),
            Err(error) => return Err(Refusal::Failed(chain(&error))),
        }
        // Nothing of this can fail for good.
        following.selection = interfaces;
        if has_other_interfaces {
            following.look(shared).await;
        }
        if log.level != self.log_level {
            self.level.set(log.level);
            self.log_level = log.level;
        }
        self.watches = watch;
        let before = std::mem::replace(&mut self.in_force, Arc::new(next));
        let generation = self.standing.note_taken(true);
        let difference = before.fingerprint.difference(&self.in_force.fingerprint);
        let (hash_before, hash) = (before.fingerprint.hash(), self.in_force.fingerprint.hash());
        info!(by = by.as_str(), generation, hash, changes = difference.len(), "another configuration is in force");
        let change =
            ConfigurationChange { by, hash_before, hash: hash.clone(), difference: difference.clone(), generation };
        shared.accounting().pass_on(&Happening::ConfigurationChanged(change));
        Ok(Some(Taken { generation, hash, difference }))
    }

    fn refuse(&mut self, by: Trigger, refusal: Refusal, shared: &Shared) -> Answer {
        self.standing.note_refused();
        let (reason, answer) = match refusal {
            Refusal::Refused(reason) => (reason.clone(), Answer::Refused(reason)),
            Refusal::Failed(reason) => (reason.clone(), Answer::Failed(reason)),
        };
        // Files are looked at again without anybody asking.
        if by == Trigger::File && self.refused.as_ref() == Some(&reason) {
            debug!(reason, "the configuration is refused as before");
            return answer;
        }
        warn!(by = by.as_str(), reason, "the configuration was not taken: the one before stays in force");
        self.refused = Some(reason.clone());
        shared.accounting().pass_on(&Happening::ConfigurationRefused { by, reason });
        answer
    }

    /// Whether the APIs are those that the configuration names.
    pub(super) fn has_configured_apis(&self) -> bool {
        self.in_force.has_configured_apis
    }
}

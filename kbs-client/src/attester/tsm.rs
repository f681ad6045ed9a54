//! Quotes from the kernel: configfs-tsm, `/sys/kernel/config/tsm/report` (Linux 6.7 or later).
//!
//! A request for a quote is a directory. Attributes are written into it, the quote is read from it,
//! and `generation` counts the writes, so that another writer cannot go unnoticed.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use serde_json::Value;

use super::event_log::{EventLogError, tdx_evidence};
use super::snp::{SnpError, snp_evidence};
use super::{Attester, AttesterError, ReportData};

/// Evidence of Intel TDX or AMD SEV-SNP, through configfs-tsm.
#[derive(Debug, Clone)]
pub struct TsmAttester {
    settings: Arc<TsmSettings>,
    /// What this machine is does not change while we run.
    provider: Arc<OnceLock<TsmProvider>>,
}

/// Where the kernel's interfaces are, and how they are used.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TsmSettings {
    /// The folder that requests are made in.
    pub folder: PathBuf,
    /// The only provider that will do; any that is known when absent.
    pub provider: Option<TsmProvider>,
    /// VMPL of an SNP report. When absent, the kernel's default, or the lowest one that an SVSM
    /// leaves to the guest.
    pub privilege_level: Option<u32>,
    /// How long a quote may take, in which the kernel is asked again when it is busy. Default 50 s,
    /// as the kernel itself may wait for 30.
    pub deadline: Duration,
    /// The event log of the firmware, which goes with a TDX quote.
    pub ccel: PathBuf,
    /// The event log of the attestation agent, which goes with it, too.
    pub agent_event_log: PathBuf,
}

impl Default for TsmSettings {
    fn default() -> Self {
        Self {
            folder: "/sys/kernel/config/tsm/report".into(),
            provider: None,
            privilege_level: None,
            deadline: Duration::from_secs(50),
            ccel: "/sys/firmware/acpi/tables/data/CCEL".into(),
            agent_event_log: "/run/attestation-agent/eventlog".into(),
        }
    }
}

/// Which hardware answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TsmProvider {
    /// Intel TDX: `tdx_guest`.
    Tdx,
    /// AMD SEV-SNP: `sev_guest`.
    Snp,
}

impl TsmProvider {
    const ALL: [Self; 2] = [Self::Tdx, Self::Snp];

    /// The name that the KBS knows it by.
    pub fn tee(self) -> &'static str {
        match self {
            Self::Tdx => "tdx",
            Self::Snp => "snp",
        }
    }

    /// The name that the kernel knows it by.
    fn module(self) -> &'static str {
        match self {
            Self::Tdx => "tdx_guest",
            Self::Snp => "sev_guest",
        }
    }
}

impl TsmAttester {
    /// An attester that works as `settings` say. Nothing is touched yet.
    pub fn new(settings: TsmSettings) -> Self {
        Self {
            settings: Arc::new(settings),
            provider: Arc::default(),
        }
    }

    /// Whether the kernel has the folder that requests are made in.
    pub(crate) fn is_there(&self) -> bool {
        self.settings.folder.is_dir()
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.settings.folder
    }

    pub(crate) async fn tee_name(&self) -> Result<&'static str, TsmError> {
        self.provider().await.map(TsmProvider::tee)
    }

    async fn provider(&self) -> Result<TsmProvider, TsmError> {
        if let Some(provider) = self.provider.get() {
            return Ok(*provider);
        }
        let settings = Arc::clone(&self.settings);
        let provider = off_thread(move || Entry::create(&settings.folder)?.provider()).await?;
        if let Some(expected) = self.settings.provider
            && expected != provider
        {
            return Err(TsmError::OtherProvider {
                expected: expected.module(),
                found: provider.module().to_owned(),
            });
        }
        Ok(*self.provider.get_or_init(|| provider))
    }
}

impl Attester for TsmAttester {
    fn tee(&self) -> BoxFuture<'_, Result<String, AttesterError>> {
        Box::pin(async {
            let tee = self.tee_name().await.map_err(AttesterError::new)?;
            Ok(tee.to_owned())
        })
    }

    fn evidence<'a>(
        &'a self,
        report_data: &'a ReportData,
    ) -> BoxFuture<'a, Result<Value, AttesterError>> {
        let (settings, report_data) = (Arc::clone(&self.settings), report_data.padded());
        Box::pin(async move {
            let provider = self.provider().await.map_err(AttesterError::new)?;
            off_thread(move || evidence(&settings, provider, &report_data))
                .await
                .map_err(AttesterError::new)
        })
    }
}

/// Why the kernel gives no quote.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TsmError {
    /// The folder is not there. The guest's builder is at fault, or this is no confidential VM.
    #[error(
        "{} is not there; mount configfs and load tdx_guest or sev-guest (Linux 6.7 or later)",
        folder.display()
    )]
    Missing {
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// A file of the request cannot be made, written or read.
    #[error("{}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The system's account.
        #[source]
        source: Arc<io::Error>,
    },
    /// The hardware is none that is known, or not the configured one.
    #[error("expected {expected} as provider of quotes, found {found:?}")]
    OtherProvider {
        /// What would do.
        expected: &'static str,
        /// As the kernel has it.
        found: String,
    },
    /// The quote has no bytes, which the kernel does not call an error.
    #[error(
        "the kernel gave an empty quote; the host's quoting service is not reachable or too old"
    )]
    Empty,
    /// Somebody else wrote to the request, or the kernel dropped what was written.
    #[error("expected generation {expected} of the request for a quote, found {found:?}")]
    Generation {
        /// As many as were written.
        expected: u32,
        /// As the kernel has it.
        found: String,
    },
    /// A file is longer than any that is legal.
    #[error("{} is longer than {limit} bytes", path.display())]
    TooLarge {
        /// Which.
        path: PathBuf,
        /// The limit.
        limit: u64,
    },
    /// It went on failing in ways that pass.
    #[error("no quote within {after:?}")]
    Deadline {
        /// How long it was tried.
        after: Duration,
        /// The last failure.
        #[source]
        source: Box<TsmError>,
    },
    /// The report is not one.
    #[error(transparent)]
    Report(#[from] SnpError),
    /// The event log of the firmware is not one.
    #[error(transparent)]
    EventLog(#[from] EventLogError),
    /// The thread that asked the kernel has panicked.
    #[error("the request for a quote was abandoned")]
    Abandoned(#[source] Arc<tokio::task::JoinError>),
}

impl TsmError {
    pub(crate) fn is_transient(&self) -> bool {
        self.passes() || matches!(self, Self::Deadline { .. } | Self::Empty)
    }

    /// Whether asking again at once is worth it: the quoting service is busy or slow, or another
    /// writer was met.
    fn passes(&self) -> bool {
        use io::ErrorKind::{Interrupted, ResourceBusy, TimedOut};
        match self {
            Self::File { source, .. } => {
                matches!(source.kind(), ResourceBusy | Interrupted | TimedOut)
            }
            Self::Generation { .. } => true,
            _ => false,
        }
    }
}

/// What the kernel gives.
struct Quote {
    blob: Vec<u8>,
    /// Certificates for an SNP report, if the host gave any.
    auxiliary: Vec<u8>,
}

fn evidence(
    settings: &TsmSettings,
    provider: TsmProvider,
    report_data: &[u8; 64],
) -> Result<Value, TsmError> {
    let quote = quote(settings, provider, report_data)?;
    match provider {
        TsmProvider::Snp => Ok(snp_evidence(&quote.blob, &quote.auxiliary)?),
        TsmProvider::Tdx => {
            let firmware = read_if_there(&settings.ccel, EVENT_LOG_LIMIT)?;
            let agent = read_if_there(&settings.agent_event_log, EVENT_LOG_LIMIT)?;
            let logs = (firmware.as_deref(), agent.as_deref());
            Ok(tdx_evidence(&quote.blob, logs.0, logs.1)?)
        }
    }
}

/// Asks until there is a quote, an error that stays, or no time left.
fn quote(
    settings: &TsmSettings,
    provider: TsmProvider,
    report_data: &[u8; 64],
) -> Result<Quote, TsmError> {
    let started = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        let error = match attempt(settings, provider, report_data) {
            Err(error) if error.passes() => error,
            outcome => return outcome,
        };
        if started.elapsed().saturating_add(pause) >= settings.deadline {
            return Err(TsmError::Deadline {
                after: started.elapsed(),
                source: Box::new(error),
            });
        }
        tracing::debug!(%error, "no quote from the kernel, asking again");
        std::thread::sleep(pause);
        pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
    }
}

fn attempt(
    settings: &TsmSettings,
    provider: TsmProvider,
    report_data: &[u8; 64],
) -> Result<Quote, TsmError> {
    let mut entry = Entry::create(&settings.folder)?;
    if provider == TsmProvider::Snp
        && let Some(level) = entry.privilege_level(settings.privilege_level)?
    {
        // The kernel reads a number in text here.
        entry.write("privlevel", level.to_string().as_bytes())?;
    }
    entry.write("inblob", report_data)?;
    // A write that the kernel refuses when the file is closed is reported to nobody else.
    entry.check_generation()?;
    let blob = entry.read("outblob")?;
    let auxiliary = match provider {
        TsmProvider::Snp => read_if_there(&entry.path.join("auxblob"), BLOB_LIMIT)?,
        TsmProvider::Tdx => None,
    };
    entry.check_generation()?;
    if blob.is_empty() {
        return Err(TsmError::Empty);
    }
    Ok(Quote {
        blob,
        auxiliary: auxiliary.unwrap_or_default(),
    })
}

/// A request for a quote; removed when dropped.
struct Entry {
    path: PathBuf,
    writes: u32,
}

impl Entry {
    fn create(folder: &Path) -> Result<Self, TsmError> {
        if !folder.is_dir() {
            return Err(TsmError::Missing {
                folder: folder.to_owned(),
            });
        }
        let path = folder.join(random_name());
        fs::create_dir(&path).map_err(|error| failed(&path, error))?;
        Ok(Self { path, writes: 0 })
    }

    fn provider(&self) -> Result<TsmProvider, TsmError> {
        let name = self.text("provider")?;
        let known = TsmProvider::ALL
            .into_iter()
            .find(|provider| provider.module() == name);
        known.ok_or(TsmError::OtherProvider {
            expected: "tdx_guest or sev_guest",
            found: name,
        })
    }

    /// The VMPL to ask for, unless the kernel's default will do.
    fn privilege_level(&self, configured: Option<u32>) -> Result<Option<u32>, TsmError> {
        if configured.is_some() {
            return Ok(configured);
        }
        let floor = read_if_there(&self.path.join("privlevel_floor"), TEXT_LIMIT)?;
        let floor = floor.and_then(|text| String::from_utf8(text).ok()?.trim().parse().ok());
        Ok(floor.filter(|floor| *floor > 0))
    }

    /// One open, one write, one close, as the kernel takes the value when the file is closed.
    fn write(&mut self, attribute: &str, value: &[u8]) -> Result<(), TsmError> {
        let path = self.path.join(attribute);
        let mut file = File::options()
            .write(true)
            .open(&path)
            .map_err(|error| failed(&path, error))?;
        let written = file.write(value).map_err(|error| failed(&path, error))?;
        if written != value.len() {
            return Err(failed(&path, io::ErrorKind::WriteZero.into()));
        }
        drop(file);
        self.writes = self.writes.saturating_add(1);
        Ok(())
    }

    fn read(&self, attribute: &str) -> Result<Vec<u8>, TsmError> {
        read(&self.path.join(attribute), BLOB_LIMIT)
    }

    fn text(&self, attribute: &str) -> Result<String, TsmError> {
        let bytes = read(&self.path.join(attribute), TEXT_LIMIT)?;
        Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
    }

    fn check_generation(&self) -> Result<(), TsmError> {
        let found = self.text("generation")?;
        if found == self.writes.to_string() {
            return Ok(());
        }
        Err(TsmError::Generation {
            expected: self.writes,
            found,
        })
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // The attributes go with their directory, and cannot be removed one by one.
        if let Err(error) = fs::remove_dir(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "request for a quote not removed");
        }
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Twice and more what the kernel itself allows for a quote or a certificate table.
const BLOB_LIMIT: u64 = 256 * 1024;
/// A page, as of every attribute in text.
const TEXT_LIMIT: u64 = 4096;
/// What still fits a request to the KBS, with the quote and base64.
const EVENT_LOG_LIMIT: u64 = 1024 * 1024;

/// The kernel may take half a minute, which must not hold up other tasks.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TsmError> + Send + 'static,
) -> Result<T, TsmError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(TsmError::Abandoned(Arc::new(error))),
    }
}

fn random_name() -> String {
    let mut bytes = [0_u8; 8];
    // Without randomness the name may be taken, and that is an error of its own.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    let mut name = format!("kbs-client-{}-", std::process::id());
    for byte in bytes {
        // A string takes everything.
        let _ = write!(name, "{byte:02x}");
    }
    name
}

fn read(path: &Path, limit: u64) -> Result<Vec<u8>, TsmError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(limit.saturating_add(1)).read_to_end(&mut bytes))
        .map_err(|error| failed(path, error))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= limit) {
        return Ok(bytes);
    }
    Err(TsmError::TooLarge {
        path: path.to_owned(),
        limit,
    })
}

fn read_if_there(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, TsmError> {
    match read(path, limit) {
        Err(TsmError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        outcome => outcome.map(Some),
    }
}

fn failed(path: &Path, error: io::Error) -> TsmError {
    TsmError::File {
        path: path.to_owned(),
        source: Arc::new(error),
    }
}

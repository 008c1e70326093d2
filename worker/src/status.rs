//! What a worker is doing, for people and for `quern worker status`: a file beside the journal, written whole once a second at most.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use quern_types::{Address, Amount, BlockRef, EnergyMethod, JobId, PackageRoot};
use serde::{Deserialize, Serialize};

use crate::{Error, Result, clock::wall_secs};

/// Name of the file in the data directory.
const FILE: &str = "status.json";
/// A running worker writes at least this often.
pub(crate) const REFRESH_SECS: u64 = 10;

/// What a worker was doing when it wrote this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Process id.
    pub pid: u32,
    /// When it was written, Unix seconds.
    pub written_at: u64,
    /// Whether it takes jobs; false while it catches up or verifies its packages, and once it is stopping.
    pub ready: bool,
    /// The provider.
    pub provider: Address,
    /// The operator key.
    pub operator: Address,
    /// Whether the provider has named this key.
    pub is_operator: bool,
    /// Chain id of the L2.
    pub chain_id: u64,
    /// Newest block taken.
    pub block: Option<BlockRef>,
    /// Stake behind no job, in the token's smallest unit, when it was last needed.
    pub free_stake: Option<Amount>,
    /// Native balance of the operator, in wei, as decimal text, when it was last looked at.
    pub gas_balance_wei: Option<String>,
    /// Models served.
    pub models: Vec<ModelStatus>,
    /// What its energy figures are.
    pub energy_method: EnergyMethod,
    /// Jobs that are not closed.
    pub jobs: Vec<JobStatus>,
    /// Open jobs that it does not take, with the reason.
    pub refusals: Vec<RefusalStatus>,
}

/// A model served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelStatus {
    /// Its package.
    pub package: PackageRoot,
    /// Whether every hash of it was checked.
    pub verified: bool,
    /// Measured speed, in multiply-adds per second; 0 until it is verified.
    pub macs_per_sec: u64,
}

/// A job in hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobStatus {
    /// The job.
    pub job: JobId,
    /// Its step in the journal.
    pub step: String,
    /// Why it is there, where the step does not say it all.
    pub note: String,
    /// What keeps it from going on and needs a person.
    pub problem: Option<String>,
}

/// A job that is not taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusalStatus {
    /// The job.
    pub job: JobId,
    /// Why.
    pub reason: String,
}

impl Status {
    /// Whether the process that wrote this still writes.
    pub fn is_running(&self) -> bool {
        wall_secs().saturating_sub(self.written_at) <= 3 * REFRESH_SECS
    }

    /// Writes the file, whole or not at all.
    pub(crate) fn write(&self, data_dir: &Path) -> Result<()> {
        let path = data_dir.join(FILE);
        let temporary = data_dir.join(format!("{FILE}.new"));
        let failed = |source| Error::Io { doing: "write", what: path.display().to_string(), source };
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_else(|error| unreachable!("plain data is always JSON: {error}"));
        text.push(b'\n');
        fs::File::create(&temporary).and_then(|mut file| file.write_all(&text)).map_err(failed)?;
        fs::rename(&temporary, &path).map_err(failed)
    }
}

/// What the worker with this data directory said last; [`Status::is_running`] tells whether it still runs.
///
/// # Errors
/// [`Error::NoStatus`] where none ever wrote there; [`Error::Io`] for a file that cannot be read.
pub fn status(data_dir: &Path) -> Result<Status> {
    let path: PathBuf = data_dir.join(FILE);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(Error::NoStatus { path }),
        Err(source) => return Err(Error::Io { doing: "read", what: path.display().to_string(), source }),
    };
    serde_json::from_slice(&text).map_err(|error| Error::Io { doing: "read", what: path.display().to_string(), source: error.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_round_trips_through_its_file_and_goes_stale() {
        let folder = tempfile::tempdir().expect("folder");
        assert!(matches!(status(folder.path()), Err(Error::NoStatus { .. })));
        let mut written = Status {
            pid: 7,
            written_at: wall_secs(),
            ready: true,
            provider: Address::repeat_byte(1),
            operator: Address::repeat_byte(2),
            is_operator: true,
            chain_id: 901,
            block: None,
            free_stake: Some(Amount::from_units(u128::MAX)),
            gas_balance_wei: None,
            models: Vec::new(),
            energy_method: EnergyMethod::Estimated,
            jobs: vec![JobStatus { job: JobId::default(), step: "claimed".into(), note: String::new(), problem: None }],
            refusals: Vec::new(),
        };
        written.write(folder.path()).expect("written");
        let read = status(folder.path()).expect("read");
        assert!(read.is_running());
        assert_eq!(read, written);
        written.written_at -= 3 * REFRESH_SECS + 1;
        assert!(!written.is_running());
    }
}

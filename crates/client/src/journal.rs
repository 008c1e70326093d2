//! What a client remembers on disk: its runs, written before anything is posted.
//!
//! A run is one call of `embed` or `generate`: a text, a model, terms, and the jobs made of them, each with its whole specification. It is written once, durably, before
//! the first job is posted; what became of the jobs is on the chain. So a crash at any moment loses no job, and posting again is posting the same job.
//!
//! ```text
//! DIR/runs/<run id>.json      one per run
//! DIR/intents/…               transactions, see `intents`
//! ```

use std::{
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
};

use quern_types::{Address, Amount, B256, Domain, JobId, JobSpec, ModelId};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{ClientError, Origin};

/// Version of the files. Another one is refused.
const FORMAT: u32 = 1;

/// A job of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedJob {
    /// Its id.
    pub id: JobId,
    /// What is posted; its digest is the id.
    pub spec: JobSpec,
    /// Where each of its items comes from.
    pub origins: Vec<Origin>,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// Version of the file.
    pub format: u32,
    /// Names the run; every salt follows from it.
    pub id: B256,
    /// When it was planned, Unix seconds.
    pub planned_at: u64,
    /// Chain and market.
    pub domain: Domain,
    /// The paying account.
    pub client: Address,
    /// The model.
    pub model_id: ModelId,
    /// What the text was called.
    pub source: String,
    /// The jobs, in order.
    pub jobs: Vec<PlannedJob>,
}

impl Run {
    /// A run that is about to be recorded.
    pub fn new(
        id: B256,
        planned_at: u64,
        domain: Domain,
        client: Address,
        model_id: ModelId,
        source: String,
        jobs: Vec<PlannedJob>,
    ) -> Self {
        Self { format: FORMAT, id, planned_at, domain, client, model_id, source, jobs }
    }

    /// Items of all its jobs.
    pub fn items(&self) -> usize {
        self.jobs.iter().map(|job| job.origins.len()).sum()
    }

    /// The most that its jobs can cost.
    ///
    /// # Errors
    /// A file that was edited: amounts that no job can have.
    pub fn max_cost(&self) -> Result<Amount, ClientError> {
        self.jobs.iter().try_fold(Amount::ZERO, |sum, job| sum.checked_add(job.spec.max_fee()?).ok_or(ClientError::CostTooLarge))
    }
}

/// The journal of one account in one deployment.
#[derive(Debug, Clone)]
pub struct RunJournal {
    dir: PathBuf,
}

impl RunJournal {
    /// The journal in `dir`; it need not exist yet.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Where the journal of an account in a deployment is, below a common directory.
    pub fn place(below: &Path, domain: &Domain, client: Address) -> PathBuf {
        below.join(format!("{}-{:#x}", domain.chain_id, domain.market)).join(format!("{client:#x}"))
    }

    /// Records a run. On disk when this returns.
    ///
    /// # Errors
    /// [`ClientError::RunExists`] where the id is taken; [`ClientError::Journal`].
    pub fn record(&self, run: &Run) -> Result<(), ClientError> {
        let path = self.path(run.id);
        if path.exists() {
            return Err(ClientError::RunExists { run: run.id });
        }
        write_json(&path, run)
    }

    /// A run.
    ///
    /// # Errors
    /// It cannot be read, or is damaged: a job whose specification is not its id is never posted.
    pub fn run(&self, id: B256) -> Result<Option<Run>, ClientError> {
        let path = self.path(id);
        let Some(run) = read_json::<Run>(&path)? else { return Ok(None) };
        let damaged = |reason: String| ClientError::JournalDamaged { path: path.clone(), reason };
        if run.format != FORMAT {
            return Err(damaged(format!("its format is {}, this version reads {FORMAT}", run.format)));
        }
        if run.id != id {
            return Err(damaged(format!("it holds run {}", run.id)));
        }
        for job in &run.jobs {
            if job.spec.id(&run.domain) != job.id {
                return Err(damaged(format!("the specification of job {} is not its id", job.id)));
            }
            if job.origins.len() != job.spec.item_count as usize {
                return Err(damaged(format!("job {} has {} items and {} origins", job.id, job.spec.item_count, job.origins.len())));
            }
        }
        Ok(Some(run))
    }

    /// All runs, oldest first.
    ///
    /// # Errors
    /// As [`RunJournal::run`].
    pub fn runs(&self) -> Result<Vec<Run>, ClientError> {
        let dir = self.dir.join("runs");
        let mut runs = Vec::new();
        for name in names(&dir)? {
            if let Some(id) = name.strip_suffix(".json").and_then(|stem| stem.parse::<B256>().ok())
                && let Some(run) = self.run(id)?
            {
                runs.push(run);
            }
        }
        runs.sort_by_key(|run| (run.planned_at, run.id));
        Ok(runs)
    }

    /// The run and the job of an id, where it was planned here.
    ///
    /// # Errors
    /// As [`RunJournal::run`].
    pub fn job(&self, id: JobId) -> Result<Option<(Run, PlannedJob)>, ClientError> {
        Ok(self.runs()?.into_iter().find_map(|run| {
            let job = run.jobs.iter().find(|job| job.id == id)?.clone();
            Some((run, job))
        }))
    }

    /// Where the transactions are remembered.
    pub fn intents_dir(&self) -> PathBuf {
        self.dir.join("intents")
    }

    fn path(&self, id: B256) -> PathBuf {
        self.dir.join("runs").join(format!("{id:#x}.json"))
    }
}

/// File names of a directory; none where it does not exist.
pub(crate) fn names(dir: &Path) -> Result<Vec<String>, ClientError> {
    let failed = |source| ClientError::Journal { action: "read", path: dir.to_owned(), source };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()).map_err(failed)).collect()
}

/// Reads a JSON file; `None` where there is none.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ClientError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ClientError::Journal { action: "read", path: path.to_owned(), source }),
    };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|error| ClientError::JournalDamaged { path: path.to_owned(), reason: error.to_string() })
}

/// Writes a JSON file whole or not at all; on disk when this returns.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), ClientError> {
    let failed = |source| ClientError::Journal { action: "write", path: path.to_owned(), source };
    let text = serde_json::to_vec(value).map_err(|error| failed(error.into()))?;
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir).map_err(failed)?;
    let mut aside = tempfile::NamedTempFile::new_in(dir).map_err(failed)?;
    aside.write_all(&text).and_then(|()| aside.as_file().sync_all()).map_err(failed)?;
    aside.persist(path).map_err(|error| failed(error.error))?;
    fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn domain() -> Domain {
        Domain { chain_id: 901, market: Address::repeat_byte(9) }
    }

    fn run(byte: u8) -> Run {
        let spec = JobSpec {
            client: Address::repeat_byte(1),
            input_root: B256::repeat_byte(2),
            input_len: 4,
            base_price: Amount::from_units(5),
            claim_by: 9,
            deliver_within: 9,
            salt: B256::repeat_byte(byte),
            ..fixture::spec()
        };
        let job = PlannedJob { id: spec.id(&domain()), spec, origins: vec![Origin { line: 1, part: 0, parts: 1 }] };
        let id = B256::repeat_byte(byte);
        Run::new(id, u64::from(byte), domain(), Address::repeat_byte(1), ModelId::default(), "text".into(), vec![job])
    }

    #[test]
    fn run_round_trips_and_is_found_by_its_job() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let journal = RunJournal::new(dir.path());
        assert!(journal.runs().expect("empty").is_empty());
        for byte in [2, 1] {
            journal.record(&run(byte)).expect("recorded");
        }
        assert_eq!(journal.runs().expect("read"), [run(1), run(2)]);
        let (found, job) = journal.job(run(2).jobs[0].id).expect("read").expect("there");
        assert_eq!((found.id, job), (run(2).id, run(2).jobs[0].clone()));
    }

    #[test]
    fn run_is_never_replaced() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let journal = RunJournal::new(dir.path());
        journal.record(&run(1)).expect("recorded");
        assert!(matches!(journal.record(&run(1)), Err(ClientError::RunExists { .. })));
    }

    #[test]
    fn edited_or_torn_run_is_refused_by_name() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let journal = RunJournal::new(dir.path());
        journal.record(&run(1)).expect("recorded");
        let path = journal.path(run(1).id);
        let whole = fs::read_to_string(&path).expect("text");
        fs::write(&path, whole.replace("\"basePrice\":\"5\"", "\"basePrice\":\"50\"")).expect("written");
        assert!(journal.run(run(1).id).expect_err("edited").to_string().contains("is not its id"));
        fs::write(&path, &whole[..whole.len() / 2]).expect("written");
        assert!(matches!(journal.run(run(1).id), Err(ClientError::JournalDamaged { .. })));
    }
}

//! How far each job is.

use quern_types::{JobId, JobSpec};
use sqlx::{Sqlite, Transaction, sqlite::SqliteRow};

use super::Journal;
use crate::{Error, Result, open::now_ms, value::Reader};

/// How far a job is. The order is that of a job that goes well; a reorganisation of the chain may take a job back.
///
/// | step | what is true | what comes next |
/// |---|---|---|
/// | Accepted | the worker wants it and can do it | the claim is sent |
/// | Claiming | the claim's intent is in the journal | the claim is seen on the chain |
/// | Claimed | it is ours; the delivery clock runs | the input is fetched and checked |
/// | Fetched | the input is here | it is computed |
/// | Computed | the result is known | it is stored and pinned |
/// | Stored | the result can be fetched by anyone | the receipt is signed |
/// | Signed | the receipt is a fact in the journal | it is submitted |
/// | Submitting | the submission's intent is in the journal | it is seen on the chain |
/// | Submitted | the challenge window runs | the window ends |
/// | Completing | the completion's intent is in the journal | it is seen on the chain |
/// | Challenged | somebody doubts the result | the game ends |
/// | Paid, Refused, Lost, Undelivered, Slashed | closed | nothing |
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// The worker wants the job.
    Accepted,
    /// The claim is being sent.
    Claiming,
    /// The claim stands.
    Claimed,
    /// The input is here and matches its root.
    Fetched,
    /// The output is known.
    Computed,
    /// The output is stored and pinned.
    Stored,
    /// The receipt is signed.
    Signed,
    /// The receipt is being submitted.
    Submitting,
    /// The receipt stands; the challenge window runs.
    Submitted,
    /// The completion is being sent.
    Completing,
    /// A dispute is open.
    Challenged,
    /// Closed: completed and paid.
    Paid,
    /// Closed: the worker does not do it.
    Refused,
    /// Closed: somebody else has it, or it was cancelled or expired.
    Lost,
    /// Closed: the delivery deadline went by.
    Undelivered,
    /// Closed: convicted.
    Slashed,
}

impl Step {
    /// Every step, in order.
    pub const ALL: [Self; 16] = [
        Self::Accepted,
        Self::Claiming,
        Self::Claimed,
        Self::Fetched,
        Self::Computed,
        Self::Stored,
        Self::Signed,
        Self::Submitting,
        Self::Submitted,
        Self::Completing,
        Self::Challenged,
        Self::Paid,
        Self::Refused,
        Self::Lost,
        Self::Undelivered,
        Self::Slashed,
    ];

    /// The name in SQL, logs and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Claiming => "claiming",
            Self::Claimed => "claimed",
            Self::Fetched => "fetched",
            Self::Computed => "computed",
            Self::Stored => "stored",
            Self::Signed => "signed",
            Self::Submitting => "submitting",
            Self::Submitted => "submitted",
            Self::Completing => "completing",
            Self::Challenged => "challenged",
            Self::Paid => "paid",
            Self::Refused => "refused",
            Self::Lost => "lost",
            Self::Undelivered => "undelivered",
            Self::Slashed => "slashed",
        }
    }

    /// Whether nothing is left to do, as long as the chain keeps its blocks.
    #[must_use]
    pub const fn is_closed(self) -> bool {
        matches!(self, Self::Paid | Self::Refused | Self::Lost | Self::Undelivered | Self::Slashed)
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|step| step.name() == name)
    }
}

/// A job in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobEntry {
    /// The job.
    pub job: JobId,
    /// Its specification; later calls to the contracts carry it.
    pub spec: JobSpec,
    /// How far it is.
    pub step: Step,
    /// Why it is there, for a person.
    pub note: String,
    /// First seen, Unix milliseconds.
    pub created_ms: i64,
    /// Last step, Unix milliseconds.
    pub updated_ms: i64,
}

/// One step that a job has taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepEntry {
    /// The step taken.
    pub step: Step,
    /// Why, for a person.
    pub note: String,
    /// When, Unix milliseconds.
    pub at_ms: i64,
}

impl Journal {
    /// Writes a job down at `step`, or returns the entry that is there already, unchanged: a job that is seen twice is one job.
    ///
    /// # Errors
    /// [`Error::OtherSpec`] where the journal holds the id with another specification.
    pub async fn upsert_job(&self, job: JobId, spec: &JobSpec, step: Step) -> Result<JobEntry> {
        let doing = "writing a job down";
        let mut transaction = self.database.begin().await?;
        if let Some(entry) = find(&mut transaction, job).await? {
            return if entry.spec == *spec { Ok(entry) } else { Err(Error::OtherSpec { job }) };
        }
        let now = now_ms();
        let text = serde_json::to_string(spec).map_err(|error| Error::bad_value("job", "spec", error))?;
        sqlx::query("INSERT INTO job (job_id, spec, step, note, created_ms, updated_ms) VALUES (?, ?, ?, '', ?, ?)")
            .bind(job.0.as_slice())
            .bind(text)
            .bind(step.name())
            .bind(now)
            .bind(now)
            .execute(&mut *transaction)
            .await
            .map_err(Error::sql(doing))?;
        log_step(&mut transaction, job, step, "", now).await?;
        transaction.commit().await.map_err(Error::sql(doing))?;
        Ok(JobEntry { job, spec: spec.clone(), step, note: String::new(), created_ms: now, updated_ms: now })
    }

    /// Moves a job from one step to another, if it is where the caller believes it to be; writes the facts that the step left behind
    /// in the same transaction, so that a job is never `Signed` without its receipt. A fact that is there is replaced.
    ///
    /// # Errors
    /// [`Error::StepMoved`] where the job is at another step: nothing is written, the caller reads the job again.
    pub async fn advance(&self, job: JobId, from: Step, to: Step, note: &str, facts: &[(&str, &[u8])]) -> Result<()> {
        let doing = "advancing a job";
        let mut transaction = self.database.begin().await?;
        let now = now_ms();
        let moved = sqlx::query("UPDATE job SET step = ?, note = ?, updated_ms = ? WHERE job_id = ? AND step = ?")
            .bind(to.name())
            .bind(note)
            .bind(now)
            .bind(job.0.as_slice())
            .bind(from.name())
            .execute(&mut *transaction)
            .await
            .map_err(Error::sql(doing))?;
        if moved.rows_affected() != 1 {
            let actual = find(&mut transaction, job).await?.map_or("unknown", |entry| entry.step.name());
            return Err(Error::StepMoved { job, expected: from.name(), actual });
        }
        log_step(&mut transaction, job, to, note, now).await?;
        for (name, value) in facts {
            write_fact(&mut transaction, job, name, value, now).await?;
        }
        transaction.commit().await.map_err(Error::sql(doing))
    }

    /// The job, or `None` where the journal never held it.
    ///
    /// # Errors
    /// The database fails or holds what we never write.
    pub async fn job(&self, job: JobId) -> Result<Option<JobEntry>> {
        sqlx::query("SELECT * FROM job WHERE job_id = ?")
            .bind(job.0.as_slice())
            .fetch_optional(self.database.readers())
            .await
            .map_err(Error::sql("reading a job"))?
            .as_ref()
            .map(entry)
            .transpose()
    }

    /// Every job that is not closed, oldest first: what a restarted worker goes on with.
    ///
    /// # Errors
    /// The database fails or holds what we never write.
    pub async fn pending_jobs(&self) -> Result<Vec<JobEntry>> {
        let closed: Vec<&str> = Step::ALL.into_iter().filter(|step| step.is_closed()).map(Step::name).collect();
        let places = vec!["?"; closed.len()].join(", ");
        // Only placeholders are put together here; the names are bound.
        let sql = format!("SELECT * FROM job WHERE step NOT IN ({places}) ORDER BY created_ms, job_id");
        let query = closed.into_iter().fold(sqlx::query(sqlx::AssertSqlSafe(sql)), sqlx::query::Query::bind);
        let rows = query.fetch_all(self.database.readers()).await.map_err(Error::sql("reading jobs"))?;
        rows.iter().map(entry).collect()
    }

    /// Every job whose last step does not carry this note, oldest first: with the note that an owner writes at the very end, what it still holds.
    ///
    /// # Errors
    /// The database fails or holds what we never write.
    pub async fn jobs_without_note(&self, note: &str) -> Result<Vec<JobEntry>> {
        sqlx::query("SELECT * FROM job WHERE note <> ? ORDER BY created_ms, job_id")
            .bind(note)
            .fetch_all(self.database.readers())
            .await
            .map_err(Error::sql("reading jobs"))?
            .iter()
            .map(entry)
            .collect()
    }

    /// Every job, oldest first.
    ///
    /// # Errors
    /// The database fails or holds what we never write.
    pub async fn jobs(&self) -> Result<Vec<JobEntry>> {
        sqlx::query("SELECT * FROM job ORDER BY created_ms, job_id")
            .fetch_all(self.database.readers())
            .await
            .map_err(Error::sql("reading jobs"))?
            .iter()
            .map(entry)
            .collect()
    }

    /// Every step that a job has taken, in order; empty where the journal never held it.
    ///
    /// # Errors
    /// The database fails or holds what we never write.
    pub async fn steps(&self, job: JobId) -> Result<Vec<StepEntry>> {
        let rows = sqlx::query("SELECT step, note, at_ms FROM job_step WHERE job_id = ? ORDER BY position")
            .bind(job.0.as_slice())
            .fetch_all(self.database.readers())
            .await
            .map_err(Error::sql("reading the steps of a job"))?;
        rows.iter()
            .map(|row| {
                let row = Reader::new("job_step", row);
                Ok(StepEntry { step: row.named("step", Step::from_name)?, note: row.text("note")?.to_owned(), at_ms: row.signed("at_ms")? })
            })
            .collect()
    }

    /// Writes one fact about a job without moving it; one that is there is replaced.
    ///
    /// # Errors
    /// [`Error::UnknownJob`] where the journal does not hold the job.
    pub async fn put_fact(&self, job: JobId, name: &str, value: &[u8]) -> Result<()> {
        let mut transaction = self.database.begin().await?;
        if find(&mut transaction, job).await?.is_none() {
            return Err(Error::UnknownJob { job });
        }
        write_fact(&mut transaction, job, name, value, now_ms()).await?;
        transaction.commit().await.map_err(Error::sql("writing a fact"))
    }

    /// A fact about a job, or `None` where none of that name was written.
    ///
    /// # Errors
    /// The database fails.
    pub async fn fact(&self, job: JobId, name: &str) -> Result<Option<Vec<u8>>> {
        sqlx::query_scalar("SELECT value FROM job_fact WHERE job_id = ? AND name = ?")
            .bind(job.0.as_slice())
            .bind(name)
            .fetch_optional(self.database.readers())
            .await
            .map_err(Error::sql("reading a fact"))
    }
}

async fn find(transaction: &mut Transaction<'_, Sqlite>, job: JobId) -> Result<Option<JobEntry>> {
    sqlx::query("SELECT * FROM job WHERE job_id = ?")
        .bind(job.0.as_slice())
        .fetch_optional(&mut **transaction)
        .await
        .map_err(Error::sql("reading a job"))?
        .as_ref()
        .map(entry)
        .transpose()
}

async fn log_step(transaction: &mut Transaction<'_, Sqlite>, job: JobId, step: Step, note: &str, now: i64) -> Result<()> {
    sqlx::query(
        "INSERT INTO job_step (job_id, position, step, note, at_ms) \
         SELECT ?, count(*), ?, ?, ? FROM job_step WHERE job_id = ?",
    )
    .bind(job.0.as_slice())
    .bind(step.name())
    .bind(note)
    .bind(now)
    .bind(job.0.as_slice())
    .execute(&mut **transaction)
    .await
    .map_err(Error::sql("writing a step"))?;
    Ok(())
}

async fn write_fact(transaction: &mut Transaction<'_, Sqlite>, job: JobId, name: &str, value: &[u8], now: i64) -> Result<()> {
    sqlx::query(
        "INSERT INTO job_fact (job_id, name, value, at_ms) VALUES (?, ?, ?, ?) \
         ON CONFLICT (job_id, name) DO UPDATE SET value = excluded.value, at_ms = excluded.at_ms",
    )
    .bind(job.0.as_slice())
    .bind(name)
    .bind(value)
    .bind(now)
    .execute(&mut **transaction)
    .await
    .map_err(Error::sql("writing a fact"))?;
    Ok(())
}

fn entry(row: &SqliteRow) -> Result<JobEntry> {
    let row = Reader::new("job", row);
    Ok(JobEntry {
        job: JobId(row.hash("job_id")?),
        spec: serde_json::from_str(row.text("spec")?).map_err(|error| row.bad("spec", error))?,
        step: row.named("step", Step::from_name)?,
        note: row.text("note")?.to_owned(),
        created_ms: row.signed("created_ms")?,
        updated_ms: row.signed("updated_ms")?,
    })
}

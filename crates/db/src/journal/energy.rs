//! Joules per job, with their source.

use quern_types::{EnergyMethod, JobId};

use super::Journal;
use crate::{
    Error, Result,
    value::{Reader, integer},
};

/// Energy that was spent on a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnergyReading {
    /// Energy from start to end, millijoules.
    pub millijoules: u64,
    /// Where the figure comes from.
    pub method: EnergyMethod,
    /// Start of the interval, Unix milliseconds.
    pub started_ms: i64,
    /// Its end, Unix milliseconds.
    pub ended_ms: i64,
}

impl Journal {
    /// Writes down what a job cost; a job that was computed again after a crash replaces the figure.
    ///
    /// # Errors
    /// [`Error::UnknownJob`] where the journal does not hold the job.
    pub async fn put_energy(&self, job: JobId, reading: &EnergyReading) -> Result<()> {
        let doing = "writing the energy of a job";
        let mut transaction = self.database.begin().await?;
        let known: Option<i64> = sqlx::query_scalar("SELECT created_ms FROM job WHERE job_id = ?")
            .bind(job.0.as_slice())
            .fetch_optional(&mut *transaction)
            .await
            .map_err(Error::sql(doing))?;
        if known.is_none() {
            return Err(Error::UnknownJob { job });
        }
        sqlx::query(
            "INSERT INTO energy (job_id, millijoules, method, started_ms, ended_ms) VALUES (?, ?, ?, ?, ?) ON CONFLICT (job_id) DO UPDATE SET \
             millijoules = excluded.millijoules, method = excluded.method, started_ms = excluded.started_ms, ended_ms = excluded.ended_ms",
        )
        .bind(job.0.as_slice())
        .bind(integer("energy in millijoules", reading.millijoules)?)
        .bind(reading.method.name())
        .bind(reading.started_ms)
        .bind(reading.ended_ms)
        .execute(&mut *transaction)
        .await
        .map_err(Error::sql(doing))?;
        transaction.commit().await.map_err(Error::sql(doing))
    }

    /// What a job cost, or `None` where nothing was written down.
    ///
    /// # Errors
    /// The database fails or holds what we never write.
    pub async fn energy(&self, job: JobId) -> Result<Option<EnergyReading>> {
        let row = sqlx::query("SELECT * FROM energy WHERE job_id = ?")
            .bind(job.0.as_slice())
            .fetch_optional(self.database.readers())
            .await
            .map_err(Error::sql("reading the energy of a job"))?;
        row.map(|row| {
            let row = Reader::new("energy", &row);
            Ok(EnergyReading {
                millijoules: row.number("millijoules")?,
                method: row.named("method", |name| EnergyMethod::ALL.iter().copied().find(|method| method.name() == name))?,
                started_ms: row.signed("started_ms")?,
                ended_ms: row.signed("ended_ms")?,
            })
        })
        .transpose()
    }
}

//! Results as they come in: progress on standard error, vectors or texts on standard output in the order of the items.

use std::{
    collections::BTreeMap,
    io::{IsTerminal as _, Write as _},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
};

use indicatif::{ProgressBar, ProgressStyle};
use npyz::WriterBuilder as _;
use quern_client::{End, JobLife, Origin, Run, Update};
use quern_commit::blob::{Expected, InputSet, OutputRecord, OutputSet};
use quern_commit::sum_tree::SumNode;
use quern_model::Package;
use quern_store::ContentStore;
use quern_types::{FinishReason, JobId, JobState};
use serde::Serialize;
use serde_json::json;

use crate::{
    failure::{Exit, Failure},
    output::{self, Output, harmless},
};

/// One vector, as printed.
#[derive(Debug, Serialize)]
struct PrintedVector<'a> {
    job: JobId,
    item: usize,
    line: Option<u32>,
    part: Option<u32>,
    parts: Option<u32>,
    reason: FinishReason,
    vector: &'a [i16],
}

/// One generated text, as printed.
#[derive(Debug, Serialize)]
struct PrintedText<'a> {
    job: JobId,
    item: usize,
    sample: usize,
    line: Option<u32>,
    reason: FinishReason,
    text: Option<&'a str>,
    ids: &'a [u32],
}

/// How results are printed.
#[derive(Debug)]
pub(crate) enum Printer {
    /// A JSON line per vector, or all of them in a file.
    Vectors {
        /// The file.
        npy: Option<PathBuf>,
    },
    /// A JSON line per text, or the text alone.
    Texts {
        /// Whose tokenizer makes text of ids; without it there are only ids.
        package: Option<Box<Package>>,
        /// Only the texts.
        plain: bool,
    },
}

impl Printer {
    /// Prints the results of a job.
    ///
    /// # Errors
    /// Standard output cannot be written; ids that the tokenizer makes no text of.
    pub(crate) fn print(&self, out: Output, job: JobId, origins: Option<&[Origin]>, outputs: &OutputSet) -> Result<(), Failure> {
        let origin = |item: usize| origins.and_then(|origins| origins.get(item));
        match outputs {
            OutputSet::Embed(outputs) => {
                for (item, output) in outputs.iter().enumerate() {
                    let origin = origin(item);
                    out.json_line(&PrintedVector {
                        job,
                        item,
                        line: origin.map(|origin| origin.line),
                        part: origin.map(|origin| origin.part),
                        parts: origin.map(|origin| origin.parts),
                        reason: output.reason,
                        vector: &output.elements,
                    })?;
                }
            }
            OutputSet::Generate { samples, outputs } => {
                for (at, output) in outputs.iter().enumerate() {
                    let (item, sample) = (at / *samples as usize, at % *samples as usize);
                    let text = self.text(output)?;
                    if let (Self::Texts { plain: true, .. }, Some(text)) = (self, &text) {
                        out.text(&harmless(text))?;
                        continue;
                    }
                    let line = origin(item).map(|origin| origin.line);
                    let (reason, ids) = (output.reason, output.elements.as_slice());
                    out.json_line(&PrintedText { job, item, sample, line, reason, text: text.as_deref(), ids })?;
                }
            }
        }
        Ok(())
    }

    /// The text of an output; the id that stopped it has none.
    fn text(&self, output: &OutputRecord<u32>) -> Result<Option<String>, Failure> {
        let Self::Texts { package: Some(package), .. } = self else { return Ok(None) };
        let ids = match (output.reason, output.elements.as_slice()) {
            (FinishReason::Stop, [ids @ .., _]) => ids,
            (_, ids) => ids,
        };
        let failed = |error| Failure::new(format!("the ids make no text: {error}"), "`quern job result ID` prints the ids");
        package.tokenizer().decode(ids).map(Some).map_err(failed)
    }

    const fn npy(&self) -> Option<&PathBuf> {
        match self {
            Self::Vectors { npy } => npy.as_ref(),
            Self::Texts { .. } => None,
        }
    }
}

/// Collects what comes in.
pub(crate) struct Results {
    out: Output,
    run: Run,
    printer: Printer,
    recheck: Option<(Package, Arc<dyn ContentStore>)>,
    progress: Progress,
    /// What was said of each job last.
    told: BTreeMap<JobId, String>,
    ends: BTreeMap<JobId, End>,
    /// Jobs of the run, in order, whose vectors were printed.
    printed: usize,
    broken: Option<Failure>,
}

impl Results {
    /// For a run.
    pub(crate) fn new(out: Output, run: &Run, printer: Printer) -> Self {
        Self {
            out,
            run: run.clone(),
            printer,
            recheck: None,
            progress: Progress::new(out, run.jobs.len()),
            told: BTreeMap::new(),
            ends: BTreeMap::new(),
            printed: 0,
            broken: None,
        }
    }

    /// Recompute every result before it counts. Then nothing is printed before everything is here.
    pub(crate) fn recheck(&mut self, package: Package, store: &Arc<dyn ContentStore>) {
        self.recheck = Some((package, store.clone()));
    }

    /// Takes what happened.
    pub(crate) fn take(&mut self, update: &Update<'_>) {
        match update {
            Update::Posting(id) => self.say(*id, "posting".into()),
            Update::State(id, life) => self.say(*id, state_text(*id, life)),
            Update::TakenBack(id) => self.say(*id, "a reorganisation took it off the chain: posting it again".into()),
            Update::NotYet(id, error) => self.say(*id, format!("delivered, but not to be had yet: {}", crate::failure::one_line(*error))),
            Update::Refunding(id) => self.say(*id, "getting the escrow back".into()),
            Update::Ended(id, end) => {
                self.progress.ended(*id, &end_text(end));
                self.ends.insert(*id, (*end).clone());
                self.flush();
            }
        }
    }

    /// Says something new about a job; what was said last is not repeated with every block.
    fn say(&mut self, id: JobId, text: String) {
        if self.told.get(&id) != Some(&text) {
            self.progress.say(id, &text);
            self.told.insert(id, text);
        }
    }

    /// Prints what is complete up to the first job that is not.
    fn flush(&mut self) {
        if self.printer.npy().is_some() || self.recheck.is_some() || self.broken.is_some() {
            return;
        }
        while let Some(job) = self.run.jobs.get(self.printed)
            && let Some(end) = self.ends.get(&job.id)
        {
            if let End::Result(outputs) = end
                && let Err(failure) = self.progress.hidden(|| self.printer.print(self.out, job.id, Some(&job.origins), outputs))
            {
                self.broken = Some(failure);
                return;
            }
            self.printed += 1;
        }
    }

    /// Ends the progress where there is no end of the run.
    pub(crate) fn stop(&self) {
        self.progress.stop();
    }

    /// After the last job: checks, writes what is left, and says which jobs have no result.
    ///
    /// # Errors
    /// A difference (exit code 3), jobs without a result (exit code 4), a file that cannot be written.
    pub(crate) async fn finish(&mut self) -> Result<(), Failure> {
        self.progress.stop();
        if let Some((package, store)) = self.recheck.take() {
            self.compare(package, &store).await?;
            self.flush();
        }
        if let Some(failure) = self.broken.take() {
            return Err(failure);
        }
        if let Some(path) = self.printer.npy() {
            let width = self.write_npy(path)?;
            let jobs: Vec<_> =
                self.run.jobs.iter().map(|job| json!({ "id": job.id, "result": self.ends.get(&job.id).map(end_name) })).collect();
            let object = json!({ "run": self.run.id, "jobs": jobs, "items": self.run.items(), "width": width, "npy": path });
            self.out.result(&object, || format!("wrote {} vectors of {width} to {}", self.run.items(), path.display()))?;
        }
        without_result(&self.run, &self.ends)
    }

    async fn compare(&self, package: Package, store: &Arc<dyn ContentStore>) -> Result<(), Failure> {
        let failed = |error: &dyn std::fmt::Display| {
            Failure::new(format!("cannot recompute: {error}"), "look at the results without --recheck: `quern job result ID`")
        };
        self.out.note("recomputing on this machine");
        package.verify().map_err(|error| failed(&error))?;
        let encoder = package.encoder().map_err(|error| failed(&error))?;
        let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        for job in &self.run.jobs {
            let Some(End::Result(OutputSet::Embed(outputs))) = self.ends.get(&job.id) else { continue };
            let limit = 8 + 4 * (u64::from(job.spec.item_count) + job.spec.input_len);
            let blob = store.get(job.spec.input, limit).await.map_err(|error| failed(&error))?;
            let expected = Expected { root: SumNode { hash: job.spec.input_root, count: job.spec.input_len }, leaves: job.spec.item_count };
            let input = InputSet::from_blob(&blob, &expected).map_err(|error| failed(&error))?;
            let ours = encoder.embed_map(input.items(), threads, |_, output| (output.reason, output.vector));
            let differs =
                ours.iter().zip(outputs).position(|((reason, vector), theirs)| *reason != theirs.reason || *vector != theirs.elements);
            if let Some(item) = differs {
                let what = format!("job {}, item {item}: this machine gets other bits than the provider", job.id);
                return Err(Failure::new(what, format!("confirm it with `quern audit job {}`; the receipt can be challenged", job.id))
                    .with_exit(Exit::Difference));
            }
        }
        self.out.note("every vector is equal to the last bit");
        Ok(())
    }

    /// Writes all vectors, zero rows where there is no result. Returns the width.
    fn write_npy(&self, path: &Path) -> Result<usize, Failure> {
        let failed = |error: std::io::Error| {
            Failure::new(
                format!("cannot write {}: {error}", path.display()),
                "choose another --npy FILE; `quern job result ID` fetches the vectors again",
            )
        };
        let result_of = |id: &JobId| match self.ends.get(id) {
            Some(End::Result(OutputSet::Embed(outputs))) => Some(outputs),
            _ => None,
        };
        let width = self
            .run
            .jobs
            .iter()
            .filter_map(|job| result_of(&job.id)?.first())
            .map(|output: &OutputRecord<i16>| output.elements.len())
            .max()
            .unwrap_or(0);
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let aside = tempfile::NamedTempFile::new_in(dir).map_err(failed)?;
        let shape = [self.run.items() as u64, width as u64];
        let buffered = std::io::BufWriter::new(aside.as_file());
        let mut writer = npyz::WriteOptions::<i16>::new().default_dtype().shape(&shape).writer(buffered).begin_nd().map_err(failed)?;
        for job in &self.run.jobs {
            match result_of(&job.id) {
                Some(outputs) => {
                    for output in outputs {
                        writer.extend(output.elements.iter().copied()).map_err(failed)?;
                    }
                }
                None => writer.extend(std::iter::repeat_n(0, job.origins.len() * width)).map_err(failed)?,
            }
        }
        writer.finish().map_err(failed)?;
        aside.as_file().flush().and_then(|()| aside.as_file().sync_all()).map_err(failed)?;
        aside.persist(path).map_err(|error| failed(error.error))?;
        Ok(width)
    }
}

/// The failure of jobs that ended without a result; none where all have one.
fn without_result(run: &Run, ends: &BTreeMap<JobId, End>) -> Result<(), Failure> {
    let lost: Vec<(JobId, &End)> =
        run.jobs.iter().filter_map(|job| Some((job.id, ends.get(&job.id)?))).filter(|(_, end)| !matches!(end, End::Result(_))).collect();
    let Some((id, end)) = lost.first() else { return Ok(()) };
    let what = format!("{} of {} ended without a result; job {id}: {}", lost.len(), output::count(run.jobs.len(), "job"), end_text(end));
    let waits = lost.iter().any(|(_, end)| matches!(end, End::Expired { refunded: false } | End::Undelivered { refunded: false }));
    let remedy = if waits && lost.len() == 1 {
        format!("the escrow comes back with `quern job refund {id}`")
    } else if waits {
        "the escrow comes back with `quern job refund --all`".to_owned()
    } else {
        match end {
            End::NotPosted(_) => "no money moved; correct what the contract says and post again".to_owned(),
            End::TooLarge { .. } => {
                format!(
                    "ask for less in one job (--batch); `quern store get` fetches the output that `quern job show {id}` names to a file"
                )
            }
            End::WrongOutput(_) | End::Lost => {
                format!("the provider is paid unless its receipt is challenged: confirm with `quern audit job {id}`")
            }
            _ => "the escrow is back (no refund is due); post again, perhaps at a higher price or with more time".to_owned(),
        }
    };
    Err(Failure::new(what, remedy).with_exit(Exit::NoResult))
}

fn end_name(end: &End) -> &'static str {
    match end {
        End::Result(_) => "result",
        End::NotPosted(_) => "not_posted",
        End::Expired { .. } => "expired",
        End::Undelivered { .. } => "undelivered",
        End::Cancelled => "cancelled",
        End::Slashed => "slashed",
        End::WrongOutput(_) => "wrong_output",
        End::TooLarge { .. } => "too_large",
        End::Lost => "lost",
    }
}

fn end_text(end: &End) -> String {
    match end {
        End::Result(OutputSet::Embed(outputs)) => {
            format!("{} received and checked against the receipt", output::count(outputs.len(), "vector"))
        }
        End::Result(OutputSet::Generate { outputs, .. }) => {
            let ids = outputs.iter().map(|output| output.elements.len()).sum();
            let what = format!("{} with {}", output::count(outputs.len(), "text"), output::count(ids, "id"));
            format!("{what} received and checked against the receipt")
        }
        End::NotPosted(revert) => format!("the contract refused it: {revert}"),
        End::Expired { .. } => "nobody claimed it in time".into(),
        End::Undelivered { .. } => "its provider did not deliver in time".into(),
        End::Cancelled => "it was cancelled".into(),
        End::Slashed => "its provider was convicted of a wrong result".into(),
        End::WrongOutput(reason) => format!("its provider serves something else than it attested to ({reason})"),
        End::TooLarge { bytes, limit } => format!("its output can have {bytes} bytes, and at most {limit} are fetched"),
        End::Lost => "it is over, and no gateway has its output".into(),
    }
}

fn state_text(id: JobId, life: &JobLife) -> String {
    match (life.state, life.claim) {
        (JobState::Open, _) => format!("open, waiting for a provider (`quern job cancel {id}` takes it back)"),
        (JobState::Claimed, Some(claim)) => format!("claimed by {} at {} bps of the maximum", claim.provider, claim.price_bps),
        (JobState::Submitted, _) => "delivered, fetching".into(),
        (state, _) => state.name().to_lowercase(),
    }
}

/// Progress on standard error: a bar on a terminal, lines elsewhere, nothing where the output is JSON for a machine.
enum Progress {
    Bar(ProgressBar),
    Lines,
    Silent,
}

impl Progress {
    fn new(out: Output, jobs: usize) -> Self {
        if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new(jobs as u64);
            if let Ok(style) = ProgressStyle::with_template("{elapsed_precise} {bar:30} {pos}/{len} jobs  {msg}") {
                bar.set_style(style);
            }
            Self::Bar(bar)
        } else if out.json {
            Self::Silent
        } else {
            Self::Lines
        }
    }

    fn say(&self, id: JobId, text: &str) {
        let short: String = id.to_string().chars().take(10).collect();
        match self {
            Self::Bar(bar) => bar.set_message(harmless(&format!("{short}… {text}"))),
            Self::Lines => output::warn(&format!("job {id}: {text}")),
            Self::Silent => {}
        }
    }

    fn ended(&self, id: JobId, text: &str) {
        if let Self::Bar(bar) = self {
            bar.inc(1);
        }
        self.say(id, text);
    }

    /// Writes to standard output without tearing the bar.
    fn hidden<T>(&self, write: impl FnOnce() -> T) -> T {
        match self {
            Self::Bar(bar) => bar.suspend(write),
            Self::Lines | Self::Silent => write(),
        }
    }

    fn stop(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_stranger_commands_no_terminal() {
        assert_eq!(harmless("a\tb\nc \u{1b}[2J\u{9b}\r"), "a\tb\nc \u{fffd}[2J\u{fffd}\u{fffd}");
    }

    #[test]
    fn texts_without_a_package_are_ids_only() {
        let printer = Printer::Texts { package: None, plain: true };
        let output = OutputRecord { reason: FinishReason::MaxOutput, elements: vec![1, 2] };
        assert_eq!(printer.text(&output).expect("no tokenizer is asked"), None);
    }
}

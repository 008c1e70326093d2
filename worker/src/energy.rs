//! Joules per job: from the processor's own counter where it can be read, else an estimate that is marked as one.
//!
//! The counter is RAPL through `/sys/class/powercap/intel-rapl:N/energy_uj` (package domains only: their sub-domains are contained in them). It counts the
//! whole package, so what else runs on the machine meanwhile is counted too: a measured figure is an upper bound for the job.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use quern_types::EnergyMethod;

/// Where Linux shows the counters.
const POWERCAP: &str = "/sys/class/powercap";

/// A source of energy figures.
#[derive(Debug, Clone)]
pub(crate) struct Meter {
    domains: Vec<Domain>,
    watts_per_core: f64,
}

/// One package of processors.
#[derive(Debug, Clone)]
struct Domain {
    counter: PathBuf,
    /// The counter's range: it starts again at 0 after this, in microjoules.
    range_uj: u64,
}

/// The counters at one moment; `None` where they cannot be read.
#[derive(Debug, Clone)]
pub(crate) struct Mark(Option<Vec<u64>>);

/// Energy of one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Energy {
    /// In millijoules.
    pub(crate) millijoules: u64,
    /// Where the figure comes from.
    pub(crate) method: EnergyMethod,
}

impl Energy {
    /// Two pieces of one job; an estimate makes the sum one.
    pub(crate) fn and(self, other: Self) -> Self {
        let measured = self.method == EnergyMethod::Measured && other.method == EnergyMethod::Measured;
        let method = if measured { EnergyMethod::Measured } else { EnergyMethod::Estimated };
        Self { millijoules: self.millijoules.saturating_add(other.millijoules), method }
    }
}

impl Meter {
    /// Looks for counters; `watts_per_core` serves the estimate.
    pub(crate) fn new(watts_per_core: f64) -> Self {
        Self::under(Path::new(POWERCAP), watts_per_core)
    }

    fn under(root: &Path, watts_per_core: f64) -> Self {
        let mut domains: Vec<Domain> = fs::read_dir(root)
            .into_iter()
            .flatten()
            .filter_map(Result::ok)
            .filter(|entry| is_package(&entry.file_name().to_string_lossy()))
            .filter_map(|entry| {
                let counter = entry.path().join("energy_uj");
                let range_uj = read_number(&entry.path().join("max_energy_range_uj"))?;
                read_number(&counter).map(|_| Domain { counter, range_uj })
            })
            .collect();
        domains.sort_by(|a, b| a.counter.cmp(&b.counter));
        Self { domains, watts_per_core }
    }

    /// What the figures of this meter are.
    pub(crate) fn method(&self) -> EnergyMethod {
        if self.domains.is_empty() { EnergyMethod::Estimated } else { EnergyMethod::Measured }
    }

    /// The counters now.
    pub(crate) fn mark(&self) -> Mark {
        let readings: Option<Vec<u64>> = self.domains.iter().map(|domain| read_number(&domain.counter)).collect();
        Mark(readings.filter(|readings| !readings.is_empty()))
    }

    /// Energy since `mark`; `cpu_time` is the processor time that the job took, over all its threads.
    ///
    /// A counter that wrapped more than once in between is taken for one that wrapped once: at 200 W a range of 262 kJ wraps every 22 minutes, so a
    /// longer job must be measured in pieces.
    pub(crate) fn since(&self, mark: &Mark, cpu_time: Duration) -> Energy {
        let measured = mark.0.as_ref().zip(self.mark().0).map(|(from, to)| {
            let microjoules: u64 =
                self.domains.iter().zip(from.iter().zip(to)).map(|(domain, (&from, to))| elapsed(from, to, domain.range_uj)).sum();
            Energy { millijoules: microjoules.div_ceil(1_000), method: EnergyMethod::Measured }
        });
        measured.unwrap_or_else(|| {
            let joules = self.watts_per_core * cpu_time.as_secs_f64();
            Energy { millijoules: (joules * 1_000.0).ceil().clamp(0.0, 1e15) as u64, method: EnergyMethod::Estimated }
        })
    }
}

/// `intel-rapl:0` is a package; `intel-rapl:0:1` is a part of it, `intel-rapl` the controller, `intel-rapl-mmio:0` the same package once more.
fn is_package(name: &str) -> bool {
    name.strip_prefix("intel-rapl:").is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
}

fn elapsed(from: u64, to: u64, range: u64) -> u64 {
    if to >= from { to - from } else { range.saturating_sub(from).saturating_add(to) }
}

fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Processor time of this process so far, over all its threads; zero where the system does not say.
pub(crate) fn process_cpu_time() -> Duration {
    // Fields 14 and 15 of /proc/self/stat are user and system time in ticks of 10 ms (USER_HZ is 100 on every Linux that we run on); the name in
    // field 2 may hold spaces, so fields are counted after its closing parenthesis.
    let ticks = fs::read_to_string("/proc/self/stat").ok().and_then(|stat| {
        let (_, rest) = stat.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace().skip(11);
        Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
    });
    Duration::from_millis(ticks.unwrap_or(0).saturating_mul(10))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(root: &Path, name: &str, energy: &str) {
        let folder = root.join(name);
        fs::create_dir_all(&folder).expect("folder");
        fs::write(folder.join("energy_uj"), energy).expect("counter");
        fs::write(folder.join("max_energy_range_uj"), "1000000\n").expect("range");
    }

    #[test]
    fn counter_of_packages_is_summed_and_wraps() {
        let root = tempfile::tempdir().expect("folder");
        domain(root.path(), "intel-rapl:0", "999000\n");
        domain(root.path(), "intel-rapl:1", "5000\n");
        domain(root.path(), "intel-rapl:0:0", "7\n");
        domain(root.path(), "intel-rapl-mmio:0", "7\n");
        let meter = Meter::under(root.path(), 10.0);
        assert_eq!(meter.method(), EnergyMethod::Measured);
        let mark = meter.mark();
        domain(root.path(), "intel-rapl:0", "2000\n");
        domain(root.path(), "intel-rapl:1", "9000\n");
        domain(root.path(), "intel-rapl:0:0", "900\n");
        assert_eq!(meter.since(&mark, Duration::from_secs(100)), Energy { millijoules: 7, method: EnergyMethod::Measured });
    }

    #[test]
    fn without_a_counter_the_figure_is_an_estimate_and_says_so() {
        let root = tempfile::tempdir().expect("folder");
        let meter = Meter::under(root.path(), 12.5);
        let energy = meter.since(&meter.mark(), Duration::from_millis(400));
        assert_eq!(energy, Energy { millijoules: 5_000, method: EnergyMethod::Estimated });
    }

    #[test]
    fn counter_that_cannot_be_read_any_more_gives_an_estimate() {
        let root = tempfile::tempdir().expect("folder");
        domain(root.path(), "intel-rapl:0", "1");
        let meter = Meter::under(root.path(), 10.0);
        let mark = meter.mark();
        fs::remove_file(root.path().join("intel-rapl:0/energy_uj")).expect("gone");
        assert_eq!(meter.since(&mark, Duration::from_secs(1)).method, EnergyMethod::Estimated);
    }

    #[test]
    fn processor_time_of_this_process_grows() {
        let before = process_cpu_time();
        let mut sum = 0u64;
        while process_cpu_time() < before + Duration::from_millis(30) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(process_cpu_time() > before);
    }
}

//! Generated outputs, checked by teacher forcing: all positions of an output in one pass, at the speed of prefill.

use quern_commit::{
    blob::OutputRecord,
    work::{WorkLeaf, work_root},
};
use quern_exact::decoder::{Cache, DecoderError, Departure, Expected, Given, OutputKey, Workspace};
use quern_types::B256;

use super::JobDifference;
use crate::{
    generate::{Generation, STEP_ROWS},
    load::positions,
};

/// The work root of outputs that are all right, or the first difference. The samples of an item share its computation.
///
/// # Errors
/// No memory for one sequence.
pub(super) fn check(job: &Generation, outputs: &[OutputRecord<u32>]) -> Result<Result<B256, JobDifference>, DecoderError> {
    let Generation { decoder, items, samples, rule, .. } = job;
    let header = decoder.header();
    let mut work = Workspace::new(header, STEP_ROWS);
    let mut leaves = Vec::with_capacity(outputs.len());
    for ((item_at, item), outputs) in (0u32..).zip(items).zip(outputs.chunks(*samples as usize)) {
        let mut shared = None;
        for (sample, output) in (0u32..).zip(outputs) {
            let key = OutputKey { item: item_at, sample };
            let given = Given { ids: &output.elements, reason: output.reason };
            let mut leaf = WorkLeaf::new(header.dim as usize);
            let departure = if header.refuse(item).is_some() {
                decoder.check(&mut work, item, rule, key, &given, |_, rows| leaf.push(rows))?
            } else {
                let (cache, beginning) = match &mut shared {
                    Some(shared) => shared,
                    none => none.insert(begin(job, &mut work, item)?),
                };
                cache.truncate(item.len() - 1);
                leaf = beginning.clone();
                decoder.check_from(&mut work, cache, item, rule, key, &given, |_, rows| leaf.push(rows))?
            };
            if let Some(departure) = departure {
                return Ok(Err(difference(key, &departure, output)));
            }
            leaves.push(leaf.finish().unwrap_or_else(|error| unreachable!("at most the context: {error}")));
        }
    }
    // A job has 1 to 65,536 items of 1 to 256 samples, so there is a tree over them.
    Ok(Ok(work_root(leaves).unwrap_or_else(|error| unreachable!("{error}"))))
}

/// An item computed but for its last id, with room for the longest output.
fn begin(job: &Generation, work: &mut Workspace, item: &[u32]) -> Result<(Cache, WorkLeaf), DecoderError> {
    let header = job.decoder.header();
    let mut cache = job.decoder.cache(positions(header, item.len(), job.rule.max_output.get()))?;
    let mut leaf = WorkLeaf::new(header.dim as usize);
    job.decoder.prefill(work, &mut cache, &item[..item.len() - 1], |_, rows| leaf.push(rows))?;
    Ok((cache, leaf))
}

fn difference(key: OutputKey, departure: &Departure, output: &OutputRecord<u32>) -> JobDifference {
    let OutputKey { item, sample } = key;
    let position = departure.at as u64;
    match departure.expected {
        Expected::Id(expected) => JobDifference::Id { item, sample, position, expected, found: output.elements.get(departure.at).copied() },
        Expected::End(expected) => {
            JobDifference::End { item, sample, position, expected, found: output.reason, ids: output.elements.len() as u64 }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU32, sync::Arc};

    use quern_commit::work::work_root;
    use quern_exact::{
        decoder::{Decoder, Rule},
        header::NO_ID,
        kernels::{Isa, Pool},
        sample,
    };
    use quern_types::{FinishReason, PackageRoot};

    use super::*;

    fn job() -> Generation {
        let model = sample::decoder(&sample::small_decoder_header(), 5).expect("a decoder");
        let decoder = Decoder::new(&model, Arc::new(Pool::single(Isa::detect())));
        let items = vec![vec![], vec![7], vec![1, 2, 3], vec![3; 40]];
        let max_output = NonZeroU32::new(8).expect("8");
        let rule = Rule { max_output, stop_ids: [NO_ID; 8], temperature: 1 << 16, min_p: 0, seed: [9; 32] };
        Generation { package: PackageRoot::default(), decoder, items, samples: 2, rule }
    }

    #[test]
    fn honest_outputs_have_the_work_root_of_their_generation() {
        let job = job();
        let made = job.run(u64::MAX);
        let checked = check(&job, &made.records).expect("memory");
        assert_eq!(checked, Ok(work_root(made.leaves).expect("outputs")));
    }

    #[test]
    fn every_lie_is_named_by_item_sample_and_position() {
        let job = job();
        let honest = job.run(u64::MAX).records;
        let lie = |at: usize, tell: &dyn Fn(&mut OutputRecord<u32>)| {
            let mut outputs = honest.clone();
            tell(&mut outputs[at]);
            check(&job, &outputs).expect("memory").expect_err("a lie")
        };
        // Output 5 is the second sample of item 2.
        let right = honest[5].elements[3];
        let wrong = (right + 1) % 100;
        let id = JobDifference::Id { item: 2, sample: 1, position: 3, expected: right, found: Some(wrong) };
        assert_eq!(lie(5, &|output| output.elements[3] = wrong), id);
        let cut = JobDifference::Id { item: 2, sample: 1, position: 3, expected: right, found: None };
        assert_eq!(lie(5, &|output| output.elements.truncate(3)), cut);
        let end = |position, found, ids| JobDifference::End { item: 2, sample: 1, position, expected: FinishReason::MaxOutput, found, ids };
        assert_eq!(lie(5, &|output| output.elements.push(1)), end(8, FinishReason::MaxOutput, 9));
        assert_eq!(lie(5, &|output| output.reason = FinishReason::Stop), end(8, FinishReason::Stop, 8));
        let empty = JobDifference::End {
            item: 0,
            sample: 0,
            position: 0,
            expected: FinishReason::EmptyItem,
            found: FinishReason::MaxOutput,
            ids: 1,
        };
        let billed = |output: &mut OutputRecord<u32>| *output = OutputRecord { reason: FinishReason::MaxOutput, elements: vec![4] };
        assert_eq!(lie(0, &billed), empty);
    }
}

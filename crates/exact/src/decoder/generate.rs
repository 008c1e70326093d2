//! Whole outputs: prefill, generation of one, and checking of one that is given.

use quern_types::FinishReason;

use super::{Batch, Cache, Choose, Decoder, DecoderError, Event, Generated, OutputKey, Rule, Run, Workspace};
use crate::format::TableI32;

/// An output that somebody states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Given<'a> {
    /// Its ids.
    pub ids: &'a [u32],
    /// Why it ended.
    pub reason: FinishReason,
}

/// Where a given output departs from the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Departure {
    /// Index in the output of the first id that is not the rule's, or its length where only the end is wrong.
    pub at: usize,
    /// What the rule has there.
    pub expected: Expected,
}

/// What the rule has at an index of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// This id.
    Id(u32),
    /// No id: the output ended before, for this reason.
    End(FinishReason),
}

impl Decoder {
    /// Computes ids that continue what is in a cache, as many at a time as the workspace takes. `on_rows` gets the position of the first of
    /// some rows of N, and the rows.
    ///
    /// # Errors
    /// As [`Decoder::step`]; rows before the error were computed.
    pub fn prefill(
        &self,
        work: &mut Workspace,
        cache: &mut Cache,
        ids: &[u32],
        mut on_rows: impl FnMut(usize, &[i32]),
    ) -> Result<(), DecoderError> {
        for ids in ids.chunks(work.rows()) {
            let first = cache.len();
            self.step(work, &mut [Run { cache, ids, choose: None }])?;
            on_rows(first, work.norm_rows());
        }
        Ok(())
    }

    /// The output for one item. A total function of the ids: those that the model computes nothing of have their defined result.
    ///
    /// # Errors
    /// [`DecoderError::OutOfMemory`].
    pub fn generate(&self, item: &[u32], rule: &Rule, key: OutputKey) -> Result<Generated, DecoderError> {
        /// Rows of the item that are computed together.
        const ROWS: usize = 256;
        let mut batch = Batch::new(self.clone(), item.len().clamp(1, ROWS));
        batch.join(item, rule.clone(), key)?;
        let (mut ids, mut rows, mut end) = (Vec::new(), Vec::new(), None);
        loop {
            batch.step(|event| match event {
                Event::Rows { rows: more, .. } => rows.extend_from_slice(more),
                Event::Id { id, .. } => ids.push(id),
                Event::End { reason, .. } => end = Some(reason),
            })?;
            if let Some(reason) = end {
                let width = self.header().dim as usize;
                let norm_rows = TableI32::new(rows.len() / width, width, rows).unwrap_or_else(|error| unreachable!("whole rows: {error}"));
                return Ok(Generated { reason, ids, norm_rows });
            }
        }
    }

    /// Checks a given output at the speed of prefill: computes all positions from the given ids, and says where they first differ from the
    /// rule, or `None` if they and the reason are what [`Decoder::generate`] makes. `on_rows` gets N as in [`Decoder::prefill`]; where the
    /// output is right, all of it.
    ///
    /// A total function of item, ids and reason, whatever they are.
    ///
    /// # Errors
    /// [`DecoderError::OutOfMemory`].
    pub fn check(
        &self,
        work: &mut Workspace,
        item: &[u32],
        rule: &Rule,
        key: OutputKey,
        given: &Given<'_>,
        on_rows: impl FnMut(usize, &[i32]),
    ) -> Result<Option<Departure>, DecoderError> {
        if let Some(refused) = self.header().refuse(item) {
            let right = refused == given.reason && given.ids.is_empty();
            return Ok((!right).then_some(Departure { at: 0, expected: Expected::End(refused) }));
        }
        let (fed, _) = self.plan(item, rule, given);
        self.check_from(work, &mut self.cache(item.len() + fed)?, item, rule, key, given, on_rows)
    }

    /// As [`Decoder::check`] where the beginning of the item is computed already: rows begin behind the cache's positions. Afterwards the
    /// cache holds what was computed; [`Cache::truncate`] makes it ready for the next sample of the item.
    ///
    /// # Errors
    /// The cache is not of this model, does not hold the beginning of an item that the model computes (without its last id), or has no room
    /// for the output.
    #[expect(clippy::too_many_arguments, reason = "what names an output, and what to compute it with")]
    pub fn check_from(
        &self,
        work: &mut Workspace,
        cache: &mut Cache,
        item: &[u32],
        rule: &Rule,
        key: OutputKey,
        given: &Given<'_>,
        mut on_rows: impl FnMut(usize, &[i32]),
    ) -> Result<Option<Departure>, DecoderError> {
        let prefix = cache.len();
        if self.header().refuse(item).is_some() || prefix >= item.len() || !item.starts_with(cache.ids()) {
            return Err(DecoderError::Prefix { prefix, item: item.len() });
        }
        let (fed, end) = self.plan(item, rule, given);
        let ids = item.len() + fed - prefix;
        if prefix + ids > cache.capacity() {
            return Err(DecoderError::CacheFull { len: prefix, ids, capacity: cache.capacity() });
        }
        let Given { ids: given, reason } = *given;
        let (head, last) = item.split_at(item.len() - 1);
        self.prefill(work, cache, &head[prefix..], &mut on_rows)?;
        let rest = [last, &given[..fed]].concat();
        let mut at = 0;
        for ids in rest.chunks(work.rows()) {
            let first = cache.len();
            self.step(work, &mut [Run { cache, ids, choose: Some(Choose { rule, key, from: 0 }) }])?;
            on_rows(first, work.norm_rows());
            for choice in work.choices().iter().flatten() {
                if given.get(at) != Some(choice) {
                    return Ok(Some(Departure { at, expected: Expected::Id(*choice) }));
                }
                at += 1;
            }
        }
        // All choices agree, so there is an end, and `at` ids up to it.
        let (_, expected) = end.unwrap_or((at, reason));
        let right = at == given.len() && expected == reason;
        Ok((!right).then_some(Departure { at, expected: Expected::End(expected) }))
    }

    /// How many of the given ids are computed behind the item, and the first at which the output would end: it cannot go on behind its end,
    /// nor the computation behind an id that is none. With the item they are no more than the context.
    fn plan(&self, item: &[u32], rule: &Rule, given: &Given<'_>) -> (usize, Option<(usize, FinishReason)>) {
        let ends = |(at, &id): (usize, &u32)| rule.end(self.header(), item.len(), at + 1, id).map(|reason| (at, reason));
        let end = given.ids.iter().enumerate().find_map(ends);
        let unknown = given.ids.iter().position(|&id| id >= self.header().vocabulary);
        let fed = given.ids.len().min(end.map_or(usize::MAX, |(at, _)| at)).min(unknown.unwrap_or(usize::MAX));
        (fed, end)
    }
}

//! Sequences that are generated side by side, and join and leave between steps.

use quern_types::FinishReason;

use super::{Cache, Choose, Decoder, DecoderError, OutputKey, Rule, Run, Workspace, emptied::emptied};

/// A sequence of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

/// What a step made of a sequence, in this order: rows, then perhaps an id, then perhaps the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// Rows of N.
    Rows {
        /// Whose.
        ticket: Ticket,
        /// Position of the first.
        first: usize,
        /// dim elements in Q14 each.
        rows: &'a [i32],
    },
    /// The next id of the output.
    Id {
        /// Whose.
        ticket: Ticket,
        /// The id.
        id: u32,
    },
    /// The output is complete, and the sequence has left the batch.
    End {
        /// Whose.
        ticket: Ticket,
        /// Why.
        reason: FinishReason,
    },
}

/// A running batch. Each step computes one row of every sequence that is past its item, and rows of the others as far as the workspace
/// goes. Who else is in the batch cannot change a bit of an output.
#[derive(Debug)]
pub struct Batch {
    decoder: Decoder,
    work: Workspace,
    active: Vec<Active>,
    /// Empty between steps.
    runs: Vec<Run<'static>>,
    refused: Vec<(Ticket, FinishReason)>,
    tickets: u64,
    /// Steps so far: who is first when not all fit.
    turn: usize,
}

#[derive(Debug)]
struct Active {
    ticket: Ticket,
    rule: Rule,
    key: OutputKey,
    item_len: usize,
    /// Of the item and the output; the cache holds the first of them.
    ids: Vec<u32>,
    cache: Cache,
    /// Rows in the coming step.
    share: usize,
}

impl Active {
    const fn pending(&self) -> usize {
        self.ids.len() - self.cache.len()
    }
}

impl Batch {
    /// An empty batch whose steps have at most `rows` rows: a step of so many takes as long as the others wait when a long item joins.
    #[must_use]
    pub fn new(decoder: Decoder, rows: usize) -> Self {
        let work = Workspace::new(decoder.header(), rows);
        Self { decoder, work, active: Vec::new(), runs: Vec::new(), refused: Vec::new(), tickets: 0, turn: 0 }
    }

    /// Adds an item. Memory for its keys and values is taken now, for the longest output there may be. An item that the model computes nothing
    /// of ends in the next step.
    ///
    /// # Errors
    /// [`DecoderError::OutOfMemory`]; the batch is as it was.
    pub fn join(&mut self, item: &[u32], rule: Rule, key: OutputKey) -> Result<Ticket, DecoderError> {
        if let Some(reason) = self.decoder.header().refuse(item) {
            let ticket = self.ticket();
            self.refused.push((ticket, reason));
            return Ok(ticket);
        }
        let cache = self.decoder.cache(positions(item, &rule))?;
        Ok(self.add(item, rule, key, cache))
    }

    /// As [`Batch::join`] where the beginning of the item is computed already, for instance for another sample of it ([`Cache::fork`]): rows and
    /// steps begin behind the cache's positions.
    ///
    /// # Errors
    /// The cache is not of this model, does not hold the beginning of the item (without its last id), or has no room for the output.
    pub fn join_from(&mut self, cache: Cache, item: &[u32], rule: Rule, key: OutputKey) -> Result<Ticket, DecoderError> {
        let header = self.decoder.header();
        if !cache.fits(header) {
            return Err(DecoderError::ForeignCache);
        }
        if header.refuse(item).is_some() || cache.len() >= item.len() || !item.starts_with(cache.ids()) {
            return Err(DecoderError::Prefix { prefix: cache.len(), item: item.len() });
        }
        let needed = positions(item, &rule).min(header.context as usize);
        if cache.capacity() < needed {
            return Err(DecoderError::CacheFull { len: cache.len(), ids: needed - cache.len(), capacity: cache.capacity() });
        }
        Ok(self.add(item, rule, key, cache))
    }

    fn add(&mut self, item: &[u32], rule: Rule, key: OutputKey, cache: Cache) -> Ticket {
        let ticket = self.ticket();
        let mut ids = Vec::with_capacity(cache.capacity() + 1);
        ids.extend_from_slice(item);
        self.active.push(Active { ticket, rule, key, item_len: item.len(), ids, cache, share: 0 });
        ticket
    }

    fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    /// Takes a sequence out before its end and returns its cache; `None` if it is not in the batch (any more).
    pub fn leave(&mut self, ticket: Ticket) -> Option<Cache> {
        self.refused.retain(|(refused, _)| *refused != ticket);
        let at = self.active.iter().position(|active| active.ticket == ticket)?;
        Some(self.active.remove(at).cache)
    }

    /// Sequences in the batch.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.active.len() + self.refused.len()
    }

    /// Whether a step would do nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One step: `on` gets what it made, sequence after sequence. Returns the number of rows that were computed.
    ///
    /// # Errors
    /// None that a caller can cause: joining has checked everything. The batch is then as it was.
    pub fn step(&mut self, mut on: impl FnMut(Event<'_>)) -> Result<usize, DecoderError> {
        let rows = self.share_out();
        if rows > 0 {
            let mut runs = emptied(std::mem::take(&mut self.runs));
            runs.extend(self.active.iter_mut().filter(|active| active.share > 0).map(|active| {
                let (first, share) = (active.cache.len(), active.share);
                let choose = Choose { rule: &active.rule, key: active.key, from: share - 1 };
                let last = active.ids.len() == first + share;
                Run { cache: &mut active.cache, ids: &active.ids[first..first + share], choose: last.then_some(choose) }
            }));
            self.decoder.step(&mut self.work, &mut runs)?;
            self.runs = emptied(runs);
            self.turn = self.turn.wrapping_add(1);
        }
        for (ticket, reason) in self.refused.drain(..) {
            on(Event::End { ticket, reason });
        }
        let (dim, work) = (self.decoder.header().dim as usize, &self.work);
        let mut first_row = 0;
        self.active.retain_mut(|active| {
            let (ticket, share) = (active.ticket, std::mem::take(&mut active.share));
            let rows = first_row..first_row + share;
            first_row = rows.end;
            if share == 0 {
                return true;
            }
            let first = active.cache.len() - share;
            on(Event::Rows { ticket, first, rows: &work.norm_rows()[rows.start * dim..rows.end * dim] });
            let Some(id) = work.choices()[rows.end - 1] else { return true };
            active.ids.push(id);
            on(Event::Id { ticket, id });
            let end = active.rule.end(self.decoder.header(), active.item_len, active.ids.len() - active.item_len, id);
            end.inspect(|&reason| on(Event::End { ticket, reason })).is_none()
        });
        Ok(rows)
    }

    /// Gives each sequence its rows of the coming step. Those that wait for one id come first, but leave a quarter to the items of others;
    /// where not all fit, each is first in its turn.
    fn share_out(&mut self) -> usize {
        let limit = self.work.rows();
        let prefilling = self.active.iter().any(|active| active.pending() > 1);
        let mut left = if prefilling { limit - (limit / 4).max(1) } else { limit };
        let count = self.active.len();
        let order = |turn: usize| (0..count).map(move |at| (at + turn) % count);
        let mut given = 0;
        for at in order(self.turn) {
            let active = &mut self.active[at];
            active.share = if active.pending() == 1 { left.min(1) } else { 0 };
            left -= active.share;
            given += active.share;
        }
        let mut left = limit - given;
        // The one that joined first is served first: items are finished one after the other.
        for active in self.active.iter_mut().filter(|active| active.pending() > 1) {
            active.share = active.pending().min(left);
            left -= active.share;
        }
        limit - left
    }
}

/// Positions of the item and of the longest output but its last id.
fn positions(item: &[u32], rule: &Rule) -> usize {
    item.len() + rule.max_output.get() as usize - 1
}

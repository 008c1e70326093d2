-- What the indexer derives from the chain. Everything here can be deleted and built again. A batch of blocks is one transaction: raw rows, projections,
-- undo images, blocks and the cursor move together. Types and naming: migrations/README.md.
--
-- Raw rows (event, ledger_move, alarm) are only added, and deleted when the chain takes their block back. Projections (job, provider, price, model,
-- balance, ledger) hold the present; the undo table holds what they were before each block that can still be taken back.

-- What this file belongs to: one chain and one deployment. Checked at every opening.
CREATE TABLE binding (
    name TEXT NOT NULL PRIMARY KEY,  -- what is bound: chain_id, genesis_hash, the contracts, first_block
    value TEXT NOT NULL              -- its value as text
) WITHOUT ROWID;

-- Exactly one row: how far the index is, and the heads of the chain when it got there. A file without this row is damaged, never new.
CREATE TABLE cursor (
    id INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),      -- there is one
    block_number INTEGER,            -- last block applied; NULL before the first
    block_hash BLOB CHECK (length(block_hash) = 32),     -- its hash
    block_at INTEGER,                -- its time, Unix seconds
    heads TEXT,                      -- latest, safe and finalized block of the chain as JSON; NULL before the first batch
    undo_floor INTEGER NOT NULL,     -- no undo image exists at or below this block: it cannot be taken back
    CHECK ((block_number IS NULL) = (block_hash IS NULL) AND (block_number IS NULL) = (block_at IS NULL)),
    CHECK (block_number IS NULL OR heads IS NOT NULL)
);

-- The canonical blocks from the undo floor to the cursor, without a gap: where a reorganisation is looked for.
CREATE TABLE block (
    number INTEGER NOT NULL PRIMARY KEY,                           -- height
    hash BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),           -- hash of the header
    parent_hash BLOB NOT NULL CHECK (length(parent_hash) = 32),    -- hash of the block before
    block_at INTEGER NOT NULL        -- time, Unix seconds
);

-- Every event of our contracts except ledger moves, as it was decoded.
CREATE TABLE event (
    block_number INTEGER NOT NULL,   -- height of the block
    block_hash BLOB NOT NULL CHECK (length(block_hash) = 32),      -- hash of the block
    block_at INTEGER NOT NULL,       -- time of the block, Unix seconds
    log_index INTEGER NOT NULL,      -- position of the log in the block
    tx_hash BLOB NOT NULL CHECK (length(tx_hash) = 32),            -- transaction; may be mined again in another block
    contract BLOB NOT NULL CHECK (length(contract) = 20),          -- who emitted it
    name TEXT NOT NULL,              -- the event's name in Solidity
    job_id BLOB CHECK (length(job_id) = 32),                       -- the job that it is about; NULL if about none
    state TEXT,                      -- state of that job from this event on; NULL if the event does not change it
    body TEXT NOT NULL,              -- every field of the event as JSON
    PRIMARY KEY (block_number, log_index),
    UNIQUE (block_hash, log_index)
) WITHOUT ROWID;
CREATE INDEX event_by_job ON event (job_id, block_number, log_index) WHERE job_id IS NOT NULL;

-- Every movement of money.
CREATE TABLE ledger_move (
    block_number INTEGER NOT NULL,   -- height of the block
    block_hash BLOB NOT NULL CHECK (length(block_hash) = 32),      -- hash of the block
    block_at INTEGER NOT NULL,       -- time of the block, Unix seconds
    log_index INTEGER NOT NULL,      -- position of the log in the block
    tx_hash BLOB NOT NULL CHECK (length(tx_hash) = 32),            -- transaction
    seq INTEGER NOT NULL,            -- position in the ledger, from 1 without a gap; an alarm says where that does not hold
    from_account BLOB NOT NULL CHECK (length(from_account) = 20),  -- whose money it was; zero for a bucket that belongs to nobody
    from_bucket TEXT NOT NULL,       -- where it stood
    to_account BLOB NOT NULL CHECK (length(to_account) = 20),      -- whose money it is now
    to_bucket TEXT NOT NULL,         -- where it stands now
    amount TEXT NOT NULL CHECK (length(amount) = 39),              -- how much, wide
    reason TEXT NOT NULL,            -- why
    reference BLOB NOT NULL CHECK (length(reference) = 32),        -- the job id, or zero
    head BLOB NOT NULL CHECK (length(head) = 32),                  -- head of the ledger after this entry, as the contract says
    PRIMARY KEY (block_number, log_index),
    UNIQUE (block_hash, log_index)
) WITHOUT ROWID;
CREATE INDEX ledger_move_by_seq ON ledger_move (seq);
CREATE INDEX ledger_move_by_from ON ledger_move (from_account, seq);
CREATE INDEX ledger_move_by_to ON ledger_move (to_account, seq);
CREATE INDEX ledger_move_by_reference ON ledger_move (reference, seq);

-- What must not happen and was seen: money that does not add up, states that do not follow. For a person; nothing stops.
CREATE TABLE alarm (
    block_number INTEGER NOT NULL,   -- height of the block
    block_hash BLOB NOT NULL CHECK (length(block_hash) = 32),      -- hash of the block
    log_index INTEGER NOT NULL,      -- position of the log that raised it
    position INTEGER NOT NULL,       -- 0, 1, ... among the alarms of that log
    kind TEXT NOT NULL,              -- which rule is broken
    detail TEXT NOT NULL,            -- expected and found
    PRIMARY KEY (block_number, log_index, position)
) WITHOUT ROWID;

-- Every job: one row, its present.
CREATE TABLE job (
    job_id BLOB NOT NULL PRIMARY KEY CHECK (length(job_id) = 32),  -- EIP-712 digest of the specification
    client BLOB NOT NULL CHECK (length(client) = 20),              -- who pays
    model_id BLOB NOT NULL CHECK (length(model_id) = 32),          -- the model
    provider BLOB CHECK (length(provider) = 20),                   -- who claimed it; NULL while nobody has
    state TEXT NOT NULL,             -- where it is in its life
    posted_number INTEGER NOT NULL,  -- block of the posting; with the next column the order of jobs
    posted_log_index INTEGER NOT NULL,                             -- log of the posting
    block_number INTEGER NOT NULL,   -- block of the last change
    block_hash BLOB NOT NULL CHECK (length(block_hash) = 32),      -- its hash
    log_index INTEGER NOT NULL,      -- log of the last change
    body TEXT NOT NULL               -- the whole job as JSON: specification, claim, receipt, settlement
);
CREATE INDEX job_by_posting ON job (posted_number, posted_log_index);
CREATE INDEX job_by_state ON job (state, posted_number, posted_log_index);
CREATE INDEX job_by_client ON job (client, posted_number, posted_log_index);
CREATE INDEX job_by_provider ON job (provider, posted_number, posted_log_index);
CREATE INDEX job_by_model ON job (model_id, posted_number, posted_log_index);

-- Everybody who ever staked, named an operator, announced a gateway, listed a price or claimed a job.
CREATE TABLE provider (
    provider BLOB NOT NULL PRIMARY KEY CHECK (length(provider) = 20),  -- owner address
    operator BLOB NOT NULL CHECK (length(operator) = 20),          -- key that works for it now; zero: none
    gateway TEXT NOT NULL,           -- URL of its content gateway, free text; empty: none
    unbonded_at INTEGER NOT NULL,    -- when its unbonding stake can be withdrawn, Unix seconds; 0 if it never unbonded
    claimed INTEGER NOT NULL,        -- jobs claimed
    submitted INTEGER NOT NULL,      -- receipts submitted
    completed INTEGER NOT NULL,      -- jobs paid
    undelivered INTEGER NOT NULL,    -- jobs not delivered
    slashed INTEGER NOT NULL,        -- convictions
    earned TEXT NOT NULL CHECK (length(earned) = 39),              -- fees less royalties, wide
    energy_millijoules TEXT NOT NULL CHECK (length(energy_millijoules) = 39),  -- sum over its receipts as it claims, wide
    block_number INTEGER NOT NULL,   -- block of the last change
    block_hash BLOB NOT NULL CHECK (length(block_hash) = 32),      -- its hash
    log_index INTEGER NOT NULL       -- log of the last change
);

-- What providers ask, as long as it is listed.
CREATE TABLE price (
    provider BLOB NOT NULL CHECK (length(provider) = 20),          -- who asks
    model_id BLOB NOT NULL CHECK (length(model_id) = 32),          -- for which model
    base_amount TEXT NOT NULL CHECK (length(base_amount) = 39),    -- per job, wide
    input_amount TEXT NOT NULL CHECK (length(input_amount) = 39),  -- per input id, wide
    output_amount TEXT NOT NULL CHECK (length(output_amount) = 39),    -- per output id, wide
    item_amount TEXT NOT NULL CHECK (length(item_amount) = 39),    -- per item, wide
    block_number INTEGER NOT NULL,   -- block of the listing
    block_hash BLOB NOT NULL CHECK (length(block_hash) = 32),      -- its hash
    log_index INTEGER NOT NULL,      -- log of the listing
    PRIMARY KEY (provider, model_id)
) WITHOUT ROWID;
CREATE INDEX price_by_model ON price (model_id);

-- Every registered model.
CREATE TABLE model (
    model_id BLOB NOT NULL PRIMARY KEY CHECK (length(model_id) = 32),  -- package root with publisher and royalty
    registered_number INTEGER NOT NULL,                            -- block of the registration; with the next column the order of models
    registered_log_index INTEGER NOT NULL,                         -- log of the registration
    block_number INTEGER NOT NULL,   -- block of the last change
    block_hash BLOB NOT NULL CHECK (length(block_hash) = 32),      -- its hash
    log_index INTEGER NOT NULL,      -- log of the last change
    body TEXT NOT NULL               -- the whole model as JSON: registration, package, counts of jobs
);
CREATE INDEX model_by_registration ON model (registered_number, registered_log_index);

-- What every account has in every bucket inside the Ledger.
CREATE TABLE balance (
    account BLOB NOT NULL CHECK (length(account) = 20),            -- whose; zero for the buckets that belong to nobody
    bucket TEXT NOT NULL,            -- where
    amount TEXT NOT NULL CHECK (length(amount) = 39),              -- how much, wide
    block_number INTEGER NOT NULL,   -- block of the last change
    block_hash BLOB NOT NULL CHECK (length(block_hash) = 32),      -- its hash
    log_index INTEGER NOT NULL,      -- log of the last change
    PRIMARY KEY (account, bucket)
) WITHOUT ROWID;

-- At most one row: the ledger as a whole.
CREATE TABLE ledger (
    id INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),                -- there is one
    seq INTEGER NOT NULL,            -- last entry
    head BLOB NOT NULL CHECK (length(head) = 32),                  -- head after it
    total TEXT NOT NULL CHECK (length(total) = 39),                -- deposits less withdrawals: what all balances must add up to, wide
    block_number INTEGER NOT NULL,   -- block of the last entry
    block_hash BLOB NOT NULL CHECK (length(block_hash) = 32),      -- its hash
    log_index INTEGER NOT NULL       -- its log
);

-- What rows of projections were before a block first touched them: applied in reverse, it undoes the block. Kept above the undo floor only.
CREATE TABLE undo (
    block_number INTEGER NOT NULL,   -- the block that touched the row
    position INTEGER NOT NULL,       -- 0, 1, ... in the order in which the block touched rows
    kind TEXT NOT NULL,              -- the table
    key TEXT NOT NULL,               -- the row's key as JSON
    image TEXT,                      -- the row before the block as JSON; NULL if there was none
    PRIMARY KEY (block_number, position)
) WITHOUT ROWID;

INSERT INTO cursor (id, undo_floor) VALUES (1, 0);

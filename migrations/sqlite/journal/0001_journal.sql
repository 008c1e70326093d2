-- The journal of one worker: what it has promised and what it has signed. Every call is one transaction, flushed to disk
-- before it answers (synchronous = FULL). Types and naming: migrations/README.md.

-- What this file belongs to: one chain and one deployment. Checked at every opening.
CREATE TABLE binding (
    name TEXT NOT NULL PRIMARY KEY,  -- what is bound: chain_id, genesis_hash, market
    value TEXT NOT NULL              -- its value as text
) WITHOUT ROWID;

-- Jobs that this worker has decided to do, and how far each is.
CREATE TABLE job (
    job_id BLOB NOT NULL PRIMARY KEY CHECK (length(job_id) = 32),  -- EIP-712 digest of the specification
    spec TEXT NOT NULL,              -- the job specification as JSON; later calls to the contracts carry it whole
    step TEXT NOT NULL CHECK (step IN ('accepted', 'claiming', 'claimed', 'fetched', 'computed', 'stored', 'signed', 'submitting',
        'submitted', 'completing', 'challenged', 'paid', 'refused', 'lost', 'undelivered', 'slashed')),  -- how far it is
    note TEXT NOT NULL,              -- why it is there, for a person; empty where the step says it all
    created_ms INTEGER NOT NULL,     -- first seen, Unix milliseconds
    updated_ms INTEGER NOT NULL      -- last step, Unix milliseconds
);
CREATE INDEX job_by_step ON job (step, created_ms);

-- Every step a job has taken, in order.
CREATE TABLE job_step (
    job_id BLOB NOT NULL REFERENCES job (job_id) ON DELETE CASCADE,  -- the job
    position INTEGER NOT NULL,       -- 0, 1, 2, ... within the job
    step TEXT NOT NULL,              -- the step taken
    note TEXT NOT NULL,              -- why, for a person
    at_ms INTEGER NOT NULL,          -- when, Unix milliseconds
    PRIMARY KEY (job_id, position)
) WITHOUT ROWID;

-- What a step left behind for the next one: the claim's price, the output's content id, the signed receipt, ...
CREATE TABLE job_fact (
    job_id BLOB NOT NULL REFERENCES job (job_id) ON DELETE CASCADE,  -- the job
    name TEXT NOT NULL,              -- the worker's name for it
    value BLOB NOT NULL,             -- the worker's encoding of it
    at_ms INTEGER NOT NULL,          -- when it was written last, Unix milliseconds
    PRIMARY KEY (job_id, name)
) WITHOUT ROWID;

-- One row per thing to be done on the chain. The key names the intention, so a restart finds it and never sends it again under another nonce.
CREATE TABLE intent (
    intent_key TEXT NOT NULL PRIMARY KEY,  -- names the intention for ever, such as job/0x<job id>/submit
    signer BLOB NOT NULL CHECK (length(signer) = 20),          -- account that signs and pays gas
    nonce INTEGER NOT NULL CHECK (nonce >= 0),                 -- account nonce that belongs to this intention alone, for ever
    to_address BLOB NOT NULL CHECK (length(to_address) = 20),  -- contract called
    value_wei TEXT NOT NULL CHECK (length(value_wei) = 39),    -- native value sent, wei, wide
    calldata BLOB NOT NULL,          -- what is called
    status TEXT NOT NULL CHECK (status IN ('open', 'mined', 'final')),  -- not on the chain; on it; on it below the finalized head
    mined_tx_hash BLOB CHECK (length(mined_tx_hash) = 32),     -- the attempt that was mined; NULL while open
    block_number INTEGER,            -- number of its block; NULL while open
    block_hash BLOB CHECK (length(block_hash) = 32),           -- hash of that block; NULL while open
    succeeded INTEGER CHECK (succeeded IN (0, 1)),             -- 1 if the call did what it should, 0 if it reverted; NULL while open
    created_ms INTEGER NOT NULL,     -- written, Unix milliseconds
    updated_ms INTEGER NOT NULL,     -- last change, Unix milliseconds
    UNIQUE (signer, nonce),
    CHECK ((status = 'open') = (mined_tx_hash IS NULL)),
    CHECK ((mined_tx_hash IS NULL) = (block_number IS NULL) AND (mined_tx_hash IS NULL) = (block_hash IS NULL)
        AND (mined_tx_hash IS NULL) = (succeeded IS NULL))
);
CREATE INDEX intent_by_status ON intent (signer, status, nonce);

-- Every transaction that was signed for an intention, written before it is sent. All carry its nonce, so at most one is ever mined.
CREATE TABLE intent_attempt (
    intent_key TEXT NOT NULL REFERENCES intent (intent_key),   -- the intention
    attempt INTEGER NOT NULL,        -- 0, 1, 2, ... within the intention
    tx_hash BLOB NOT NULL UNIQUE CHECK (length(tx_hash) = 32), -- hash of the signed transaction
    raw BLOB NOT NULL,               -- the signed transaction itself: sending it again is harmless
    max_fee_wei TEXT NOT NULL CHECK (length(max_fee_wei) = 39),        -- most per unit of gas, base fee included, wei, wide
    priority_fee_wei TEXT NOT NULL CHECK (length(priority_fee_wei) = 39),  -- most per unit of gas to the sequencer, wei, wide
    gas_limit INTEGER NOT NULL,      -- gas allowed
    at_ms INTEGER NOT NULL,          -- written, Unix milliseconds
    PRIMARY KEY (intent_key, attempt)
) WITHOUT ROWID;

-- Energy that this worker spent on a job, with its source.
CREATE TABLE energy (
    job_id BLOB NOT NULL PRIMARY KEY REFERENCES job (job_id) ON DELETE CASCADE,  -- the job
    millijoules INTEGER NOT NULL CHECK (millijoules >= 0),     -- energy from start to end, millijoules
    method TEXT NOT NULL CHECK (method IN ('Measured', 'Estimated')),  -- read from a counter, or time times an assumed power
    started_ms INTEGER NOT NULL,     -- start of the interval, Unix milliseconds
    ended_ms INTEGER NOT NULL        -- its end, Unix milliseconds
);

-- The least that this worker works for, per model and kind of job.
CREATE TABLE price (
    model_id BLOB NOT NULL CHECK (length(model_id) = 32),      -- the model
    kind TEXT NOT NULL CHECK (kind IN ('Embed', 'Generate')),  -- kind of job
    base_amount TEXT NOT NULL CHECK (length(base_amount) = 39),      -- per job, wide
    input_amount TEXT NOT NULL CHECK (length(input_amount) = 39),    -- per input id, wide
    output_amount TEXT NOT NULL CHECK (length(output_amount) = 39),  -- per output id, wide
    item_amount TEXT NOT NULL CHECK (length(item_amount) = 39),      -- per item, wide
    updated_ms INTEGER NOT NULL,     -- last change, Unix milliseconds
    PRIMARY KEY (model_id, kind)
) WITHOUT ROWID;

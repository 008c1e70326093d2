//! What a client of the market does: prepare, post, wait for, fetch and check jobs.

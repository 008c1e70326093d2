//! The indexer as its users meet it: what it answers, what it makes of the chain, what it does when the chain or the node misbehaves.

mod api;
mod events;
mod follows;
mod node;
mod story;

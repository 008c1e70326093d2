//! The databases as their users meet them: calls, crashes, damage, reorganisations.

mod chain;
mod files;
mod index;
mod journal;
mod schema;
mod support;

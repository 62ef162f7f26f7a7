//! jindou: a clustered instant-messaging router.
pub mod chat;
pub mod config;
pub mod engine;
pub mod format;
pub mod ids;
pub mod limits;
pub mod shell;
pub mod time;
